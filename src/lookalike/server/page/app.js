// What is shown, and how one thing leads to the next.

import * as api from "./api.js";
import * as ask from "./ask.js";
import * as compare from "./compare.js";
import { $, count, counted, h } from "./dom.js";
import * as filter from "./filter.js";
import * as keys from "./keys.js";
import * as menu from "./menu.js";
import * as part from "./part.js";
import * as places from "./places.js";
import * as results from "./results.js";
import * as select from "./select.js";
import { BANDS, hasQuery, href, read, USUAL_K, VIEWS } from "./state.js";
import { imageOf } from "./tile.js";
import { remember } from "./trail.js";

const WALL = 48; // random pictures to begin with
const STEPS = [12, 24, 48, 96]; // neighbours that can be chosen
const PATIENCE = 60; // ms that an answer may take before anything says so

let shown = null; // {state, answer, draw}: what is on the screen
let flight = new AbortController();
let info = null;
let map = null; // comes when it is first looked at
let coming = null;
let groups = null; // comes so too
const photos = new Map(); // keys of uploads to the photos as they lie in this browser
const PHOTOS = 30; // that are kept so

function getMap() {
  const pick = (id) => go({ ...now(), image: id, upload: null, text: null, box: null, view: "pictures", seed: null });
  coming ??= import("./map.js").then(
    (found) => {
      found.listen(pick, change);
      map = found;
    },
    () => {
      coming = null;
      throw api.gone();
    },
  );
  return coming;
}

const isGroups = (state) => ["duplicates", "clusters", "outliers"].includes(state.view);
const viewOf = (state) =>
  state.view === "map" ? "map" : isGroups(state) ? "groups" : hasQuery(state) ? "results" : "start";

// Loads what a state shows and returns how to draw it. Nothing is drawn before all is there, so
// that what was there stays where something goes wrong.
async function load(state, signal) {
  const view = viewOf(state);
  const [answer, found] = await Promise.all([
    hasQuery(state) && view !== "groups" ? api.search(state, signal) : null,
    api.info(view !== "results").catch(() => info), // results say themselves what they are of
  ]);
  info = found;
  if (answer && info && !api.isSame(answer, info)) {
    info = await api.info(true).catch(() => info); // somebody has changed the collection
  }
  if (answer) answer.query.local = photos.get(answer.query.upload);
  if (view === "map") await getMap();
  if (view === "map") return { state, answer, draw: () => map.show(state, answer, info) };
  if (view === "groups") {
    groups ??= await import("./groups.js").catch(() => {
      throw api.gone();
    });
    return { state, answer, draw: () => groups.show(state.view, state, info) };
  }
  if (view === "results") {
    return { state, answer, draw: () => results.showAnswer(answer, state, info) };
  }
  // A wall without a number in its address keeps the one it was given, through back and reload.
  const seed = state.seed ?? history.state?.seed ?? newSeed();
  const wall = await api.random(state, WALL, seed, signal);
  return { state, seed, draw: () => results.showWall(wall.images, state) };
}
const newSeed = () => Math.floor(Math.random() * 1e6);

async function go(state, { push = true, scroll = 0, focus = true, preview = null, task = null } = {}) {
  flight.abort();
  flight = new AbortController();
  const { signal } = flight;
  places.begin(push);
  const soon = setTimeout(() => wait(state, preview), task ? 0 : PATIENCE);
  let next;
  try {
    if (task) state = await task(signal);
    next = await load(state, signal);
  } catch (error) {
    clearTimeout(soon);
    if (signal.aborted) return;
    settle();
    places.end();
    const again = () => go(state, { push, scroll, focus, preview, task });
    complain(error.message, [0, 408, 503].includes(error.status) ? again : null);
    return;
  }
  clearTimeout(soon);
  if (signal.aborted) return;
  push &&= href(state) !== href(read(location.search)); // an address that is already shown is no step
  if (push) history.pushState({ at: Date.now(), seed: next.seed }, "", href(state));
  else history.replaceState({ ...history.state, seed: next.seed }, "");
  const stays = shown && viewOf(shown.state) === viewOf(state) && sameQuery(shown.state, state);
  shown = next;
  quiet();
  draw();
  if (next.answer) remember(next.answer.query, state);
  places.end();
  if (push && stays) return say(next); // a filter, a number: whoever changed it stays there
  if (focus) $(`#${viewOf(state)} h1`).focus({ preventScroll: true });
  scrollTo(0, scroll);
  say(next);
}

const sameQuery = (a, b) => ["image", "upload", "text", "box", "seed"].every((name) => a[name] === b[name]);

function draw() {
  const { state } = shown;
  frame(state);
  busy(false);
  shown.draw();
  const what = shown.answer ? results.nameOf(shown.answer.query) : info?.name;
  document.title = [VIEWS.includes(state.view) && titled(state.view), what, "lookalike"].filter(Boolean).join(" – ");
}

