"""Memory that a Spark worker takes for photos of 24 megapixels. One line of JSON.

    python benchmarks/memory.py --images cars_train --photos 500 --json

Photos are scaled up to 6000 x 4000, every fifth one a progressive JPEG and every tenth a PNG, and
indexed on Spark. What counts is the most that any one Python process held at any time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

import lookalike
from measure import machine, tree

SIZE = (6000, 4000)
DISTINCT = 20  # photos; the others are links to these


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(given.images, given.photos, Path(folder))))  # noqa: T201


def run(images: Path, photos: int, work: Path) -> dict[str, Any]:
    """Make the photos, index them, watch."""
    large = work / "photos"
    large.mkdir()
    made = enlarge(sorted(images.rglob("*.jpg"))[: min(DISTINCT, photos)], large)
    for at in range(len(made), photos):
        original = made[at % len(made)]
        (large / f"link-{at}{original.suffix}").symlink_to(original)
    out = work / "large.index"
    command = [sys.executable, "-m", "lookalike", "index", str(large), "--out", str(out), "--spark"]
    started = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, "LOOKALIKE_CACHE": str(work / "cache")})
    peaks: dict[str, int] = {}
    while process.poll() is None:
        for pid in tree(process.pid):
            name, held = memory_of(pid)
            peaks[name] = max(peaks.get(name, 0), held)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(process.returncode)
    return {
        "machine": machine(),
        "images": len(lookalike.open_index(out)),
        "megapixels": SIZE[0] * SIZE[1] / 1e6,
        "seconds": round(time.perf_counter() - started, 1),
        "peak_mb_of_one_process": {name: round(held / 2**20) for name, held in peaks.items()},
    }


def enlarge(photos: list[Path], folder: Path) -> list[Path]:
    """Scale photos up to `SIZE`."""
    made = []
    for at, photo in enumerate(photos):
        path = folder / f"{at:03}{'.png' if at % 10 == 9 else '.jpg'}"
        picture = Image.open(photo).convert("RGB").resize(SIZE, Image.Resampling.BICUBIC)
        options = {"compress_level": 1} if path.suffix == ".png" else {"progressive": at % 5 == 0}
        picture.save(path, **options)
        made.append(path)
    return made


def memory_of(pid: int) -> tuple[str, int]:
    """Return what a process is, and its resident memory in bytes, shared pages included."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return "ended", 0
    held = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    name = "jvm" if "java" in command.split(" ")[0] else "other"
    return "worker" if "pyspark.daemon" in command else name, held


if __name__ == "__main__":
    main()
