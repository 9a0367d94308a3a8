"""A collection made ready to be searched: its signatures, and how hard a recall has to look.

What takes time is done once and kept: the cells with the collection, the signatures of each segment
in its cache, the effort that each recall takes with the version. Where the collection cannot be
written to, it costs that time again in the next process. Neither a JVM nor torch is started.
"""

import contextlib
import json
import os
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from lookalike import search
from lookalike.cache import new_file
from lookalike.collection import Collection, Segment
from lookalike.embedding import Vectors
from lookalike.errors import LookalikeError, Unreadable
from lookalike.hashing.cells import (
    POINTS,
    ROTATION_SAMPLE,
    Cells,
    Codes,
    Homes,
    Rotation,
    as_bytes,
    cell_count,
)
from lookalike.hashing.signatures import Effort, Signatures
from lookalike.search import Mask, Neighbor, Numbers, Rows
from lookalike.untrusted import read_json

EXACT_UP_TO = 10_000
"""Rows up to which exact search takes a millisecond at most, and misses nothing."""
RECALL = 0.98
RECALLS = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
NEIGHBORS = 10  # that the recalls are of
QUERIES = 200  # rows drawn: half say how hard a recall has to look, half what that is worth
_MOST = 0.02  # of all rows are candidates; a recall that takes more is left to exact search
_FEW = 2 * NEIGHBORS + 2  # rows at least, or there is nothing to measure
_RESERVE = 1 / 3  # of what a recall allows to miss is not missed by the half that decides
_BY_CELLS = 1 / 2  # of what is missed lies in cells that are not looked into
_HARDER = 3  # times the effort, where what was measured does not hold
_USUAL = 0.99  # of the drawn rows have their neighbours within reach
_MOSTLY = 0.95  # of the drawn rows find their neighbours no later than what is late
_NEARLY = 0.9  # of the rows are those that were measured: what was found holds
_GROWN = 2  # times as many rows as the cells were fitted to: they are fitted again
_EFFORT = [field.name for field in fields(Effort)]

DAMAGED = (OSError, ValueError, TypeError, KeyError)
Engine = Literal["exact", "lsh"]


@dataclass(frozen=True)
class Measured:
    """What the signatures of one version are worth, measured on drawn rows.

    `efforts` has for each of `RECALLS` how hard to look for 10 neighbours, None where only exact
    search will do; `recall` what share of them `queries` other drawn rows found so. `reach` is a
    distance within which nearly all drawn rows have 10 neighbours. `cells` is the fingerprint of
    those that were measured, `segments` names the rows: a segment each, and how many it has.
    """

    cells: str
    queries: int
    efforts: tuple[Effort | None, ...]
    recall: tuple[float | None, ...]
    reach: float
    segments: dict[str, int]

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
        efforts = tuple(effort and Effort(**effort) for effort in about["efforts"])
        recall = tuple(found if found is None else float(found) for found in about["recall"])
        if not len(efforts) == len(recall) == len(RECALLS):
            raise ValueError("of other recalls")
        given = [effort for effort in about["efforts"] if effort]
        if any(not min(map(effort.__getitem__, _EFFORT)) > 0 for effort in given):
            raise ValueError("no effort, or one that says not what is late")
        cells, queries, reach = str(about["cells"]), int(about["queries"]), about["reach"] + 0.0
        segments = {str(name): int(rows) for name, rows in about["segments"].items()}
        return cls(cells, queries, efforts, recall, reach, segments)

    def holds_for(self, segments: dict[str, int]) -> bool:
        """Say whether nearly the same rows were measured as these segments hold."""
        common = sum(rows for name, rows in segments.items() if name in self.segments)
        return common >= _NEARLY * max(sum(segments.values()), sum(self.segments.values()))


def home(segment: Segment, cells: Cells) -> Homes:
    """Return the cell of each row of a segment, int32 (rows,), from its cache or found."""
    return segment.derived("cells", cells.fingerprint, lambda one: cells.home(one.vectors))


def signed(segment: Segment, cells: Cells) -> Codes:
    """Return the signatures of a segment, uint8 (rows, bytes), from its cache or made for it."""
    return segment.derived(
        "signatures", cells.fingerprint, lambda one: cells.sign(one.vectors, home(one, cells))
    )


