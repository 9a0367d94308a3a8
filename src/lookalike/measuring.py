"""What the signatures of a collection are worth: measured on drawn rows, and kept with it.

How hard each recall has to look is decided on rows drawn from all. An addition is a small part of
that, and may be unlike the rest: closer together than estimates can tell apart, or in directions
that the others do not have. So each part of some size is measured for itself.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from lookalike import search
from lookalike.embedding import Vectors
from lookalike.files import new_file
from lookalike.hashing.cells import as_bytes
from lookalike.hashing.signatures import Effort, Signatures
from lookalike.search import Numbers, Rows
from lookalike.untrusted import read_json

RECALLS = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
NEIGHBORS = 10  # that the recalls are of
QUERIES = 200  # rows drawn: half say how hard a recall has to look, half what that is worth
PART = 256  # rows that were added and are measured for themselves
PART_QUERIES = 64  # of them that ask
PARTS = 16  # at most; neighbouring ones become one
SHORT = 0.02  # of recall less than asked for: rows of that kind are not described well
_MOST = 0.02  # of all rows are candidates; a recall that takes more is left to exact search
_RESERVE = 1 / 3  # of what a recall allows to miss is not missed by the half that decides
_BY_CELLS = 1 / 2  # of what is missed lies in cells that are not looked into
_USUAL = 0.99  # of the drawn rows have their neighbours within reach
_CELLS = 4  # at least, and
_TELLING = 2.5  # candidates a neighbour: of fewer all that is found stands late among them
_MOSTLY = 0.95  # of the drawn rows find their neighbours no later than what is late
_NEARLY = 0.9  # of the rows are those that were measured: what was found holds
_CLOSE = 22  # rows more than wanted: matrix products are too coarse to tell near ties apart

DAMAGED = (OSError, ValueError, TypeError, KeyError, OverflowError)


class Older(ValueError):
    """What an older program measured says too little: it is measured again when it is needed."""


Places = npt.NDArray[np.float64]


class Range(NamedTuple):
    """Ids from `first` up to, and without, `stop`."""

    first: int
    stop: int


class File(NamedTuple):
    """What the log says of a data file: its first and last id, and how many rows it has.

    Inputs that were skipped are rows of it too.
    """

    first: int
    last: int
    rows: int


@dataclass(frozen=True, order=True)
class Part:
    """Rows that were added and differ from others: their ids, and how many `rows_in` says they are.

    `recall` has for each of `RECALLS` what share of their neighbours drawn ones of them find.
    """

    first: int
    stop: int
    rows: int
    recall: tuple[float | None, ...]

    @property
    def range(self) -> Range:
        """The ids."""
        return Range(self.first, self.stop)


@dataclass(frozen=True)
class Measured:
    """What the signatures of one version are worth, measured on drawn rows.

    `efforts` has for each of `RECALLS` how hard to look for 10 neighbours, None where only exact
    search will do; `recall` what share of them `queries` other drawn rows found so, or the rows of
    a part where these found fewer. `reach` is a distance within which nearly all drawn rows have 10
    neighbours. `cells` is the fingerprint of those that were measured. Efforts are those of files
    of `rows` rows; rows with ids from `stop` on were not looked at.
    """

    cells: str
    queries: int
    efforts: tuple[Effort | None, ...]
    recall: tuple[float | None, ...]
    reach: float
    rows: int
    stop: int
    parts: tuple[Part, ...] = ()

    def effort(self, recall: float, k: int) -> Effort | None:
        """Return how hard to look for k neighbours at a recall; None for exact search."""
        for reached, effort in zip(RECALLS, self.efforts, strict=True):
            if reached >= recall and effort is not None:
                return effort.times(max(k / NEIGHBORS, 1))
        return None

    def save(self, file: Path) -> None:
        """Write it as JSON, whole or not at all."""
        with new_file(file) as part:
            part.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read it back. Raises one of `DAMAGED`."""
        about = read_json(file)
        if "segments" in about:
            raise Older("measured by an older program")
        efforts = tuple(map(_effort, about["efforts"]))
        recall = _shares(about["recall"])
        if len(efforts) != len(RECALLS):
            raise ValueError("of other recalls")
        parts = tuple(
            Part(int(one["first"]), int(one["stop"]), int(one["rows"]), _shares(one["recall"]))
            for one in about["parts"]
        )
        cells, queries, reach = str(about["cells"]), int(about["queries"]), float(about["reach"])
        if not 0 <= reach < math.inf:
            raise ValueError(f"no distance: {reach}")
        rows, stop = int(about["rows"]), int(about["stop"])
        return cls(cells, queries, efforts, recall, reach, rows, stop, parts)

    def fits(self, files: Sequence[File]) -> bool:
        """Say whether its efforts and its parts are those of nearly the same rows."""
        return _is_near(sum(file.rows for file in files), self.rows) and all(
            _is_near(rows_in(files, part.range), part.rows) for part in self.parts
        )

    def holds_for(self, files: Sequence[File], next_id: int) -> bool:
        """Say whether the rows of these files are nearly those that were measured."""
        return self.fits(files) and rows_in(files, Range(self.stop, next_id)) < PART


