"""A collection made ready to be searched: its signatures, and how hard a recall has to look.

What takes time is done once and kept: the cells with the collection, the signatures of each segment
in its cache, the effort that each recall takes with the version. Where the collection cannot be
written to, it costs that time again in the next process. Neither a JVM nor torch is started.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from lookalike import search
from lookalike.defaults import RECALL
from lookalike.embedding import Vectors
from lookalike.engine import KNN_ENGINES, KnnEngine, check_engine
from lookalike.errors import LookalikeError, Unreadable, says_nothing
from lookalike.hashing.cells import (
    POINTS,
    ROTATION_SAMPLE,
    Cells,
    Codes,
    Homes,
    Rotation,
    cell_count,
)
from lookalike.hashing.signatures import Effort, Signatures
from lookalike.measuring import (
    DAMAGED,
    NEIGHBORS,
    PART,
    PART_QUERIES,
    QUERIES,
    RECALLS,
    SHORT,
    Asking,
    File,
    Measured,
    Older,
    Part,
    Range,
    ask,
    decide,
    found_so,
    least,
    merged,
    most_candidates,
    rows_in,
)
from lookalike.search import Mask, Neighbor, Numbers, Rows
from lookalike.storage import EmbeddingTable, Segment

__all__ = ["NEIGHBORS", "QUERIES", "RECALLS", "Measured", "Searcher"]

EXACT_UP_TO = 10_000
"""Rows up to which exact search takes a millisecond at most, and misses nothing."""
_FEW = 2 * NEIGHBORS + 2  # rows at least, or there is nothing to measure
_HARDER = 3  # times the effort, where what was measured does not hold
_GROWN = 2  # times as many rows as the cells were fitted to: they are fitted again
_UNLIKE = 1 / 128
"""Of all rows: so many that cells do not describe, and they are fitted again. It takes 30
microseconds a row of all, less than half of what it took to embed those."""
_ROUNDING = 1e-6  # of a distance
_NEARLY = 1 / 2  # of all rows are enough to say what is usual
_OF_A_PART = ROTATION_SAMPLE // 8  # rows drawn from a part that is to be described too


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

    def __init__(self, collection: EmbeddingTable) -> None:
        self.collection = collection
        self.rows = Rows(collection.segments)

    def nearest(
        self,
        query: Vectors,
        k: int,
        *,
        engine: KnnEngine = "auto",
        recall: float = RECALL,
        without: int | None = None,
        allowed: Mask | None = None,
    ) -> tuple[list[Neighbor], KnnEngine, int]:
        """Return the k nearest rows to a query, the engine, and how many rows it compared with.

        `auto` compares all rows (`exact`) while that is as quick, and where `recall` takes too many
        candidates; else those whose signatures are near (`approximate`). The effort was measured
        with the collection's own rows: a query that is a stranger to them, or to what `allowed`
        leaves in, is searched harder until that changes nothing. `without` and `allowed` as in
        `search.exact`. With `approximate` search is exact only where it would have to compare a
        good part of all rows.
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
                return found, "approximate", compared
            before, effort = found, effort.times(_HARDER)
        return search.exact(self.rows, query, k, without, allowed), "exact", left

    def _are_far(self, found: list[Neighbor]) -> bool:
        return bool(found) and found[:NEIGHBORS][-1].distance > self.measured.reach

    def effort(self, k: int, engine: str, recall: float, left: int) -> Effort | None:
        """Return how hard to look where `left` rows are left in; None to compare all of them.

        Raises `LookalikeError` for an unknown engine and for a recall outside 0..1.
        """
        check_engine(engine, KNN_ENGINES)
        search.check_recall(recall)
        if len(self.rows) < _FEW or not self.may_estimate(engine, recall, left):
            return None
        effort = self.measured.effort(recall, k)
        if effort is None and engine == "approximate":
            effort = Effort(len(self.cells), most_candidates(len(self.rows)))
        # Where few rows are left in, as many of them are in more cells.
        return effort and replace(effort, cells=round(effort.cells * len(self.rows) / max(left, 1)))

    def may_estimate(self, engine: str, recall: float, left: int) -> bool:
        """Say whether search may go by signatures."""
        return engine == "approximate" or (engine == "auto" and left > EXACT_UP_TO and recall < 1)

    def known_recall(self) -> float | None:
        """Return the recall@10 that signatures have at `RECALL`; None where it is not measured."""
        known = self.known()
        return known.recall[RECALLS.index(RECALL)] if known else None

    def known(self) -> Measured | None:
        """Return what the signatures are worth; None where it is not measured yet.

        It was measured with this version, or with one that has nearly the same rows.
        """
        for kept in self._kept():
            if kept.holds_for(self._files, self.collection.next_id):
                return kept
        return None

    def _kept(self) -> Iterator[Measured]:
        """Give what was measured with this version and older ones, the newest first."""
        for version in sorted(self.collection.measured_versions(), reverse=True):
            with contextlib.suppress(*DAMAGED):
                yield Measured.load(self._measured_file(version))

    @cached_property
    def _files(self) -> list[File]:
        return [File(first, last, rows) for _, first, last, rows in self.collection.id_ranges()]

    def _measured_file(self, version: int) -> Path:
        return self.collection.signature_folder / f"{version}.json"

    def get_ready(self) -> None:
        """Make or read all that search by signatures needs."""
        if len(self.rows) >= _FEW:
            _ = self.measured, self.signatures

    @cached_property
    def cells(self) -> Cells:
        """The cells of the collection, found when they are first needed and when it has grown."""
        try:
            kept = Cells.load(self._cells_file)
            width = self.collection.about_model["width"]
            if len(self.rows) <= _GROWN * kept.rows and kept.rotation.directions.shape[1] == width:
                return kept
        except Unreadable:
            raise
        except LookalikeError:  # none yet, or damaged ones
            pass
        before = next(self._kept(), None)
        return self._fit([] if before is None else self._ranges(before))

    @property
    def _cells_file(self) -> Path:
        return self.collection.signature_folder / "cells.npz"

    def _fit(self, parts: Sequence[Range]) -> Cells:
        """Fit cells to all rows, and directions to those of some parts as well, however few."""
        total = len(self.rows)
        some = [search.draw(total, ROTATION_SAMPLE)]
        for ids in parts:
            rows = self._rows_in(ids)
            some.append(rows[search.draw(len(rows), _OF_A_PART)])
        rotation = Rotation.fit(self.rows.vectors(np.unique(np.concatenate(some))))
        drawn = search.draw(total, POINTS * cell_count(total))
        blocks = np.array_split(drawn, -(-len(drawn) // ROTATION_SAMPLE))
        sample = np.concatenate([rotation(self.rows.vectors(block)) for block in blocks])
        cells = Cells.fit(rotation, sample, total, self.collection.next_id)
        self._keep(partial(cells.save, self._cells_file))
        return cells

    @cached_property
    def signatures(self) -> Signatures:
        """The signatures of all rows; made, segment by segment, where the cache lacks them."""
        segments, cells = self.rows.segments, self.cells
        homes = [home(segment, cells) for segment in segments]
        return Signatures(cells, homes, [signed(segment, cells) for segment in segments])

    @cached_property
    def measured(self) -> Measured:
        """What the signatures of this version are worth, measured when it is first needed.

        Where rows were added that the cells do not describe, and not too few, these are fitted
        again.
        """
        kept = self.known()
        if kept is not None and kept.cells == self.cells.fingerprint:
            return kept
        measured = self._measure(next(self._kept(), None))
        self._keep(partial(measured.save, self._measured_file(self.collection.version)))
        return measured

    def _measure(self, before: Measured | None, fitted: bool = False) -> Measured:
        """Measure all of it, or, where that still holds, only what was added since.

        `fitted` says that cells were fitted for the sake of what was added.
        """
        stop, cells = self.collection.next_id, self.cells
        ranges = [] if before is None else self._ranges(before)
        known: dict[Range, Part] = {}
        if before is not None and before.cells == cells.fingerprint and before.fits(self._files):
            measured, known = before, {part.range: part for part in before.parts}
        else:
            asking = ask(self.rows, QUERIES, self._rows_beside(ranges))
            count = sum(file.rows for file in self._files)
            measured = decide(self.signatures, asking, count, stop)
        usual = [one for one in zip(RECALLS, measured.efforts, strict=True) if one[0] <= RECALL]
        recall, effort = next(((r, e) for r, e in reversed(usual) if e is not None), (0.0, None))
        new: list[tuple[Range, Asking]] = []
        unlike = sum(len(self._rows_in(ids)) for ids in known if ids.first >= cells.stop)
        for ids in ranges:
            if ids not in known and effort is not None:
                some = self._rows_in(ids)
                asking = ask(self.rows, PART_QUERIES, some)
                is_short = found_so(self.signatures, asking, effort) < recall - SHORT
                if is_short or fitted or ids.stop <= (before.stop if before else 0):
                    new.append((ids, asking))
                if is_short and ids.first >= cells.stop:
                    unlike += len(some)
                if not is_short:  # such rows are no strangers
                    measured = replace(measured, reach=max(measured.reach, asking.reach))
        if unlike > _UNLIKE * len(self.rows):
            self.cells = self._fit(ranges)
            self.__dict__.pop("signatures", None)  # where they were made: they are of other cells
            return self._measure(before, fitted=True)
        self.measured = measured  # to search with
        parts = [part for ids, part in known.items() if ids in ranges]
        for ids, asking in new:
            parts.append(Part(*ids, rows_in(self._files, ids), self._recall(asking)))
        least_recall = least(measured.recall, parts)
        return replace(measured, recall=least_recall, stop=stop, parts=tuple(sorted(parts)))

    def _ranges(self, before: Measured) -> list[Range]:
        """Return the ids of parts: of those that differed before, and of what was added since."""
        parts = [
            *(part.range for part in before.parts),
            Range(before.stop, self.collection.next_id),
        ]
        return merged(ids for ids in parts if len(self._rows_in(ids)) >= PART)

    def _rows_beside(self, parts: Sequence[Range]) -> Numbers | None:
        """Return the rows that are in no part, rising; None for all, where they are not most."""
        beside = np.ones(len(self.rows), bool)
        for ids in parts:
            beside[self._rows_in(ids)] = False
        rest = np.flatnonzero(beside)
        return rest if len(rest) >= _NEARLY * len(beside) else None

    def _rows_in(self, ids: Range) -> Numbers:
        """Return the rows with such ids, rising."""
        return np.flatnonzero((self.rows.ids >= ids.first) & (self.rows.ids < ids.stop))

    def _recall(self, asking: Asking) -> tuple[float | None, ...]:
        """Return for each of `RECALLS` what share of their neighbours rows find by a search."""
        own = self.rows.ids[asking.rows].tolist()
        shares: list[float | None] = []
        for recall, effort in zip(RECALLS, self.measured.efforts, strict=True):
            if effort is None:
                shares.append(None)
                continue
            right = 0
            for number, vector, far in zip(own, asking.vectors, asking.farthest, strict=True):
                found, *_ = self.nearest(
                    vector, NEIGHBORS, engine="approximate", recall=recall, without=number
                )
                right += sum(one.distance <= far * (1 + _ROUNDING) for one in found)
            shares.append(round(right / max(len(own) * NEIGHBORS, 1), 4))
        return tuple(shares)

    def _keep(self, save: "partial[None]") -> None:
        folder = self.collection.signature_folder
        if os.access(self.collection.path, os.W_OK) and self.collection.is_in_place():
            with contextlib.suppress(OSError):  # a full disk costs time, not the answer
                folder.mkdir(exist_ok=True)
                save()


def check_signatures(table: EmbeddingTable) -> Iterator[tuple[Path, str]]:
    """Give each file about the signatures of a table that cannot be used, and why.

    Raises `Unreadable` where a file cannot be read, which says nothing about it.
    """
    folder = table.signature_folder
    width = table.about_model["width"]
    if folder.is_symlink():  # what it leads to is not ours to repair
        return
    file = folder / "cells.npz"
    if file.exists():
        try:
            if Cells.load(file).rotation.directions.shape[1] != width:
                raise LookalikeError(f"they are not for vectors of {width} numbers")
        except Unreadable:
            raise
        except (LookalikeError, *DAMAGED) as error:
            yield file, str(error)
    for file in sorted(folder.glob("*.json")):
        try:
            Measured.load(file)
        except Older:
            continue
        except DAMAGED as error:
            if says_nothing(error):
                raise Unreadable(file, error) from None
            yield file, f"is damaged ({error})"
