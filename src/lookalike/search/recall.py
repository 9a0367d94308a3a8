"""Measure the search effort for each target recall, and what recall it reaches, on drawn rows.

The effort is decided on rows drawn from the whole index. An addition is a small part of them
and may differ from the rest: rows closer together than estimates can tell apart, or along
directions that the other rows lack. So each large enough part is measured on its own.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from lookalike.search import exact
from lookalike.search.cells import Cells, as_bytes
from lookalike.search.rows import Rows, draw
from lookalike.search.signatures import Effort, Signatures
from lookalike.system.arrays import Numbers, Vectors
from lookalike.system.files import new_file
from lookalike.system.untrusted import read_json

RECALLS = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
"""Target recalls that are measured."""
RECALL_K = 10
"""Recall is measured on this many nearest neighbours."""
SAMPLE_QUERIES = 200  # half of them decide the effort, half measure its recall
MIN_PART_ROWS = 256
PART_QUERIES = 64
MAX_PARTS = 16
MAX_RECALL_LOSS = 0.02  # more below the target means that the cells do not fit the rows
MAX_CANDIDATE_SHARE = 0.02  # of all rows; a recall that needs more uses exact search
MISS_RESERVE_SHARE = 1 / 3  # of the allowed misses, kept back when the effort is decided
_CELL_MISS_SHARE = 1 / 2  # of the misses are in cells that are not scanned
_REACH_QUANTILE = 0.99
_MIN_CELLS = 4
MIN_CANDIDATES_PER_NEIGHBOR = 2.5  # among fewer, neighbours always rank late
_LATENESS_QUANTILE = 0.95
_MIN_UNCHANGED_SHARE = 0.9  # of the measured rows, for the measurement to hold
_TIE_MARGIN_ROWS = 22  # matrix products do not tell near ties apart

PROFILE_ERRORS = (OSError, ValueError, TypeError, KeyError, OverflowError)
"""Errors of a damaged or missing profile file."""

Ranks = npt.NDArray[np.float64]


class OutdatedProfile(ValueError):
    """A profile in an older format; the recall is measured again when it is needed."""


class IdRange(NamedTuple):
    """Ids from `first` up to, and without, `stop`."""

    first: int
    stop: int


class DataFile(NamedTuple):
    """A data file in the log: its first and last id, and its number of rows, skipped ones too."""

    first: int
    last: int
    rows: int


@dataclass(frozen=True, order=True)
class Part:
    """Added rows that are measured on their own: a range of ids, and the estimated row count.

    `recall` has the measured recall for each of `RECALLS`, None for exact search.
    """

    first: int
    stop: int
    rows: int
    recall: tuple[float | None, ...]

    @property
    def range(self) -> IdRange:
        """The ids of the part."""
        return IdRange(self.first, self.stop)


@dataclass(frozen=True)
class RecallProfile:
    """The search effort for each target recall, and the recall it reaches, of one version.

    Attributes
    ----------
    cells : str
        Fingerprint of the cells.
    queries : int
        Number of drawn rows that the recall was measured on.
    efforts : tuple of Effort or None
        Effort for 10 neighbours at each of `RECALLS`; None for exact search.
    recall : tuple of float or None
        Measured recall at each of `RECALLS`: of all rows, or of the worst part.
    reach : float
        Distance within which nearly all drawn rows have 10 neighbours.
    rows, stop : int
        Number of measured rows; their ids are below `stop`.
    parts : tuple of Part
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
        """Return the effort for k neighbours at a target recall; None for exact search."""
        for target, effort in zip(RECALLS, self.efforts, strict=True):
            if target >= recall and effort is not None:
                return effort.scaled(max(k / RECALL_K, 1))
        return None

    def save(self, file: Path) -> None:
        """Write the profile as JSON, atomically."""
        with new_file(file) as part:
            part.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read a profile back. Raises one of `PROFILE_ERRORS`."""
        about = read_json(file)
        if "segments" in about:
            raise OutdatedProfile("measured by an older program")
        efforts = tuple(map(_parse_effort, about["efforts"]))
        recall = _parse_recalls(about["recall"])
        if len(efforts) != len(RECALLS):
            raise ValueError("of other recalls")
        parts = tuple(
            Part(
                int(one["first"]), int(one["stop"]), int(one["rows"]), _parse_recalls(one["recall"])
            )
            for one in about["parts"]
        )
        cells, queries, reach = str(about["cells"]), int(about["queries"]), float(about["reach"])
        if not 0 <= reach < math.inf:
            raise ValueError(f"no distance: {reach}")
        rows, stop = int(about["rows"]), int(about["stop"])
        return cls(cells, queries, efforts, recall, reach, rows, stop, parts)

    def fits(self, files: Sequence[DataFile]) -> bool:
        """Tell whether the efforts and the parts were measured on nearly the same rows."""
        return _nearly_equal(sum(file.rows for file in files), self.rows) and all(
            _nearly_equal(estimate_rows(files, part.range), part.rows) for part in self.parts
        )

    def holds_for(self, files: Sequence[DataFile], next_id: int) -> bool:
        """Tell whether the profile fits the files, and no large part was added since."""
        added = estimate_rows(files, IdRange(self.stop, next_id))
        return self.fits(files) and added < MIN_PART_ROWS


def _parse_effort(given: dict[str, Any] | None) -> Effort | None:
    if given is None:
        return None
    counts = int(given["cells"]), int(given["candidates"])
    effort = Effort(*counts, float(given["late_cell"]), float(given["late_rank"]))
    if not all(0 < value < math.inf for value in astuple(effort)):
        raise ValueError(f"no effort: {given}")
    return effort


def _parse_recalls(given: list[Any]) -> tuple[float | None, ...]:
    if len(given) != len(RECALLS):
        raise ValueError("of other recalls")
    shares = tuple(found if found is None else float(found) for found in given)
    if not all(share is None or 0 <= share <= 1 for share in shares):
        raise ValueError(f"no shares: {given}")
    return shares


def _nearly_equal(rows: int, others: int) -> bool:
    return min(rows, others) >= _MIN_UNCHANGED_SHARE * max(rows, others)


def estimate_rows(files: Iterable[DataFile], ids: IdRange) -> int:
    """Estimate the number of rows with ids in a range, from the id ranges of the files."""
    total = 0.0
    for first, last, rows in files:
        common = min(ids.stop, last + 1) - max(ids.first, first)
        total += rows * max(common, 0) / max(last + 1 - first, 1)
    return round(total)


def merge_ranges(ranges: Iterable[IdRange]) -> list[IdRange]:
    """Sort id ranges and merge the oldest until at most `MAX_PARTS` are left."""
    merged = sorted(set(ranges))
    while len(merged) > MAX_PARTS:
        merged[:2] = [IdRange(merged[0].first, max(merged[0].stop, merged[1].stop))]
    return merged


def lowest_recall(
    recall: Sequence[float | None], parts: Iterable[Part]
) -> tuple[float | None, ...]:
    """Return the lowest recall of all rows and of each part, for each of `RECALLS`."""
    return tuple(
        None if found is None else min(found, *(one for one in others if one is not None), 1.0)
        for found, *others in zip(recall, *(part.recall for part in parts), strict=True)
    )


def max_candidates(rows: int) -> int:
    """Return the largest number of candidates that is quicker than exact search of `rows` rows."""
    return max(round(MAX_CANDIDATE_SHARE * rows), 10 * RECALL_K)


class Estimates(Protocol):
    """What the measurement needs of signatures: rows are numbers, whatever they stand for."""

    @property
    def cells(self) -> Cells:
        """The cells."""

    @property
    def assignments(self) -> Any:
        """The cells of rows: an array, or what takes an array of rows as one does."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def nearest(self, queries: Vectors, count: int, cells: int) -> tuple[Vectors, Numbers]:
        """Do as `Signatures.nearest`; it may return fewer columns."""


