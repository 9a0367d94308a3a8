"""Whole runs of `lookalike index` and of fastdup on the same photos. Prints one line of JSON.

    python benchmarks/rivals/fastdup.py --images cars_train --sizes 1000,4052 --repeat 3 --json

Measured from process start to exit, and as the slope between the smallest and the largest folder,
from which what a run costs whatever its size is gone. The tools take turns, so that a busy minute
of the machine hits all. README.md beside this file says what the figures compare.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lookalike

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from environments import ENVIRONMENTS, environment

from measure import Run, machine, timed

FASTDUP = "2.54"
RUN_FASTDUP = """
import sys
import fastdup
fastdup.create(input_dir=sys.argv[1], work_dir=sys.argv[2]).run(verbose=False)
"""
# Its Python and its native part look for the first before they report anything. The second keeps
# it from asking PyPI for its newest version, which would be part of its time too.
SILENT = {"SENTRY_OPT_OUT": "1", "FASTDUP_PRODUCTION": "1"}
PHOTOS = {".jpg", ".jpeg", ".png"}  # both tools read more, but not the same
WARM_UP = 8  # photos

# A tool takes the photos and an empty folder to work in; it returns its cost and how many photos
# it has embedded.
Tool = Callable[[Path, Path], tuple[Run, int]]
Runs = dict[int, list[Run]]  # by size


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="a folder of photos")
    parser.add_argument("--sizes", default="1000,4052", help="photos in a run, by comma")
    parser.add_argument("--precisions", default="auto,int8", help="lookalike's, by comma")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--venv",
        type=Path,
        default=ENVIRONMENTS / "fastdup",
        help="virtual environment of fastdup, made if need be",
    )
    parser.add_argument("--warm-cache", action="store_true", help="one cache for all lookalikes")
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    sizes = sorted({int(size) for size in given.sizes.split(",")})
    precisions = given.precisions.split(",")
    with tempfile.TemporaryDirectory() as folder:
        folders = linked(given.images, [WARM_UP, *sizes], Path(folder, "photos"))
        cache = Path(folder, "cache") if given.warm_cache else None
        tools = {"fastdup": fastdup(environment_with_fastdup(given.venv))}
        tools |= {f"lookalike_{each}": indexing(each, cache) for each in precisions}
        runs, embedded = take_turns(tools, sizes, given.repeat, folders)
    figures = {
        "machine": machine(),
        "versions": {"fastdup": FASTDUP, "lookalike": lookalike.__version__},
        "repeat": given.repeat,
        "warm_cache": given.warm_cache,
        "tools": {tool: {"embedded": embedded[tool], **summary(runs[tool])} for tool in tools},
        "ratios": ratios(runs, precisions),
    }
    print(json.dumps(figures))  # noqa: T201


def linked(images: Path, sizes: list[int], folder: Path) -> dict[int, Path]:
    """Make a folder of links to the first photos for each size, and read each photo once.

    Whoever came first would otherwise wait for the disk, the others for memory only.
    """
    photos = sorted(photo for photo in images.resolve().iterdir() if photo.suffix.lower() in PHOTOS)
    if not 0 < min(sizes) <= max(sizes) <= len(photos):
        raise SystemExit(f"sizes have to be from 1 to {len(photos)}: {images} holds no more photos")
    for photo in photos[: max(sizes)]:
        photo.read_bytes()
    folders = {size: folder / str(size) for size in sizes}
    for size, part in folders.items():
        part.mkdir(parents=True, exist_ok=True)
        for photo in photos[:size]:
            (part / photo.name).symlink_to(photo)
    return folders


def environment_with_fastdup(folder: Path) -> Path:
    """Return the Python of a virtual environment that has this fastdup; make it if need be."""
    check = f"import fastdup; assert fastdup.__version__ == {FASTDUP!r}"
    return environment(folder, [f"fastdup=={FASTDUP}"], check, SILENT)


def fastdup(python: Path) -> Tool:
    """Return fastdup as it runs with nothing but its defaults."""

    def turn(photos: Path, work: Path) -> tuple[Run, int]:
        out = work / "out"
        # It counts its runs in a file in the home folder.
        run = timed(
            [str(python), "-I", "-c", RUN_FASTDUP, str(photos), str(out)],
            {**SILENT, "HOME": str(work)},
        )
        rows = (out / "atrain_features.dat.csv").read_bytes().splitlines()
        return run, len(rows) - 1

    return turn


def indexing(precision: str, cache: Path | None) -> Tool:
    """Return `lookalike index` at a precision; without a `cache`, with a new one every time."""

    def turn(photos: Path, work: Path) -> tuple[Run, int]:
        out = work / "photos.index"
        command = [sys.executable, "-m", "lookalike", "index", str(photos), "--out", str(out)]
        run = timed(
            [*command, "--precision", precision], {"LOOKALIKE_CACHE": str(cache or work / "cache")}
        )
        return run, len(lookalike.open_index(out))

    return turn


def take_turns(
    tools: dict[str, Tool], sizes: list[int], repeat: int, folders: dict[int, Path]
) -> tuple[dict[str, Runs], dict[str, dict[int, int]]]:
    """Run every tool on every size, `repeat` times; return costs and numbers of embedded photos."""
    runs: dict[str, Runs] = {tool: {size: [] for size in sizes} for tool in tools}
    embedded: dict[str, dict[int, int]] = {tool: {} for tool in tools}

    def take(tool: str, size: int) -> Run:
        with tempfile.TemporaryDirectory() as work:
            run, embedded[tool][size] = tools[tool](folders[size], Path(work))
        tell(f"{tool}, {size} photos: {run.seconds:.2f} s, {run.cpu_seconds:.2f} s of CPU")
        return run

    for tool in tools:  # not counted: this one finds programs and libraries on the disk
        take(tool, WARM_UP)
        embedded[tool].clear()
    for _ in range(repeat):
        for size in sizes:
            for tool in tools:
                runs[tool][size].append(take(tool, size))
    return runs, embedded


def summary(runs: Runs) -> dict[str, Any]:
    """Return medians, and below `each` what they are the medians of."""
    quantities: dict[str, tuple[Callable[[Run], float], int | None]] = {
        "wall_s": (lambda run: run.seconds, 2),
        "cpu_s": (lambda run: run.cpu_seconds, 2),
        "peak_mb": (lambda run: run.peak_bytes / 2**20, None),
    }
    medians, each = {}, {}
    for name, (quantity, digits) in quantities.items():
        values = {size: [quantity(run) for run in some] for size, some in runs.items()}
        medians[name] = {
            size: round(statistics.median(some), digits) for size, some in values.items()
        }
        each[name] = {
            size: [round(value, digits) for value in some] for size, some in values.items()
        }
    return {
        **medians,
        "slope_ms": slope_ms(medians["wall_s"]),
        "cpu_slope_ms": slope_ms(medians["cpu_s"]),
        "each": each,
    }


def slope_ms(seconds: dict[int, float]) -> float | None:
    """Return milliseconds a photo between the smallest and the largest size, None for one size."""
    small, large = min(seconds), max(seconds)
    if small == large:
        return None
    return round(1000 * (seconds[large] - seconds[small]) / (large - small), 3)


def ratios(runs: dict[str, Runs], precisions: list[str]) -> dict[str, float | None]:
    """Return lookalike's medians over fastdup's: above 1, lookalike takes longer."""
    found: dict[str, float | None] = {}
    rival = summary(runs["fastdup"])
    largest = max(rival["wall_s"])
    for precision in precisions:
        ours = summary(runs[f"lookalike_{precision}"])
        found[f"{precision}_slope"] = over(ours["slope_ms"], rival["slope_ms"])
        found[f"{precision}_whole_run"] = over(ours["wall_s"][largest], rival["wall_s"][largest])
    return found


def over(ours: float | None, rivals: float | None) -> float | None:
    """Divide, if there is anything to divide."""
    return round(ours / rivals, 3) if ours is not None and rivals else None


def tell(line: str) -> None:
    """Say how far it is, beside the result."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
