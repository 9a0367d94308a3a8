"""Files of a URI as Spark reads them: names first, contents of those alone that are images."""

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import ImageError
from lookalike.images.decoding import MAX_BYTES
from lookalike.images.formats import FIRST_BYTES
from lookalike.images.kinds import (
    MAX_TYPES,
    OTHER_ENDINGS,
    OTHER_TYPES,
    IgnoredFiles,
    begins_as_image,
    readable,
)
from lookalike.images.listing import IMAGE, LISTING
from lookalike.images.parquet import open_file
from lookalike.images.sources import decode_path, encode_path
from lookalike.images.table_frame import encoded, nanoseconds, running_id
from lookalike.spark import local_uri

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_OPENED_UP_TO = 64 * 2**20
"""Bytes of a file of an unknown ending that is opened: Spark may have to read it whole."""

_AT_ONCE = 16  # files that a task opens at a time for their first bytes
_LISTED = "path string, length bigint, modificationTime timestamp"
_SHOWS = f"{_LISTED}, shows boolean"  # whether the first bytes are those of an image


def uri_frames(
    spark: "SparkSession", roots: str | list[str], staging: Path, ignored: IgnoredFiles | None
) -> "tuple[DataFrame, DataFrame]":
    """Return the images below a URI, or of a list of files, with their content and without.

    The columns are those of `listing.IMAGE` without `label`. Files are listed once, and noted in
    the folder `staging`. Those of an ending that nobody knows are opened: where pyarrow reaches
    them, 64 bytes are read, else Spark reads them whole. What is no image is counted in `ignored`.
    """
    from pyspark.sql import functions as F

    listed = _noted(_load(spark, roots), staging / "files")
    opened = _noted(_opened(listed, lambda: _load(spark, roots)), staging / "opened", _SHOWS)
    if ignored is not None:
        _count(listed, opened, ignored)
    named, shown = listed.filter(_is_named()), opened.filter("shows").drop("shows")
    endings = {row[0] for row in shown.select(_ending()).distinct().limit(MAX_TYPES + 1).collect()}
    files = _load(spark, roots, endings if len(endings) <= MAX_TYPES else None)
    wanted = _is_named() | _may_be_image() & _shows() if endings else _is_named()
    # Asked of the listing alone: Spark fails the whole job on a file of over two gigabytes.
    reason = F.format_string("file of %,d bytes, over the limit", "length").alias("reason")
    is_large = F.col("length") > MAX_BYTES
    large = named.filter(is_large).select("*", reason)
    # (Empty files never appear: Spark leaves them out of every listing.)
    small = files.filter(~is_large).filter(wanted).withColumn("reason", F.lit(None).cast("string"))
    nothing = F.lit(None).cast("binary")
    images = small.unionByName(large.withColumn("content", nothing))
    fine = named.filter(~is_large).unionByName(shown).select("*", F.lit(None).alias("reason"))
    return _as_listed(images), _as_listed(fine.unionByName(large))


def read_listed(spark: "SparkSession", listing: Path) -> "DataFrame":
    """Return the images of a URI that a listing names, and read no other: for some of many.

    The columns are those of `listing.IMAGE`. What has gone since is left out, or for a single one
    `AnalysisException` is raised.
    """
    from pyspark.sql import functions as F

    rows = spark.read.parquet(local_uri(listing))
    paths = [
        literal(row["path"])
        for row in pq.read_table(listing, columns=["path", "reason"]).to_pylist()
        if row["reason"] is None
    ]
    bad = rows.filter("reason is not null").withColumn("content", F.lit(None).cast("binary"))
    if not paths:
        return bad.select(*IMAGE.names)  # with the ids of the listing, each of which is there once
    labels = F.broadcast(rows.select("path", "label"))
    read = _as_listed(_load(spark, paths).withColumn("reason", F.lit(None).cast("string")))
    found = read.join(labels, "path").unionByName(bad.select(*read.columns, "label"))
    return found.withColumn("id", running_id()).select(*IMAGE.names)


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


def list_found(files: "DataFrame", folder: Path, ignored: IgnoredFiles) -> list[Path]:
    """Write the images that `new_files` gave of a URI to `folder` as a listing without labels."""
    from pyspark.sql import functions as F

    def load() -> "DataFrame":
        unknown = listed.filter(_may_be_image()).select("path").collect()  # of a batch at most
        return _load_there(files.sparkSession, [row["path"] for row in unknown])

    listed = _noted(files, folder / "files")
    opened = _noted(_opened(listed, load), folder / "opened", _SHOWS)
    _count(listed, opened, ignored)
    found = listed.filter(_is_named()).unionByName(opened.filter("shows").drop("shows"))
    nothing = F.lit(None).cast("string")
    listing = _as_listed(found.withColumn("reason", nothing)).withColumn("label", nothing)
    listing.select(*LISTING.names).write.parquet(local_uri(folder / "listing"))
    return sorted((folder / "listing").glob("*.parquet"))


