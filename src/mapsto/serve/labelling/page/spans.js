// Mark spans of a text: select a part with the mouse, a finger or the arrow keys, then choose a label.
// Places count characters as Python does (code points), where JavaScript counts units of UTF-16.

import { make } from "./elements.js";

export class Spans {
  constructor(parent, onChange) {
    this.list = make("ul", { class: "spans-list", "aria-label": "Marked parts" });
    parent.append(this.list);
    this.onChange = onChange;
    this.spans = [];
    this.selected = null;
    document.addEventListener("selectionchange", () => this.onSelect());
  }

  // element: the one that shows the text.
  open(element, text, spans = []) {
    this.element = element;
    this.text = text;
    this.words = words(text);
    const units = [0];
    for (const character of text) units.push(units.at(-1) + character.length);
    this.spans = spans.map((span) => ({ start: units[span.start], end: units[span.end], label: span.label }));
    this.selected = null;
    this.show();
  }

  get answer() {
    const count = (place) => [...this.text.slice(0, place)].length;
    return this.spans.map((span) => ({ start: count(span.start), end: count(span.end), label: span.label }));
  }

  onSelect() {
    const selection = document.getSelection();
    if (!this.element || !selection.rangeCount || selection.isCollapsed) return;
    const range = selection.getRangeAt(0);
    if (!this.element.contains(range.startContainer) || !this.element.contains(range.endContainer)) return;
    const before = document.createRange();
    before.selectNodeContents(this.element);
    before.setEnd(range.startContainer, range.startOffset);
    const start = before.toString().length;
    this.selected = this.trim(start, start + range.toString().length);
  }

  trim(start, end) {
    while (start < end && /\s/.test(this.text[start])) start++;
    while (end > start && /\s/.test(this.text[end - 1])) end--;
    return start < end ? { start, end } : null;
  }

  add(label) {
    if (!this.selected) return false;
    const { start, end } = this.selected;
    this.spans = this.spans.filter((span) => span.end <= start || span.start >= end);
    this.spans.push({ start, end, label });
    this.spans.sort((a, b) => a.start - b.start);
    this.selected = null;
    document.getSelection().removeAllRanges();
    this.show();
    return true;
  }

  // Move the selection by words: left, right; with Shift its end alone.
  press(key, isShift) {
    if (key !== "ArrowRight" && key !== "ArrowLeft") return false;
    const step = key === "ArrowRight" ? 1 : -1;
    const { start, end } = this.selected ?? { start: -1, end: -1 };
    const first = this.words.findIndex((word) => word.start >= start);
    const last = this.words.findLastIndex((word) => word.end <= end);
    let next;
    if (!this.selected) next = [step > 0 ? 0 : this.words.length - 1].map((i) => [i, i])[0];
    else if (isShift) next = [first, Math.max(first, Math.min(this.words.length - 1, last + step))];
    else next = [step > 0 ? last + 1 : first - 1].map((i) => Math.max(0, Math.min(this.words.length - 1, i))).map((i) => [i, i])[0];
    if (this.words.length) {
      this.selected = { start: this.words[next[0]].start, end: this.words[next[1]].end };
      this.show();
    }
    return true;
  }

  show() {
    const edges = new Set([0, this.text.length]);
    for (const span of [...this.spans, ...(this.selected ? [this.selected] : [])]) edges.add(span.start).add(span.end);
    const places = [...edges].sort((a, b) => a - b);
    const parts = places.slice(0, -1).map((start, index) => {
      const end = places[index + 1];
      const span = this.spans.find((span) => span.start <= start && span.end >= end);
      const isSelected = this.selected && this.selected.start <= start && this.selected.end >= end;
      if (!span && !isSelected) return document.createTextNode(this.text.slice(start, end));
      const part = make(span ? "mark" : "span", { class: isSelected ? "cursor" : null }, this.text.slice(start, end));
      if (span && span.end === end) part.dataset.name = span.label;
      return part;
    });
    this.element.replaceChildren(...parts);
    this.list.replaceChildren(...this.spans.map((span, index) => make("li", {},
      make("button", {
        type: "button",
        onclick: () => {
          this.spans.splice(index, 1);
          this.show();
        },
        "aria-label": `Remove ${span.label}: ${this.text.slice(span.start, span.end)}`,
      }, `${this.text.slice(span.start, span.end)} · ${span.label} ✕`))));
    this.onChange(this.selected && this.text.slice(this.selected.start, this.selected.end));
  }
}

function words(text) {
  if (!Intl.Segmenter) return [...text.matchAll(/\S+/g)].map((match) => ({ start: match.index, end: match.index + match[0].length }));
  const parts = new Intl.Segmenter(undefined, { granularity: "word" }).segment(text);
  return [...parts].filter((part) => part.isWordLike).map((part) => ({ start: part.index, end: part.index + part.segment.length }));
}
