"""Virtual environments of their own for what lookalike does not depend on."""

import os
import subprocess
import sys
from pathlib import Path

from platformdirs import user_cache_path

ENVIRONMENTS = user_cache_path("lookalike-benchmarks")


def environment(folder: Path, requirements: list[str], check: str, silent: dict[str, str]) -> Path:
    """Return the Python of a virtual environment that has these packages; make it if need be.

    `check` is Python code that fails where it does not. `silent` is added to its environment.
    """
    python = folder / "bin" / "python"
    if not _passes(python, check, silent):
        print(f"installing {', '.join(requirements)} into {folder}", file=sys.stderr)  # noqa: T201
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), *install, *requirements],
        ):
            if subprocess.run(command, stdout=sys.stderr).returncode:
                raise SystemExit(f"{' '.join(command)} failed")
        if not _passes(python, check, silent):
            raise SystemExit(f"{requirements[0]} does not start in {folder}")
    return python


def _passes(python: Path, check: str, silent: dict[str, str]) -> bool:
    """Tell whether a Python runs this code without an error."""
    if not python.exists():
        return False
    environment = {**os.environ, **silent}
    tried = subprocess.run([python, "-I", "-c", check], capture_output=True, env=environment)
    return not tried.returncode
