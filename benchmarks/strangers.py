"""Planted strangers and label errors found again, clusters beside labels. One line of JSON.

    python benchmarks/strangers.py --images cars_train --labels cardatasettrain.csv \
        --strangers misc --json

Strangers: so many of other photos among all images, drawn anew for each seed; average precision of
the order of `outliers`. Label errors: 5 % of the labels, each become another at random; precision
among the 5 % most suspect. Clusters: of the images alone; adjusted mutual information with the
labels, homogeneity (Rosenberg and Hirschberg, 2007), and the share of pairs in a cluster that have
the same label, beside connected components at the distance that does best. Quality counts only on
photos that the weights were not trained on.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.analysis.clusters import cluster
from lookalike.analysis.outliers import outliers, suspects
from lookalike.ingest import Options, build_index
from lookalike.search.knn.graph import write_graph
from lookalike.storage import EmbeddingTable, write_segment
from lookalike.storage.schema import ROW
from lookalike.storage.segments import read_rows
from measure import machine

ERRORS = 0.05  # of the labels
K = {"clusters": 15, "outliers": 15, "suspects": 20}
CUTS = 40  # distances, at which components are looked at
Ints = npt.NDArray[np.int64]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--strangers", type=Path, required=True, help="a folder of other photos")
    parser.add_argument("--planted", type=int, nargs="+", default=[5, 20, 50, 100])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--resolution", type=float, nargs="+", default=[0.5, 1, 2])
    parser.add_argument("--work", type=Path, help="where indexes are written")
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        print(json.dumps(run(given, Path(folder))))  # noqa: T201


def run(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Index both kinds of photos once, and measure on tables of their rows."""
    options = Options(labels=given.labels, model="resnet18", precision="f32", spark=False)
    own = build_index(given.images, work / "own", options)[0]
    others = build_index(
        given.strangers, work / "others", Options(model="resnet18", precision="f32")
    )[0]
    rows, strange = (
        pa.concat_tables(
            [read_rows(file, ROW.names, filters=[("status", "=", "ok")]) for file in one.files()]
        )
        for one in (own, others)
    )
    return {
        "machine": machine(),
        "images": len(rows),
        "labels": len(rows["label"].unique()),
        "k": K,
        "strangers_average_precision": {
            count: [found_strangers(own, rows, strange, count, seed, work)
                    for seed in range(given.seeds)]
            for count in given.planted
        },
        "errors_precision": [found_errors(own, rows, seed, work) for seed in range(given.seeds)],
        "clusters": clustered(own, rows, given.resolution, work),
    }  # fmt: skip


def made(
    like: EmbeddingTable, rows: pa.Table, work: Path, k: int
) -> tuple[EmbeddingTable, Path, Path]:
    """Write rows as an index of their own, numbered from 0, its graph, and an empty folder."""
    folder = Path(tempfile.mkdtemp(dir=work))
    (folder / "index" / "data").mkdir(parents=True)
    (folder / "out").mkdir()
    rows = rows.set_column(0, "id", pa.array(np.arange(len(rows)))).cast(ROW)
    written = write_segment(iter(rows.to_batches(1024)), folder / "index" / "data")
    segments = [one for batch in written for one in batch.to_pylist()]
    index = EmbeddingTable.create(folder / "index", like.source, like.model, segments)
    write_graph(index, folder / "graph", k, spark=False)
    return index, folder / "graph", folder / "out"


def found_strangers(
    like: EmbeddingTable, rows: pa.Table, strange: pa.Table, count: int, seed: int, work: Path
) -> dict[str, float]:
    """Plant some strangers; return the average precision of what `outliers` says.

    Beside its score that of the distance to the k-th neighbour alone.
    """
    drawn = np.random.default_rng(seed).choice(len(strange), count, replace=False)
    table = pa.concat_tables([rows, strange.take(drawn)])
    index, graph, out = made(like, table, work, K["outliers"])
    outliers(index, graph, out, K["outliers"])
    table = pq.read_table(out / "outliers.parquet", columns=["id", "score", "distance"])
    is_strange = table["id"].to_numpy() >= len(rows)
    told = {}
    for name in ("score", "distance"):
        order = np.argsort(-table[name].to_numpy(), kind="stable")
        places = np.flatnonzero(is_strange[order])
        told[name] = round(float((np.arange(1, count + 1) / (places + 1)).mean()), 4)
    return told


