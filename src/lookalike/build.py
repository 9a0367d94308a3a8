"""From images to files of embeddings, on Spark or in a plain loop: the making of a collection."""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike import collection, embedding, images, models
from lookalike.collection import Collection
from lookalike.errors import LookalikeError
from lookalike.images.frame import image_frame, task_count
from lookalike.images.labels import open_labels
from lookalike.images.listing import choose_sample, image_batches, list_images, listed
from lookalike.models import Model, calibration
from lookalike.models.engines import Pixels
from lookalike.progress import progress_line
from lookalike.searcher import EXACT_UP_TO, Searcher
from lookalike.spark import (
    cores,
    is_at_hand,
    is_second_try,
    progress,
    session,
    small_batches,
    tries_again,
)
from lookalike.weights import look_like_cars

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

LOOP_UP_TO = 5_000
"""Files up to which a plain loop on all cores is done sooner: Spark's start is not earned back."""
MEASURE_FROM = 1_000
"""Images from which on `auto` saves more time than it takes to compare precisions."""

Reader: TypeAlias = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class Options:
    """How images are read and embedded; every option of `lookalike embed` and `index`.

    `spark` is True to use Spark, False to do without, None to let the number of files decide.
    """

    labels: str | Path | None = None
    image_name: str = "image"
    label_name: str = "Class"
    image_column: str | None = None
    label_column: str | None = None
    model: str = "resnet18"
    weights: str = "cars"
    precision: str = "auto"
    device: str = "auto"
    spark: bool | None = None


@dataclass(frozen=True)
class Report:
    """What a run of embedding came to. `segments` are rows of `collection.SEGMENT`.

    `choosing_seconds` went into the choice of a precision, `seconds` into embedding. `advice` is a
    sentence for the person at the terminal, if there is something to say.
    """

    images: int
    skipped: int
    unused_labels: int
    choosing_seconds: float
    seconds: float
    model: Model
    advice: str | None
    segments: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """What is checked before anything is started, so that a wrong option costs no wait.

    `full` is the model in full precision; it is brought to the wanted one when images are at hand.
    """

    source: images.Source
    labels: Iterator[pa.RecordBatch] | None
    full: Model
    precision: str
    device: str
    spark: bool | None

    @property
    def rooted(self) -> images.Source:
        """The source without the names in it: the listing has them, all others need the root."""
        return replace(self.source, names=("",))

    def model(self, sample: Callable[[], Pixels]) -> tuple[Model, float]:
        """Choose the precision on a sample of the images; return the seconds it took as well."""
        started = time.perf_counter()
        model = models.at_precision(self.full, self.precision, sample, self.device)
        return model, time.perf_counter() - started


def prepare(photos: str | Path | Sequence[str | Path], options: Options) -> Job:
    """Check what is asked for; `LookalikeError` if it cannot be done."""
    models.check_precision(options.precision)
    source = images.locate(
        photos, image_column=options.image_column, label_column=options.label_column
    )
    if source.kind != "files" and options.spark is False:
        raise LookalikeError(f"only Spark reads {source.root}: leave --no-spark out")
    labels = None
    if options.labels is not None:
        labels = open_labels(options.labels, options.image_name, options.label_name)
    if source.kind == "files" and next(images.walk(source), None) is None:
        raise images.nothing_found(source)
    # int8 is for CPUs, so that a GPU is only in the way of who asks for it.
    wanted = "cpu" if (options.precision, options.device) == ("int8", "auto") else options.device
    device = models.find_device(wanted)
    full = models.resolve(options.model, options.weights, device)
    return Job(source, labels, full, options.precision, device, options.spark)


