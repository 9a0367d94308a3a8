"""What has to be known of rows before they travel: measured by tasks, on drawn rows.

Two passes. `inspect` counts the rows and draws some. `find_true` finds the true neighbours of drawn
queries and draws rows to fit cells to. The driver holds drawn rows only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.search.cells import ROTATION_SAMPLE_ROWS, Rotation, as_bytes
from lookalike.search.knn.packing import (
    hash_rows,
    pack_keys,
    packed_type,
    record,
    rows_of,
    take,
    unpack_keys,
)
from lookalike.search.knn.regions import rows_in_memory
from lookalike.search.knn.sources import Batches, RowSource, VectorBatch
from lookalike.spark.columns import ddl
from lookalike.system.arrays import Numbers, Vectors

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


DRAWN_QUERIES = 256
"""Half of them decide the effort, half measure its recall."""
MAX_RANK = 2_048
"""Ranks along the leading directions that are measured; beyond them nothing is approximate."""
_NEAREST = pa.schema({"squared": pa.binary(), "keys": pa.binary()})
MAX_SAMPLE_ROWS = 2**19
"""Rows that cells are fitted to: 128 MB on their way to the driver."""
_TASK_SAMPLE_ROWS = 2_048
_DRAWN_FILES = 64
_TIE_MARGIN_ROWS = 22  # matrix products do not tell near ties apart
_BLOCK_ROWS = 8_192

_INSPECTED = pa.schema(
    {
        "rows": pa.int64(),
        "problem": pa.string(),
        "lots": pa.binary(),
        "vectors": pa.binary(),
        "keys": pa.binary(),
    }
)
_FOUND = pa.schema(
    {"sample": pa.binary(), "squared": pa.binary(), "near": pa.binary(), "ranked": pa.binary()}
)


@dataclass(frozen=True)
class Inspected:
    """How many rows there are, and drawn ones in random order.

    `drawn` is float32 (s, width), `keys` (s,) are theirs.
    """

    rows: int
    drawn: Vectors
    keys: pa.Array


def inspect(source: RowSource, most: int = ROTATION_SAMPLE_ROWS) -> Inspected:
    """Count rows and draw at most `most` of them.

    Raises `LookalikeError` for rows that cannot be compared.
    """
    known, width = source.count(), source.width

    def task(batches: Iterator[VectorBatch]) -> Batches:
        count, problem = 0, None
        lots, drawn = np.empty(0, np.uint64), np.empty((0, width), np.float32)
        names: pa.Array | None = None
        try:
            for keys, vectors in batches:
                count += len(vectors)
                lot = hash_rows(keys, vectors).view(np.uint64)
                few = lot <= (lots.max() if len(lots) == _TASK_SAMPLE_ROWS else 2**64 - 1)
                lots = np.concatenate([lots, lot[few]])
                drawn = np.concatenate([drawn, vectors[few]])
                chosen = take(keys, np.flatnonzero(few))
                names = chosen if names is None else pa.concat_arrays([names, chosen])
                if len(lots) > _TASK_SAMPLE_ROWS:
                    best = np.argpartition(lots, _TASK_SAMPLE_ROWS)[:_TASK_SAMPLE_ROWS]
                    lots, drawn, names = lots[best], drawn[best], take(names, best)
        except LookalikeError as error:  # raised here it would be wrapped in Java's traceback
            problem = str(error)
        yield record(
            _INSPECTED,
            count,
            problem,
            lots,
            drawn,
            np.empty(0) if names is None else pack_keys(names),
        )

    found = _collect(source.some(_DRAWN_FILES).read(task, ddl(_INSPECTED)))
    problems = sorted(row["problem"] for row in found if row["problem"] is not None)
    if problems:
        raise LookalikeError(problems[0])
    lots = np.concatenate([np.empty(0, np.uint64), *(_array(r["lots"], np.uint64) for r in found)])
    drawn = np.concatenate(
        [
            np.empty((0, width), np.float32),
            *(_array(row["vectors"], np.float32).reshape(-1, width) for row in found),
        ]
    )
    best = np.argsort(lots, kind="stable")[:most]
    names = [unpack_keys(row["keys"]) for row in found if row["keys"].size]
    keys = take(pa.concat_arrays(names), best) if names else pa.nulls(0)
    rows = sum(row["rows"] for row in found) if known is None else known
    return Inspected(rows, drawn[best], keys)


def draw_queries(drawn: Vectors) -> Vectors:
    """Return drawn rows, none of them copies of each other, float32 (q, width).

    Many copies, all found, would hide misses elsewhere.
    """
    some = drawn[: 10 * DRAWN_QUERIES]
    if not len(some):
        return some
    distinct = np.sort(np.unique(as_bytes(some), return_index=True)[1])
    return some[distinct[:DRAWN_QUERIES]]


@dataclass(frozen=True)
class Truth:
    """The true neighbours of drawn queries, and a sample of the rows.

    Attributes
    ----------
    queries : float32 (q, width)
    squared : float32 (q, n)
        Squared distances of the nearest rows, rising; infinite where there are fewer.
    near : float32 (q, n, directions)
        The same rows along the leading directions.
    ranks : float64 (q, n)
        Their ranks along these among all rows, from 1; infinite beyond `MAX_RANK`.
    sample : float32 (s, directions)
        Drawn rows along the leading directions.
    """

    queries: Vectors
    squared: Vectors
    near: Vectors
    ranks: npt.NDArray[np.float64]
    sample: Vectors


def find_true(
    source: RowSource,
    rotation: Rotation,
    queries: Vectors,
    k: int,
    share: float,
    own: bool,
    centre: Vectors,
) -> Truth:
    """Find the true neighbours of queries among rows, and draw a share of the rows.

    Parameters
    ----------
    source : RowSource
    rotation : Rotation
    queries : float32 (q, width)
    k : int
        Neighbours of each query.
    share : float
        Share of the rows to draw.
    own : bool
        The queries are drawn from the rows: each leaves itself out.
    centre : float32 (width,)
        Near the middle of the rows: products are taken around it.
    """
    number_type, width = packed_type(source.metric, MAX_SAMPLE_ROWS), source.width
    count, directions = len(queries), len(rotation.directions)
    block_rows = rows_in_memory(_BLOCK_ROWS, width)
    wanted, turned = k + own, rotation(queries)
    limit = np.uint64(min(int(share * 2.0**64), 2**64 - 1))

    def task(batches: Iterator[VectorBatch]) -> Batches:
        sample = [np.empty((0, directions), number_type)]
        best = Nearest(queries, wanted, centre)
        ranked = np.empty((count, 0), np.float32)
        for keys, vectors in blocks_of(batches, block_rows):
            rotated = rotation(vectors)
            lots = ~hash_rows(keys, vectors).view(np.uint64)  # `inspect` draws the lowest
            sample.append(rotated[lots <= limit].astype(number_type))
            best.add(keys, vectors)
            ranked = np.hstack([ranked, faiss.pairwise_distances(turned, rotated)])
            if ranked.shape[1] > MAX_RANK:
                ranked = np.partition(ranked, MAX_RANK - 1, axis=1)[:, :MAX_RANK]
        squared, near, _ = best.found()
        along = rotation(near.reshape(-1, width)).astype(np.float32)
        yield record(_FOUND, np.concatenate(sample), squared, along, np.sort(ranked, axis=1))

    found = _collect(source.read(task, ddl(_FOUND)))
    shape = (count, wanted, directions)
    squared = np.hstack([_array(r["squared"], np.float32).reshape(count, wanted) for r in found])
    near = np.hstack([_array(r["near"], np.float32).reshape(shape) for r in found])
    ranked = np.hstack([_array(r["ranked"], np.float32).reshape(count, -1) for r in found])
    sample = np.concatenate(
        [_array(r["sample"], number_type).reshape(-1, directions) for r in found], dtype=np.float32
    )
    order = np.argsort(squared, axis=1, kind="stable")[:, int(own) : wanted]
    squared = np.take_along_axis(squared, order, axis=1)
    near = np.take_along_axis(near, order[:, :, None], axis=1)
    along = np.einsum("qnd,qnd->qn", near - turned[:, None], near - turned[:, None])
    ranks = _ranks(np.sort(ranked, axis=1)[:, :MAX_RANK], along, own)
    return Truth(queries, squared, near, ranks, sample)


def nearest_of_few(
    source: RowSource, queries: Vectors, k: int
) -> tuple[npt.NDArray[np.float32], pa.Array]:
    """Find the k nearest rows to each of a few queries, exactly.

    Parameters
    ----------
    source : RowSource
    queries : float32 (q, width)
    k : int

    Returns
    -------
    squared : float32 (q, k)
        Squared distances, rising; infinite where there are fewer rows.
    keys : pyarrow.Array (q * k,)
        The keys of the rows, null where there are fewer.
    """
    centre = queries.mean(axis=0) if len(queries) else np.zeros(source.width, np.float32)
    block_rows = rows_in_memory(_BLOCK_ROWS, source.width)

    def task(batches: Iterator[VectorBatch]) -> Batches:
        best = Nearest(queries, k, centre)
        for keys, vectors in blocks_of(batches, block_rows):
            best.add(keys, vectors)
        squared, _, keys = best.found()
        if keys is not None:
            yield record(_NEAREST, squared, pack_keys(keys))

    found = _collect(source.read(task, ddl(_NEAREST)))
    count = len(queries)
    if not found or not count:
        return np.full((count, k), np.inf, np.float32), pa.nulls(count * k)
    squared = np.hstack([_array(r["squared"], np.float32).reshape(count, k) for r in found])
    keys = pa.concat_arrays([unpack_keys(row["keys"]) for row in found])
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    part, place = np.divmod(order, k)
    at = (part * count + np.arange(count)[:, None]) * k + place
    return np.take_along_axis(squared, order, axis=1), keys.take(pa.array(at.ravel()))


class Nearest:
    """The nearest rows to a few queries so far; their vectors are held for exact distances.

    Parameters
    ----------
    queries : float32 (q, width)
    k : int
    centre : float32 (width,)
        Products are taken around it.
    """

    def __init__(self, queries: Vectors, k: int, centre: Vectors) -> None:
        self._queries, self._k, self._centre = queries, k, centre
        self._best = faiss.ResultHeap(len(queries), k + _TIE_MARGIN_ROWS)
        self._held = np.zeros((len(queries), k + _TIE_MARGIN_ROWS, queries.shape[1]), np.float32)
        self._keys: list[pa.Array] = []
        self._rows = 0

    def add(self, keys: pa.Array, vectors: Vectors) -> None:
        """Compare more rows: keys (n,), and vectors, float32 (n, width)."""
        if not len(self._queries):
            return
        few = min(self._held.shape[1], len(vectors))
        squared, near = faiss.knn(self._queries - self._centre, vectors - self._centre, few)
        before = self._best.I.copy()
        self._best.add_result(squared, near + self._rows)
        _hold(self._held, self._best.I, before, self._rows, vectors)
        self._keys.append(keys)
        self._rows += len(vectors)

    def found(self) -> tuple[Vectors, Vectors, pa.Array | None]:
        """Return what was found, nearest first.

        Returns
        -------
        squared : float32 (q, k)
            Squared distances; infinite where there were fewer rows.
        vectors : float32 (q, k, width)
        keys : pyarrow.Array (q * k,) or None
            None where there were no rows.
        """
        offsets = self._held - self._queries[:, None]
        squared = np.einsum("qnw,qnw->qn", offsets, offsets)
        squared[self._best.I < 0] = np.inf
        order = np.argsort(squared, axis=1, kind="stable")[:, : self._k]
        squared = np.take_along_axis(squared, order, axis=1)
        keys = None
        if self._keys:
            rows = np.take_along_axis(self._best.I, order, axis=1).ravel()
            keys = pa.concat_arrays(self._keys).take(pa.array(rows, mask=rows < 0))
        return squared, np.take_along_axis(self._held, order[:, :, None], axis=1), keys


def _hold(held: Vectors, now: Numbers, before: Numbers, start: int, vectors: Vectors) -> None:
    """Move the vectors of the best rows to where these are now; add those of a block."""
    for query in range(len(now)):
        new = now[query] >= start
        places = {row: place for place, row in enumerate(before[query].tolist())}
        old = np.flatnonzero(~new & (now[query] >= 0))
        from_ = [places[row] for row in now[query][old].tolist()]
        held[query][old] = held[query][from_]
        held[query][new] = vectors[now[query][new] - start]


def _ranks(ranked: Vectors, along: Vectors, own: bool) -> npt.NDArray[np.float64]:
    """Return the rank of each squared distance (q, n) among rising ones (q, r), from 1."""
    ranks = np.empty(along.shape)
    for query, (sorted_, some) in enumerate(zip(ranked, along, strict=True)):
        # Rounding puts a row just before or after itself.
        place = np.searchsorted(sorted_, some * (1 - 1e-5), side="left") + 1.0
        place[place > len(sorted_)] = np.inf if len(sorted_) == MAX_RANK else len(sorted_)
        ranks[query] = np.maximum(place - own, 1)
    return ranks


def blocks_of(batches: Iterator[VectorBatch], block_rows: int) -> Iterator[VectorBatch]:
    """Gather batches to blocks of at least `block_rows` rows, except the last."""
    keys: list[pa.Array] = []
    parts: list[Vectors] = []
    rows = 0
    for batch in batches:
        keys.append(batch.keys)
        parts.append(batch.vectors)
        rows += len(batch.vectors)
        if rows >= block_rows:
            yield VectorBatch(pa.concat_arrays(keys), np.concatenate(parts))
            keys, parts, rows = [], [], 0
    if parts:
        yield VectorBatch(pa.concat_arrays(keys), np.concatenate(parts))


def _array(packed: pa.Buffer, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return np.frombuffer(packed, dtype)


def _collect(frame: "DataFrame") -> list[dict[str, Any]]:
    """Return the rows of a small DataFrame."""
    return list(rows_of(iter(frame.toArrow().to_batches())))
