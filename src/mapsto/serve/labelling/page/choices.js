// Choose one or several labels: buttons with the keys 1 to 9, and a field that searches among them and adds new ones.

import { get, make } from "./elements.js";

const MANY = 9;

// onChoose(name): called when a label is chosen. isSeveral: whether labels are switched on and off.
export class Choices {
  constructor(parent, { isSeveral, onChoose }) {
    this.isSeveral = isSeveral;
    this.onChoose = onChoose;
    this.names = [];
    this.chosen = new Set();
    this.guessed = new Set();
    this.input = make("input", {
      id: "search", type: "search", autocomplete: "off", maxlength: 100, "aria-describedby": "search-help", placeholder: "search or add a label",
    });
    this.input.addEventListener("input", () => this.show());
    this.input.addEventListener("keydown", (event) => this.onKey(event));
    this.list = make("ul", { class: "choices", "aria-label": "Labels" });
    this.box = make("div", { class: "choices-box" });
    parent.append(this.box);
    this.box.append(
      make("div", { class: "search" }, make("label", { for: "search", class: "hidden" }, "Search or add a label"), this.input,
        make("span", { id: "search-help", class: "quiet" }, make("kbd", {}, "/"), " search, ", make("kbd", {}, "Enter"), " takes the first")),
      this.list,
    );
  }

  reset(chosen = []) {
    this.chosen = new Set(chosen);
    this.guessed = new Set();
    this.input.value = "";
    this.show();
  }

  setNames(names) {
    if (names.join("\n") === this.names.join("\n")) return;
    this.names = names;
    this.show();
  }

  get query() {
    return this.input.value.trim();
  }

  // The labels that the search leaves, those first that begin with it; the order of the others never changes.
  get matches() {
    const query = this.query.toLocaleLowerCase();
    if (!query) return this.names;
    const found = this.names.filter((name) => name.toLocaleLowerCase().includes(query));
    const starts = (name) => name.toLocaleLowerCase().startsWith(query);
    return [...found.filter(starts), ...found.filter((name) => !starts(name))];
  }

  show() {
    // With few labels the search, which then only adds new ones, stands below them.
    this.box.classList.toggle("few", this.names.length > 0 && this.names.length <= MANY);
    const items = this.matches.map((name, index) => this.button(name, name, index < MANY ? index + 1 : null));
    if (this.query && !this.names.includes(this.query)) items.push(this.button(this.query, `add “${this.query}”`, null));
    this.list.replaceChildren(...items);
    if (!items.length) this.list.append(make("li", { class: "quiet" }, "No labels yet: write the first one above."));
  }

  button(name, text, digit) {
    const attributes = { type: "button", "data-name": name, onclick: (event) => this.onClick(event, name) };
    if (digit) attributes["aria-keyshortcuts"] = String(digit);
    if (this.isSeveral) attributes["aria-pressed"] = String(this.chosen.has(name));
    else if (this.chosen.has(name)) attributes["aria-pressed"] = "true";
    const key = digit ? [make("kbd", { "aria-hidden": "true" }, String(digit))] : [];
    const button = make("button", attributes, make("span", {}, ...breakable(text)), ...key);
    button.classList.toggle("guessed", this.guessed.has(name));
    return make("li", {}, button);
  }

  onClick(event, name) {
    // A click with the mouse leaves the keys to the page: Enter sends, where a focused button would take it for itself.
    if (event.detail) focusRow();
    this.choose(name);
  }

  choose(name) {
    if (this.isSeveral) {
      if (!this.chosen.delete(name)) this.chosen.add(name);
      if (!this.names.includes(name)) this.names = [...this.names, name];
      const hadFocus = document.activeElement?.dataset?.name;
      this.input.value = "";
      this.show();
      if (hadFocus) this.list.querySelector(`[data-name="${CSS.escape(hadFocus)}"]`)?.focus();
    } else {
      const isFiltered = this.query !== "";
      this.input.value = "";
      if (isFiltered) this.show();
    }
    this.onChoose(name);
  }

  // Mark other labels as chosen; no button is made anew, so that none loses the focus.
  mark(names) {
    this.chosen = new Set(names);
    for (const button of this.list.querySelectorAll("button")) {
      if (this.chosen.has(button.dataset.name)) button.setAttribute("aria-pressed", "true");
      else button.removeAttribute("aria-pressed");
    }
  }

  markGuess(names) {
    this.guessed = new Set(names);
    this.show();
  }

  onKey(event) {
    if (event.isComposing) return; // Enter ends the input of Chinese characters
    if (event.key === "Enter" && this.query) {
      event.preventDefault();
      event.stopPropagation();
      const name = this.matches[0] ?? this.query;
      this.input.blur();
      this.choose(name);
    } else if (event.key === "Escape") {
      this.input.value = "";
      this.show();
      this.input.blur();
    }
  }

  // Take a key of the page; return whether it was one of a label.
  press(key) {
    if (key === "/") {
      this.input.focus();
      return true;
    }
    const name = /^[1-9]$/.test(key) ? this.matches[Number(key) - 1] : undefined;
    if (name !== undefined) this.choose(name);
    return name !== undefined;
  }
}

// Parts of a name, between which a line may break.
const breakable = (text) => text.split(/(?<=[_/.])/).flatMap((part, index) => (index ? [make("wbr"), part] : [part]));

export const focusRow = () => get("row-heading").focus({ preventScroll: true });
