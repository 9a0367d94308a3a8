"""How near every engine and precision comes to PyTorch in full precision. One line of JSON.

    python benchmarks/fidelity.py --images cars_train --labels cardatasettrain.csv --json
    python benchmarks/fidelity.py --images photos --model resnet18 --json

The reference is Pillow's resize, as `lookalike.images.transform()` has it, and PyTorch in f32.
Compared are the vectors (cosine), the five nearest neighbours of every image among all others (the
share in common) and, with labels, how often the nearest one has the same label (R@1). Quality
counts only on photos that the weights were not trained on.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lookalike import images, models
from lookalike.images.inputs.labels import open_labels
from lookalike.models.embedder import normalize
from lookalike.models.runtimes import TorchEngine
from lookalike.models.weights import DEFAULT
from lookalike.system.arrays import Pixels, Vectors
from measure import machine

BATCH = 32


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    photos = sorted(given.images.rglob("*.jpg"))[: given.limit]
    labels = labels_of(photos, given.labels) if given.labels else None
    print(json.dumps(run(photos, labels, given.model)))  # noqa: T201


def run(photos: list[Path], labels: list[str] | None, model: str) -> dict[str, Any]:
    """Embed the photos in every way, and compare each with the reference."""
    exact = np.stack([images.resize(images.decode(photo.read_bytes())) for photo in photos])
    quick = np.stack([images.decode_pixels(photo.read_bytes())[0] for photo in photos])
    # As lookalike draws it: evenly, from the very images.
    drawn = np.random.default_rng(0).choice(
        len(quick), min(models.SAMPLE_IMAGES, len(quick)), False
    )
    full = models.resolve(model, device="cuda")  # which carries the tensors for PyTorch too
    reference = eager(exact, model)
    ways: dict[str, Callable[[], Vectors]] = {
        "decode_alone": lambda: embedded(TorchEngine(full, "cpu", 0), quick),
        "engine_alone": lambda: embedded(models.engine(full), exact),
        **{
            f"openvino_{precision}": lambda precision=precision: embedded(  # type: ignore[misc]
                models.engine(models.at_precision(full, precision, lambda: quick[np.sort(drawn)])),
                quick,
            )
            for precision in ("f32", "bf16", "int8")
        },
        "pytorch_bf16": lambda: embedded(
            TorchEngine(models.at_precision(full, "bf16"), "cpu", 0), quick
        ),
    }
    return {
        "machine": machine(),
        "model": model,
        "images": len(photos),
        "reference": figures(reference, reference, labels),
        **{name: figures(way(), reference, labels) for name, way in ways.items()},
    }


def figures(vectors: Vectors, reference: Vectors, labels: list[str] | None) -> dict[str, float]:
    """Compare vectors, float32 (n, width) of length 1, with the reference."""
    cosine = (vectors.astype(np.float64) * reference).sum(axis=1)
    found = {
        "cosine_mean": round(float(cosine.mean()), 6),
        "cosine_min": round(float(cosine.min()), 4),
        "overlap_5": round(models.overlap(vectors, reference), 4),
    }
    if labels is not None:
        nearness = vectors @ vectors.T
        np.fill_diagonal(nearness, -1)
        named = np.array(labels)
        found["r_at_1"] = round(float((named[nearness.argmax(axis=1)] == named).mean()), 4)
    return found


def eager(pixels: Pixels, model: str) -> Vectors:
    """Embed pixels, uint8 (n, 224, 224, 3), by the network in eager PyTorch, in f32."""
    import torch

    from lookalike.models.networks import FromPixels, backbone

    network = FromPixels(backbone(model), model).eval()
    with torch.no_grad():
        parts = [
            network(torch.from_numpy(pixels[at : at + BATCH])).numpy()
            for at in range(0, len(pixels), BATCH)
        ]
    return normalize(np.concatenate(parts))


def embedded(run: models.Engine, pixels: Pixels) -> Vectors:
    """Embed pixels, uint8 (n, 224, 224, 3), with an engine."""
    parts = [run(pixels[at : at + run.batch]) for at in range(0, len(pixels), run.batch)]
    return normalize(np.concatenate(parts))


def labels_of(photos: list[Path], csv: Path) -> list[str]:
    """Return the label of every photo, by its name."""
    known = {row["name"]: row["label"] for batch in open_labels(csv) for row in batch.to_pylist()}
    return [known[photo.name] for photo in photos]


if __name__ == "__main__":
    main()
