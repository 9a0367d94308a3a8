"""Options of a job, checked before it starts."""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeAlias, cast

import pyarrow as pa

from lookalike import images, models
from lookalike.errors import LookalikeError
from lookalike.images.inputs.labels import open_labels
from lookalike.ingest.image_rows.given import ImageRows, are_images, open_rows
from lookalike.ingest.vectors.columns import check_names
from lookalike.ingest.vectors.given import TableLike, are_vectors, check_columns
from lookalike.ingest.vectors.inputs import VectorInput, model_of, open_vectors
from lookalike.models import CallableModel, Model
from lookalike.models.weights import AUTO
from lookalike.storage import EmbeddingTable
from lookalike.storage.own_columns import NO_COLUMNS, OwnColumns
from lookalike.storage.own_vectors import Metric, Own
from lookalike.storage.stored_model import is_older_preprocessing
from lookalike.system.arrays import Pixels
from lookalike.system.defaults import WAVE_IMAGES
from lookalike.system.extras import require
from lookalike.system.paths import Name, local_path
from lookalike.system.store import open_store
from lookalike.system.uris import is_uri, split_uri

logger = logging.getLogger(__name__)

Photos: TypeAlias = Name | Sequence[Name] | TableLike
"""A folder, file, glob, URI or table of images, or several files, folders or globs; a DataFrame of
images; or vectors."""

MIN_IMAGES_TO_MEASURE = 1_000
"""Smallest number of images for which measuring the precisions saves more time than it takes."""


@dataclass(frozen=True)
class Options:
    """The options of `lookalike embed` and `lookalike index`: how to read and embed images.

    Attributes
    ----------
    labels : str, Path or None
        A CSV file with a label for each photo.
    image_name, label_name : str
        Its columns for the photo and the label.
    image_column, label_column : str or None
        The columns of a table or DataFrame of images.
    model : str or CallableModel
        The network.
    weights, precision, device : str
        Its weights, its precision, and where it runs.
    spark : bool or None
        True embeds on Spark, False in this process; None decides by the number of files.
    wave : int
        Number of images between two commits: a killed run loses no more. With many cores it loses
        the images that they compute.
    like : str, Path or None
        An index whose model is used with its calibration, so that the two can be compared.
    truncated : bool
        Embed images that were cut short too. An existing index keeps its own setting.
    embedding_column, id_column, path_column : str or None
        The columns of a table of vectors: the vectors, their keys, the paths of their pictures. The
        last two are of a DataFrame of images, too.
    keep_columns : sequence of str
        More columns of a table or DataFrame to keep, for conditions and answers.
    metric : {"cosine", "l2"}
        Whether vectors are scaled to length 1, or kept as given.

    """

    labels: Name | None = None
    image_name: str = "image"
    label_name: str = "Class"
    image_column: str | None = None
    label_column: str | None = None
    model: str | CallableModel = AUTO
    weights: str = AUTO
    precision: str = "auto"
    device: str = "auto"
    spark: bool | None = None
    wave: int = WAVE_IMAGES
    like: Name | None = None
    truncated: bool = False
    embedding_column: str | None = None
    id_column: str | None = None
    path_column: str | None = None
    keep_columns: Sequence[str] = ()
    metric: Metric = "cosine"


_DEFAULT_MODEL = (Options.model, Options.weights, Options.precision)


@dataclass(frozen=True)
class Job:
    """A job with checked options, so that a wrong option fails before any work.

    Attributes
    ----------
    source
        Where the images are.
    ignored
        Counts the files that are no images.
    labels
        The rows of the label file.
    full
        The model in full precision; if `chosen`, the model of the index in its precision.
    full_model
        The fingerprint of the model in full precision.
    precision, device, spark, wave
        As in `Options`.
    chosen
        The index exists, so its model is used.
    vectors
        Vectors to index, instead of images.
    rows
        Rows with images, whose place is known once they are listed.
    columns
        The user's columns that the index of the images keeps.

    """

    source: images.Source
    ignored: images.IgnoredFiles
    labels: Iterator[pa.RecordBatch] | None
    full: Model
    full_model: str
    precision: str
    device: str
    spark: bool | None
    wave: int
    chosen: bool = False
    vectors: VectorInput | None = None
    rows: ImageRows | None = None
    columns: OwnColumns = NO_COLUMNS

    @property
    def own(self) -> Own | None:
        """What a new index records of the user's vectors or columns."""
        if self.vectors is not None:
            return self.vectors.own
        return None if self.columns == NO_COLUMNS else self.columns

    @property
    def schema(self) -> pa.Schema:
        """The columns of the index."""
        return self.columns.schema

    @property
    def rooted(self) -> images.Source:
        """The source with its root only: the listing has the names."""
        return replace(self.source, names=("",))

    def model(self, sample: Callable[[], Pixels]) -> tuple[Model, float]:
        """Return the model in the precision chosen on a sample, and the seconds for choosing."""
        if self.chosen:
            return self.full, 0.0
        started = time.perf_counter()
        model = models.at_precision(self.full, self.precision, sample, self.device)
        return model, time.perf_counter() - started


