// The pictures: the wall to begin with, a query and its neighbours.

import { cover } from "./cover.js";
import { $, count, counted, distance, h, sized } from "./dom.js";
import { isSelected } from "./select.js";
import { hasQuery, href } from "./state.js";
import { bandOf, copiesOf, tile } from "./tile.js";

export const nameOf = (query) => query.name ?? "your photo";
export const titleOf = (query) => (query.box ? `a part of ${nameOf(query)}` : nameOf(query));

export function showWall(images, state) {
  $("#wall").replaceChildren(...images.map((image) => tile(image, state, { selected: isSelected(image) })));
  const note = $("#wall-note");
  note.hidden = images.length > 0;
  note.textContent = state.labels.length
    ? "No picture has such a label: remove a filter."
    : "This index has no pictures yet.";
}

export function skeleton(list, number) {
  const blank = () => h("li", { class: "blank", "aria-hidden": "true" }, h("span", { class: "well" }));
  list.replaceChildren(...Array.from({ length: number }, blank));
}

export function showQuery(query, state) {
  const img = $("#query-picture");
  const name = nameOf(query);
  // What is in this browser already; unless only the server can decode it.
  const first = (!img.parentElement.classList.contains("gone") && query.local) || query.thumbnail;
  if (img.dataset.of !== first) {
    img.dataset.of = first;
    img.removeAttribute("srcset");
    img.src = first;
    if (query.picture) {
      const large = new Image();
      large.srcset = `${sized(query.picture, 640)} 1x, ${query.picture} 2x`;
      large.decode().then(
        () => img.dataset.of === first && (img.srcset = large.srcset),
        () => {},
      );
    }
  }
  img.alt = `The query: ${titleOf(query)}`;
  boxed = query.box ?? null;
  frameQuery();
  const link = $("#query-link");
  if (query.picture) link.href = query.picture;
  else link.removeAttribute("href");
  link.setAttribute("aria-label", `${name}, large, in a new tab`);
  $("#query-name").textContent = titleOf(query);
  $("#query-name").title = query.path ?? "";
  $("#query-label").textContent = query.label ?? "";
  $("#query-label").hidden = query.label === null;
  const onMap = $("#query-on-map");
  onMap.href = href({ ...state, view: "map" });
  onMap.parentElement.hidden = !hasQuery(state);
}

// The part that was searched for, on the picture of the query.
let boxed = null;
function frameQuery() {
  const frame = $("#query-box");
  frame.hidden = !boxed;
  if (boxed) cover(frame, boxed, $("#query-picture"), $("#query-link"));
}
$("#query-picture").addEventListener("load", frameQuery);
new ResizeObserver(frameQuery).observe($("#query-link"));

export function clearQuery() {
  const img = $("#query-picture");
  img.removeAttribute("src");
  img.removeAttribute("srcset");
  img.dataset.of = img.alt = "";
  boxed = null;
  frameQuery();
  $("#query-name").textContent = "";
  $("#query-label").hidden = $("#query-on-map").parentElement.hidden = true;
}

export function showAnswer(answer, state, info) {
  const { query, neighbors } = answer;
  showQuery(query, state);
  $("#results-title").textContent = `Look-alikes of ${titleOf(query)}`;
  $("#neighbors").replaceChildren(...neighbors.map((image) => tile(image, state, { query, selected: isSelected(image) })));
  const same = neighbors.filter((image) => image.label === query.label).length;
  const summary = `${count(same)} of ${count(neighbors.length)} with this label`;
  $("#summary").textContent = query.label !== null && neighbors.length ? summary : "";
  const none = $("#none");
  none.hidden = neighbors.length > 0;
  none.textContent = state.minBand
    ? "Nothing is as near as this: choose a weaker band."
    : "Nothing is left to show: remove a filter.";
  const copies = neighbors.reduce((sum, image) => sum + (image.copies ?? 0), 0);
  const hidden = copies ? ` ${copiesOf(copies)} not shown, among the ${count(answer.looked)} nearest.` : "";
  $("#how").textContent = how(answer, state, info) + hidden;
  $("#about-model").textContent = about(info);
  $("#about-bands").textContent = aboutBands(answer.bands);
  for (const choice of document.querySelectorAll(".bands")) choice.hidden = !answer.bands?.limits;
}

// Where the bands of this collection end.
function aboutBands(bands) {
  if (!bands?.limits) return bands?.reason ? `This search has no bands: ${bands.reason}.` : "";
  const ends = Object.entries(bands.limits).map(([name, far]) => `“${name}” up to ${distance(far)}`);
  return `In this collection: ${ends.join(", ")}, “weak” beyond.`;
}

export function summed({ query, neighbors }) {
  if (!neighbors.length) return `No look-alikes of ${titleOf(query)}`;
  const { distance: far } = neighbors[0];
  const band = query.text ? null : bandOf(neighbors[0]);
  const nearest = band ? `${band}, ${distance(far)}` : distance(far);
  return `${counted(neighbors.length, "look-alike")} of ${titleOf(query)}, nearest ${nearest}`;
}

// How the search was done, and what it may have missed.
function how({ engine, compared, images, recall, took_ms: took }, state, info) {
  const time = took < 10 ? took.toFixed(1) : count(Math.round(took));
  if (engine === "exact") {
    const filtered = state.labels.length || state.paths.length;
    const which = filtered
      ? `${counted(compared, "image")} that the filters leave in`
      : compared === images
        ? `all ${counted(images, "image")}`
        : `all ${count(compared)} other images`;
    return `Compared with ${which}: nothing is missed. ${time} ms.`;
  }
  const k = info?.recall.k === 10 ? "ten" : count(info?.recall.k ?? 10);
  const with_ = info?.recall.queries ? ` with ${count(info.recall.queries)} of its images` : "";
  const worth =
    recall === null
      ? "how many of the nearest this finds has not been measured yet"
      : `finds ${(100 * recall).toFixed(1)} % of the ${k} nearest, measured on this collection${with_}`;
  const of = `${count(compared)} of ${counted(images, "image")}`;
  return `Compared with ${of}, those whose signatures are near; ${worth}. ${time} ms.`;
}

function about(info) {
  const model = info?.model;
  if (!model) return "";
  if (model.preprocessing === "none") {
    return `The vectors are ${model.backbone} of ${count(model.width)} numbers; version ${info.version} of the index.`;
  }
  const network = `${model.backbone} in ${model.precision}, ${count(model.width)} numbers a picture`;
  return `The network is ${network}; version ${info.version} of the index.`;
}
