"""The neighbour graph of a collection: who is how near whom, as a table of directed pairs.

Joins, duplicates, clusters and outliers are all read from it. Few rows are compared exactly in this
process; more go through Spark, as `lookalike neighbors` does.
"""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.defaults import RECALL
from lookalike.engine import KnnEngine
from lookalike.errors import LookalikeError
from lookalike.extras import install, is_installed
from lookalike.neighbors import NEIGHBORS, Held, Queries, neighbors
from lookalike.neighbors.export import check_same_model
from lookalike.progress import progress_line
from lookalike.search import Rows, check_k
from lookalike.spark import is_at_hand, local_uri, progress, session
from lookalike.storage import EmbeddingTable

logger = logging.getLogger(__name__)

IN_PROCESS = 20_000
"""Rows that are compared with each other in this process at most: some seconds."""


def write_graph(
    collection: EmbeddingTable,
    folder: Path,
    k: int,
    *,
    within: float = np.inf,
    queries: EmbeddingTable | None = None,
    spark: bool | None = None,
    engine: KnnEngine = "auto",
    recall: float = RECALL,
) -> bool:
    """Write the k nearest neighbours of every row into a new folder of Parquet.

    Its columns are those of `neighbors`: `query_id, rank, neighbor_id, distance`; rows farther than
    `within` are left out. `queries` is another collection of the same model, whose rows then ask.
    `spark` None means Spark for over `IN_PROCESS` rows, or where it runs already. Returns whether
    Spark it was.
    """
    check_k(k)
    if queries is not None:
        check_same_model(collection, queries)
    if engine == "approximate" and spark is False:
        raise LookalikeError('`engine="approximate"` needs Spark: leave `spark=False` out')
    counts = [part.counts()[0] for part in (collection, queries or collection)]
    if spark is None:
        spark = engine == "approximate" or max(counts) > IN_PROCESS or is_at_hand()
        if spark and engine != "approximate" and not (is_at_hand() or is_installed("pyspark")):
            logger.info(
                f"compares all images in this process: {install('pyspark')} makes it faster"
            )
            spark = False
    spark = spark and min(counts) > 0
    if spark:
        running = session()
        asking = None if queries is None else queries.segments
        with progress(running, "finding neighbours"):
            found = neighbors(running, collection, k, asking, engine, recall, within)
            found.write.parquet(local_uri(folder))
    else:
        _compare(collection, folder, k, within, queries)
    return spark


def _compare(
    collection: EmbeddingTable, folder: Path, k: int, within: float, queries: EmbeddingTable | None
) -> None:
    rows = Rows(collection.segments)  # a segment of nothing but skipped images has no vectors
    asked = Queries.of(Rows((queries or collection).segments).segments)
    folder.mkdir()
    with (
        progress_line("comparing images") as move,
        pq.ParquetWriter(folder / "part-0.parquet", NEIGHBORS) as writer,
    ):
        if not len(rows):
            return
        held = Held.of(rows.segments)
        for block in range(len(asked.blocks)):
            move(block, len(asked.blocks))
            ids = asked.ids(block)
            found, distances = held.nearest(
                asked.vectors(block), k, ids if queries is None else None
            )
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
