"""Analyses of a whole index: the functions behind the methods of `Index` of the same names.

Each writes a folder atomically: tables in Parquet, figures in `found.json`, and pictures in
`index.html`.
"""

import os

import numpy as np

from lookalike.analysis import clusters, outliers, overview, pairs, reports, threshold
from lookalike.analysis.cleanup.unchanged_files import set_aside
from lookalike.analysis.duplicates import TABLE, Keep, duplicates
from lookalike.analysis.result import AnalysisResult
from lookalike.analysis.verification import check_pictures, count_agreeing, count_compared
from lookalike.analysis.verification import verify as verify_pixels
from lookalike.analysis.workspace import open_graph, open_result
from lookalike.errors import LookalikeError
from lookalike.search.engines import Engine, check_engine
from lookalike.search.knn.export import check_same_model
from lookalike.search.rows import check_seed
from lookalike.storage import EmbeddingTable
from lookalike.storage.protocol import HasTable
from lookalike.system import defaults
from lookalike.system.extras import require
from lookalike.system.paths import Name

__all__ = [
    "find_clusters",
    "find_duplicates",
    "find_outliers",
    "find_pairs",
    "make_gallery",
    "set_aside",
]

_MIN_VOTERS = 20  # nearest neighbours whose labels are compared with that of an image


def find_pairs(
    index: HasTable,
    out: Name,
    other: HasTable | Name | None = None,
    *,
    within: float | None = None,
    k: int | None = None,
    cap: int = defaults.MAX_PAIRS_PER_IMAGE,
    verify: bool = False,
    engine: Engine = "auto",
    recall: float = defaults.TARGET_RECALL,
    spark: bool | None = None,
    shown: int = defaults.MAX_SHOWN_GROUPS,
    overwrite: bool = False,
) -> AnalysisResult:
    """Find pairs of images within a distance: of this index, or of this one and another.

    The table has `a_id, b_id, a_path, b_path, distance`, nearest first, each pair once; `b` is of
    the other index. With `verify` it has `agreement` too.

    Parameters
    ----------
    out : str or Path
        The folder to write.
    other : Index, str or Path, optional
        Another index of the same model, whose images are the queries.
    within : float, optional
        Largest distance, 0 to 2. Without `within` and `k` it is estimated from the images.
    k : int, optional
        Only the `k` nearest of each image.
    cap : int
        Largest number of pairs of one image, its nearest. The figure `cut` is the number of
        images with more.
    verify : bool
        Compare the pixels of each pair too: `agreement` is from 0 to 1.
    engine : {"auto", "exact", "approximate", "spark-lsh"}
        As for `search`; `spark-lsh` is Spark ML's `approxSimilarityJoin`.
    recall : float
        Share of the true neighbours to find, over 0 and up to 1.
    spark : bool, optional
        True computes on Spark, False in this process; None decides by the number of images.
    shown : int
        Largest number of groups in the gallery `index.html`; 0 for no gallery.
    overwrite : bool
        Replace the result of an earlier analysis in `out`.

    Returns
    -------
    AnalysisResult
        The folder, its figures and its table.

    Raises
    ------
    LookalikeError
        If an option is wrong, or `out` exists and may not be replaced.

    Examples
    --------
    >>> found = index.pairs(folder / "pairs", k=1, spark=False, shown=0)
    >>> found.figures["pairs"] == len(found.to_pandas())
    True

    """
    table = index._table
    opened = EmbeddingTable.open(other) if isinstance(other, str | os.PathLike) else other
    other_table = opened if opened is None or isinstance(opened, EmbeddingTable) else opened._table
    check_engine(engine)
    if engine == "spark-lsh" and k is not None:
        raise LookalikeError("Spark ML joins within a distance: set `within` and leave `k` out")
    if engine == "approximate" and spark is False:
        raise LookalikeError('`engine="approximate"` needs Spark: leave `spark=False` out')
    if verify:
        check_pictures(table)
        require("comparing pixels", "cv2")
    queries = other_table or table
    check_same_model(table, queries)
    on_spark = spark or engine in ("approximate", "spark-lsh")
    result = open_result(table, out, "pairs", overwrite, shown, recall, on_spark, other_table)
    with result as (folder, figures):
        if within is None and k is None:
            within = threshold.suggest(table, verify).within
        figures |= pairs.join(
            table,
            folder,
            np.inf if within is None else within,
            cap if k is None else k,
            other_table,
            engine=engine,
            recall=recall,
            spark=spark,
        )
        if k is not None:
            figures["cut"] = 0  # k is the limit that was requested
        if verify:
            verify_pixels(folder / "pairs", table.source, queries.source, figures["spark"])
            figures["agreeing"] = count_agreeing(folder / "pairs")
            figures |= count_compared(folder / "pairs")
        if shown:
            reports.pairs(folder, table, queries, figures, shown)
    return AnalysisResult.open(out)


