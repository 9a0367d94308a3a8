"""Images embedded into data files, on Spark or in a plain loop, and handed over wave by wave."""

import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike import embedding, images, models
from lookalike.build import jobs
from lookalike.build.jobs import Done, Job
from lookalike.defaults import WAVE
from lookalike.errors import ImageError, LookalikeError
from lookalike.extras import install, is_installed
from lookalike.images.listing import read_listing, sample_paths, task_count
from lookalike.ingest.diff import Known
from lookalike.models import Model
from lookalike.models.engines import Pixels
from lookalike.progress import progress_line
from lookalike.spark import (
    cores,
    is_at_hand,
    is_of_spark,
    is_second_try,
    last_words,
    progress,
    session,
    small_batches,
    tries_again,
)
from lookalike.storage import SEGMENT, SEGMENT_DDL, SegmentRecord, write_segment
from lookalike.untrusted import is_hash, read_json

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

logger = logging.getLogger(__name__)

LOOP_UP_TO = 5_000
"""Files up to which a plain loop on all cores is done sooner: Spark's start is not earned back."""
_WAVES = 100  # of a run on Spark at most: a commit has its cost
_BYTES_A_ROW = 150  # of a data file, beside the vector
_LOOK_EVERY = 0.5  # seconds between two looks for segments that Spark has written

Reader: TypeAlias = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
Deliver: TypeAlias = Callable[[list[SegmentRecord], Model], None]
"""Takes segments as they are written, with the model whose vectors they hold."""


@dataclass(frozen=True)
class Inputs:
    """What a job has to read: `count` inputs of a `listing`, or, where only Spark can, a `frame`.

    `known` knows the embeddings of files with the same bytes as others. Of a frame, `wanted` says
    which rows count, and their ids begin at `first_id`.
    """

    count: int = 0
    listing: Path | None = None
    frame: "DataFrame | None" = None
    known: Known | None = None
    wanted: "Wanted | None" = None
    first_id: int = 0


