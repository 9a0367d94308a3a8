// The last queries of this tab, to wander back to.

import { $, h, picture } from "./dom.js";
import { nameOf } from "./results.js";
import { hasQuery, href, read } from "./state.js";

const KEY = `lookalike.trail ${location.pathname}`; // there may be several indexes on one server
const MOST = 12;

function load() {
  try {
    const trail = JSON.parse(sessionStorage.getItem(KEY) ?? "[]");
    return Array.isArray(trail) ? trail : [];
  } catch {
    return []; // storage is off, or holds something else
  }
}

const mark = (state) => `${state.image ?? ""} ${state.upload ?? ""} ${state.text ?? ""} ${state.box ?? ""}`;

export function remember(query, state) {
  if (!hasQuery(state)) return;
  const past = load().filter((step) => mark(read(step.href)) !== mark(state));
  const { thumbnail } = query;
  const here = { href: href({ ...state, view: "pictures" }), thumbnail, name: nameOf(query) };
  const trail = [...past, here].slice(-MOST);
  try {
    sessionStorage.setItem(KEY, JSON.stringify(trail));
  } catch {
    // not kept, then
  }
  show(trail.slice(0, -1).reverse());
}

function show(trail) {
  const nav = $("#trail");
  nav.hidden = trail.length === 0;
  const step = ({ href: to, thumbnail, name }) => {
    const img = picture({ thumbnail }, { alt: `Back to ${name}` });
    return h("li", {}, h("a", { href: to, "data-go": true, title: name }, img));
  };
  $("ol", nav).replaceChildren(...trail.map(step));
}
