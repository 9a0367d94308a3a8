// Duplicates, clusters and outliers of the collection: found by the server, shown page by page.

import * as api from "./api.js";
import * as cleanup from "./cleanup.js";
import { $, count, counted, h } from "./dom.js";
import { fileOf } from "./file.js";
import { isSelected } from "./select.js";
import { tile } from "./tile.js";

const PAUSE = 1000; // ms from one question how far it is to the next
const TITLES = { duplicates: "Duplicates", clusters: "Clusters", outliers: "Outliers" };
const ABOUT = {
  duplicates:
    "Groups of pictures that agree by their pixels as well. One of each is to be kept; choose another if you like.",
  clusters: "Pictures that belong together, the most typical first. A click leads on to its look-alikes.",
  outliers: "Pictures unlike all others, the most isolated first; and labels that may be wrong.",
};

const list = $("#groups-list");
const wait = $("#groups-wait");
const more = $("#groups-more");
let shown = null; // {kind, state, info, answer}: what the list is of
let flight = new AbortController();

export const isView = (view) => view in TITLES;
export const titleOf = (view) => TITLES[view];

export function leave() {
  flight.abort();
}

// The list stays when one comes back to it, unless the collection has changed.
export async function show(kind, state, info) {
  const same = shown && shown.kind === kind && info && shown.answer && api.isSame(shown.answer, info);
  $("#groups-title").textContent = info ? `${TITLES[kind]} in ${info.name}` : TITLES[kind];
  $("#groups-about").textContent = ABOUT[kind];
  leave();
  if (same) return (shown.state = state);
  shown = { kind, state, info, answer: null };
  flight = new AbortController();
  list.replaceChildren();
  list.className = kind === "outliers" ? "grid" : "groups";
  more.hidden = true;
  $("#groups-summary").textContent = "";
  cleanup.begin(kind === "duplicates" ? info : null);
  await load(null, flight.signal);
}

async function load(after, signal) {
  const { kind } = shown;
  waiting(`Finding ${kind}`);
  try {
    for (;;) {
      const { body, status } = await api.groups(kind, after, signal);
      if (signal.aborted) return;
      if (status !== 202) return take(body);
      waiting(`Finding ${kind}: ${body.doing}`, body.progress);
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
      if (signal.aborted) return;
    }
  } catch (error) {
    if (!signal.aborted) waiting(error.message, null, true);
  }
}

function waiting(text, progress, failed = false) {
  wait.hidden = text === null;
  if (text === null) return;
  const far = progress ? ` ${Math.round(100 * progress)} %` : "";
  $("#groups-doing").textContent = text + far;
  const bar = $("#groups-progress");
  bar.hidden = failed;
  if (progress) bar.value = progress;
  else bar.removeAttribute("value");
}

function take(answer) {
  waiting(null);
  const { kind, state } = shown;
  shown.answer = answer;
  $("#groups-summary").textContent = summed(kind, answer);
  if (kind === "outliers") list.append(...answer.images.map((image) => outlier(image, state)));
  else list.append(...answer.groups.map((group) => groupOf(kind, group, state)));
  more.hidden = answer.next === null;
  if (kind === "duplicates") cleanup.changed();
}

function summed(kind, { total, drop, alone }) {
  if (kind === "outliers") return counted(total, "picture");
  const none = { duplicates: "No picture is there twice.", clusters: "No clusters." };
  if (!total) return none[kind];
  if (kind === "clusters") {
    return `${counted(total, "cluster")}${alone ? `, ${counted(alone, "picture")} alone` : ""}`;
  }
  return `${counted(total, "group")}, ${counted(drop, "picture")} that need not be kept`;
}

function groupOf(kind, group, state) {
  const tiles = group.images.map((image) => {
    const item = tile(image, state, { selected: isSelected(image) });
    if (kind === "duplicates") cleanup.addTo(item, image, group);
    return item;
  });
  const number = group.count ?? group.images.length;
  const left = number - group.images.length;
  const name = kind === "duplicates" ? `Group ${group.group + 1}` : `Cluster ${group.group + 1}`;
  const of = left > 0 ? `, the ${count(group.images.length)} most typical` : "";
  return h("li", { class: "group" },
    h("h2", {}, name, h("span", { class: "what" }, ` ${counted(number, "picture")}${of}`)),
    h("ul", { class: "grid", role: "list", "aria-label": name }, ...tiles));
}

function outlier(image, state) {
  const item = tile(image, state, { selected: isSelected(image) });
  const link = $("a", item);
  link.append(h("span", { class: "label" }, fileOf(image)));
  if (image.suggested) {
    link.append(h("span", { class: "label" }, "perhaps rather ", h("strong", {}, image.suggested)));
  }
  return item;
}

more.addEventListener("click", () => {
  const first = list.children.length;
  load(shown.answer.next, flight.signal).then(() => $("a", list.children[first] ?? list)?.focus());
});
