// A box over a picture.

// Where a part lies on an image that is shown whole and in the middle of its element.
export function cover(element, [left, top, right, bottom], image, well) {
  const { naturalWidth: wide, naturalHeight: high } = image;
  const { clientWidth, clientHeight } = well;
  if (!wide || !clientWidth) return;
  const scale = Math.min(clientWidth / wide, clientHeight / high);
  const [w, h] = [wide * scale, high * scale];
  const [x, y] = [(clientWidth - w) / 2, (clientHeight - h) / 2];
  element.style.left = `${x + left * w}px`;
  element.style.top = `${y + top * h}px`;
  element.style.width = `${(right - left) * w}px`;
  element.style.height = `${(bottom - top) * h}px`;
}
