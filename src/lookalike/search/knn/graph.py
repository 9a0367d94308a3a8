"""Write the neighbour graph of an index, a table of directed pairs.

Joins, duplicates, clusters and outliers read it. A small index is compared exactly in this
process; a larger one through Spark, as `lookalike neighbors` does.
"""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import LookalikeError
from lookalike.search.engines import KnnEngine
from lookalike.search.knn.export import check_same_model
from lookalike.search.knn.join import plan_join
from lookalike.search.knn.partitions import Partition
from lookalike.search.knn.sources import IndexRows
from lookalike.search.rows import Rows, check_k
from lookalike.spark import is_spark_available, local_uri, progress, session
from lookalike.storage import EmbeddingTable
from lookalike.system.defaults import TARGET_RECALL
from lookalike.system.extras import install, is_installed
from lookalike.system.progress import progress_line

_BLOCK_QUERIES = 8_192  # 16 MB of vectors

logger = logging.getLogger(__name__)

NEIGHBORS = pa.schema(
    {
        "query_id": pa.int64(),
        "rank": pa.int32(),
        "neighbor_id": pa.int64(),
        "distance": pa.float32(),
    }
)
"""The columns of a graph."""
IN_PROCESS = 20_000
"""Rows up to which this process compares all pairs, in some seconds."""


def write_graph(
    table: EmbeddingTable,
    folder: Path,
    k: int,
    *,
    within: float = np.inf,
    queries: EmbeddingTable | None = None,
    spark: bool | None = None,
    engine: KnnEngine = "auto",
    recall: float = TARGET_RECALL,
) -> bool:
    """Write the k nearest neighbours of every row into a new folder of Parquet files.

    Parameters
    ----------
    table : EmbeddingTable
    folder : Path
    k : int
    within : float
        Leave out rows farther than this Euclidean distance.
    queries : EmbeddingTable, optional
        Another index of the same model, whose rows are the queries.
    spark : bool, optional
        By default for more than `IN_PROCESS` rows, or where Spark runs already.
    engine : {"auto", "exact", "approximate"}
    recall : float
        Target recall of approximate search.

    Returns
    -------
    bool
        Whether Spark was used. The columns of the files are those of `kneighbors`.

    Raises
    ------
    LookalikeError
        For an invalid k, another model, or approximate search without Spark.
    """
    check_k(k)
    if queries is not None:
        check_same_model(table, queries)
    if engine == "approximate" and spark is False:
        raise LookalikeError('`engine="approximate"` needs Spark: leave `spark=False` out')
    counts = [part.counts()[0] for part in (table, queries or table)]
    if spark is None:
        spark = engine == "approximate" or max(counts) > IN_PROCESS or is_spark_available()
        if (
            spark
            and engine != "approximate"
            and not (is_spark_available() or is_installed("pyspark"))
        ):
            logger.info(
                f"compares all images in this process: {install('pyspark')} makes it faster"
            )
            spark = False
    spark = spark and min(counts) > 0
    if spark:
        running = session()
        items = IndexRows(running, table)
        asked = None if queries is None else IndexRows(running, queries)
        with progress(running, "finding neighbours"):
            plan = plan_join(running, items, k, asked, engine, recall, within)
            plan.run().write.parquet(local_uri(folder))
    else:
        _compare(table, folder, k, within, queries)
    return spark


def _compare(
    table: EmbeddingTable, folder: Path, k: int, within: float, queries: EmbeddingTable | None
) -> None:
    rows = Rows(table.segments)  # without segments of skipped images alone
    asked = Rows((queries or table).segments)
    folder.mkdir()
    with (
        progress_line("comparing images") as move,
        pq.ParquetWriter(folder / "part-0.parquet", NEIGHBORS) as writer,
    ):
        if not len(rows):
            return
        partition = Partition.load(rows.segments)
        done = 0
        for segment in asked.segments:
            for start in range(0, len(segment.ids), _BLOCK_QUERIES):
                move(done, len(asked))
                ids = segment.ids[start : start + _BLOCK_QUERIES]
                vectors = segment.vectors[start : start + _BLOCK_QUERIES]
                found, distances = partition.nearest(vectors, k, ids if queries is None else None)
                near = distances <= within
                near &= np.isfinite(distances)
                who, rank = np.nonzero(near)
                columns = [ids[who], rank + 1, found[near], distances[near]]
                writer.write_table(
                    pa.table(
                        [
                            pa.array(one, kind.type)
                            for one, kind in zip(columns, NEIGHBORS, strict=True)
                        ],
                        schema=NEIGHBORS,
                    )
                )
                done += len(ids)
