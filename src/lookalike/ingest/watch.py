"""Keep an index equal to its folder: by a scan every few seconds, or by a Spark stream."""

import os
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from lookalike import images, ingest
from lookalike.errors import ImageError, LookalikeError, one_line
from lookalike.images.inputs.spark_files import literal, new_files
from lookalike.ingest import Changed, Options
from lookalike.spark import local_uri, require_classic, session, stop_all_jobs
from lookalike.storage import EmbeddingTable, copy_at, index_path
from lookalike.storage.maintenance import vacuum
from lookalike.system.paths import Name

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.streaming.query import StreamingQuery


STABLE_SECONDS = 1.0
"""A change is stable if two scans this far apart find the same size and modification time."""
UNTOUCHED_SECONDS = 10.0
"""A file that is older is stable at once; a damaged file is stable after this time."""
BATCH_TIMEOUT_SECONDS = 60.0
"""Longest time that a batch of a stream waits for files that are still being written."""
MAX_BATCH_FILES = 4096
"""Largest number of files in a batch of a stream."""
_MIN_PAUSE_FACTOR = 10  # an early scan waits this many times the duration of the last scan
_POLL_SECONDS = 0.2  # between two checks of a stream
_VACUUM_SECONDS = 86_400.0  # between two vacuums of old versions: a day


@dataclass(frozen=True)
class Scan:
    """The result of one scan.

    Attributes
    ----------
    changed
        The counts of changes, None after an error.
    error
        The error, None without one.
    has_new_version
        The scan has made a new version of the index.
    unstable
        The number of changes that are left for a later scan.

    """

    changed: Changed | None = None
    error: Exception | None = None
    has_new_version: bool = False
    unstable: int = 0


class StabilityCheck:
    """Tells which changes are stable (`ingest.diff.IsStable`), and counts those that are not.

    A file may be still being written, or be moved away for a moment. Its change is stable if the
    file was last written some time ago. Else two scans have to find the same size and time, and
    the image has to be complete or untouched for a while.
    """

    def __init__(self) -> None:
        self._source: images.Source | None = None
        self._before: dict[str, tuple[int | None, int | None, float]] = {}
        self._now: dict[str, tuple[int | None, int | None, float]] = {}

    def __len__(self) -> int:
        return len(self._now)

    def begin(self, source: images.Source) -> None:
        """Begin a scan of a source, to compare with the previous scan."""
        self._source, self._before, self._now = source, self._now, {}

    def __call__(self, sign: str, path: str, size: int | None, modified: int | None) -> bool:
        """Tell whether a change is stable."""
        # A modification time in the future, from a wrong clock, is ignored.
        if modified is not None and time.time() - modified / 1e9 > UNTOUCHED_SECONDS:
            return True
        now = time.monotonic()
        *seen, since = self._before.get(path, (size, modified, now))
        if seen != [size, modified]:
            since = now
        waited = now - since
        if waited >= STABLE_SECONDS and (
            sign == "-" or waited > UNTOUCHED_SECONDS or self._is_complete(path)
        ):
            return True
        self._now[path] = (size, modified, since)
        return False

    def _is_complete(self, path: str) -> bool:
        if self._source is None or self._source.kind != "files":
            return True  # files in a data lake are complete
        try:
            with images.open_decoder(isolated=True) as decoder:
                decoder.decode_pixels(images.read(self._source, path))
        except ImageError:
            return False
        return True


def watch_folder(
    path: Name,
    photos: str | None,
    options: Options,
    *,
    every: float = 10.0,
    keep_gone: bool = False,
    once: bool = False,
) -> Generator[Scan, None, None]:
    """Make an index equal to a folder, in a scan every `every` seconds; yield each result.

    Parameters
    ----------
    path
        The folder or URI of the index.
    photos
        The folder of images, by default that of the index.
    options
        How to read images.
    every
        Seconds between two scans.
    keep_gone
        Do not remove images that are gone.
    once
        Scan once, and a second time if there were unstable changes. Errors are raised. Without
        `once` an error is yielded, and the next scan tries again.

    """
    import duckdb  # noqa: F401 - now: a signal in the middle of its import ends the process

    place, photos, options = _absolute(path, photos, options)
    change = ingest.add if keep_gone else ingest.sync
    scanned_again = False
    stability = StabilityCheck()
    stored: EmbeddingTable | None = EmbeddingTable.open(place)
    vacuumed_at = time.monotonic()
    while True:
        started = time.monotonic()
        try:
            # Reopen after an error: the index may have been replaced.
            stored = stored.newest() if stored else EmbeddingTable.open(place)
            stability.begin(stored.source)
            before = stored.version
            stored, done = change(stored, photos, options, is_stable=stability)
            scan = Scan(done, None, stored.version > before, len(stability))
        except Exception as error:
            if once:
                raise
            stored, scan = None, Scan(error=error)
        duration = time.monotonic() - started
        if stored is not None and started - vacuumed_at > _VACUUM_SECONDS:
            vacuumed_at = started
            with suppress(Exception):  # others may be writing: try again a day later
                vacuum(stored)
        yield scan
        if once and (scanned_again or not scan.unstable):
            return
        scanned_again = True
        early = max(STABLE_SECONDS, _MIN_PAUSE_FACTOR * duration)
        time.sleep(min(every, early) if scan.unstable else every)


