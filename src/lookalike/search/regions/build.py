"""Make the regions of an index on Spark: every row travels once, to the file of its region.

The driver sees a sample of the rows, what tasks say of their files, and no row beside. A killed run
leaves a folder without a header, which nobody reads.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.errors import LookalikeError, Unreadable
from lookalike.search.cells import (
    ROTATION_SAMPLE_ROWS,
    SAMPLE_ROWS_PER_CELL,
    Cells,
    Rotation,
    cell_count,
    fitting_rows,
)
from lookalike.search.recall import RecallProfile
from lookalike.search.regions import measure
from lookalike.search.regions.changes import NO_IDS, ids_of, lost_ranges, names_of
from lookalike.search.regions.folder import (
    FORMAT,
    Folder,
    Header,
    newest_folder,
    save_folder,
)
from lookalike.search.regions.layout import Layout, Shape, layout_of
from lookalike.search.regions.region_file import Target
from lookalike.search.regions.running import Runner, choose_runner
from lookalike.search.regions.tasks import Plan, region_task, route_task, sample_task
from lookalike.storage import EmbeddingTable, Segment, copy_at, push, writing
from lookalike.storage.region_folders import REGIONS, new_region_folder
from lookalike.system.arrays import Numbers, Vectors
from lookalike.system.files import delete_folder

MAX_REGION_ROWS = 262_144
"""Rows of a region of 512 numbers: a quarter of a gigabyte in half precision."""
MAX_SAMPLE_ROWS = 2**19
"""Rows in the memory of the driver, of 128 numbers each, to fit cells to."""
MIN_ROWS = 22
"""Fewer rows have no recall to measure."""
_USUAL_WIDTH = 512
_MIN_REGIONS_PER_CORE = 2
_MAX_GROWTH = 2  # of an index, before its cells are fitted again
_MAX_FOLDERS = 8  # of added rows: each is one more place to read of each cell
_MAX_GONE_SHARE = 1 / 4
_COUNTED_ROWS = 2**16  # of the sample, to balance regions


@dataclass(frozen=True)
class BuiltRegions:
    """What a build of regions did.

    `rows` counts all rows in the regions, `added` those that this build wrote into `files` of
    `bytes`; `recall` is what search over them reaches, by target recall.
    """

    version: int
    rows: int
    added: int
    cells: int
    files: int
    bytes: int
    recall: dict[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return asdict(self)


def build_regions(
    table: EmbeddingTable,
    *,
    anew: bool = False,
    spark: bool | None = None,
    max_region_rows: int = MAX_REGION_ROWS,
) -> BuiltRegions:
    """Make the regions of the newest version of an index, or bring them up to date.

    Where the index has regions, only the rows that came since are written, until their number
    doubles or a quarter is gone.

    Parameters
    ----------
    table : EmbeddingTable
    anew : bool
        Write all rows, whatever there is.
    spark : bool, optional
        By default for more than 50,000 rows, or where Spark runs already.
    max_region_rows : int
        Rows of a region at most, of 512 numbers.

    Returns
    -------
    BuiltRegions

    Raises
    ------
    LookalikeError
        For an index with too few rows, or a data file that cannot be read.
    """
    with writing(table.path):
        table = table.newest()
        rows = table.counts()[0]
        if rows < MIN_ROWS:
            raise LookalikeError(
                f"{table.path} has {rows} {table.row_name}: regions need {MIN_ROWS}; search "
                "compares all of fewer"
            )
        before = None if anew else _usable(table, rows)
        if before is not None and before.header.stop >= table.next_id:
            return _told(before.header, before.layout, before.profile, 0, 0)
        build = _Build(choose_runner(rows, spark), table, max_region_rows)
        try:
            return build.add(before) if before is not None else build.make(rows)
        except BaseException:
            if copy_at(table.path) is None:
                delete_folder(build.place)
            raise


def _usable(table: EmbeddingTable, rows: int) -> Folder | None:
    """Return the newest regions if rows can be added to them."""
    try:
        folder = newest_folder(table)
    except Unreadable:
        raise
    except LookalikeError:  # damaged
        return None
    if folder is None or not folder.fits or len(folder.header.folders) >= _MAX_FOLDERS:
        return None
    held = folder.layout.rows
    added = sum(
        record["embedded"] or 0
        for record in table.segment_records()
        if (record["first_id"] or 0) >= folder.header.stop
    )
    gone = held - (rows - added)
    usable = rows <= _MAX_GROWTH * folder.header.fitted and gone <= _MAX_GONE_SHARE * held
    return folder if usable else None


def _told(
    header: Header, layout: Layout, profile: RecallProfile, added: int, files: int
) -> BuiltRegions:
    own = layout.file_bytes[len(layout.files) - files :] if files else layout.file_bytes[:0]
    return BuiltRegions(
        header.version,
        header.rows,
        added,
        len(np.unique(layout.cell)),
        files,
        int(own.sum()),
        dict(zip(map(str, measure.RECALLS), profile.recall, strict=True)),
    )


class _Build:
    """One run, into a folder of its own."""

    def __init__(self, runner: Runner, table: EmbeddingTable, max_region_rows: int) -> None:
        self.runner, self.table = runner, table
        width = int(table.about_model["width"])
        self.most = max(max_region_rows * _USUAL_WIDTH // max(width, _USUAL_WIDTH), 1)
        self.width = width
        self.dtype = "float16" if table.metric == "cosine" else "float32"
        self.name = new_region_folder(table.version)
        self.place = table.path / REGIONS / self.name
        copy = copy_at(table.path)
        self.target = Target(str(table.path), self.name, "" if copy is None else copy.store.uri)

    def make(self, rows: int) -> BuiltRegions:
        """Write all rows."""
        segments = self.table.segments
        share = min(fitting_rows(ROTATION_SAMPLE_ROWS, self.width) / rows, 1)
        ids, vectors = self._sample(segments, share, None, self.width)
        if len(ids) < MIN_ROWS:
            raise LookalikeError(f"{self.table.path} has too few rows: {len(ids)}")
        cells, rotated = self._cells(segments, vectors, rows)
        some = rotated[:: -(-len(rotated) // _COUNTED_ROWS)]
        counts = np.bincount(cells.nearest(some, 1)[:, 0], minlength=len(cells))
        queries = measure.choose_queries(ids, vectors)
        records = self._write(segments, cells, counts * (rows / len(some)), 0, queries.vectors)
        layout = layout_of(records, self.name, names_of(self.table), NO_IDS)
        header = self._header(cells, layout.rows, layout.rows, ())
        sample = measure.true_neighbors(queries, records)
        profile = measure.measure(self.table, header.shape, cells, layout, sample)
        return self._save(cells, layout, profile, header, layout.rows, len(records))

    def add(self, before: Folder) -> BuiltRegions:
        """Write the rows that came since; of the others only the layout says what is gone."""
        since, cells = before.header.stop, before.cells
        later = [Segment(f.absolute()) for f, _, last, _ in self.table.id_ranges() if last >= since]
        rows = sum(one["embedded"] or 0 for one in self.table.segment_records())
        counts = np.bincount(before.layout.cell, before.layout.count, len(cells))
        added = max(rows - before.layout.rows, 1)
        scaled = counts * (added / max(counts.sum(), 1))
        nobody = np.empty((0, self.width), np.float32)
        records = self._write(later, cells, scaled, since, nobody) if later else []
        data = [name.decode() for name in before.layout.data.tolist()]
        lost = np.concatenate([before.layout.lost, lost_ranges(self.table, data, since)])
        own = layout_of(records, self.name, names_of(self.table), ids_of(self.table, _union(lost)))
        layout = before.layout.with_more(own)
        header = self._header(
            cells, self.table.counts()[0], before.header.fitted, before.header.folders
        )
        return self._save(cells, layout, before.profile, header, own.rows, len(records))

    def _sample(
        self, segments: Sequence[Segment], share: float, rotation: Rotation | None, width: int
    ) -> tuple[Numbers, Vectors]:
        """Draw a share of the rows, as `sample_task` does."""
        dtype = "float32" if rotation is None else self.dtype
        task = sample_task(segments, share, rotation, self.dtype)
        found = self.runner.sample(task, len(segments))
        ids = _joined(found["ids"], np.dtype(np.int64))
        drawn = _joined(found["vectors"], np.dtype(dtype))
        return ids, np.ascontiguousarray(drawn.reshape(-1, width), np.float32)

    def _cells(
        self, segments: Sequence[Segment], vectors: Vectors, rows: int
    ) -> tuple[Cells, Vectors]:
        """Return saved cells of the index, or fit some; and rotated rows of a sample."""
        try:
            saved = Cells.load(self.table.signature_folder / "cells.npz")
            same = saved.rotation.directions.shape[1] == self.width
            if same and saved.rows / _MAX_GROWTH <= rows <= _MAX_GROWTH * saved.rows:
                return saved, np.ascontiguousarray(saved.rotation(vectors))
        except Unreadable:
            raise
        except LookalikeError:  # none, or damaged
            pass
        rotation = Rotation.fit(vectors)
        wanted = min(SAMPLE_ROWS_PER_CELL * cell_count(rows), MAX_SAMPLE_ROWS)
        share = min(wanted / rows, 1)
        rotated = self._sample(segments, share, rotation, len(rotation.directions))[1]
        return Cells.fit(rotation, rotated, rows, self.table.next_id), rotated

    def _write(
        self,
        segments: Sequence[Segment],
        cells: Cells,
        counts: npt.NDArray[Any],
        since: int,
        queries: Vectors,
    ) -> list[dict[str, Any]]:
        """Write rows with ids from `since` on; return what tasks say of each file."""
        regions = _MIN_REGIONS_PER_CORE * self.runner.cores
        most = max(int(np.ceil(counts.sum() / regions)), 1)
        plan = Plan.balanced(counts, min(most, self.most))
        shape = self._shape(cells)
        if not self.target.uri:
            self.place.mkdir(parents=True, exist_ok=True)
        threads = self.runner.threads
        route = route_task(segments, cells, plan, shape, self.table.key, since, threads)
        write = region_task(cells, shape, self.target, queries, measure.NEAR, threads)
        written = self.runner.write(route, write, len(segments), plan.regions)
        records: list[dict[str, Any]] = written.sort_by("name").to_pylist()
        return records

    def _shape(self, cells: Cells) -> Shape:
        return Shape(int(cells.empty_index().code_size), self.width, self.dtype)

    def _header(self, cells: Cells, rows: int, fitted: int, folders: tuple[str, ...]) -> Header:
        table = self.table
        return Header(
            FORMAT,
            table.identity,
            table.generation,
            table.version,
            table.next_id,
            rows,
            fitted,
            cells.fingerprint,
            self._shape(cells),
            (*folders, self.name),
        )

    def _save(
        self,
        cells: Cells,
        layout: Layout,
        profile: RecallProfile,
        header: Header,
        added: int,
        files: int,
    ) -> BuiltRegions:
        """Write the describing files; with the header everybody sees the folder."""
        *described, last = save_folder(self.place, cells, layout, profile, header)
        push(self.table.path, *described)
        push(self.table.path, last)
        return _told(header, layout, profile, added, files)


def _joined(column: pa.ChunkedArray, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return the numbers of a column of bytes as one array."""
    parts = [np.frombuffer(one.as_buffer(), kind) for one in column]
    return np.concatenate([np.empty(0, kind), *parts])


def _union(ranges: Numbers) -> Numbers:
    """Merge ranges, int64 (n, 2), that may overlap."""
    merged: list[list[int]] = []
    for first, last in sorted(ranges.tolist()):
        if merged and first <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    return np.array(merged, np.int64).reshape(-1, 2)
