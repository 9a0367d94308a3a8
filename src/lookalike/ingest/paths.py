"""Paths of images relative to the root of an index, and the folders that an index records."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lookalike import images
from lookalike.errors import LookalikeError
from lookalike.storage import EmbeddingTable
from lookalike.system.uris import is_uri, same_place, split_uri

_KIND_NAMES = {
    "files": "a folder",
    "table": "a Parquet table",
    "archive": "archives",
    "uri": "a store",
    "rows": "a DataFrame",
}
_MAX_RECORDED_FOLDERS = 100


@dataclass(frozen=True)
class PathRewriter:
    """Rewrites paths of a listing to paths relative to the root of an index.

    Attributes
    ----------
    before
        A prefix to add.
    root
        A prefix to remove then: the root of the index, with a slash.
    below
        The encoded paths, relative to the root, of the listed files and folders.

    """

    before: str = ""
    root: str = ""
    below: tuple[str, ...] = ("",)

    def __call__(self, path: str) -> str:
        """Return an encoded path of the listing relative to the root."""
        path = self.before + path
        if self.root and f"{path}/" == self.root:
            return ""
        return path.removeprefix(self.root)


def path_rewriter(stored: EmbeddingTable, source: images.Source) -> PathRewriter:
    """Return the rewriter from paths of a source to paths of an existing index.

    Raises `LookalikeError` if the images cannot be added to this index.
    """
    if source.kind == stored.source.kind == "vectors":
        return PathRewriter()
    if source.kind != stored.source.kind:
        raise LookalikeError(
            f"{stored.path} holds images of {_KIND_NAMES[stored.source.kind]}, but "
            f"the input is of {_KIND_NAMES[source.kind]}: make another index for it"
        )
    if source.kind in ("table", "archive"):
        if source != stored.source:
            raise LookalikeError(
                f"{stored.path} was made of another table: make another index for this one"
            )
        return PathRewriter()
    if source.kind == "uri":
        if not same_place(source.root, stored.source.root):
            raise LookalikeError(
                f"{stored.path} was made of {stored.source.root}: give that URI, or make another "
                "index"
            )
        return PathRewriter()
    root = _with_slash(stored.source.root)
    real = _with_slash(os.path.realpath(stored.source.root))
    before = _with_slash(source.root)
    if not before.startswith(root) and _with_slash(os.path.realpath(source.root)).startswith(real):
        before, root = _with_slash(os.path.realpath(source.root)), real
    rewriter = PathRewriter(before, root)
    below = tuple(rewriter(images.encode_path(name)).rstrip("/") for name in source.names)
    # The root is missing: its disk may be disconnected, so its images do not count as deleted.
    if "" in below and source.names != ("",) and not os.path.isdir(stored.source.root):
        raise LookalikeError(
            f"{images.encode_path(stored.source.root)} is missing: check whether its disk is "
            "connected, or give the new folder with `lookalike root`"
        )
    return PathRewriter(before, root, below)


def as_recorded(recorded: images.Source, source: images.Source) -> images.Source:
    """Return a source with the root of an index, if that URI means the same: `s3a` is `s3`."""
    if source.kind == recorded.kind == "uri" and same_place(source.root, recorded.root):
        return replace(source, root=recorded.root)
    return source


def own_path_rewriter(source: images.Source) -> PathRewriter:
    """Return the rewriter from paths of a source to paths relative to its own root."""
    if source.kind != "files":
        return PathRewriter()
    return PathRewriter(below=tuple(map(images.encode_path, source.names)))


def unrecorded_folders(
    stored: EmbeddingTable, source: images.Source, rewriter: PathRewriter
) -> list[str]:
    """Return the folders of a source outside the root that the index does not record yet."""
    if source.kind != "files":
        return []
    known = {_with_slash(folder) for folder in stored.source.also}
    new = set()
    for name, below in zip(source.names, rewriter.below, strict=True):
        if below.startswith("/"):
            path = os.path.join(source.root, name) if name else source.root
            folder = path if os.path.isdir(path) else os.path.dirname(path)
            if not any(_with_slash(folder).startswith(one) for one in known):
                new.add(folder)
    return sorted(new)


def recorded_source(source: images.Source) -> images.Source:
    """Return the source that an index records, for `sync`.

    Folders are recorded, as they may get new images; single files are not.
    """
    if source.kind != "files":
        return source
    folders = all(os.path.isdir(os.path.join(source.root, name)) for name in source.names)
    names = source.names if folders and len(source.names) <= _MAX_RECORDED_FOLDERS else ()
    return images.Source("files", source.root, names, truncated=source.truncated)


def recorded_inputs(stored: EmbeddingTable) -> list[str]:
    """Return the folders, URI or table that an index was made of.

    Raises `LookalikeError` if it was made of single files.
    """
    source = stored.source
    if stored.columns.are_of_frame:
        raise LookalikeError(f"{stored.path} was made of a DataFrame: give the DataFrame")
    if stored.own is not None:
        if stored.own.place is None:
            raise LookalikeError(f"{stored.path} was made of rows of a process: give the table")
        return [stored.own.place]
    if source.kind == "files" and not source.names:
        raise LookalikeError(f"{stored.path} was made of single files: name the files or a folder")
    names = source.names or ("",)
    return [os.path.join(source.root, name) if name else source.root for name in names]


def stored_name(source: images.Source, name: str) -> str:
    """Return a path or glob as stored in an index: encoded, relative to its root."""
    if source.kind == "files":
        absolute = os.path.abspath(name)
        relative = next(_relative_paths(source.root, absolute), None)
        if os.path.isabs(name) or (relative is not None and os.path.lexists(absolute)):
            name = absolute if relative is None else relative
        name = os.path.normpath(name)
    if source.kind == "uri":
        name = _below_root(source.root, name)
    return images.encode_path(name)


def _below_root(root: str, name: str) -> str:
    """Return a URI with the scheme and host as a root has them; for a path, one below the root."""
    if not is_uri(name):
        return f"{root.rstrip('/')}/{name}"
    *place, path = split_uri(name)
    *ours, below = split_uri(root)
    return root.removesuffix(below) + path if place == ours else name


def _relative_paths(root: str, path: str) -> Iterator[str]:
    """Yield an absolute path relative to a root above it, by its name and with links resolved."""
    # Resolve the links of its folders only: a link names itself.
    real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    for one, other in ((path, root), (real, os.path.realpath(root))):
        if os.path.commonpath([one, other]) == other:
            yield os.path.relpath(one, other)


def _with_slash(path: str) -> str:
    return images.encode_path(path).rstrip("/") + "/"
