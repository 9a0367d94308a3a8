// A picture of a grid, with what can be done with it.

import { count, distance, h, picture, unseen } from "./dom.js";
import { href } from "./state.js";

const [NARROW, WIDE] = [0.72, 2.2]; // widths of a tile in its heights; beyond, it has margins
const EQUAL = 1e-3; // the distance up to which vectors are equal but for rounding

const known = new WeakMap(); // tiles and links to the images they show
export const imageOf = (element) => known.get(element ?? known); // undefined of nothing

export const copiesOf = (number) => `${count(number)} ${number === 1 ? "copy" : "copies"}`;

// An identical copy is the same photo, wherever the bands of its index end.
export const bandOf = (image) => image.band ?? (image.distance < EQUAL ? "same photo" : null);

export function shape(element, { width, height }) {
  if (!width || !height) return element; // as a usual photo
  const ratio = Math.max(NARROW, Math.min(WIDE, width / height));
  element.style.setProperty("--ratio", ratio.toFixed(3));
  return element;
}

export function tile(image, state, { query = null, selected = false } = {}) {
  const next = { ...state, image: image.id, upload: null, text: null, box: null, view: "pictures", seed: null };
  const well = h("span", { class: "well" }, picture(image));
  const link = h("a", { href: href(next), class: "card", "data-go": true, title: image.path }, well);
  if (image.rank !== undefined) link.append(...rankOf(image, query));
  link.append(h("span", { class: "file", "aria-hidden": "true" }, image.name)); // said by the picture
  if (image.label !== null) link.append(labelOf(image, query));
  const item = shape(h("li", {}, link, pickOf(image, selected)), image);
  if (image.rank !== undefined) {
    const at = String(image.rank - 1);
    item.append(
      h("button", { type: "button", class: "beside", "data-compare": at, title: "Compare (c)",
        "aria-label": `Compare with number ${image.rank}` }, "⇆"),
    );
  }
  item.append(
    h("button", { type: "button", class: "more", "data-menu": true, title: "More",
      "aria-haspopup": "menu", "aria-label": `More for ${image.name}` }, "⋯"),
  );
  known.set(link, image);
  known.set(item, image);
  return item;
}

function pickOf(image, selected) {
  const box = h("input", { type: "checkbox", "data-pick": true, title: "Select (x)",
    "aria-label": `Select ${image.name}` });
  box.checked = selected;
  return h("span", { class: "pick" }, box);
}

function rankOf(image, query) {
  const far = h("span", { class: "far" }, unseen("distance "), distance(image.distance));
  const rank = h("span", { class: "rank" }, unseen("number "), `#${image.rank}`);
  const line = h("span", { class: "line" }, rank);
  const band = query?.text ? null : bandOf(image);
  if (band) {
    far.classList.add("small");
    line.append(h("span", { class: band === "same photo" ? "band same" : "band" }, band));
  }
  line.append(far);
  return image.copies ? [line, h("span", { class: "copies" }, `+ ${copiesOf(image.copies)}`)] : [line];
}

function labelOf({ label }, query) {
  const same = query?.label != null && query.label === label;
  // A number alone would look like another rank.
  const says = /^\d+$/.test(label) ? "label " : unseen("label ");
  const line = h("span", { class: same ? "label same" : "label" }, says, label);
  if (same) line.append(unseen(", that of the query"));
  return line;
}
