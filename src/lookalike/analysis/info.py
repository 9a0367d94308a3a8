"""Information about an index: counts, model, recall of its engines, versions."""

import contextlib
import logging
from collections.abc import Sequence
from typing import Any, NotRequired, Protocol, TypedDict

from lookalike.errors import LookalikeError
from lookalike.lsh import search
from lookalike.lsh.evaluation import by_hashing
from lookalike.search import evaluation, fidelity
from lookalike.search.bands.kept import saved_bands
from lookalike.search.query import make_embedder
from lookalike.search.recall import RECALL_K, RECALLS
from lookalike.search.regions.folder import describe_regions
from lookalike.search.rows import check_k, check_seed
from lookalike.search.searcher import Searcher
from lookalike.spark import is_connect
from lookalike.storage.schema import kept_of
from lookalike.system.extras import install, is_installed, require
from lookalike.system.progress import progress_line
from lookalike.system.untrusted import read_json

logger = logging.getLogger(__name__)


class ModelInfo(TypedDict):
    """The model of an index.

    Attributes
    ----------
    width
        The length of its vectors.
    fingerprint
        Indexes with the same fingerprint can be compared.
    agreement
        Share of the five nearest neighbours that `precision` has in common with f32, None if it was
        not measured.

    """

    backbone: str
    weights: str
    precision: str
    width: int
    preprocessing: str
    fingerprint: str
    agreement: float | None


class ApproximateInfo(TypedDict):
    """Measured recall@k of approximate search with `queries` images, by target recall."""

    k: int
    queries: int
    recall: dict[str, float | None]


class IndexInfo(TypedDict):
    """The result of `Index.info`, and of `lookalike info --json`.

    Attributes
    ----------
    bytes
        The size of the data files.
    recall
        The measured recall of each engine, None before it is measured.
    approximate
        The recall of approximate search by target recall.
    bands
        The limits of the bands of distance, and what they were measured on; None before the first
        search that shows them.
    regions
        The regions that search reads by ranges: `version`, `rows` and `recall`, or `reason`, why
        they cannot be read; None without any.
    metric, table, key
        Of vectors made elsewhere alone: "cosine" or "l2", their table, the column of keys.

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
    bands: dict[str, Any] | None
    regions: dict[str, Any] | None
    metric: NotRequired[str]
    table: NotRequired[str | None]
    key: NotRequired[str | None]
    kept: NotRequired[list[str]]


class VersionInfo(TypedDict):
    """One version of an index.

    Attributes
    ----------
    time
        Milliseconds since 1970, UTC.
    kept
        The version can still be opened.
    what
        The operation that made it.
    added, removed, images, skipped
        Counts of rows, None if another program made the version.

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
    """Recall@k and cost of approximate search at the default target recall.

    Attributes
    ----------
    recall_95
        The 95 % confidence interval of `recall`.
    compared
        Mean share of all rows whose vectors were compared with a query.
    approximate_ms, exact_ms
        Milliseconds per query: `p50` and `p99`.

    """

    queries: int
    k: int
    recall: float
    recall_95: list[float]
    compared: float
    approximate_ms: dict[str, float]
    exact_ms: dict[str, float]


class CurvePoint(TypedDict):
    """Recall and speed of one engine at one target recall (`asked`)."""

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
"""Retrieval by label; empty if the index has no labels."""

_SparkFigures = TypedDict(
    "_SparkFigures", {"spark-lsh": dict[str, Any], "against_f32": dict[str, Any]}, total=False
)


class Evaluation(LabelFigures, _SparkFigures):
    """The result of `Index.evaluate`, and of `lookalike evaluate --json`.

    `spark-lsh` is present if Spark was used, `against_f32` if the index has a precision below f32,
    `text` if texts were given.
    """

    images: int
    text: NotRequired[ApproximateRecall]
    approximate: ApproximateRecall
    curve: list[CurvePoint]


class HasSearcher(Protocol):
    """An index with its search, at one version."""

    @property
    def _searcher(self) -> Searcher: ...


def describe(self: HasSearcher) -> IndexInfo:
    """Return counts, version, model, size and measured recall, as `lookalike info --json`."""
    searcher = self._searcher
    table = searcher.table
    embedded, skipped = table.counts()
    spark_recall = None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none, or damaged
        parameters = table.hash_folder / "parameters.json"
        spark_recall = float(read_json(parameters)["measured_recall"])
    known = searcher.saved_profile()
    bands = saved_bands(table)
    found: IndexInfo = {
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
        "bands": None if bands is None else bands.to_dict(),
        "regions": describe_regions(table),
    }
    if table.own is not None:
        found |= {"metric": table.metric, "table": table.own.place, "key": table.own.id_column}
    if table.columns.are_of_frame:
        found["key"] = table.columns.id_column
    if kept := kept_of(table.schema):
        found["kept"] = kept
    return found


def evaluate(
    self: HasSearcher,
    k: int = 5,
    queries: int = 50,
    seed: int = 0,
    *,
    spark: bool | None = None,
    texts: Sequence[str] | None = None,
) -> Evaluation:
    """Measure the index: retrieval by label, and recall and speed of each engine.

    Parameters
    ----------
    k : int
        Number of neighbours that count.
    queries, seed : int
        Number of images drawn to measure recall with; random seed for sampling them.
    spark : bool, optional
        Measure `spark-lsh` too, which starts Spark. Without it where Spark is installed.
    texts : list of str, optional
        Measure the recall of these queries in words too. They lie far from images.

    Returns
    -------
    Evaluation
        R@1, P@5 and mAP@R where there are labels, recall@k with its 95 % interval, times; for an
        index in less than f32 also its overlap with f32.

    """
    searcher = self._searcher
    check_k(k)
    if queries < 1:
        raise LookalikeError(f"`queries` is {queries}: draw at least 1 image")
    check_seed(seed)
    explicit = spark is not None
    if spark is None and not (spark := is_installed("pyspark")):
        logger.info(f"the engine spark-lsh is not measured: {install('pyspark')} adds it")
    elif spark and not explicit and is_connect():
        logger.info("the engine spark-lsh is not measured: it does not run on Spark Connect")
        spark = False
    elif spark:
        require("measuring the engine spark-lsh", "pyspark")
    table, rows = searcher.table, searcher.rows
    figures: dict[str, Any] = {
        "images": table.counts()[0],
        **evaluation.by_label(rows, seed=seed),
        **evaluation.by_signatures(searcher, k, queries, seed),
    }
    if texts:
        made = make_embedder(table).embed_text(list(texts))
        figures["text"] = evaluation.by_vectors(searcher, made, k)
    if spark:
        vectors, hasher = search.vectors_and_hasher(table)
        figures["spark-lsh"] = by_hashing(rows, vectors, hasher, k, queries, seed)
    if table.about_model["precision"] != "f32":
        with progress_line("embedding again in f32"):
            figures["against_f32"] = fidelity.against_f32(table, rows, k, seed)
    return figures  # type: ignore[return-value]