def find_duplicates(
    index: HasTable,
    out: Name,
    *,
    within: float | None = None,
    keep: Keep = "largest",
    verify: bool | None = None,
    agrees: float = defaults.MIN_AGREEMENT,
    cap: int = defaults.MAX_PAIRS_PER_IMAGE,
    recall: float = defaults.TARGET_RECALL,
    spark: bool | None = None,
    shown: int = defaults.MAX_SHOWN_GROUPS,
    overwrite: bool = False,
) -> AnalysisResult:
    """Find groups of duplicates, with one image of each group to keep.

    Every member is within the distance of the image to keep. With `verify`, its pixels also agree
    with those of that image after alignment, so it may be cropped, scaled, mirrored or compressed
    again. The table has `group`, `action` (keep or drop), `id, path, label, agreement, distance,
    same_bytes, width, height, size, kept_path`. `threshold.png` shows pairs near the threshold. The
    image files are not changed: `set_aside` does that.

    Parameters
    ----------
    out : str or Path
        The folder to write.
    within : float, optional
        Largest distance; by default it is estimated from the images.
    keep : {"largest", "oldest", "sharpest", "first"}
        The image of a group to keep; `first` in the order of paths.
    verify : bool
        Compare pixels too; by default where there are pictures.
    agrees : float
        Smallest agreement of pixels, 0 to 1.
    cap : int
        Largest number of pairs of one image, its nearest.
    recall, spark, shown, overwrite
        As for `pairs`.

    Returns
    -------
    AnalysisResult
        The folder, its figures and its table.

    Examples
    --------
    >>> found = index.duplicates(folder / "twice", within=0.1, spark=False, shown=0)
    >>> set(found.to_pandas()["action"]) <= {"keep", "drop"}
    True

    """
    table = index._table
    verify = table.has_pictures if verify is None else verify
    if verify or keep == "sharpest":
        check_pictures(table)
        require("finding duplicates", "cv2")
    with open_result(table, out, TABLE, overwrite, shown, recall, spark) as (folder, figures):
        figures |= duplicates(
            table,
            folder,
            within,
            keep=keep,
            verify=verify,
            agrees=agrees,
            cap=cap,
            recall=recall,
            spark=spark,
        )
        if shown:
            reports.duplicates(folder, table, figures, shown)
            limit = agrees if verify else None
            reports.threshold_sheet(folder, table, figures["within"], limit)
    return AnalysisResult.open(out)


def find_clusters(
    index: HasTable,
    out: Name,
    *,
    resolution: float = 1.0,
    least: int = 2,
    k: int = 15,
    recall: float = defaults.TARGET_RECALL,
    spark: bool | None = None,
    shown: int = defaults.MAX_SHOWN_GROUPS,
    overwrite: bool = False,
) -> AnalysisResult:
    """Find clusters of similar images, by Leiden's algorithm on the graph of neighbours.

    Such clusters do not chain dissimilar images as connected components do. The table has `cluster`
    (0 is the largest), `id, path, label, representative, weight`.

    Parameters
    ----------
    out : str or Path
        The folder to write.
    resolution : float
        Above 1 for more and smaller clusters, below 1 for fewer and larger ones.
    least : int
        Smallest number of images in a cluster.
    k : int
        Number of neighbours of each image in the graph.
    recall, spark, shown, overwrite
        As for `pairs`.

    Returns
    -------
    AnalysisResult
        The folder, its figures and its table.

    Examples
    --------
    >>> found = index.clusters(folder / "clusters", k=3, spark=False, shown=0)
    >>> len(found.to_pandas()) == found.figures["in_clusters"]
    True

    """
    clusters.check_options(resolution, least)
    require("finding clusters", "networkit")
    table = index._table
    with open_result(table, out, clusters.TABLE, overwrite, shown, recall, spark) as (
        folder,
        figures,
    ):
        with open_graph(table, folder, k, recall, spark) as graph:
            figures |= clusters.cluster(table, graph, folder, resolution=resolution, least=least)
        if shown:
            reports.clusters(folder, table, figures, shown)
    return AnalysisResult.open(out)