def watch_stream(
    path: Name,
    photos: str | None,
    options: Options,
    *,
    every: float = 10.0,
    checkpoint: str | None = None,
    once: bool = False,
) -> Generator[Scan, None, None]:
    """Add new files of a folder or URI, by default that of the index, with a Spark stream.

    A batch that fails is repeated. Other parameters and results are those of `watch_folder`. Raises
    `LookalikeError` under Spark Connect, whose streams call no function of this process.

    Parameters
    ----------
    checkpoint
        The folder or URI where Spark records the files that it has seen, by default INDEX/.watch.

    """
    place, photos, options = _absolute(path, photos, options)
    require_classic("a stream", "leave `spark=True` out, then each scan lists the folder")
    stored = EmbeddingTable.open(place)
    if stored.own is not None:
        raise LookalikeError("a stream finds images: for vectors leave `spark=True` out, or `sync`")
    if stored.columns.are_of_frame:
        raise LookalikeError(f"{path} was made of a DataFrame: `add` it, instead of watching")
    if checkpoint is not None and "://" not in checkpoint:
        checkpoint = os.path.abspath(checkpoint)
    while True:
        scans: SimpleQueue[Scan] = SimpleQueue()
        try:
            with _running_stream(
                place, photos, options, every, checkpoint, once, scans.put
            ) as query:
                active = True
                while active:
                    active = query.isActive  # read before the queue: no scans come after the end
                    with suppress(Empty):
                        yield scans.get(timeout=_POLL_SECONDS)
                while not scans.empty():
                    yield scans.get()
        except Exception as error:
            if once:
                raise
            yield Scan(error=error)
        if once:
            return
        time.sleep(every)


def _absolute(path: Name, photos: str | None, options: Options) -> tuple[Path, str | None, Options]:
    """Return the arguments with absolute paths: this process may change its folder."""
    if photos is not None and "://" not in photos:
        photos = os.path.abspath(photos)
    labels = None if options.labels is None else Path(options.labels).absolute()
    return index_path(path).absolute(), photos, replace(options, labels=labels)


@contextmanager
def _running_stream(
    path: Path,
    photos: str | None,
    options: Options,
    every: float,
    checkpoint: str | None,
    once: bool,
    on_scan: Callable[[Scan], None],
) -> "Iterator[StreamingQuery]":
    """Run a stream while the block runs; raise the error that it failed with."""
    stored = EmbeddingTable.open(path)
    root = _watched_uri(stored, photos)
    spark = session()
    stopped = threading.Event()
    failed: list[Exception] = []
    vacuumed_at = time.monotonic()

    def add_files(files: "DataFrame", _: int) -> None:
        nonlocal vacuumed_at
        try:
            _add_until_stable(path, photos, options, files, on_scan, stopped)
            if time.monotonic() - vacuumed_at > _VACUUM_SECONDS:
                vacuumed_at = time.monotonic()
                with suppress(Exception):  # others may be writing: try again a day later
                    vacuum(EmbeddingTable.open(path))
        except Exception as error:
            failed.append(error)
            raise

    writer = new_files(spark, root, MAX_BATCH_FILES).writeStream.foreachBatch(add_files)
    if checkpoint is None and copy_at(path) is not None:
        raise LookalikeError("an index in a store has no place for Spark: set a `checkpoint`")
    folder = checkpoint or str(path / ".watch")
    writer = writer.option("checkpointLocation", folder if "://" in folder else local_uri(folder))
    if once:
        writer = writer.trigger(availableNow=True)
    else:
        writer = writer.trigger(processingTime=f"{round(every * 1000)} milliseconds")
    query = writer.start()
    try:
        yield query
        if failed:
            raise failed[-1]
        if (error := query.exception()) is not None:
            raise LookalikeError(f"the Spark stream failed: {one_line(error)}")
    finally:
        stopped.set()
        if query.isActive:
            stop_all_jobs(spark)
            query.stop()


def _watched_uri(stored: EmbeddingTable, photos: str | None) -> str:
    """Return the URI of the folder to watch. Raises `LookalikeError` for a table or for files."""
    source = stored.source
    if photos is not None or source.kind == "files":
        source = images.locate(photos or source.root, kind=source.kind)
    if source.kind == "table":
        raise LookalikeError(
            f"{source.root} is a table, not a folder of images: run `sync` instead"
        )
    if source.kind == "uri":  # Hadoop has no other name for S3
        return re.sub("^s3n?://", "s3a://", source.root)
    if source.names != ("",):
        raise LookalikeError("Spark watches one folder or URI: choose one, or leave `spark` out")
    return local_uri(literal(source.root))


def _add_until_stable(
    path: Path,
    photos: str | None,
    options: Options,
    files: "DataFrame",
    on_scan: Callable[[Scan], None],
    stopped: threading.Event,
) -> None:
    """Add the files of a batch, once they are stable or the batch times out.

    If this function raises, Spark repeats the batch.
    """
    stability = StabilityCheck()
    until = time.monotonic() + BATCH_TIMEOUT_SECONDS
    while True:
        stored = EmbeddingTable.open(path)
        stability.begin(stored.source)
        has_time = time.monotonic() < until
        is_stable = stability if has_time else lambda *_: True
        newest, done = ingest.add_batch(stored, photos, options, files, is_stable)
        on_scan(Scan(done, None, newest.version > stored.version, len(stability)))
        if not stability:
            return
        if stopped.wait(STABLE_SECONDS):
            raise LookalikeError("stopped before all files of a batch were complete")
