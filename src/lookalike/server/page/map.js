// The map: every picture a point, or itself where few are in view.

import * as api from "./api.js";
import { camera, lookAt, MIDDLE, onCanvas, onMap, perUnit, put, zoomBy } from "./camera.js";
import { FEW, forget, isClose, showPictures, side, small, some } from "./closeup.js";
import { $, count, counted, h } from "./dom.js";
import { gestures, ZOOM } from "./gestures.js";
import { DIM, frequent, kinds, palette, showLegend, SIZES } from "./legend.js";
import { grid } from "./nearby.js";
import { picks } from "./picks.js";
import { href } from "./state.js";
import { plot } from "./plot.js";

const REACH = 14; // pixels from the pointer to a point that it means
const NEAR_CROSS = 100; // pixels from the cross to a point that the keys mean
const EDGE = 60; // pixels from the edge of the view to a picture that is brought back
const PAUSE = 60; // seconds at most, from one try to get the points to the next
const SLOW = 34; // ms between two frames that are too much
const MOST_LEFT_OUT = 16; // of so many points at least one is drawn
const SOON = 8; // the same, while an older map is there
const WHOLE = { x: 0, y: 0, zoom: 1 };
const NO_WEBGL =
  "The map is drawn with WebGL2, which this browser lacks or has turned off. " +
  "Everything else works without it.";

const canvas = $("#map-canvas");
const frame = $("#map-frame");
const tip = $("#map-tip");
const marker = h("div", { class: "marker" });

let surface = null; // what draws; null where there is no WebGL2
let data = null; // the points, with their grid and kinds
let state, answer, colours;
let wanted = null; // what says which version of which collection is to be shown
let marked = -1; // the point of the query
let target = -1; // the point that is pointed at
let hovered = false; // by a pointer, which points elsewhere once the map moves
let fine = 1; // device pixels to one of CSS
let pick, change; // what to tell of a picture taken, of labels chosen
let [flight, due, idle] = [null, 0, 0];
let [moving, drawn, quick, pace] = [false, 0, 0, 1]; // since when, and of how many points one is drawn

export function listen(picked, changed) {
  [pick, change] = [picked, changed];
  gestures(canvas, {
    pan: (dx, dy, byKey) =>
      look({ x: camera.x - dx / perUnit(), y: camera.y + dy / perUnit() }, byKey),
    zoom: (factor, place, byKey) => zoom(factor, place, byKey),
    whole: (byKey) => look(WHOLE, byKey),
    hover: (place) => point(nearestTo(place, REACH)),
    tap,
    take: () => {
      const i = atCross();
      if (i >= 0) pick(data.ids[i]);
    },
    leave: () => point(-1),
  });
  frame.addEventListener("click", (event) => {
    const deed = event.target.closest("[data-map]")?.dataset.map;
    if (deed === "in") zoom(ZOOM);
    else if (deed === "out") zoom(1 / ZOOM);
    else if (deed === "all") look(WHOLE);
    else if (deed === "query" && marked >= 0) {
      look({ x: data.x[marked], y: data.y[marked], zoom: Math.max(camera.zoom, 8) });
    }
  });
  new ResizeObserver(resize).observe(frame);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    colours = palette();
    soon();
  });
  canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", () => {
    surface = plot(canvas);
    if (data) colour();
  });
}

export function show(newState, newAnswer, info) {
  [state, answer] = [newState, newAnswer];
  $("#map-title").textContent = info ? `Map of ${info.name}` : "Map";
  canvas.setAttribute("aria-label", $("#map-title").textContent);
  surface ??= plot(canvas);
  if (!surface) return waiting(NO_WEBGL);
  resize();
  wanted = info;
  if (data) colour();
  if (!flight && !isCurrent()) getPoints();
}

function isCurrent() {
  if (data === null || wanted === null) return data !== null;
  return data.identity === wanted.identity && data.version >= wanted.version;
}

export function leave() {
  flight?.abort();
  flight = null;
  point(-1);
}

