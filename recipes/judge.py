"""Judge weights by photos that they have not learned from, as they are and with other colours.

    python recipes/judge.py unseen --labels unseen.csv [--weights FILE] [--model NAME]

prints R@1, P@5 and mAP@R, as `lookalike evaluate` does; then those of the same photos with red and
blue exchanged, which Stanford Cars as we have them already are: nobody should have to care. Last
comes whether colours are told apart, see `hues`.
"""

import argparse
import contextlib
import json
import math
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import lookalike
from lookalike import ImageEmbedder, LookalikeError
from lookalike.cli.output import last_words, printable
from lookalike.errors import ImageError
from lookalike.images import (
    SIDE,
    Source,
    decode,
    decode_path,
    decode_pixels,
    has_images,
    locate,
    no_images_error,
    read,
    walk,
)
from lookalike.images.inputs.labels import open_labels
from lookalike.models.training.augmentation import Variety, draw, turns
from lookalike.search import evaluation

HUES = 6
PHOTOS = 200


def judge(
    photos: Path, labels: Path, weights: str = "auto", model: str = "resnet18"
) -> dict[str, dict[str, Any]]:
    """Return the figures of a folder of labelled photos, each searched among the others.

    Raises `LookalikeError` where photos, labels or weights are not to be had.
    """
    source = check(photos, labels)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        exchanged = work / "exchanged"
        exchanged.mkdir()
        for found in walk(source):
            with contextlib.suppress(ImageError):  # indexing counts it
                red, green, blue = decode(read(source, found.path)).split()
                file = exchanged / decode_path(found.path)
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.merge("RGB", (blue, green, red)).save(file, "JPEG", quality=95)
        figures = {}
        for kind, folder in {"as they are": photos, "exchanged": exchanged}.items():
            index = lookalike.create_index(
                folder,
                work / f"{kind}.index",
                labels=labels,
                model=model,
                weights=weights,
                precision="f32",
                spark=False,
            )
            figures[kind] = evaluation.by_label(index._searcher.rows, len(index))
    figures["hues"] = hues(photos, ImageEmbedder(model, weights, precision="f32"))
    return figures


def hues(photos: Path, embed: ImageEmbedder) -> dict[str, Any]:
    """Return how often a part of a photo, its hues turned, is found by its colours.

    Two parts are taken of some photos, each in `HUES` hues. A part in one of them is searched among
    those that the other part has: it should find its own. Guessing, a sixth do.
    """
    source = locate(photos)
    paths = [found.path for found in walk(source)]
    step = max(math.ceil(len(paths) / PHOTOS), 1)
    pixels = torch.from_numpy(np.stack(readable(source, paths[::step])))
    variety = Variety(least=0.7, whole=0, colour=0, grey=0)
    generator = torch.Generator().manual_seed(0)
    strength = torch.full((len(pixels),), 1.3)
    parts = []
    for _ in range(2):
        part = draw(torch.arange(len(pixels)), variety, generator)
        for hue in range(HUES):
            angles = torch.full((len(pixels),), 2 * math.pi * hue / HUES)
            shown = part.in_colours(turns(angles, strength)).render(pixels, SIDE)
            parts.append(embed.of_pixels(shown.round().byte().permute(0, 2, 3, 1).numpy()))
    one, other = np.stack(parts).reshape(2, HUES, len(pixels), -1)
    found = np.einsum("hnd,knd->nhk", one, other).argmax(2)
    return {"photos": len(pixels), "own_hue_found": float((found == np.arange(HUES)).mean())}


def check(photos: Path, labels: Path) -> Source:
    """Return where photos to judge by are; raise `LookalikeError` without them or their labels."""
    source = locate(photos)
    if not has_images(source):
        raise no_images_error(source)
    open_labels(labels)
    return source


def readable(source: Source, paths: Iterable[str]) -> list[npt.NDArray[np.uint8]]:
    """Decode those of some photos that can be read: uint8 (224, 224, 3) each.

    Raises `LookalikeError` where none can.
    """
    decoded = []
    for path in paths:
        with contextlib.suppress(ImageError):
            decoded.append(decode_pixels(read(source, path))[0])
    if not decoded:
        raise LookalikeError(f"no photo in {source.root} can be read: give another folder")
    return decoded


@contextlib.contextmanager
def in_a_line() -> Iterator[None]:
    """End with one line on stderr and exit status 1 where something is not as it should be."""
    try:
        yield
    except (LookalikeError, OSError) as error:
        sys.exit(f"error: {printable(last_words(error))}")


@in_a_line()
def main() -> None:
    """Print what `judge` finds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--model", default="resnet18")
    given = parser.parse_args()
    print(json.dumps(judge(**vars(given)), indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
