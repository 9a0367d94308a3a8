"""From images to files of embeddings, on Spark: steps 3 and 4, and the making of a collection."""

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from lookalike import collection, embedding, images, models
from lookalike.collection import Collection
from lookalike.errors import LookalikeError
from lookalike.images.frame import image_frame
from lookalike.images.labels import open_labels
from lookalike.models import Model
from lookalike.spark import local_uri, progress, session, small_batches
from lookalike.weights import look_like_cars

_SKIPPED = "skipped.csv"


@dataclass(frozen=True)
class Options:
    """How images are read and embedded; every option of `lookalike embed` and `index`."""

    labels: str | Path | None = None
    image_name: str = "image"
    label_name: str = "Class"
    image_column: str | None = None
    label_column: str | None = None
    model: str = "resnet18"
    weights: str = "cars"
    precision: str = "auto"


@dataclass(frozen=True)
class Report:
    """What a run of embedding came to. `segments` are rows of `collection.SEGMENT`.

    `advice` is a sentence for the person at the terminal, if there is something to say.
    """

    images: int
    skipped: int
    unused_labels: int
    seconds: float
    advice: str | None
    segments: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class _Job:
    """What is checked before Spark is started, so that a wrong option costs no wait."""

    source: images.Source
    labels: Iterator[pa.RecordBatch] | None
    model: Model

    @property
    def rooted(self) -> images.Source:
        """The source without the names in it: the listing has them, all others need the root."""
        return replace(self.source, names=("",))


def _prepare(photos: str | Path | Sequence[str | Path], options: Options) -> _Job:
    source = images.locate(
        photos, image_column=options.image_column, label_column=options.label_column
    )
    labels = None
    if options.labels is not None:
        labels = open_labels(options.labels, options.image_name, options.label_name)
    if source.kind == "files" and next(images.walk(source), None) is None:
        raise images.nothing_found(source)
    return _Job(source, labels, models.resolve(options.model, options.weights, options.precision))


def _embed(job: _Job, folder: Path, staging: Path) -> Report:
    """Embed all images of a job into Parquet files in `folder`, one a Spark task."""
    spark = session()
    folder.mkdir(parents=True)
    with progress(spark, "listing images"):
        frame, unused = image_frame(spark, job.source, staging, job.labels)
    shared = spark.sparkContext.broadcast(job.model)
    source = job.rooted
    threads = int(spark.conf.get("spark.task.cpus", "1") or 1)

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows = embedding.embed_batches(batches, source, shared.value, threads)
        return collection.write_segment(rows, folder)

    started = time.perf_counter()
    try:
        with progress(spark, "embedding images"), small_batches(spark):
            # A row a file, not a row an image: this is what the commit is made of.
            written = frame.mapInArrow(task, collection.SEGMENT_DDL).collect()
    finally:
        shared.destroy()
    seconds = time.perf_counter() - started
    for orphan in {str(file) for file in folder.iterdir()} - {row["path"] for row in written}:
        Path(orphan).unlink()  # of a task that died and was tried again
    segments = sorted((row.asDict() for row in written), key=lambda row: int(row["first_id"]))
    embedded = sum(row["embedded"] for row in segments)
    total = sum(row["rows"] for row in segments)
    if total == 0:
        raise images.nothing_found(source)
    advice = _advice(job.model, segments) if embedded else None
    return Report(embedded, total - embedded, unused, seconds, advice, segments)


def _advice(model: Model, segments: Sequence[dict[str, Any]]) -> str | None:
    """Say once, kindly, that these photos are not what the bundled weights were made for."""
    if model.weights != "cars":
        return None
    files = [Path(row["path"]) for row in segments]
    first = next(_batches(files, "ok", ["embedding"]))["embedding"]
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
    job = _prepare(photos, options)
    with collection.staging_folder(out) as staging:
        fresh = staging / "index"
        report = _embed(job, fresh / "data" / uuid.uuid4().hex, staging)
        Collection.create(fresh, job.rooted, job.model, report.segments)
        collection.put_in_place(fresh, out)
    return Collection.open(out), report


def build_table(
    photos: str | Path | Sequence[str | Path], out: Path, options: Options, overwrite: bool = False
) -> Report:
    """Steps 3 and 4: embed all images into a CSV file or, if `out` has no `.csv`, into Parquet.

    CSV has the columns `image, label, e0, e1, ...`, Parquet `image, label, embedding`; images in
    the order of their ids. What this run skipped stands in `skipped.csv` beside it, with reasons.
    """
    collection.make_free(out, overwrite)
    if out.name == _SKIPPED:
        raise LookalikeError(f"{_SKIPPED} will hold what was skipped: give another --out")
    if out.is_dir() and not (out / "_SUCCESS").exists():  # which Spark leaves in what it wrote
        raise LookalikeError(f"{out} is a folder of something else: give another --out")
    job = _prepare(photos, options)
    with collection.staging_folder(out) as staging:
        report = _embed(job, staging / "data", staging)
        files = [Path(row["path"]) for row in report.segments]
        fresh = staging / "out"
        if out.suffix.lower() == ".csv":
            _write_csv(files, fresh, job.model.width)
        else:
            _write_parquet(files, fresh)
        _write_skipped(files, staging / _SKIPPED)
        collection.put_in_place(fresh, out)
        (staging / _SKIPPED).replace(out.absolute().parent / _SKIPPED)
    return report


def export_csv(stored: Collection, out: Path) -> None:
    """Step 4: write the embeddings of a collection to a CSV file, as `build_table` does."""
    with collection.staging_folder(out) as staging:
        _write_csv(stored.files(), staging / "out", int(stored.about_model["width"]))
        (staging / "out").rename(out)


def _write_csv(files: Sequence[Path], out: Path, width: int) -> None:
    """Stream data files into one CSV file. Numbers are written so that they read back the same."""
    schema = pa.schema(
        [("image", pa.string()), ("label", pa.string())]
        + [(f"e{i}", pa.float32()) for i in range(width)]
    )
    with csv.CSVWriter(str(out), schema) as writer:
        for batch in _batches(files, "ok", ["path", "label", "embedding"]):
            vectors = batch["embedding"].flatten().to_numpy().reshape(batch.num_rows, width)
            columns = [pa.array(column) for column in np.ascontiguousarray(vectors.T)]
            rows = [batch["path"], batch["label"], *columns]
            writer.write_batch(pa.RecordBatch.from_arrays(rows, schema=schema))


def _write_parquet(files: Sequence[Path], out: Path) -> None:
    from pyspark.sql import functions as F

    rows = session().read.parquet(*map(local_uri, files)).filter("status = 'ok'").orderBy("id")
    table = rows.select(F.col("path").alias("image"), "label", "embedding")
    table.write.parquet(local_uri(out))


def _write_skipped(files: Sequence[Path], out: Path) -> None:
    schema = pa.schema([("path", pa.string()), ("reason", pa.string())])
    with csv.CSVWriter(str(out), schema) as writer:
        for batch in _batches(files, "skipped", schema.names):
            writer.write_batch(batch)


def _batches(files: Sequence[Path], status: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Give the rows of data files that have a status, file by file in batches."""
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(1024, columns=["status", *columns]):
            wanted = batch.filter(pc.equal(batch["status"], status)).select(columns)
            if wanted.num_rows:
                yield wanted
