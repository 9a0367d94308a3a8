"""List local images in a Parquet file: add labels, read parts for Spark tasks, draw samples."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.images.inputs.file_types import IgnoredFiles
from lookalike.images.inputs.label_matching import LabelCounts, match_labels
from lookalike.images.inputs.scan import ScannedFile, no_images_error, walk
from lookalike.images.inputs.source import Source
from lookalike.system.sql import Values, connect, create_view, write_parquet

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
"""One row for each input: `size` in bytes, `modified` in nanoseconds since 1970."""

IMAGE = LISTING.append(pa.field("content", pa.binary()))
"""The same with the bytes of the file, null if they are still to be read."""

LISTING_BATCH_ROWS = 16_384
"""Rows of a row group: as many as a task takes at most."""

_IMAGE_BATCH_ROWS = 1024


RewritePath = Callable[[str], str]
"""Maps an encoded path below the root of a source to the path that is stored."""


def list_images(
    source: Source,
    listing: Path,
    rewrite_path: RewritePath = str,
    ignored: IgnoredFiles | None = None,
) -> int:
    """Write the inputs of a local source to a Parquet file, a batch in memory at a time.

    Parameters
    ----------
    source
        A source of the kind "files".
    listing
        The file to write, with the columns of `LISTING`. Ids count from 0.
    rewrite_path
        Maps the path of an input to the path that is stored.
    ignored
        Counts the files that are no images.

    Returns
    -------
    The number of inputs.

    Raises
    ------
    LookalikeError
        If there is no input.

    """
    count = write_inputs(walk(source, (ignored or IgnoredFiles()).accepts), listing, rewrite_path)
    if count == 0:
        raise no_images_error(source, ignored)
    return count


def write_inputs(
    inputs: Iterator[ScannedFile], listing: Path, rewrite_path: RewritePath = str
) -> int:
    """Write inputs to a Parquet file as `list_images` does; return their number."""
    count = 0
    with pq.ParquetWriter(listing, LISTING) as writer:
        while chunk := list(itertools.islice(inputs, LISTING_BATCH_ROWS)):
            columns = {
                "id": range(count, count + len(chunk)),
                "path": [rewrite_path(image.path) for image in chunk],
                "label": [None] * len(chunk),
                "reason": [image.reason for image in chunk],
                "size": [image.size for image in chunk],
                "modified": [image.modified for image in chunk],
            }
            writer.write_batch(pa.RecordBatch.from_pydict(columns, schema=LISTING))
            count += len(chunk)
    return count


def label_images(
    listing: Path,
    labels: Iterator[pa.RecordBatch],
    root: str,
    *,
    allow_unmatched: bool = False,
) -> LabelCounts:
    """Add labels to the images of a listing by the rules of `match_labels`."""
    labelled = listing.with_name(f"labelled-{listing.name}")
    with connect(listing.parent) as sql:
        create_view(sql, "listing", listing)
        sql.execute("create temp view images as select id, path from listing")
        counts = match_labels(sql, labels, listing.parent, root, allow_unmatched=allow_unmatched)
        query = """
            select id, path, labelled.label, reason, size, modified
            from listing left join labelled using (id) order by id"""
        write_listing(sql, query, labelled)
    labelled.replace(listing)
    return counts


def write_listing(
    sql: "DuckDBPyConnection", query: str, listing: Path, values: Values | None = None
) -> None:
    """Write the rows of a query, in the order of ids, as a listing: `LISTING`, and more columns."""
    write_parquet(sql, query, listing, values, row_group_size=LISTING_BATCH_ROWS)


def read_listing(listing: Path, part: int = 0, parts: int = 1) -> Iterator[pa.RecordBatch]:
    """Read part number `part`, from 0, of a listing in `parts` equal consecutive parts.

    Only the row groups of that part are read.

    Yields
    ------
    Batches with the columns of `IMAGE`, `content` null, and those that the listing has beside.

    """
    with pq.ParquetFile(listing) as file:
        total = file.metadata.num_rows
        start, stop = part * total // parts, (part + 1) * total // parts
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if start < rows and stop > 0:
                found = file.read_row_group(group)
                found = found.slice(max(start, 0), min(stop, rows) - max(start, 0))
                whole = found.select(LISTING.names).cast(LISTING)
                whole = whole.append_column("content", pa.nulls(len(found), pa.binary()))
                for name in found.column_names:
                    if name not in LISTING.names:
                        whole = whole.append_column(found.field(name), found[name])
                yield from whole.combine_chunks().to_batches(_IMAGE_BATCH_ROWS)
            start, stop = start - rows, stop - rows  # relative to the next group


def task_count(images: int, cores: int) -> int:
    """Return the number of tasks, and so of segments, for a number of images.

    A task gets 256 to 16,384 images, fewer only to keep all cores busy. More tasks would slow
    search down, fewer would delay progress.
    """
    rows = min(max(images // 200, 256), 16_384)
    rounds = -(-images // (rows * cores))
    return min(rounds * cores, images)


def sample_paths(listing: Path, count: int, seed: int = 0) -> list[str]:
    """Draw the paths of `count` readable inputs at random, without replacement.

    Returns
    -------
    Paths in the order of their ids, fewer than `count` if there are fewer. A batch of the listing
    is in memory at a time.

    """
    with pq.ParquetFile(listing) as file:
        reasons = file.iter_batches(LISTING_BATCH_ROWS, columns=["reason"])
        readable = sum(batch["reason"].null_count for batch in reasons)
        rng = np.random.default_rng(seed)
        drawn = np.sort(rng.choice(readable, min(count, readable), replace=False, shuffle=False))
        sample: list[str] = []
        for batch in file.iter_batches(LISTING_BATCH_ROWS, columns=["path", "reason"]):
            paths = batch["path"].filter(batch["reason"].is_null())
            here, drawn = np.split(drawn, [np.searchsorted(drawn, len(paths))])
            sample += paths.take(pa.array(here)).to_pylist()
            drawn = drawn - len(paths)  # relative to the next batch
    return sample
