// The page of `mapsto serve`: a form made from what the model reads, its answer, what decided it, and the request as code.

import { showAnswer, showParts } from "./answers.js";
import { curl, python } from "./code.js";
import { element } from "./elements.js";
import { showExamples } from "./examples.js";
import { Field } from "./fields.js";

const at = (id) => document.getElementById(id);
let models = [];
let hasKey = false;
let model = null;
let fields = [];

function say(text, isError = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", isError);
}

function showCode() {
  at("curl").textContent = curl(model, fields, hasKey);
  at("python").textContent = python(model, fields, hasKey);
}

// A true answer is that of the row that fills the form, and of no other.
function onChange() {
  at("truth").textContent = "";
  showCode();
}

function choose(name) {
  model = models.find((candidate) => candidate.name === name);
  model.route = model.operations.includes("predict") ? "predict" : "embed";
  at("title").textContent = model.name;
  document.title = model.name;
  at("arrow").textContent = model.arrow;
  for (const field of fields) field.close();
  fields = model.columns.map((column, number) => new Field(column, number, onChange, say));
  at("fields").replaceChildren(...fields.map((field) => field.node));
  at("why").hidden = !model.operations.includes("explain");
  at("answer").replaceChildren();
  at("parts").replaceChildren();
  say("Nothing asked yet.");
  onChange();
  at("examples").dataset.model = model.name;
  showExamples(at("examples"), model, fill, say);
}

// Fill the form with a test row, and say what its table has as the answer.
function fill({ texts, files, answers }) {
  for (const field of fields) {
    const value = texts[field.column.name] ?? files[field.column.name];
    if (value !== undefined) field.fill(value);
  }
  const truth = Object.entries(answers).map(([name, text]) => `${name} “${text}”`);
  at("answer").replaceChildren();
  at("parts").replaceChildren();
  at("truth").textContent = truth.length ? `True answer of this row: ${truth.join(", ")}.` : "";
  say("The row is in the form.");
}

async function ask(route, body) {
  const response = await fetch(route, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ model: model.name, ...body }),
  });
  if (response.ok) return response;
  const { error } = await response.json();
  throw new Error(response.status === 429 ? `${error}.` : error);
}

async function readRow() {
  const empty = fields.find((field) => field.isEmpty);
  if (empty) {
    empty.input.focus();
    throw new Error(`“${empty.column.name}” is empty.`);
  }
  const cells = await Promise.all(fields.map(async (field) => [field.column.name, await field.value()]));
  return Object.fromEntries(cells);
}

// Show a generated text while it is written.
async function write(row) {
  const response = await ask("generate", { row, stream: true });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const line = element("p", { className: "main-answer" });
  at("answer").replaceChildren(line);
  let waiting = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const events = (waiting + part.value).split("\n\n");
    waiting = events.pop();
    for (const event of events) {
      const content = JSON.parse(event.slice("data: ".length));
      if (content.error) throw new Error(content.error);
      if (content.text) line.append(content.text);
    }
  }
}

// Run one of the two buttons: disabled meanwhile, with its time or its error said.
async function run(work) {
  const buttons = [at("send"), at("why")];
  for (const button of buttons) button.disabled = true;
  const start = performance.now();
  say("Waiting for the answer …");
  try {
    await work();
    say(`Answered in ${Math.round(performance.now() - start)} ms.`);
  } catch (error) {
    say(error instanceof TypeError ? "The service cannot be reached." : error.message, true);
  }
  for (const button of buttons) button.disabled = false;
}

const answer = () => run(async () => {
  const row = await readRow();
  at("parts").replaceChildren();
  if (model.operations.includes("generate")) return write(row);
  const { answers } = await (await ask(model.route, { rows: [row] })).json();
  showAnswer(at("answer"), answers[0], fields);
});

const explain = () => run(async () => {
  const row = await readRow();
  const { answers } = await (await ask("explain", { rows: [row] })).json();
  showAnswer(at("answer"), answers[0].answer, fields);
  showParts(at("parts"), answers[0], fields);
});

async function copy(button) {
  await navigator.clipboard.writeText(at(button.dataset.copy).textContent);
  say("Copied.");
}

async function start() {
  ({ models, has_key: hasKey } = await (await fetch("page/models.json")).json());
  at("model").replaceChildren(...models.map(({ name, arrow }) => element("option", { value: name }, `${name} (${arrow})`)));
  at("choice").hidden = models.length < 2;
  choose(models[0].name);
  at("model").addEventListener("change", () => choose(at("model").value));
  at("form").addEventListener("submit", (event) => { event.preventDefault(); answer(); });
  at("form").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); answer(); }
  });
  at("why").addEventListener("click", explain);
  for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));
}

start();
