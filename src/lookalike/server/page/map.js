// The map: every picture a point, or itself where few are in view.

import * as api from "./api.js";
import { $, count, counted } from "./dom.js";
import { gestures, ZOOM } from "./gestures.js";
import { DIM, frequent, kinds, palette, showLegend, SIZES } from "./legend.js";
import { grid } from "./nearby.js";
import { plot } from "./plot.js";

const FEW = 80; // points in view that are shown as pictures
const REACH = 14; // pixels from the pointer to a point that it means
const canvas = $("#map-canvas");
const frame = $("#map-frame");
const tip = $("#map-tip");

let surface; // null where there is no WebGL2
let data = null; // the points, with their grid and what they are of
let view = { x: 0, y: 0, zoom: 1 };
let state, answer, marked, colours;
let [width, height, fine] = [1, 1, 1]; // of the canvas in pixels of CSS; device pixels to one of them
let [pick, change] = [];
let [flight, due, idle, target, hovering] = [null, 0, 0, -1, 0];
const pictures = new Map(); // points to their pictures in view
const marker = document.createElement("div");
marker.className = "marker";

const perUnit = () => view.zoom * 0.46 * Math.min(width, height);
const onScreen = (i) => [width / 2 + (data.x[i] - view.x) * perUnit(), height / 2 - (data.y[i] - view.y) * perUnit()];
const onMap = ([px, py]) => [view.x + (px - width / 2) / perUnit(), view.y - (py - height / 2) / perUnit()];
const small = (id) => `api/images/${id}/picture?size=160`;

export function listen(picked, changed) {
  [pick, change] = [picked, changed];
  gestures(canvas, {
    pan: (dx, dy, byKey) => { move({ x: view.x - dx / perUnit(), y: view.y + dy / perUnit() }); settle(byKey); },
    zoom: (factor, at, byKey) => { zoomAbout(factor, at); settle(byKey); },
    whole: (byKey) => { move({ x: 0, y: 0, zoom: 1 }); settle(byKey); },
    hover: (at) => point(data ? nearestTo(at, REACH) : -1),
    tap: (at, type, event) => {
      const i = data ? nearestTo(at, type === "mouse" ? REACH : 2 * REACH) : -1;
      if (i < 0) return point(-1);
      if (type === "mouse") return event.ctrlKey || event.metaKey ? open(`?image=${data.ids[i]}`) : pick(data.ids[i]);
      point(i, true); // a finger hovers nowhere: the first tap shows, a tap on what is shown takes
    },
    take: () => target >= 0 && pick(data.ids[target]),
    leave: () => point(-1),
  });
  frame.addEventListener("click", (event) => {
    const deed = event.target.closest("[data-map]")?.dataset.map;
    if (deed === "in" || deed === "out") zoomAbout(deed === "in" ? ZOOM : 1 / ZOOM, null);
    else if (deed === "all") move({ x: 0, y: 0, zoom: 1 });
    else if (deed === "query" && marked >= 0) move({ x: data.x[marked], y: data.y[marked], zoom: Math.max(view.zoom, 8) });
    if (deed) settle();
  });
  new ResizeObserver(resize).observe(frame);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { colours = palette(); soon(); });
  canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", () => { surface = plot(canvas); if (data) colour(); });
}

export function show(newState, newAnswer, info) {
  [state, answer] = [newState, newAnswer];
  $("#map-title").textContent = info ? `Map of ${info.name}` : "Map";
  canvas.ariaLabel = $("#map-title").textContent;
  surface ??= plot(canvas);
  if (!surface) {
    return waiting("The map is drawn with WebGL2, which this browser lacks or has turned off. Everything else works without it.");
  }
  resize();
  if (data && (!info || data.version === info.version)) return colour();
  fetchPoints();
}

export function leave() {
  flight?.abort();
  flight = null;
  point(-1);
}

