// The page on which people label: show a row, take its answer, and go on once the server has it on its disk.

import { Choices, focusRow } from "./choices.js";
import { showCurve } from "./curve.js";
import { get, make, percent, say } from "./elements.js";
import { act, newId, pageId, post, read, Refused, resume } from "./requests.js";
import { Rectangles } from "./rectangles.js";
import { Spans } from "./spans.js";

const SECONDS_BETWEEN_LOOKS = 5;
const control = document.body.dataset.control;
let row = null; // the row that is shown
let last = null; // the last action of this person, to take it back
let guess = null; // the model's guess, once it was asked for
let isBusy = true;

const answerPart = get("answer");
let choices = null, spans = null, rectangles = null, textarea = null;
let isSkipAllowed = false; // whether a second key for skipping may drop boxes that are not sent
if (control === "write") {
  textarea = make("textarea", { id: "written", "aria-label": document.body.dataset.column, rows: 4 });
  answerPart.append(textarea);
} else {
  if (control === "spans") spans = new Spans(answerPart, (selected) => say(selected ? `selected: ${selected}` : ""));
  if (control === "rectangles") {
    document.querySelector(".actions").prepend(get("message")); // stays in view with the buttons
    rectangles = new Rectangles(answerPart, { names: () => choices.names, onLabel: (name) => choices?.mark(name ? [name] : []), focus: focusRow });
  }
  choices = new Choices(answerPart, { isSeveral: control === "several", onChoose: choose });
}
get("send").hidden = control === "one";
const sendKey = get("send").querySelector("kbd");
sendKey.textContent = control === "write" ? "Ctrl+Enter" : "Enter";

function choose(name) {
  if (control === "one") send(name);
  else if (control === "rectangles") {
    if (!choices.names.includes(name)) choices.setNames([...choices.names, name]);
    if (row) rectangles.setLabel(name);
  }
  else if (control === "spans" && !spans.add(name)) say("Select a part of the text first: with the mouse, a finger, or ← → and Shift.", true);
  else if (control === "spans" && !choices.names.includes(name)) choices.setNames([...choices.names, name]);
}

function person() {
  const name = get("person").value.trim();
  if (!name) {
    say("Write your name first: it stands beside your labels.", true);
    get("person").focus();
  }
  return name;
}

const visitor = () => ({ page: pageId(), person: get("person").value.trim() });

// Send an action, and show the row that comes back.
async function perform(path, content) {
  if (isBusy || !person()) return;
  setBusy(true);
  try {
    show(await act(path, { ...visitor(), ...content }));
  } catch (error) {
    await explain(error);
  } finally {
    setBusy(false);
  }
}

async function explain(error) {
  if (!(error instanceof Refused)) throw error;
  if ([404, 409].includes(error.status)) show(await post("next", visitor()));
  say(error.message, true);
}

function setBusy(busy) {
  isBusy = busy;
  document.body.dataset.busy = busy ? "yes" : "no";
}

function send(answer) {
  if (row) return perform("answer", { key: row.key, id: newId(), answer, saw_guess: guess !== null });
}

function sendForm() {
  if (!row) return;
  if (control === "write") {
    if (!textarea.value.trim()) return say("Write an answer first, or skip the row.", true);
    return send(textarea.value);
  }
  if (control === "spans") return send(spans.answer);
  if (control === "rectangles") {
    if (rectangles.unlabelled < 0) return send(rectangles.answer);
    rectangles.select(rectangles.unlabelled);
    return say(`Box ${rectangles.unlabelled + 1} has no label: choose one, or delete the box.`, true);
  }
  const names = choices.names.filter((name) => choices.chosen.has(name));
  if (!names.length) return say("Choose labels first; the key 0 says that none applies.", true);
  return send(names);
}

function takeGuess() {
  if (!guess) return false;
  if (control === "one") send(guess.answer);
  else if (control === "several" && !choices.chosen.size) send(guess.answer);
  else return false;
  return true;
}

