"""Read a table of images by Spark into a DataFrame: one row for each image, with its content."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.images.inputs.kept_columns import Kept
from lookalike.images.inputs.label_matching import LabelCounts, match_labels
from lookalike.images.inputs.listing import IMAGE, LISTING
from lookalike.images.inputs.source import Source, encode_path
from lookalike.images.inputs.spark_tables import table_frames
from lookalike.spark import is_spark_error, local_uri, short_error
from lookalike.system.sql import connect, create_view, write_parquet

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class ImageFrames(NamedTuple):
    """DataFrames of the same inputs.

    Attributes
    ----------
    images
        With the columns of `listing.IMAGE`.
    names
        Without `content`, which is not read.
    labelled
        Counts of labels that did not match exactly.
    kept
        The kept columns with their types, which both frames have, too.

    """

    images: "DataFrame"
    names: "DataFrame"
    labelled: LabelCounts
    kept: Kept


def image_frame(
    spark: "SparkSession",
    source: Source,
    staging: Path,
    labels: Iterator[pa.RecordBatch] | None = None,
    kept: Kept = (),
) -> ImageFrames:
    """Return DataFrames of the images of a table.

    Parameters
    ----------
    spark
        The session.
    source
        A source of the kind "table".
    staging
        A folder that all workers see, for names and labels.
    labels
        Batches of `labels.SCHEMA`.
    kept
        More columns to keep, with their types as far as they are known.

    Returns
    -------
    Frames whose ids are unique, and rise within a task.

    Raises
    ------
    LookalikeError
        If the table cannot be read.

    """
    try:
        frame, names, kept = table_frames(spark, source, staging, kept)
    except Exception as error:
        if not is_spark_error(error):
            raise
        raise LookalikeError(f"Spark cannot read {source.root}: {short_error(error)}") from None
    labelled = LabelCounts()
    if labels is not None:
        by_path, labelled = _labels_of(names, labels, staging, source.root)
        frame, names = (one.drop("label").join(by_path, "path", "left") for one in (frame, names))
    own = [f"`{name}`" for name, _ in kept]
    frame, names = frame.select(*IMAGE.names, *own), names.select(*LISTING.names, *own)
    return ImageFrames(frame, names, labelled, kept)


def _labels_of(
    names: "DataFrame", labels: Iterator[pa.RecordBatch], staging: Path, root: str
) -> "tuple[DataFrame, LabelCounts]":
    """Return a DataFrame of path and label. Names pass through `staging`."""
    names.select("path").write.parquet(local_uri(staging / "paths"))
    with connect(staging) as sql:
        create_view(sql, "paths", staging / "paths")
        sql.execute("create temp view images as select path as id, path from paths")
        done = match_labels(sql, labels, staging, encode_path(root))
        file = staging / "labelled.parquet"
        write_parquet(sql, "select id as path, label from labelled", file)
    return names.sparkSession.read.parquet(local_uri(file)), done
