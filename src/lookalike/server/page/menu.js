// What can be done with one picture: open it large, take its file, copy its path.

import { $, h } from "./dom.js";
import { hasQuery, href } from "./state.js";

const menu = $("#menu");
const toast = $("#toast");
let opener = null;
let pressed = null; // the button that was pressed while its menu was open
let timer = 0;

// `image` is of the index, or an upload; `part` begins a search for a part of it.
export function open(button, image, { state, info, part, compare }) {
  if (pressed === button) return (pressed = null); // the press has closed its menu
  close();
  opener = button;
  const item = (tag, attributes, text) => h(tag, { role: "menuitem", tabindex: "-1", ...attributes }, text);
  const items = [];
  if (part) {
    const crop = item("button", { type: "button" }, "Search for a part …");
    crop.addEventListener("click", () => (close(), part(image)));
    items.push(crop);
  }
  if (image.rank !== undefined && compare) {
    const beside = item("button", { type: "button" }, "Compare with the query");
    beside.addEventListener("click", () => (close(), compare(image.rank - 1, button)));
    items.push(beside);
  }
  if (image.picture) {
    items.push(item("a", { href: image.picture, target: "_blank", rel: "noopener" }, "Open large"));
  }
  if (image.id !== undefined) {
    if (info?.has_originals) {
      const original = { href: `api/images/${image.id}/original`, download: "" };
      items.push(item("a", original, "Download the original"));
    }
    const path = item("button", { type: "button" }, "Copy the path");
    path.addEventListener("click", () => (close(), copy(image.path, "The path is copied")));
    const next = { ...state, image: image.id, upload: null, text: null, box: null, seed: null };
    items.push(path, item("a", { href: href({ ...next, view: "map" }), "data-go": true }, "Show on map"));
  } else if (hasQuery(state)) {
    items.push(item("a", { href: href({ ...state, view: "map" }), "data-go": true }, "Show on map"));
  }
  menu.replaceChildren(...items);
  menu.showPopover();
  place(button.getBoundingClientRect());
  items[0]?.focus();
  button.setAttribute("aria-expanded", "true");
}

export function close() {
  if (menu.matches(":popover-open")) menu.hidePopover();
}

function place(at) {
  const { offsetWidth: wide, offsetHeight: high } = menu;
  const left = Math.max(8, Math.min(at.right - wide, innerWidth - wide - 8));
  const below = at.bottom + 6;
  menu.style.left = `${left}px`;
  menu.style.top = `${Math.max(8, below + high > innerHeight - 8 ? at.top - high - 6 : below)}px`;
}

document.addEventListener("pointerdown", ({ target }) => {
  const button = target.closest?.("[data-menu]");
  pressed = button && button === opener && menu.matches(":popover-open") ? button : null;
}, true);
menu.addEventListener("toggle", (event) => {
  if (event.newState === "open") return;
  opener?.removeAttribute("aria-expanded");
  if (menu.contains(document.activeElement) || document.activeElement === document.body) opener?.focus();
});
menu.addEventListener("click", (event) => event.target.closest("a") && close());
menu.addEventListener("keydown", (event) => {
  const items = [...menu.children];
  const at = items.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
  if (event.key === "Tab") return close();
  if (to === undefined) return;
  event.preventDefault();
  items.at(to % items.length).focus();
});
addEventListener("scroll", () => menu.matches(":popover-open") && close(), { passive: true });

// Short news in a corner, which screen readers say too.
export function tell(text) {
  clearTimeout(timer);
  toast.textContent = text;
  toast.classList.add("shown");
  timer = setTimeout(() => toast.classList.remove("shown"), 3500);
}

// Without TLS, on other machines, browsers have no clipboard for pages: the old way works.
export async function copy(text, said) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = h("textarea", { class: "unseen", readonly: true });
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    if (!done) return tell(`It cannot be copied here: ${text}`);
  }
  tell(said);
}
