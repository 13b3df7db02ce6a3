// Draw labelled boxes on a picture: with the mouse, a pen or a finger, or with the keyboard alone.
// Sides are whole pixels of the original picture: its size comes from the server, whatever the size on the screen.

import { get, make, say } from "./elements.js";

// How near to a handle a pointer takes it, how far it must move to draw, and how far an arrow key moves: in pixels of the screen.
const REACH = { mouse: 9, pen: 14, touch: 24 };
const MIN_DRAG = 4, STEP = 8, REPEAT_FACTOR = 3;
const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8];
const NUM_COLOURS = 7;
const MAX_HEIGHT = 56; // of the picture, in per cent of the window
const DRAFT = "mapsto-boxes";
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
// The handles: which side (left 0, top 1, right 2, bottom 3) they move horizontally and vertically.
const HANDLES = [[0, 1], [2, 1], [0, 3], [2, 3], [0, null], [2, null], [null, 1], [null, 3]];

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const area = ([left, top, right, bottom]) => (right - left) * (bottom - top);
const isWithin = ([left, top, right, bottom], [x, y]) => x >= left && x <= right && y >= top && y <= bottom;

// The area that two boxes share, divided by the area of both.
function overlap(a, b) {
  const shared = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  return shared / (area(a) + area(b) - shared);
}

export class Rectangles {
  // parent: the part of the page for answers. names(): the labels, whose order gives the colours. onLabel(name): tells which label
  // the selected box has or the next one will have. focus(): gives the keys back to the page.
  constructor(parent, { names, onLabel, focus }) {
    Object.assign(this, { names, onLabel, focus, boxes: [], selected: -1, label: null, history: [], isFine: false, zoom: 0 });
    this.list = make("ul", { class: "spans-list", "aria-label": "Boxes" });
    const button = (text, key, act, keys) => make("button", {
      type: "button", "aria-keyshortcuts": keys ?? key, onclick: (event) => { act(); if (event.detail) this.focus(); },
    }, text, " ", make("kbd", { "aria-hidden": "true" }, key));
    this.tools = make("div", { class: "tools", role: "group", "aria-label": "Tools for boxes" },
      button("Add a box", "B", () => this.addInMiddle()), this.deleteButton = button("Delete", "Del", () => this.remove(), "Delete"),
      this.outButton = button("Smaller", "−", () => this.setZoom(this.zoom - 1), "-"), this.inButton = button("Larger", "+", () => this.setZoom(this.zoom + 1)));
    parent.append(this.tools, this.list);
  }

  // Show the boxes of a picture. image: its element, which is put into a frame. size: its width and height in pixels.
  // key: of the row, under which unsent boxes outlive a reload. earlier: boxes of an answer that was taken back.
  open(image, size, key, earlier) {
    Object.assign(this, { size, key, selected: -1, history: [], drag: null, zoom: 0 });
    const draft = JSON.parse(sessionStorage.getItem(DRAFT) || "null");
    this.isDraft = !earlier && draft?.key === key;
    const boxes = earlier ?? (this.isDraft ? draft.boxes : []);
    this.boxes = boxes.map(({ label, box }) => ({ label, box: box.slice() }));
    this.layer = make("div", { class: "layer", "aria-hidden": "true" });
    this.frame = make("div", { class: "frame" });
    this.viewer = make("div", { class: "viewer" }, this.frame);
    image.replaceWith(this.viewer);
    this.frame.append(image, this.layer);
    this.frame.style.aspectRatio = `${size[0]} / ${size[1]}`;
    for (const name of ["down", "move", "up", "cancel"]) this.layer.addEventListener(`pointer${name}`, (event) => this[name](event));
    this.layer.addEventListener("contextmenu", (event) => event.preventDefault());
    this.setZoom(0);
    this.show();
  }

  get answer() {
    return this.boxes.map(({ label, box }) => ({ label, box }));
  }

  // Whether there are boxes that were drawn and not sent.
  get isUnsent() {
    return this.boxes.length > 0 && (this.history.length > 0 || this.isDraft);
  }

  // The index of the first box that has no label yet; -1 if all have one.
  get unlabelled() {
    return this.boxes.findIndex((box) => !box.label);
  }

  // Pixels of the picture for one of the screen.
  get scale() {
    return this.size[0] / (this.layer.clientWidth || this.size[0]);
  }