// Until the map of the version that is wanted is there; that of an older one is shown meanwhile.
async function getPoints() {
  const { signal } = (flight = new AbortController());
  const wait = (...what) => data || waiting(...what);
  let tries = 0; // that brought nothing new
  wait("Getting the map");
  while (!signal.aborted && !isCurrent()) {
    let most = SOON;
    try {
      const body = await api.map(({ progress, doing }) => wait(doing, progress), signal);
      if (!body) tries = 0;
      else if (!data || !api.isSame(body, data)) {
        tries = 0;
        take(body);
        colour();
      }
    } catch (error) {
      if (signal.aborted) return;
      wait(`${error.message} Trying again.`);
      most = PAUSE;
    }
    if (isCurrent()) break;
    const pause = Math.min(2 ** tries++, most);
    await new Promise((resolve) => setTimeout(resolve, 1000 * pause));
  }
  if (!signal.aborted) flight = null;
}

function take(body) {
  const [x, y] = [Float32Array.from(body.x), Float32Array.from(body.y)];
  const rows = new Map(body.ids.map((id, i) => [id, i]));
  data = { ...body, x, y, rows, near: grid(x, y), top: frequent(body) };
  if (wanted && body.identity !== wanted.identity) wanted = body; // it is the server that knows
  forget();
}

function waiting(text, progress) {
  const wait = $("#map-wait");
  wait.hidden = text === null;
  if (text === null) return;
  const far = progress === undefined ? "" : `: ${Math.round(100 * progress)} %`;
  $("#map-doing").textContent = text + far;
  $("#map-progress").hidden = progress === undefined;
  if (progress !== undefined) $("#map-progress").value = progress;
  $("#map-state").textContent = "";
}

function colour() {
  waiting(null);
  const near = new Set(answer?.neighbors.map(({ id }) => id));
  data.kinds = kinds(data, data.top, state.labels, near);
  data.picks = picks(data.x, data.y, (i) => data.kinds[i] === DIM);
  surface.put(data.x, data.y, data.kinds);
  colours = palette();
  marked = data.rows.get(answer?.query.id) ?? -1;
  $("[data-map=query]").hidden = marked < 0;
  if (marked < 0) marker.remove();
  else $("#map-over").append(marker);
  const there = [...near].filter((id) => data.rows.has(id)).length;
  const some = there === near.size ? "" : `${count(there)} of `;
  const words = answer ? some + counted(near.size, "neighbour") : null;
  showLegend(data.top, state.labels, words, marked >= 0, change);
  soon();
  settle();
}

function resize() {
  const { width, height } = frame.getBoundingClientRect();
  if (!width) return;
  Object.assign(camera, { width, height });
  fine = Math.min(devicePixelRatio || 1, 2);
  canvas.width = Math.round(width * fine);
  canvas.height = Math.round(height * fine);
  soon();
}

function look(to, byKey = false) {
  lookAt(to);
  moved(byKey);
}

function zoom(factor, place, byKey = false) {
  zoomBy(factor, place ?? undefined);
  moved(byKey);
}

// A view without a picture says nothing: the nearest one is brought to its edge.
function notEmpty() {
  if (!data?.ids.length || inView(0) === null) return;
  const i = data.near.nearest(camera.x, camera.y, 4);
  if (i < 0) return;
  const [x, y] = onCanvas(data.x[i], data.y[i]);
  const out = (at, size) => Math.min(0, at - EDGE) + Math.max(0, at - size + EDGE);
  const [dx, dy] = [out(x, camera.width), out(y, camera.height)];
  lookAt({ x: camera.x + dx / perUnit(), y: camera.y - dy / perUnit() });
}

function moved(byKey) {
  notEmpty();
  moving = true;
  if (hovered) point(-1);
  soon();
  settle(byKey);
}

function soon() {
  due ||= requestAnimationFrame(draw);
}

function inView(most) {
  const [left, top] = onMap([0, 0]);
  const [right, bottom] = onMap([camera.width, camera.height]);
  return data.near.inside(left, bottom, right, top, most);
}

// While the map moves, as many points are drawn as this machine can in a frame; then all.
function stepOf(now) {
  const gap = now - drawn;
  drawn = now;
  if (!moving) return 1;
  if (gap < 20) quick += 1;
  else quick = 0;
  if (gap > SLOW && gap < 1000) pace = Math.min(pace * 2, MOST_LEFT_OUT);
  else if (quick > 20) [pace, quick] = [Math.max(1, pace / 2), 0];
  return pace;
}

