"""A place with images: how the paths below it are written, kept inside it, and read again."""

import itertools
import os
import posixpath
import re
from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import unquote_to_bytes

from lookalike.errors import ImageError
from lookalike.images import decoding, parquet

_URI = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_GLOB = re.compile(r"[][*?{}\\]")  # what Hadoop takes for more than itself
# What a path may not hold as it is: the escape itself, control characters, bytes that are no UTF-8.
_ESCAPED = re.compile("[%\x00-\x1f\x7f\udc80-\udcff]")


@dataclass(frozen=True)
class Source:
    """A place with images.

    `root` is an absolute folder or a URI; the paths of images are relative to it. `names` are the
    files or folders below it that were asked for (local files only; "" is the root itself).
    `image_column` names the column of bytes of a table, `label_column` that of its labels. `also`
    are absolute folders elsewhere, whose images have absolute paths (local files only).
    `truncated` says that images which were cut short are taken too, as far as they go.
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
        """Make it of what `asdict` gave and JSON kept.

        Raises `ValueError`, `KeyError` or `TypeError` where that was not a source.
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
            # Encoded as names are, which fails for what no name can hold.
            if not isinstance(text, str) or b"\0" in os.fsencode(text):
                raise ValueError(f"no name: {str(text)[:40]!r}")
        is_uri = about["kind"] != "files" and _URI.match(about["root"]) is not None
        if not is_uri and not os.path.isabs(about["root"]):
            raise ValueError(f"no whole path: {about['root'][:40]!r}")
        return cls(**{**about, "names": tuple(about["names"]), "also": tuple(about["also"])})


def encode_path(path: str | bytes) -> str:
    """Percent-encode what Arrow, CSV and terminals cannot take; leave the rest as it is."""
    return _ESCAPED.sub(lambda match: f"%{os.fsencode(match[0])[0]:02X}", os.fsdecode(path))


def decode_path(encoded: str) -> str:
    """Undo `encode_path`. Bytes that are not UTF-8 come back as surrogates, as `os` has them."""
    return os.fsdecode(unquote_to_bytes(encoded))


def glob_pattern(glob: str) -> str:
    """Turn a glob for encoded paths into a regular expression: `*` and `?` match slashes too.

    In RE2's dialect, which Arrow and DuckDB share.
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
    """Return where an image is, as a person or a program can open it: a path or a URI."""
    below = decode_path(path)
    return below if _is_remote(source) else os.path.normpath(os.path.join(source.root, below))


def is_uri(name: str) -> bool:
    """Tell whether a name is a URI: `s3a://...`, `hdfs://...`, `file://...`."""
    return _URI.match(name) is not None


def _is_remote(source: Source) -> bool:
    return source.kind != "files" and _URI.match(source.root) is not None


def read(source: Source, path: str) -> bytes:
    """Return the bytes of one image again, wherever it lies; `ImageError` if it is gone.

    So it is, and nothing is opened, where the path leads out of the folders of the source.
    """
    name, _, row = path.rpartition("#") if source.kind == "table" else (path, "", "")
    if not is_inside(source, name):
        raise ImageError("outside the folders of this index")
    place = full_path(source, name)
    if source.kind == "files":
        return decoding.read(place)
    try:
        if source.kind == "uri":
            return _whole(place)
        return _read_cell(source, name, int(row))
    except ImageError:
        raise
    except Exception as error:  # whatever a remote file system says
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
    """Return the bytes of a file that a cell of a table names instead of holding them.

    `table` is the encoded path of the file with the cell. The other one is looked for beside it,
    then below the root. Raises `ImageError` where it leads out of the root, or is not there.
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
    return decoding.read(os.path.join(source.root, next(there, inside[0])))


def _read_beside_uri(source: Source, table: str, name: str, outside: ImageError) -> bytes:
    scheme, _, path = table.partition(":/")
    place = f"{scheme}:/{posixpath.normpath(posixpath.join(posixpath.dirname(path), name))}"
    root = source.root
    if parquet.is_parquet(root):  # a file, or a glob of files: its folder
        root = root.rpartition("/")[0]
    if not _is_below_uri(root, place):
        raise outside
    try:
        return _whole(place)
    except FileNotFoundError:
        raise ImageError("no such file") from None


def is_inside(source: Source, path: str) -> bool:
    """Tell whether a path leads to the root of its source, or below it or one of `also`.

    Anybody may have written the path, but a link that it meets there is the work of whoever owns
    the images: names alone are looked at.
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
    # What is no absolute path would depend on where the process was started.
    absolute = [os.path.normpath(folder).rstrip("/") for folder in folders if os.path.isabs(folder)]
    place = full_path(source, path)
    return any(f"{place}/".startswith(f"{folder}/") for folder in absolute)


def looked_at(source: Source, folder: str | os.PathLike[str]) -> str | None:
    """Return which of the folders of a source holds a folder, so that its images would be found.

    None where none does, and for a hidden folder, where nobody looks.
    """
    place = os.path.realpath(folder)
    given = [*(os.path.join(source.root, name) for name in source.names), *source.also]
    for one in given if source.kind == "files" else ():
        below = os.path.relpath(place, os.path.realpath(one))
        # Not above or beside it, which begins with two dots, nor hidden.
        if not any(part.startswith(".") and part != "." for part in below.split("/")):
            return one
    return None


def _is_below_uri(root: str, uri: str) -> bool:
    """Tell whether a URI, as Spark gave it, lies below the root, as far as that is no glob."""
    scheme, host, parts = _parts_of_uri(uri)
    root_scheme, root_host, wanted = _parts_of_uri(root)
    fixed = list(itertools.takewhile(lambda part: not _GLOB.search(part), wanted))
    # A root without a host lies where Spark was set up to look, and Spark names the host.
    same_host = host == root_host or (not root_host and scheme != "file")
    below = parts[: len(fixed)] == fixed and ".." not in uri.split("/")
    return scheme == root_scheme and same_host and below


def _parts_of_uri(uri: str) -> tuple[str, str, list[str]]:
    """Take a URI apart: scheme, host, names on the way. Nothing in it is percent-encoded."""
    scheme, _, rest = uri.partition(":/")
    host = ""
    if rest.startswith("/"):
        host, _, rest = rest[1:].partition("/")
    return scheme.lower(), host, [part for part in os.path.normpath(f"/{rest}").split("/") if part]