  // Remember the boxes as they are, so that `undo` brings them back.
  remember() {
    this.history.push(JSON.stringify({ boxes: this.boxes, selected: this.selected }));
  }

  undo() {
    if (!this.history.length) return false;
    Object.assign(this, JSON.parse(this.history.pop()));
    this.show();
    say(`The last change is undone: ${count(this.boxes.length)}.`);
    return true;
  }

  select(index) {
    this.selected = index;
    this.show();
    if (index >= 0) this.layer.children[index].scrollIntoView({ block: "nearest", inline: "nearest" });
    say(index < 0 ? "No box is selected." : this.describe(index));
  }

  describe(index) {
    const { label, box: [left, top, right, bottom] } = this.boxes[index];
    return `Box ${index + 1} of ${this.boxes.length}, ${label ?? "without a label"}: left ${left}, top ${top}, ${right - left} wide, ${bottom - top} high.`;
  }

  add(box, text = "") {
    this.remember();
    const names = this.names();
    this.boxes.push({ label: this.label ?? (names.length === 1 ? names[0] : null), box });
    this.select(this.boxes.length - 1);
    if (!this.boxes.at(-1).label) text = `${text} Choose its label.`;
    say(`${this.describe(this.selected)}${text}`);
  }

  addInMiddle() {
    if (!this.layer?.isConnected) return;
    const [width, height] = this.size;
    // The middle of the part that is seen, where the picture is shown larger.
    const seen = { x: this.viewer.scrollLeft, y: this.viewer.scrollTop, width: this.viewer.clientWidth, height: this.viewer.clientHeight };
    const middle = [seen.x + Math.min(seen.width, this.layer.clientWidth) / 2, seen.y + Math.min(seen.height, this.layer.clientHeight) / 2].map((side) => side * this.scale);
    const half = [Math.min(seen.width * this.scale, width) / 6, Math.min(seen.height * this.scale, height) / 6];
    const [left, top] = [0, 1].map((axis) => Math.floor(middle[axis] - half[axis]));
    const [right, bottom] = [0, 1].map((axis) => Math.ceil(middle[axis] + half[axis]));
    this.add([Math.max(0, left), Math.max(0, top), Math.min(width, right), Math.min(height, bottom)], " Arrows move it, with Shift they change its size.");
  }

  // Add the model's boxes, except those that a box of the same label is there for. Return their number.
  addGuess(boxes) {
    const others = boxes.filter(({ label, box }) => !this.boxes.some((own) => own.label === label && overlap(own.box, box) > 0.5));
    if (others.length) this.remember();
    for (const { label, box } of others) {
      const [left, top, right, bottom] = box.map((side, index) => clamp(Math.round(side), 0, this.size[index % 2]));
      if (right > left && bottom > top) this.boxes.push({ label, box: [left, top, right, bottom] });
    }
    this.selected = -1;
    this.show();
    return others.length;
  }

  remove(index = this.selected) {
    if (!this.boxes[index]) return say("No box is selected.");
    this.remember();
    this.boxes.splice(index, 1);
    this.selected = -1;
    this.show();
    say(`Box ${index + 1} is deleted: ${count(this.boxes.length)}.`);
  }

  setLabel(name) {
    this.label = name;
    if (!this.boxes[this.selected]) {
      this.onLabel(name);
      return say(`The next box is labelled ${name}.`);
    }
    this.remember();
    this.boxes[this.selected].label = name;
    this.show();
    say(this.describe(this.selected));
  }

  setZoom(zoom) {
    this.zoom = clamp(zoom, 0, ZOOMS.length - 1);
    if (!this.frame) return;
    const [width, height] = this.size;
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = this.viewer;
    const middle = [(scrollLeft + clientWidth / 2) / this.frame.clientWidth, (scrollTop + clientHeight / 2) / this.frame.clientHeight];
    this.frame.style.width = `calc(min(100%, ${MAX_HEIGHT}vh * ${width / height}) * ${ZOOMS[this.zoom]})`;
    this.viewer.scrollLeft = middle[0] * this.frame.clientWidth - this.viewer.clientWidth / 2;
    this.viewer.scrollTop = middle[1] * this.frame.clientHeight - this.viewer.clientHeight / 2;
    if (this.selected >= 0) this.layer.children[this.selected].scrollIntoView({ block: "nearest", inline: "nearest" });
    this.outButton.disabled = this.zoom === 0;
    this.inButton.disabled = this.zoom === ZOOMS.length - 1;
  }

