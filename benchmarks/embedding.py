"""Images a second of lookalike, of what tutorials do, and of the bare engine. One line of JSON.

    python benchmarks/embedding.py --images cars_train --limit 4000 --repeat 3 --json

Every contestant lives in a process of its own, is warmed up on some images, and then takes its
turn on all of them, so that a busy minute of the machine hits all. These are

    tutorial  Pillow, torchvision's Resize, ToTensor and Normalize, one image a forward pass, eager
    batched   the same in batches of 32
    limit     the engine that lookalike uses, fed ready pixels from memory: what cannot be beaten
    spark     `lookalike index --spark` in its steady state, from listed files to written segments
    resnet18  the same with that network, which tutorials use, instead of the default one

the last three in each precision. A ratio is of the medians of images a second. What is paid once a
run (listing, starting Spark, choosing a precision) is left to startup.py and rivals/fastdup.py.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from lookalike import images, models
from lookalike.images.decoding import raster
from lookalike.system.arrays import Pixels
from lookalike.system.resources import cores
from measure import Contestant, answer, cpu_of_tree, machine, peak_of_tree

PRECISIONS = ("f32", "bf16", "int8")
BY_PRECISION = [f"{kind}_{p}" for kind in ("limit", "spark", "resnet18") for p in PRECISIONS]
CONTESTANTS = ("tutorial", "batched", *BY_PRECISION)
WARM_UP = 512  # images: a JVM compiles what it runs often, and does so for a while
BATCH = 32  # of the batched rival

Pass = Callable[[list[Path]], float]
"""Embeds photos and returns the seconds it took, where some of its time should not count."""


def main() -> None:
    """Run the benchmark, or one of its contestants."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=CONTESTANTS, choices=CONTESTANTS)
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    photos = sorted(given.images.rglob("*.jpg"))[: given.limit]
    if not photos:
        parser.error(f"no *.jpg below {given.images}")
    if given.contestant:
        take_turns(given.contestant, photos)
    else:
        print(json.dumps(compare(given.only, given.images, photos, given.repeat)))  # noqa: T201


def compare(names: list[str], folder: Path, photos: list[Path], repeat: int) -> dict[str, Any]:
    """Let all contestants take turns; return their figures and the ratios between them."""
    given = ["--images", str(folder), "--limit", str(len(photos))]
    command = [sys.executable, __file__, *given, "--contestant"]
    running = {name: Contestant([*command, name]) for name in names}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(repeat):
        for name, contestant in running.items():
            runs[name].append(turn(contestant))
    figures: dict[str, dict[str, Any]] = {
        name: {
            "images_per_s": round(len(photos) / median(runs[name], "seconds"), 1),
            "cpu_s_per_image": round(median(runs[name], "cpu_s") / len(photos), 4),
            "peak_mb": round(max(run["peak"] for run in runs[name]) / 2**20),
            "all_images_per_s": [round(len(photos) / run["seconds"], 1) for run in runs[name]],
        }
        for name in names
    }
    for contestant in running.values():
        contestant.dismiss()
    ratios = {
        f"{precision}_vs_{rival}": round(
            figures[f"spark_{precision}"]["images_per_s"] / figures[against]["images_per_s"], 3
        )
        for precision in PRECISIONS
        for rival, against in (
            ("tutorial", "tutorial"),
            ("limit", f"limit_{precision}"),
            ("resnet18", f"resnet18_{precision}"),
        )
        if {f"spark_{precision}", against} <= figures.keys()
    }
    return {"machine": machine(), "images": len(photos), **figures, "ratios": ratios}


def median(runs: list[dict[str, float]], key: str) -> float:
    """Return the median of one figure of several runs."""
    return statistics.median(run[key] for run in runs)


def turn(contestant: Contestant) -> dict[str, float]:
    """Let a contestant embed all photos: seconds, CPU seconds and peak memory in bytes."""
    pid = contestant.pid
    contestant.tell("get ready")
    before = cpu_of_tree(pid)
    seconds = float(contestant.tell("go"))
    return {"seconds": seconds, "cpu_s": cpu_of_tree(pid) - before, "peak": peak_of_tree(pid)}


def take_turns(name: str, photos: list[Path]) -> None:
    """Be a contestant: warm up, then embed all photos for every line read."""
    kind, _, precision = name.partition("_")
    embed = {
        "tutorial": lambda: eager(1),
        "batched": lambda: eager(BATCH),
        "limit": lambda: limit(precision, photos),
        "spark": lambda: spark(precision),
        "resnet18": lambda: spark(precision, "resnet18"),
    }[kind]()
    embed(photos[:WARM_UP])
    answer(0)
    for line in sys.stdin:
        # Spark ends Python workers that had nothing to do for a minute, as they have while others
        # take their turn, and a fresh one imports and compiles: so all is embedded twice.
        wanted = kind in ("spark", "resnet18") or line.strip() == "go"
        answer(embed(photos) if wanted else 0)


def eager(batch: int) -> Pass:
    """Return what tutorials do: Pillow, torchvision's transforms, eager PyTorch."""
    import torch
    from PIL import Image
    from torchvision import transforms

    from lookalike.models.networks import backbone

    torch.set_num_threads(cores())
    network = backbone()
    transform = transforms.Compose(
        [
            transforms.Resize((images.SIDE, images.SIDE)),
            transforms.ToTensor(),
            transforms.Normalize(raster.MEAN, raster.DEVIATION),
        ]
    )

    def embed(photos: list[Path]) -> float:
        started = time.perf_counter()
        with torch.no_grad():
            for at in range(0, len(photos), batch):
                some = [Image.open(photo).convert("RGB") for photo in photos[at : at + batch]]
                network(torch.stack([transform(one) for one in some])).numpy()
        return time.perf_counter() - started

    return embed


def limit(precision: str, photos: list[Path]) -> Pass:
    """Return the bare engine, all cores, with pixels at hand."""
    ready = decoded(photos)
    model = models.at_precision(models.resolve(), precision, lambda: ready[: models.SAMPLE_IMAGES])
    run = models.engine(model, cores(), streams=cores())

    def embed(some: list[Path]) -> float:
        batches = [ready[at : at + run.batch] for at in range(0, len(some), run.batch)]
        with ThreadPoolExecutor(cores()) as pool:
            started = time.perf_counter()
            list(pool.map(run, batches))
            return time.perf_counter() - started

    return embed


def decoded(photos: list[Path]) -> Pixels:
    """Decode photos: uint8 (n, 224, 224, 3)."""
    with ThreadPoolExecutor(cores()) as pool:
        return np.stack(list(pool.map(lambda p: images.decode_pixels(p.read_bytes())[0], photos)))


def spark(precision: str, model: str = "auto") -> Pass:
    """Return `lookalike index --spark`; its time is that from the first task to the last."""
    from lookalike.ingest import Options, build_index

    folder = Path(tempfile.mkdtemp())
    os.environ["LOOKALIKE_CACHE"] = str(folder / "cache")
    options = Options(model=model, precision=precision, spark=True)

    def embed(photos: list[Path]) -> float:
        report = build_index(photos, folder / "bench.index", options, overwrite=True)[1]
        return report.seconds

    return embed


if __name__ == "__main__":
    main()
