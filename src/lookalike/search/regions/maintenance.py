"""Check the regions of an index: what is damaged is deleted by a repair, and made again."""

from collections.abc import Iterator
from pathlib import Path

from lookalike.errors import LookalikeError, Unreadable, one_line, says_nothing
from lookalike.search.bands.kept import check_bands
from lookalike.search.regions.folder import Folder
from lookalike.search.searcher import check_signatures
from lookalike.storage import EmbeddingTable, copy_at
from lookalike.storage.region_folders import REGIONS, region_folders, version_of
from lookalike.system.files import digest


def check_derived(table: EmbeddingTable) -> Iterator[tuple[Path, str]]:
    """Yield what is damaged of what is made again when it is needed, with the reason.

    Raises `Unreadable` for a file that cannot be read and so may be intact.
    """
    yield from check_signatures(table)
    yield from check_bands(table)
    yield from check_regions(table)


def check_regions(table: EmbeddingTable) -> Iterator[tuple[Path, str]]:
    """Yield each damaged folder of regions that the version could use, with the reason.

    On a disk every byte is read. In a store the sizes of the files are compared; each search checks
    what it reads.
    """
    copy = copy_at(table.path)
    root = table.path / REGIONS
    if root.is_symlink():  # its target belongs to somebody else
        return
    sizes: dict[str, int] = {}
    if copy is not None:
        for batch in copy.store.below(REGIONS).list(1):
            sizes |= zip(batch["name"].to_pylist(), batch["size"].to_pylist(), strict=True)
    for name in region_folders(table.path):
        if version_of(name) > table.version:
            continue
        try:
            layout = Folder.load(table, name).layout
        except Unreadable:
            raise
        except LookalikeError as error:
            yield root / name, str(error)
            continue
        for file, size in zip(layout.names, layout.file_bytes.tolist(), strict=True):
            place = root / file
            try:
                whole = (
                    place.stat().st_size == size and digest(place) == place.stem
                    if copy is None
                    else sizes.get(file) == size
                )
            except OSError as error:
                if says_nothing(error):
                    raise Unreadable(place, error) from None
                yield root / name, f"{file}: {one_line(error)}"
                break
            if not whole:
                yield root / name, f"{file} is not what was written"
                break
