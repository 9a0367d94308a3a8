"""Search one version of an index, with a search effort measured for each target recall.

What takes time is done once and saved: the cells with the index, the signatures of each
segment in its cache, the recall profile with the version. In a read-only index each process
does it again. Neither a JVM nor torch is started.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from lookalike.errors import LookalikeError, Unreadable, says_nothing
from lookalike.search import approximate, exact
from lookalike.search.cells import (
    ROTATION_SAMPLE_ROWS,
    SAMPLE_ROWS_PER_CELL,
    Assignments,
    Cells,
    Codes,
    Rotation,
    cell_count,
    fitting_rows,
)
from lookalike.search.engines import KNN_ENGINES, KnnEngine, check_engine
from lookalike.search.recall import (
    MAX_RECALL_LOSS,
    MIN_PART_ROWS,
    PART_QUERIES,
    PROFILE_ERRORS,
    RECALL_K,
    RECALLS,
    SAMPLE_QUERIES,
    DataFile,
    IdRange,
    OutdatedProfile,
    Part,
    QuerySample,
    RecallProfile,
    estimate_rows,
    lowest_recall,
    max_candidates,
    measure_profile,
    measure_recall,
    merge_ranges,
    sample_queries,
)
from lookalike.search.regions import Regions, open_regions
from lookalike.search.rows import Neighbor, Rows, check_recall, draw, fetch
from lookalike.search.signatures import Effort, Signatures
from lookalike.storage import EmbeddingTable, Segment, push
from lookalike.system.arrays import Mask, Numbers, Vectors
from lookalike.system.defaults import TARGET_RECALL
from lookalike.system.store import StoreError

__all__ = ["RECALLS", "RECALL_K", "SAMPLE_QUERIES", "RecallProfile", "Searcher"]

EXACT_UP_TO = 10_000
"""Rows up to which exact search takes a millisecond at most, and misses nothing."""
_MIN_APPROXIMATE_ROWS = 2 * RECALL_K + 2
_EFFORT_FACTOR = 3  # for each wider search, where the measured effort may not suffice
_MAX_GROWTH = 2  # of an index, before its cells are fitted again
_MAX_UNLIKE_SHARE = 1 / 128
"""Share of all rows that the cells may fit badly. Above it the cells are fitted again, which takes
30 microseconds per row of the index: less than half of the time to embed those rows."""
_DISTANCE_TOLERANCE = 1e-6  # relative
_MIN_REST_SHARE = 1 / 2  # of all rows, to measure the rest without the parts
_PART_SAMPLE_ROWS = ROTATION_SAMPLE_ROWS // 8


def assign_cells(segment: Segment, cells: Cells) -> Assignments:
    """Return the cell of each row of a segment, int32 (rows,), from its cache where possible."""
    return segment.derived("cells", cells.fingerprint, lambda one: cells.assign(one.vectors))


def encode_segment(segment: Segment, cells: Cells) -> Codes:
    """Return the signatures of a segment, uint8 (rows, bytes), from its cache where possible."""
    return segment.derived(
        "signatures",
        cells.fingerprint,
        lambda one: cells.encode(one.vectors, assign_cells(one, cells)),
    )


class Searcher:
    """Exact and approximate search of one version of an index."""

    def __init__(self, table: EmbeddingTable) -> None:
        self.table = table

    @cached_property
    def rows(self) -> Rows:
        """The rows, mapped on first use; of an index in a store all data files are fetched."""
        return Rows(fetch(self.table.segments))

    @cached_property
    def regions(self) -> Regions | None:
        """The regions that search reads by ranges; None without any. `LookalikeError` if damaged.

        Only an index with many rows has any use for them.
        """
        return open_regions(self.table)

    def usable_regions(self, engine: str, recall: float) -> Regions | None:
        """Return the regions where a search among all rows may be approximate and they exist."""
        rows = self.table.counts()[0]
        return self.regions if self.may_approximate(engine, recall, rows) else None

    def nearest(
        self,
        query: Vectors,
        k: int,
        *,
        engine: KnnEngine = "auto",
        recall: float = TARGET_RECALL,
        without: int | None = None,
        allowed: Mask | None = None,
    ) -> tuple[list[Neighbor], KnnEngine, int]:
        """Find the k nearest rows to a query.

        The effort was measured with rows of the index itself. For a query far from all rows,
        or with a filter, the effort is raised until the result stays the same.

        Parameters
        ----------
        query : float32 (width,)
            Of length 1.
        k : int
        engine : {"auto", "exact", "approximate"}
            `exact` compares all rows. `approximate` compares candidates with near signatures, and
            is exact only where the candidates are a large share of all rows. `auto` is exact where
            that is as quick, or where `recall` needs too many candidates.
        recall : float
            Target recall, above 0 and up to 1.
        without : int, optional
            Leave out the row with this id.
        allowed : bool (rows,), optional
            Leave out the rows where this is False.

        Returns
        -------
        neighbors : list of Neighbor
        engine : {"exact", "approximate"}
            The engine that was used.
        compared : int
            Number of rows whose vectors were compared with the query.

        Raises
        ------
        LookalikeError
            For an unknown engine or a recall out of range.
        """
        left = len(self.rows) if allowed is None else int(np.count_nonzero(allowed))
        effort = self.effort(k, engine, recall, left)
        before: list[Neighbor] | None = None
        while effort is not None:
            found, compared = approximate.approximate(
                self.rows, self.signatures, query, k, effort, without, allowed
            )
            if compared is None:
                return found, "exact", left
            if found == before or not (allowed is not None or self._beyond_reach(found)):
                return found, "approximate", compared
            before, effort = found, effort.scaled(_EFFORT_FACTOR)
        return exact.exact(self.rows, query, k, without, allowed), "exact", left

    def _beyond_reach(self, found: list[Neighbor]) -> bool:
        return bool(found) and found[:RECALL_K][-1].distance > self.profile.reach

    def effort(self, k: int, engine: str, recall: float, left: int) -> Effort | None:
        """Return the search effort among `left` rows; None for exact search.

        Raises `LookalikeError` for an unknown engine and for a recall out of range.
        """
        check_engine(engine, KNN_ENGINES)
        check_recall(recall)
        if len(self.rows) < _MIN_APPROXIMATE_ROWS or not self.may_approximate(engine, recall, left):
            return None
        effort = self.profile.effort(recall, k)
        if effort is None and engine == "approximate":
            effort = Effort(len(self.cells), max_candidates(len(self.rows)))
        # The same number of allowed rows spreads over more cells.
        return effort and replace(effort, cells=round(effort.cells * len(self.rows) / max(left, 1)))

    def may_approximate(self, engine: str, recall: float, left: int) -> bool:
        """Tell whether a search among `left` rows may use signatures."""
        return engine == "approximate" or (engine == "auto" and left > EXACT_UP_TO and recall < 1)

    def known_recall(self) -> float | None:
        """Return the measured recall@10 at `TARGET_RECALL`; None before it is measured."""
        saved = self.saved_profile()
        return saved.recall[RECALLS.index(TARGET_RECALL)] if saved else None

    def saved_profile(self) -> RecallProfile | None:
        """Return a saved profile that holds for the rows of this version; None without one."""
        for saved in self._saved_profiles():
            if saved.holds_for(self._files, self.table.next_id):
                return saved
        return None

    def _saved_profiles(self) -> Iterator[RecallProfile]:
        """Load the profiles of this version and of older ones, the newest first."""
        names = (file.stem for file in self.table.signature_folder.glob("*.json"))
        measured = (int(name) for name in names if name.isdecimal())
        for version in sorted((v for v in measured if v <= self.table.version), reverse=True):
            with contextlib.suppress(*PROFILE_ERRORS):
                yield RecallProfile.load(self._profile_file(version))

    @cached_property
    def _files(self) -> list[DataFile]:
        return [DataFile(first, last, rows) for _, first, last, rows in self.table.id_ranges()]

    def _profile_file(self, version: int) -> Path:
        return self.table.signature_folder / f"{version}.json"

    def get_ready(self) -> None:
        """Load or make the profile and the signatures, so that the first search is quick."""
        if len(self.rows) >= _MIN_APPROXIMATE_ROWS:
            _ = self.profile, self.signatures

    @cached_property
    def cells(self) -> Cells:
        """The cells; fitted on first use, and again after the index has grown."""
        try:
            saved = Cells.load(self._cells_file)
            width = self.table.about_model["width"]
            fits = saved.rotation.directions.shape[1] == width
            if fits and len(self.rows) <= _MAX_GROWTH * saved.rows:
                return saved
        except Unreadable:
            raise
        except LookalikeError:  # missing or damaged
            pass
        before = next(self._saved_profiles(), None)
        return self._fit_cells([] if before is None else self._ranges(before))

    @property
    def _cells_file(self) -> Path:
        return self.table.signature_folder / "cells.npz"

    def _fit_cells(self, parts: Sequence[IdRange]) -> Cells:
        """Fit cells to all rows; fit directions to extra rows of each part, however small."""
        total = len(self.rows)
        most = fitting_rows(ROTATION_SAMPLE_ROWS, int(self.table.about_model["width"]))
        samples = [draw(total, most)]
        for ids in parts:
            rows = self._rows_in(ids)
            samples.append(rows[draw(len(rows), _PART_SAMPLE_ROWS)])
        rotation = Rotation.fit(self.rows.vectors(np.unique(np.concatenate(samples))))
        drawn = draw(total, SAMPLE_ROWS_PER_CELL * cell_count(total))
        blocks = np.array_split(drawn, -(-len(drawn) // most))
        sample = np.concatenate([rotation(self.rows.vectors(block)) for block in blocks])
        cells = Cells.fit(rotation, sample, total, self.table.next_id)
        self._save(partial(cells.save, self._cells_file))
        return cells

    @cached_property
    def signatures(self) -> Signatures:
        """The signatures of all rows; made per segment where the cache lacks them."""
        segments, cells = self.rows.segments, self.cells
        assignments = [assign_cells(segment, cells) for segment in segments]
        return Signatures(cells, assignments, [encode_segment(one, cells) for one in segments])

    @cached_property
    def profile(self) -> RecallProfile:
        """The recall profile of this version; measured on first use.

        The cells are fitted again where they do not fit a large enough part of the added rows.
        """
        saved = self.saved_profile()
        if saved is not None and saved.cells == self.cells.fingerprint:
            return saved
        profile = self._measure(next(self._saved_profiles(), None))
        self._save(partial(profile.save, self._profile_file(self.table.version)))
        return profile

    def _measure(self, before: RecallProfile | None, refitted: bool = False) -> RecallProfile:
        """Measure the profile, or only the rows added since where the old profile still fits.

        `refitted` says that the cells were just fitted again because of added rows.
        """
        stop, cells = self.table.next_id, self.cells
        ranges = [] if before is None else self._ranges(before)
        known: dict[IdRange, Part] = {}
        if before is not None and before.cells == cells.fingerprint and before.fits(self._files):
            profile, known = before, {part.range: part for part in before.parts}
        else:
            sample = sample_queries(self.rows, SAMPLE_QUERIES, self._rows_outside(ranges))
            count = sum(file.rows for file in self._files)
            profile = measure_profile(self.signatures, sample, count, stop)
        pairs = [
            one for one in zip(RECALLS, profile.efforts, strict=True) if one[0] <= TARGET_RECALL
        ]
        recall, effort = next(((r, e) for r, e in reversed(pairs) if e is not None), (0.0, None))
        new: list[tuple[IdRange, QuerySample]] = []
        unlike = sum(len(self._rows_in(ids)) for ids in known if ids.first >= cells.stop)
        for ids in ranges:
            if ids not in known and effort is not None:
                part_rows = self._rows_in(ids)
                sample = sample_queries(self.rows, PART_QUERIES, part_rows)
                reached = measure_recall(self.signatures, sample, effort)
                is_short = reached < recall - MAX_RECALL_LOSS
                if is_short or refitted or ids.stop <= (before.stop if before else 0):
                    new.append((ids, sample))
                if is_short and ids.first >= cells.stop:
                    unlike += len(part_rows)
                if not is_short:  # their distances are usual in this index
                    profile = replace(profile, reach=max(profile.reach, sample.reach))
        if unlike > _MAX_UNLIKE_SHARE * len(self.rows):
            self.cells = self._fit_cells(ranges)
            self.__dict__.pop("signatures", None)  # they belong to the old cells
            return self._measure(before, refitted=True)
        self.profile = profile  # the searches of `_recall` need it
        parts = [part for ids, part in known.items() if ids in ranges]
        for ids, sample in new:
            parts.append(Part(*ids, estimate_rows(self._files, ids), self._recall(sample)))
        recalls = lowest_recall(profile.recall, parts)
        return replace(profile, recall=recalls, stop=stop, parts=tuple(sorted(parts)))

    def _ranges(self, before: RecallProfile) -> list[IdRange]:
        """Return the ids of the parts measured before, and of the rows added since."""
        parts = [
            *(part.range for part in before.parts),
            IdRange(before.stop, self.table.next_id),
        ]
        return merge_ranges(ids for ids in parts if len(self._rows_in(ids)) >= MIN_PART_ROWS)

    def _rows_outside(self, parts: Sequence[IdRange]) -> Numbers | None:
        """Return the rows in no part, rising; None for all rows, where the parts are most."""
        outside = np.ones(len(self.rows), bool)
        for ids in parts:
            outside[self._rows_in(ids)] = False
        rest = np.flatnonzero(outside)
        return rest if len(rest) >= _MIN_REST_SHARE * len(outside) else None

    def _rows_in(self, ids: IdRange) -> Numbers:
        """Return the rows with ids in a range, rising."""
        return np.flatnonzero((self.rows.ids >= ids.first) & (self.rows.ids < ids.stop))

    def _recall(self, sample: QuerySample) -> tuple[float | None, ...]:
        """Return the recall of full searches for a sample, for each of `RECALLS`."""
        own = self.rows.ids[sample.rows].tolist()
        shares: list[float | None] = []
        for recall, effort in zip(RECALLS, self.profile.efforts, strict=True):
            if effort is None:
                shares.append(None)
                continue
            right = 0
            for number, vector, far in zip(own, sample.vectors, sample.farthest, strict=True):
                found, *_ = self.nearest(
                    vector, RECALL_K, engine="approximate", recall=recall, without=number
                )
                right += sum(one.distance <= far * (1 + _DISTANCE_TOLERANCE) for one in found)
            shares.append(round(right / max(len(own) * RECALL_K, 1), 4))
        return tuple(shares)

    def _save(self, write: "partial[None]") -> None:
        """Write a file into the index; in vain where that is read-only or the disk is full."""
        folder = self.table.signature_folder
        if os.access(self.table.path, os.W_OK) and self.table.is_in_place():
            with contextlib.suppress(OSError, StoreError):
                folder.mkdir(parents=True, exist_ok=True)
                write()
                push(self.table.path, Path(write.args[0]))


def check_signatures(table: EmbeddingTable) -> Iterator[tuple[Path, str]]:
    """Yield each damaged file in the signature folder of a table, with the reason.

    Raises `Unreadable` for a file that cannot be read and so may be intact.
    """
    folder = table.signature_folder
    width = table.about_model["width"]
    if folder.is_symlink():  # its target belongs to somebody else
        return
    file = folder / "cells.npz"
    if file.exists():
        try:
            if Cells.load(file).rotation.directions.shape[1] != width:
                raise LookalikeError(f"the cells are not for vectors of {width} numbers")
        except Unreadable:
            raise
        except (LookalikeError, *PROFILE_ERRORS) as error:
            yield file, str(error)
    for file in sorted(folder.glob("[0-9]*.json")):
        try:
            RecallProfile.load(file)
        except OutdatedProfile:
            continue
        except PROFILE_ERRORS as error:
            if says_nothing(error):
                raise Unreadable(file, error) from None
            yield file, f"is damaged ({error})"