  // Take a key of the page; return whether it was one for boxes.
  press(key, isShift, isRepeat = false) {
    if (ARROWS[key]) return this.move_by(ARROWS[key], isShift, isRepeat);
    const acts = {
      b: () => this.addInMiddle(), Delete: () => this.remove(), Backspace: () => this.remove(), Escape: () => this.select(-1),
      n: () => this.step(1), p: () => this.step(-1), "+": () => this.setZoom(this.zoom + 1), "=": () => this.setZoom(this.zoom + 1),
      "-": () => this.setZoom(this.zoom - 1), f: () => this.toggleFine(),
    };
    const act = acts[key.length === 1 ? key.toLowerCase() : key];
    act?.();
    return act !== undefined;
  }

  step(by) {
    const number = this.boxes.length;
    if (!number) return say("There is no box yet: B adds one.");
    this.select(this.selected < 0 ? (by > 0 ? 0 : number - 1) : (this.selected + by + number) % number);
  }

  toggleFine() {
    this.isFine = !this.isFine;
    say(this.isFine ? "Arrows move by one pixel of the picture." : "Arrows move in larger steps.");
  }

  move_by([x, y], isShift, isRepeat) {
    const selected = this.boxes[this.selected];
    if (!selected) return false; // arrows scroll the page
    const step = this.isFine ? 1 : Math.max(1, Math.round(STEP * this.scale)) * (isRepeat ? REPEAT_FACTOR : 1);
    if (!isRepeat) this.remember();
    const [left, top, right, bottom] = selected.box;
    const [width, height] = this.size;
    if (isShift) {
      selected.box = [left, top, clamp(right + x * step, left + 1, width), clamp(bottom + y * step, top + 1, height)];
    } else {
      const [dx, dy] = [clamp(x * step, -left, width - right), clamp(y * step, -top, height - bottom)];
      selected.box = [left + dx, top + dy, right + dx, bottom + dy];
    }
    this.select(this.selected);
    return true;
  }

  // The place of a pointer in pixels of the picture; outside of it the nearest one.
  place(event) {
    const bounds = this.layer.getBoundingClientRect();
    const shares = [(event.clientX - bounds.left) / bounds.width, (event.clientY - bounds.top) / bounds.height];
    return shares.map((share, axis) => clamp(share, 0, 1) * this.size[axis]);
  }

  // The handle of the selected box that a pointer takes: the nearest one within reach.
  handleAt([x, y], reach) {
    const { box } = this.boxes[this.selected];
    const distances = HANDLES.map(([horizontal, vertical]) => Math.hypot(
      x - (horizontal === null ? (box[0] + box[2]) / 2 : box[horizontal]), y - (vertical === null ? (box[1] + box[3]) / 2 : box[vertical])));
    const least = Math.min(...distances);
    // In a small box the handles are nearer, so that its middle still moves it.
    const [width, height] = [box[2] - box[0], box[3] - box[1]];
    const isInside = isWithin(box, [x, y]);
    return least <= (isInside ? Math.min(reach, Math.min(width, height) / 3) : reach) ? HANDLES[distances.indexOf(least)] : null;
  }

  down(event) {
    if (!event.isPrimary) return this.cancel(event); // a second finger zooms the page
    if (event.button) return;
    event.preventDefault();
    this.focus();
    this.layer.setPointerCapture(event.pointerId);
    const start = this.place(event);
    const reach = (REACH[event.pointerType] ?? REACH.mouse) * this.scale;
    const original = this.boxes[this.selected]?.box;
    const drag = { id: event.pointerId, start, from: [event.clientX, event.clientY], original, hasMoved: false };
    const handle = original && !event.shiftKey ? this.handleAt(start, reach) : null;
    if (handle) this.drag = { ...drag, mode: "resize", handle };
    else if (original && !event.shiftKey && isWithin(original, start)) this.drag = { ...drag, mode: "move" };
    else this.drag = { ...drag, mode: "draw" };
  }