class QuerySample(NamedTuple):
    """Drawn rows as queries: rows (q,), vectors (q, width), true neighbours' rows (q, 10).

    `farthest` is the distance of the tenth neighbour, (q,).
    """

    rows: Numbers
    vectors: Vectors
    true: Numbers
    farthest: Vectors

    @property
    def reach(self) -> float:
        """The distance within which nearly all of them have 10 neighbours; 0 for no query."""
        return quantile(self.farthest, _REACH_QUANTILE) if len(self.rows) else 0.0


def sample_queries(rows: Rows, count: int, within: Numbers | None = None) -> QuerySample:
    """Draw queries and find their true neighbours by exact search.

    No two queries are copies of each other: many copies, all found, would hide misses elsewhere.

    Parameters
    ----------
    rows : Rows
    count : int
        Largest number of queries.
    within : int64 (n,), optional
        Draw from these rows alone.
    """
    drawn = draw(len(rows) if within is None else len(within), 10 * count)
    drawn = drawn if within is None else within[drawn]
    distinct = np.sort(np.unique(as_bytes(rows.vectors(drawn)), return_index=True)[1])
    drawn = drawn[np.sort(np.random.default_rng(2).permutation(distinct)[:count])]
    vectors = rows.vectors(drawn)
    k = min(RECALL_K + 1 + _TIE_MARGIN_ROWS, len(rows))
    near = exact.exact_many(rows, vectors, k)[1]
    true = np.empty((len(drawn), RECALL_K), np.int64)
    farthest = np.empty(len(drawn), np.float32)
    for at, own in enumerate(drawn):
        others = np.sort(near[at][near[at] != own])
        squared = rows.squared_distances(vectors[at], others)
        best = np.lexsort((rows.ids[others], squared))[:RECALL_K]
        true[at], farthest[at] = others[best], squared[best[-1]] ** 0.5
    return QuerySample(drawn, vectors, true, farthest)


