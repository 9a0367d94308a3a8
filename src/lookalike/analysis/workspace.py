"""The folder of a result while it is made, and the graph of neighbours that it is made of."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lookalike.analysis.keys import show_keys
from lookalike.analysis.result import finding
from lookalike.errors import LookalikeError
from lookalike.search.knn.graph import write_graph
from lookalike.search.rows import check_recall
from lookalike.storage import EmbeddingTable
from lookalike.system.extras import require
from lookalike.system.files import delete_folder
from lookalike.system.paths import Name, local_path


@contextmanager
def open_result(
    table: EmbeddingTable,
    out: Name,
    name: str,
    overwrite: bool,
    shown: int,
    recall: float,
    spark: bool | None,
    other: EmbeddingTable | None = None,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Check the common options; yield the result folder and its figures; then show keys."""
    if shown < 0:
        raise LookalikeError(f"`shown` is {shown}: give 0 or more")
    check_recall(recall)
    if spark:
        require("running on Spark", "pyspark")
    with finding(local_path(out), name, table.source, overwrite) as (folder, figures):
        yield folder, figures
        show_keys(folder, table, other)


@contextmanager
def open_graph(
    table: EmbeddingTable, folder: Path, k: int, recall: float, spark: bool | None
) -> Iterator[Path]:
    """Yield a graph of the k nearest neighbours of each row, in a folder that goes afterwards."""
    graph = folder / "graph"
    write_graph(table, graph, k, recall=recall, spark=spark)
    yield graph
    delete_folder(graph)
