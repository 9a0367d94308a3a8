"""Locate images: folders, globs, single files, URIs, tables of bytes; read one of them again."""

import glob
import itertools
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import unquote_to_bytes

from lookalike.errors import ImageError, LookalikeError
from lookalike.given import Name
from lookalike.images import decoding, parquet
from lookalike.images.kinds import (
    OTHER_ENDINGS,
    IgnoredFiles,
    describe_ignored,
    ending,
    is_archive,
    is_image,
)

_URI = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_GLOB = re.compile(r"[][*?{}\\]")  # Hadoop's special characters
_MAX_SCANNED_NAMES = 10_000  # in a folder, to find a table beside images
_MAX_OPENED_TABLES = 5  # to find out whether they hold images
_MAX_NAMED_SHARDS = 100  # files of a table given one by one: an index stores their names
# Not allowed in a stored path: the escape itself, control characters, bytes that are not UTF-8.
_ESCAPED = re.compile("[%\x00-\x1f\x7f\udc80-\udcff]")

INDEX_FILES = frozenset({"_lookalike.json", "lookalike.json"})
"""Files of which an index has one at least, beside its folder `_delta_log`."""


@dataclass(frozen=True)
class Source:
    """A place with images.

    Attributes
    ----------
    kind
        "files" for local files, "uri" for files that Spark reads, "table" for Parquet.
    root
        An absolute folder or a URI; paths of images are relative to it.
    names
        The given files or folders below a local root; "" is the root itself.
    image_column, label_column
        The columns of a table with image bytes and with labels.
    also
        Absolute folders elsewhere, whose images have absolute paths. Local files only.
    truncated
        Decode the readable part of images that were cut short.

    """

    kind: Literal["files", "uri", "table"]
    root: str
    names: tuple[str, ...] = ("",)
    image_column: str | None = None
    label_column: str | None = None
    also: tuple[str, ...] = ()
    truncated: bool = False

    @classmethod
    def stored(cls, about: dict[str, Any]) -> Self:
        """Restore a source from `asdict` by way of JSON.

        Raises `ValueError`, `KeyError` or `TypeError` for anything else.
        """
        about = {"also": [], "truncated": False, **about}
        if not isinstance(about["truncated"], bool):
            raise ValueError(f"truncated is {str(about['truncated'])[:40]!r}")
        if about["kind"] not in ("files", "uri", "table"):
            raise ValueError(f"no kind of source: {str(about['kind'])[:40]!r}")
        for name in ("names", "also"):
            if not isinstance(about[name], list):
                raise ValueError(f"{name} is no list")
        columns = [about[name] for name in ("image_column", "label_column") if about[name]]
        for text in (about["root"], *about["names"], *about["also"], *columns):
            # Encoding fails for characters that no file name can hold.
            if not isinstance(text, str) or b"\0" in os.fsencode(text):
                raise ValueError(f"no name: {str(text)[:40]!r}")
        is_uri = about["kind"] != "files" and _URI.match(about["root"]) is not None
        if not is_uri and not os.path.isabs(about["root"]):
            raise ValueError(f"no whole path: {about['root'][:40]!r}")
        return cls(**{**about, "names": tuple(about["names"]), "also": tuple(about["also"])})


def encode_path(path: str | bytes) -> str:
    """Percent-encode the characters that Arrow, CSV and terminals cannot take.

    >>> encode_path("100%.jpg")
    '100%25.jpg'
    """
    return _ESCAPED.sub(lambda match: f"%{os.fsencode(match[0])[0]:02X}", os.fsdecode(path))


def decode_path(encoded: str) -> str:
    """Undo `encode_path`. Bytes that are not UTF-8 become surrogates, as in `os.fsdecode`."""
    return os.fsdecode(unquote_to_bytes(encoded))


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
    is_table = parquet.is_parquet if kind == "files" else _is_table
    tables = [image_column is not None or is_table(name) for name in names]
    if all(tables):
        return _locate_table(names, image_column or "image", label_column)
    names = _without_tables(names, tables, ignored)
    if label_column is not None:
        raise LookalikeError("`label_column` is for tables: for images set `labels` to a CSV file")
    if _URI.match(names[0]):
        if len(names) > 1:
            raise LookalikeError("one URI at a time: use a glob that covers them")
        return Source("uri", names[0], ())
    return _locate_files([os.path.abspath(name) for name in names], ignored)


