"""Embed images into segments, on Spark or in this process, and deliver them wave by wave."""

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike import images, models
from lookalike.errors import ImageError, LookalikeError
from lookalike.images.inputs.listing import read_listing, sample_paths
from lookalike.ingest import options
from lookalike.ingest.batches import embed_batches
from lookalike.ingest.job_inputs import Inputs, sharing_paths
from lookalike.ingest.options import Job
from lookalike.ingest.report import EmbedResult
from lookalike.ingest.spark_job import embed_on_spark, sample_of_frame, skipped_note, split_listing
from lookalike.ingest.vectors.running import write_vectors
from lookalike.ingest.wave_sizes import MAX_WAVES, image_wave
from lookalike.models import Model
from lookalike.models.callables import embed_each
from lookalike.spark import is_spark_available, progress, session
from lookalike.storage import SegmentRecord, write_segment
from lookalike.storage.remote.shared_files import sharing
from lookalike.system.arrays import Pixels
from lookalike.system.defaults import WAVE_IMAGES
from lookalike.system.extras import install, is_installed
from lookalike.system.progress import progress_line
from lookalike.system.resources import cores

logger = logging.getLogger(__name__)

MAX_FILES_WITHOUT_SPARK = 5_000
"""Largest number of local files to embed in this process: starting Spark would take longer."""
_ROW_BYTES = 150  # in a segment, without the vector
_DECODED_AT_ONCE = 64  # images of a sample
_Given = TypeVar("_Given")
Deliver: TypeAlias = Callable[[list[SegmentRecord], Model], None]
"""Takes new segments, and the model of their vectors."""


