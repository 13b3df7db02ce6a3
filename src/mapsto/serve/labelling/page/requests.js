// Requests to the server. An answer is kept in this tab until the server has confirmed it, and is sent again under the same id,
// also after the page was loaded again: the server writes an id once.

import { say } from "./elements.js";

const PENDING = "mapsto-pending";
const WAITS = [300, 600, 1200, 2500];

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// The id of this tab; it stays when the page is loaded again, so that the row stays too.
export function pageId() {
  let id = sessionStorage.getItem("mapsto-page");
  if (!id) {
    id = newId();
    sessionStorage.setItem("mapsto-page", id);
  }
  return id;
}

// crypto.randomUUID is missing where the page comes by http from another machine.
export function newId() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function request(path, options) {
  for (let attempt = 0; ; attempt++) {
    let response;
    try {
      response = await fetch(path, options);
    } catch {
      response = null;
    }
    if (response && response.status < 500 && response.status !== 429) {
      const content = await response.json().catch(() => null);
      if (content === null) continue; // the connection broke within the response
      if (!response.ok) throw new Refused(response.status, content.error || `status ${response.status}`);
      if (attempt) say("");
      return content;
    }
    const fault = response ? await response.json().catch(() => null) : null;
    const reason = fault?.error ?? "The server cannot be reached";
    say(`${reason}. Your answer is kept here and sent again until it is confirmed.`, true);
    await pause(WAITS[Math.min(attempt, WAITS.length - 1)]);
  }
}

export const read = (path) => request(path, { cache: "no-store" });

export function post(path, content) {
  return request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) });
}

// Send an action that must not be lost.
export async function act(path, content) {
  sessionStorage.setItem(PENDING, JSON.stringify({ path, content }));
  try {
    return await post(path, content);
  } finally {
    sessionStorage.removeItem(PENDING); // confirmed or refused; while the server is away this line is not reached
  }
}

// Send the action again that was on its way when the page was left; return the reply, or null if there is none.
export async function resume() {
  const pending = JSON.parse(sessionStorage.getItem(PENDING) || "null");
  return pending ? act(pending.path, pending.content) : null;
}
