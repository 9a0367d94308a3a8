"""Images that Spark reads, as a DataFrame: one row an input, with its label and content."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.images.decoding import MAX_BYTES
from lookalike.images.formats import FIRST_BYTES
from lookalike.images.kinds import OTHERS, REST, TYPES, LeftOut, ending, readable, shows_image
from lookalike.images.listing import IMAGE, LISTING
from lookalike.images.matching import Labelled, match_labels
from lookalike.images.sources import Source, decode_path, encode_path
from lookalike.images.table_frame import encoded, nanoseconds, running_id, table_frames
from lookalike.spark import last_words, local_uri
from lookalike.sql import connect, parquet_in, quoted

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


_OPENED_UP_TO = 64 * 2**20
"""Bytes of a file of an unknown ending that is opened: Spark reads it whole for a few of them."""


class Frames(NamedTuple):
    """Inputs as Spark reads them, with the columns of `listing.IMAGE`.

    `names` are the same without `content`, which none then has to read. `labelled` says how labels
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
    The labels pass through the folder `staging`, which all workers must see. With `paths`, encoded
    ones, no more than these files of a URI are read: one that is gone is `Vanished`, one that goes
    later is left out. What else lies below a URI is counted in `left_out`, where that is given.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    try:
        if source.kind == "table":
            frame, names = table_frames(spark, source, staging)
        else:
            frame = _read_uri(
                spark, source.root if paths is None else list(map(literal, paths)), left_out
            )
            names = frame.drop("content")
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


def new_files(spark: "SparkSession", root: str, at_once: int) -> "DataFrame":
    """Return a stream of the files below a folder or URI, each once, as soon as Spark lists them.

    Columns `path, length, modificationTime`: what passes through Spark's `foreachBatch` is read as
    often as it is asked of, which must not happen to contents. Up to `at_once` files are a batch.
    https://spark.apache.org/docs/latest/streaming/apis-on-dataframes-and-datasets.html
    """
    names = "path string, modificationTime timestamp, length long"
    reader = spark.readStream.format("binaryFile").schema(f"{names}, content binary")
    for option, value in {
        "recursiveFileLookup": "true",
        "maxFilesPerTrigger": str(at_once),
        # Else what is moved in and older than the newest file by a week is never seen.
        "maxFileAge": "36500d",
        # Else a file that is gone by now ends the stream, at every start again.
        "ignoreMissingFiles": "true",
    }.items():
        reader = reader.option(option, value)
    return reader.load(root).drop("content")


def list_found(files: "DataFrame", folder: Path, left_out: LeftOut) -> list[Path]:
    """Write the images that `new_files` gave of a URI to `folder` as a listing without labels."""
    from pyspark.sql import functions as F

    others = files.filter(~_has_ending(readable())).select("path").collect()  # of a batch at most
    paths = [row["path"] for row in others]
    unknown = [path for path in paths if ending(path) not in OTHERS]
    taken = _opened(files.sparkSession, unknown) if unknown else set()
    for path in paths:
        if path not in taken:
            left_out.add(ending(path))
    files = files.filter(_has_ending(readable()) | F.col("path").isin(*taken))
    listing = _named(files.withColumn("reason", F.lit(None).cast("string")))
    listing = listing.withColumn("label", F.lit(None).cast("string"))
    listing.select(*LISTING.names).write.parquet(local_uri(folder))
    return sorted(folder.glob("*.parquet"))


def _opened(spark: "SparkSession", paths: list[str]) -> set[str]:
    """Return those of some files that begin as images do; what is gone by now is none."""
    from pyspark.errors import AnalysisException

    try:
        opened = _load(spark, [literal(encode_path(path)) for path in paths])
        return {row["path"] for row in _showing(opened, True).select("path").collect()}
    except AnalysisException:  # for a single one that is gone
        middle = len(paths) // 2
        return _opened(spark, paths[:middle]) | _opened(spark, paths[middle:]) if middle else set()