def _is_table(name: str) -> bool:
    """Tell whether a place is a table of images, by its name or by its files.

    A folder with a table and with images is ambiguous: raise `LookalikeError` if the table holds
    images, too. Images without a known ending do not count then.
    """
    if parquet.is_parquet(name):
        return True
    images = False
    tables: list[str] = []
    unknown: list[str] = []  # files that may be images
    entries = 0
    for folder, folders, files in os.walk(name):
        if folder != name and "_delta_log" in folders and not INDEX_FILES.isdisjoint(files):
            folders.clear()  # an index
            continue
        folders[:] = [below for below in folders if not below.startswith((".", "_"))]
        files = [file for file in files if not file.startswith(".")]
        images = images or any(map(is_image, files))
        if len(unknown) < _MAX_SCANNED_NAMES:
            unknown += (
                os.path.join(folder, file) for file in files if ending(file) not in OTHER_ENDINGS
            )
        tables += (os.path.join(folder, file) for file in files if parquet.is_parquet(file))
        entries += len(files) + len(folders)
        if (tables or images) and entries > _MAX_SCANNED_NAMES:
            break
    if not tables or not (images or any(map(IgnoredFiles().accepts, unknown))):
        return bool(tables)
    holds = any(
        parquet.holds_images(table, "image") for table in sorted(tables)[:_MAX_OPENED_TABLES]
    )
    if images and holds:
        raise LookalikeError(
            f"{encode_path(name)} holds images and a table of images ({os.path.basename(tables[0])}"
            '): set `image_column="image"` for the table, or a glob for the images'
        )
    return holds


def _without_tables(given: list[str], tables: list[bool], ignored: IgnoredFiles) -> list[str]:
    """Remove Parquet files without images from a list, and count them as ignored.

    Raises `LookalikeError` for a table that holds images, or is a folder.
    """
    for name, is_table in zip(given, tables, strict=True):
        if not is_table:
            continue
        if not os.path.isfile(name) or parquet.holds_images(name, "image"):
            raise LookalikeError(
                f"images and tables are given ({encode_path(name)}): index one, and the other apart"
            )
        ignored.add(ending(name))
    return [name for name, is_table in zip(given, tables, strict=True) if not is_table]


def _locate_table(given: list[str], image_column: str, label_column: str | None) -> Source:
    if _URI.match(given[0]):
        if len(given) > 1:
            raise LookalikeError("one URI at a time: use a glob that covers them")
        return Source("table", given[0], ("",), image_column, label_column)
    if len(given) > _MAX_NAMED_SHARDS:
        raise LookalikeError(
            f"{len(given):,} files of a table: give their folder, or a glob in quotes"
        )
    columns = (image_column, label_column)
    tops = [os.path.abspath(name) for name in given]
    for top in tops:
        if not os.path.lexists(top) and (
            not glob.has_magic(top) or next(matches(top, parquet.is_parquet), None) is None
        ):
            raise LookalikeError(f"no such table: {encode_path(top)}")
    if len(tops) == 1 and os.path.isdir(tops[0]):
        return Source("table", tops[0], ("",), *columns)
    root = os.path.commonpath([fixed_part(os.path.dirname(top)) for top in tops])
    return Source("table", root, tuple(sorted({os.path.relpath(t, root) for t in tops})), *columns)


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


def glob_pattern(glob: str) -> str:
    """Convert a glob for encoded paths to a regular expression of RE2, for Arrow and DuckDB.

    `*` and `?` match slashes too.
    """
    parts = re.split(r"(\*+|\?|\[!?[^]]+\])", encode_path(glob))
    plain, special = parts[::2], parts[1::2]
    meant = [
        ".*" if p[0] == "*" else "." if p == "?" else p.replace("[!", "[^", 1) for p in special
    ]
    return "".join(
        re.escape(text) + more for text, more in itertools.zip_longest(plain, meant, fillvalue="")
    )


def full_path(source: Source, path: str) -> str:
    """Return the path or URI of an image, decoded, so that it can be opened."""
    below = decode_path(path)
    return below if _is_remote(source) else os.path.normpath(os.path.join(source.root, below))


def is_uri(name: str) -> bool:
    """Tell whether a name is a URI, such as `s3a://...` or `file://...`."""
    return _URI.match(name) is not None


def _is_remote(source: Source) -> bool:
    return source.kind != "files" and _URI.match(source.root) is not None


def read(source: Source, path: str) -> bytes:
    """Return the bytes of one image of a source.

    Parameters
    ----------
    source
        The source.
    path
        The encoded path of the image below the root, or `FILE#ROW` for a table.

    Raises
    ------
    ImageError
        If it is unreadable, or the path leads out of the folders of the source.

    """
    name, _, row = path.rpartition("#") if source.kind == "table" else (path, "", "")
    if not is_inside(source, name):
        raise ImageError("outside the folders of this index")
    place = full_path(source, name)
    if source.kind == "files":
        return decoding.read_file(place)
    try:
        if source.kind == "uri":
            return _whole(place)
        return _read_cell(source, name, int(row))
    except ImageError:
        raise
    except Exception as error:  # remote file systems raise anything
        raise ImageError(f"unreadable: {' '.join(str(error).split())[:200]}") from None


