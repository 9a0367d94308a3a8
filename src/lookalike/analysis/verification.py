"""Verify pairs of similar embeddings by comparing their pixels."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike import images
from lookalike.analysis.comparison import COMPARED, ImageReader, compare_pairs
from lookalike.errors import LookalikeError
from lookalike.images.decoding.sandbox import Decoder, open_decoder
from lookalike.spark import (
    is_retry,
    local_uri,
    parallelism,
    progress,
    retries_tasks,
    session,
)
from lookalike.storage import EmbeddingTable
from lookalike.system.defaults import MIN_AGREEMENT
from lookalike.system.files import delete_folder
from lookalike.system.progress import progress_line
from lookalike.system.resources import cores
from lookalike.system.sql import connect, create_view, fetch_row

_TASKS_PER_CORE = 4
_BATCH_PAIRS = 64
_Input = TypeVar("_Input")
_Output = TypeVar("_Output")


def verify(
    pairs: Path, a: images.Source, b: images.Source, spark: bool, agrees: float = MIN_AGREEMENT
) -> None:
    """Compare the pixels of pairs, on Spark or in threads; add `agreement` and `compared`.

    A decoder that crashes costs one image.

    Parameters
    ----------
    pairs : Path
        A folder of `join`; rewritten in place.
    a, b : Source
        The images of `a_path` and of `b_path`.
    spark : bool
    agrees : float
        Least agreement at 64 pixels a side, 0 to 1, for a comparison at full size.
    """
    checked = pairs.with_name("checked")
    if spark:
        running = session()
        rows = running.read.parquet(local_uri(pairs))
        # A comparison takes longer than a shuffle, however few the pairs.
        rows = rows.repartition(_TASKS_PER_CORE * parallelism(running), "a_id")
        columns = ", ".join(f"{one.name} {one.dataType.simpleString()}" for one in rows.schema)
        isolated = not retries_tasks(running)

        def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            truncated = a.truncated or b.truncated
            with open_decoder(isolated or is_retry(), True, truncated) as decoder:
                yield from map(_comparer(decoder, a, b, agrees), batches)

        with progress(running, "comparing pixels"):
            schema = f"{columns}, agreement float, compared string"
            # To sort, Spark reads rows twice: kept, they are not compared twice as well.
            seen = rows.mapInArrow(task, schema).persist()
            try:
                seen.orderBy("distance", "a_id", "b_id").write.parquet(local_uri(checked))
            finally:
                seen.unpersist()
    else:
        checked.mkdir()
        _in_process(pairs / "part-0.parquet", checked / "part-0.parquet", a, b, agrees)
    delete_folder(pairs)
    checked.rename(pairs)


def check_pictures(table: EmbeddingTable) -> None:
    """Raise `LookalikeError` for an index without pictures to compare."""
    if not table.has_pictures:
        raise LookalikeError(
            f"{table.path} has no pictures to compare: set `verify=False`, and another `keep` than "
            "sharpest"
        )


def count_agreeing(pairs: Path) -> int:
    """Return the number of pairs with agreement of at least `MIN_AGREEMENT`."""
    with connect(pairs.parent) as sql:
        create_view(sql, "pairs", pairs)
        query = "select count(*) from pairs where agreement >= $agrees::float"
        (count,) = fetch_row(sql, query, {"agrees": MIN_AGREEMENT})
    return int(count)


def count_compared(pairs: Path) -> dict[str, int]:
    """Return the number of unreadable, unclear and alike pairs (`comparison.Comparison`)."""
    with connect(pairs.parent) as sql:
        create_view(sql, "pairs", pairs)
        query = "select compared, count(*) from pairs group by compared"
        found = dict(sql.execute(query).fetchall())
    return {f"{kind}_pairs": int(found.get(kind, 0)) for kind in ("unreadable", "unclear", "alike")}


def _comparer(
    decoder: Decoder, a: images.Source, b: images.Source, agrees: float
) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
    """Return the function that compares a batch; one source is read through one cache."""
    reader = ImageReader(decoder, a)
    other = reader if a == b else ImageReader(decoder, b)
    return partial(compare_pairs, a=reader, b=other, agrees=agrees)


def _in_process(
    pairs: Path, checked: Path, a: images.Source, b: images.Source, agrees: float
) -> None:
    with (
        open_decoder(True, truncated=a.truncated or b.truncated) as decoder,
        pq.ParquetFile(pairs) as file,
        pq.ParquetWriter(checked, pa.schema([*file.schema_arrow, *COMPARED])) as writer,
        progress_line("comparing pixels", "pairs") as move,
    ):
        compare = _comparer(decoder, a, b, agrees)
        done, total = 0, file.metadata.num_rows
        for batch in in_threads(compare, file.iter_batches(_BATCH_PAIRS)):
            writer.write_batch(batch)
            done += len(batch)
            move(done, total)


def in_threads(act: Callable[[_Input], _Output], items: Iterable[_Input]) -> Iterator[_Output]:
    """Yield `act` of each item, in order; few items wait at a time."""
    waiting: deque[Future[_Output]] = deque()
    with ThreadPoolExecutor(cores()) as pool:
        try:
            for one in items:
                waiting.append(pool.submit(act, one))
                if len(waiting) > 2 * cores():
                    yield waiting.popleft().result()
            yield from (one.result() for one in waiting)
        finally:
            pool.shutdown(cancel_futures=True)
