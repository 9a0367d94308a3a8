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
    if (target.matches("input:not([type=checkbox]), select, textarea, [role=menuitem]")) return;
    const card = target.closest?.(".grid > li");
    if (card && move(card, event.key)) return event.preventDefault();
    const deed = box.checked && deeds[event.key.length === 1 ? event.key.toLowerCase() : ""];
    if (!deed) return;
    event.preventDefault();
    if (!event.repeat) deed(target);
  });
  help.addEventListener("click", (event) => event.target === help && help.close());
}

// Rows have as many pictures as fit: up and down lead to what lies above and below.
function move(card, key) {
  const cards = [...card.parentElement.children];
  const at = cards.indexOf(card);
  const last = cards.length - 1;
  const middle = (one) => one.offsetLeft + one.offsetWidth / 2;
  const vertical = (step) => {
    const rows = [...new Set(cards.map((one) => one.offsetTop))];
    const row = cards.filter((one) => one.offsetTop === rows[rows.indexOf(card.offsetTop) + step]);
    const far = (one) => Math.abs(middle(one) - middle(card));
    return cards.indexOf(row.reduce((best, one) => (best && far(best) <= far(one) ? best : one), null) ?? card);
  };
  const to = {
    ArrowLeft: () => at - 1,
    ArrowRight: () => at + 1,
    ArrowUp: () => vertical(-1),
    ArrowDown: () => vertical(1),
    Home: () => 0,
    End: () => last,
  }[key];
  if (to === undefined) return false;
  const link = $("a", cards[to()] ?? card);
  link.focus({ preventScroll: true });
  link.scrollIntoView({ block: "nearest" });
  return true;
}
