"""Read files of a URI by Spark: list names first, then read the contents of images only."""

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import ImageError
from lookalike.images.decoding.formats import FIRST_BYTES
from lookalike.images.decoding.raster import MAX_BYTES
from lookalike.images.inputs.file_opening import open_file
from lookalike.images.inputs.file_types import (
    MAX_TYPES,
    OTHER_ENDINGS,
    OTHER_TYPES,
    IgnoredFiles,
    begins_as_image,
    readable,
)
from lookalike.images.inputs.listing import IMAGE, LISTING
from lookalike.images.inputs.source import decode_path, encode_path
from lookalike.images.inputs.spark_tables import encoded, nanoseconds, running_id
from lookalike.spark import local_uri
from lookalike.system.sql import connect, create_view

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from pyspark.sql import Column, DataFrame, SparkSession


_MAX_SNIFFED_BYTES = 64 * 2**20
"""Larger files with unknown endings are not opened: Spark may have to read them completely."""

_SNIFFING_THREADS = 16
_LISTED = "path string, length bigint, modificationTime timestamp"
_SNIFFED = f"{_LISTED}, shows boolean"  # whether the first bytes are those of an image

_ENDING = r"\.[^./]{1,11}$"
_KINDS = f"""
    with endings as (select *, lower(regexp_extract(path, '{_ENDING}')) as type from listed),
    files as (
        select *, case
            when type in (select unnest($readable)) then 'image'
            when type in (select unnest($others)) or length > $limit then 'other'
            else 'unknown' end as kind
        from endings
    )"""


def uri_frames(
    spark: "SparkSession", roots: str | list[str], staging: Path, ignored: IgnoredFiles | None
) -> "tuple[DataFrame, DataFrame]":
    """Return two DataFrames of the images below a URI or of a list of files.

    Files with an unknown ending are opened: pyarrow reads 64 bytes if it can reach them, else Spark
    reads them completely.

    Parameters
    ----------
    spark
        The session.
    roots
        A URI, or URIs of files.
    staging
        A folder that all workers see, for the list of files.
    ignored
        Counts the files that are no images.

    Returns
    -------
    DataFrames with and without `content`, with the columns of `listing.IMAGE` except `label`.
    """
    from pyspark.sql import functions as F

    listed = _store_listing(_load(spark, roots), staging / "files")
    opened = _sniff_unknown(listed, staging, lambda: _load(spark, roots))
    # DuckDB reads the stored listings in a fraction of the time of a Spark job.
    with _stored(staging) as sql:
        if ignored is not None:
            _count(sql, ignored)
        endings, any_large = _shown_endings(sql), _has_large(sql)
    named, shown = listed.filter(_has_image_ending()), opened.filter("shows").drop("shows")
    files = _load(spark, roots, endings if len(endings) <= MAX_TYPES else None)
    wanted = _has_image_ending() | _may_be_image() & _shows() if endings else _has_image_ending()
    is_large, nothing = F.col("length") > MAX_BYTES, F.lit(None)
    # Spark's listings contain no empty files.
    images = files.filter(~is_large).filter(wanted).withColumn("reason", nothing.cast("string"))
    names = named.filter(~is_large)
    names = names.unionByName(shown) if endings else names
    names = names.withColumn("reason", nothing.cast("string"))
    if any_large:
        # From the listing: Spark's job would fail on a file of over two gigabytes.
        reason = F.format_string("file of %,d bytes, over the limit", "length").alias("reason")
        large = named.filter(is_large).select("*", reason)
        images = images.unionByName(large.withColumn("content", nothing.cast("binary")))
        names = names.unionByName(large)
    return _as_listed(images), _as_listed(names)


