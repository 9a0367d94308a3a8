r"""How well the bands of distance keep their promise. Prints one line of JSON.

    python benchmarks/bands.py --drawn 400 --planted misc=misc --planted cars=cars_train \
        --exchanged cars --set caltech101=caltech101 --set groceries=groceries --set trash=trash

**Planted copies** (`planted.py`): an index of photos and of changed copies of a share of them. All
pairs within the limit of "same photo" are compared with the truth: `precision`; `recall` of the
copies to their originals, all changes together; `recall_by_kind` of each change, and of pairs of
two copies of one photo. `--drawn` plants among drawn cars.

**Labelled sets**: a folder of photos, in which the label of each is the name of its folder. Each
photo is searched among the others of its set: the share of the ten nearest with its label, by band.
At most `--photos` photos of a set are drawn.

Quality counts only on photos that a network has not learned from.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import lookalike
from lookalike import Index
from lookalike.images.synthetic import draw_collection
from lookalike.search.bands.names import BANDS
from lookalike.system.arrays import Vectors
from measure import machine
from planted import BOTH, KINDS, plant
from quality import labelled, laid, parted, tell

NEIGHBORS = 10
BLOCK = 512  # queries at a time
SHARE = 0.4  # of the photos that have planted copies


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--planted", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--drawn", type=int, default=0, help="drawn cars to plant copies among")
    parser.add_argument("--exchanged", action="append", default=[], metavar="NAME")
    parser.add_argument("--photos", type=int, default=1500, help="of a set, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="auto")
    given = parser.parse_args()
    planted, sets = {}, {}
    with tempfile.TemporaryDirectory() as work:
        if given.drawn:
            photos = draw_collection(Path(work, "drawn"), images=given.drawn, held_out=0).photos
            planted["drawn"] = of_copies(sorted(photos.iterdir()), given)
            tell(f"drawn: {json.dumps(planted['drawn'])}")
    for name, folder in map(parted, given.planted):
        with chosen(name, folder, given) as (files, _):
            planted[name] = of_copies(files, given)
        tell(f"{name}: {json.dumps(planted[name])}")
    for name, folder in map(parted, given.set):
        with chosen(name, folder, given) as (files, labels):
            sets[name] = of_labels(files, labels, given)
        tell(f"{name}: {json.dumps(sets[name])}")
    about = {"machine": machine(), "model": given.model, "neighbors": NEIGHBORS, "seed": given.seed}
    print(json.dumps({**about, "planted": planted, "labelled": sets}))  # noqa: T201


@contextmanager
def chosen(name: str, folder: str, given: Any) -> Iterator[tuple[list[Path], list[str]]]:
    """Lay drawn photos of a set into a folder of their own; give its files and their labels."""
    photos = labelled(Path(folder), None)
    some = sorted(random.Random(given.seed).sample(photos, min(given.photos, len(photos))))
    with tempfile.TemporaryDirectory() as work:
        files = laid(some, Path(work, "photos"), name in given.exchanged)
        if len({photo.name for photo, _ in some}) == len(some):  # `planted.SAME` needs the names
            each = zip(files, some, strict=True)
            files = [file.rename(file.with_name(photo.name)) for file, (photo, _) in each]
        yield files, [label for _, label in some]


@contextmanager
def indexed(folder: Path, model: str) -> Iterator[tuple[Index, list[str], Vectors]]:
    """Index a folder; give the index, the names of its rows, and their vectors."""
    with tempfile.TemporaryDirectory() as work:
        index = lookalike.create_index(folder, Path(work, "x.index"), model=model, spark=False)
        rows = index._searcher.rows
        vectors = rows.vectors(np.arange(len(rows)))
        yield index, rows.paths.to_pylist(), vectors


def of_copies(photos: list[Path], given: Any) -> dict[str, Any]:
    """Plant copies among photos, and judge all pairs of "same photo"."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work, "planted")
        files = plant(photos, folder, given.seed, SHARE)
        with indexed(folder, given.model) as (index, names, vectors):
            bands = index.bands
            if bands.limits is None:
                raise SystemExit(f"no bands: {bands.reason}")
            about = files.set_index("name").loc[names].reset_index()
            pairs = pairs_within(vectors, bands.limits[0], about)
    known = all_pairs(files)
    right = pairs[pairs.base_a == pairs.base_b]
    counted = pairs[(pairs.base_a == pairs.base_b) | (pairs.picture_a != pairs.picture_b)]
    found, wanted = kinds(right).value_counts(), kinds(known).value_counts()
    same = [kind for kind in KINDS if kind in wanted]
    return {
        "photos": len(photos),
        "files": len(files),
        **bands.to_dict(),
        "pairs": len(counted),
        "precision": round(len(right) / max(len(counted), 1), 4),
        "recall": share(sum(found.get(k, 0) for k in same), sum(wanted[k] for k in same)),
        "recall_by_kind": {
            str(kind): share(found.get(kind, 0), count) for kind, count in wanted.items()
        },
        "copies": int(sum(wanted[k] for k in same)),
    }


