// Everything by keyboard: keys of one letter, arrows among the pictures.

import { $ } from "./dom.js";

const OFF = "lookalike.keys.off";
const help = $("#help");
const box = $("#keys-on");

// Keys of one letter can be in the way of whoever speaks to the computer: they can be turned off.
try {
  box.checked = localStorage.getItem(OFF) === null;
} catch {
  // storage is off: the keys are on
}
box.addEventListener("change", () => {
  try {
    if (box.checked) localStorage.removeItem(OFF);
    else localStorage.setItem(OFF, "1");
  } catch {
    // not kept, then
  }
});

export const showHelp = () => help.showModal();
export const closeHelp = () => help.close();

export function listen(deeds) {
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    const target = event.target;
    if (target.matches("input, select, textarea")) return;
    const card = target.closest?.(".grid > li");
    if (card && move(card, event.key)) return event.preventDefault();
    const deed = box.checked && deeds[event.key.length === 1 ? event.key.toLowerCase() : ""];
    if (!deed) return;
    event.preventDefault();
    if (!event.repeat) deed(target);
  });
  help.addEventListener("click", (event) => event.target === help && help.close());
}

function move(card, key) {
  const cards = [...card.parentElement.children];
  const at = cards.indexOf(card);
  const row = cards.filter((other) => other.offsetTop === cards[0].offsetTop).length;
  const last = cards.length - 1;
  const [left, right, up, down] = [at - 1, at + 1, at - row, at + row];
  const to = {
    ArrowLeft: left, ArrowRight: right, ArrowUp: up, ArrowDown: down, Home: 0, End: last,
  }[key];
  if (to === undefined) return false;
  // Down from the last but one row goes to the last card where the last row is shorter.
  const below = to > last && key === "ArrowDown" && Math.floor(at / row) < Math.floor(last / row);
  const link = $("a", cards[below ? last : to] ?? card);
  link.focus({ preventScroll: true });
  link.scrollIntoView({ block: "nearest" });
  return true;
}
