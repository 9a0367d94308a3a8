"""How long the parts of a search take on the machines of Spark: a task on each core tries them."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

import faiss
import numpy as np
import pyarrow as pa

from lookalike.search.cells import Rotation
from lookalike.search.knn.effort import JoinEffort
from lookalike.search.knn.packing import packed_type
from lookalike.search.knn.partitions import Partition
from lookalike.search.knn.region_tasks import RegionSearch, region_task
from lookalike.search.knn.routing import Probing, Routing
from lookalike.search.knn.sample import SampledRows
from lookalike.search.knn.sources import VectorBatch
from lookalike.search.knn.survey import find_true
from lookalike.search.knn.tasks import Role, merge_task, route_task
from lookalike.system.arrays import Vectors

if TYPE_CHECKING:
    from lookalike.search.knn.sources import RowSource


@dataclass(frozen=True)
class Timed:
    """CPU seconds of one core, in a task of Spark.

    Attributes
    ----------
    read, inspect, route, build
        Of a row: to read it, to see how near it is to drawn queries, to find its cells and to pack
        it for each region that it visits, to hold it in a region.
    ask, probe
        Of a query in a region, and of each cell of 128 rows that it probes there.
    merge
        Of a row that a region has found for a query.
    copy
        Of a byte on its way to another task.
    start
        Of a task: to make the tables that find cells.
    routed_bytes
        Bytes of a row on its way to all its regions.
    """

    read: float = 0.0
    inspect: float = 0.0
    route: float = 0.0
    build: float = 0.0
    ask: float = 0.0
    probe: float = 0.0
    merge: float = 0.0
    copy: float = 0.0
    start: float = 0.0
    routed_bytes: float = 0.0

    @classmethod
    def middle(cls, found: list[Self]) -> Self:
        """Return the mean of what several tasks have found."""
        names = [one.name for one in fields(cls)]
        return cls(*(float(np.mean([getattr(one, name) for one in found])) for name in names))


@dataclass(frozen=True)
class Trial:
    """What the tasks try: a search of some rows, as it will be done for all.

    Attributes
    ----------
    sample : SampledRows
        The rows.
    rows : int
        How many there are in all.
    queries : float32 (q, width)
        Drawn queries.
    k : int
    rotation : Rotation
    centre : float32 (width,)
        The middle of the rows.
    routing : Routing
        That of all rows.
    small : Routing
        That of the sample, with one region.
    effort : JoinEffort
    """

    sample: SampledRows
    rows: int
    queries: Vectors
    k: int
    rotation: Rotation
    centre: Vectors
    routing: Routing
    small: Routing
    effort: JoinEffort


_FEW, _MANY = 4, 36  # cells that a query probes, to tell the time of one more
_READ_ROWS = 16_384


def time_search(source: "RowSource", trial: Trial, tasks: int) -> Timed:
    """Return what a search takes, the mean of what some tasks, all at once, have found."""
    width = source.width

    def task(batches: Iterator[VectorBatch]) -> Iterator[pa.RecordBatch]:
        faiss.omp_set_num_threads(1)
        done = 0
        started = time.process_time()
        for _, vectors in batches:
            done += len(vectors)
            if done >= _READ_ROWS:
                break
        found = _try(trial, width, (time.process_time() - started) / max(done, 1))
        values = [float(getattr(found, one.name)) for one in fields(Timed)]
        yield pa.record_batch([pa.array([one]) for one in values], _NAMES)

    schema = ", ".join(f"{name} double" for name in _NAMES)
    rows = source.some(tasks).read(task, schema).toArrow().to_pylist()
    return Timed.middle([Timed(**row) for row in rows])


_NAMES = [one.name for one in fields(Timed)]


def _try(trial: Trial, width: int, read: float) -> Timed:
    sample, k = trial.sample, trial.k
    rows, metric = len(sample.vectors), sample.metric
    rotation = trial.rotation
    packed = packed_type(metric, trial.rows)
    turned = Rotation(rotation.directions, rotation.offset + rotation.directions @ trial.centre)
    search = RegionSearch(k, width, packed, True, np.inf, 1, 1, turned, trial.effort)

    def route(routing: Routing, role: Role) -> list[pa.RecordBatch]:
        task = route_task(routing, routing.regions, role, trial.centre, packed, rows, 1)
        return list(task(sample.batches()))

    def ask(cells: int) -> tuple[float, list[pa.RecordBatch]]:
        routing = replace(trial.small, probing=Probing(np.inf, cells))
        arrived = route(routing, Role(items=True, queries=True))
        return _timed(lambda: list(region_task(search)(iter(arrived))))

    def inspect(count: int) -> float:
        some = replace(sample, vectors=sample.vectors[:count])
        return _timed(lambda: find_true(some, rotation, trial.queries, k, 0, True, trial.centre))[0]

    inspected = max(inspect(rows) - inspect(rows // 2), 0.0) * 2  # without what a task does once
    start, _ = _timed(lambda: trial.routing.search)
    routed, records = _timed(lambda: route(trial.routing, Role(items=True, queries=True)))
    at_home = route(trial.small, Role(items=True, queries=False))
    build, _ = _timed(lambda: list(region_task(search)(iter(at_home))))
    few = min(_FEW, len(trial.small.cells))
    many = min(_MANY, len(trial.small.cells))
    quick, found = ask(few)
    slow, _ = ask(many)
    probe = max(slow - quick, 0.0) / max(many - few, 1)
    merged, _ = _timed(lambda: list(merge_task(k)(iter(found))))
    content = b"".join(batch["vectors"][0].as_py() for batch in records)
    copied, _ = _timed(lambda: _copy(content))
    return Timed(
        read=read,
        inspect=inspected / rows,
        route=routed / rows,
        build=build / rows,
        ask=max(quick - few * probe - build, 0.0) / rows,
        probe=probe / rows,
        merge=merged / (rows * k),
        copy=copied / max(len(content), 1),
        start=start,
        routed_bytes=sum(batch.nbytes for batch in records) / rows,
    )


def _copy(content: bytes) -> bytes:
    """Pack and unpack bytes as Spark does on their way."""
    packed = pa.compress(content, codec="lz4", asbytes=True)
    return bytes(pa.decompress(packed, len(content), codec="lz4", asbytes=True))


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    done = work()
    return time.process_time() - started, done


def time_pairs(sample: SampledRows, k: int) -> float:
    """Return the CPU seconds of one core to compare a query with a row exactly, in this process."""
    vectors = sample.vectors
    partition = Partition(np.arange(len(vectors)), vectors)
    some = vectors[: min(len(vectors), 1024)]
    seconds, _ = _timed(lambda: partition.nearest_rows(some, k, None))
    return seconds / max(len(some) * len(vectors), 1)
