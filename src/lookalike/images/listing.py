"""Local images listed in a file: with their labels, in parts for Spark's tasks, a sample of it."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.images.kinds import LeftOut
from lookalike.images.matching import Labelled, match_labels
from lookalike.images.scan import Found, nothing_found, walk
from lookalike.images.source import Source
from lookalike.sql import Values, connect, create_view, write_parquet

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


LISTING = pa.schema(
    {
        "id": pa.int64(),
        "path": pa.string(),
        "label": pa.string(),
        "reason": pa.string(),
        "size": pa.int64(),
        "modified": pa.int64(),
    }
)
"""One row an input. `size` in bytes, `modified` in nanoseconds since 1970."""

IMAGE = LISTING.append(pa.field("content", pa.binary()))
"""The same with the bytes of the file, where they are at hand."""

LISTING_BATCH = 16_384
"""Rows of a row group, no less than a task ever takes."""

_IMAGE_BATCH = 1024


Seen = Callable[[str], str]
"""Takes an encoded path below the root of a source; gives it as it is to be noted."""


def list_images(
    source: Source, listing: Path, seen: Seen = str, left_out: LeftOut | None = None
) -> int:
    """Write the inputs of a local source to a Parquet file, numbered from 0; return how many.

    `seen` says how a path is noted; what is no image is counted in `left_out`. Raises
    `LookalikeError` if there is no input. A batch of names is in memory at a time.
    """
    count = list_those(walk(source, (left_out or LeftOut()).takes), listing, seen)
    if count == 0:
        raise nothing_found(source, left_out)
    return count


def list_those(found: Iterator[Found], listing: Path, seen: Seen = str) -> int:
    """Write inputs that were found to a Parquet file, as `list_images` does."""
    count = 0
    with pq.ParquetWriter(listing, LISTING) as writer:
        for batch in _listing(found, seen):
            writer.write_batch(batch)
            count += batch.num_rows
    return count


def _listing(found: Iterator[Found], seen: Seen) -> Iterator[pa.RecordBatch]:
    start = 0
    while chunk := list(itertools.islice(found, LISTING_BATCH)):
        columns = {
            "id": range(start, start + len(chunk)),
            "path": [seen(image.path) for image in chunk],
            "label": [None] * len(chunk),
            "reason": [image.reason for image in chunk],
            "size": [image.size for image in chunk],
            "modified": [image.modified for image in chunk],
        }
        yield pa.RecordBatch.from_pydict(columns, schema=LISTING)
        start += len(chunk)


def label_images(
    listing: Path, labels: Iterator[pa.RecordBatch], root: str, *, some: bool = False
) -> Labelled:
    """Give the images of a listing their labels, as `match_labels` says."""
    labelled = listing.with_name(f"labelled-{listing.name}")
    with connect(listing.parent) as sql:
        create_view(sql, "listing", listing)
        sql.execute("create temp view images as select id, path from listing")
        done = match_labels(sql, labels, listing.parent, root, some=some)
        query = """
            select id, path, labelled.label, reason, size, modified
            from listing left join labelled using (id) order by id"""
        write_listing(sql, query, labelled)
    labelled.replace(listing)
    return done


def write_listing(
    sql: "DuckDBPyConnection", query: str, listing: Path, values: Values | None = None
) -> None:
    """Write the rows of a query, the columns of `LISTING` in the order of ids, as a listing."""
    write_parquet(sql, query, listing, values, row_group_size=LISTING_BATCH)


def listed(listing: Path, part: int = 0, parts: int = 1) -> Iterator[pa.RecordBatch]:
    """Give one of `parts` parts of a listing, counted from 0, as batches of `IMAGE`.

    The parts are of equal size, follow each other and are the whole. Only the row groups in which
    the part lies are read.
    """
    with pq.ParquetFile(listing) as file:
        total = file.metadata.num_rows
        start, stop = part * total // parts, (part + 1) * total // parts
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if start < rows and stop > 0:
                images = file.read_row_group(group).cast(LISTING)
                images = images.slice(max(start, 0), min(stop, rows) - max(start, 0))
                content = pa.nulls(len(images), pa.binary())
                whole = images.append_column("content", content).combine_chunks()
                yield from whole.to_batches(_IMAGE_BATCH)
            start, stop = start - rows, stop - rows  # counted from where the next group begins


def task_count(images: int, cores: int) -> int:
    """Return the number of tasks, and so of segments, for a number of images.

    Enough to show progress and to keep all cores busy to the end, few enough for search: a task
    has from 256 to 16,384 images, fewer only where cores would have nothing to do.
    """
    rows = min(max(images // 200, 256), 16_384)
    rounds = -(-images // (rows * cores))
    return min(rounds * cores, images)


def choose_sample(listing: Path, count: int, seed: int = 0) -> list[str]:
    """Draw the paths of up to `count` inputs without a `reason`, in the order of their ids.

    Every such input is as likely as any other, and none comes twice. A batch of the listing is in
    memory at a time.
    """
    with pq.ParquetFile(listing) as file:
        reasons = file.iter_batches(LISTING_BATCH, columns=["reason"])
        fine = sum(batch["reason"].null_count for batch in reasons)
        rng = np.random.default_rng(seed)
        drawn = np.sort(rng.choice(fine, min(count, fine), replace=False, shuffle=False))
        sample: list[str] = []
        for batch in file.iter_batches(LISTING_BATCH, columns=["path", "reason"]):
            paths = batch["path"].filter(batch["reason"].is_null())
            here, drawn = np.split(drawn, [np.searchsorted(drawn, len(paths))])
            sample += paths.take(pa.array(here)).to_pylist()
            drawn = drawn - len(paths)  # counted from the start of the next batch
    return sample
