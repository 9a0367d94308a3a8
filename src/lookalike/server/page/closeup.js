// Pictures over the points: each where few are in view, else some that stand for all.

import { camera, MIDDLE, onCanvas, put } from "./camera.js";
import { $ } from "./dom.js";
import { DIM } from "./legend.js";

export const FEW = 80; // points in view that are shown as pictures
export const small = (id) => `api/images/${id}/picture?size=160`;

const over = $("#map-over");
const shown = new Map(); // points to their pictures

const APART = 130; // pixels from one that stands for others to the next
const NONE = 1.25; // zooms up to which the map has points alone
let close = false; // each is shown

export const isClose = () => close;
export const side = () =>
  Math.max(56, Math.min(120, 0.85 * Math.sqrt((camera.width * camera.height) / FEW)));

export function forget() {
  for (const img of shown.values()) img.remove();
  shown.clear();
}

// Points that stand for all; small at first, larger as one zooms.
export function some(data, [left, top], [right, bottom], perUnit) {
  if (camera.zoom < NONE) return { points: [], size: 0 };
  const points = data.picks(left, bottom, right, top, APART / perUnit);
  return { points, size: Math.min(56, 30 + 10 * Math.log2(camera.zoom)) };
}

// `marked` is the point whose picture lies over the others; `all`, whether each has one.
export function showPictures(points, data, marked, size, all) {
  close = all && points.length > 0;
  const stay = new Set(points);
  for (const [i, img] of shown) {
    if (stay.has(i)) continue;
    img.remove();
    shown.delete(i);
  }
  for (const i of points) {
    if (!shown.has(i)) shown.set(i, made(data.ids[i]));
    const img = shown.get(i);
    img.style.maxWidth = img.style.maxHeight = `${size}px`;
    img.style.borderColor = `var(--kind-${data.kinds[i]})`;
    img.style.zIndex = i === marked ? 1 : 0;
    img.style.opacity = data.kinds[i] === DIM ? 0.4 : 1;
    put(img, onCanvas(data.x[i], data.y[i]), MIDDLE);
  }
}

function made(id) {
  const img = new Image();
  img.alt = "";
  img.decoding = "async";
  img.src = small(id);
  over.prepend(img);
  return img;
}
