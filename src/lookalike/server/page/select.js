// Pictures chosen in this tab: counted in a bar, saved as a list, set aside where that is allowed.

import { $, counted, h } from "./dom.js";
import * as menu from "./menu.js";
import { imageOf } from "./tile.js";

const KEY = `lookalike.selection ${location.pathname}`;
const MOST = 10_000;
const COLUMNS = ["id", "key", "path", "label", "width", "height"];

const bar = $("#selection");
const chosen = new Map(); // ids to images
let identity = null; // of the index they are of
let last = null; // the box that was changed last, where a range begins
let name = "lookalike";

export const isSelected = ({ id }) => chosen.has(id);
export const selected = () => [...chosen.values()];

// Another index may have taken the place of the one that the pictures are of.
export function show(info) {
  if (info && info.identity !== identity) {
    identity = info.identity;
    name = info.name.replace(/\.index$/, "");
    chosen.clear();
    for (const image of load()) chosen.set(image.id, image);
  }
  draw();
}

function load() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEY) ?? "{}");
    return kept.identity === identity && Array.isArray(kept.images) ? kept.images : [];
  } catch {
    return []; // storage is off, or holds something else
  }
}

function keep() {
  try {
    sessionStorage.setItem(KEY, JSON.stringify({ identity, images: selected() }));
  } catch {
    // not kept, then
  }
}

const record = (image) => Object.fromEntries([...COLUMNS, "name"].map((of) => [of, image[of] ?? null]));

function put(image, on) {
  if (!on) chosen.delete(image.id);
  else if (chosen.size < MOST) chosen.set(image.id, record(image));
  else menu.tell(`At most ${counted(MOST, "picture")} can be selected: save this list first.`);
}

function draw() {
  bar.hidden = chosen.size === 0;
  document.body.classList.toggle("selecting", chosen.size > 0);
  $("#selected").textContent = `${counted(chosen.size, "picture")} selected`;
  for (const box of document.querySelectorAll("[data-pick]")) {
    box.checked = isSelected(imageOf(box.closest("li")));
  }
}

function changed() {
  keep();
  draw();
}

export function clear() {
  chosen.clear();
  changed();
}

export function toggle(item) {
  const image = item && imageOf(item);
  if (!image) return;
  put(image, !isSelected(image));
  changed();
}

function all() {
  for (const item of document.querySelectorAll("main > section:not([hidden]) .grid > li:not(.group)")) {
    const image = imageOf(item);
    if (image) put(image, true);
  }
  changed();
}

function range(from, to, on) {
  const items = [...to.parentElement.children];
  const ends = [items.indexOf(from), items.indexOf(to)].sort((a, b) => a - b);
  for (const item of items.slice(ends[0], ends[1] + 1)) put(imageOf(item), on);
}

document.addEventListener("click", (event) => {
  const box = event.target.closest("[data-pick]");
  if (!box) return;
  const item = box.closest("li");
  if (event.shiftKey && last?.parentElement === item.parentElement) range(last, item, box.checked);
  else put(imageOf(item), box.checked);
  last = item;
  changed();
});

// A spreadsheet would compute a text that begins like a formula.
const harmless = (text) => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);
function cell(value) {
  if (value == null || typeof value === "number") return String(value ?? "");
  const text = harmless(String(value));
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function csvOf(images) {
  const columns = COLUMNS.filter((of) => of !== "key" || images.some((image) => image.key != null));
  const lines = images.map((image) => columns.map((of) => cell(image[of])).join(","));
  return [columns.join(","), ...lines, ""].join("\r\n");
}

function save(text, type, ending) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = h("a", { href: url, download: `${name}-selection.${ending}` });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

export function listen(setAside) {
  const deeds = {
    all,
    clear,
    csv: () => save(csvOf(selected()), "text/csv;charset=utf-8", "csv"),
    json: () => save(`${JSON.stringify({ index: name, images: selected() }, null, 1)}\n`, "application/json", "json"),
    paths: () => menu.copy(selected().map(({ path }) => path).join("\n"), "The paths are copied"),
    aside: () => setAside(selected()),
  };
  bar.addEventListener("click", (event) => deeds[event.target.closest("[data-selected]")?.dataset.selected]?.());
}
