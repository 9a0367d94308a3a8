// Which pictures stand for all where there is no room for each: one of every cell of a grid that
// is finer the closer one looks. Whoever stands for a cell stands for the part of it that it is in
// as well, so that pictures stay while others come beside them.

const MOST = 12; // levels: 4,096 cells a side

// `last` tells points that stand for others only where there are no better ones.
export function picks(xs, ys, last) {
  const levels = new Map();
  const cell = (value, side) => Math.max(0, Math.min(side - 1, Math.floor(((value + 1) / 2) * side)));

  function made(level) {
    const side = 2 ** level;
    const cells = new Map();
    for (let i = 0; i < xs.length; i++) {
      const key = cell(ys[i], side) * side + cell(xs[i], side);
      const other = cells.get(key);
      if (other === undefined || (last(other) && !last(i))) cells.set(key, i);
    }
    return cells;
  }

  // Those in a rectangle, at the level whose cells are about `wide`.
  return function inside(left, bottom, right, top, wide) {
    const level = Math.max(0, Math.min(MOST, Math.floor(Math.log2(2 / wide))));
    if (!levels.has(level)) levels.set(level, made(level));
    const cells = levels.get(level);
    const side = 2 ** level;
    const found = [];
    for (let row = cell(bottom, side); row <= cell(top, side); row++) {
      for (let column = cell(left, side); column <= cell(right, side); column++) {
        const i = cells.get(row * side + column);
        if (i !== undefined) found.push(i);
      }
    }
    return found;
  };
}
