"""Rows drawn from an index by bounded reads, and their nearest neighbours.

Up to `EXACT_UP_TO` rows are mapped, as every search maps them. Of more rows some groups of the data
files are read, however many there are.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.search import exact
from lookalike.search.rows import Rows, draw
from lookalike.search.searcher import EXACT_UP_TO, Searcher
from lookalike.search.stored_rows import opened
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Floats, Numbers, Vectors
from lookalike.system.defaults import TARGET_RECALL

DRAWN_ROWS = 512
_MAX_GROUPS = 16  # of rows in data files, which are read
_SEED = 0


class Drawn(NamedTuple):
    """Drawn rows in the order of their numbers: int64 (n,), n paths, float32 (n, width)."""

    numbers: Numbers
    paths: list[str]
    vectors: Vectors


class Near(NamedTuple):
    """The nearest other rows of one: their distances, rising, and their paths."""

    distances: list[float]
    paths: list[str]


def draw_rows(searcher: Searcher) -> Drawn:
    """Draw up to `DRAWN_ROWS` embedded rows; equal indexes give equal rows."""
    if searcher.table.counts()[0] > EXACT_UP_TO:
        return _read_groups(searcher.table)
    rows = searcher.rows
    drawn = draw(len(rows), DRAWN_ROWS, _SEED)
    return Drawn(rows.ids[drawn], rows.paths.take(drawn).to_pylist(), _vectors(rows, drawn))


def _vectors(rows: Rows, drawn: Numbers) -> Vectors:
    return rows.vectors(drawn) if len(drawn) else np.empty((0, 0), np.float32)


def _read_groups(table: EmbeddingTable) -> Drawn:
    """Draw rows from some groups of rows of the data files, which are drawn by their size."""
    rng = np.random.default_rng(_SEED)
    files = table.id_ranges()
    sizes = np.array([rows for *_, rows in files], np.float64)
    chosen = rng.choice(len(files), _MAX_GROUPS, p=sizes / sizes.sum())
    parts = []
    for at, count in zip(*np.unique(chosen, return_counts=True), strict=True):
        with opened(files[at][0]) as stored:
            groups = draw(stored.num_row_groups, int(count), int(at)).tolist()
            for group in groups:
                rows = stored.read_row_group(group, ["id", "path", "embedding"])
                rows = rows.filter(pc.is_valid(rows["embedding"]))
                share = -(-DRAWN_ROWS * int(count) // (_MAX_GROUPS * len(groups)))
                parts.append(rows.take(pa.array(draw(len(rows), share, int(at)))))
    found = pa.concat_tables(parts).sort_by("id")
    width = int(table.about_model["width"])
    flat = pc.list_flatten(found["embedding"]).to_numpy().astype(np.float32, copy=False)
    return Drawn(found["id"].to_numpy(), found["path"].to_pylist(), flat.reshape(-1, width))


def nearest_others(searcher: Searcher, drawn: Drawn, k: int) -> list[Near]:
    """Return the k nearest other rows of each drawn row.

    They are exact up to `EXACT_UP_TO` rows. Of more, regions find them where there are any; else
    they are those among the drawn rows, and farther away than the true ones.
    """
    if searcher.table.counts()[0] <= EXACT_UP_TO:
        rows = searcher.rows
        squared, found = exact.exact_many(rows, drawn.vectors, min(k + 1, len(rows)))
        numbers = np.where(found >= 0, rows.ids[found], -1)
        paths = rows.paths.take(found.ravel().clip(0)).to_pylist()
        far = np.sqrt(np.maximum(squared, 0))
        return _without_own(drawn, far, numbers, paths)
    if searcher.regions is not None and searcher.usable_regions("auto", TARGET_RECALL):
        each = []
        for number, vector in zip(drawn.numbers.tolist(), drawn.vectors, strict=True):
            answer = searcher.regions.nearest(vector, k, TARGET_RECALL, number)
            if answer is None:
                break
            each.append(Near([one.distance for one in answer[0]], [one.path for one in answer[0]]))
        else:
            return each
    far = pair_distances(drawn.vectors)
    found = np.argsort(far, axis=1, kind="stable")[:, : k + 1]
    paths = [drawn.paths[at] for at in found.ravel()]
    return _without_own(drawn, np.take_along_axis(far, found, axis=1), drawn.numbers[found], paths)


def _without_own(
    drawn: Drawn, far: npt.NDArray[Any], numbers: Numbers, paths: list[str]
) -> list[Near]:
    """Return near rows without the drawn row itself; `far` and `numbers` are (n, k)."""
    distances = far.tolist()
    count = numbers.shape[1]
    each = []
    for at, own in enumerate(drawn.numbers.tolist()):
        kept = [
            (distances[at][place], paths[at * count + place])
            for place, number in enumerate(numbers[at].tolist())
            if number not in (own, -1)
        ]
        each.append(Near([far for far, _ in kept], [path for _, path in kept]))
    return each


def pair_distances(vectors: Vectors) -> Floats:
    """Return the distances of all pairs of vectors (n, width): float64 (n, n), 0 on the diagonal.

    They are taken around the middle, so that long vectors keep their digits.
    """
    rows = vectors.astype(np.float64)
    rows -= rows.mean(axis=0)
    squares = np.einsum("ij,ij->i", rows, rows)
    squared = squares[:, None] + squares[None] - 2 * rows @ rows.T
    distances: Floats = np.sqrt(np.maximum(squared, 0))
    np.fill_diagonal(distances, 0)
    return distances
