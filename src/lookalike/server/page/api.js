// What the server is asked. Recent answers are kept, so that "back" takes no time.

import { asked, filters, shownAs } from "./state.js";

const KEPT = 60;
const answers = new Map();
let newest = null; // of the answers so far

export class Failure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export const gone = () =>
  new Failure("The server does not answer. See whether it still runs, then try again.", 0);

// Whether two answers are of one version of one collection: another may take its place.
export const isSame = (a, b) => a.identity === b.identity && a.version === b.version;

async function ask(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw gone();
  }
  const body = await response.json().catch(() => null);
  if (!response.ok) {
    const said = body?.error ?? `The server answered ${response.status}: see its log, or try again.`;
    throw new Failure(said.charAt(0).toUpperCase() + said.slice(1), response.status);
  }
  if (body === null) throw new Failure("The answer cannot be read: reload the page.", response.status);
  return { body, status: response.status };
}

async function kept(url, signal) {
  if (answers.has(url)) {
    const body = answers.get(url);
    answers.delete(url); // and to the end again: what was used last goes last
    answers.set(url, body);
    return body;
  }
  const { body } = await ask(url, { signal });
  return keep(url, body);
}

function keep(url, body) {
  if (typeof body.version === "number") {
    if (newest !== null && !isSame(body, newest)) answers.clear(); // the collection has changed
    newest = body;
  }
  // Not measured yet, which does not last.
  if (body.recall === null || body.bands?.measured === false) return body;
  answers.set(url, body);
  if (answers.size > KEPT) answers.delete(answers.keys().next().value);
  return body;
}

const searchUrl = (state) => `api/search?${asked(state)}`;

export const search = (state, signal) => kept(searchUrl(state), signal);
export function info(anew = false) {
  if (anew) answers.delete("api/info");
  return kept("api/info");
}
export const image = (id, signal) => kept(`api/images/${id}`, signal);
export const labels = (containing, signal) =>
  kept(`api/labels?${new URLSearchParams({ containing, limit: 60 })}`, signal);

export function random(state, count, seed, signal) {
  const query = filters(state);
  query.set("count", count);
  query.set("seed", seed);
  return kept(`api/random?${query}`, signal);
}

export async function upload(blob, state, signal) {
  const query = filters(state);
  query.set("k", state.k);
  for (const [name, value] of shownAs(state)) query.append(name, value);
  const type = blob.type.startsWith("image/") ? blob.type : "application/octet-stream";
  const { body } = await ask(`api/search?${query}`, {
    method: "POST",
    body: blob,
    headers: { "Content-Type": type },
    signal,
  });
  return keep(searchUrl({ ...state, image: null, box: null, upload: body.query.upload }), body);
}

// null while it is being made; `wait` is told how far that is.
export async function map(wait, signal) {
  const { body, status } = await ask("api/map", { signal });
  if (status !== 202) return body;
  wait(body);
  return null;
}

// With its status: 202 while they are being found.
export const groups = (kind, after, signal) =>
  ask(`api/${kind}${after === null ? "" : `?after=${after}`}`, { signal });

export const aside = async () => (await ask("api/aside")).body;

const post = async (url, content) => {
  const options = { method: "POST", body: JSON.stringify(content), headers: { "Content-Type": "application/json" } };
  return (await ask(url, options)).body;
};
export const setAside = (images) => post("api/aside", { images });
export const putBack = (name) => post(`api/aside/${encodeURIComponent(name)}/undo`, {});
