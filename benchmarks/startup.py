"""What it costs to start: imports, models, Spark, and the smallest possible runs. One line of JSON.

    python benchmarks/startup.py --json

Every step runs in a fresh process with nothing but itself before it; seconds are medians. `cold`
is the first time on a machine, with an empty cache folder.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lookalike.images.synthetic import draw_collection
from measure import machine

BARE = "import time; started = time.perf_counter(); {}; print(time.perf_counter() - started)"
STEPS = {  # what is timed, and what has to be there before
    "import_lookalike": "import lookalike.cli, lookalike.ingest, lookalike.index",
    "import_pyspark": "import pyspark.sql",
    "import_torch": "import torch, torchvision",
    "import_nncf": "import sys; sys.modules['torch'] = None; import nncf",  # as for calibration
    "start_spark": "from lookalike.spark import session; session()",
    "resolve_model": "from lookalike import models; models.resolve()",
    "model_and_first_image": (
        "import numpy as np; from lookalike import ImageEmbedder; "
        "ImageEmbedder()(np.zeros((224, 224, 3), np.uint8))"
    ),
}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ["LOOKALIKE_CACHE"] = str(work / "cache")
        photos = draw_collection(work / "drawn", images=16).photos
        cold = {"resolve_model": step(STEPS["resolve_model"])}
        warm = {name: repeated(partial(step, code), given.repeat) for name, code in STEPS.items()}
        for road in ("--no-spark", "--spark"):
            run = [sys.executable, "-m", "lookalike", "index", str(photos), road]
            out = ["--overwrite", "--out", str(work / "tiny.index")]
            warm[f"index_16_images {road}"] = repeated(partial(whole, [*run, *out]), given.repeat)
    print(json.dumps({"machine": machine(), "cold_s": cold, "warm_s": warm}))  # noqa: T201


def repeated(measure: Callable[[], float], repeat: int) -> float:
    """Return the median of several measurements."""
    return round(statistics.median(measure() for _ in range(repeat)), 2)


def step(code: str) -> float:
    """Run code in a fresh process; return the seconds it took there."""
    command = [sys.executable, "-c", BARE.format(code)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return round(float(ran.stdout.splitlines()[-1]), 2)


def whole(command: list[str]) -> float:
    """Run a command; return the seconds from its start to its exit."""
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