def read_listed(spark: "SparkSession", listing: Path) -> "DataFrame":
    """Return the images of a listing of a URI, with the columns of `listing.IMAGE`.

    Only these files are read. Files that have vanished are left out; if a single file is listed
    and has vanished, `AnalysisException` is raised.
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
        return bad.select(*IMAGE.names)  # with the listing's ids, which are unique
    labels = F.broadcast(rows.select("path", "label"))
    read = _as_listed(_load(spark, paths).withColumn("reason", F.lit(None).cast("string")))
    found = read.join(labels, "path").unionByName(bad.select(*read.columns, "label"))
    return found.withColumn("id", running_id()).select(*IMAGE.names)


def new_files(spark: "SparkSession", root: str, at_once: int) -> "DataFrame":
    """Return a stream of the new files below a folder or URI, up to `at_once` in a batch.

    The columns are `path, length, modificationTime`. Contents are left out, since `foreachBatch`
    may read them several times.
    https://spark.apache.org/docs/latest/streaming/apis-on-dataframes-and-datasets.html
    """
    names = "path string, modificationTime timestamp, length long"
    reader = spark.readStream.format("binaryFile").schema(f"{names}, content binary")
    for option, value in {
        "recursiveFileLookup": "true",
        "maxFilesPerTrigger": str(at_once),
        # Else files that are a week older than the newest one are skipped.
        "maxFileAge": "36500d",
        # Else a file that has vanished ends the stream at every start.
        "ignoreMissingFiles": "true",
    }.items():
        reader = reader.option(option, value)
    return reader.load(root).drop("content")


def list_found(files: "DataFrame", folder: Path, ignored: IgnoredFiles) -> list[Path]:
    """Write the images among `new_files` of a URI to `folder`, as a listing without labels."""
    from pyspark.sql import functions as F

    def load() -> "DataFrame":
        unknown = listed.filter(_may_be_image()).select("path").collect()  # of a batch at most
        return _load_there(files.sparkSession, [row["path"] for row in unknown])

    listed = _store_listing(files, folder / "files")
    opened = _sniff_unknown(listed, folder, load)
    with _stored(folder) as sql:
        _count(sql, ignored)
        shown = bool(_shown_endings(sql))
    found = listed.filter(_has_image_ending())
    if shown:
        found = found.unionByName(opened.filter("shows").drop("shows"))
    nothing = F.lit(None).cast("string")
    listing = _as_listed(found.withColumn("reason", nothing)).withColumn("label", nothing)
    listing.select(*LISTING.names).write.parquet(local_uri(folder / "listing"))
    return sorted((folder / "listing").glob("*.parquet"))


def literal(path: str) -> str:
    """Decode a path and escape the characters of Hadoop's globs."""
    return re.sub(r"([][{}*?\\])", r"\\\1", decode_path(path))


def _load(
    spark: "SparkSession", roots: str | list[str], endings: Iterable[str] | None = None
) -> "DataFrame":
    """Return files with readable endings and with these `endings`; all files if None."""
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    if not isinstance(roots, str):  # some files of an earlier listing may have vanished
        reader = reader.option("ignoreMissingFiles", "true")
    if endings is not None and all(one[1:].isalnum() for one in endings):
        # With a filter on `path`, Spark would read the others too.
        names = ",".join(map(_in_any_case, sorted(readable() | {one.lower() for one in endings})))
        reader = reader.option("pathGlobFilter", f"*{{{names}}}")
    return reader.load(roots)


def _in_any_case(ending: str) -> str:
    """Return a glob of Hadoop for an ending, regardless of case."""
    return "".join(f"[{one}{one.upper()}]" for one in ending)


