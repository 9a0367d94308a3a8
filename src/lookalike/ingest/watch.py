"""An index kept current with its folder: a look every few seconds, or a stream of Spark's."""

import os
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
from lookalike.spark import local_uri, session
from lookalike.storage import EmbeddingTable
from lookalike.storage.maintenance import vacuum

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.streaming.query import StreamingQuery


SETTLED = 1.0
"""Seconds between two looks that have to see the same of a file before it counts."""
QUIET = 10.0
"""Seconds after which a file that nobody has touched counts at once, a damaged one at all."""
PATIENCE = 60.0
"""Seconds that a batch of a stream waits for files that are still written."""
AT_ONCE = 4096
"""Files at most in a batch of a stream."""
_REST = 10  # times as long as a look takes, the next one waits where it comes early
_ASK_EVERY = 0.2  # seconds between two questions to a stream whether there is news
_DAY = 86_400.0  # seconds between two clean-ups of what only old versions need


@dataclass(frozen=True)
class Look:
    """What came of one look: what was `done`, or the `trouble` there was.

    `moved` says that the index has a new version by it. `waiting` changes did not count yet.
    """

    done: Changed | None = None
    trouble: Exception | None = None
    moved: bool = False
    waiting: int = 0


class Waiting:
    """Changes that do not count yet, of files that somebody may still write, or move away and back.

    One counts when two looks have seen the same of it and the picture is whole, or has been left
    alone for a while; at once, where the file was last written a while ago. An
    `ingest.diff.Settled`.
    """

    def __init__(self) -> None:
        self._source: images.Source | None = None
        self._before: dict[str, tuple[int | None, int | None, float]] = {}
        self._now: dict[str, tuple[int | None, int | None, float]] = {}

    def __len__(self) -> int:
        return len(self._now)

    def begin(self, source: images.Source) -> None:
        """Begin a look at images of a source, to be compared with the look before."""
        self._source, self._before, self._now = source, self._now, {}

    def __call__(self, sign: str, path: str, size: int | None, modified: int | None) -> bool:
        """Say whether a change counts."""
        # (A time to come, by the clock of a camera or a server, says nothing.)
        if modified is not None and time.time() - modified / 1e9 > QUIET:
            return True
        now = time.monotonic()
        *seen, since = self._before.get(path, (size, modified, now))
        if seen != [size, modified]:
            since = now
        waited = now - since
        if waited >= SETTLED and (sign == "-" or waited > QUIET or self._is_whole(path)):
            return True
        self._now[path] = (size, modified, since)
        return False

    def _is_whole(self, path: str) -> bool:
        if self._source is None or self._source.kind != "files":  # a lake shows whole files only
            return True
        try:
            with images.open_decoder(isolated=True) as decoder:
                decoder.decode_pixels(images.read(self._source, path))
        except ImageError:
            return False
        return True


def looks(
    path: Path,
    photos: str | None,
    options: Options,
    *,
    every: float = 10.0,
    keep_gone: bool = False,
    once: bool = False,
) -> Generator[Look, None, None]:
    """Make an index equal to a folder, its own by default, again and again; tell of each look.

    With `keep_gone` nothing is removed. Whatever goes wrong is told, and tried again at the next
    look. With `once` there is one look, and a second one for what is still being written; what goes
    wrong is raised.
    """
    import duckdb  # noqa: F401 - now: a signal in the middle of its import ends the process

    path, photos, options = _from_here(path, photos, options)
    change = ingest.add if keep_gone else ingest.sync
    again = False
    waiting = Waiting()
    stored: EmbeddingTable | None = EmbeddingTable.open(path)
    cleaned = time.monotonic()
    while True:
        started = time.monotonic()
        try:
            # Opened again after trouble: it may have been made anew.
            stored = stored.newest() if stored else EmbeddingTable.open(path)
            waiting.begin(stored.source)
            before = stored.version
            stored, done = change(stored, photos, options, settled=waiting)
            look = Look(done, None, stored.version > before, len(waiting))
        except Exception as error:
            if once:
                raise
            stored, look = None, Look(trouble=error)
        took = time.monotonic() - started
        if stored is not None and started - cleaned > _DAY:
            cleaned = started
            with suppress(Exception):  # others may be writing: another day
                vacuum(stored)
        yield look
        if once and (again or not look.waiting):
            return
        again = True
        soon = max(SETTLED, _REST * took)
        time.sleep(min(every, soon) if look.waiting else every)