def embed(job: Job, folder: Path, staging: Path) -> Report:
    """Embed all images of a job into Parquet files in the new folder `folder`."""
    folder.mkdir(parents=True)
    if job.source.kind != "files":
        return _from_tables(job, folder, staging)
    listing = staging / "listing.parquet"
    count = list_images(job.source, listing)
    if job.precision == "auto" and count < MEASURE_FROM:
        job = replace(job, precision="f32")
    choose = partial(job.model, partial(_sample_of_files, job.source, listing))
    spark = job.spark if job.spark is not None else count > LOOP_UP_TO or is_at_hand()
    if not spark:
        with progress_line("choosing a precision"):
            model, chosen_in = choose()
        batches, unused = image_batches(listing, job.labels)
        run = partial(_in_a_loop, job, model, batches, count, folder)
    else:
        # One reads and computes, the other waits for a JVM.
        with progress_line("starting Spark"), ThreadPoolExecutor(1) as pool:
            choosing = pool.submit(choose)
            session()
            model, chosen_in = choosing.result()
        if job.labels is None:
            run, unused = partial(_on_spark, job, model, *_parts(listing, count), folder), 0
        else:
            frame, unused = _frame(job, staging)
            run = partial(_on_spark, job, model, frame, iter, folder)
    return _report(job, model, unused, chosen_in, folder, run)


def _from_tables(job: Job, folder: Path, staging: Path) -> Report:
    """Embed what only Spark can read: URIs and tables of bytes."""
    frame, unused = _frame(job, staging)
    with progress(frame.sparkSession, "choosing a precision"):
        model, chosen_in = job.model(partial(_sample_of_frame, job.rooted, frame))
    run = partial(_on_spark, job, model, frame, iter, folder)
    return _report(job, model, unused, chosen_in, folder, run)


def _parts(listing: Path, count: int) -> "tuple[DataFrame, Reader]":
    """Return a row a task, and what makes a task's images of it, read from the listing.

    Spark would read, sample, shuffle and sort the names first, which for some thousand photos
    takes as long as a tenth of the embedding.
    """
    spark = session()
    tasks = task_count(count, spark.sparkContext.defaultParallelism)

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for part in batch["id"].to_pylist():
                yield from listed(listing, part, tasks)

    return spark.range(0, tasks, 1, tasks), read


def _frame(job: Job, staging: Path) -> "tuple[DataFrame, int]":
    spark = session()
    with progress(spark, "listing images"):
        return image_frame(spark, job.source, staging, job.labels)


def _in_a_loop(
    job: Job, model: Model, batches: Iterator[pa.RecordBatch], count: int, folder: Path
) -> list[dict[str, Any]]:
    threads = cores() + 1  # one may wait for the disk while the others compute
    rows = embedding.embed_batches(batches, job.rooted, model, threads, job.device, isolated=True)
    with progress_line("embedding images") as move:

        def counted() -> Iterator[pa.RecordBatch]:
            done = 0
            for batch in rows:
                yield batch
                done += batch.num_rows
                move(done, count)

        written = collection.write_segment(counted(), folder)
        return [row for batch in written for row in batch.to_pylist()]


def _on_spark(
    job: Job, model: Model, frame: "DataFrame", read: Reader, folder: Path
) -> list[dict[str, Any]]:
    """Write a Parquet file a Spark task; return a row of `collection.SEGMENT` for each.

    `read` makes images of the batches of the frame that a task gets.
    """
    spark = frame.sparkSession
    shared = spark.sparkContext.broadcast(model)
    source, device = job.rooted, job.device
    threads = int(spark.conf.get("spark.task.cpus", "1") or 1)
    # A worker may crash or hang on an image once. The next one decodes in processes apart.
    always = threads > 1 or not tries_again(spark)

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows = embedding.embed_batches(
            read(batches),
            source,
            shared.value,
            threads,
            device,
            isolated=always or is_second_try(),
            expendable=True,
        )
        return collection.write_segment(rows, folder)

    try:
        with progress(spark, "embedding images"), small_batches(spark):
            # A row a file, not a row an image: this is what the commit is made of.
            written = frame.mapInArrow(task, collection.SEGMENT_DDL).collect()
        return [row.asDict() for row in written]
    finally:
        shared.destroy()