async function showGuess() {
  if (!row || isBusy || get("show-guess").disabled) return;
  const key = row.key;
  try {
    const result = await read(`guess/${key}`);
    if (row?.key !== key) return;
    guess = result;
  } catch (error) {
    return explain(error);
  }
  if (control === "rectangles") {
    const number = rectangles.addGuess(guess.answer);
    const text = number ? `${number === 1 ? "1 box was" : `${number} boxes were`} added; correct them` : "no further box";
    get("guess").textContent = `The model’s guess: ${text}.`;
    return;
  }
  const names = Array.isArray(guess.answer) ? guess.answer : [guess.answer];
  const sure = guess.confidence === null || guess.confidence === undefined ? "" : `, ${percent(guess.confidence)} sure`;
  if (control === "write") textarea.value = textarea.value || guess.answer;
  else if (control === "spans") spans.open(spans.element, spans.text, guess.answer);
  else choices.markGuess(names);
  const text = control === "write" || control === "spans" ? "see above; correct it" : `${names.join(", ") || "none"}${sure}. Enter takes it`;
  get("guess").textContent = `The model’s guess: ${text}.`;
}

function show(reply) {
  row = reply.row;
  last = reply.last;
  guess = null;
  get("guess").textContent = "";
  say("");
  const sources = row ? row.sources.map(showSource) : [];
  const nothing = make("p", {}, "No row is left for you: all are labelled, or shown to others just now.");
  get("row").replaceChildren(...(row ? sources : [nothing]));
  document.body.dataset.row = row ? row.key : "";
  const earlier = row?.answer;
  const names = [...new Set([...reply.names, ...(choices && Array.isArray(earlier) && control === "several" ? earlier : [])])];
  choices?.setNames(names);
  choices?.reset(earlier === undefined || control === "spans" || control === "rectangles" ? [] : [].concat(earlier));
  if (textarea) textarea.value = earlier ?? "";
  if (spans && row) {
    const place = row.sources.findIndex((source) => source.content !== undefined);
    const element = sources[place].querySelector(".content");
    element.classList.add("spans");
    spans.open(element, row.sources[place].content, earlier ?? []);
  }
  isSkipAllowed = false;
  if (rectangles && row) {
    const place = row.sources.findIndex((source) => source.size);
    rectangles.open(sources[place].querySelector("img"), row.sources[place].size, row.key, earlier);
  }
  answerPart.hidden = !row;
  get("undo").disabled = !last && !rectangles;
  get("skip").disabled = get("send").disabled = !row;
  showState(reply);
  if (textarea && row) textarea.focus();
  else focusRow();
}

function showSource(source, port) {
  const parts = [];
  if (row.sources.length > 1) parts.push(make("p", { class: "name" }, source.column));
  if (source.content !== undefined) parts.push(make("div", { class: "content", dir: "auto" }, source.content));
  else parts.push(showFile(source, `media/${row.key}/${port}`));
  return make("div", { class: "source" }, ...parts);
}

function showFile(source, address) {
  const tags = { image: "img", sound: "audio", video: "video" };
  const tag = tags[source.medium] ?? "a";
  if (tag === "img") return make("img", { src: address, alt: `the picture to label${source.file ? `, ${source.file}` : ""}` });
  if (tag === "a") return make("a", { href: address, download: true }, source.file || "the file");
  return make(tag, { src: address, controls: true, preload: "auto", "aria-label": source.file || "the recording" });
}

function showState(state) {
  const { counts, learner } = state;
  const skipped = counts.num_skipped ? `, ${counts.num_skipped} skipped` : "";
  get("count").textContent = `${counts.num_labelled} of ${counts.num_rows} labelled${skipped}`;
  get("progress").max = counts.num_rows;
  get("progress").value = counts.num_labelled;
  get("show-guess").disabled = !learner.can_guess || !row;
  const rows = Object.entries(counts.people).map(([name, count]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, String(count))));
  get("people").replaceChildren(make("caption", {}, "Labels by person"), ...rows);
  showCurve(get("curve"), learner);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key === "Enter" && event.ctrlKey && control === "write") {
      event.preventDefault();
      sendForm();
    }
    return;
  }
  const mayRepeat = control === "rectangles" && event.key.startsWith("Arrow");
  if (event.isComposing || (event.repeat && !mayRepeat)) return;
  const target = event.target;
  if (event.key === "Escape" && target.matches("textarea, input")) return target.blur();
  if (target.matches("textarea, input, summary, a, audio, video")) return;
  // Arrows and the like are no words that voice input could take for keys.
  const isVoiceSafe = control === "rectangles" && /^(Arrow|Delete|Escape)/.test(event.key);
  if (!get("use-keys").checked && !isVoiceSafe) return;
  // A focused button takes Enter and space for itself.
  if (target.matches("button") && [" ", "Enter"].includes(event.key)) return;
  if (press(event.key, event.shiftKey, event.repeat)) event.preventDefault();
}

