"""What an index says of itself: its counts, its model, the recall of its engines, its versions."""

import contextlib
import logging
from typing import Any, TypedDict

from lookalike.errors import LookalikeError
from lookalike.lsh import search
from lookalike.lsh.evaluation import by_hashing
from lookalike.search import evaluation, fidelity
from lookalike.search.recall import RECALL_K, RECALLS
from lookalike.search.rows import check_k, check_seed
from lookalike.search.searcher import Searcher
from lookalike.system.extras import install, is_installed, require
from lookalike.system.progress import progress_line
from lookalike.system.untrusted import read_json

logger = logging.getLogger(__name__)


class ModelInfo(TypedDict):
    """The model of an index.

    `width` is the length of its vectors. Two indexes with the same `fingerprint` can be compared.
    `agreement` is the share of the five nearest neighbours that `precision` has in common with f32,
    None where that was not measured.
    """

    backbone: str
    weights: str
    precision: str
    width: int
    preprocessing: str
    fingerprint: str
    agreement: float | None


class ApproximateInfo(TypedDict):
    """Measured recall@k of approximate search, over `queries` images, by the recall asked for."""

    k: int
    queries: int
    recall: dict[str, float | None]


class IndexInfo(TypedDict):
    """The answer of `Index.info`, and of `lookalike info --json`.

    `bytes` is the size of the data files. `recall` has the measured recall of each engine, None
    where it is not measured yet; `approximate` says more of that engine.
    """

    images: int
    skipped: int
    version: int
    segments: int
    bytes: int
    root: str
    model: ModelInfo
    recall: dict[str, float | None]
    approximate: ApproximateInfo | None


class VersionInfo(TypedDict):
    """One version of an index.

    `time` is in milliseconds since 1970, UTC. `kept` says whether it can still be opened. The
    counts are None where another program made the version.
    """

    version: int
    time: int
    kept: bool
    what: str
    added: int | None
    removed: int | None
    images: int | None
    skipped: int | None


class ApproximateRecall(TypedDict):
    """Recall@k of approximate search with the default recall, and what a query costs.

    `compared` is the mean share of all rows whose vectors were compared; times have `p50` and
    `p99`, in milliseconds.
    """

    queries: int
    k: int
    recall: float
    recall_95: list[float]
    compared: float
    approximate_ms: dict[str, float]
    exact_ms: dict[str, float]


class CurvePoint(TypedDict):
    """Recall and speed of one engine, for one recall that was asked for."""

    engine: str
    asked: float
    recall: float
    recall_95: list[float]
    compared: float
    ms: dict[str, float]
    queries_per_s: float


LabelFigures = TypedDict(
    "LabelFigures",
    {"labelled_queries": int, "R@1": float, "P@5": float, "mAP@R": float},
    total=False,
)
"""Retrieval by label; empty where the index has no labels."""

_SparkFigures = TypedDict(
    "_SparkFigures", {"spark-lsh": dict[str, Any], "against_f32": dict[str, Any]}, total=False
)


class Evaluation(LabelFigures, _SparkFigures):
    """The answer of `Index.evaluate`, and of `lookalike evaluate --json`.

    `spark-lsh` is there where Spark was asked, `against_f32` where the index is in less than f32.
    """

    images: int
    approximate: ApproximateRecall
    curve: list[CurvePoint]


def describe(searcher: Searcher) -> IndexInfo:
    """Return what `Index.info` says."""
    table = searcher.collection
    embedded, skipped = table.counts()
    spark_recall = None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none, or damaged
        parameters = table.hash_folder / "parameters.json"
        spark_recall = float(read_json(parameters)["measured_recall"])
    known = searcher.saved_profile()
    return {
        "images": embedded,
        "skipped": skipped,
        "version": table.version,
        "segments": len(table.files()),
        "bytes": table.size(),
        "root": table.source.root,
        "model": table.about_model,  # type: ignore[typeddict-item]
        "recall": {
            "exact": 1.0,
            "approximate": searcher.known_recall(),
            "spark-lsh": spark_recall,
        },
        "approximate": None
        if known is None
        else {
            "k": RECALL_K,
            "queries": known.queries,
            "recall": dict(zip(map(str, RECALLS), known.recall, strict=True)),
        },
    }


def measure(searcher: Searcher, k: int, queries: int, seed: int, spark: bool | None) -> Evaluation:
    """Return what `Index.evaluate` says."""
    check_k(k)
    if queries < 1:
        raise LookalikeError(f"`queries` is {queries}: draw at least 1 image")
    check_seed(seed)
    if spark is None and not (spark := is_installed("pyspark")):
        logger.info(f"Spark's hashing is not measured: {install('pyspark')} adds it")
    elif spark:
        require("measuring Spark's hashing", "pyspark")
    table, rows = searcher.collection, searcher.rows
    figures: dict[str, Any] = {
        "images": table.counts()[0],
        **evaluation.by_label(rows, seed=seed),
        **evaluation.by_signatures(searcher, k, queries, seed),
    }
    if spark:
        vectors, hasher = search.vectors_and_hasher(table)
        figures["spark-lsh"] = by_hashing(rows, vectors, hasher, k, queries, seed)
    if table.about_model["precision"] != "f32":
        with progress_line("embedding again in f32"):
            figures["against_f32"] = fidelity.against_f32(table, rows, k, seed)
    return figures  # type: ignore[return-value]