def _report(
    job: Job,
    model: Model,
    unused: int,
    chosen_in: float,
    folder: Path,
    run: Callable[[], list[dict[str, Any]]],
) -> Report:
    started = time.perf_counter()
    written = run()
    seconds = time.perf_counter() - started
    for orphan in {str(file) for file in folder.iterdir()} - {row["path"] for row in written}:
        Path(orphan).unlink()  # of a task that died and was tried again
    segments = sorted(written, key=lambda row: int(row["first_id"]))
    embedded = sum(row["embedded"] for row in segments)
    total = sum(row["rows"] for row in segments)
    if total == 0:
        raise images.nothing_found(job.rooted)
    advice = _advice(model, segments) if embedded else None
    return Report(embedded, total - embedded, unused, chosen_in, seconds, model, advice, segments)


def _sample_of_files(source: images.Source, listing: Path) -> Pixels:
    """Decode up to `models.SAMPLE` images drawn at random: uint8 (n, 224, 224, 3)."""

    def decoded_file(path: str) -> Pixels | None:
        with suppress(images.BadImage):
            return decode(images.read(source, path))[0]
        return None

    with ThreadPoolExecutor(cores()) as pool, images.decoder(isolated=True) as decode:
        decoded = pool.map(decoded_file, choose_sample(listing, models.SAMPLE))
        return np.array([pixels for pixels in decoded if pixels is not None], np.uint8)


def _sample_of_frame(source: images.Source, frame: "DataFrame") -> Pixels:
    """Decode, on Spark, the first images it comes across: uint8 (n, 224, 224, 3).

    A sample drawn evenly would read the whole lake to look at some hundreds.
    """
    always = not tries_again(frame.sparkSession)

    def decoded_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with images.decoder(always or is_second_try(), expendable=True) as decode:
            for batch in batches:
                decoded = []
                for content in batch["content"]:
                    with suppress(images.BadImage):
                        decoded.append(decode(content.as_py() or b"")[0].tobytes())
                yield pa.record_batch([pa.array(decoded, pa.binary())], ["pixels"])

    with small_batches(frame.sparkSession):
        # Limited last: Spark then looks at a few partitions, and at more if they do not suffice.
        decoded = frame.select("content").mapInArrow(decoded_rows, "pixels binary")
        rows = decoded.limit(models.SAMPLE).collect()
    pixels = np.frombuffer(b"".join(row["pixels"] for row in rows), np.uint8)
    return pixels.reshape(len(rows), images.SIDE, images.SIDE, 3)


def _advice(model: Model, segments: Sequence[dict[str, Any]]) -> str | None:
    """Say once, kindly, that these photos are not what the bundled weights were made for."""
    if model.weights != "cars":
        return None
    files = [Path(row["path"]) for row in segments]
    first = next(stored_rows(files, "ok", ["embedding"]))["embedding"]
    if look_like_cars(first.flatten().to_numpy().reshape(len(first), model.width)):
        return None
    return (
        "most of these photos do not look like cars, for which the bundled weights were made; "
        "they work, but `--weights imagenet` or weights of your own will find better look-alikes"
    )


def build_collection(
    photos: str | Path | Sequence[str | Path], out: Path, options: Options, overwrite: bool = False
) -> tuple[Collection, Report]:
    """Embed all images and commit them as a new collection in the folder `out`.

    It appears when it is complete; until then, and for ever after a failure, `out` is as it was.
    """
    collection.make_free(out, overwrite)
    if out.exists() and not collection.is_collection(out):
        raise LookalikeError(f"{out} is not an index and will not be replaced: give another --out")
    with calibration.expected(options.precision == "int8"):
        job = prepare(photos, options)
        with collection.staging_folder(out) as staging:
            fresh = staging / "index"
            report = embed(job, fresh / "data" / uuid.uuid4().hex, staging)
            made = Collection.create(fresh, job.rooted, report.model, report.segments)
            if report.images > EXACT_UP_TO:
                # Whatever goes wrong here is done again by the first search, or said by it.
                with progress_line("measuring recall"), suppress(Exception):
                    Searcher(made).get_ready()
            collection.put_in_place(fresh, out)
    return Collection.open(out), report


def stored_rows(files: Sequence[Path], status: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Give the rows of data files that have a status, file by file in batches."""
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(1024, columns=["status", *columns]):
            wanted = batch.filter(pc.equal(batch["status"], status)).select(columns)
            if wanted.num_rows:
                yield wanted
