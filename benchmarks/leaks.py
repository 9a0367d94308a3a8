"""Leaks between two collections: how many of those planted a join finds. Prints one line of JSON.

    python benchmarks/leaks.py --images cars_train --others misc --json

One collection is the photos. The other is photos of other things, among which lie copies of some
of the first, each changed in one way of `lookalike.images.perturbations.CHANGES`. They are joined
at the distance that lookalike suggests, and pixels compared. `shown` counts pairs with
their pictures in the gallery.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

import lookalike
from lookalike.images.perturbations import CHANGES, variant
from lookalike.system.defaults import MIN_AGREEMENT
from measure import machine


def main() -> None:
    """Plant, join, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="a folder of photos")
    parser.add_argument("--others", type=Path, required=True, help="photos of other things")
    parser.add_argument("--leaks", type=int, default=300)
    parser.add_argument("--within", type=float, help="instead of the suggested distance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"machine": machine(), **measure(given, Path(folder))}))  # noqa: T201


def measure(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Return recall by kind of change, precision, and what it took."""
    photos = sorted(given.images.rglob("*.jpg"))
    second = work / "second"
    second.mkdir()
    for photo in sorted(given.others.rglob("*.*")):
        (second / photo.name).write_bytes(photo.read_bytes())
    planted = {}
    for number, photo in enumerate(random.Random(given.seed).sample(photos, given.leaks)):
        kind = list(CHANGES)[number % len(CHANGES)]
        name = f"leak-{number:04}.jpg"
        (second / name).write_bytes(variant(Image.open(photo), kind, number))
        planted[str(photo.relative_to(given.images)), name] = kind
    one = lookalike.create_index(
        given.images, out=work / "one.index", model="resnet18", precision="f32"
    )
    other = lookalike.create_index(
        second, out=work / "other.index", model="resnet18", precision="f32"
    )
    started = time.perf_counter()
    joined = one.pairs(
        work / "out", other, within=given.within, verify=True, shown=10 * given.leaks
    )
    seconds = time.perf_counter() - started
    table = joined.to_pandas()
    table = table[table.agreement >= MIN_AGREEMENT]
    found = set(zip(table.a_path, table.b_path, strict=True))
    recall = {
        kind: sum(pair in found for pair, own in planted.items() if own == kind)
        / sum(own == kind for own in planted.values())
        for kind in CHANGES
    }
    page = (work / "out" / "index.html").read_text()
    return {
        "images": [len(one), len(other)],
        "leaks": len(planted),
        "within": joined.figures["within"],
        "seconds": round(seconds, 1),
        "recall": round(len(found & planted.keys()) / len(planted), 4),
        "recall_by_change": {kind: round(share, 3) for kind, share in recall.items()},
        "others": sorted(found - planted.keys()),  # duplicates that the photos had already
        "shown": page.count("<section"),
    }


if __name__ == "__main__":
    main()
