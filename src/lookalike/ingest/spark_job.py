"""Embed images on Spark: each task writes one segment, then a receipt beside it."""

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
from lookalike.ingest.diff import HashLookup, sharing_lookup
from lookalike.ingest.job_inputs import Reader
from lookalike.ingest.options import Job
from lookalike.ingest.receipts import receipts_in
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
from lookalike.storage.remote.shared_files import SharedFile
from lookalike.system.arrays import Pixels
from lookalike.system.defaults import WAVE_IMAGES
from lookalike.system.progress import progress_line

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


_POLL_SECONDS = 0.5  # between two searches for new receipts


def split_listing(listing: SharedFile, count: int, wave: int) -> "tuple[DataFrame, Reader]":
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
                yield from read_listing(listing.local(), part, tasks)

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
    source, device, schema = job.rooted, job.device, job.schema
    threads = int(setting(spark, "spark.task.cpus", "1"))

    # An image may crash a worker. The retry of its task decodes in a separate process.
    always_isolated = threads > 1 or not retries_tasks(spark)

    with SharedModel.sharing(model, folder) as shared, sharing_lookup(lookup) as found:

        def rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            return embed_batches(
                read(batches),
                source,
                shared.load(),
                threads,
                device,
                lookup=found,
                isolated=always_isolated or is_retry(),
                expendable=True,
                schema=schema,
            )

        write_on_spark(frame, rows, folder, deliver, count=count, wave=wave)


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
    returns the same record to Spark, as a shared disk may list files late. The receipts of an index
    in a store are in the store too.

    Parameters
    ----------
    frame
        The rows of the tasks.
    rows_of
        Maps the batches of a task to rows of an index.
    folder
        The folder for segments, on a disk that the driver and all workers share, or in the local
        copy of an index.
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
    receipts = receipts_in(folder)

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None
        number = context.partitionId()
        if (earlier := receipts.find(number)) is not None:  # that attempt was lost afterwards
            yield pa.RecordBatch.from_pylist([earlier], SEGMENT)
            return
        with receipts.segment_folder() as place:
            for batch in write_segment(rows_of(batches), place):
                delivered = receipts.deliver(number, batch.to_pylist()[0])
                yield pa.RecordBatch.from_pylist([delivered], SEGMENT)

    def run() -> list[SegmentRecord]:
        with jobs.running(), small_arrow_batches(spark):
            rows = frame.mapInArrow(task, SEGMENT_DDL).collect()
            return [receipts.arrived(row.asDict()) for row in rows]

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
                    fresh = receipts.new(seen)
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
        receipts.clear()


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