def stream(
    path: Path,
    photos: str | None,
    options: Options,
    *,
    every: float = 10.0,
    checkpoint: str | None = None,
    once: bool = False,
) -> Generator[Look, None, None]:
    """Add what appears in a folder or below a URI, the index's own by default, as Spark streams it.

    Spark asks for new files after `every` seconds and notes in `checkpoint` (INDEX/.watch) which
    it has seen. A batch that fails is told, and comes again. With `once` all that is new is added;
    what goes wrong is raised.
    """
    path, photos, options = _from_here(path, photos, options)
    if checkpoint is not None and "://" not in checkpoint:
        checkpoint = os.path.abspath(checkpoint)
    while True:
        news: SimpleQueue[Look] = SimpleQueue()
        try:
            with _running(path, photos, options, every, checkpoint, once, news.put) as query:
                active = True
                while active:
                    active = query.isActive  # asked first: afterwards there is no more news
                    with suppress(Empty):
                        yield news.get(timeout=_ASK_EVERY)
                while not news.empty():
                    yield news.get()
        except Exception as error:
            if once:
                raise
            yield Look(trouble=error)
        if once:
            return
        time.sleep(every)


def _from_here(
    path: Path, photos: str | None, options: Options
) -> tuple[Path, str | None, Options]:
    """Return the same by whole paths, wherever this process goes between two looks."""
    if photos is not None and "://" not in photos:
        photos = os.path.abspath(photos)
    labels = None if options.labels is None else Path(options.labels).absolute()
    return path.absolute(), photos, replace(options, labels=labels)


@contextmanager
def _running(
    path: Path,
    photos: str | None,
    options: Options,
    every: float,
    checkpoint: str | None,
    once: bool,
    tell: Callable[[Look], None],
) -> "Iterator[StreamingQuery]":
    """Run a stream for the block; raise what it failed of."""
    stored = EmbeddingTable.open(path)
    root = _root(stored, photos)
    spark = session()
    over = threading.Event()
    failed: list[Exception] = []
    cleaned = time.monotonic()

    def take(files: "DataFrame", _: int) -> None:
        nonlocal cleaned
        try:
            _take(path, photos, options, files, tell, over)
            if time.monotonic() - cleaned > _DAY:
                cleaned = time.monotonic()
                with suppress(Exception):  # others may be writing: another day
                    vacuum(EmbeddingTable.open(path))
        except Exception as error:
            failed.append(error)
            raise

    writer = new_files(spark, root, AT_ONCE).writeStream.foreachBatch(take)
    place = checkpoint or str(path / ".watch")
    writer = writer.option("checkpointLocation", place if "://" in place else local_uri(place))
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
            raise LookalikeError(f"Spark's stream stopped: {one_line(error)}")
    finally:
        over.set()
        if query.isActive:
            spark.sparkContext.cancelAllJobs()
            query.stop()


def _root(stored: EmbeddingTable, photos: str | None) -> str:
    """Name the folder to watch as Spark takes it; `LookalikeError` where it cannot."""
    source = stored.source
    if photos is not None or source.kind == "files":
        source = images.locate(photos or source.root, kind=source.kind)
    if source.kind == "table":
        raise LookalikeError(f"{source.root} is a table, no folder of images: sync it instead")
    if source.kind == "uri":
        return source.root
    if source.names != ("",):
        raise LookalikeError("Spark watches one folder or URI: choose one, or leave `spark` out")
    return local_uri(literal(source.root))


def _take(
    path: Path,
    photos: str | None,
    options: Options,
    files: "DataFrame",
    tell: Callable[[Look], None],
    over: threading.Event,
) -> None:
    """Add the files of a batch, those still written when they are whole or patience is at its end.

    The batch is done when this returns, and comes again where it does not.
    """
    waiting = Waiting()
    until = time.monotonic() + PATIENCE
    while True:
        stored = EmbeddingTable.open(path)
        waiting.begin(stored.source)
        patient = time.monotonic() < until
        settled = waiting if patient else lambda *_: True
        grown, done = ingest.add_batch(stored, photos, options, files, settled)
        tell(Look(done, None, grown.version > stored.version, len(waiting)))
        if not waiting:
            return
        if over.wait(SETTLED):
            raise LookalikeError("stopped before all files of a batch were whole")
