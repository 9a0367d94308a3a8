// Asking with a photo: dropped, pasted, picked or taken.

import { $ } from "./dom.js";

const LARGEST = 1024; // pixels of a side that are sent: the network looks at 224
const SMALL = 300_000; // bytes that are sent as they are

// Large photos are made small here, so that sending them takes no time. What the browser cannot
// decode, the server may.
export async function prepare(file, limit) {
  const called = file.name || "The picture";
  await file.slice(0, 1).arrayBuffer().catch(() => {
    throw new Error(`${called} cannot be read: choose a file, not a folder, that is still there.`);
  });
  if (file.size === 0) throw new Error(`${called} is empty: choose another.`);
  const ready = file.size > SMALL ? ((await smaller(file)) ?? file) : file;
  if (limit && ready.size > limit) {
    const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
    const [size, most] = [megabytes(ready.size), megabytes(limit)];
    throw new Error(`${called} is ${size}, at most ${most} can be sent: choose a smaller one.`);
  }
  return ready;
}

// Browsers that hide which machine they run on give noise for what a canvas holds.
function isCanvasTrue() {
  const context = document.createElement("canvas").getContext("2d");
  context.fillStyle = "rgb(26 107 200)";
  context.fillRect(0, 0, 1, 1);
  return String(context.getImageData(0, 0, 1, 1).data) === "26,107,200,255";
}

// As a JPEG, which the server can read as well; null where this browser cannot.
export async function smaller(file) {
  let bitmap;
  try {
    if (!isCanvasTrue()) return null;
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
    const scale = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const context = canvas.getContext("2d", { alpha: false });
    context.fillStyle = "#fff"; // as the index takes what is transparent
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    return await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  } catch {
    return null;
  } finally {
    bitmap?.close();
  }
}

export function listen(onFile, complain) {
  const files = (data) => [...(data?.files ?? [])];
  const first = (found) => found.find((file) => file.type.startsWith("image/")) ?? found[0];

  let own = false; // a picture of this very page is being dragged
  const over = (on) => ($("#drop").hidden = !on);
  addEventListener("dragstart", () => (own = true));
  addEventListener("dragend", () => (own = false));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    event.dataTransfer.dropEffect = own ? "none" : "copy";
    over(!own && event.dataTransfer.types.includes("Files"));
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) over(false); // out of the window
  });
  addEventListener("drop", (event) => {
    event.preventDefault(); // or the browser would leave the page for the file
    over(false);
    if (own) return;
    const file = first(files(event.dataTransfer));
    if (file) onFile(file);
    else complain("That was a link, not a picture: save the picture, or copy it and paste it here.");
  });

  addEventListener("paste", (event) => {
    const file = first(files(event.clipboardData));
    if (file) {
      event.preventDefault();
      onFile(file);
    } else if (!event.target.closest?.("input")) {
      complain("There is no picture on the clipboard: copy one, not its address.");
    }
  });

  for (const input of [$("#file"), $("#shot")]) {
    input.addEventListener("change", () => {
      const file = input.files[0];
      if (file) onFile(file);
      input.value = ""; // so that the same file can be chosen again
    });
  }
}
