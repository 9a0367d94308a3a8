"""A collection laid out in two dimensions: what it costs, what it keeps. One line of JSON.

    python benchmarks/vectors.py --images cars_train more --crops 101000 --out crops.npy
    python benchmarks/layout.py --vectors crops.npy --rows 50000 --json
    python benchmarks/layout.py --index cars.index --set TSNE_NEIGHBORS=30 --json

Each contestant lives in a process of its own. Of drawn images: which share of the 10 nearest in all
dimensions is among the 10 and the 30 nearest on the map, and, where there are labels, which share
of the 10 nearest on the map, and in all dimensions, has the image's own label.

    tsne       as `lookalike.analysis.map` does it; `--set` changes one of its constants
    pca        the two leading directions
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from lookalike.analysis.map import Layout, lay_out, tsne
from lookalike.analysis.map import tsne as placing
from lookalike.search.rows import Rows, draw
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Numbers
from lookalike.system.resources import cores
from measure import Contestant, answer, machine, peak_of_tree
from stored import collection_of

CONTESTANTS = ("tsne", "pca")
SAMPLE = 5000  # images whose neighbours are looked at
NEAREST = (10, 30)  # on the map


def main() -> None:
    """Run the benchmark, or one of its contestants."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given_by = parser.add_mutually_exclusive_group(required=True)
    given_by.add_argument("--vectors", type=Path, help="float32 (n, width), .npy")
    given_by.add_argument("--index", type=Path, help="an index, read only")
    parser.add_argument("--rows", type=int, help="how many of the vectors")
    parser.add_argument("--set", nargs="+", default=[], help="NAME=VALUE, the value in JSON")
    parser.add_argument("--only", nargs="+", default=CONTESTANTS, choices=CONTESTANTS)
    parser.add_argument("--work", type=Path, help="where an index of the vectors is written")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    if given.contestant:
        compete(given)
        return
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        os.environ["OMP_WAIT_POLICY"] = "passive"  # as `analysis.map.Job` has it
        path = given.index
        if path is None:
            os.environ["LOOKALIKE_CACHE"] = str(Path(folder) / "cache")
            path = Path(folder) / "index"
            collection_of(np.load(given.vectors, mmap_mode="r")[: given.rows], path)
        rows = Rows(EmbeddingTable.open(path).segments)
        out = Path(folder) / "points.npz"
        told = {}
        for name in given.only:
            command = [sys.executable, __file__, "--index", str(path), "--contestant", name]
            command += ["--set", *given.set] if given.set else []
            contestant = Contestant(command)
            seconds = float(contestant.tell(str(out)))
            peak = round(peak_of_tree(contestant.pid) / 2**20)
            contestant.dismiss()
            stored = np.load(out)
            told[name] = {"seconds": seconds, "peak_mb": peak}
            told[name] |= quality(rows, Layout(stored["ids"], stored["points"]))
    about = {"images": len(rows), "set": given.set, "labels_in_all_dimensions": truth(rows)[1]}
    print(json.dumps({"machine": machine(), **about, **told}))  # noqa: T201


def compete(given: argparse.Namespace) -> None:
    """Lay out, and say how long it took, for every file that is named."""
    for change in given.set:
        name, _, value = change.partition("=")
        getattr(placing, name)
        setattr(placing, name, json.loads(value))
    rows = Rows(EmbeddingTable.open(given.index).segments)
    faiss.omp_set_num_threads(cores())
    if given.contestant == "pca":
        tsne.MAX_FLAT_IMAGES = len(rows)
    answer("ready")
    for line in sys.stdin:
        started = time.perf_counter()
        layout = lay_out(rows, lambda *_: None)
        seconds = time.perf_counter() - started
        np.savez(line.strip(), ids=layout.ids, points=layout.points)
        answer(round(seconds, 1))


def truth(rows: Rows) -> tuple[Numbers, float | None]:
    """Return the 10 nearest laid-out rows of drawn ones, and how many have their labels."""
    some = tsne.draw_images(rows.ids)
    sample = draw(len(some), SAMPLE)
    near = nearest(rows.vectors(some), sample, 10)
    return near, of_own_label(rows, some, sample, near)


def quality(rows: Rows, layout: Layout) -> dict[str, Any]:
    """Return what a layout keeps of the neighbours."""
    some = tsne.draw_images(rows.ids)
    sample = draw(len(some), SAMPLE)
    true = truth(rows)[0]
    near = nearest(layout.points, sample, max(NEAREST))
    kept = {
        f"nearest_10_in_{count}": round(
            float((true[:, :, None] == near[:, None, :count]).any(axis=2).mean()), 3
        )
        for count in NEAREST
    }
    return {**kept, "own_label": of_own_label(rows, some, sample, near[:, :10])}


def nearest(vectors: Any, sample: Numbers, count: int) -> Numbers:
    """Return the nearest others of drawn vectors, (n, count)."""
    found = faiss.knn(vectors[sample], vectors, count + 1)[1]
    own = found == sample[:, None]
    own[~own.any(axis=1), -1] = True
    others: Numbers = found[~own].reshape(-1, count)
    return others


def of_own_label(rows: Rows, some: Numbers, sample: Numbers, near: Numbers) -> float | None:
    """Return which share of neighbours has the label of whose neighbours they are."""
    labels = rows.labels.take(some).to_pylist()
    if not any(labels):
        return None
    numbers = np.unique([label or "" for label in labels], return_inverse=True)[1]
    return round(float((numbers[near] == numbers[sample][:, None]).mean()), 3)


if __name__ == "__main__":
    main()