def measure_profile(
    signatures: Estimates, sample: QuerySample, rows: int, stop: int
) -> RecallProfile:
    """Decide the effort for each of `RECALLS` on half of a sample; measure it on the other half.

    Parameters
    ----------
    signatures : Estimates
        Signatures, or what estimates distances as they do.
    sample : QuerySample
    rows : int
        Number of rows in the log, skipped ones too.
    stop : int
        The next free id.
    """
    cells = signatures.cells
    reach = sample.reach
    if len(sample.rows) < 2:  # nothing but copies
        nothing = (None,) * len(RECALLS)
        return RecallProfile(cells.fingerprint, 0, nothing, nothing, reach, rows, stop)
    order = np.random.default_rng(1).permutation(len(sample.rows))
    half, check = order[: len(order) // 2], order[len(order) // 2 :]
    places = cell_ranks(signatures, sample)
    efforts: list[Effort | None] = []
    reached: list[float | None] = []
    for recall in RECALLS:
        missed = (1 - recall) * (1 - MISS_RESERVE_SHARE)
        scanned = max(int(quantile(places[half], 1 - missed * _CELL_MISS_SHARE)), _MIN_CELLS)
        ranks = candidate_ranks(signatures, sample, scanned)
        count = max(quantile(ranks[half], 1 - missed), MIN_CANDIDATES_PER_NEIGHBOR * RECALL_K)
        if not np.isfinite(count):
            efforts.append(None)
            reached.append(None)
            continue
        late = late_share(places, scanned), late_share(ranks, count)
        efforts.append(Effort(scanned, int(count), *late))
        reached.append(round(float(np.mean(ranks[check] <= count)), 4))
    return RecallProfile(
        cells.fingerprint, len(check), tuple(efforts), tuple(reached), reach, rows, stop
    )


def measure_recall(signatures: Signatures, sample: QuerySample, effort: Effort) -> float:
    """Return the recall of a sample at a fixed effort."""
    ranks = candidate_ranks(signatures, sample, effort.cells)
    return float(np.mean(ranks <= effort.candidates))


def cell_ranks(signatures: Estimates, sample: QuerySample) -> Numbers:
    """Return the rank of the cell of each true neighbour, from 1: int64 (q, 10)."""
    cells = signatures.cells
    order = cells.nearest(cells.rotation(sample.vectors), len(cells))
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, len(cells) + 1)[None], axis=1)
    return np.take_along_axis(ranks, signatures.assignments[sample.true].astype(np.int64), axis=1)


def candidate_ranks(signatures: Estimates, sample: QuerySample, cells: int) -> Ranks:
    """Return the rank of each true neighbour among the candidates in the nearest `cells` cells.

    float64 (q, 10), from 1; infinite beyond `max_candidates`.
    """
    count = max_candidates(len(signatures)) + 1
    _, found = signatures.nearest(sample.vectors, count, cells)
    ranks = np.full(sample.true.shape, np.inf)
    for at, (own, some) in enumerate(zip(sample.rows, found, strict=True)):
        some = some[(some != own) & (some >= 0)]
        rank = dict(zip(some.tolist(), range(1, len(some) + 1), strict=True))
        ranks[at] = [rank.get(row, np.inf) for row in sample.true[at].tolist()]
    return ranks


def late_share(ranks: npt.NDArray[Any], scanned: float) -> float:
    """Return the mean rank of found neighbours that few queries exceed, as a share of `scanned`.

    `ranks` (q, 10) are those of true neighbours, from 1.
    """
    seen = np.where(ranks <= scanned, ranks, np.nan)
    means = np.nanmean(seen[np.isfinite(seen).any(axis=1)], axis=1)
    if not len(means):
        return 1.0
    return min(float(np.quantile(means, _LATENESS_QUANTILE)) / scanned, 1.0)


def quantile(values: npt.NDArray[Any], share: float) -> float:
    """Return the least value that at least this share of the values does not exceed."""
    return float(np.quantile(values, share, method="inverted_cdf"))
