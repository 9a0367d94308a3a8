"""Read images of a store ahead of the network, with many requests at once.

A request waits some tens of milliseconds for its first byte, whatever its size: a loop that reads
one image after the other would wait most of the time.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa

from lookalike.errors import ImageError
from lookalike.images.inputs.archives import read_member, split_member
from lookalike.images.inputs.file_opening import read_object
from lookalike.images.inputs.source import OUTSIDE, Source, decode_path, is_inside
from lookalike.system.store import open_object
from lookalike.system.uris import is_uri, split_uri

_REQUESTS = 32  # at once
_GROUP_BYTES = 16 * 2**20  # of a batch of images, unless a single image is larger
_GROUP_ROWS = 64
_AHEAD_BYTES = 64 * 2**20  # of the images that are being read, or wait to be taken
_AHEAD_GROUPS = 32  # a request takes memory, however small its image is
_UNKNOWN_BYTES = 2**20  # of an image whose listing has no size


class _Group(NamedTuple):
    """Rows whose images are being read: `contents` are those of the rows `waiting`."""

    rows: pa.RecordBatch
    waiting: list[int]
    contents: "list[Future[bytes]]"
    size: int


def is_read_ahead(source: Source) -> bool:
    """Tell whether the images of a source come over a network."""
    return (
        source.kind in ("uri", "archive")
        and is_uri(source.root)
        and split_uri(source.root)[0] != "file"
    )


def read_ahead(source: Source, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield batches with the content of their images, or the reason why there is none.

    Memory holds about 64 MB of images, or two larger ones, and some thousand rows. The order of
    rows is kept.

    Parameters
    ----------
    source
        The place of the images; batches of local images pass as they are.
    batches
        Batches with the columns of `listing.IMAGE`.

    Raises
    ------
    StoreError
        If the store fails, so that nothing is known about an image.

    """
    if not is_read_ahead(source):
        yield from batches
        return
    pending: deque[_Group] = deque()
    held = 0
    pool = ThreadPoolExecutor(_REQUESTS)
    try:
        for rows in _groups(batches, source):
            group = _start(source, rows, pool)
            while pending and (held + group.size > _AHEAD_BYTES or len(pending) == _AHEAD_GROUPS):
                held -= pending[0].size
                yield _finish(pending.popleft())
            pending.append(group)
            held += group.size
        while pending:
            yield _finish(pending.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _groups(batches: Iterable[pa.RecordBatch], source: Source) -> Iterator[pa.RecordBatch]:
    """Split batches into groups of few bytes."""
    for batch in batches:
        sizes = _sizes(source, batch["size"])
        start = held = 0
        for at, size in enumerate(sizes):
            if at > start and (held + size > _GROUP_BYTES or at - start == _GROUP_ROWS):
                yield batch.slice(start, at - start)
                start, held = at, 0
            held += size
        if start < len(sizes):
            yield batch.slice(start)


def _start(source: Source, rows: pa.RecordBatch, pool: ThreadPoolExecutor) -> _Group:
    waiting = [
        at
        for at in range(rows.num_rows)
        if not rows["content"][at].is_valid and not rows["reason"][at].is_valid
    ]
    paths = rows["path"].take(pa.array(waiting, pa.int64())).to_pylist()
    contents = [pool.submit(_read, source, path) for path in paths]
    sizes = _sizes(source, rows["size"].take(pa.array(waiting, pa.int64())))
    return _Group(rows, waiting, contents, sum(sizes))


def _sizes(source: Source, sizes: pa.Array) -> list[int]:
    """Return about how many bytes images have; a row of an archive has the size of the archive."""
    if source.kind == "archive":
        return [_UNKNOWN_BYTES] * len(sizes)
    return [_UNKNOWN_BYTES if size is None else size for size in sizes.to_pylist()]


def _read(source: Source, path: str) -> bytes:
    file = split_member(path)[0] if source.kind == "archive" else path
    if not is_inside(source, file):
        raise ImageError(OUTSIDE)
    if source.kind == "archive":
        return read_member(source, path)
    store, name = open_object(decode_path(path))
    return read_object(store, name)


def _finish(group: _Group) -> pa.RecordBatch:
    contents = group.rows["content"].to_pylist()
    reasons = group.rows["reason"].to_pylist()
    for at, content in zip(group.waiting, group.contents, strict=True):
        try:
            contents[at] = content.result()
        except ImageError as error:
            reasons[at] = str(error)
    columns = {
        **{name: group.rows[name] for name in group.rows.schema.names},
        "content": pa.array(contents, pa.binary()),
        "reason": pa.array(reasons, pa.string()),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=group.rows.schema)