def _has_ending(endings: Iterable[str]) -> "Column":
    return _ending().isin(*endings)


def _ending() -> "Column":
    """Return the ending of each file, as `kinds.ending` does."""
    from pyspark.sql import functions as F

    return F.lower(F.regexp_extract("path", r"\.[^./]{1,11}$", 0))


def _showing(files: "DataFrame", is_image: bool) -> "DataFrame":
    """Leave in the files whose first bytes are those of an image, or the others."""
    from pyspark.sql import functions as F

    shows = F.udf(lambda first: shows_image(bytes(first or b"")), "boolean")
    shown = shows(F.substring("content", 1, FIRST_BYTES))  # the rest stays with the JVM
    return files.filter(shown if is_image else ~shown)


def literal(path: str) -> str:
    """Name a file so that Hadoop, which takes names for globs, finds it alone."""
    return re.sub(r"([][{}*?\\])", r"\\\1", decode_path(path))


def _load(spark: "SparkSession", paths: str | list[str]) -> "DataFrame":
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    if not isinstance(paths, str):  # of an earlier listing: some may be gone
        reader = reader.option("ignoreMissingFiles", "true")
    return reader.load(paths)


def _read_uri(
    spark: "SparkSession", paths: str | list[str], left_out: LeftOut | None
) -> "DataFrame":
    from pyspark.sql import functions as F

    files = _load(spark, paths)
    rest = files.filter(~_has_ending(readable()))
    known = _has_ending(OTHERS) | (F.col("length") > _OPENED_UP_TO)
    unknown = rest.filter(~known)
    if left_out is not None:
        _count(rest.filter(known), _showing(unknown, False), left_out)
    files = files.filter(_has_ending(readable())).unionByName(_showing(unknown, True))
    # Asked of the listing alone: Spark fails the whole job on a file of over two gigabytes.
    large = files.filter(F.col("length") > MAX_BYTES).select(
        "path",
        "length",
        "modificationTime",
        F.format_string("file of %,d bytes, over the limit", "length").alias("reason"),
        F.lit(None).cast("binary").alias("content"),
    )
    # (Empty files never appear: Spark leaves them out of every listing.)
    small = files.filter(F.col("length") <= MAX_BYTES)
    fine = F.lit(None).cast("string").alias("reason")
    frame = small.select("path", "length", "modificationTime", fine, "content")
    return _named(frame.unionByName(large))


def _count(named: "DataFrame", opened: "DataFrame", left_out: LeftOut) -> None:
    """Count files that are no images by their endings: of the `named` ones nothing is read."""
    from pyspark.sql import functions as F

    if left_out.apart is not None:
        named = named.filter(F.col("path") != f"file:{left_out.apart}")
    endings = named.select(_ending().alias("type")).union(opened.select(_ending()))
    counts = endings.groupBy("type").count()
    most = counts.orderBy(F.desc("count"), "type").limit(TYPES).collect()
    for row in most:
        left_out.add(row["type"], row["count"])
    if len(most) == TYPES and (total := counts.agg(F.sum("count")).first()) is not None:
        left_out.add(REST, total[0] - sum(row["count"] for row in most))


def _named(files: "DataFrame") -> "DataFrame":
    """Give Spark's columns of a file the names and values that listings have."""
    from pyspark.sql import functions as F

    return files.select(
        running_id(),
        encoded(F.col("path")).alias("path"),
        "reason",
        F.col("length").alias("size"),
        nanoseconds("modificationTime"),
        *(name for name in files.columns if name == "content"),
    )


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
        paths = parquet_in(staging / "paths")
        sql.execute(f"create temp view images as select path as id, path from {paths}")
        done = match_labels(sql, labels, staging, encode_path(root), some=some)
        file = staging / "labelled.parquet"
        sql.execute(
            f"copy (select id as path, label from labelled) to {quoted(file)} (format parquet)"
        )
    return names.sparkSession.read.parquet(local_uri(file)), done
