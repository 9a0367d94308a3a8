"""Pairs that were found by their embeddings, looked at again by their pixels."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike import images
from lookalike.defaults import AGREES
from lookalike.files import delete_folder
from lookalike.groups.looking import COMPARED, Eyes, compared
from lookalike.images.isolated import Viewer, viewer
from lookalike.progress import progress_line
from lookalike.spark import cores, is_second_try, local_uri, progress, session, tries_again
from lookalike.sql import connect, create_view, fetch_row

_TASKS = 4  # a core
_BATCH = 64  # pairs that a thread takes at a time
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


def verify(
    pairs: Path, a: images.Source, b: images.Source, spark: bool, agrees: float = AGREES
) -> None:
    """Add to a folder of pairs what their pixels say: the columns `agreement` and `compared`.

    Those that agree by `agrees` at first sight are looked at closely. On Spark or in threads;
    either way a decoder that crashes costs one image.
    """
    checked = pairs.with_name("checked")
    if spark:
        running = session()
        rows = running.read.parquet(local_uri(pairs))
        # However few they are, looking at them takes longer than moving them.
        rows = rows.repartition(_TASKS * running.sparkContext.defaultParallelism, "a_id")
        columns = ", ".join(f"{one.name} {one.dataType.simpleString()}" for one in rows.schema)
        isolated = not tries_again(running)

        def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            apart, truncated = isolated or is_second_try(), a.truncated or b.truncated
            with viewer(apart, True, truncated) as sees:
                yield from map(_comparing(sees, a, b, agrees), batches)

        with progress(running, "comparing pixels"):
            schema = f"{columns}, agreement float, compared string"
            seen = rows.mapInArrow(task, schema)
            seen.orderBy("distance", "a_id", "b_id").write.parquet(local_uri(checked))
    else:
        checked.mkdir()
        _in_process(pairs / "part-0.parquet", checked / "part-0.parquet", a, b, agrees)
    delete_folder(pairs)
    checked.rename(pairs)


def count_agreeing(pairs: Path) -> int:
    """Return how many pairs show the same."""
    with connect(pairs.parent) as sql:
        create_view(sql, "pairs", pairs)
        query = "select count(*) from pairs where agreement >= $agrees::float"
        (count,) = fetch_row(sql, query, {"agrees": AGREES})
    return int(count)


def count_compared(pairs: Path) -> dict[str, int]:
    """Return how many pairs ended as which of `looking.Seen`, but for those that are usual."""
    with connect(pairs.parent) as sql:
        create_view(sql, "pairs", pairs)
        query = "select compared, count(*) from pairs group by compared"
        found = dict(sql.execute(query).fetchall())
    return {f"{kind}_pairs": int(found.get(kind, 0)) for kind in ("unreadable", "unclear", "alike")}


def _comparing(
    sees: Viewer, a: images.Source, b: images.Source, agrees: float
) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
    """Return what compares a batch of pairs; what both ends may show is decoded once."""
    eyes = Eyes(sees, a)
    return partial(compared, a=eyes, b=eyes if a == b else Eyes(sees, b), agrees=agrees)


def _in_process(
    pairs: Path, checked: Path, a: images.Source, b: images.Source, agrees: float
) -> None:
    with (
        viewer(True, truncated=a.truncated or b.truncated) as sees,
        pq.ParquetFile(pairs) as file,
        pq.ParquetWriter(checked, pa.schema([*file.schema_arrow, *COMPARED])) as writer,
        progress_line("comparing pixels", "pairs") as move,
    ):
        compare = _comparing(sees, a, b, agrees)
        done, total = 0, file.metadata.num_rows
        for batch in in_threads(compare, file.iter_batches(_BATCH)):
            writer.write_batch(batch)
            done += len(batch)
            move(done, total)


def in_threads(act: Callable[[_Given], _Made], given: Iterable[_Given]) -> Iterator[_Made]:
    """Give what `act` makes of each, in their order; few wait at a time."""
    waiting: deque[Future[_Made]] = deque()
    with ThreadPoolExecutor(cores()) as pool:
        try:
            for one in given:
                waiting.append(pool.submit(act, one))
                if len(waiting) > 2 * cores():
                    yield waiting.popleft().result()
            yield from (one.result() for one in waiting)
        finally:
            pool.shutdown(cancel_futures=True)
