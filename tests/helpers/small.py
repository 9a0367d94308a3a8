"""Small pictures, a small network, and processes that change or ask an index at the same time."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from lookalike.ingest import Options

WORKER = Path(__file__).with_name("worker.py")


def small_network(folder: Path) -> Options:
    """Write the weights of a small network: vectors that mean nothing, and cost little."""
    import torch
    from torchvision.models import shufflenet_v2_x0_5

    torch.manual_seed(0)
    torch.save(shufflenet_v2_x0_5().state_dict(), folder / "weights.pth")
    weights = str(folder / "weights.pth")
    return Options(model="shufflenet_v2_x0_5", weights=weights, precision="f32", spark=False)


def picture(file: Path, seed: int) -> Path:
    """Draw a small picture of its own for each seed, and change it for each as well."""
    rng = np.random.default_rng(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).save(file, "PNG")
    os.utime(file, (seed, seed))
    return file


def pictures(folder: Path, count: int, seed: int) -> Path:
    """Draw some into a folder."""
    for number in range(count):
        picture(folder / f"{number:03}.png", seed + number)
    return folder


class Worker:
    """A process that does one of the tasks in worker.py, once it is told to begin."""

    def __init__(self, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_ready(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == "ready\n", line + self._process.communicate()[1]

    def begin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("begin\n")
        self._process.stdin.flush()

    def result(self) -> tuple[int, str, str]:
        """Return exit code and what it said and complained of."""
        said, complained = self._process.communicate(timeout=300)
        return self._process.returncode, said, complained

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def together(tasks: Sequence[Sequence[object]]) -> Iterator[list[Worker]]:
    """Let workers begin at the same instant."""
    workers = [Worker(*task) for task in tasks]
    try:
        for worker in workers:
            worker.wait_until_ready()
        for worker in workers:
            worker.begin()
        yield workers
    finally:
        for worker in workers:
            worker.end()


def results(tasks: Sequence[Sequence[object]]) -> list[tuple[int, str, str]]:
    """Return what workers that begin at the same instant come to."""
    with together(tasks) as workers:
        return [worker.result() for worker in workers]
