// The pictures: the wall to begin with, a query and its neighbours.

import { $, count, counted, distance, h, picture, sized, unseen } from "./dom.js";
import { hasQuery, href } from "./state.js";

const known = new WeakMap(); // links to the images they show
export const imageOf = (link) => known.get(link);

export const nameOf = (query) => query.name ?? "your photo";

const copiesOf = (number) => `${count(number)} ${number === 1 ? "copy" : "copies"}`;

function card(image, state, query) {
  const well = h("span", { class: "well" }, picture(image));
  const next = { ...state, image: image.id, upload: null, text: null, view: "pictures", seed: null };
  const link = h("a", { href: href(next), class: "card", "data-go": true, title: image.path }, well);
  known.set(link, image);
  if (image.rank !== undefined) {
    const far = h("span", { class: "far" }, unseen("distance "), distance(image.distance));
    const rank = h("span", { class: "rank" }, unseen("number "), `#${image.rank}`);
    const line = h("span", { class: "line" }, rank);
    if (image.band) {
      far.classList.add("small");
      line.append(h("span", { class: image.band === "same photo" ? "band same" : "band" }, image.band));
    }
    line.append(far);
    link.append(line);
    if (image.copies) {
      link.append(h("span", { class: "copies" }, `+ ${copiesOf(image.copies)}`));
    }
  }
  if (image.label !== null) {
    const same = query?.label != null && query.label === image.label;
    // A number alone would look like another rank.
    const says = /^\d+$/.test(image.label) ? "label " : unseen("label ");
    const label = h("span", { class: same ? "label same" : "label" }, says, image.label);
    if (same) label.append(unseen(", that of the query"));
    link.append(label);
  }
  const item = h("li", {}, link);
  if (image.rank !== undefined) {
    const at = String(image.rank - 1);
    item.append(
      h("button", { type: "button", class: "beside", "data-compare": at, title: "Compare (c)",
        "aria-label": `Compare with number ${image.rank}` }, "⇆"),
    );
  }
  return item;
}

export function showWall(images, state) {
  $("#wall").replaceChildren(...images.map((image) => card(image, state)));
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
  img.alt = `The query: ${name}`;
  const link = $("#query-link");
  if (query.picture) link.href = query.picture;
  else link.removeAttribute("href");
  link.setAttribute("aria-label", `${name}, large, in a new tab`);
  $("#query-name").textContent = name;
  $("#query-name").title = query.path ?? "";
  $("#query-label").textContent = query.label ?? "";
  $("#query-label").hidden = query.label === null;
  const onMap = $("#query-on-map");
  onMap.href = href({ ...state, view: "map" });
  onMap.parentElement.hidden = !hasQuery(state);
}

export function clearQuery() {
  const img = $("#query-picture");
  img.removeAttribute("src");
  img.removeAttribute("srcset");
  img.dataset.of = img.alt = "";
  $("#query-name").textContent = "";
  $("#query-label").hidden = $("#query-on-map").parentElement.hidden = true;
}

export function showAnswer(answer, state, info) {
  const { query, neighbors } = answer;
  showQuery(query, state);
  $("#results-title").textContent = `Look-alikes of ${nameOf(query)}`;
  $("#neighbors").replaceChildren(...neighbors.map((image) => card(image, state, query)));
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
  if (!neighbors.length) return `No look-alikes of ${nameOf(query)}`;
  const { band, distance: far } = neighbors[0];
  const nearest = band ? `${band}, ${distance(far)}` : distance(far);
  return `${counted(neighbors.length, "look-alike")} of ${nameOf(query)}, nearest ${nearest}`;
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
