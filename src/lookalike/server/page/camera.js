// Which part of the map is on the canvas. The map is the square -1..1, y upwards; places on the
// canvas are in pixels of CSS.

const [LEAST, MOST] = [0.7, 3000]; // zooms
const held = (value, least, most) => Math.max(least, Math.min(most, value));

export const camera = { x: 0, y: 0, zoom: 1, width: 1, height: 1 };

// Pixels that the unit of the map takes; at zoom 1 all of it fits.
export const perUnit = () => camera.zoom * 0.46 * Math.min(camera.width, camera.height);

export const onCanvas = (x, y) => [
  camera.width / 2 + (x - camera.x) * perUnit(),
  camera.height / 2 - (y - camera.y) * perUnit(),
];

export const onMap = ([px, py]) => [
  camera.x + (px - camera.width / 2) / perUnit(),
  camera.y - (py - camera.height / 2) / perUnit(),
];

export function lookAt({ x = camera.x, y = camera.y, zoom = camera.zoom }) {
  camera.x = held(x, -1, 1);
  camera.y = held(y, -1, 1);
  camera.zoom = held(zoom, LEAST, MOST);
}

// What lies at a place of the canvas, or in its middle, stays there.
export function zoomBy(factor, place = [camera.width / 2, camera.height / 2]) {
  const before = onMap(place);
  lookAt({ zoom: camera.zoom * factor });
  const after = onMap(place);
  lookAt({ x: camera.x + before[0] - after[0], y: camera.y + before[1] - after[1] });
}

export function put(element, [x, y], by = "0, 0") {
  element.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px) translate(${by})`;
}
export const MIDDLE = "-50%, -50%"; // the place is that of its middle, not of its corner
