// Elements made and found, numbers as people read them.

export const $ = (selector, from = document) => from.querySelector(selector);

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

export const unseen = (text) => h("span", { class: "unseen" }, text);

// Words of the page are English, so its numbers are too: 4,053 and 0.231.
const whole = new Intl.NumberFormat("en-GB");
export const count = (number) => whole.format(number);
export const counted = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
export const distance = (number) => number.toFixed(3);

// Every picture is asked for at 320; screens with finer pixels get 640.
export const sized = (url, size) => url.replace(/([?&]size=)\d+/, `$1${size}`);

export function picture(image, { alt = image.name ?? "", lazy = true } = {}) {
  const img = h("img", { alt, loading: lazy && "lazy", decoding: "async", draggable: "false" });
  if (!image.thumbnail.startsWith("blob:")) img.srcset = `${sized(image.thumbnail, 640)} 2x`;
  img.src = image.thumbnail;
  return img;
}
