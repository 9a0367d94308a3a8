"""A place with images: how paths below it are written, kept inside it, and read again."""

import itertools
import os
import re
from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import unquote_to_bytes

_URI = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_GLOB = re.compile(r"[][*?{}\\]")  # Hadoop's special characters
_REMOTE = ("uri", "table", "archive")  # kinds whose root may be a URI
OUTSIDE = "outside the folders of this index"
"""Why an image is not read whose path leads out of its source."""

# Not allowed in a stored path: the escape itself, control characters, bytes that are not UTF-8.
_ESCAPED = re.compile("[%\x00-\x1f\x7f\udc80-\udcff]")


@dataclass(frozen=True)
class Source:
    """A place with images.

    Attributes
    ----------
    kind
        "files" for local files, "uri" for objects of a store, "table" for Parquet,
        "archive" for tar and zip, "rows" for rows of a process whose images cannot be read again,
        "vectors" for vectors made elsewhere.
    root
        An absolute folder or a URI; paths of images are relative to it.
    names
        The given files or folders below a local root; "" is the root itself.
    image_column, label_column
        The columns of a table with image bytes and with labels; of archives, the members with
        labels; of vectors, the column with paths
        of pictures, None if there are none.
    also
        Absolute folders elsewhere, whose images have absolute paths. Local files only.
    truncated
        Decode the readable part of images that were cut short.

    """

    kind: Literal["files", "uri", "table", "archive", "rows", "vectors"]
    root: str
    names: tuple[str, ...] = ("",)
    image_column: str | None = None
    label_column: str | None = None
    also: tuple[str, ...] = ()
    truncated: bool = False

    @property
    def has_pictures(self) -> bool:
        """Whether there are pictures to read: rows have none, vectors may have none."""
        return self.kind not in ("rows", "vectors") or self.image_column is not None

    @classmethod
    def stored(cls, about: dict[str, Any]) -> Self:
        """Restore a source from `asdict` by way of JSON.

        Raises `ValueError`, `KeyError` or `TypeError` for anything else.
        """
        about = {"also": [], "truncated": False, **about}
        if not isinstance(about["truncated"], bool):
            raise ValueError(f"truncated is {str(about['truncated'])[:40]!r}")
        if about["kind"] not in ("files", "uri", "table", "archive", "rows", "vectors"):
            raise ValueError(f"no kind of source: {str(about['kind'])[:40]!r}")
        for name in ("names", "also"):
            if not isinstance(about[name], list):
                raise ValueError(f"{name} is no list")
        columns = [about[name] for name in ("image_column", "label_column") if about[name]]
        for text in (about["root"], *about["names"], *about["also"], *columns):
            # Encoding fails for characters that no file name can hold.
            if not isinstance(text, str) or b"\0" in os.fsencode(text):
                raise ValueError(f"no name: {str(text)[:40]!r}")
        is_uri = about["kind"] in (*_REMOTE, "vectors") and _URI.match(about["root"]) is not None
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
    if _is_remote(source) or not source.has_pictures:
        return below
    return os.path.normpath(os.path.join(source.root, below))


def is_uri(name: str) -> bool:
    """Tell whether a name is a URI, such as `s3a://...` or `file://...`."""
    return _URI.match(name) is not None


def _is_remote(source: Source) -> bool:
    return source.kind in _REMOTE and _URI.match(source.root) is not None


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
    if source.kind in ("files", "vectors"):
        folders = (source.root, *source.also)
    else:
        folders = (source.root,)
        if os.path.isabs(below) or _URI.match(below) or ".." in below.split("/"):
            return False
    # Relative paths would depend on the current folder.
    absolute = [os.path.normpath(folder).rstrip("/") for folder in folders if os.path.isabs(folder)]
    place = full_path(source, path)
    return any(f"{place}/".startswith(f"{folder}/") for folder in absolute)


def containing_folder(source: Source, folder: str | os.PathLike[str]) -> str | None:
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
