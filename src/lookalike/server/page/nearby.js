// Points in the square -1..1 in a grid, so that the nearest is found without looking at all.

export function grid(xs, ys) {
  const side = Math.max(1, Math.min(256, Math.ceil(Math.sqrt(xs.length / 4))));
  const cell = (value) => Math.max(0, Math.min(side - 1, Math.floor(((value + 1) / 2) * side)));
  const starts = new Uint32Array(side * side + 1);
  const home = new Uint32Array(xs.length);
  for (let i = 0; i < xs.length; i++) {
    home[i] = cell(ys[i]) * side + cell(xs[i]);
    starts[home[i] + 1] += 1;
  }
  for (let i = 0; i < side * side; i++) starts[i + 1] += starts[i];
  const points = new Uint32Array(xs.length);
  const free = starts.slice();
  for (let i = 0; i < xs.length; i++) points[free[home[i]]++] = i;

  // Those in a rectangle; null where there are more than `most`.
  function inside(left, bottom, right, top, most) {
    const found = [];
    for (let row = cell(bottom); row <= cell(top); row++) {
      for (let at = starts[row * side + cell(left)]; at < starts[row * side + cell(right) + 1]; at++) {
        const i = points[at];
        if (xs[i] < left || xs[i] > right || ys[i] < bottom || ys[i] > top) continue;
        if (found.length === most) return null;
        found.push(i);
      }
    }
    return found;
  }

  // The nearest one no further than `reach`, -1 if there is none: rings of cells, outwards.
  function nearest(x, y, reach) {
    const [column, row] = [cell(x), cell(y)];
    const wide = 2 / side;
    let [best, found] = [reach * reach, -1];
    for (let ring = 0; ring <= side; ring++) {
      if (ring > 1 && (ring - 1) * wide > Math.sqrt(best)) break;
      for (let r = Math.max(0, row - ring); r <= Math.min(side - 1, row + ring); r++) {
        const edge = Math.abs(r - row) === ring;
        for (let c = column - ring; c <= column + ring; c += edge || ring === 0 ? 1 : 2 * ring) {
          if (c < 0 || c >= side) continue;
          for (let at = starts[r * side + c]; at < starts[r * side + c + 1]; at++) {
            const i = points[at];
            const squared = (xs[i] - x) ** 2 + (ys[i] - y) ** 2;
            if (squared <= best) [best, found] = [squared, i];
          }
        }
      }
    }
    return found;
  }

  return { inside, nearest };
}
