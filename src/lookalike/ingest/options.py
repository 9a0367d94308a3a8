"""What is asked for, checked before anything starts; what came of it."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa

from lookalike import images, models
from lookalike.errors import LookalikeError
from lookalike.images.inputs.label_matching import LabelCounts
from lookalike.images.inputs.labels import open_labels
from lookalike.models import Model
from lookalike.models.weights import AUTO
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Pixels
from lookalike.system.defaults import WAVE
from lookalike.system.extras import require
from lookalike.system.paths import Name, local_path

logger = logging.getLogger(__name__)

MEASURE_FROM = 1_000
"""Images from which on `auto` saves more time than it takes to compare precisions."""


@dataclass(frozen=True)
class Options:
    """How images are read and embedded; every option of `lookalike embed` and `index`.

    `spark` is True to use Spark, False to do without, None to let the number of files decide.
    What is done is committed so often that a run that is killed loses no more than `wave` images;
    or, where cores are many, what they are at. `like` is an index whose very model is taken, its
    calibration included, so that the vectors of both can be compared. `truncated` embeds images
    that were cut short too, as far as they go; an index goes on as it was begun.
    """

    labels: Name | None = None
    image_name: str = "image"
    label_name: str = "Class"
    image_column: str | None = None
    label_column: str | None = None
    model: str = AUTO
    weights: str = AUTO
    precision: str = "auto"
    device: str = "auto"
    spark: bool | None = None
    wave: int = WAVE
    like: Name | None = None
    truncated: bool = False


class ReadOptions(TypedDict, total=False):
    """Keywords that say how images are read: those of `create_index` but for the model.

    Parameters
    ----------
    labels : str or Path
        A CSV file with a label for each photo.
    image_name, label_name : str
        Its columns for the photo and the label; "image" and "Class" unless given.
    image_column, label_column : str
        The columns of a table of images, where their names do not show which they are.
    device : str
        Where the network runs: "auto", "cpu" or "cuda".
    spark : bool or None
        True reads and embeds on Spark, False in this process; None decides by the number of files.
    wave : int
        Save progress every so many images; 1,024 unless given.

    """

    labels: Name | None
    image_name: str
    label_name: str
    image_column: str | None
    label_column: str | None
    device: str
    spark: bool | None
    wave: int


_USUAL = (Options.model, Options.weights, Options.precision)


@dataclass(frozen=True)
class Done:
    """What was embedded, and how long it took.

    `images` were embedded (or had their embedding at hand), `skipped` have a reason instead.
    `choosing_seconds` went into the choice of the model's precision, `seconds` into embedding.
    """

    model: Model
    choosing_seconds: float = 0.0
    seconds: float = 0.0
    images: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class Report(Done):
    """The same, with what was not embedded: `same` images were in the collection already.

    `unused_labels` are of no photo, `loose_labels` fitted one by a part of their name only; rows
    with `missing_labels` have `nan` for one, or the like.
    `not_looked_at` counts files that are no images by their endings, the most first.
    """

    unused_labels: int = 0
    loose_labels: int = 0
    missing_labels: int = 0
    same: int = 0
    not_looked_at: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, done: Done, labelled: LabelCounts, ignored: images.IgnoredFiles, same: int = 0
    ) -> "Report":
        """Add to what was done what was not."""
        return cls(
            **vars(done),
            unused_labels=labelled.unused,
            loose_labels=labelled.loose,
            missing_labels=labelled.missing,
            same=same,
            not_looked_at=ignored.counts(),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        counts = ("images", "skipped", "same", "unused_labels", "loose_labels", "missing_labels")
        known = {name: getattr(self, name) for name in (*counts, "not_looked_at")}
        model = {name: getattr(self.model, name) for name in ("backbone", "weights", "precision")}
        return known | model | {"seconds": round(self.seconds, 3)}


@dataclass(frozen=True)
class Changed:
    """What `add`, `sync` or `remove` did, or would do, as counts of inputs.

    `new` and `changed` ones were read: of those, `images` are embedded and `skipped` have a reason
    instead. `same` ones were left alone. `removed` ones are in the collection no longer.
    `unused_labels` are of no photo, `loose_labels` fitted one by a part of their name only; rows
    with `missing_labels` have `nan` for one, or the like.
    `not_looked_at` counts files that are no images by their endings, the most first. `backbone` is
    the network that the index has.
    """

    version: int
    new: int = 0
    changed: int = 0
    same: int = 0
    removed: int = 0
    images: int = 0
    skipped: int = 0
    unused_labels: int = 0
    loose_labels: int = 0
    missing_labels: int = 0
    not_looked_at: dict[str, int] = field(default_factory=dict)
    backbone: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return asdict(self)


@dataclass(frozen=True)
class Job:
    """What is checked before anything is started, so that a wrong option costs no wait.

    `full` is the model in full precision, brought to the wanted one when images are at hand; or,
    where `chosen`, the model that a collection has. `full_model` is the fingerprint of the former.
    `ignored` counts what is no image.
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

    @property
    def rooted(self) -> images.Source:
        """The source without the names in it: the listing has them, all others need the root."""
        return replace(self.source, names=("",))

    def model(self, sample: Callable[[], Pixels]) -> tuple[Model, float]:
        """Choose the precision on a sample of the images; return the seconds it took as well."""
        if self.chosen:
            return self.full, 0.0
        started = time.perf_counter()
        model = models.at_precision(self.full, self.precision, sample, self.device)
        return model, time.perf_counter() - started