def share(part: int, whole: int) -> float:
    """Return a share with four digits."""
    return round(float(part) / max(int(whole), 1), 4)


def all_pairs(files: "pd.DataFrame") -> Any:
    """Return all true pairs, also those across the halves that `planted` makes."""
    pairs = files.merge(files, on="base", suffixes=("_a", "_b"))
    return pairs[pairs.name_a < pairs.name_b]


def kinds(pairs: Any) -> Any:
    """Return the kind of each pair: that of its copy, or `BOTH`."""
    either = pairs.kind_a + pairs.kind_b
    return either.where((pairs.kind_a == "") | (pairs.kind_b == ""), BOTH)


def pairs_within(vectors: Vectors, limit: float, about: "pd.DataFrame") -> "pd.DataFrame":
    """Return what is known of both files of each pair within a distance."""
    ends = []
    for at in range(0, len(vectors), BLOCK):
        far = distances(vectors[at : at + BLOCK], vectors)
        one, other = np.nonzero(far <= limit)
        one = one + at
        ends.append(np.stack([one[one < other], other[one < other]]))
    first, second = np.concatenate(ends, axis=1)
    left: pd.DataFrame = about.iloc[first].add_suffix("_a").reset_index(drop=True)
    right: pd.DataFrame = about.iloc[second].add_suffix("_b").reset_index(drop=True)
    return pd.concat([left, right], axis=1)


def distances(queries: Vectors, vectors: Vectors) -> Vectors:
    """Return Euclidean distances: float32 (q, n)."""
    nearness = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    squares = (queries.astype(np.float64) ** 2).sum(axis=1)[:, None]
    others = (vectors.astype(np.float64) ** 2).sum(axis=1)[None]
    far: Vectors = np.sqrt(np.maximum(squares + others - 2 * nearness, 0)).astype(np.float32)
    return far


def of_labels(photos: list[Path], labels: list[str], given: Any) -> dict[str, Any]:
    """Return the share of right labels among the nearest photos, by band."""
    label_of = dict(zip((photo.name for photo in photos), labels, strict=True))
    with indexed(photos[0].parent, given.model) as (index, names, vectors):
        bands = index.bands
    own = np.array([label_of[Path(name).name] for name in names])
    right: dict[str, list[bool]] = {band: [] for band in BANDS}
    for at in range(0, len(vectors), BLOCK):
        far = distances(vectors[at : at + BLOCK], vectors)
        rows = np.arange(len(far))
        far[rows, at + rows] = np.inf
        near = np.argsort(far, axis=1, kind="stable")[:, :NEIGHBORS]
        same = own[near] == own[at + rows][:, None]
        each = bands.names(np.take_along_axis(far, near, axis=1).ravel().tolist())
        for band, is_right in zip(each, same.ravel().tolist(), strict=True):
            right[str(band)].append(is_right)
    return {
        "photos": len(names),
        "labels": len(set(own.tolist())),
        **bands.to_dict(),
        "right": {band: share(sum(one), len(one)) if one else None for band, one in right.items()},
        "neighbors": {band: len(one) for band, one in right.items()},
    }


if __name__ == "__main__":
    main()