def find_outliers(
    index: HasTable,
    out: Name,
    *,
    k: int = 15,
    recall: float = defaults.TARGET_RECALL,
    spark: bool | None = None,
    shown: int = defaults.MAX_SHOWN_GROUPS,
    overwrite: bool = False,
) -> AnalysisResult:
    """Rank images by isolation, and find labels that may be wrong.

    The table has all images, the most isolated first: `rank, id, path, label`, `distance` to the
    k-th neighbour, local `density`, `score`. `suspects.parquet` has images whose neighbours have
    another label: `rank, id, path, label, suggested, score`.

    Parameters
    ----------
    out : str or Path
        The folder to write.
    k : int
        Number of neighbours of each image to consider.
    recall, spark, shown, overwrite
        As for `pairs`.

    Returns
    -------
    AnalysisResult
        The folder, its figures and its table.

    Examples
    --------
    >>> found = index.outliers(folder / "outliers", k=3, spark=False, shown=0)
    >>> len(found.to_pandas()) == len(index)
    True

    """
    table = index._table
    with open_result(table, out, outliers.TABLE, overwrite, shown, recall, spark) as (
        folder,
        figures,
    ):
        voters = max(k, _MIN_VOTERS)
        with open_graph(table, folder, voters, recall, spark) as graph:
            figures |= outliers.outliers(table, graph, folder, k)
            figures |= outliers.suspects(table, graph, folder, voters) | {"k": k}
        if shown:
            reports.outliers(folder, table, figures, shown)
    return AnalysisResult.open(out)


def make_gallery(
    index: HasTable,
    out: Name,
    *,
    k: int = 15,
    seed: int = 0,
    recall: float = defaults.TARGET_RECALL,
    spark: bool | None = None,
    shown: int = defaults.GALLERY_IMAGES,
    overwrite: bool = False,
) -> AnalysisResult:
    """Make a gallery that gives an overview of a collection.

    `index.html` shows the most typical images, random images with their nearest neighbours, the
    most isolated images, the nearest pairs, and labels that may be wrong. The folder needs no other
    files and can be sent as an archive. The table lists the images shown.

    Parameters
    ----------
    out : str or Path
        The folder to write.
    k : int
        Number of neighbours of each image to consider.
    seed : int
        Random seed for sampling.
    recall, spark, shown, overwrite
        As for `pairs`, except `shown`: number of images in each part.

    Returns
    -------
    AnalysisResult
        The folder, its figures and its table.

    Examples
    --------
    >>> found = index.gallery(folder / "gallery", k=3, spark=False, shown=2)
    >>> (found.folder / "index.html").is_file()
    True

    """
    table = index._table
    overview.check_count(shown)  # before computing the graph
    check_seed(seed)
    with open_result(table, out, overview.TABLE, overwrite, shown, recall, spark) as (
        folder,
        figures,
    ):
        voters = max(k, _MIN_VOTERS)
        with open_graph(table, folder, voters, recall, spark) as graph:
            figures |= outliers.outliers(table, graph, folder, k)
            figures |= outliers.suspects(table, graph, folder, voters)
            figures |= overview.overview(table, graph, folder, shown, k, seed)
        for name in (outliers.TABLE, outliers.SUSPECTS):  # tables of all images
            (folder / name).unlink()
        reports.gallery(folder, table, figures)
    return AnalysisResult.open(out)