def embed_all(job: Job, inputs: Inputs, folder: Path, deliver: Deliver) -> EmbedResult:
    """Embed all inputs into segments in `folder`; call `deliver` for each wave of them."""
    if inputs.vectors is not None:
        check_space(inputs.count, job.full.width, folder)
        write = partial(write_vectors, job, inputs.vectors, inputs)
        return _run(job.full, 0.0, folder, deliver, write, inputs.count, "the table")
    # The rows of a new table are not counted.
    is_counted = inputs.frame is None or inputs.count > 0
    if is_counted and job.precision == "auto" and inputs.count < options.MIN_IMAGES_TO_MEASURE:
        job = replace(job, precision="f32")
    if inputs.frame is not None:
        spark = inputs.frame.sparkSession
        shown, read = inputs.frame, inputs.reader(inputs.paths)
        if inputs.read is None:
            shown, read = shown.select("content"), iter
        with progress(spark, "choosing a precision"):
            sample = partial(sample_of_frame, job.rooted, shown, job.full.input, read)
            model, chosen_in = job.model(sample)
        frame = inputs.frame.withColumn("id", inputs.frame["id"] + inputs.first_id)
        wave = max(job.wave, inputs.count // MAX_WAVES)
        expected = 0 if inputs.read is None else inputs.count  # of a table it is not known
        with sharing_paths(inputs.paths) as paths:
            run = partial(embed_on_spark, job, model, frame, inputs.reader(paths), inputs.lookup)
            run = partial(run, count=inputs.count, wave=wave)
            return _run(model, chosen_in, folder, deliver, run, expected)
    if inputs.batches is not None:
        check_space(inputs.count, job.full.width, folder)
        sample = partial(_sample_of_batches, job.rooted, inputs.batches, job.full.input)
        with progress_line("choosing a precision"):
            model, chosen_in = job.model(sample)
        run = partial(_embed_in_process, job, model, inputs)
        return _run(model, chosen_in, folder, deliver, run, inputs.count, "the DataFrame")
    assert inputs.listing is not None
    sample = partial(_sample_of_files, job.rooted, inputs.listing, job.full.input)
    choose = partial(job.model, sample)
    if not _uses_spark(job, inputs.count):
        with progress_line("choosing a precision"):
            model, chosen_in = choose()
        _check_cost(job, model, inputs, folder)
        return _run(
            model, chosen_in, folder, deliver, partial(_embed_in_process, job, model, inputs)
        )
    # Choose the precision while the JVM starts.
    with progress_line("starting Spark"), ThreadPoolExecutor(1) as pool:
        choosing = pool.submit(choose)
        session()
        model, chosen_in = choosing.result()
    _check_cost(job, model, inputs, folder)
    wave = max(job.wave, inputs.count // MAX_WAVES)
    with sharing(inputs.listing) as (listing,):
        parts = split_listing(listing, inputs.count, job.wave)
        run = partial(embed_on_spark, job, model, *parts, inputs.lookup)
        run = partial(run, count=inputs.count, wave=wave)
        return _run(model, chosen_in, folder, deliver, run, inputs.count)


def _uses_spark(job: Job, count: int) -> bool:
    """Tell whether to embed this number of local files on Spark."""
    if job.spark is not None:
        return job.spark
    if is_spark_available():
        return True
    # On a GPU, several processes are no faster than one, and each takes GPU memory.
    if count <= MAX_FILES_WITHOUT_SPARK or job.device == "cuda":
        return False
    if not is_installed("pyspark"):
        logger.info(f"{count:,} images without Spark, in one process: {install('pyspark')} adds it")
        return False
    return True


def _check_cost(job: Job, model: Model, inputs: Inputs, folder: Path) -> None:
    """Check the free disk space and log the estimated time, for many images.

    Raises `LookalikeError` if the space does not suffice.
    """
    if inputs.count < options.MIN_IMAGES_TO_MEASURE:
        return
    assert inputs.listing is not None
    needed = check_space(inputs.count, model.width, folder)
    run = models.engine(model, 1, device=job.device)
    paths = sample_paths(inputs.listing, run.batch)
    started = time.perf_counter()
    pixels = _decode_files(job.rooted, paths, model.input)  # on all cores
    decoded = time.perf_counter()
    if len(pixels):
        embed_each(run, pixels)  # on one core
    seconds_per_batch = decoded - started + (time.perf_counter() - decoded) / cores()
    seconds = inputs.count * seconds_per_batch / max(len(paths), 1)
    logger.info(
        f"{inputs.count:,} images: about {max(round(seconds / 60), 1)} min, {_size(needed)} for "
        "the index and as much for its cache"
    )


def check_space(count: int, width: int, folder: Path) -> int:
    """Return the size of an index of `count` vectors in bytes.

    Raises `LookalikeError` if the disk of `folder` has less space.
    """
    needed = count * (_ROW_BYTES + width * np.dtype(np.float32).itemsize)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise LookalikeError(
            f"{count:,} vectors need {_size(needed)}, but {_size(free)} are free: free some space, "
            "or choose an `out` on another disk"
        )
    return needed


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"


def _run(
    model: Model,
    chosen_in: float,
    folder: Path,
    deliver: Deliver,
    embed: Callable[[Path, Callable[[list[SegmentRecord]], None]], None],
    expected: int = 0,
    reader: str = "Spark",
) -> EmbedResult:
    """Call `embed` and count its rows. Raises `LookalikeError` if not `expected`, 0 for any."""
    started = time.perf_counter()
    rows = embedded = 0

    def count(written: list[SegmentRecord]) -> None:
        nonlocal rows, embedded
        rows += sum(row["rows"] for row in written)
        embedded += sum(row["embedded"] for row in written)
        deliver(written, model)

    embed(folder, count)
    if expected and rows != expected:
        what = "images" if reader == "Spark" else "rows"
        raise LookalikeError(
            f"{reader} returned {rows:,} of {expected:,} {what}: run the same command again"
        )
    seconds = time.perf_counter() - started
    return EmbedResult(model, chosen_in, seconds, embedded, rows - embedded)


def _embed_in_process(
    job: Job,
    model: Model,
    inputs: Inputs,
    folder: Path,
    deliver: Callable[[list[SegmentRecord]], None],
) -> None:
    if inputs.batches is not None:
        batches = inputs.batches()
    else:
        assert inputs.listing is not None
        batches = read_listing(inputs.listing)
    threads = cores() + 1  # one thread may wait for the disk
    run = models.engine(model, threads, threads, job.device)
    batch, ahead, wave_rows = _split_wave(image_wave(job.wave, inputs.count), threads, run)
    rows = embed_batches(
        batches,
        job.rooted,
        model,
        threads,
        job.device,
        batch=batch,
        ahead=ahead,
        lookup=inputs.lookup,
        isolated=True,
        schema=job.schema,
    )
    with progress_line("embedding", "images") as move:

        def counted() -> Iterator[pa.RecordBatch]:
            done = skipped = 0
            for batch in rows:
                yield batch
                done += batch.num_rows
                skipped += batch["embedding"].null_count
                move(done, inputs.count, skipped_note(skipped))

        for wave in waves(counted(), wave_rows):
            deliver([row for batch in write_segment(wave, folder) for row in batch.to_pylist()])


def _split_wave(wave: int, threads: int, run: models.Engine) -> tuple[int, int, int]:
    """Split a wave into the rows that threads compute and the rows that wait for a commit.

    A killed run loses both. Waves smaller than the default have smaller batches, so that all
    threads have work within the wave. With many cores, the rows that threads compute can exceed
    the wave.

    Returns
    -------
    The rows of a batch, the number of batches computed ahead, and the rows to commit at once. The
    last batch of a wave may exceed these.

    """
    batch, ahead = run.batch, 2 * threads
    if wave < WAVE_IMAGES:
        batch = max(min(batch, wave // ahead), 1)
        ahead = min(ahead, wave // 2 // batch)
    waiting = wave - ahead * batch
    return batch, ahead, (waiting if waiting >= wave // 2 else wave) - batch + 1


def waves(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[Iterator[pa.RecordBatch]]:
    """Group batches into waves of at least `rows` rows, to consume one after the other."""
    for first in batches:

        def wave(first: pa.RecordBatch = first) -> Iterator[pa.RecordBatch]:
            yield first
            count = first.num_rows
            while count < rows and (batch := next(batches, None)) is not None:
                yield batch
                count += batch.num_rows

        yield wave()


def _sample_of_files(
    source: images.Source, listing: Path, preprocessing: images.Preprocessing
) -> Pixels:
    """Decode up to `models.SAMPLE_IMAGES` images drawn at random: uint8 (n, height, width, 3)."""
    return _decode_files(source, sample_paths(listing, models.SAMPLE_IMAGES), preprocessing)


def _decode_files(
    source: images.Source, paths: Sequence[str], preprocessing: images.Preprocessing
) -> Pixels:
    return _decoded(source, paths, partial(images.read, source), preprocessing)


def _decoded(
    source: images.Source,
    given: Iterable[_Given],
    read: Callable[[_Given], bytes],
    preprocessing: images.Preprocessing,
) -> Pixels:
    """Read and decode images; leave out those that cannot be."""

    def decoded_image(one: _Given) -> Pixels | None:
        with suppress(ImageError):
            return decoder.decode_pixels(read(one), preprocessing)[0]
        return None

    with (
        ThreadPoolExecutor(cores()) as pool,
        images.open_decoder(True, truncated=source.truncated) as decoder,
    ):
        remaining = iter(given)
        decoded: list[Pixels] = []
        while some := list(islice(remaining, _DECODED_AT_ONCE)):
            decoded += (one for one in pool.map(decoded_image, some) if one is not None)
        return np.array(decoded, np.uint8)


def _sample_of_batches(
    source: images.Source,
    batches: Callable[[], Iterator[pa.RecordBatch]],
    preprocessing: images.Preprocessing,
) -> Pixels:
    """Decode the first images of batches: uint8 (n, height, width, 3)."""
    contents = (cell.as_py() for batch in batches() for cell in batch["content"])
    return _decoded(
        source, islice(contents, models.SAMPLE_IMAGES), lambda one: one or b"", preprocessing
    )


def rows_with_status(
    files: Sequence[Path], status: str, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of segments that have a status, in batches."""
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(1024, columns=["status", *columns]):
            rows = batch.filter(pc.equal(batch["status"], status)).select(columns)
            if rows.num_rows:
                yield rows


def nothing_readable_error(files: Sequence[Path], ignored: images.IgnoredFiles) -> LookalikeError:
    """Return the error for inputs that all failed, with the reason of the first one."""
    others = images.describe_ignored(ignored.counts())
    count = sum(pq.read_metadata(file).num_rows for file in files)
    first = next(rows_with_status(files, "skipped", ["path", "reason"])).slice(0, 1).to_pylist()[0]
    problem = f"none of {count:,} inputs can be read, such as " if count > 1 else "cannot read "
    return LookalikeError(
        f"{problem}{first['path']}: {first['reason']}; "
        + (f"not looked at: {others}; " if others else "")
        + "nothing is left to index"
    )