// The other indexes of the same server.
function showIndexes({ indexes }) {
  const select = $("#indexes");
  select.hidden = !indexes?.length;
  if (select.hidden || select.children.length === indexes.length) return;
  const here = (address) => new URL(address, location.href).pathname === new URL("./", location.href).pathname;
  const option = ({ name, address }) => h("option", { value: address, selected: here(address) }, name);
  select.replaceChildren(...indexes.map(option));
  select.addEventListener("change", () => location.assign(select.value));
}

const titled = (view) => view.charAt(0).toUpperCase() + view.slice(1);

// What stands around every view.
function frame(state) {
  const view = viewOf(state);
  document.body.dataset.view = view;
  for (const section of document.querySelectorAll("main > section")) {
    section.hidden = section.id !== view;
  }
  const slot = $(`#${view} .slot`);
  if (slot && $("#toolbar").parentElement !== slot) slot.append($("#toolbar"));
  filter.show(state);
  $("#filter").hidden = info?.labels === 0 && state.labels.length === 0;
  const steps = [...new Set([...STEPS, state.k])].filter((k) => k <= (info?.limits.k ?? 96));
  const step = (k) => h("option", { selected: k === state.k }, String(k));
  $("#k").replaceChildren(...steps.sort((a, b) => a - b).map(step));
  const weakest = [...BANDS, "weak"].map((name) => h("option", { value: name, selected: name === (state.minBand ?? "weak") }, name));
  $("#min-band").replaceChildren(...weakest);
  $("#all-copies").checked = state.allCopies;
  $("#to-pictures").href = href({ ...state, view: "pictures" });
  for (const link of document.querySelectorAll(".switch a")) {
    const of = link.id.replace("to-", "");
    if (of !== "pictures") link.href = href({ ...state, view: of });
    if (of === (VIEWS.includes(state.view) ? state.view : "pictures")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (info) showIndexes(info);
  if (info) $("#collection").textContent = `${info.name} · ${counted(info.images, "image")}`;
  $("#words").hidden = !info?.has_words;
  if (document.activeElement !== $("#words-input")) $("#words-input").value = state.text ?? "";
  if (view !== "map") map?.leave();
  if (view !== "groups") groups?.leave();
  select.show(info);
  for (const change of document.querySelectorAll(".changes")) change.hidden = !info?.allows_changes;
}

const busy = (on) => $("#main").setAttribute("aria-busy", String(on));

// What is clicked or dropped is the query at once; its neighbours follow.
function wait(state, preview) {
  busy(true);
  if (viewOf(state) === "start" && !shown) {
    frame(state);
    results.skeleton($("#wall"), 24);
  }
  if (viewOf(state) !== "results" && !preview) return;
  const fresh = document.body.dataset.view !== "results";
  if (!preview && !fresh) return;
  frame({ ...state, view: "pictures", image: state.image ?? -1 });
  if (preview) results.showQuery(preview, state);
  $("#results-title").textContent = "Searching …";
  $("#summary").textContent = "";
  if (fresh) {
    if (!preview) results.clearQuery();
    results.skeleton($("#neighbors"), state.k);
    scrollTo(0, 0);
  }
  $("#said").textContent = "Searching";
}

// After something went wrong, what was there is there again.
function settle() {
  busy(false);
  if (shown) draw();
  else frame({ ...read(""), view: "pictures" });
  if (shown) return scrollTo(0, places.here());
  results.skeleton($("#wall"), 0);
  const start = read("");
  load(start, flight.signal).then((next) => {
    shown = next;
    draw();
  }, () => {});
}

function complain(message, again) {
  const button = (deed, text, more) => h("button", { type: "button", "data-do": deed, ...more }, text);
  const close = button("quiet", "×", { class: "bare", "aria-label": "Close the message" });
  const retry = again ? button("again", "Try again") : null;
  $("#alert").replaceChildren(h("div", {}, h("p", {}, message), retry ?? "", close));
  deeds.again = again;
}

const quiet = () => $("#alert").replaceChildren();

function say({ state, answer }) {
  if (VIEWS.includes(state.view)) return;
  $("#said").textContent = answer
    ? results.summed(answer)
    : `${counted($("#wall").children.length, "random picture")}`;
}

const now = () => shown?.state ?? read(location.search);
const change = (some) => go({ ...now(), ...some });

function searchWith(file) {
  const preview = { name: file.name || null, label: null, thumbnail: URL.createObjectURL(file) };
  const state = { ...now(), image: null, upload: null, text: null, box: null, view: "pictures", seed: null };
  compare.close();
  go(state, {
    preview,
    task: async (signal) => {
      info ??= await api.info().catch(() => null);
      const ready = await ask.prepare(file, info?.limits.upload_bytes);
      const answer = await send(file, ready, state, signal);
      photos.set(answer.query.upload, preview.thumbnail);
      if (photos.size > PHOTOS) forget(...photos.entries().next().value);
      return { ...state, upload: answer.query.upload };
    },
  });
}

// What the server cannot read this browser may, and hand on.
async function send(file, ready, state, signal) {
  try {
    return await api.upload(ready, state, signal);
  } catch (error) {
    if (error.status !== 415) throw error;
    const jpeg = ready === file ? await ask.smaller(file) : null;
    if (jpeg) return api.upload(jpeg, state, signal);
    const called = file.name ? `${file.name}: ` : "";
    throw new api.Failure(`${called}${error.message}. Save it as a JPEG and try that.`, 415);
  }
}

function searchInWords(event) {
  event.preventDefault();
  const text = $("#words-input").value.trim();
  if (!text) return;
  compare.close();
  go({ ...now(), image: null, upload: null, text, box: null, view: "pictures", seed: null });
}

function forget(key, url) {
  photos.delete(key);
  URL.revokeObjectURL(url);
}

function surprise() {
  const state = { ...now(), image: -1, upload: null, text: null, box: null, view: "pictures", seed: null };
  go(state, {
    task: async (signal) => {
      const { images } = await api.random({ ...state, paths: [], within: null }, 1, newSeed(), signal);
      if (!images.length) throw new Error("There is no picture to choose: remove a filter.");
      return { ...state, image: images[0].id };
    },
  });
}

const deeds = {
  choose: () => $("#file").click(),
  camera: () => $("#shot").click(),
  surprise,
  another: () => change({ seed: newSeed() }),
  help: keys.showHelp,
  "close-help": keys.closeHelp,
  quiet,
};

const toolsOf = () => ({
  state: now(),
  info,
  compare: compareAt,
  part: info?.has_network ? searchForPart : null,
});

// A box on a picture, which the address then has.
function searchForPart(image) {
  const query = shown?.answer?.query;
  const ofQuery = query && image.id === query.id && image.upload === query.upload;
  const upload = image.upload ?? null;
  part.open(image, ofQuery ? now().box : null, (box) => {
    const next = { ...now(), image: upload ? null : image.id, upload, text: null, box, view: "pictures", seed: null };
    go(next, { preview: { ...image, box: box && part.parse(box) } });
  });
}

function compareAt(at, opener) {
  if (!shown?.answer || viewOf(shown.state) !== "results") return;
  compare.open(shown.answer, shown.state, at, opener);
}

addEventListener("click", (event) => {
  // The second click of two would hit what the first one has brought there.
  if (event.detail > 1 && event.target.closest("a[data-go], [data-do=surprise], [data-compare]")) {
    return event.preventDefault();
  }
  const deed = event.target.closest("[data-do]");
  if (deed) return deeds[deed.dataset.do]?.();
  const beside = event.target.closest("[data-compare]");
  if (beside) return compareAt(Number(beside.dataset.compare), beside);
  const more = event.target.closest("[data-menu]");
  if (more) {
    const image = imageOf(more.closest("li")) ?? shown?.answer?.query;
    return image && menu.open(more, image, toolsOf());
  }
  const link = event.target.closest("a[data-go]");
  const { ctrlKey, metaKey, shiftKey, altKey } = event;
  if (!link || ctrlKey || metaKey || shiftKey || altKey) return; // a new tab is a new tab
  event.preventDefault();
  compare.close();
  go(read(new URL(link.href).search), { preview: imageOf(link) });
});

// A picture whose file is gone says so in its place.
for (const what of ["error", "load"]) {
  document.addEventListener(what, ({ target }) => {
    const well = target instanceof HTMLImageElement && target.closest(".well");
    if (well) well.classList.toggle("gone", what === "error");
  }, true);
}

addEventListener("popstate", () => {
  compare.close();
  part.close();
  menu.close();
  go(read(location.search), { push: false, scroll: places.here() });
});

$("#k").addEventListener("change", (event) => change({ k: Number(event.target.value) || USUAL_K }));
$("#min-band").addEventListener("change", ({ target }) => change({ minBand: target.value === "weak" ? null : target.value }));
$("#all-copies").addEventListener("change", ({ target }) => change({ allCopies: target.checked }));
$("#words").addEventListener("submit", searchInWords);
filter.listen(change);
ask.listen(searchWith, complain);
keys.listen({
  "/": () => !$("#filter").hidden && filter.focus(),
  r: surprise,
  c: (target) => compareAt([...$("#neighbors").children].indexOf(target.closest(".grid > li")), target),
  m: () => change({ view: now().view === "map" ? "pictures" : "map" }),
  x: (target) => select.toggle(target.closest?.(".grid > li")),
  "?": keys.showHelp,
});
select.listen(async (images) => {
  const { setAside } = await import("./cleanup.js");
  await setAside(images.map(({ id }) => ({ id, keep: null }))).then(select.clear, (error) => complain(error.message));
});

go(read(location.search), { push: false, focus: false, scroll: places.here() });
