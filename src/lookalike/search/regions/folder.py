"""One folder of regions, opened: its header, cells, layout and measured efforts."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from lookalike.errors import LookalikeError, Unreadable, one_line, says_nothing
from lookalike.search.cells import Cells
from lookalike.search.recall import PROFILE_ERRORS, RECALLS, RecallProfile
from lookalike.search.regions.layout import REBUILD, Layout, Shape, damaged_regions
from lookalike.storage import EmbeddingTable
from lookalike.storage.region_folders import (
    HEADER,
    is_region_folder,
    local_region_folder,
    region_folders,
    version_of,
)
from lookalike.system.defaults import TARGET_RECALL
from lookalike.system.files import new_file
from lookalike.system.untrusted import read_json

FORMAT = 1
CELLS, LAYOUT, PROFILE = "cells.npz", "layout.npz", "profile.json"


@dataclass(frozen=True)
class Header:
    """What a folder of regions is of.

    Attributes
    ----------
    format : int
        A reader refuses a higher one.
    identity, generation, version : str, int, int
        The table, its model, and the version whose rows these are.
    stop : int
        The next id of that version: rows from it on came later.
    rows, fitted : int
        Number of rows, and that of the index when the cells were fitted.
    cells : str
        Fingerprint of the cells.
    shape : Shape
    folders : tuple of str
        The folders with the files, of earlier versions first.
    """

    format: int
    identity: str
    generation: int
    version: int
    stop: int
    rows: int
    fitted: int
    cells: str
    shape: Shape
    folders: tuple[str, ...]

    def save(self, file: Path) -> None:
        """Write it as JSON, atomically."""
        with new_file(file) as part:
            part.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read it back. Raises `LookalikeError` for a damaged one."""
        try:
            about = read_json(file)
            if int(about["format"]) > FORMAT:
                raise LookalikeError(f"a newer lookalike made {file.parent}: upgrade, or {REBUILD}")
            shape = Shape(**about["shape"])
            if min(shape.code_bytes, shape.width, shape.vector_bytes) < 1:
                raise ValueError("no width")
            folders = tuple(about["folders"])
            if not all(isinstance(one, str) and is_region_folder(one) for one in folders):
                raise ValueError("no folders")
            texts = {name: str(about[name]) for name in ("identity", "cells")}
            numbers = ("format", "generation", "version", "stop", "rows", "fitted")
            counts = {name: int(about[name]) for name in numbers}
            return cls(**texts, **counts, shape=shape, folders=folders)  # type: ignore[arg-type]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if says_nothing(error):
                raise Unreadable(file, error) from None
            raise damaged_regions(file.parent, str(error)) from None

    def is_of(self, table: EmbeddingTable) -> bool:
        """Tell whether a version of a table may use it."""
        same = (self.identity, self.generation) == (table.identity, table.generation)
        return same and self.version <= table.version


@dataclass(frozen=True)
class Folder:
    """A folder of regions: where it is, and what its describing files say."""

    place: Path
    header: Header
    cells: Cells
    layout: Layout
    profile: RecallProfile

    @classmethod
    def load(cls, table: EmbeddingTable, name: str) -> Self:
        """Open a folder by its name. Raises `LookalikeError` where it is damaged."""
        try:
            place = local_region_folder(table.path, name)
        except FileNotFoundError as error:
            raise damaged_regions(name, str(error)) from None
        header = Header.load(place / HEADER)
        try:
            cells = Cells.load(place / CELLS)
            profile = RecallProfile.load(place / PROFILE)
        except Unreadable:
            raise
        except (LookalikeError, *PROFILE_ERRORS) as error:
            if says_nothing(error):
                raise Unreadable(place, error) from None
            raise damaged_regions(place, str(error)) from None
        width = cells.rotation.directions.shape[1]
        if width != header.shape.width or width != int(table.about_model["width"]):
            raise damaged_regions(place, f"they are of vectors of {width} numbers")
        return cls(place, header, cells, Layout.load(place / LAYOUT, len(cells)), profile)

    @property
    def fits(self) -> bool:
        """Whether this FAISS reads the signatures: those of another one may differ."""
        return self.cells.fingerprint == self.header.cells == self.profile.cells


def newest_folder(table: EmbeddingTable) -> Folder | None:
    """Return the newest folder of regions that a version can use; None without one."""
    for name in region_folders(table.path):
        if version_of(name) <= table.version:
            place = local_region_folder(table.path, name)
            if Header.load(place / HEADER).is_of(table):
                return Folder.load(table, name)
    return None


def describe_regions(table: EmbeddingTable) -> dict[str, Any] | None:
    """Return what the regions of a version hold, without opening them; None where it has none.

    Returns
    -------
    dict or None
        `version` whose rows these are, `rows`, and `recall`, the measured recall@10 of search at
        `TARGET_RECALL`; or `reason`, why they cannot be read.
    """
    try:
        for name in region_folders(table.path):
            if version_of(name) > table.version:
                continue
            place = local_region_folder(table.path, name)
            header = Header.load(place / HEADER)
            if header.is_of(table):
                recall = RecallProfile.load(place / PROFILE).recall[RECALLS.index(TARGET_RECALL)]
                return {"version": header.version, "rows": header.rows, "recall": recall}
    except (LookalikeError, *PROFILE_ERRORS) as error:
        return {"reason": one_line(error)}
    return None


def save_folder(
    place: Path, cells: Cells, layout: Layout, profile: RecallProfile, header: Header
) -> Sequence[Path]:
    """Write the describing files of a folder; return them, the header last."""
    place.mkdir(parents=True, exist_ok=True)
    files = [place / name for name in (CELLS, LAYOUT, PROFILE, HEADER)]
    cells.save(files[0])
    layout.save(files[1])
    profile.save(files[2])
    header.save(files[3])
    return files