@dataclass(frozen=True)
class Wanted:
    """The paths that are wanted of many, as a file of sorted hashes that each process maps."""

    file: Path

    @classmethod
    def of(cls, listing: Path, file: Path) -> "Wanted":
        """Write the hashes of the paths of a listing to `file`."""
        with pq.ParquetFile(listing) as stored:
            batches = stored.iter_batches(columns=["path"])
            hashes = [_hashes(batch["path"].to_pylist()) for batch in batches]
        np.save(file, np.sort(np.concatenate(hashes)) if hashes else np.empty(0, np.uint64))
        return cls(file)

    @cached_property
    def _sorted(self) -> npt.NDArray[np.uint64]:
        mapped: npt.NDArray[np.uint64] = np.load(self.file, mmap_mode="r")
        return mapped

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Leave out the rows whose path is not wanted."""
        for batch in batches:
            if len(self._sorted) == 0:
                return
            hashes = _hashes(batch["path"].to_pylist())
            at = np.searchsorted(self._sorted, hashes)
            found = self._sorted[np.minimum(at, len(self._sorted) - 1)] == hashes
            if found.any():
                yield batch.filter(pa.array(found))


def _hashes(paths: Sequence[str]) -> npt.NDArray[np.uint64]:
    digests = (hashlib.blake2b(path.encode(), digest_size=8).digest() for path in paths)
    return np.frombuffer(b"".join(digests), np.uint64)


def embed_all(job: Job, inputs: Inputs, folder: Path, deliver: Deliver) -> Done:
    """Embed all inputs into Parquet files in `folder`, and hand them over as they are written."""
    if inputs.frame is not None:
        spark = inputs.frame.sparkSession
        with progress(spark, "choosing a precision"):
            model, chosen_in = job.model(partial(_sample_of_frame, job.rooted, inputs.frame))
        frame = inputs.frame.withColumn("id", inputs.frame["id"] + inputs.first_id)
        run = partial(_on_spark, job, model, frame, inputs.wanted or iter, inputs.known)
        wave = max(job.wave, inputs.count // _WAVES)
        run = partial(run, count=inputs.count, wave=wave)
        return _done(model, chosen_in, folder, deliver, run)
    assert inputs.listing is not None
    if job.precision == "auto" and inputs.count < jobs.MEASURE_FROM:
        job = replace(job, precision="f32")
    choose = partial(job.model, partial(_sample_of_files, job.rooted, inputs.listing))
    if not _wants_spark(job, inputs.count):
        with progress_line("choosing a precision"):
            model, chosen_in = choose()
        _foresee(job, model, inputs, folder)
        return _done(model, chosen_in, folder, deliver, partial(_in_a_loop, job, model, inputs))
    # One reads and computes, the other waits for a JVM.
    with progress_line("starting Spark"), ThreadPoolExecutor(1) as pool:
        choosing = pool.submit(choose)
        session()
        model, chosen_in = choosing.result()
    _foresee(job, model, inputs, folder)
    parts = _parts(inputs.listing, inputs.count, job.wave)
    run = partial(_on_spark, job, model, *parts, inputs.known)
    wave = max(job.wave, inputs.count // _WAVES)
    run = partial(run, count=inputs.count, wave=wave)
    return _done(model, chosen_in, folder, deliver, run, inputs.count)


def _wants_spark(job: Job, count: int) -> bool:
    """Say whether so many local files are embedded on Spark."""
    if job.spark is not None:
        return job.spark
    # On a GPU one process is as quick as many, each of which would take memory of its own there.
    if is_at_hand() or count <= LOOP_UP_TO or job.device == "cuda":
        return is_at_hand()
    if not is_installed("pyspark"):
        logger.info(f"{count:,} images without Spark, in one process: {install('pyspark')} adds it")
        return False
    return True


def _foresee(job: Job, model: Model, inputs: Inputs, folder: Path) -> None:
    """Say how long many images take and what room they need, before they are begun with.

    Raises `LookalikeError` where there is not so much room.
    """
    if inputs.count < jobs.MEASURE_FROM:
        return
    assert inputs.listing is not None
    needed = inputs.count * (_BYTES_A_ROW + model.width * np.dtype(np.float32).itemsize)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise LookalikeError(
            f"{_size(needed)} are needed for {inputs.count:,} images, {_size(free)} are free: "
            "make room, or choose an `out` on another disk"
        )
    run = models.engine(model, 1, device=job.device)
    few = sample_paths(inputs.listing, run.batch)
    started = time.perf_counter()
    pixels = _decoded(job.rooted, few)  # on all cores
    decoded = time.perf_counter()
    if len(pixels):
        run(pixels)  # on one
    each = decoded - started + (time.perf_counter() - decoded) / cores()
    seconds = inputs.count * each / max(len(few), 1)
    logger.info(
        f"{inputs.count:,} images: some {max(round(seconds / 60), 1)} min, {_size(needed)} for the "
        "index and as much for its cache"
    )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"


def _done(
    model: Model,
    chosen_in: float,
    folder: Path,
    deliver: Deliver,
    run: Callable[[Path, Callable[[list[SegmentRecord]], None]], None],
    expected: int = 0,
) -> Done:
    """Run what embeds; `LookalikeError` if not the `expected` rows come of it, 0 for any."""
    started = time.perf_counter()
    rows = embedded = 0

    def count(written: list[SegmentRecord]) -> None:
        nonlocal rows, embedded
        rows += sum(row["rows"] for row in written)
        embedded += sum(row["embedded"] for row in written)
        deliver(written, model)

    run(folder, count)
    if expected and rows != expected:
        raise LookalikeError(
            f"{rows:,} of {expected:,} images came back from Spark: run the same command again"
        )
    seconds = time.perf_counter() - started
    return Done(model, chosen_in, seconds, embedded, rows - embedded)


def _parts(listing: Path, count: int, wave: int) -> "tuple[DataFrame, Reader]":
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


def _in_a_loop(
    job: Job,
    model: Model,
    inputs: Inputs,
    folder: Path,
    deliver: Callable[[list[SegmentRecord]], None],
) -> None:
    assert inputs.listing is not None
    threads = cores() + 1  # one may wait for the disk while the others compute
    run = models.engine(model, threads, threads, job.device)
    batch, ahead, together = _share(job.wave, threads, run)
    rows = embedding.embed_batches(
        read_listing(inputs.listing),
        job.rooted,
        model,
        threads,
        job.device,
        batch=batch,
        ahead=ahead,
        known=inputs.known,
        isolated=True,
    )
    with progress_line("embedding", "images") as move:

        def counted() -> Iterator[pa.RecordBatch]:
            done = skipped = 0
            for batch in rows:
                yield batch
                done += batch.num_rows
                skipped += batch["embedding"].null_count
                move(done, inputs.count, _note(skipped))

        for wave in waves(counted(), together):
            deliver([row for batch in write_segment(wave, folder) for row in batch.to_pylist()])


def _note(skipped: int) -> str:
    return f"{skipped:,} skipped" if skipped else ""


def _share(wave: int, threads: int, run: models.Engine) -> tuple[int, int, int]:
    """Share a wave between what threads have in work and what waits for a commit.

    Together they are what a killed run loses. Returned are the rows of a batch, how many batches
    are ahead of what waits, and of how many rows on they wait no longer: a batch may end beyond.
    Of a wave under the usual the batches are smaller, so that all threads have work and no more is
    lost; where cores are so many that the usual one does not suffice for them, it is what they have
    in work that is lost as well.
    """
    batch, ahead = run.batch, 2 * threads
    if wave < WAVE:
        batch = max(min(batch, wave // ahead), 1)
        ahead = min(ahead, wave // 2 // batch)
    waiting = wave - ahead * batch
    return batch, ahead, (waiting if waiting >= wave // 2 else wave) - batch + 1


def waves(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[Iterator[pa.RecordBatch]]:
    """Cut batches into waves of so many rows, to be consumed one after the other."""
    for first in batches:

        def wave(first: pa.RecordBatch = first) -> Iterator[pa.RecordBatch]:
            yield first
            count = first.num_rows
            while count < rows and (batch := next(batches, None)) is not None:
                yield batch
                count += batch.num_rows

        yield wave()


def _on_spark(
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
        rows = embedding.embed_batches(
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
                    move(done, count or None, _note(skipped))
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


def _sample_of_files(source: images.Source, listing: Path) -> Pixels:
    """Decode up to `models.SAMPLE_IMAGES` images drawn at random: uint8 (n, 224, 224, 3)."""
    return _decoded(source, sample_paths(listing, models.SAMPLE_IMAGES))


def _decoded(source: images.Source, paths: Sequence[str]) -> Pixels:
    def decoded_file(path: str) -> Pixels | None:
        with suppress(ImageError):
            return decoder.decode_pixels(images.read(source, path))[0]
        return None

    with (
        ThreadPoolExecutor(cores()) as pool,
        images.open_decoder(True, truncated=source.truncated) as decoder,
    ):
        decoded = pool.map(decoded_file, paths)
        return np.array([pixels for pixels in decoded if pixels is not None], np.uint8)


def _sample_of_frame(source: images.Source, frame: "DataFrame") -> Pixels:
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


def stored_rows(files: Sequence[Path], status: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Give the rows of data files that have a status, file by file in batches."""
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(1024, columns=["status", *columns]):
            wanted = batch.filter(pc.equal(batch["status"], status)).select(columns)
            if wanted.num_rows:
                yield wanted


def nothing_readable(files: Sequence[Path], ignored: images.IgnoredFiles) -> LookalikeError:
    """Return the error for inputs none of which became an embedding: the reason of the first."""
    there = images.describe_ignored(ignored.counts())
    count = sum(pq.read_metadata(file).num_rows for file in files)
    first = next(stored_rows(files, "skipped", ["path", "reason"])).slice(0, 1).to_pylist()[0]
    such = f"none of {count:,} inputs can be read, such as " if count > 1 else "cannot read "
    return LookalikeError(
        f"{such}{first['path']}: {first['reason']}; "
        + (f"not looked at: {there}; " if there else "")
        + "nothing is left to index"
    )
