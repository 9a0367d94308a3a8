"""List the images in archives: each archive is read once, several at a time."""

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.images.inputs.archives import (
    Directory,
    is_shard,
    member_path,
    read_directory,
    shard_path,
)
from lookalike.images.inputs.file_types import IgnoredFiles
from lookalike.images.inputs.listing import LISTING, write_listing
from lookalike.images.inputs.scan import ScannedFile, no_images_error
from lookalike.images.inputs.source import Source, full_path
from lookalike.images.inputs.tables import files_of
from lookalike.system.sql import connect, create_view

_AT_ONCE = 8  # archives
_BATCH_ROWS = 16_384


def list_archives(source: Source, listing: Path, ignored: IgnoredFiles | None = None) -> int:
    """Write the images in archives to a Parquet file, in the order of their paths.

    A row has the size and time of its archive. An archive that is damaged has a row with the
    reason, beside the rows of what is whole in it. Parameters, result and errors are those of
    `list_images`.
    """
    ignored = ignored or IgnoredFiles()
    found = listing.with_name(f"found-{listing.name}")
    with pq.ParquetWriter(found, LISTING) as writer:
        rows = _rows(source, ignored)
        while chunk := list(itertools.islice(rows, _BATCH_ROWS)):
            writer.write_batch(pa.RecordBatch.from_pylist(chunk, LISTING))
    with connect(listing.parent) as sql:
        create_view(sql, "found", found)
        query = """
            select row_number() over () - 1 as id, path, label, reason, size, modified
            from (from found order by path)"""
        write_listing(sql, query, listing)
    found.unlink()
    count = int(pq.read_metadata(listing).num_rows)
    if count == 0:
        raise no_images_error(source, ignored)
    return count


def _rows(source: Source, ignored: IgnoredFiles) -> Iterator[dict[str, str | int | None]]:
    for shard, directory in _directories(source):
        path = shard_path(shard.path)
        about: dict[str, str | int | None] = {"size": shard.size, "modified": shard.modified}
        for type_, count in directory.others.items():
            ignored.add(type_, count)
        for name in directory.images:
            yield {"path": member_path(path, name), "label": directory.label_of(name), **about}
        if directory.problem is not None:
            yield {"path": path, "reason": directory.problem, **about}


def _directories(source: Source) -> Iterator[tuple[ScannedFile, Directory]]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        pending: deque[tuple[ScannedFile, Future[Directory]]] = deque()
        try:
            for shard in files_of(source, is_shard):
                pending.append((shard, pool.submit(_directory, source, shard)))
                if len(pending) > _AT_ONCE:
                    first, reading = pending.popleft()
                    yield first, reading.result()
            while pending:
                first, reading = pending.popleft()
                yield first, reading.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _directory(source: Source, shard: ScannedFile) -> Directory:
    if shard.reason is not None:
        return Directory(problem=shard.reason)
    return read_directory(full_path(source, shard.path), source.label_column)
