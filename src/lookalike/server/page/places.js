// Where each entry of the history was scrolled to.

const KEY = `lookalike.places ${location.pathname}`;
const places = new Map();
let steady = true; // nothing moves by itself on its way to what is shown next

history.scrollRestoration = "manual";
if (!history.state?.at) history.replaceState({ at: Date.now() }, "");
try {
  const kept = JSON.parse(sessionStorage.getItem(KEY) ?? "[]");
  for (const [at, y] of kept) places.set(at, y);
} catch {
  // none, or something else
}

const keep = () => places.set(history.state?.at, scrollY);
export const here = () => places.get(history.state?.at) ?? 0;

// From here on the page moves by itself; `leaving` says that another entry follows this one.
export function begin(leaving) {
  if (leaving && steady) keep();
  steady = false;
}
export const end = () => {
  steady = true;
};

addEventListener("scroll", () => steady && keep(), { passive: true });
addEventListener("pagehide", () => {
  try {
    sessionStorage.setItem(KEY, JSON.stringify([...places].slice(-50)));
  } catch {
    // not kept, then
  }
});
