"""Images embedded on Spark: one segment a task, a receipt beside it when it is whole."""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa

from lookalike import images, models
from lookalike.errors import ImageError, LookalikeError
from lookalike.images.inputs.listing import read_listing, task_count
from lookalike.ingest.batches import embed_batches
from lookalike.ingest.diff import Known
from lookalike.ingest.options import Job
from lookalike.models import Model
from lookalike.spark import (
    is_of_spark,
    is_second_try,
    last_words,
    session,
    small_batches,
    tries_again,
)
from lookalike.storage import SEGMENT, SEGMENT_DDL, SegmentRecord, write_segment
from lookalike.system.arrays import Pixels
from lookalike.system.defaults import WAVE
from lookalike.system.progress import progress_line
from lookalike.system.untrusted import is_hash, read_json

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


_LOOK_EVERY = 0.5  # seconds between two looks for segments that Spark has written

Reader: TypeAlias = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def split_listing(listing: Path, count: int, wave: int) -> "tuple[DataFrame, Reader]":
    """Return a row a task, and what makes a task's images of it, read from the listing.

    Spark would read, sample, shuffle and sort the names first, which for some thousand photos
    takes as long as a tenth of the embedding.
    """
    spark = session()
    parallel = spark.sparkContext.defaultParallelism
    tasks = task_count(count, parallel)
    if wave < WAVE:  # what tasks have in work is lost with a killed run as well
        tasks = min(max(tasks, count * 2 * parallel // wave), count)

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for part in batch["id"].to_pylist():
                yield from read_listing(listing, part, tasks)

    return spark.range(0, tasks, 1, tasks), read


def skipped_note(skipped: int) -> str:
    """Return how many images were skipped, for the line of progress."""
    return f"{skipped:,} skipped" if skipped else ""


def embed_on_spark(
    job: Job,
    model: Model,
    frame: "DataFrame",
    read: Reader,
    known: Known | None,
    folder: Path,
    deliver: Callable[[list[SegmentRecord]], None],
    *,
    count: int,
    wave: int,
) -> None:
    """Write a segment a Spark task, and hand over what is written while others are.

    `read` makes images of the batches of the frame that a task gets. A task leaves a receipt when
    its file is whole; those are looked for here. It gives the same to Spark, for a shared disk may
    list files late. `count` images are expected, 0 if nobody knows.
    """
    spark = frame.sparkSession
    shared = spark.sparkContext.broadcast(model)
    source, device = job.rooted, job.device
    threads = int(spark.conf.get("spark.task.cpus", "1") or 1)

    # A worker may crash or hang on an image once. The next one decodes in processes apart.
    always = threads > 1 or not tries_again(spark)

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None
        receipt = folder / f"{context.partitionId()}.receipt"
        if receipt.exists():  # of an attempt that was lost only afterwards
            yield pa.RecordBatch.from_pylist([_said_in(receipt)], SEGMENT)
            return
        rows = embed_batches(
            read(batches),
            source,
            shared.value,
            threads,
            device,
            known=known,
            isolated=always or is_second_try(),
            expendable=True,
        )
        for batch in write_segment(rows, folder):
            yield pa.RecordBatch.from_pylist([_leave(receipt, batch.to_pylist()[0])], SEGMENT)

    def run() -> list[SegmentRecord]:
        with small_batches(spark):
            return [row.asDict() for row in frame.mapInArrow(task, SEGMENT_DDL).collect()]

    seen: set[str] = set()
    paths: set[str] = set()  # of the segments that came so far
    pending: list[SegmentRecord] = []
    before = skipped = 0  # rows that were delivered, and those of all without an embedding
    try:
        with progress_line("embedding", "images") as move, ThreadPoolExecutor(1) as pool:
            running = pool.submit(run)
            try:
                finished = False
                while not finished:
                    finished = not wait([running], _LOOK_EVERY).not_done
                    fresh = _receipts(folder, seen)
                    paths.update(row["path"] for row in fresh)
                    if finished and running.exception() is None:
                        fresh += [row for row in running.result() if row["path"] not in paths]
                    pending += fresh
                    skipped += sum(row["rows"] - row["embedded"] for row in fresh)
                    done = before + sum(row["rows"] for row in pending)
                    if pending and (finished or done - before >= wave // 2):
                        deliver(pending)
                        before, pending = done, []
                    move(done, count or None, skipped_note(skipped))
                running.result()
            except BaseException as error:
                spark.sparkContext.cancelAllJobs()  # or the pool would wait for them
                if is_of_spark(error):
                    raise LookalikeError(
                        f"Spark gave up: {last_words(error)}; run the same again, it goes on from "
                        "what is there"
                    ) from None
                raise
    finally:
        shared.destroy()
        for receipt in folder.glob("*.receipt"):
            receipt.unlink(missing_ok=True)


def _leave(receipt: Path, written: SegmentRecord) -> SegmentRecord:
    """Say that a segment is whole, unless another attempt of the same task has said so of its own.

    What was said first counts, and is returned.
    https://spark.apache.org/docs/latest/job-scheduling.html: an attempt may be taken for lost and
    go on beside the next.
    """
    part = receipt.with_name(f".{uuid.uuid4().hex}.part")
    part.write_text(json.dumps(written))
    try:
        os.link(part, receipt)
        return written
    except FileExistsError:
        first = _said_in(receipt)
        if first["path"] != written["path"]:
            Path(written["path"]).unlink()
        return first
    finally:
        part.unlink()


def _receipts(folder: Path, seen: set[str]) -> list[SegmentRecord]:
    """Read the receipts that were not seen yet."""
    fresh = sorted({file.name for file in folder.glob("*.receipt")} - seen)
    seen.update(fresh)
    return [_said_in(folder / name) for name in fresh]


def _said_in(receipt: Path) -> SegmentRecord:
    """Return what a receipt says of a data file beside it; `LookalikeError` for one elsewhere."""
    try:
        said: SegmentRecord = read_json(receipt)
        file = Path(said["path"])
    except (ValueError, KeyError, TypeError):
        raise _misleading(receipt) from None
    if file.parent != receipt.parent or not is_hash(file.stem):
        raise _misleading(receipt)
    return said


def _misleading(receipt: Path) -> LookalikeError:
    return LookalikeError(
        f"{receipt} was changed by another program: it names no data file beside it: "
        "run the same command again"
    )


def sample_of_frame(source: images.Source, frame: "DataFrame") -> Pixels:
    """Decode, on Spark, the first images it comes across: uint8 (n, 224, 224, 3).

    A sample drawn evenly would read the whole lake to look at some hundreds.
    """
    always = not tries_again(frame.sparkSession)

    def decoded_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        isolated, truncated = always or is_second_try(), source.truncated
        with images.open_decoder(isolated, True, truncated) as decoder:
            for batch in batches:
                decoded = []
                for content in batch["content"]:
                    with suppress(ImageError):
                        decoded.append(decoder.decode_pixels(content.as_py() or b"")[0].tobytes())
                yield pa.record_batch([pa.array(decoded, pa.binary())], ["pixels"])

    with small_batches(frame.sparkSession):
        # Limited last: Spark then looks at a few partitions, and at more if they do not suffice.
        decoded = frame.select("content").mapInArrow(decoded_rows, "pixels binary")
        rows = decoded.limit(models.SAMPLE_IMAGES).collect()
    pixels = np.frombuffer(b"".join(row["pixels"] for row in rows), np.uint8)
    return pixels.reshape(len(rows), images.SIDE, images.SIDE, 3)
