"""URIs of stores: their parts, and schemes that mean the same."""

import os
import re

from lookalike.errors import LookalikeError

_URI = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)
_MERGED_SLASHES = re.compile(r"^([a-z][a-z0-9+.-]+):/(?!/)", re.IGNORECASE)
_SAME = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "azure": "az", "abfs": "abfss"}
STORE_SCHEMES = ("file", "s3", "gs", "abfss", "az", "adl", "hdfs", "memory")


def is_uri(name: str) -> bool:
    """Tell whether a name is a URI, such as `s3://bucket/x` or `file:/x`."""
    return _URI.match(name) is not None


def with_slashes(name: str | os.PathLike[str]) -> str:
    """Return a name as text, with both slashes of a URI, of which `Path` keeps one.

    >>> with_slashes(Path("s3://bucket/cars.index")), with_slashes(Path("cars.index"))
    ('s3://bucket/cars.index', 'cars.index')
    """
    return _MERGED_SLASHES.sub(r"\1://", os.fsdecode(name))


def split_uri(uri: str) -> tuple[str, str, str]:
    """Split a URI that is not percent-encoded: scheme, host, path.

    The scheme is in lower case; one that means the same as another is that other: `s3a` is `s3`.

    >>> split_uri("s3a://bucket/photos/100%.jpg")
    ('s3', 'bucket', '/photos/100%.jpg')
    >>> split_uri("file:/srv/photos")
    ('file', '', '/srv/photos')

    Raises `LookalikeError` for a scheme that no store has.
    """
    match = _URI.match(uri)
    if match is None:
        raise LookalikeError(f"{uri!r} is no URI: give one such as s3://bucket/photos")
    scheme, rest = match[1].lower(), uri[match.end() - 1 :]
    scheme = _SAME.get(scheme, scheme)
    if scheme not in STORE_SCHEMES:
        known = ", ".join(f"{one}://" for one in STORE_SCHEMES[:-2])
        raise LookalikeError(
            f"unknown store {match[1]}://: choose {known} or hdfs://, or copy the files to one"
        )
    host = ""
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        rest = slash + path
    if not host and scheme not in ("file", "hdfs", "memory"):
        raise LookalikeError(f"{uri} names no bucket: give {scheme}://BUCKET/FOLDER")
    return scheme, host, re.sub("/+", "/", rest) if scheme == "file" else rest


def canonical_root(scheme: str, host: str) -> str:
    """Return the root of a store, which `store_backends.backend` opens."""
    return f"{scheme}://{host}"


def same_place(one: str, other: str) -> bool:
    """Tell whether two URIs mean the same place.

    >>> same_place("s3a://bucket/photos/", "s3://bucket/photos")
    True
    """
    try:
        (*ours, path), (*theirs, other_path) = split_uri(one), split_uri(other)
    except LookalikeError:
        return one.rstrip("/") == other.rstrip("/")
    return ours == theirs and path.rstrip("/") == other_path.rstrip("/")