def literal(path: str) -> str:
    """Name a file so that Hadoop, which takes names for globs, finds it alone."""
    return re.sub(r"([][{}*?\\])", r"\\\1", decode_path(path))


def _load(
    spark: "SparkSession", roots: str | list[str], endings: Iterable[str] | None = None
) -> "DataFrame":
    """Return files of readable endings and of some others; of all if none are given."""
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    if not isinstance(roots, str):  # of an earlier listing: some may be gone
        reader = reader.option("ignoreMissingFiles", "true")
    if endings is not None and all(one[1:].isalnum() for one in endings):
        # A filter on `path` would not keep Spark from reading the others.
        names = ",".join(map(_in_any_case, sorted(readable() | set(endings))))
        reader = reader.option("pathGlobFilter", f"*{{{names}}}")
    return reader.load(roots)


def _in_any_case(ending: str) -> str:
    """Return a glob of Hadoop's for an ending in small and capital letters."""
    return "".join(f"[{one}{one.upper()}]" for one in ending)


def _load_there(spark: "SparkSession", paths: list[str]) -> "DataFrame":
    """Return those files that are still there, however many have gone."""
    from pyspark.errors import AnalysisException

    try:
        return _load(spark, [literal(encode_path(path)) for path in paths])
    except AnalysisException:  # for a single one that is gone
        if len(paths) <= 1:
            return spark.createDataFrame([], f"{_LISTED}, content binary")
        halves = paths[: len(paths) // 2], paths[len(paths) // 2 :]
        one, other = (_load_there(spark, half) for half in halves)
        return one.unionByName(other)


def _noted(files: "DataFrame", folder: Path, schema: str = _LISTED) -> "DataFrame":
    """Write what is known of files without their content, and return it as it is read again."""
    where = local_uri(folder)
    names = [part.split()[0] for part in schema.split(", ")]
    files.select(*names).write.mode("overwrite").parquet(where)
    return files.sparkSession.read.schema(schema).parquet(where)


def _opened(listed: "DataFrame", load: "Callable[[], DataFrame]") -> "DataFrame":
    """Return those files of which the name does not say what they are, with `shows`."""
    unknown = listed.filter(_may_be_image())
    one = unknown.select("path").first()
    if one is None or _is_reached(one["path"]):
        return unknown.mapInArrow(_look, _SHOWS)
    return load().filter(_may_be_image()).withColumn("shows", _shows())


def _look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for batch in batches:
            shows = list(pool.map(_begins_as_image, batch["path"].to_pylist()))
            yield batch.append_column("shows", pa.array(shows, pa.bool_()))


def _begins_as_image(path: str) -> bool:
    """Tell it of a file by its first bytes; what is gone is none, nor what nobody here may read.

    What else fails, as where a store does not answer, raises: it says nothing about the file.
    """
    try:
        with open_file(path) as file:
            return begins_as_image(file.read(FIRST_BYTES))
    except (FileNotFoundError, ImageError):
        return False
    except OSError:
        if path.startswith("file:"):
            return False
        raise


def _is_reached(path: str) -> bool:
    """Tell whether files can be opened without Spark where this one lies."""
    if not path.startswith("file:"):
        try:
            open_file(path).close()
        except (OSError, ValueError):
            return False
    return True


def _is_named() -> "Column":
    """Tell of each file whether its name says that it is an image."""
    return _ending().isin(*readable())


def _may_be_image() -> "Column":
    """Tell of each file whether it has to be opened to know what it is."""
    from pyspark.sql import functions as F

    return ~_ending().isin(*readable(), *OTHER_ENDINGS) & (F.col("length") <= _OPENED_UP_TO)


def _ending() -> "Column":
    """Return the ending of each file, as `kinds.ending` does."""
    from pyspark.sql import functions as F

    return F.lower(F.regexp_extract("path", r"\.[^./]{1,11}$", 0))


def _shows() -> "Column":
    """Tell of each file whether its content begins as that of an image."""
    from pyspark.sql import functions as F

    shows = F.udf(lambda first: begins_as_image(bytes(first or b"")), "boolean")
    return shows(F.substring("content", 1, FIRST_BYTES))  # the rest stays with the JVM


def _count(listed: "DataFrame", opened: "DataFrame", ignored: IgnoredFiles) -> None:
    """Count the files that are no images by their endings."""
    from pyspark.sql import functions as F

    named = listed.filter(~_is_named() & ~_may_be_image())
    if ignored.excluded is not None:
        named = named.filter(F.col("path") != f"file:{ignored.excluded}")
    others = named.select("path").union(opened.filter("not shows").select("path"))
    counts = others.groupBy(_ending().alias("type")).count()
    most = counts.orderBy(F.desc("count"), "type").limit(MAX_TYPES).collect()
    for row in most:
        ignored.add(row["type"], row["count"])
    if len(most) == MAX_TYPES and (total := counts.agg(F.sum("count")).first()) is not None:
        ignored.add(OTHER_TYPES, total[0] - sum(row["count"] for row in most))


def _as_listed(files: "DataFrame") -> "DataFrame":
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