def prepare(
    photos: Photos,
    options: Options,
    stored: EmbeddingTable | None = None,
    *,
    kind: str | None = None,
    located: images.Source | None = None,
) -> Job:
    """Check options and return the job.

    Parameters
    ----------
    photos
        Folders, files or globs; or one URI or table of images; or a table of vectors.
    options
        How to read and embed.
    stored
        The table of an existing index, whose model is used.
    kind
        The kind of the source, None to find out.
    located
        The source, if it is known; `photos` are not looked for then.

    Raises
    ------
    LookalikeError
        If an option is wrong, or there is no image.

    """
    models.check_precision(options.precision)
    if options.wave < 1:
        raise LookalikeError(f"`wave` is {options.wave}: give 1 or more")
    has_vectors = stored is not None and stored.own is not None
    if not has_vectors and are_images(photos, options):
        return _prepare_rows(photos, options, stored)
    if has_vectors or are_vectors(photos, options):
        return _prepare_vectors(photos, options, stored)
    check_columns(options)
    if stored is not None and stored.has_keys:
        raise LookalikeError(
            f"{stored.path} holds rows with keys: give a DataFrame with the column "
            f"{stored.columns.id_column!r}"
        )
    file = None if options.labels is None else _label_file(options.labels)
    ignored = images.IgnoredFiles(file)
    source = located or images.locate(
        cast("Name | Sequence[Name]", photos),  # tables are vectors
        image_column=options.image_column,
        label_column=options.label_column,
        ignored=ignored,
        kind=kind,
    )
    if options.keep_columns and source.kind != "table":
        raise LookalikeError(
            "`keep_columns` is for tables, DataFrames and vectors: index one of these"
        )
    if source.kind == "table" and options.spark is False:
        raise LookalikeError(f"only Spark can read {source.root}: leave `spark=False` out")
    if is_uri(source.root) and split_uri(source.root)[0] != "file":
        open_store(source.root)
    if source.kind == "table" or options.spark:
        require(f"reading {source.root} on Spark", "pyspark")
    truncated = (stored.source if stored else located or options).truncated
    source = replace(source, truncated=truncated)
    labels = None
    if file is not None:
        labels = open_labels(file, options.image_name, options.label_name)
    others = images.IgnoredFiles(file)
    if source.kind == "files" and not located and not images.has_images(source, others):
        raise images.no_images_error(source, others)
    job = _with_model(source, ignored, labels, options, stored)
    if stored is None and options.keep_columns:
        return replace(job, columns=OwnColumns(kept=check_names(options.keep_columns)))
    return job


def _with_model(
    source: images.Source,
    ignored: images.IgnoredFiles,
    labels: Iterator[pa.RecordBatch] | None,
    options: Options,
    stored: EmbeddingTable | None,
) -> Job:
    """Check the options of the model and return the job."""
    columns = NO_COLUMNS if stored is None else stored.columns
    if stored is None and options.like is not None:
        if (options.model, options.weights, options.precision) != _DEFAULT_MODEL:
            raise LookalikeError(
                "`like` sets the whole model: leave `model`, `weights` and `precision` out"
            )
        stored = EmbeddingTable.open(options.like)
        if not stored.has_network:
            raise LookalikeError(f"{stored.path} holds vectors without a network: leave `like` out")
        if stored.model.is_callable:
            raise LookalikeError(
                f"{stored.path} was made with a function, which is not stored: leave `like` out, "
                "and set `model` to that function"
            )
    if stored and stored.has_network and is_older_preprocessing(stored.about_model):
        _warn_of_old_preprocessing(stored.path)
    model = stored.model if stored else None
    # int8 runs on CPUs only.
    precision = model.precision if model else options.precision
    requested = "cpu" if (precision, options.device) == ("int8", "auto") else options.device
    device = models.find_device(requested)
    full = model or models.resolve(options.model, options.weights, device)
    full.check_runs()
    return Job(
        source,
        ignored,
        labels,
        full,
        stored.full_model if stored else full.fingerprint,
        precision,
        device,
        options.spark,
        options.wave,
        chosen=stored is not None,
        columns=columns,
    )


def _prepare_rows(photos: Photos, options: Options, stored: EmbeddingTable | None) -> Job:
    """Check options of rows with images and return the job, as `prepare` does for other images."""
    rows = open_rows(photos, options, None if stored is None else stored.columns)
    truncated = options.truncated if stored is None else stored.source.truncated
    # Their place is known once they are listed.
    source = images.Source("rows", os.getcwd(), (), truncated=truncated)
    job = _with_model(source, images.IgnoredFiles(), None, options, stored)
    columns = rows.columns if stored is None else stored.columns
    return replace(job, rows=rows, columns=columns)


def _prepare_vectors(photos: Photos, options: Options, stored: EmbeddingTable | None) -> Job:
    """Check options of vectors and return the job, as `prepare` does for images."""
    if stored is not None and stored.own is None:
        raise LookalikeError(
            f"{stored.path} holds images, not vectors: make another index for them"
        )
    vectors = open_vectors(photos, options, stored)
    if options.spark:
        require("reading vectors on Spark", "pyspark")
        vectors.check_spark()
    model = stored.model if stored else model_of(vectors, options)
    source = stored.source if stored else vectors.source()
    return Job(
        source,
        images.IgnoredFiles(),
        None,
        model,
        model.fingerprint,
        "f32",
        "cpu",
        options.spark,
        options.wave,
        chosen=stored is not None,
        vectors=vectors,
    )


def _label_file(given: Name) -> Path | str:
    """Return the path of a label file, or its URI in a store."""
    name = os.fsdecode(given)
    if not is_uri(name) or name.lower().startswith("file:"):
        return local_path(name)
    scheme, host, path = split_uri(re.sub(":/+", "://", name, count=1))  # `Path` merges slashes
    return f"{scheme}://{host}{path}"


@cache
def _warn_of_old_preprocessing(path: Path) -> None:
    """Warn once per process that new embeddings differ from those of an older preprocessing."""
    logger.warning(
        f"{path} was made with an older preprocessing: new images with colour profiles, deep "
        "samples or transparency get other embeddings; skipped images are tried once more; "
        "`lookalike index --overwrite` rebuilds the index"
    )
