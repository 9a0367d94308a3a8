// The filter by label: type, choose from those that contain it, take away again. There may be
// 100,000 labels; the server is asked for those that fit.

import { labels } from "./api.js";
import { $, count, h } from "./dom.js";

const input = $("#filter-input");
const list = $("#filter-list");
const popup = $("#filter-popup");
const note = $("#filter-note");

let chosen = []; // labels
let active = -1;
let listed = null; // the text that the list is of
let asking = null;
let timer = 0;

export function listen(change) {
  const choose = (label) => {
    input.value = "";
    hide();
    change({ labels: [...chosen, label] });
  };

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(offer, 80);
  });
  input.addEventListener("click", () => popup.hidden && offer());
  input.addEventListener("keydown", (event) => {
    if (event.isComposing || event.keyCode === 229) return; // Enter ends a word, in Japanese
    const last = list.children.length - 1;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (popup.hidden) offer();
      else if (event.key === "ArrowDown") activate(active === last ? 0 : active + 1);
      else activate(active <= 0 ? last : active - 1);
    } else if (event.key === "Enter") {
      const take = () => list.children[active] && choose(list.children[active].dataset.label);
      if (!popup.hidden && listed === input.value.trim()) take();
      else if (input.value.trim()) offer().then(take); // who types fast is ahead of the list
      else return;
    } else if (event.key === "Escape" && !popup.hidden) {
      hide();
    } else if (event.key === "Escape" && input.value) {
      input.value = "";
    } else if (event.key === "Backspace" && !input.value && chosen.length) {
      change({ labels: chosen.slice(0, -1) });
    } else return;
    event.preventDefault();
  });
  input.addEventListener("blur", () => {
    input.value = ""; // what was typed and not chosen filters nothing, and must not seem to
    hide();
  });

  list.addEventListener("pointerdown", (event) => event.preventDefault()); // the input keeps the focus
  list.addEventListener("click", (event) => {
    const option = event.target.closest("[role=option]");
    if (option) choose(option.dataset.label);
  });

  $("#chips").addEventListener("click", (event) => {
    const chip = event.target.closest("button");
    if (!chip) return;
    const without = (values) => values.filter((value) => value !== chip.value);
    if (chip.name === "label") change({ labels: without(chosen) });
    else if (chip.name === "path") change({ paths: [] });
    else change({ within: null });
    input.focus();
  });
}

export const focus = () => input.focus();

export function show(state) {
  chosen = state.labels;
  const chip = (name, value, text) => {
    const says = { type: "button", name, value, "aria-label": `Remove the filter ${text}` };
    return h("li", {}, h("button", says, text, h("span", { "aria-hidden": "true" }, "×")));
  };
  const chips = chosen.map((label) => chip("label", label, label));
  if (state.paths.length) chips.push(chip("path", "", `path ${state.paths.join(", ")}`));
  if (state.within !== null) chips.push(chip("within", "", `within ${state.within}`));
  $("#chips").replaceChildren(...chips);
  $("#chips").hidden = chips.length === 0;
  input.placeholder = chosen.length ? "or …" : "Any label";
}

async function offer() {
  clearTimeout(timer);
  asking?.abort();
  const flight = (asking = new AbortController());
  const text = input.value.trim();
  try {
    const found = await labels(text, flight.signal);
    if (!flight.signal.aborted && document.activeElement === input) draw(found, text);
  } catch (error) {
    if (error.name !== "AbortError") draw({ labels: [], total: 0 }, text, error.message);
  }
}

function draw({ labels: found, total }, text, problem) {
  // The one that was typed first, then those that begin so; the frequent ones first within each.
  const begins = (label) => label.toLowerCase().startsWith(text.toLowerCase());
  const far = ({ label }) => (label === text ? 0 : begins(label) ? 1 : 2);
  const free = found.filter(({ label }) => !chosen.includes(label));
  free.sort((a, b) => far(a) - far(b));
  const option = ({ label, images }, number) =>
    h("li", { role: "option", id: `label-${number}`, "data-label": label, "aria-selected": "false" },
      h("span", {}, label), h("span", { class: "images" }, count(images)));
  list.replaceChildren(...free.map(option));
  list.hidden = free.length === 0;
  const more = total - found.length;
  const none = text ? `No other label contains “${text}”.` : "No other label.";
  const rest = more > 0 ? `and ${count(more)} more: type to narrow` : "";
  note.textContent = problem ?? (free.length === 0 ? none : rest);
  note.hidden = !note.textContent;
  popup.hidden = false;
  listed = text;
  input.setAttribute("aria-expanded", String(free.length > 0));
  activate(text && free.length ? 0 : -1);
}

function activate(to) {
  list.children[active]?.setAttribute("aria-selected", "false");
  active = to;
  const option = list.children[active];
  option?.setAttribute("aria-selected", "true");
  option?.scrollIntoView({ block: "nearest" });
  if (option) input.setAttribute("aria-activedescendant", option.id);
  else input.removeAttribute("aria-activedescendant");
}

function hide() {
  clearTimeout(timer);
  asking?.abort();
  popup.hidden = true;
  input.setAttribute("aria-expanded", "false");
  input.removeAttribute("aria-activedescendant");
  active = -1;
}