  move(event) {
    const drag = this.drag;
    if (!drag || event.pointerId !== drag.id) return;
    if (!drag.hasMoved) {
      if (Math.hypot(event.clientX - drag.from[0], event.clientY - drag.from[1]) < MIN_DRAG) return;
      drag.hasMoved = true;
      if (drag.mode === "draw") this.draft = make("div", { class: "box drawn" });
      else this.remember();
      if (this.draft) this.layer.append(this.draft);
    }
    const place = this.place(event);
    const box = this.dragged(drag, place);
    if (drag.mode === "draw") this.put(this.draft, box);
    else {
      this.boxes[this.selected].box = box;
      this.put(this.layer.children[this.selected], box);
    }
  }

  // The box that a drag makes of the original one: sides in whole pixels, within the picture.
  dragged({ mode, handle, start, original }, place) {
    const [width, height] = this.size;
    const by = [place[0] - start[0], place[1] - start[1]];
    if (mode === "move") {
      const dx = clamp(Math.round(by[0]), -original[0], width - original[2]);
      const dy = clamp(Math.round(by[1]), -original[1], height - original[3]);
      return [original[0] + dx, original[1] + dy, original[2] + dx, original[3] + dy];
    }
    const sides = mode === "draw" ? [...start, ...place] : original.slice();
    if (mode === "resize") handle.forEach((side, axis) => { if (side !== null) sides[side] += by[axis]; });
    return [0, 1].flatMap((end) => [0, 1].map((axis) => {
      const [low, high] = [Math.min(sides[axis], sides[axis + 2]), Math.max(sides[axis], sides[axis + 2])];
      const first = clamp(Math.round(low), 0, this.size[axis] - 1);
      return end ? clamp(Math.round(high), first + 1, this.size[axis]) : first;
    }));
  }

  up(event) {
    const drag = this.drag;
    if (!drag || event.pointerId !== drag.id) return;
    this.drag = null;
    this.draft?.remove();
    this.draft = null;
    if (!drag.hasMoved) return this.click(drag);
    if (drag.mode === "draw") return this.add(this.dragged(drag, this.place(event)));
    this.select(this.selected);
  }

  // Select the smallest box at a place that is clicked; of several the next one at each click.
  click({ start }) {
    const hits = this.boxes.map((_, index) => index).filter((index) => isWithin(this.boxes[index].box, start));
    hits.sort((a, b) => area(this.boxes[a].box) - area(this.boxes[b].box));
    this.select(hits.length ? hits[(hits.indexOf(this.selected) + 1) % hits.length] : -1);
  }

  cancel() {
    const drag = this.drag;
    this.drag = null;
    this.draft?.remove();
    this.draft = null;
    if (drag?.hasMoved && drag.mode !== "draw") this.undo();
  }

  // Put an element where a box is, in per cent of the picture.
  put(element, box) {
    const shares = box.map((side, index) => (100 * side) / this.size[index % 2]);
    const [left, top, right, bottom] = shares;
    Object.assign(element.style, { left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` });
  }

  show() {
    const names = this.names();
    const elements = this.boxes.map(({ label, box }, index) => {
      const isSelected = index === this.selected;
      const colour = label ? `colour-${names.indexOf(label) % NUM_COLOURS}` : "unlabelled";
      const element = make("div", { class: `box ${colour}${isSelected ? " selected" : ""}` }, make("span", { class: box[1] < this.size[1] / 12 ? "inside" : null }, label ?? "?"));
      if (isSelected) element.append(...HANDLES.map((_, number) => make("i", { class: `handle-${number}` })));
      this.put(element, box);
      return element;
    });
    this.layer.replaceChildren(...elements);
    this.layer.classList.toggle("has-selected", this.selected >= 0);
    const hadFocus = this.list.contains(document.activeElement);
    this.list.replaceChildren(...this.boxes.map(({ label }, index) => make("li", {}, make("button", {
      type: "button", "aria-pressed": String(index === this.selected), "aria-label": this.describe(index),
      onclick: (event) => { this.select(index); if (event.detail) this.focus(); },
    }, `${index + 1} · ${label ?? "no label"}`))));
    if (hadFocus) (this.list.children[this.selected]?.firstChild ?? get("row-heading")).focus();
    this.deleteButton.disabled = this.selected < 0;
    this.onLabel(this.selected < 0 ? this.label : this.boxes[this.selected].label);
    sessionStorage.setItem(DRAFT, JSON.stringify({ key: this.key, boxes: this.boxes }));
  }
}

const count = (number) => (number === 1 ? "1 box" : `${number} boxes`);