def prepare(
    photos: Name | Sequence[Name],
    options: Options,
    stored: EmbeddingTable | None = None,
    *,
    kind: str | None = None,
) -> Job:
    """Check what is asked for; `LookalikeError` if it cannot be done.

    The model of a `stored` collection counts instead of what the options say. `kind` is that of
    the source, where it is known.
    """
    models.check_precision(options.precision)
    if options.wave < 1:
        raise LookalikeError(f"a wave of {options.wave} images: commit after 1 or more")
    file = None if options.labels is None else local_path(options.labels)
    ignored = images.IgnoredFiles(file)
    source = images.locate(
        photos,
        image_column=options.image_column,
        label_column=options.label_column,
        ignored=ignored,
        kind=kind,
    )
    if source.kind != "files" and options.spark is False:
        raise LookalikeError(f"only Spark reads {source.root}: leave `spark=False` out")
    if source.kind != "files" or options.spark:
        require(f"reading {source.root} on Spark", "pyspark")
    truncated = stored.source.truncated if stored else options.truncated
    source = replace(source, truncated=truncated)
    labels = None
    if file is not None:
        labels = open_labels(file, options.image_name, options.label_name)
    there = images.IgnoredFiles(file)
    if source.kind == "files" and not images.has_images(source, there):
        raise images.no_images_error(source, there)
    if stored is None and options.like is not None:
        if (options.model, options.weights, options.precision) != _USUAL:
            raise LookalikeError(
                "`like` sets the whole model: leave `model`, `weights` and `precision` out"
            )
        stored = EmbeddingTable.open(options.like)
    if stored and stored.about_model["preprocessing"] != images.PREPROCESSING:
        _say_it_mixes(stored.path)
    model = stored.model if stored else None
    # int8 is for CPUs, so that a GPU is only in the way of who asks for it.
    precision = model.precision if model else options.precision
    wanted = "cpu" if (precision, options.device) == ("int8", "auto") else options.device
    device = models.find_device(wanted)
    full = model or models.resolve(options.model, options.weights, device)
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
    )


@cache
def _say_it_mixes(path: Path) -> None:
    """Say, once a process, what becomes of new pictures beside those of an older preprocessing."""
    logger.warning(
        f"{path} was made with an older preprocessing: new pictures with colour profiles, deep "
        "samples or transparency come out otherwise; what it skipped is tried once more; "
        "`lookalike index --overwrite` makes it anew"
    )
