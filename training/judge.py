"""Judge weights by photos that they have not learned from, as they are and with other colours.

    python training/judge.py unseen --labels unseen.csv [--weights FILE] [--model NAME]

prints R@1, P@5 and mAP@R, as `lookalike evaluate` does; then those of the same photos with red and
blue exchanged, which Stanford Cars as we have them already are: nobody should have to care.
"""

import argparse
import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

import lookalike
from lookalike import evaluate
from lookalike.images import BadImage, decode, decode_path, locate, walk


def judge(
    photos: Path, labels: Path, weights: str = "cars", model: str = "resnet18"
) -> dict[str, dict[str, Any]]:
    """Return the figures of a folder of labelled photos, each searched among the others."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        exchanged = work / "exchanged"
        exchanged.mkdir()
        for found in walk(locate(photos)):
            with contextlib.suppress(BadImage):  # indexing counts it
                image = decode((photos / decode_path(found.path)).read_bytes())
                red, green, blue = image.split()
                (exchanged / found.path).parent.mkdir(parents=True, exist_ok=True)
                Image.merge("RGB", (blue, green, red)).save(
                    exchanged / found.path, "JPEG", quality=95
                )
        figures = {}
        for kind, folder in {"as they are": photos, "exchanged": exchanged}.items():
            index = lookalike.index(
                folder,
                work / f"{kind}.index",
                labels=labels,
                model=model,
                weights=weights,
                precision="f32",
                spark=False,
            )
            figures[kind] = evaluate.by_label(index.searcher.rows, len(index))
        return figures


def main() -> None:
    """Print what `judge` finds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--weights", default="cars")
    parser.add_argument("--model", default="resnet18")
    given = parser.parse_args()
    print(json.dumps(judge(**vars(given)), indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
