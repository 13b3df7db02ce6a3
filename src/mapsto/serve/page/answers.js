// Show answers: bars of probabilities, marks in texts, boxes over pictures, and all else as a list.

import { element, markedText, overlay } from "./elements.js";

const MAX_BARS = 10;

function bars(scores) {
  const ranked = Object.entries(scores).sort((a, b) => b[1] - a[1]);
  const list = element("ul", { className: "bars", "aria-label": "probabilities" });
  for (const [name, share] of ranked.slice(0, MAX_BARS)) {
    const fill = element("div");
    fill.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
    const words = element("div", { className: "name" }, element("span", {}, name));
    words.append(element("span", {}, `${(100 * share).toFixed(1)} %`));
    list.append(element("li", {}, words, element("div", { className: "track" }, fill)));
  }
  if (ranked.length > MAX_BARS) list.append(element("li", { className: "quiet" }, `… and ${ranked.length - MAX_BARS} more`));
  return list;
}

function plain(value) {
  if (value === null) return "—";
  if (typeof value === "number") return String(Math.round(value * 1e4) / 1e4);
  if (Array.isArray(value) && value.length > 12 && value.every((entry) => typeof entry === "number")) {
    return `${value.length} numbers: ${value.slice(0, 6).map((entry) => entry.toFixed(3)).join(", ")} …`;
  }
  return typeof value === "string" ? value : JSON.stringify(value, null, 1);
}

const isList = (value, test) => Array.isArray(value) && value.length > 0 && value.every((entry) => entry && test(entry));

// A picture, or a recording with its player, from the file that an answer is.
function mediaOf({ type, base64 }, name) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const src = URL.createObjectURL(new Blob([bytes], { type }));
  const free = () => URL.revokeObjectURL(src);
  if (type.startsWith("image/")) return element("img", { src, alt: name, className: "made", onload: free });
  return element("audio", { src, controls: true, "aria-label": name });
}

// The nodes of one target's answer. fields: those of the form, in which spans are marked and boxes drawn.
function nodesOf(answer, fields) {
  const nodes = [];
  const rest = [];
  let isFirst = true;
  for (const [name, value] of Object.entries(answer)) {
    if (name === "scores" && value && typeof value === "object") nodes.push(bars(value));
    else if (isList(value, (entry) => Number.isInteger(entry.start) && Number.isInteger(entry.end))) {
      const field = fields.find((candidate) => candidate.text) ?? fields[0];
      const marks = value.map((entry) => ({ ...entry, label: entry.label ?? "" }));
      nodes.push(markedText(field.text, marks));
    } else if (isList(value, (entry) => Array.isArray(entry.box))) {
      const field = fields.find((candidate) => candidate.image);
      if (field) {
        const boxes = value.map(({ box, label }) => ({ left: box[0], top: box[1], right: box[2], bottom: box[3], kind: "box", title: label ?? "" }));
        field.frame.querySelector("svg")?.remove();
        field.frame.append(overlay(field.image, boxes));
      }
      rest.push([name, value.map((entry) => `${entry.label ?? ""} ${entry.box.map(Math.round)}`).join("; ")]);
    } else if (value?.base64 && value.type) nodes.push(mediaOf(value, name));
    else if (value && typeof value === "object" && !Array.isArray(value)) {
      nodes.push(element("h3", {}, name), ...nodesOf(value, fields));
    } else if (isFirst && !Array.isArray(value)) nodes.push(element("p", { className: "main-answer" }, plain(value)));
    else if (name !== "probability" || !answer.scores) rest.push([name, plain(value)]);
    isFirst = false;
  }
  if (rest.length) {
    const list = element("dl");
    for (const [name, text] of rest) list.append(element("dt", {}, name), element("dd", {}, text));
    nodes.push(list);
  }
  return nodes;
}

export function showAnswer(box, answer, fields) {
  for (const field of fields) field.frame?.querySelector("svg")?.remove();
  box.replaceChildren(...nodesOf(answer, fields));
}

// Show what decided the answer: parts of texts shaded, parts of pictures under coloured patches.
export function showParts(box, explanation, fields) {
  const largest = Math.max(...explanation.parts.map((part) => Math.abs(part.weight)), 1e-9);
  box.replaceChildren(element("h3", {}, `What decided “${explanation.summary}”`));
  fields.forEach((field, port) => {
    const parts = explanation.parts.filter((part) => part.port === port);
    const words = (part) => `${part.text}: ${part.weight.toFixed(3)}`;
    if (field.image) {
      const patches = parts.map((part) => ({
        top: part.region[0][0], bottom: part.region[0][1], left: part.region[1][0], right: part.region[1][1],
        kind: part.weight > 0 ? "for" : "against", opacity: 0.6 * Math.abs(part.weight) / largest, title: words(part),
      }));
      field.frame.querySelector("svg")?.remove();
      field.frame.append(overlay(field.image, patches));
      box.append(element("p", { className: "quiet" }, "The patches over the picture above: the stronger, the more they decided."));
    } else if (field.text) {
      const marks = parts.map((part) => ({
        start: part.region[0][0], end: part.region[0][1], shade: Math.abs(part.weight) / largest, against: part.weight < 0, title: words(part),
      }));
      box.append(markedText(field.text, marks));
    }
  });
  const ranked = [...explanation.parts].sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight)).slice(0, 8);
  const list = element("dl");
  for (const part of ranked) list.append(element("dt", {}, part.text), element("dd", {}, `${part.weight > 0 ? "+" : "−"}${Math.abs(part.weight).toFixed(3)}`));
  box.append(element("p", { className: "quiet" }, "Green speaks for the answer; pink, underlined, against it. The parts with the largest weights:"), list);
}
