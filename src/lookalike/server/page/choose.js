// The indexes of a server that has several.

import { $, counted, h } from "./dom.js";

const PICTURES = 4; // of each index

async function ask(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`The server answered ${response.status}: see its log, or try again.`);
  return response.json();
}

function card({ name, address, images }) {
  const pictures = h("span", { class: "pictures" });
  ask(`${address}api/random?count=${PICTURES}&seed=1`).then(
    (found) => {
      for (const { thumbnail } of found.images) pictures.append(h("img", { src: address + thumbnail, alt: "" }));
    },
    () => {}, // the link leads there all the same
  );
  const link = h("a", { href: address, class: "card" }, pictures,
    h("strong", {}, name), h("span", { class: "label" }, counted(images, "image")));
  return h("li", {}, link);
}

try {
  const { indexes } = await ask("api/indexes");
  $("#indexes").replaceChildren(...indexes.map(card));
} catch (error) {
  $("#choose-note").textContent = error.message;
}
