// Draw the learning curve with its intervals, and say in words what more labels would bring.

import { draw, make, percent } from "./elements.js";

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT] = [540, 220, 48, 34, 10, 16];

export function showCurve(parent, learner) {
  const { points, forecast } = learner;
  const parts = [];
  if (learner.note) parts.push(make("p", { class: "quiet" }, learner.note));
  if (!learner.fits) parts.push(make("p", { class: "quiet" }, "For these answers no model is fitted while you label."));
  else if (!points.length) {
    parts.push(make("p", { class: "quiet" }, "No point yet: it takes some labels, of them ten rows that were drawn at random."));
  }
  if (!points.length) {
    parent.replaceChildren(...parts);
    return;
  }
  const last = points.at(-1);
  parts.push(make("p", {}, `With ${last.num_labels} labels a probe answers ${percent(last.score)} of the rows right ` +
    `(95 % interval ${range(last)}, measured on ${last.n} rows drawn at random).`));
  parts.push(make("p", {}, forecastText(forecast)));
  parts.push(chart(points, forecast));
  const rows = points.slice(-12).map((point) => make("tr", {}, ...[point.num_labels, percent(point.score),
    range(point), point.n].map((cell) => make("td", {}, String(cell)))));
  const head = make("tr", {}, ...["labels", "right", "95 % interval", "random rows"].map((name) => make("th", { scope: "col" }, name)));
  parts.push(make("details", {}, make("summary", {}, "As a table"), make("table", {}, head, ...rows)));
  const isOpen = parent.querySelector("details")?.open;
  parent.replaceChildren(...parts);
  if (isOpen) parent.querySelector("details").open = true;
}

const range = (point) => `${(100 * point.low).toFixed(0)}–${percent(point.high)}`;

function forecastText(forecast) {
  if (!forecast) return "Too early to say what more labels would bring.";
  if (forecast.high < 0.01) return `Twice as many labels (${forecast.num_labels}) would hardly bring anything: less than one point.`;
  const points = (gain) => String(Math.round(100 * gain)).replace("-", "−");
  const gain = `${points(forecast.low)} to ${points(forecast.high)} points`;
  return `Twice as many labels (${forecast.num_labels}) would bring ${gain}, if errors go on falling as they have so far.`;
}

function chart(points, forecast) {
  const counts = points.map((point) => point.num_labels);
  const most = Math.max(...counts, forecast ? forecast.num_labels : 0);
  const least = Math.min(...counts);
  const floor = Math.max(0, Math.floor(10 * Math.min(...points.map((point) => point.low))) / 10);
  const x = (count) => LEFT + (WIDTH - LEFT - RIGHT) * (most > least ? (Math.log(count) - Math.log(least)) / (Math.log(most) - Math.log(least)) : 0.5);
  const y = (score) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - (score - floor) / (1 - floor));
  const svg = draw("svg", { class: "curve", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "Share of right answers by number of labels; the table below has the numbers" });
  for (const score of [floor, (1 + floor) / 2, 1]) {
    svg.append(draw("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(score), y2: y(score) }),
      draw("text", { x: LEFT - 6, y: y(score) + 4, "text-anchor": "end" }, percent(score)));
  }
  for (const count of new Set([least, counts.at(-1), most])) svg.append(draw("text", { x: x(count), y: HEIGHT - 14, "text-anchor": "middle" }, String(count)));
  svg.append(draw("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 1, "text-anchor": "middle" }, "labels"));
  for (const point of points) svg.append(draw("line", { class: "range", x1: x(point.num_labels), x2: x(point.num_labels), y1: y(point.low), y2: y(point.high) }));
  svg.append(draw("polyline", { class: "line", points: points.map((point) => `${x(point.num_labels)},${y(point.score)}`).join(" ") }));
  for (const point of points) svg.append(draw("circle", { class: "dot", cx: x(point.num_labels), cy: y(point.score), r: 3 }));
  if (forecast) {
    const last = points.at(-1);
    const ahead = (gain) => y(Math.min(1, last.score + gain));
    svg.append(draw("polyline", { class: "ahead", points: `${x(last.num_labels)},${y(last.score)} ${x(forecast.num_labels)},${ahead(forecast.gain)}` }),
      draw("line", { class: "ahead", x1: x(forecast.num_labels), x2: x(forecast.num_labels), y1: ahead(forecast.low), y2: ahead(forecast.high) }),
      draw("circle", { class: "ahead-dot", cx: x(forecast.num_labels), cy: ahead(forecast.gain), r: 4 }));
  }
  return svg;
}