async function fetchPoints() {
  flight?.abort();
  const { signal } = (flight = new AbortController());
  waiting("Getting the map");
  while (!signal.aborted) {
    try {
      const body = await api.map(({ progress, doing }) => waiting(doing, progress), signal);
      if (body) {
        take(body);
        return colour();
      }
    } catch (error) {
      if (error.name !== "AbortError") waiting(error.message);
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

function take(body) {
  const [x, y] = [Float32Array.from(body.x), Float32Array.from(body.y)];
  data = { ...body, x, y, near: grid(x, y), top: frequent(body), rows: new Map(body.ids.map((id, i) => [id, i])) };
  for (const img of pictures.values()) img.remove();
  pictures.clear();
}

function waiting(text, progress) {
  const wait = $("#map-wait");
  wait.hidden = text === null;
  if (text === null) return;
  $("#map-doing").textContent = progress === undefined ? text : `${text}: ${Math.round(100 * progress)} %`;
  $("#map-progress").hidden = progress === undefined;
  if (progress !== undefined) $("#map-progress").value = progress;
  $("#map-state").textContent = "";
}

function colour() {
  waiting(null);
  const near = new Set(answer?.neighbors.map(({ id }) => id));
  const there = [...near].filter((id) => data.rows.has(id)).length;
  data.kinds = kinds(data, data.top, state.labels, near);
  surface.put(data.x, data.y, data.kinds);
  colours = palette();
  marked = data.rows.get(answer?.query.id) ?? -1;
  $("[data-map=query]").hidden = marked < 0;
  marker.remove();
  if (marked >= 0) $("#map-over").append(marker);
  const total = near.size;
  const theirs = there === total ? counted(total, "neighbour") : `${count(there)} of ${counted(total, "neighbour")}`;
  showLegend(data.top, state.labels, answer && `${theirs}${marked < 0 ? "" : " of ◎"}`, change);
  soon();
  settle();
}

function resize() {
  const box = frame.getBoundingClientRect();
  if (!box.width) return;
  [width, height, fine] = [box.width, box.height, Math.min(devicePixelRatio || 1, 2)];
  [canvas.width, canvas.height] = [Math.round(width * fine), Math.round(height * fine)];
  soon();
}

function move(to) {
  const held = (value) => Math.max(-1, Math.min(1, value));
  view = { ...view, ...to };
  view = { x: held(view.x), y: held(view.y), zoom: Math.max(0.7, Math.min(3000, view.zoom)) };
  if (hovering) point(-1);
  soon();
}

// What lies under the pointer stays there.
function zoomAbout(factor, at) {
  const [px, py] = at ?? [width / 2, height / 2];
  const [x, y] = onMap([px, py]);
  const zoom = Math.max(0.7, Math.min(3000, view.zoom * factor));
  const unit = (zoom * perUnit()) / view.zoom;
  move({ zoom, x: x - (px - width / 2) / unit, y: y + (py - height / 2) / unit });
}

function soon() {
  due ||= requestAnimationFrame(draw);
}

function inView(most) {
  const [left, top] = onMap([0, 0]);
  const [right, bottom] = onMap([width, height]);
  return data.near.inside(left, bottom, right, top, most);
}

function draw() {
  due = 0;
  if (!data || !surface) return;
  const few = inView(FEW);
  if (few?.length) surface.clear();
  else surface.draw({ ...view, perUnit: perUnit() * fine }, colours, SIZES, fine * dot());
  showPictures(few ?? []);
  if (marked >= 0) at(marker, onScreen(marked), MIDDLE);
  if (target >= 0) placeTip();
}

// Points grow as they get fewer, more slowly than the map does.
const dot = () => Math.max(2.5, Math.min(14, (2.2 * Math.min(width, height) ** 0.5 * view.zoom ** 0.4) / data.ids.length ** 0.25));

const at = (element, [x, y], by = "0, 0") => {
  element.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px) translate(${by})`;
};
const MIDDLE = "-50%, -50%";

function showPictures(few) {
  const stay = new Set(few);
  for (const [i, img] of pictures) {
    if (stay.has(i)) continue;
    img.remove();
    pictures.delete(i);
  }
  const side = Math.max(56, Math.min(120, 0.85 * Math.sqrt((width * height) / FEW)));
  for (const i of few) {
    let img = pictures.get(i);
    if (!img) {
      img = new Image();
      img.alt = "";
      img.decoding = "async";
      img.src = small(data.ids[i]);
      pictures.set(i, img);
      $("#map-over").prepend(img);
    }
    img.style.maxWidth = img.style.maxHeight = `${side}px`;
    img.style.borderColor = `var(--kind-${data.kinds[i]})`;
    img.style.opacity = data.kinds[i] === DIM ? 0.4 : 1;
    at(img, onScreen(i), MIDDLE);
  }
  frame.classList.toggle("few", few.length > 0);
  marker.style.width = marker.style.height = few.length ? `${side + 12}px` : "";
}

function nearestTo(place, reach) {
  const wide = pictures.size ? 3 * reach : reach;
  return data.near.nearest(...onMap(place), wide / perUnit());
}

// Show what a point is.
function point(i, byTouch = false) {
  hovering = i >= 0 ? 1 : 0;
  canvas.style.cursor = i >= 0 ? "pointer" : "";
  if (i === target && !byTouch) return;
  target = i;
  tip.hidden = i < 0;
  if (i < 0) return;
  tip.classList.toggle("touch", byTouch);
  tip.href = `?image=${data.ids[i]}`;
  const [img, words] = tip.children;
  img.removeAttribute("src");
  const label = data.labels[data.label[i]] ?? "";
  words.textContent = label;
  placeTip();
  setTimeout(async () => {
    if (target !== i) return; // the pointer has gone on already
    img.src = small(data.ids[i]);
    const found = await api.image(data.ids[i]).catch(() => null);
    if (target === i && found) words.textContent = [label, found.name].filter(Boolean).join(" · ");
  }, 30);
}

function placeTip() {
  const [x, y] = onScreen(target);
  const [wide, high] = [tip.offsetWidth, tip.offsetHeight];
  const left = Math.max(8, Math.min(x - wide / 2, width - wide - 8));
  at(tip, [left, y - high - 14 > 8 ? y - high - 14 : Math.min(y + 14, height - high - 8)]);
}

// Once the map stands still, say what is in view; to whoever has no mouse, what is at the cross.
function settle(byKey = false) {
  clearTimeout(idle);
  frame.classList.toggle("by-key", byKey);
  idle = setTimeout(async () => {
    if (!data || frame.closest("section").hidden) return;
    const all = data.ids.length;
    const seen = inView(Infinity).length;
    const drawn = data.images > all ? `, drawn at random from ${count(data.images)}` : "";
    const text = `${count(seen)} of ${counted(all, "picture")} in view${drawn}`;
    if (!byKey) return void ($("#map-state").textContent = text);
    point(data.near.nearest(view.x, view.y, 100 / perUnit()));
    hovering = 0; // it stays while the keys move the map
    const label = target < 0 ? null : data.labels[data.label[target]];
    const name = target < 0 ? null : (await api.image(data.ids[target]).catch(() => null))?.name;
    const cross = target < 0 ? "none near the cross" : `at the cross ${name ?? "a picture"}${label ? `, label ${label}` : ""}`;
    $("#map-state").textContent = `${text}; ${cross}`;
  }, 250);
}
