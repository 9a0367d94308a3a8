// Which duplicates are kept and which are set aside; what was set aside is put back.

import * as api from "./api.js";
import { $, counted, h } from "./dom.js";
import { bytes, factsOf } from "./file.js";
import * as menu from "./menu.js";

const bar = $("#cleanup");
const apply = $("#cleanup-apply");
const back = $("#cleanup-undo");
const images = new Map(); // ids to {image, group, drop, keep}: the boxes of each
let allowed = false;
let last = null; // what was set aside last: {name, images}
let busy = false;

// `info` is null where no duplicates are shown.
export function begin(info) {
  images.clear();
  bar.hidden = info === null;
  allowed = info?.allows_changes ?? false;
  apply.hidden = !allowed;
  $("#cleanup-how").hidden = allowed;
  if (info) refresh();
}

// What was set aside before, by whomever.
async function refresh() {
  const found = allowed ? await api.aside().catch(() => null) : null;
  last = found?.aside[0] ?? null;
  changed();
}

const nameOf = ({ name }) => name;

export function addTo(item, image, { group }) {
  const keep = h("input", { type: "radio", name: `keep-${group}`, value: image.id, "aria-label": `Keep ${nameOf(image)}` });
  const drop = h("input", { type: "checkbox", "data-drop": true, "aria-label": `Set ${nameOf(image)} aside` });
  keep.checked = image.keep;
  drop.checked = !image.keep && !image.aside;
  drop.disabled = image.keep || image.aside;
  const same = image.same_bytes && !image.keep ? "the same file" : "";
  const agreement = image.agreement !== null && !image.keep && !same ? `${Math.floor(100 * image.agreement)} % agree` : "";
  $(".file", item).textContent = image.path; // names alone are often equal here
  item.append(
    h("p", { class: "label facts" }, ...[...factsOf(image), same || agreement].filter(Boolean).map((fact) => h("span", {}, fact))),
    h("p", { class: "choice" }, h("label", {}, keep, "Keep"), h("label", {}, drop, "Set aside")),
  );
  item.classList.toggle("aside", image.aside);
  if (image.aside) $(".choice", item).replaceChildren(h("span", {}, "Set aside"));
  images.set(image.id, { image, group, keep, drop, item });
  keep.addEventListener("change", () => keepThis(image.id));
  drop.addEventListener("change", changed);
}

function keepThis(id) {
  const chosen = images.get(id);
  for (const other of images.values()) {
    if (other.group !== chosen.group || other.image.aside) continue;
    const was = other.drop.disabled;
    other.drop.disabled = other === chosen;
    if (other === chosen) other.drop.checked = false;
    else if (was) other.drop.checked = true; // it is not the one that is kept any more
  }
  changed();
}

function dropped() {
  const kept = new Map();
  for (const { group, keep, image } of images.values()) if (keep.checked) kept.set(group, image.id);
  return [...images.values()]
    .filter(({ drop, image }) => drop.checked && !image.aside)
    .map(({ image, group }) => ({ image, keep: kept.get(group) ?? null }));
}

export function changed() {
  const found = dropped();
  const size = found.reduce((sum, { image }) => sum + (image.size ?? 0), 0);
  $("#cleanup-count").textContent = `${counted(found.length, "picture")} to set aside, ${bytes(size)}`;
  apply.disabled = busy || found.length === 0;
  back.hidden = !allowed || last === null;
  back.disabled = busy;
  if (last) back.textContent = `Put ${counted(last.images, "picture")} back`;
}

async function doing(work) {
  busy = true;
  changed();
  try {
    await work();
  } catch (error) {
    menu.tell(error.message);
  }
  busy = false;
  await refresh();
}

const REASONS = {
  gone: "gone already",
  alone: "without the one to keep",
  changed: "changed since they were indexed",
  outside: "outside the folder",
  same: "links to the one to keep",
};

function told(counts) {
  const not = Object.entries(REASONS)
    .filter(([name]) => counts[name])
    .map(([name, why]) => `${counts[name]} ${why}`);
  const rest = not.length ? `; not ${not.join(", ")}` : "";
  return `${counted(counts.done, "picture")} set aside${rest}. The index knows after \`lookalike sync\`.`;
}

// Any pictures; each with the one that is kept for it, or null.
export async function setAside(pairs) {
  const counts = await api.setAside(pairs);
  menu.tell(told(counts));
  return counts;
}

apply.addEventListener("click", () =>
  doing(async () => {
    const found = dropped();
    const counts = await setAside(found.map(({ image, keep }) => ({ id: image.id, keep })));
    if (counts.done) mark(new Set(found.map(({ image }) => image.id)), true);
  }),
);

back.addEventListener("click", () =>
  doing(async () => {
    const { restored } = await api.putBack(last.name);
    menu.tell(`${counted(restored, "picture")} put back`);
    mark(new Set(images.keys()), false);
  }),
);

// Show what has been done, without asking for all groups again.
function mark(ids, aside) {
  for (const { image, item, keep, drop } of images.values()) {
    if (!ids.has(image.id) || image.aside === aside) continue;
    image.aside = aside;
    item.classList.toggle("aside", aside);
    drop.checked = !aside && !keep.checked;
    drop.disabled = aside || keep.checked;
    const choice = $(".choice", item);
    if (aside) choice.replaceChildren(h("span", {}, "Set aside"));
    else choice.replaceChildren(h("label", {}, keep, "Keep"), h("label", {}, drop, "Set aside"));
  }
}
