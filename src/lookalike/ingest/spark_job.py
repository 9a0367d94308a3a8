"""Embed images on Spark: each task writes one segment, then a receipt beside it."""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lookalike import images, models
from lookalike.errors import ImageError, LookalikeError
from lookalike.images.inputs.listing import read_listing, task_count
from lookalike.ingest.batches import embed_batches
from lookalike.ingest.diff import HashLookup
from lookalike.ingest.job_inputs import Reader
from lookalike.ingest.options import Job
from lookalike.ingest.shared_model import SharedModel
from lookalike.models import Model, callables
from lookalike.spark import (
    Interruptible,
    is_retry,
    is_spark_error,
    parallelism,
    retries_tasks,
    session,
    setting,
    short_error,
    small_arrow_batches,
)
from lookalike.storage import SEGMENT, SEGMENT_DDL, SegmentRecord, write_segment
from lookalike.system.arrays import Pixels
from lookalike.system.defaults import WAVE_IMAGES
from lookalike.system.progress import progress_line
from lookalike.system.untrusted import is_hash, read_json

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


_POLL_SECONDS = 0.5  # between two searches for new receipts


def split_listing(listing: Path, count: int, wave: int) -> "tuple[DataFrame, Reader]":
    """Return a DataFrame with a row for each task, and a reader of its part of the listing.

    If Spark read the listing itself, it would sample, shuffle and sort the names first: a tenth of
    the time of embedding some thousand photos.
    """
    spark = session()
    parallel = parallelism(spark)
    tasks = task_count(count, parallel)
    if wave < WAVE_IMAGES:  # a killed run loses the rows that tasks compute, too
        tasks = min(max(tasks, count * 2 * parallel // wave), count)

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for part in batch["id"].to_pylist():
                yield from read_listing(listing, part, tasks)

    return spark.range(0, tasks, 1, tasks), read


def skipped_note(skipped: int) -> str:
    """Return the number of skipped images as a note for the progress line."""
    return f"{skipped:,} skipped" if skipped else ""


def embed_on_spark(
    job: Job,
    model: Model,
    frame: "DataFrame",
    read: Reader,
    lookup: HashLookup | None,
    folder: Path,
    deliver: Callable[[list[SegmentRecord]], None],
    *,
    count: int,
    wave: int,
) -> None:
    """Embed images in Spark tasks, as `write_on_spark` does.

    Parameters
    ----------
    job, model
        What to embed, and with which model.
    frame
        The rows of the tasks.
    read
        Maps the batches of a task to batches of images.
    lookup
        Finds stored embeddings by content hash.
    folder, deliver, count, wave
        As in `write_on_spark`.

    """
    spark = frame.sparkSession
    if model.function is not None:
        callables.pickled(model.function)  # now: Spark would print what is wrong with it
    shared = SharedModel.write(model, folder)
    source, device, schema = job.rooted, job.device, job.schema
    threads = int(setting(spark, "spark.task.cpus", "1"))

    # An image may crash a worker. The retry of its task decodes in a separate process.
    always_isolated = threads > 1 or not retries_tasks(spark)

    def rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return embed_batches(
            read(batches),
            source,
            shared.load(),
            threads,
            device,
            lookup=lookup,
            isolated=always_isolated or is_retry(),
            expendable=True,
            schema=schema,
        )

    try:
        write_on_spark(frame, rows, folder, deliver, count=count, wave=wave)
    finally:
        shared.delete()


def write_on_spark(
    frame: "DataFrame",
    rows_of: Reader,
    folder: Path,
    deliver: Callable[[list[SegmentRecord]], None],
    *,
    count: int,
    wave: int,
    doing: tuple[str, str] = ("embedding", "images"),
) -> None:
    """Write a segment in each Spark task, and deliver segments while other tasks run.

    A task writes a receipt when its segment is complete; the driver polls for receipts. The task
    returns the same record to Spark, as a shared disk may list files late.

    Parameters
    ----------
    frame
        The rows of the tasks.
    rows_of
        Maps the batches of a task to rows of an index.
    folder
        The folder for segments, on a disk that the driver and all workers share.
    deliver
        Takes new segments.
    count
        The number of inputs, 0 if unknown.
    wave
        The number of inputs between two commits.
    doing
        What the progress line says, and the unit of its counts.

    """
    spark = frame.sparkSession
    jobs = Interruptible(spark)

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None
        receipt = folder / f"{context.partitionId()}.receipt"
        if receipt.exists():  # an earlier attempt completed, and was lost afterwards
            yield pa.RecordBatch.from_pylist([_read_receipt(receipt)], SEGMENT)
            return
        for batch in write_segment(rows_of(batches), folder):
            yield pa.RecordBatch.from_pylist(
                [_write_receipt(receipt, batch.to_pylist()[0])], SEGMENT
            )

    def run() -> list[SegmentRecord]:
        with jobs.running(), small_arrow_batches(spark):
            return [row.asDict() for row in frame.mapInArrow(task, SEGMENT_DDL).collect()]

    seen: set[str] = set()
    paths: set[str] = set()  # of the segments found so far
    pending: list[SegmentRecord] = []
    delivered = skipped = 0  # rows
    try:
        with progress_line(*doing) as move, ThreadPoolExecutor(1) as pool:
            running = pool.submit(run)
            try:
                finished = False
                while not finished:
                    finished = not wait([running], _POLL_SECONDS).not_done
                    fresh = _new_receipts(folder, seen)
                    paths.update(row["path"] for row in fresh)
                    if finished and running.exception() is None:
                        fresh += [row for row in running.result() if row["path"] not in paths]
                    pending += fresh
                    skipped += sum(row["rows"] - row["embedded"] for row in fresh)
                    done = delivered + sum(row["rows"] for row in pending)
                    if pending and (finished or done - delivered >= wave // 2):
                        deliver(pending)
                        delivered, pending = done, []
                    move(done, count or None, skipped_note(skipped))
                running.result()
            except BaseException as error:
                while not running.done():  # else the pool would wait for jobs that start later
                    jobs.stop()
                    wait([running], _POLL_SECONDS)
                if is_spark_error(error):
                    raise LookalikeError(
                        f"Spark failed: {short_error(error)}; run the same command to continue"
                    ) from None
                raise
    finally:
        for receipt in folder.glob("*.receipt"):
            receipt.unlink(missing_ok=True)


def _write_receipt(receipt: Path, written: SegmentRecord) -> SegmentRecord:
    """Write the receipt of a segment, unless another attempt of the task has written one.

    Returns the record of the first receipt. An attempt that Spark considers lost may run on beside
    the next one: https://spark.apache.org/docs/latest/job-scheduling.html
    """
    part = receipt.with_name(f".{uuid.uuid4().hex}.part")
    part.write_text(json.dumps(written))
    try:
        os.link(part, receipt)
        return written
    except FileExistsError:
        first = _read_receipt(receipt)
        if first["path"] != written["path"]:
            Path(written["path"]).unlink()
        return first
    finally:
        part.unlink()


def _new_receipts(folder: Path, seen: set[str]) -> list[SegmentRecord]:
    """Return the records of receipts that are not in `seen`, and add them to it."""
    fresh = sorted({file.name for file in folder.glob("*.receipt")} - seen)
    seen.update(fresh)
    return [_read_receipt(folder / name) for name in fresh]


def _read_receipt(receipt: Path) -> SegmentRecord:
    """Return the record of a receipt. Raises `LookalikeError` unless its file is in this folder."""
    try:
        record: SegmentRecord = read_json(receipt)
        file = Path(record["path"])
    except (ValueError, KeyError, TypeError):
        raise _bad_receipt(receipt) from None
    if file.parent != receipt.parent or not is_hash(file.stem):
        raise _bad_receipt(receipt)
    return record


def _bad_receipt(receipt: Path) -> LookalikeError:
    return LookalikeError(
        f"{receipt} was changed by another program and names no data file beside it: "
        "run the same command again"
    )


def sample_of_frame(
    source: images.Source,
    frame: "DataFrame",
    preprocessing: images.Preprocessing,
    read: Reader = iter,
) -> Pixels:
    """Decode the first images that Spark finds: uint8 (n, height, width, 3).

    `read` maps the batches of a task to batches with the column `content`. A random sample would
    have to read the whole data lake.
    """
    always_isolated = not retries_tasks(frame.sparkSession)

    def decoded_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        isolated, truncated = always_isolated or is_retry(), source.truncated
        with images.open_decoder(isolated, True, truncated) as decoder:
            for batch in read(batches):
                decoded = []
                for content in batch["content"]:
                    with suppress(ImageError):
                        pixels, _ = decoder.decode_pixels(content.as_py() or b"", preprocessing)
                        decoded.append(pixels.tobytes())
                yield pa.record_batch([pa.array(decoded, pa.binary())], ["pixels"])

    with small_arrow_batches(frame.sparkSession):
        # Limit last: Spark then reads only as many partitions as it needs.
        decoded = frame.mapInArrow(decoded_rows, "pixels binary")
        rows = decoded.limit(models.SAMPLE_IMAGES).collect()
    pixels = np.frombuffer(b"".join(row["pixels"] for row in rows), np.uint8)
    return pixels.reshape(len(rows), *preprocessing.shape)
