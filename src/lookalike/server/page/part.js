// Draw a box on a picture to search for a part of it: with a pointer, a finger, or keys.

import { cover } from "./cover.js";
import { $ } from "./dom.js";
import { nameOf } from "./results.js";

const LEAST = 0.05; // of a side of the picture
const STEP = 0.02; // by an arrow key
const REACH = 22; // pixels around a corner that take hold of it

const dialog = $("#part");
const img = $("#part-picture");
const frame = $("#part-box");
let box = [0.25, 0.25, 0.75, 0.75];
let done = () => {};
let held = null; // what a pointer has: {from, box, corner}

const within = (value, least, most) => Math.max(least, Math.min(most, value));
const written = (some) => some.map((share) => Number(share.toFixed(3))).join(",");

export const parse = (text) => text.split(",").map(Number);

// `search` takes the box as the address has it, or null for the whole picture.
export function open(image, before, search) {
  done = search;
  box = before ? parse(before) : [0.25, 0.25, 0.75, 0.75];
  $("#part-title").textContent = `Search for a part of ${nameOf(image)}`;
  img.alt = nameOf(image);
  img.src = image.picture;
  $("[data-part=whole]").hidden = !before;
  dialog.showModal();
  draw();
  frame.focus();
}

export function close() {
  if (dialog.open) dialog.close();
}

function draw() {
  cover(frame, box, img, img.parentElement);
  const share = (value) => `${Math.round(100 * value)} %`;
  const [left, top, right, bottom] = box;
  frame.setAttribute(
    "aria-label",
    `The box: ${share(left)} from the left, ${share(top)} from the top, ${share(right - left)} wide, ${share(bottom - top)} high`,
  );
}

function move([left, top], [dx, dy], [wide, high]) {
  const x = within(left + dx, 0, 1 - wide);
  const y = within(top + dy, 0, 1 - high);
  box = [x, y, x + wide, y + high];
}

// A place on the picture, in shares of its sides.
function place(event) {
  const { left, top, width, height } = img.getBoundingClientRect();
  const scale = Math.min(width / img.naturalWidth, height / img.naturalHeight);
  const [w, h] = [img.naturalWidth * scale, img.naturalHeight * scale];
  const x = (event.clientX - left - (width - w) / 2) / w;
  const y = (event.clientY - top - (height - h) / 2) / h;
  return { at: [within(x, 0, 1), within(y, 0, 1)], reach: [REACH / w, REACH / h] };
}

const area = $("#part-area");

area.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || !img.naturalWidth) return;
  event.preventDefault();
  area.setPointerCapture(event.pointerId);
  const { at, reach } = place(event);
  const [left, top, right, bottom] = box;
  const near = (value, edge, way) => Math.abs(value - edge) <= way;
  const x = near(at[0], left, reach[0]) ? right : near(at[0], right, reach[0]) ? left : null;
  const y = near(at[1], top, reach[1]) ? bottom : near(at[1], bottom, reach[1]) ? top : null;
  const inside = at[0] > left && at[0] < right && at[1] > top && at[1] < bottom;
  if (x !== null && y !== null) held = { from: [x, y] }; // a corner: the one across stays
  else if (inside) held = { from: at, box };
  else held = { from: at };
  frame.focus();
});

area.addEventListener("pointermove", (event) => {
  if (!held) return;
  const { at } = place(event);
  const [from, to] = [held.from, at];
  if (held.box) {
    const [left, top, right, bottom] = held.box;
    move([left, top], [to[0] - from[0], to[1] - from[1]], [right - left, bottom - top]);
  } else {
    box = [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
  }
  draw();
});

const up = () => {
  if (!held) return;
  held = null;
  const [left, top] = box;
  const side = (start, end) => Math.min(Math.max(end, start + LEAST), 1);
  const [right, bottom] = [side(left, box[2]), side(top, box[3])];
  box = [Math.min(left, right - LEAST), Math.min(top, bottom - LEAST), right, bottom];
  draw();
};
area.addEventListener("pointerup", up);
area.addEventListener("pointercancel", up);

frame.addEventListener("keydown", (event) => {
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (event.key === "Enter") search();
  if (!way) return;
  event.preventDefault();
  const [dx, dy] = way.map((one) => one * STEP);
  const [left, top, right, bottom] = box;
  if (event.shiftKey) {
    box = [left, top, within(right + dx, left + LEAST, 1), within(bottom + dy, top + LEAST, 1)];
  } else {
    move([left, top], [dx, dy], [right - left, bottom - top]);
  }
  draw();
});

function search() {
  dialog.close();
  done(written(box));
}

dialog.addEventListener("click", (event) => {
  const deed = event.target.closest("[data-part]")?.dataset.part;
  if (deed === "search") search();
  else if (deed === "whole") (dialog.close(), done(null));
  else if (deed === "close") dialog.close();
});
img.addEventListener("load", draw);
new ResizeObserver(draw).observe(img);
