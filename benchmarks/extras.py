"""What `pip install lookalike` brings, and what each extra adds, in MB. One line of JSON.

    python benchmarks/extras.py --only core heic plot --json

Each is installed into an empty environment of its own, with the versions of `constraints.txt`; an
extra counts what it adds to the core. All of them take some 10 GB of disk, one after another.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

from measure import machine

PROJECT = Path(__file__).resolve().parents[1]
EXTRAS = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
NAMES = ["core", *(name for name in EXTRAS if name != "dev")]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    core = installed("core")
    added = {name: installed(name) - core for name in given.only if name != "core"}
    print(json.dumps({"machine": machine(), "core_mb": core, "added_mb": added}))  # noqa: T201


def installed(name: str) -> int:
    """Install the core, or it with an extra; return the megabytes of packages, pip's left out."""
    extra = "" if name == "core" else f"[{name}]"
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        (packages,) = Path(folder).glob("lib/python*/site-packages")
        before = size(packages)
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet"]
        constraints = ["--constraint", f"{PROJECT}/constraints.txt"]
        subprocess.run([*pip, *constraints, f"{PROJECT}{extra}"], check=True, stdout=sys.stderr)
        return (size(packages) - before) // 2**20


def size(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())


if __name__ == "__main__":
    main()
