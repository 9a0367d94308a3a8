"""What the processes of test_concurrency.py do. Each says `ready`, and begins when it is told."""

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import lookalike
from helpers.small import picture
from lookalike import cli
from lookalike.ingest import embedding as running
from lookalike.ingest import options as jobs
from lookalike.ingest import update as keeping
from lookalike.models.embedder import normalize
from lookalike.storage import commits, writing
from lookalike.system.arrays import Vectors

LOADED = (jobs, keeping, running)  # before it says that it is ready
SEEDS = 1_000_000  # of pictures, for each process that adds some


def search(index: str, seconds: str, seed: str) -> None:
    """Ask the newest version, opened anew or moved on to; say which it was and what it answered."""
    rng = np.random.default_rng(int(seed))
    held = lookalike.open_index(index)
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        held.refresh()
        for asked in (held, lookalike.open_index(index)):
            number = int(rng.integers(8))
            hits = asked.search(question(number, asked._table.about_model["width"]), 5)
            found = [(hit.id, hit.distance) for hit in hits]
            print(json.dumps([asked._table.version, number, found]))  # noqa: T201


def question(number: int, width: int) -> Vectors:
    vector = np.random.default_rng(number).normal(size=width).astype(np.float32)
    unit: Vectors = normalize(vector[None])[0]
    return unit


def add_more(index: str, seconds: str, folder: str, number: str) -> None:
    """Add new pictures again and again."""
    seed = SEEDS * int(number)
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        new = Path(folder, f"{seed}")
        for _ in range(3):
            seed += 1
            picture(new / f"{seed}.png", seed)
        lookalike.open_index(index).add(new, spark=False)


def remove_some(index: str, seconds: str, seed: str) -> None:
    """Remove what is there again and again."""
    draw = random.Random(seed)
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        opened = lookalike.open_index(index)
        paths = [path for one in opened._table.segments for path in one.rows["path"].to_pylist()]
        opened.remove(draw.sample(paths, min(2, len(paths))))
        time.sleep(0.1)


def compact(index: str) -> None:
    """Make few segments of many."""
    with writing(Path(index)):
        commits.compact(lookalike.open_index(index)._table, few=2)


def command(*arguments: str) -> None:
    """Run the command line."""
    sys.argv = ["lookalike", *arguments]
    cli.main()


TASKS: dict[str, Callable[..., None]] = {
    each.__name__: each for each in (search, add_more, remove_some, compact, command)
}

if __name__ == "__main__":
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    TASKS[sys.argv[1]](*sys.argv[2:])
