"""Images that Spark reads, as a DataFrame: one row an input, with its label and content."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.images.kinds import LeftOut
from lookalike.images.listing import IMAGE, LISTING
from lookalike.images.matching import Labelled, match_labels
from lookalike.images.source import Source, encode_path
from lookalike.images.table_frame import table_frames
from lookalike.images.uri_frame import literal, uri_frames
from lookalike.spark import last_words, local_uri
from lookalike.sql import connect, create_view, write_parquet

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class Frames(NamedTuple):
    """Inputs as Spark reads them, with the columns of `listing.IMAGE`.

    `names` are the same without `content`, which is not read for them. `labelled` says how labels
    were given to them.
    """

    images: "DataFrame"
    names: "DataFrame"
    labelled: Labelled


class Vanished(LookalikeError):
    """A file that was asked for by its name is there no longer."""


def image_frame(
    spark: "SparkSession",
    source: Source,
    staging: Path,
    labels: Iterator[pa.RecordBatch] | None = None,
    paths: Sequence[str] | None = None,
    left_out: LeftOut | None = None,
) -> Frames:
    """Return what Spark reads: the images of a URI, or of a table of bytes.

    For what only Spark can read: URIs and tables of bytes. `id` is unique, and rises within a task.
    Names and labels pass through the folder `staging`, which all workers must see. With `paths`,
    encoded ones, no more than these files of a URI are read: one that is gone is `Vanished`, one
    that goes later is left out. What else lies below a URI is counted in `left_out`.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    try:
        if source.kind == "table":
            frame, names = table_frames(spark, source, staging)
        else:
            roots = source.root if paths is None else list(map(literal, paths))
            frame, names = uri_frames(spark, roots, staging, left_out)
    except (PySparkException, Py4JError) as error:
        detail = last_words(error)
        gone = paths is not None and "PATH_NOT_FOUND" in str(error)
        kind = Vanished if gone else LookalikeError
        raise kind(f"Spark cannot read {source.root}: {detail}") from None
    labelled = Labelled()
    if labels is not None:
        by_path, labelled = _labels_of(names, labels, staging, source.root, some=paths is not None)
        frame, names = (one.drop("label").join(by_path, "path", "left") for one in (frame, names))
    elif "label" not in frame.columns:
        frame, names = (
            one.withColumn("label", F.lit(None).cast("string")) for one in (frame, names)
        )
    return Frames(frame.select(*IMAGE.names), names.select(*LISTING.names), labelled)


def _labels_of(
    names: "DataFrame",
    labels: Iterator[pa.RecordBatch],
    staging: Path,
    root: str,
    *,
    some: bool = False,
) -> "tuple[DataFrame, Labelled]":
    """Return the label of each path, as `match_labels` says. Names pass through `staging`."""
    names.select("path").write.parquet(local_uri(staging / "paths"))
    with connect(staging) as sql:
        create_view(sql, "paths", staging / "paths")
        sql.execute("create temp view images as select path as id, path from paths")
        done = match_labels(sql, labels, staging, encode_path(root), some=some)
        file = staging / "labelled.parquet"
        write_parquet(sql, "select id as path, label from labelled", file)
    return names.sparkSession.read.parquet(local_uri(file)), done
