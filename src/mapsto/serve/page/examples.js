// Test rows of the model, each a button that fills the form.

import { element } from "./elements.js";

const MAX_LETTERS = 40;
const WORDS = {
  test: "Rows that the model was tested on; it was not trained on them:",
  "held out": "Rows that the fit held out, so that the model was not trained on them:",
};

// Show the examples of a model. parent: an element for them, hidden without any. fill(row): is called with the row of a button, in
// which files are File objects. say(text, isError): tells of an error.
export async function showExamples(parent, model, fill, say) {
  parent.hidden = true;
  const response = await fetch(`page/examples/${encodeURIComponent(model.name)}`).catch(() => null);
  if (!response?.ok) return;
  const { origin, examples } = await response.json();
  if (!examples.length || parent.dataset.model !== model.name) return;
  const items = examples.map((example, number) => {
    const button = element("button", { type: "button" }, ...contents(model, example, number));
    button.addEventListener("click", async () => {
      try {
        fill({ ...example, files: await readFiles(model, example, number) });
      } catch (error) {
        say(error.message, true);
      }
    });
    return element("li", {}, button);
  });
  parent.replaceChildren(element("p", { className: "quiet" }, WORDS[origin]), element("ul", { className: "examples", "aria-label": "Examples" }, ...items));
  parent.hidden = false;
}

const address = (model, number, file) => `page/examples/${encodeURIComponent(model.name)}/${number}/${file}`;

function contents(model, example, number) {
  const nodes = [];
  Object.values(example.files).forEach((name, file) => {
    if (/\.(png|jpe?g|webp|gif|bmp)$/i.test(name)) nodes.push(element("img", { src: address(model, number, file), alt: name, loading: "lazy" }));
    else nodes.push(element("span", {}, name));
  });
  const text = Object.values(example.texts).join(" · ").replace(/\s+/g, " ");
  const letters = Array.from(text);
  if (text) nodes.push(element("span", {}, letters.length > MAX_LETTERS ? `${letters.slice(0, MAX_LETTERS).join("")} …` : text));
  return nodes;
}

async function readFiles(model, example, number) {
  const files = Object.entries(example.files).map(async ([column, name], file) => {
    const response = await fetch(address(model, number, file));
    if (!response.ok) throw new Error((await response.json()).error);
    const content = await response.blob();
    return [column, new File([content], name, { type: content.type })];
  });
  return Object.fromEntries(await Promise.all(files));
}