function press(key, isShift, isRepeat) {
  if (isBusy) return [" ", "Enter"].includes(key);
  if (key === " ") return skip(), true;
  if (key === "Enter") return takeGuess() || (control !== "one" ? sendForm() : say("Press G to see the model’s guess, or choose a label.")), true;
  if (key === "u" || key === "U") return undo(), true;
  if (key === "g" || key === "G") return showGuess(), true;
  if (key === "0" && control === "several") return send([]), true;
  if (key === "r" || key === "R") return replay();
  if (spans?.press(key, isShift) || (row && rectangles?.press(key, isShift, isRepeat))) return true;
  return row && choices ? choices.press(key) : false;
}

function skip() {
  if (rectangles?.isUnsent && !isSkipAllowed) {
    isSkipAllowed = true;
    return say("The boxes are not saved: Enter saves them; skip once more to drop them.", true);
  }
  if (row) perform("skip", { key: row.key, id: newId() });
}

function undo() {
  if (row && rectangles?.undo()) return;
  if (last) perform("undo", last);
  else say("There is nothing to undo.");
}

function replay() {
  const player = get("row").querySelector("audio, video");
  if (player) {
    player.currentTime = 0;
    player.play();
  }
  return player !== null;
}

function listKeys() {
  const keys = [["Space", "skip"], ["U", "undo the last answer"], ["G", "show the model’s guess"]];
  if (control === "write") keys.push(["Ctrl+Enter", "send"], ["Esc", "leave the field, so that single keys work"]);
  else keys.unshift(["1–9", { spans: "label the selected part", rectangles: "label the selected box, and the next ones" }[control] ?? "choose the label"], ["/", "search or add a label"]);
  if (control === "one") keys.push(["Enter", "take the guess that is shown"]);
  if (control === "several") keys.push(["Enter", "send, or take the guess that is shown"], ["0", "none applies"]);
  if (control === "spans") keys.push(["← →", "select a word; with Shift, further words"], ["Enter", "send, also without any part"]);
  if (control === "rectangles") {
    keys.push(["B", "add a box in the middle"], ["← → ↑ ↓", "move the selected box; with Shift, its right and lower side"],
      ["F", "arrows by one pixel of the picture, or in larger steps"], ["N P", "select the next or the previous box"], ["Del", "delete the selected box"],
      ["+ −", "show the picture larger or smaller"], ["Shift", "while dragging: draw a box within the selected one"],
      ["U", "undo the last change of the boxes; without one, the last answer"], ["Enter", "send the boxes, also none"]);
  } else keys.push(["R", "play again"]);
  get("keys").replaceChildren(...keys.flatMap(([key, what]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, what)]));
}

async function begin() {
  const name = localStorage.getItem("mapsto-person");
  if (name) get("person").value = name;
  get("person").addEventListener("change", async () => {
    localStorage.setItem("mapsto-person", get("person").value.trim());
    if (!row && person()) show(await post("next", visitor()));
  });
  listKeys();
  document.addEventListener("keydown", onKey);
  get("send").addEventListener("click", sendForm);
  get("skip").addEventListener("click", skip);
  get("undo").addEventListener("click", undo);
  get("show-guess").addEventListener("click", showGuess);
  try {
    const reply = await resume();
    if (reply) show(reply);
    else if (person()) show(await post("next", visitor()));
  } catch (error) {
    await explain(error);
  } finally {
    setBusy(false);
  }
  setInterval(look, 1000 * SECONDS_BETWEEN_LOOKS);
}

// Look at the state, and keep the row lent to this page, while the page is looked at.
async function look() {
  if (document.hidden || isBusy || !row) return;
  const key = row.key;
  try {
    const body = JSON.stringify({ ...visitor(), holding: key });
    const response = await fetch("next", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    if (!response.ok || isBusy || row?.key !== key) return;
    const reply = await response.json();
    if (isBusy || row?.key !== key) return;
    if (reply.row?.key === key) return showState(reply);
    show(reply);
    say("The earlier row was shown to somebody else meanwhile.");
  } catch {
    // The next action says that the server cannot be reached.
  }
}

begin();