def _load_there(spark: "SparkSession", paths: list[str]) -> "DataFrame":
    """Return the files that still exist."""
    from pyspark.errors import AnalysisException

    try:
        return _load(spark, [literal(encode_path(path)) for path in paths])
    except AnalysisException:  # a single file that has vanished
        if len(paths) <= 1:
            return spark.createDataFrame([], f"{_LISTED}, content binary")
        halves = paths[: len(paths) // 2], paths[len(paths) // 2 :]
        one, other = (_load_there(spark, half) for half in halves)
        return one.unionByName(other)


def _store_listing(files: "DataFrame", folder: Path, schema: str = _LISTED) -> "DataFrame":
    """Write a listing of files to a folder; return a DataFrame that reads it."""
    where = local_uri(folder)
    names = [part.split()[0] for part in schema.split(", ")]
    files.select(*names).write.mode("overwrite").parquet(where)
    return files.sparkSession.read.schema(schema).parquet(where)


def _sniff_unknown(
    listed: "DataFrame", staging: Path, load: "Callable[[], DataFrame]"
) -> "DataFrame":
    """Store the files with unknown endings, with `shows`: whether they are images."""
    opened = staging / "opened"
    with _stored(staging) as sql:
        query = f"{_KINDS} select path from files where kind = 'unknown' limit 1"
        one = sql.execute(query, _kind_values()).fetchone()
    if one is None:
        opened.mkdir(parents=True, exist_ok=True)
        return listed.sparkSession.read.schema(_SNIFFED).parquet(local_uri(opened))
    if _is_reached(one[0]):
        sniffed = listed.filter(_may_be_image()).mapInArrow(_look, _SNIFFED)
    else:
        sniffed = load().filter(_may_be_image()).withColumn("shows", _shows())
    return _store_listing(sniffed, opened, _SNIFFED)


def _look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    with ThreadPoolExecutor(_SNIFFING_THREADS) as pool:
        for batch in batches:
            shows = list(pool.map(_file_begins_as_image, batch["path"].to_pylist()))
            yield batch.append_column("shows", pa.array(shows, pa.bool_()))


def _file_begins_as_image(path: str) -> bool:
    """Tell by its first bytes whether a file is an image; no for missing and forbidden files.

    Other errors, as of a store that does not answer, are raised: they are not about the file.
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
    """Tell whether a file can be opened without Spark."""
    if not path.startswith("file:"):
        try:
            open_file(path).close()
        except (OSError, ValueError):
            return False
    return True


def _has_image_ending() -> "Column":
    """Return whether the ending of each file is that of a readable image."""
    return _ending().isin(*readable())


def _may_be_image() -> "Column":
    """Return whether the ending of each file is unknown, so that it has to be opened."""
    from pyspark.sql import functions as F

    return ~_ending().isin(*readable(), *OTHER_ENDINGS) & (F.col("length") <= _MAX_SNIFFED_BYTES)


def _ending() -> "Column":
    """Return the ending of each file, as `file_types.ending` does."""
    from pyspark.sql import functions as F

    return F.lower(F.regexp_extract("path", _ENDING, 0))


def _shows() -> "Column":
    """Return whether the content of each file begins as an image does."""
    from pyspark.sql import functions as F

    shows = F.udf(lambda first: begins_as_image(bytes(first or b"")), "boolean")
    return shows(F.substring("content", 1, FIRST_BYTES))  # the rest stays in the JVM


@contextmanager
def _stored(staging: Path) -> "Iterator[DuckDBPyConnection]":
    """Yield a connection with views of the stored listings: `listed` and `opened`."""
    with connect(staging) as sql:
        for view, folder in (("listed", "files"), ("opened", "opened")):
            if any((staging / folder).glob("*.parquet")):
                create_view(sql, view, staging / folder)
            else:
                sql.execute(
                    f"create temp table {view} (path varchar, length bigint, shows boolean)"
                )
        yield sql


def _kind_values() -> dict[str, Any]:
    """Return the values of `_KINDS`."""
    return {
        "readable": sorted(readable()),
        "others": sorted(OTHER_ENDINGS),
        "limit": _MAX_SNIFFED_BYTES,
    }


def _shown_endings(sql: "DuckDBPyConnection") -> set[str]:
    """Return the endings, in any case, of images with unknown endings: up to `MAX_TYPES` + 1."""
    query = f"""
        select distinct regexp_extract(path, '{_ENDING}') from opened
        where shows limit {MAX_TYPES + 1}"""
    return {row[0] for row in sql.execute(query).fetchall()}


def _has_large(sql: "DuckDBPyConnection") -> bool:
    """Tell whether an image is over the limit of bytes."""
    query = f"{_KINDS} select 1 from files where kind = 'image' and length > $max limit 1"
    return sql.execute(query, _kind_values() | {"max": MAX_BYTES}).fetchone() is not None


def _count(sql: "DuckDBPyConnection", ignored: IgnoredFiles) -> None:
    """Add the files that are no images to the counts, by ending."""
    query = f"""
        {_KINDS}, others as (
            select type from files where kind = 'other' and path is distinct from $excluded
            union all
            select lower(regexp_extract(path, '{_ENDING}')) from opened where not shows
        )
        select type, count(*) as files, (sum(count(*)) over ())::bigint as total
        from others group by type order by files desc, type limit {MAX_TYPES}"""
    excluded = None if ignored.excluded is None else f"file:{ignored.excluded}"
    rest = 0
    for at, (type_, count, total) in enumerate(
        sql.execute(query, _kind_values() | {"excluded": excluded}).fetchall()
    ):
        rest = (rest if at else total) - count
        ignored.add(type_, count)
    if rest:
        ignored.add(OTHER_TYPES, rest)


def _as_listed(files: "DataFrame") -> "DataFrame":
    """Convert Spark's columns of files to those of listings."""
    from pyspark.sql import functions as F

    return files.select(
        running_id(),
        encoded(F.col("path")).alias("path"),
        "reason",
        F.col("length").alias("size"),
        nanoseconds("modificationTime"),
        *(name for name in files.columns if name == "content"),
    )
