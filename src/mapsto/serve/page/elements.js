// Make elements without HTML in texts: every text of a model or of a user is a text node.

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made && typeof value !== "string") made[key] = value;
    else made.setAttribute(key === "className" ? "class" : key, value);
  }
  made.append(...children);
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

// An overlay of rectangles over a picture, in its own pixels: {top, bottom, left, right, kind, opacity, title}.
export function overlay(image, rectangles) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${image.naturalWidth} ${image.naturalHeight}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const { top, bottom, left, right, kind, opacity, title } of rectangles) {
    const rectangle = document.createElementNS(SVG, "rect");
    const sizes = { x: left, y: top, width: Math.max(0, right - left), height: Math.max(0, bottom - top) };
    for (const [key, value] of Object.entries(sizes)) rectangle.setAttribute(key, value);
    rectangle.setAttribute("class", kind);
    if (opacity !== undefined) rectangle.setAttribute("opacity", opacity);
    const label = document.createElementNS(SVG, "title");
    label.textContent = title;
    rectangle.append(label);
    svg.append(rectangle);
  }
  return svg;
}

// A text with marks: {start, end, shade, against, label}; places are counted in characters as Python counts them.
export function markedText(text, marks) {
  const letters = Array.from(text);
  const box = element("p", { className: "text" });
  let place = 0;
  for (const mark of [...marks].sort((a, b) => a.start - b.start)) {
    if (mark.start < place) continue; // an overlapping mark would say a letter twice
    box.append(letters.slice(place, mark.start).join(""));
    const span = element("mark", {}, letters.slice(mark.start, mark.end).join(""));
    if (mark.against) span.classList.add("against");
    if (mark.shade !== undefined) span.style.setProperty("--shade", mark.shade);
    if (mark.label) span.append(element("sub", {}, mark.label));
    if (mark.title) span.title = mark.title;
    box.append(span);
    place = mark.end;
  }
  box.append(letters.slice(place).join(""));
  return box;
}
