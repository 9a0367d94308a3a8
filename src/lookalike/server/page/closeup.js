// Pictures in place of points, where few are in view.

import { camera, MIDDLE, onCanvas, put } from "./camera.js";
import { $ } from "./dom.js";
import { DIM } from "./legend.js";

export const FEW = 80; // points in view that are shown as pictures
export const small = (id) => `api/images/${id}/picture?size=160`;

const over = $("#map-over");
const shown = new Map(); // points to their pictures

export const isClose = () => shown.size > 0;
export const side = () =>
  Math.max(56, Math.min(120, 0.85 * Math.sqrt((camera.width * camera.height) / FEW)));

export function forget() {
  for (const img of shown.values()) img.remove();
  shown.clear();
}

// `marked` is the point whose picture lies over the others.
export function showPictures(points, data, marked) {
  const stay = new Set(points);
  for (const [i, img] of shown) {
    if (stay.has(i)) continue;
    img.remove();
    shown.delete(i);
  }
  for (const i of points) {
    if (!shown.has(i)) shown.set(i, made(data.ids[i]));
    const img = shown.get(i);
    img.style.maxWidth = img.style.maxHeight = `${side()}px`;
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