class Searcher:
    """A collection at one version, ready to be searched."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.rows = Rows(collection.segments)

    def nearest(
        self,
        query: Vectors,
        k: int,
        *,
        engine: Literal["auto", "exact", "lsh"] = "auto",
        recall: float = RECALL,
        without: int | None = None,
        allowed: Mask | None = None,
    ) -> tuple[list[Neighbor], Engine, int]:
        """Return the k nearest rows to a query, the engine, and how many rows it compared with.

        `auto` compares all rows (`exact`) while that is as quick, and where `recall` takes too many
        candidates; else those whose signatures are near (`lsh`). The effort was measured with the
        collection's own rows: a query that is a stranger to them, or to what `allowed` leaves in,
        is searched harder until that changes nothing. `without` and `allowed` as in `search.exact`.
        With `lsh` search is exact only where it would have to look at a good part of all rows.
        """
        left = len(self.rows) if allowed is None else int(np.count_nonzero(allowed))
        effort = self.effort(k, engine, recall, left)
        before: list[Neighbor] | None = None
        while effort is not None:
            found, compared = search.approximate(
                self.rows, self.signatures, query, k, effort, without, allowed
            )
            if compared is None:
                return found, "exact", left
            if found == before or not (allowed is not None or self._are_far(found)):
                return found, "lsh", compared
            before, effort = found, effort.times(_HARDER)
        return search.exact(self.rows, query, k, without, allowed), "exact", left

    def _are_far(self, found: list[Neighbor]) -> bool:
        return bool(found) and found[:NEIGHBORS][-1].distance > self.measured.reach

    def effort(self, k: int, engine: str, recall: float, left: int) -> Effort | None:
        """Return how hard to look where `left` rows are left in; None to compare all of them.

        Raises `LookalikeError` for another engine than `auto`, `exact` and `lsh`, and for a recall
        that is none.
        """
        if engine not in ("auto", "exact", "lsh"):
            raise LookalikeError(f"no engine {engine!r}: say auto, exact or lsh")
        if not 0 < recall <= 1:
            raise LookalikeError(f"recall {recall} is not over 0 and up to 1: say 1 to compare all")
        if len(self.rows) < _FEW or not self.may_estimate(engine, recall, left):
            return None
        effort = self.measured.effort(recall, k)
        if effort is None and engine == "lsh":
            effort = Effort(len(self.cells), self._most)
        # Where few rows are left in, as many of them are in more cells.
        return effort and replace(effort, cells=round(effort.cells * len(self.rows) / max(left, 1)))

    def may_estimate(self, engine: str, recall: float, left: int) -> bool:
        """Say whether search may go by signatures."""
        return engine == "lsh" or (engine == "auto" and left > EXACT_UP_TO and recall < 1)

    @property
    def _most(self) -> int:
        return max(round(_MOST * len(self.rows)), 10 * NEIGHBORS)

    def known_recall(self) -> float | None:
        """Return the recall@10 that signatures have at `RECALL`; None where it is not measured."""
        known = self.known()
        return known.recall[RECALLS.index(RECALL)] if known else None

    def known(self) -> Measured | None:
        """Return what the signatures are worth; None where it is not measured yet.

        It was measured with this version, or with one that has nearly the same rows.
        """
        newest_first = sorted(self.collection.measured_versions(), reverse=True)
        for version in newest_first:
            with contextlib.suppress(*DAMAGED):
                kept = Measured.load(self._measured_file(version))
                if kept.holds_for(self._segments):
                    return kept
        return None

    @cached_property
    def _segments(self) -> dict[str, int]:
        return {file.stem[:12]: rows for file, _, _, rows in self.collection.ranges()}

    def _measured_file(self, version: int) -> Path:
        return self.collection.signature_folder / f"{version}.json"

    def get_ready(self) -> None:
        """Make or read all that search by signatures needs."""
        if len(self.rows) >= _FEW:
            _ = self.signatures, self.measured

    @cached_property
    def cells(self) -> Cells:
        """The cells of the collection, found when they are first needed and when it has grown."""
        file = self.collection.signature_folder / "cells.npz"
        try:
            kept = Cells.load(file)
            width = self.collection.about_model["width"]
            if len(self.rows) <= _GROWN * kept.rows and kept.rotation.directions.shape[1] == width:
                return kept
        except Unreadable:
            raise
        except LookalikeError:  # none yet, or damaged ones
            pass
        rotation = Rotation.fit(self.rows.vectors(search.draw(len(self.rows), ROTATION_SAMPLE)))
        drawn = search.draw(len(self.rows), POINTS * cell_count(len(self.rows)))
        blocks = np.array_split(drawn, -(-len(drawn) // ROTATION_SAMPLE))
        sample = np.concatenate([rotation(self.rows.vectors(block)) for block in blocks])
        cells = Cells.fit(rotation, sample, len(self.rows))
        self._keep(partial(cells.save, file))
        return cells

    @cached_property
    def signatures(self) -> Signatures:
        """The signatures of all rows; made, segment by segment, where the cache lacks them."""
        segments, cells = self.rows.segments, self.cells
        homes = [home(segment, cells) for segment in segments]
        return Signatures(cells, homes, [signed(segment, cells) for segment in segments])

    @cached_property
    def measured(self) -> Measured:
        """What the signatures of this version are worth, measured when it is first needed."""
        kept = self.known()
        if kept is not None and kept.cells == self.cells.fingerprint:
            return kept
        measured = self._measure()
        self._keep(partial(measured.save, self._measured_file(self.collection.version)))
        return measured

    def _measure(self) -> Measured:
        drawn, queries, true, reach = self._known()
        if len(drawn) < 2:  # nothing but copies
            nothing = (None,) * len(RECALLS)
            return Measured(self.cells.fingerprint, 0, nothing, nothing, reach, self._segments)
        order = np.random.default_rng(1).permutation(len(drawn))
        decide, check = order[: len(order) // 2], order[len(order) // 2 :]
        places = self._cell_places(queries, true)
        efforts: list[Effort | None] = []
        reached: list[float | None] = []
        for recall in RECALLS:
            missed = (1 - recall) * (1 - _RESERVE)
            cells = int(_quantile(places[decide], 1 - missed * _BY_CELLS))
            ranks = self._ranks(drawn, queries, true, cells)
            count = _quantile(ranks[decide], 1 - missed)
            few = np.isfinite(count)
            late = _lateness(places, cells), _lateness(ranks, count)
            efforts.append(Effort(cells, int(count), *late) if few else None)
            reached.append(round(float(np.mean(ranks[check] <= count)), 4) if few else None)
        return Measured(
            self.cells.fingerprint,
            len(check),
            tuple(efforts),
            tuple(reached),
            reach,
            self._segments,
        )

    def _known(self) -> tuple[Numbers, Vectors, Numbers, float]:
        """Draw rows (q,); return them, their vectors, their true neighbours (q, 10), their reach.

        No two of them are copies of each other: a heap of copies, all found, would hide what is
        missed beside it.
        """
        some = search.draw(len(self.rows), 10 * QUERIES)
        kinds = np.sort(np.unique(as_bytes(self.rows.vectors(some)), return_index=True)[1])
        drawn = some[np.sort(np.random.default_rng(2).permutation(kinds)[:QUERIES])]
        queries = self.rows.vectors(drawn)
        squared, nearest = search.exact_many(self.rows, queries, NEIGHBORS + 1)
        reach = _quantile(np.maximum(squared[:, -1], 0), _USUAL) ** 0.5
        true = [rows[rows != own][:NEIGHBORS] for own, rows in zip(drawn, nearest, strict=True)]
        return drawn, queries, np.array(true), reach

    def _cell_places(self, queries: Vectors, true: Numbers) -> Numbers:
        """Return which cell, nearest first and counted from 1, holds each neighbour (q, 10)."""
        order = self.cells.nearest(self.cells.rotation(queries), len(self.cells))
        places = np.empty_like(order)
        np.put_along_axis(places, order, np.arange(1, len(self.cells) + 1)[None], axis=1)
        homes = np.concatenate([home(segment, self.cells) for segment in self.rows.segments])
        return np.take_along_axis(places, homes[true].astype(np.int64), axis=1)

    def _ranks(
        self, drawn: Numbers, queries: Vectors, true: Numbers, cells: int
    ) -> npt.NDArray[np.float64]:
        """Return which candidate each neighbour (q, 10) is, where so many cells are looked into.

        Counted from 1, infinite beyond `_MOST` of all rows.
        """
        _, found = self.signatures.nearest(queries, self._most + 1, cells)
        ranks = np.full(true.shape, np.inf)
        for at, (own, some) in enumerate(zip(drawn, found, strict=True)):
            some = some[(some != own) & (some >= 0)]
            place = dict(zip(some.tolist(), range(1, len(some) + 1), strict=True))
            ranks[at] = [place.get(row, np.inf) for row in true[at].tolist()]
        return ranks

    def _keep(self, save: "partial[None]") -> None:
        folder = self.collection.signature_folder
        if os.access(self.collection.path, os.W_OK) and self.collection.is_in_place():
            with contextlib.suppress(OSError):  # a full disk costs time, not the answer
                folder.mkdir(exist_ok=True)
                save()


def _lateness(places: npt.NDArray[Any], looked_at: float) -> float:
    """Return how late, in shares of all looked at, what is found stands for most queries.

    `places` are those of the neighbours of each query (q, 10), counted from 1.
    """
    seen = np.where(places <= looked_at, places, np.nan)
    means = np.nanmean(seen[np.isfinite(seen).any(axis=1)], axis=1)
    return min(float(np.quantile(means, _MOSTLY)) / looked_at, 1.0) if len(means) else 1.0


def _quantile(values: npt.NDArray[Any], share: float) -> float:
    """Return the least value that so large a share does not exceed."""
    return float(np.quantile(values, share, method="inverted_cdf"))
