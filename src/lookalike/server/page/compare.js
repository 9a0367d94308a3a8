// The query and one neighbour, side by side.

import { $, distance, h } from "./dom.js";
import { href } from "./state.js";
import { nameOf } from "./results.js";

const dialog = $("#compare");
let answer, state, at, opener;
let returns = true; // the focus, to where it came from

export function open(newAnswer, newState, newAt, newOpener) {
  if (!newAnswer.neighbors.length) return;
  [answer, state, opener, returns] = [newAnswer, newState, newOpener, true];
  const [query] = dialog.querySelectorAll("figure");
  put(query, answer.query, "Query", null);
  step(newAt);
  if (!dialog.open) dialog.showModal();
}

// For what is to be shown next, which has the focus then.
export function close() {
  returns = false;
  if (dialog.open) dialog.close();
}

function step(to) {
  at = Math.max(0, Math.min(to, answer.neighbors.length - 1));
  const image = answer.neighbors[at];
  $("#compare-title").textContent =
    `Number ${image.rank} of ${answer.neighbors.length}, ${image.band ? `${image.band}, ` : ""}distance ${distance(image.distance)}`;
  put(dialog.querySelectorAll("figure")[1], image, `Number ${image.rank}`, answer.query.label);
  const [back, on] = dialog.querySelectorAll("[data-step]");
  // Not disabled in earnest, or the keys would be lost with the focus.
  back.setAttribute("aria-disabled", String(at === 0));
  on.setAttribute("aria-disabled", String(at === answer.neighbors.length - 1));
}

function put(figure, image, what, label) {
  const img = $("img", figure);
  img.alt = `${what}: ${nameOf(image)}`;
  img.dataset.of = image.picture;
  img.src = image.thumbnail; // loaded already; the large one follows
  const large = new Image();
  large.src = image.picture;
  large.decode().then(
    () => img.dataset.of === image.picture && (img.src = image.picture),
    () => {},
  );
  const name = h("span", { class: "name", title: image.path ?? "" }, nameOf(image));
  const caption = [h("span", { class: "what" }, what), name];
  if (image.label !== null) {
    const same = label !== null && image.label === label;
    caption.push(h("span", { class: same ? "label same" : "label" }, image.label));
  }
  if (image.rank !== undefined) {
    const to = href({ ...state, image: image.id, upload: null, view: "pictures" });
    caption.push(h("a", { href: to, "data-go": true }, "Search with this one"));
  }
  $("figcaption", figure).replaceChildren(...caption);
}

dialog.addEventListener("click", (event) => {
  const to = event.target.closest("[data-step]")?.dataset.step;
  if (to === "close" || event.target === dialog) dialog.close();
  else if (to) step(at + Number(to));
});

dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(at - 1);
  else if (event.key === "ArrowRight") step(at + 1);
  else return;
  event.preventDefault();
});

dialog.addEventListener("close", () => {
  if (!returns || document.activeElement.matches("input, select")) return; // somebody types already
  // Back to the card of the neighbour that was looked at last.
  const card = $("#neighbors").children[at]?.querySelector("a");
  (card ?? opener)?.focus();
});