def _effort(given: dict[str, Any] | None) -> Effort | None:
    if given is None:
        return None
    counts = int(given["cells"]), int(given["candidates"])
    effort = Effort(*counts, float(given["late_cell"]), float(given["late_rank"]))
    if not all(0 < value < math.inf for value in astuple(effort)):
        raise ValueError(f"no effort: {given}")
    return effort


def _shares(given: list[Any]) -> tuple[float | None, ...]:
    if len(given) != len(RECALLS):
        raise ValueError("of other recalls")
    shares = tuple(found if found is None else float(found) for found in given)
    if not all(share is None or 0 <= share <= 1 for share in shares):
        raise ValueError(f"no shares: {given}")
    return shares


def _is_near(rows: int, others: int) -> bool:
    return min(rows, others) >= _NEARLY * max(rows, others)


def rows_in(files: Iterable[File], ids: Range) -> int:
    """Return about how many rows have such ids, without reading any file.

    Of a file that has others too, as one that was made of several, by the share of its ids.
    """
    total = 0.0
    for first, last, rows in files:
        common = min(ids.stop, last + 1) - max(ids.first, first)
        total += rows * max(common, 0) / max(last + 1 - first, 1)
    return round(total)


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Return at most `PARTS` ranges, rising: the oldest become one."""
    some = sorted(set(ranges))
    while len(some) > PARTS:
        some[:2] = [Range(some[0].first, max(some[0].stop, some[1].stop))]
    return some


def least(recall: Sequence[float | None], parts: Iterable[Part]) -> tuple[float | None, ...]:
    """Return for each of `RECALLS` the least that rows of any part find."""
    return tuple(
        None if found is None else min(found, *(one for one in others if one is not None), 1.0)
        for found, *others in zip(recall, *(part.recall for part in parts), strict=True)
    )


def most_candidates(rows: int) -> int:
    """Return how many candidates are worth while among so many rows."""
    return max(round(_MOST * rows), 10 * NEIGHBORS)


class Asking(NamedTuple):
    """Drawn rows that ask: rows (q,), vectors (q, width), true neighbours (q, 10).

    `farthest` is the distance of the last of these, (q,).
    """

    rows: Numbers
    vectors: Vectors
    true: Numbers
    farthest: Vectors

    @property
    def reach(self) -> float:
        """A distance within which nearly all of them have 10 neighbours; 0 where none asks."""
        return quantile(self.farthest, _USUAL) if len(self.rows) else 0.0


def ask(rows: Rows, count: int, some: Numbers | None = None) -> Asking:
    """Draw rows of all or of `some` and find their true neighbours, comparing them with all rows.

    No two of them are copies of each other: a heap of copies, all found, would hide what is missed
    beside it.
    """
    drawn = search.draw(len(rows) if some is None else len(some), 10 * count)
    drawn = drawn if some is None else some[drawn]
    kinds = np.sort(np.unique(as_bytes(rows.vectors(drawn)), return_index=True)[1])
    drawn = drawn[np.sort(np.random.default_rng(2).permutation(kinds)[:count])]
    vectors = rows.vectors(drawn)
    near = search.exact_many(rows, vectors, min(NEIGHBORS + 1 + _CLOSE, len(rows)))[1]
    true = np.empty((len(drawn), NEIGHBORS), np.int64)
    farthest = np.empty(len(drawn), np.float32)
    for at, own in enumerate(drawn):
        others = np.sort(near[at][near[at] != own])
        squared = rows.squared_distances(vectors[at], others)
        best = np.lexsort((rows.ids[others], squared))[:NEIGHBORS]
        true[at], farthest[at] = others[best], squared[best[-1]] ** 0.5
    return Asking(drawn, vectors, true, farthest)


def decide(signatures: Signatures, asking: Asking, rows: int, stop: int) -> Measured:
    """Decide how hard each recall has to look; half of those that ask say what that is worth.

    `rows` is how many the log says there are, `stop` the id that the next one gets.
    """
    cells = signatures.cells
    reach = asking.reach
    if len(asking.rows) < 2:  # nothing but copies
        nothing = (None,) * len(RECALLS)
        return Measured(cells.fingerprint, 0, nothing, nothing, reach, rows, stop)
    order = np.random.default_rng(1).permutation(len(asking.rows))
    half, check = order[: len(order) // 2], order[len(order) // 2 :]
    places = cell_places(signatures, asking)
    efforts: list[Effort | None] = []
    reached: list[float | None] = []
    for recall in RECALLS:
        missed = (1 - recall) * (1 - _RESERVE)
        looked_into = max(int(quantile(places[half], 1 - missed * _BY_CELLS)), _CELLS)
        ranks = candidate_ranks(signatures, asking, looked_into)
        count = max(quantile(ranks[half], 1 - missed), _TELLING * NEIGHBORS)
        if not np.isfinite(count):
            efforts.append(None)
            reached.append(None)
            continue
        late = _lateness(places, looked_into), _lateness(ranks, count)
        efforts.append(Effort(looked_into, int(count), *late))
        reached.append(round(float(np.mean(ranks[check] <= count)), 4))
    return Measured(
        cells.fingerprint, len(check), tuple(efforts), tuple(reached), reach, rows, stop
    )


def found_so(signatures: Signatures, asking: Asking, effort: Effort) -> float:
    """Return which share of their neighbours rows find with an effort that is never raised."""
    ranks = candidate_ranks(signatures, asking, effort.cells)
    return float(np.mean(ranks <= effort.candidates))


def cell_places(signatures: Signatures, asking: Asking) -> Numbers:
    """Return which cell, nearest first and counted from 1, holds each neighbour (q, 10)."""
    cells = signatures.cells
    order = cells.nearest(cells.rotation(asking.vectors), len(cells))
    places = np.empty_like(order)
    np.put_along_axis(places, order, np.arange(1, len(cells) + 1)[None], axis=1)
    return np.take_along_axis(places, signatures.homes[asking.true].astype(np.int64), axis=1)


def candidate_ranks(signatures: Signatures, asking: Asking, cells: int) -> Places:
    """Return which candidate each neighbour (q, 10) is, where so many cells are looked into.

    Counted from 1, infinite beyond `most_candidates`.
    """
    count = most_candidates(len(signatures)) + 1
    _, found = signatures.nearest(asking.vectors, count, cells)
    ranks = np.full(asking.true.shape, np.inf)
    for at, (own, some) in enumerate(zip(asking.rows, found, strict=True)):
        some = some[(some != own) & (some >= 0)]
        place = dict(zip(some.tolist(), range(1, len(some) + 1), strict=True))
        ranks[at] = [place.get(row, np.inf) for row in asking.true[at].tolist()]
    return ranks


def _lateness(places: npt.NDArray[Any], looked_at: float) -> float:
    """Return how late, in shares of all looked at, what is found stands for most queries.

    `places` are those of the neighbours of each query (q, 10), counted from 1.
    """
    seen = np.where(places <= looked_at, places, np.nan)
    means = np.nanmean(seen[np.isfinite(seen).any(axis=1)], axis=1)
    return min(float(np.quantile(means, _MOSTLY)) / looked_at, 1.0) if len(means) else 1.0


def quantile(values: npt.NDArray[Any], share: float) -> float:
    """Return the least value that so large a share does not exceed."""
    return float(np.quantile(values, share, method="inverted_cdf"))
