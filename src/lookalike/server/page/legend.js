// Which labels have a colour on the map, and of what kind a point is.

import { $, count, h } from "./dom.js";
import { KINDS } from "./plot.js";

const COLOURS = 10; // labels that eyes can tell apart
export const [DIM, OTHER, FIRST, CHOSEN, NEAR] = [0, 1, 2, 12, 13];

// The most frequent labels first: [{label, index, images}].
export function frequent({ label, labels }) {
  const images = new Uint32Array(labels.length);
  for (const one of label) if (one >= 0) images[one] += 1;
  return [...images.keys()]
    .sort((a, b) => images[b] - images[a] || a - b)
    .slice(0, COLOURS)
    .map((index) => ({ label: labels[index], index, images: images[index] }));
}

export function kinds({ label, labels, ids }, top, chosen, near) {
  const ofLabel = new Uint8Array(labels.length).fill(chosen.length ? DIM : OTHER);
  top.forEach(({ index, label: name }, rank) => {
    if (!chosen.length || chosen.includes(name)) ofLabel[index] = FIRST + rank;
  });
  for (const name of chosen) {
    const index = labels.indexOf(name);
    if (index >= 0 && ofLabel[index] === DIM) ofLabel[index] = CHOSEN;
  }
  const rest = chosen.length ? DIM : OTHER;
  const own = (one) => (one < 0 ? rest : ofLabel[one]);
  return Uint8Array.from(ids, (id, i) => (near.has(id) ? NEAR : own(label[i])));
}

// The colours of kinds as the style sheet has them for light and dark.
export function palette() {
  const style = getComputedStyle(document.documentElement);
  const colours = new Float32Array(4 * KINDS);
  for (let kind = 0; kind < KINDS; kind++) {
    const hex = style.getPropertyValue(`--kind-${kind}`).trim();
    if (!hex) continue;
    const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255);
    colours.set([...parts, kind === DIM ? 0.35 : kind === OTHER ? 0.6 : 0.9], 4 * kind);
  }
  return colours;
}

export const SIZES = new Float32Array(KINDS).fill(1);
SIZES.fill(0.8, DIM, OTHER + 1).fill(1.2, CHOSEN).fill(1.6, NEAR);

// `neighbors` is what to say of them, or null; `marked`, whether the query is on the map.
export function showLegend(top, chosen, neighbors, marked, change) {
  const legend = $("#legend");
  const swatch = (kind) => {
    const dot = h("span", { class: "swatch" });
    dot.style.background = `var(--kind-${kind})`;
    return dot;
  };
  const others = chosen.filter((name) => !top.some(({ label }) => label === name));
  const names = [
    ...others.map((label) => ({ label, kind: CHOSEN })),
    ...top.map((one, rank) => ({ ...one, kind: FIRST + rank })),
  ];
  const buttons = names.map(({ label, images, kind }) => {
    const on = chosen.includes(label);
    const button = h("button", { type: "button", "aria-pressed": String(on) },
      swatch(kind), h("span", { class: "name" }, label),
      images === undefined ? null : h("span", { class: "images" }, count(images)));
    const labels = on ? chosen.filter((name) => name !== label) : [...chosen, label];
    button.addEventListener("click", () => change({ labels }));
    return button;
  });
  const focused = [...legend.children].indexOf(document.activeElement);
  const lines = [
    marked && h("p", {}, h("span", { class: "swatch ring" }), "The query"),
    neighbors !== null && h("p", {}, swatch(NEAR), neighbors),
  ];
  legend.replaceChildren(...lines.filter(Boolean), ...buttons);
  legend.hidden = legend.children.length === 0;
  if (focused >= 0) legend.children[Math.min(focused, legend.children.length - 1)]?.focus();
}
