"""Pairs that were found by their embeddings, looked at again by their pixels."""

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike import images
from lookalike.groups.alignment import AGREEMENT, AGREES, Look, looking_at, with_agreement
from lookalike.images.isolated import Decode, decoder
from lookalike.progress import progress_line
from lookalike.spark import cores, is_second_try, local_uri, progress, session, tries_again
from lookalike.sql import connect, parquet_in

_TASKS = 4  # a core
_BATCH = 64  # pairs that a thread takes at a time
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


def verify(pairs: Path, a: images.Source, b: images.Source, spark: bool) -> None:
    """Add to a folder of pairs how well their pixels agree: a column `agreement`.

    On Spark or in threads; either way a decoder that crashes costs one image.
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
            with decoder(apart, True, truncated) as decode:
                yield from map(partial(with_agreement, **_looks(decode, a, b)), batches)

        with progress(running, "comparing pixels"):
            compared = rows.mapInArrow(task, f"{columns}, agreement float")
            compared.orderBy("distance", "a_id", "b_id").write.parquet(local_uri(checked))
    else:
        checked.mkdir()
        _in_process(pairs / "part-0.parquet", checked / "part-0.parquet", a, b)
    shutil.rmtree(pairs)
    checked.rename(pairs)


def count_agreeing(pairs: Path) -> int:
    """Return how many pairs show the same."""
    with connect(pairs.parent) as sql:
        query = f"SELECT count(*) FROM {parquet_in(pairs)} WHERE agreement >= {AGREES}"
        ((count,),) = sql.execute(query).fetchall()
    return int(count)


def _looks(decode: Decode, a: images.Source, b: images.Source) -> dict[str, Look]:
    """Return how to look at either end of a pair; what both may show is decoded once."""
    look = looking_at(decode, a)
    return {"a": look, "b": look if a == b else looking_at(decode, b)}


def _in_process(pairs: Path, checked: Path, a: images.Source, b: images.Source) -> None:
    with (
        decoder(True, truncated=a.truncated or b.truncated) as decode,
        pq.ParquetFile(pairs) as file,
        pq.ParquetWriter(checked, file.schema_arrow.append(AGREEMENT)) as writer,
        progress_line("comparing pixels", "pairs") as move,
    ):
        compare = partial(with_agreement, **_looks(decode, a, b))
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
