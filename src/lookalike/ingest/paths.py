"""Where images are, as seen from the root of a collection."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from lookalike import images
from lookalike.errors import LookalikeError
from lookalike.storage import EmbeddingTable

_HELD = {
    "files": "photos of a folder",
    "table": "images of a Parquet table",
    "uri": "photos of another file system",
}
_GIVEN = {"files": "a folder", "table": "a Parquet table", "uri": "on another file system"}
_NAMES = 100  # folders that a collection remembers it was made of


@dataclass(frozen=True)
class Place:
    """Where images are as seen from the root of a collection.

    A path of a listing gets `before` put before it, and loses `root` if it then begins with that.
    `below` are the encoded paths, seen from the root, of what was listed.
    """

    before: str = ""
    root: str = ""
    below: tuple[str, ...] = ("",)

    def __call__(self, path: str) -> str:
        """Return the encoded path of a listing as seen from the root."""
        path = self.before + path
        if self.root and f"{path}/" == self.root:
            return ""
        return path.removeprefix(self.root)


def place_of(stored: EmbeddingTable, source: images.Source) -> Place:
    """Say where the images of a source are, as seen from the root of a collection.

    Raises `LookalikeError` where they cannot be in one collection.
    """
    if source.kind != stored.source.kind:
        raise LookalikeError(
            f"{stored.path} holds {_HELD[stored.source.kind]}, but "
            f"the input is {_GIVEN[source.kind]}: make another index for it"
        )
    if source.kind == "table":
        if source != stored.source:
            raise LookalikeError(
                f"{stored.path} was made of another table: make another index of it"
            )
        return Place()
    if source.kind == "uri":
        if source.root.rstrip("/") != stored.source.root.rstrip("/"):
            raise LookalikeError(
                f"{stored.path} was made of {stored.source.root}: give that, or make another index"
            )
        return Place()
    root = _folder(stored.source.root)
    real = _folder(os.path.realpath(stored.source.root))
    before = _folder(source.root)
    if not before.startswith(root) and _folder(os.path.realpath(source.root)).startswith(real):
        before, root = _folder(os.path.realpath(source.root)), real
    place = Place(before, root)
    below = tuple(place(images.encode_path(name)).rstrip("/") for name in source.names)
    # Named, and no folder any more: its disk may be away, and then nothing in it is gone.
    if "" in below and source.names != ("",) and not os.path.isdir(stored.source.root):
        raise LookalikeError(
            f"{images.encode_path(stored.source.root)} is no folder now: see whether its disk is "
            "there, or tell where the images are with `lookalike root`"
        )
    return Place(before, root, below)


def place_of_root(source: images.Source) -> Place:
    """Say where the images of a source are, as seen from its own root."""
    return Place(below=tuple(map(images.encode_path, source.names)))


def outside(stored: EmbeddingTable, source: images.Source, place: Place) -> list[str]:
    """Return the folders of a source that lie outside those that a collection knows."""
    if source.kind != "files":
        return []
    known = {_folder(folder) for folder in stored.source.also}
    new = set()
    for name, below in zip(source.names, place.below, strict=True):
        if below.startswith("/"):
            path = os.path.join(source.root, name) if name else source.root
            folder = path if os.path.isdir(path) else os.path.dirname(path)
            if not any(_folder(folder).startswith(one) for one in known):
                new.add(folder)
    return sorted(new)


def remembered(source: images.Source) -> images.Source:
    """Return what a collection notes of the source that it is made of.

    Folders are noted, to be looked at again; single files are not: none of them is ever new.
    """
    if source.kind != "files":
        return source
    folders = all(os.path.isdir(os.path.join(source.root, name)) for name in source.names)
    names = source.names if folders and len(source.names) <= _NAMES else ()
    return images.Source("files", source.root, names, truncated=source.truncated)


def again(stored: EmbeddingTable) -> list[str]:
    """Return what a collection was made of, to be looked at again.

    Raises `LookalikeError` where that was single files.
    """
    source = stored.source
    if source.kind == "files" and not source.names:
        raise LookalikeError(f"{stored.path} was made of single files: name the files to look at")
    names = source.names or ("",)
    return [os.path.join(source.root, name) if name else source.root for name in names]


def meant(source: images.Source, name: str) -> str:
    """Return a path or a glob as a collection has it: encoded, seen from its root."""
    if source.kind == "files":
        whole = os.path.abspath(name)
        seen = next(_seen(source.root, whole), None)
        if os.path.isabs(name) or (seen is not None and os.path.lexists(whole)):
            name = whole if seen is None else seen
        name = os.path.normpath(name)
    return images.encode_path(name)


def _seen(root: str, path: str) -> Iterator[str]:
    """Give an absolute path as seen from a root above it, by its name or by where links lead."""
    # A link is meant itself, not where it leads.
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    for one, other in ((path, root), (real, os.path.realpath(root))):
        if os.path.commonpath([one, other]) == other:
            yield os.path.relpath(one, other)


def _folder(path: str) -> str:
    return images.encode_path(path).rstrip("/") + "/"
