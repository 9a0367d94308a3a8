r"""How good a search is by label: lookalike's networks and fastdup's. Prints one line of JSON.

    python benchmarks/quality.py --set groceries=groceries --set trash=trash \
        --set cars=cars_train --labels cars=cardatasettrain.csv --exchanged cars --fastdup --json

A set is a folder of photos, in which the label of each is the name of its folder, or stands in a
CSV file. Of `--exchanged` ones red and blue are put right first. Every photo is searched among the
others of its set, by cosine: R@1 is how often the nearest one has its label, P@5 the share of the
five nearest that have. Contestants see the same files, and those that all of them can read count.

    default    what lookalike takes for photos of anything
    full       its network without the projection to fewer numbers
    resnet18   the network of the twelve steps, which has learned cars
    fastdup    the network that fastdup takes, in an environment of its own

Quality counts only on photos that a network has not learned from.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lookalike import images, models
from lookalike.errors import ImageError
from lookalike.images.decoding.raster import read_file
from lookalike.images.inputs.labels import open_labels
from lookalike.models import Engine
from lookalike.models.efficientnet_lite0_ir import lite0
from lookalike.models.embedder import normalize
from lookalike.models.lite0_package import NAME
from lookalike.models.runtimes import OpenVinoEngine
from lookalike.models.weights import FILES
from lookalike.system.arrays import Vectors
from lookalike.system.resources import cores
from measure import machine

sys.path.insert(0, str(Path(__file__).resolve().parent / "rivals"))

from environments import ENVIRONMENTS
from fastdup import FASTDUP, SILENT, environment_with_fastdup

PHOTOS = {".jpg", ".jpeg", ".png"}
BATCH = 16
BLOCK = 1024  # queries at a time
NEIGHBORS = 5
QUALITY = 95  # of JPEGs whose colours were put right
RUN_FASTDUP = """
import sys
import fastdup
import numpy
photos, work, out = sys.argv[1:]
fastdup.create(input_dir=photos, work_dir=work).run(verbose=False)
names, features = fastdup.load_binary_feature(work + "/atrain_features.dat")
numpy.savez(out, names=names, features=features)
"""

Photo = tuple[Path, str]  # and its label
Found = dict[int, npt.NDArray[np.float32]]  # vectors by the number of the photo


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--labels", action="append", default=[], metavar="NAME=CSV")
    parser.add_argument("--exchanged", action="append", default=[], metavar="NAME")
    parser.add_argument("--precision", default="f32", choices=("f32", "bf16"))
    parser.add_argument("--fastdup", action="store_true", help="let it take part")
    parser.add_argument("--venv", type=Path, default=ENVIRONMENTS / "fastdup", help="of fastdup")
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    tables = {name: Path(table) for name, table in map(parted, given.labels)}
    python = environment_with_fastdup(given.venv) if given.fastdup else None
    engines = contestants(given.precision)
    sets = {}
    for name, folder in map(parted, given.set):
        photos = labelled(Path(folder), tables.get(name))
        with tempfile.TemporaryDirectory() as work:
            files = laid(photos, Path(work, "photos"), name in given.exchanged)
            found = {who: embedded(engine, files) for who, engine in engines.items()}
            if python:
                found["fastdup"] = by_fastdup(python, Path(work))
        sets[name] = figures([label for _, label in photos], found)
        tell(f"{name}: {json.dumps(sets[name])}")
    about = {"machine": machine(), "precision": given.precision}
    if python:
        about["fastdup"] = FASTDUP
    print(json.dumps({**about, "sets": sets}))  # noqa: T201


def parted(given: str) -> tuple[str, str]:
    """Part NAME=VALUE."""
    name, equals, value = given.partition("=")
    if not equals:
        raise SystemExit(f"{given!r} has no name: say NAME={given}")
    return name, value


def contestants(precision: str) -> dict[str, Engine]:
    """Return the engines of lookalike's networks."""
    chosen = {"default": (NAME, "general"), "resnet18": ("resnet18", "cars")}
    engines: dict[str, Engine] = {
        name: models.engine(
            models.at_precision(models.resolve(*network), precision), cores(), cores()
        )
        for name, network in chosen.items()
    }
    engines["full"] = OpenVinoEngine(
        *lite0(FILES["general"], projected=False), precision, cores(), cores()
    )
    return engines