def _whole(place: str) -> bytes:
    with parquet.open_file(place) as file:
        if (size := file.size()) > decoding.MAX_BYTES:
            raise ImageError(f"file of {size:,} bytes, over the limit")
        return bytes(file.read())


def _read_cell(source: Source, table: str, row: int) -> bytes:
    with parquet.open_file(full_path(source, table)) as file:
        content, name = parquet.Shard(file, source.image_column or "image").cell(row)
    if content is not None:
        return content
    if name is None:
        raise ImageError("empty cell")
    return read_beside(source, table, name)


def read_beside(source: Source, table: str, name: str) -> bytes:
    """Return the bytes of a file that a cell of a table names.

    Parameters
    ----------
    source
        The table.
    table
        The encoded path of the Parquet file.
    name
        The file, relative to the Parquet file or to the root.

    Raises
    ------
    ImageError
        If there is no such file, or it is outside the root.

    """
    outside = ImageError("its cell names a file outside the folder of the table")
    if _URI.match(name) or "\0" in name:
        raise outside
    if _is_remote(source):
        return _read_beside_uri(source, decode_path(table), name, outside)
    if os.path.isabs(name):
        places = [os.path.relpath(name, source.root)]
    else:
        places = [os.path.normpath(os.path.join(os.path.dirname(decode_path(table)), name)), name]
    inside = [place for place in places if is_inside(source, encode_path(place))]
    if not inside:
        raise outside
    there = (place for place in inside if os.path.lexists(os.path.join(source.root, place)))
    return decoding.read_file(os.path.join(source.root, next(there, inside[0])))


def _read_beside_uri(source: Source, table: str, name: str, outside: ImageError) -> bytes:
    scheme, _, path = table.partition(":/")
    place = f"{scheme}:/{posixpath.normpath(posixpath.join(posixpath.dirname(path), name))}"
    root = source.root
    if parquet.is_parquet(root):  # a file or a glob
        root = root.rpartition("/")[0]
    if not _is_below_uri(root, place):
        raise outside
    try:
        return _whole(place)
    except FileNotFoundError:
        raise ImageError("no such file") from None


def is_inside(source: Source, path: str) -> bool:
    """Tell whether a path is the root of its source, below it, or below a folder of `also`.

    Paths are untrusted, and are checked by their names alone. Links belong to the owner of the
    images, and may lead anywhere.
    """
    below = decode_path(path)
    if "\0" in below:
        return False
    if _is_remote(source):
        return _is_below_uri(source.root, below)
    if source.kind == "files":
        folders = (source.root, *source.also)
    else:
        folders = (source.root,)
        if os.path.isabs(below) or _URI.match(below) or ".." in below.split("/"):
            return False
    # Relative paths would depend on the current folder.
    absolute = [os.path.normpath(folder).rstrip("/") for folder in folders if os.path.isabs(folder)]
    place = full_path(source, path)
    return any(f"{place}/".startswith(f"{folder}/") for folder in absolute)


def looked_at(source: Source, folder: str | os.PathLike[str]) -> str | None:
    """Return the folder of a source that contains `folder` and would scan it; None if none does.

    Hidden folders are not scanned.
    """
    place = os.path.realpath(folder)
    tops = [*(os.path.join(source.root, name) for name in source.names), *source.also]
    for top in tops if source.kind == "files" else ():
        below = os.path.relpath(place, os.path.realpath(top))
        # Neither hidden nor outside, which begins with two dots.
        if not any(part.startswith(".") and part != "." for part in below.split("/")):
            return top
    return None


def _is_below_uri(root: str, uri: str) -> bool:
    """Tell whether a URI of Spark is below the root, or below the part of it before a glob."""
    scheme, host, parts = _parts_of_uri(uri)
    root_scheme, root_host, wanted = _parts_of_uri(root)
    fixed = list(itertools.takewhile(lambda part: not _GLOB.search(part), wanted))
    # Spark fills in the host of a root without one.
    same_host = host == root_host or (not root_host and scheme != "file")
    below = parts[: len(fixed)] == fixed and ".." not in uri.split("/")
    return scheme == root_scheme and same_host and below


def _parts_of_uri(uri: str) -> tuple[str, str, list[str]]:
    """Split a URI that is not percent-encoded: scheme, host, parts of the path."""
    scheme, _, rest = uri.partition(":/")
    host = ""
    if rest.startswith("/"):
        host, _, rest = rest[1:].partition("/")
    return scheme.lower(), host, [part for part in os.path.normpath(f"/{rest}").split("/") if part]
