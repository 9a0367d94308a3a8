"""Images embedded into data files, on Spark or in a plain loop, and handed over wave by wave."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike import images, models
from lookalike.errors import ImageError, LookalikeError
from lookalike.images.inputs.listing import read_listing, sample_paths
from lookalike.ingest import options
from lookalike.ingest.batches import embed_batches
from lookalike.ingest.inputs import Inputs
from lookalike.ingest.options import Done, Job
from lookalike.ingest.spark_job import embed_on_spark, sample_of_frame, skipped_note, split_listing
from lookalike.models import Model
from lookalike.spark import is_at_hand, progress, session
from lookalike.storage import SegmentRecord, write_segment
from lookalike.system.arrays import Pixels
from lookalike.system.defaults import WAVE
from lookalike.system.extras import install, is_installed
from lookalike.system.progress import progress_line
from lookalike.system.resources import cores

logger = logging.getLogger(__name__)

LOOP_UP_TO = 5_000
"""Files up to which a plain loop on all cores is done sooner: Spark's start is not earned back."""
_WAVES = 100  # of a run on Spark at most: a commit has its cost
_BYTES_A_ROW = 150  # of a data file, beside the vector
Deliver: TypeAlias = Callable[[list[SegmentRecord], Model], None]
"""Takes segments as they are written, with the model whose vectors they hold."""


def embed_all(job: Job, inputs: Inputs, folder: Path, deliver: Deliver) -> Done:
    """Embed all inputs into Parquet files in `folder`, and hand them over as they are written."""
    if inputs.frame is not None:
        spark = inputs.frame.sparkSession
        with progress(spark, "choosing a precision"):
            model, chosen_in = job.model(partial(sample_of_frame, job.rooted, inputs.frame))
        frame = inputs.frame.withColumn("id", inputs.frame["id"] + inputs.first_id)
        run = partial(embed_on_spark, job, model, frame, inputs.wanted or iter, inputs.known)
        wave = max(job.wave, inputs.count // _WAVES)
        run = partial(run, count=inputs.count, wave=wave)
        return _done(model, chosen_in, folder, deliver, run)
    assert inputs.listing is not None
    if job.precision == "auto" and inputs.count < options.MEASURE_FROM:
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
    parts = split_listing(inputs.listing, inputs.count, job.wave)
    run = partial(embed_on_spark, job, model, *parts, inputs.known)
    wave = max(job.wave, inputs.count // _WAVES)
    run = partial(run, count=inputs.count, wave=wave)
    return _done(model, chosen_in, folder, deliver, run, inputs.count)


def _wants_spark(job: Job, count: int) -> bool:
    """Say whether so many local files are embedded on Spark."""
    if job.spark is not None:
        return job.spark
    # On a GPU one process is as quick as many, each of which would take memory of its own there.
    if is_at_hand():
        return True
    if count <= LOOP_UP_TO or job.device == "cuda":
        return False
    if not is_installed("pyspark"):
        logger.info(f"{count:,} images without Spark, in one process: {install('pyspark')} adds it")
        return False
    return True


def _foresee(job: Job, model: Model, inputs: Inputs, folder: Path) -> None:
    """Say how long many images take and what room they need, before they are begun with.

    Raises `LookalikeError` where there is not so much room.
    """
    if inputs.count < options.MEASURE_FROM:
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
    rows = embed_batches(
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
                move(done, inputs.count, skipped_note(skipped))

        for wave in waves(counted(), together):
            deliver([row for batch in write_segment(wave, folder) for row in batch.to_pylist()])


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