def found_errors(like: EmbeddingTable, rows: pa.Table, seed: int, work: Path) -> float:
    """Plant label errors; return the share of them among as many that `suspects` names first."""
    rng = np.random.default_rng(seed)
    labels = np.array(rows["label"].to_pylist())
    names, classes = np.unique(labels, return_inverse=True)
    wrong = rng.choice(len(labels), round(ERRORS * len(labels)), replace=False)
    shift = rng.integers(1, len(names), len(wrong))
    labels[wrong] = names[(classes[wrong] + shift) % len(names)]
    table = rows.set_column(rows.schema.get_field_index("label"), "label", pa.array(labels))
    index, graph, out = made(like, table, work, K["suspects"])
    suspects(index, graph, out, K["suspects"])
    ids = pq.read_table(out / "suspects.parquet", columns=["id"])["id"].to_numpy()
    return round(float(np.isin(ids[: len(wrong)], wrong).mean()), 4)


def clustered(
    like: EmbeddingTable, rows: pa.Table, resolutions: list[float], work: Path
) -> dict[str, Any]:
    """Return how clusters agree with labels, at some resolutions, beside connected components."""
    from scipy import sparse

    index, graph, out = made(like, rows, work, K["clusters"])
    labels = np.unique(rows["label"].to_pylist(), return_inverse=True)[1]
    told: dict[str, Any] = {}
    for resolution in resolutions:
        started = time.perf_counter()
        figures = cluster(index, graph, out, resolution=resolution)
        seconds = round(time.perf_counter() - started, 2)
        table = pq.read_table(out / "clusters.parquet", columns=["id", "cluster"])
        named = -1 - np.arange(len(rows))  # each alone
        named[table["id"].to_numpy()] = table["cluster"].to_numpy()
        told[f"resolution_{resolution:g}"] = {
            **figures, **agreement(labels, named), "seconds": seconds
        }  # fmt: skip
    pairs = pq.read_table(graph)
    ends = np.stack([pairs["query_id"].to_numpy(), pairs["neighbor_id"].to_numpy()])
    distances = pairs["distance"].to_numpy()
    cuts = []
    for cut in np.quantile(distances, np.arange(1, CUTS) / CUTS):
        near = ends[:, distances < cut]
        links = sparse.coo_array((np.ones(near.shape[1]), tuple(near)), (len(rows), len(rows)))
        named = sparse.csgraph.connected_components(links, directed=False)[1]
        cuts.append({"below": round(float(cut), 3), **agreement(labels, named)})
    return {**told, "components": max(cuts, key=lambda one: float(one["ami"]))}


def agreement(labels: Ints, named: Ints) -> dict[str, float]:
    """Compare clusters with labels, both (n,)."""
    from sklearn.metrics import adjusted_mutual_info_score, homogeneity_score

    _, named, sizes = np.unique(named, return_inverse=True, return_counts=True)
    both = np.unique(np.stack([named, labels]), axis=1, return_counts=True)[1]
    inside = (sizes * (sizes - 1)).sum()
    return {
        "ami": round(float(adjusted_mutual_info_score(labels, named)), 4),
        "homogeneity": round(float(homogeneity_score(labels, named)), 4),
        "pairs_alike": round(float((both * (both - 1)).sum() / max(inside, 1)), 4),
        "largest": int(sizes.max()),
        "alone": int((sizes == 1).sum()),
    }


if __name__ == "__main__":
    main()
