"""Local images listed in a file: batches of it, parts of it for Spark's tasks, a sample of it."""

import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.images.labels import AMBIGUOUS, CONFLICTING, EXAMPLES, names_in_doubt
from lookalike.images.sources import Found, Source, nothing_found, walk

LISTING = pa.schema({"id": pa.int64(), "path": pa.string(), "reason": pa.string()})
IMAGE = pa.schema(
    {
        "id": pa.int64(),
        "path": pa.string(),
        "label": pa.string(),
        "reason": pa.string(),
        "content": pa.binary(),
    }
)
_LISTING_BATCH = 16_384  # rows; a row group, and no less than a task ever takes
_IMAGE_BATCH = 1024


def list_images(source: Source, path: Path) -> int:
    """Write the inputs of a local source to a Parquet file, numbered from 0; return how many.

    Raises `LookalikeError` if there is none. A batch of names is in memory at a time.
    """
    count = 0
    with pq.ParquetWriter(path, LISTING) as writer:
        for batch in _listing(walk(source)):
            writer.write_batch(batch)
            count += batch.num_rows
    if count == 0:
        raise nothing_found(source)
    return count


def _listing(found: Iterator[Found]) -> Iterator[pa.RecordBatch]:
    start = 0
    while chunk := list(itertools.islice(found, _LISTING_BATCH)):
        yield pa.record_batch(
            [
                pa.array(range(start, start + len(chunk)), pa.int64()),
                pa.array([image.path for image in chunk], pa.string()),
                pa.array([image.reason for image in chunk], pa.string()),
            ],
            schema=LISTING,
        )
        start += len(chunk)


def image_batches(
    listing: Path, labels: Iterator[pa.RecordBatch] | None
) -> tuple[Iterator[pa.RecordBatch], int]:
    """Give batches of `IMAGE` in the order of ids, and the count of labels not used.

    `frame.image_frame` for a plain loop: the same rows and the same errors. `listing` is what
    `list_images` wrote, here of a small collection: it is in memory as a whole.
    """
    with pq.ParquetFile(listing) as file:
        images = file.read()
    found: list[str | None] = [None] * len(images)
    unused = 0
    if labels is not None:
        found, unused = _find_labels(images["path"].to_pylist(), labels)
    return _batches(images, pa.array(found, pa.string())), unused


def listed(listing: Path, part: int, parts: int) -> Iterator[pa.RecordBatch]:
    """Give one of `parts` parts of a listing, counted from 0, as batches of `IMAGE` without labels.

    The parts are of equal size, follow each other and are the whole. Only the row groups in which
    the part lies are read.
    """
    with pq.ParquetFile(listing) as file:
        total = file.metadata.num_rows
        start, stop = part * total // parts, (part + 1) * total // parts
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if start < rows and stop > 0:
                images = file.read_row_group(group)
                images = images.slice(max(start, 0), min(stop, rows) - max(start, 0))
                yield from _batches(images, pa.nulls(len(images), pa.string()))
            start, stop = start - rows, stop - rows  # counted from where the next group begins


def _batches(images: pa.Table, labels: pa.Array) -> Iterator[pa.RecordBatch]:
    content = pa.nulls(len(images), pa.binary())
    columns = [images["id"], images["path"], labels, images["reason"], content]
    return iter(pa.table(columns, schema=IMAGE).combine_chunks().to_batches(_IMAGE_BATCH))


def _find_labels(
    paths: list[str], labels: Iterator[pa.RecordBatch]
) -> tuple[list[str | None], int]:
    """Return the label of every path or None, and how many names fit no path.

    What `frame._join_labels` does, and a test holds the two equal: `LookalikeError` where a label
    fits several images or a name has several labels.
    """
    # Names that fit no image are kept too: they are counted, and refused with two labels as well.
    given: dict[str, str] = {}
    conflicting: set[str] = set()
    for batch in labels:
        for name, label in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            # Interned, for a label has many names.
            if given.setdefault(name, sys.intern(label)) != label:
                conflicting.add(name)
    bases = [path.rpartition("/")[2] for path in paths]
    # A label given for the path of an image counts more than one for its bare name.
    chosen = [path if path in given else base for path, base in zip(paths, bases, strict=True)]
    images = Counter(name for name in chosen if name in given)
    ambiguous = [name for name, count in images.items() if count > 1]
    for names, meaning in ((conflicting, CONFLICTING), (ambiguous, AMBIGUOUS)):
        if names:
            raise names_in_doubt(len(names), sorted(names)[:EXAMPLES], meaning)
    unused = len(given) - len(given.keys() & {*paths, *bases})
    return [given.get(name) for name in chosen], unused


def choose_sample(listing: Path, count: int, seed: int = 0) -> list[str]:
    """Draw the paths of up to `count` inputs without a `reason`, in the order of their ids.

    Every such input is as likely as any other, and none comes twice. A batch of the listing is in
    memory at a time.
    """
    with pq.ParquetFile(listing) as file:
        reasons = file.iter_batches(_LISTING_BATCH, columns=["reason"])
        fine = sum(batch["reason"].null_count for batch in reasons)
        rng = np.random.default_rng(seed)
        drawn = np.sort(rng.choice(fine, min(count, fine), replace=False, shuffle=False))
        sample: list[str] = []
        for batch in file.iter_batches(_LISTING_BATCH, columns=["path", "reason"]):
            paths = batch["path"].filter(batch["reason"].is_null())
            here, drawn = np.split(drawn, [np.searchsorted(drawn, len(paths))])
            sample += paths.take(pa.array(here)).to_pylist()
            drawn = drawn - len(paths)  # counted from the start of the next batch
    return sample
