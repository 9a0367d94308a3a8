"""Find out what kind of place is given: folders, globs, files, a URI, a table."""

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lookalike.errors import LookalikeError
from lookalike.images.inputs import parquet_shard
from lookalike.images.inputs.archives import check_label_column, is_shard
from lookalike.images.inputs.file_types import (
    OTHER_ENDINGS,
    IgnoredFiles,
    describe_ignored,
    ending,
    is_archive,
    is_image,
)
from lookalike.images.inputs.folder_entries import scan_folder
from lookalike.images.inputs.source import Source, encode_path, is_uri
from lookalike.system.paths import Name

_MAX_SCANNED_NAMES = 10_000  # in a folder, to find a table beside images
_MAX_OPENED_TABLES = 5  # to find out whether they hold images
_MAX_NAMED_SHARDS = 100  # files of a table given one by one: an index stores their names

INDEX_FILES = ("_lookalike.json", "lookalike.json")
"""The description of an index, and its name before format 3. One is beside `_delta_log`."""


def locate(
    images: Name | Sequence[Name],
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    ignored: IgnoredFiles | None = None,
    kind: str | None = None,
) -> Source:
    """Return the source that a place or a list of places stands for, without reading images.

    Parameters
    ----------
    images
        A folder, a file, a glob, a list of these, a URI (`s3a://...`, `hdfs://...`), or a Parquet
        file or folder with a column of bytes.
    image_column
        The column of image bytes, for a table.
    label_column
        The column of labels, for a table.
    ignored
        Counts the files of a glob or list that are no images.
    kind
        "files" if `images` is known to be no folder of tables.

    Raises
    ------
    LookalikeError
        If nothing is there, or images and tables are mixed.

    """
    given = [images] if isinstance(images, str | os.PathLike) else list(images)
    if not given or not all(map(os.fspath, given)):
        raise LookalikeError("no images given: name a folder, a file or a glob")
    names = [os.fspath(name) for name in given]
    ignored = ignored or IgnoredFiles()
    is_table = parquet_shard.is_parquet if kind == "files" else _is_table
    if kind != "files" and all(map(is_shard, names)):
        return _locate_archives(names, label_column)
    tables = [image_column is not None or is_table(name) for name in names]
    if all(tables):
        return _locate_table(names, image_column or "image", label_column)
    names = _without_tables(names, tables, ignored)
    if label_column is not None:
        raise LookalikeError("`label_column` is for tables: for images set `labels` to a CSV file")
    if is_uri(names[0]):
        if len(names) > 1:
            raise LookalikeError("one URI at a time: use a glob that covers them")
        return Source("uri", names[0], ())
    return _locate_files([os.path.abspath(name) for name in names], ignored)


def _is_table(name: str) -> bool:
    """Tell whether a place is a table of images, by its name or by its files.

    A folder with a table and with images is ambiguous: raise `LookalikeError` if the table holds
    images, too. Images without a known ending do not count then.
    """
    if parquet_shard.is_parquet(name):
        return True
    images = False
    tables: list[str] = []
    unknown: list[str] = []  # files that may be images
    entries = 0
    folders = [name]
    while folders and not ((tables or images) and entries > _MAX_SCANNED_NAMES):
        folder = folders.pop()
        if folder != name and _is_index(folder):
            continue
        for found, is_folder in scan_folder(folder):
            path = os.path.join(folder, found)
            if is_folder:
                if not found.startswith("_"):
                    entries += 1
                    folders += [] if os.path.islink(path) else [path]
                continue
            entries += 1
            images = images or is_image(found)
            if parquet_shard.is_parquet(found):
                tables.append(path)
            if len(unknown) < _MAX_SCANNED_NAMES and ending(found) not in OTHER_ENDINGS:
                unknown.append(path)
    if not tables or not (images or any(map(IgnoredFiles().accepts, unknown))):
        return bool(tables)
    holds = any(
        parquet_shard.holds_images(table, "image") for table in sorted(tables)[:_MAX_OPENED_TABLES]
    )
    if images and holds:
        raise LookalikeError(
            f"{encode_path(name)} holds images and a table of images ({os.path.basename(tables[0])}"
            '): set `image_column="image"` for the table, or a glob for the images'
        )
    return holds


def _is_index(folder: str) -> bool:
    files = (os.path.join(folder, name) for name in INDEX_FILES)
    return os.path.isdir(os.path.join(folder, "_delta_log")) and any(map(os.path.isfile, files))