def labelled(folder: Path, table: Path | None) -> list[Photo]:
    """Return the photos of a folder, with the label that a table or their folder gives them."""
    photos = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PHOTOS)
    if not photos:
        raise SystemExit(f"no photos below {folder}")
    if table is None:
        return [(photo, photo.parent.name) for photo in photos]
    rows = (row for batch in open_labels(table) for row in batch.to_pylist())
    known = {row["name"]: row["label"] for row in rows}
    return [(photo, known[photo.name]) for photo in photos if photo.name in known]


def laid(photos: list[Photo], folder: Path, exchanged: bool) -> list[Path]:
    """Make a folder of links to photos, or of photos put right; their names are numbers."""
    folder.mkdir()
    files = [
        folder / f"{number:07}{photo.suffix.lower()}" for number, (photo, _) in enumerate(photos)
    ]
    for file, (photo, _) in zip(files, photos, strict=True):
        if not exchanged:
            file.symlink_to(photo.resolve())
            continue
        with suppress(ImageError):  # it takes no part then
            right = np.asarray(images.decode(photo.read_bytes()))[..., ::-1]
            Image.fromarray(right).save(file, quality=QUALITY)
    return files


def embedded(run: Engine, files: list[Path]) -> Found:
    """Embed files as lookalike does, without those that it cannot read."""

    def decoded() -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        for number, file in enumerate(files):
            with suppress(ImageError):
                yield number, images.decode_pixels(read_file(file))[0]

    def batches() -> Iterator[list[tuple[int, npt.NDArray[np.uint8]]]]:
        batch = []
        for one in decoded():
            batch.append(one)
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    found: Found = {}
    with ThreadPoolExecutor(1) as pool:  # decodes one batch while the network has the other
        coming = batches()
        waiting = pool.submit(next, coming, None)
        while batch := waiting.result():
            waiting = pool.submit(next, coming, None)
            vectors = run(np.stack([pixels for _, pixels in batch]))
            found |= dict(zip((number for number, _ in batch), vectors, strict=True))
    return found


def by_fastdup(python: Path, work: Path) -> Found:
    """Embed the photos laid in a work folder by fastdup, with nothing but its defaults."""
    out = work / "features.npz"
    command = [str(python), "-I", "-c", RUN_FASTDUP, str(work / "photos"), str(work / "run")]
    done = subprocess.run(
        [*command, str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**SILENT, "HOME": str(work)},
    )
    if done.returncode or not out.exists():
        raise SystemExit(f"fastdup failed: {done.stderr[-2000:]}")
    with np.load(out) as kept:
        names, features = kept["names"].tolist(), kept["features"]
    return {int(Path(name).stem): one for name, one in zip(names, features, strict=True)}


def figures(labels: list[str], found: dict[str, Found]) -> dict[str, Any]:
    """Return R@1 and P@5 of each contestant over the photos that all have embedded."""
    common = sorted(set.intersection(*(set(vectors) for vectors in found.values())))
    if len(common) <= NEIGHBORS:
        raise SystemExit(f"only {len(common)} photos were read by all")
    named = np.unique([labels[number] for number in common], return_inverse=True)[1]
    about = {"photos": len(common), "left_out": len(labels) - len(common)}
    each = {
        who: {"numbers": len(vectors[common[0]]), **by_label(stacked(vectors, common), named)}
        for who, vectors in found.items()
    }
    return {**about, "labels": int(named.max()) + 1, **each}


def stacked(vectors: Found, numbers: list[int]) -> Vectors:
    """Return the vectors of some photos, of length 1: float32 (n, width)."""
    return normalize(np.stack([vectors[number] for number in numbers]))


def by_label(vectors: Vectors, labels: npt.NDArray[np.intp]) -> dict[str, float]:
    """Return R@1 and P@5 of vectors (n, width) of length 1, each searched among the others."""
    right = []
    for at in range(0, len(vectors), BLOCK):
        nearness = vectors[at : at + BLOCK] @ vectors.T
        rows = np.arange(len(nearness))
        nearness[rows, at + rows] = -np.inf
        near = np.argsort(-nearness, axis=1, kind="stable")[:, :NEIGHBORS]
        right.append(labels[near] == labels[at : at + BLOCK, None])
    same = np.concatenate(right)
    return {"r_at_1": round(float(same[:, 0].mean()), 4), "p_at_5": round(float(same.mean()), 4)}


def tell(line: str) -> None:
    """Say how far it is, beside the result."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