function draw(now) {
  due = 0;
  if (!data || !surface) return;
  const few = inView(FEW);
  // Points stay under the pictures: these take their time to come.
  surface.draw({ ...camera, perUnit: perUnit() * fine }, colours, SIZES, fine * dot(), stepOf(now));
  const corners = [onMap([0, 0]), onMap([camera.width, camera.height])];
  const { points, size } = few ? { points: few, size: side() } : some(data, ...corners, perUnit());
  showPictures(points, data, marked, size, few !== null);
  frame.classList.toggle("few", isClose());
  marker.style.width = marker.style.height = isClose() ? `${side() + 12}px` : "";
  if (marked >= 0) put(marker, onCanvas(data.x[marked], data.y[marked]), MIDDLE);
  if (target >= 0) placeTip();
}

// The width of a point: the fewer there are the wider, and wider as the map grows, but less so.
function dot() {
  const room = 2.2 * Math.sqrt(Math.min(camera.width, camera.height)) * camera.zoom ** 0.4;
  return Math.max(2.5, Math.min(14, room / data.ids.length ** 0.25));
}

function nearestTo(place, reach) {
  if (!data) return -1;
  return data.near.nearest(...onMap(place), (isClose() ? 3 * reach : reach) / perUnit());
}

const atCross = () => nearestTo([camera.width / 2, camera.height / 2], NEAR_CROSS);

// A finger hovers nowhere: its first tap shows a picture, a tap on what is shown takes it.
function tap(place, type, event) {
  if (type !== "mouse") return point(nearestTo(place, 2 * REACH), true);
  const i = nearestTo(place, REACH);
  if (i < 0) return point(-1);
  if (event.ctrlKey || event.metaKey) return open(hrefOf(i));
  return pick(data.ids[i]);
}

// Show what a point is.
function point(i, byTouch = false) {
  hovered = i >= 0;
  canvas.style.cursor = i >= 0 ? "pointer" : "";
  if (i === target && !byTouch) return;
  target = i;
  tip.hidden = i < 0;
  if (i < 0) return;
  tip.classList.toggle("touch", byTouch);
  tip.href = hrefOf(i);
  const [img, words] = tip.children;
  img.removeAttribute("src");
  words.textContent = labelOf(i);
  placeTip();
  setTimeout(async () => {
    if (target !== i) return; // the pointer has gone on already
    img.src = small(data.ids[i]);
    const name = await nameOf(i);
    if (target === i) words.textContent = [labelOf(i), name].filter(Boolean).join(" · ");
  }, 30);
}

const hrefOf = (i) =>
  href({ ...state, image: data.ids[i], upload: null, view: "pictures", seed: null });
const labelOf = (i) => data.labels[data.label[i]] ?? "";
const nameOf = async (i) => (await api.image(data.ids[i]).catch(() => null))?.name ?? "";

function placeTip() {
  const [x, y] = onCanvas(data.x[target], data.y[target]);
  const [wide, high] = [tip.offsetWidth, tip.offsetHeight];
  const left = Math.max(8, Math.min(x - wide / 2, camera.width - wide - 8));
  const above = y - high - 14;
  put(tip, [left, above > 8 ? above : Math.min(y + 14, camera.height - high - 8)]);
}

// Once the map stands still, say what is in view; to whoever uses keys, what is at the cross.
function settle(byKey = false) {
  clearTimeout(idle);
  idle = setTimeout(async () => {
    if (!data || frame.closest("section").hidden) return;
    if (moving) {
      moving = false;
      if (pace > 1) soon();
    }
    const all = data.ids.length;
    const before = isCurrent() ? "" : ", as it was before the last change";
    const drawn = data.images > all ? `, drawn at random from ${count(data.images)}` : "";
    let text = `${count(inView(Infinity).length)} of ${counted(all, "picture")} in view${drawn}${before}`;
    if (byKey) {
      const i = atCross();
      point(i);
      hovered = false; // it stays while the keys move the map
      const what = i < 0 ? "" : [await nameOf(i), labelOf(i)].filter(Boolean).join(", label ");
      text += i < 0 ? "; no picture near the cross" : `; at the cross ${what}`;
    }
    $("#map-state").textContent = text;
  }, 250);
}