def _without_tables(given: list[str], tables: list[bool], ignored: IgnoredFiles) -> list[str]:
    """Remove Parquet files without images from a list, and count them as ignored.

    Raises `LookalikeError` for a table that holds images, or is a folder.
    """
    for name, is_table in zip(given, tables, strict=True):
        if not is_table:
            continue
        if not os.path.isfile(name) or parquet_shard.holds_images(name, "image"):
            raise LookalikeError(
                f"images and tables are given ({encode_path(name)}): index one, and the other apart"
            )
        ignored.add(ending(name))
    return [name for name, is_table in zip(given, tables, strict=True) if not is_table]


def _locate_table(given: list[str], image_column: str, label_column: str | None) -> Source:
    root, names = _locate_shards(given, "table", parquet_shard.is_parquet)
    return Source("table", root, names, image_column, label_column)


def _locate_archives(given: list[str], label_column: str | None) -> Source:
    check_label_column(label_column)
    root, names = _locate_shards(given, "archive", is_shard)
    return Source("archive", root, names, None, label_column)


def _locate_shards(
    given: list[str], what: str, accepts: Callable[[str], bool]
) -> tuple[str, tuple[str, ...]]:
    """Return the root of files with many images, and their names below it."""
    if is_uri(given[0]):
        if len(given) > 1:
            raise LookalikeError("one URI at a time: use a glob that covers them")
        return given[0], ("",)
    if len(given) > _MAX_NAMED_SHARDS:
        raise LookalikeError(
            f"{len(given):,} files of a table: give their folder, or a glob in quotes"
        )
    tops = [os.path.abspath(name) for name in given]
    for top in tops:
        if not os.path.lexists(top) and (
            not glob.has_magic(top) or next(matches(top, accepts), None) is None
        ):
            raise LookalikeError(f"no such {what}: {encode_path(top)}")
    if len(tops) == 1 and os.path.isdir(tops[0]):
        return tops[0], ("",)
    root = os.path.commonpath([fixed_part(os.path.dirname(top)) for top in tops])
    return root, tuple(sorted({os.path.relpath(top, root) for top in tops}))


def fixed_part(path: str) -> str:
    """Return the part of a glob before its first pattern; an existing path as it is."""
    parts = Path(path).parts
    magic = (at for at, part in enumerate(parts) if glob.has_magic(part))
    return path if os.path.lexists(path) else str(Path(*parts[: next(magic, len(parts))]))


def _locate_files(given: list[str], ignored: IgnoredFiles) -> Source:
    paths: set[str] = set()
    for name in given:
        if os.path.lexists(name):
            if not (is_archive(name) and os.path.isfile(name)):
                paths.add(name)
            elif len(given) == 1:
                raise LookalikeError(
                    f"{encode_path(name)} is an archive: unpack it and give the folder"
                )
            else:  # a shell has expanded a glob
                ignored.add(ending(name))
        elif glob.has_magic(name):
            paths.update(matches(name, ignored.accepts))
        else:
            raise LookalikeError(f"no such file or folder: {encode_path(name)}")
    if not paths:
        there = describe_ignored(ignored.counts())
        raise LookalikeError(
            f"no image matches {encode_path(given[0])}: not looked at: {there}"
            if there
            else f"nothing matches {encode_path(given[0])}: quote it and check it"
        )
    # Files within a given folder would be found twice.
    folders = {path for path in paths if os.path.isdir(path)}
    outer = [p for p in paths if folders.isdisjoint(map(str, Path(p).parents))]
    if len(outer) == 1 and outer[0] in folders:
        return Source("files", outer[0])
    root = os.path.commonpath([os.path.dirname(path) for path in outer])
    names = sorted((os.path.relpath(p, root) for p in outer), key=lambda n: _order(root, n))
    return Source("files", root, tuple(names))


def matches(pattern: str, accepts: Callable[[str], bool]) -> Iterator[str]:
    """Yield the folders that match a glob and the accepted files, but no hidden ones.

    `**` does not follow links: they may form cycles.
    """
    parts = Path(pattern).parts
    start = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:start])
    # As in shells, `**` within a name, as in `**.jpg`, means `*`.
    wanted = [part if part == "**" else re.sub(r"\*+", "*", part) for part in parts[start:]]
    for path in base.glob(str(Path(*wanted))):
        hidden = any(part.startswith(".") for part in path.relative_to(base).parts)
        if not hidden and (os.path.isdir(path) or accepts(str(path))):
            yield str(path)


def _order(folder: str, name: str) -> str:
    """Return a sort key: with a slash, a folder sorts where the paths of its files do."""
    slash = "/" if os.path.isdir(os.path.join(folder, name)) else ""
    return encode_path(name) + slash
