// Pointers, wheel and keys over the map, as what they mean. Places are in pixels of the canvas.

const STILL = 4; // pixels a pointer may move and still click
const STEP = 80; // pixels an arrow key moves the map
export const ZOOM = 1.5; // by a key or a button
const ARROWS = {
  ArrowLeft: [1, 0],
  ArrowRight: [-1, 0],
  ArrowUp: [0, 1],
  ArrowDown: [0, -1],
};

export function gestures(canvas, { pan, zoom, whole, hover, tap, take, leave }) {
  const down = new Map(); // pointers that touch, to where they last were
  let moved = 0;

  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  // Middle and spread of the one or two pointers that touch.
  const pose = () => {
    const [one, other = one] = down.values();
    const middle = [(one[0] + other[0]) / 2, (one[1] + other[1]) / 2];
    return [middle, Math.hypot(one[0] - other[0], one[1] - other[1])];
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    if (down.size === 0) moved = 0;
    down.set(event.pointerId, place(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    const to = place(event);
    if (!event.buttons) down.delete(event.pointerId); // it went up where nobody saw it
    if (!down.has(event.pointerId)) return hover(to);
    const [before, wide] = pose();
    down.set(event.pointerId, to);
    const [after, wider] = pose();
    moved += Math.hypot(after[0] - before[0], after[1] - before[1]) + Math.abs(wider - wide);
    if (moved <= STILL) return;
    pan(after[0] - before[0], after[1] - before[1]);
    if (wide && wider) zoom(wider / wide, after);
  });
  const up = (event) => {
    const was = down.delete(event.pointerId);
    if (was && down.size === 0 && moved <= STILL && event.type === "pointerup") {
      tap(place(event), event.pointerType, event);
    }
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && leave());

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 24 : event.deltaMode === 2 ? 400 : 1;
    const turned = Math.max(-240, Math.min(240, event.deltaY * lines)) * (event.ctrlKey ? 5 : 1);
    zoom(Math.exp(-turned / 500), place(event));
  }, { passive: false });

  // How Safari says that two fingers pinch a trackpad; those on a screen are pointers as well.
  let scale = 1;
  canvas.addEventListener("gesturestart", (event) => {
    event.preventDefault();
    scale = event.scale;
  });
  canvas.addEventListener("gesturechange", (event) => {
    event.preventDefault();
    if (down.size === 0) zoom(event.scale / scale, place(event));
    scale = event.scale;
  });

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = ARROWS[event.key];
    if (arrow) pan(STEP * arrow[0], STEP * arrow[1], true);
    else if (event.key === "+" || event.key === "=") zoom(ZOOM, null, true);
    else if (event.key === "-") zoom(1 / ZOOM, null, true);
    else if (event.key === "0" || event.key === "Home") whole(true);
    else if (event.key === "Enter") take();
    else if (event.key === "Escape") leave();
    else return;
    event.preventDefault();
  });
}
