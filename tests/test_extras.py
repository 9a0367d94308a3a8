"""The core works without any extra, and out of a zip; what needs an extra says which."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lookalike
from lookalike.errors import LookalikeError
from lookalike.models.runtimes import _why_no_cuda, find_device
from lookalike.system import extras
from lookalike.system.extras import MissingExtra, require

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROGRAM = Path(__file__).parent / "helpers" / "without_extras.py"


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require("this", "torch", "pyspark")
    for package in ("torch", "pyspark"):
        monkeypatch.setitem(sys.modules, package, None)
    message = 'this needs PyTorch and PySpark: pip install "lookalike[torch,spark]"'
    with pytest.raises(MissingExtra, match=f"^{re.escape(message)}$") as caught:
        require("this", "cv2", "torch", "pyspark")
    assert isinstance(caught.value, LookalikeError) and isinstance(caught.value, ImportError)


def test_a_gpu_needs_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setitem(sys.modules, "torch", None)
    _why_no_cuda.cache_clear()
    try:
        assert find_device("auto") == "cpu"
        with pytest.raises(LookalikeError, match=r'needs PyTorch .*"lookalike\[torch\]".*"cpu"`$'):
            find_device("cuda")
    finally:
        _why_no_cuda.cache_clear()


def test_every_package_is_of_the_extra_that_is_named() -> None:
    tops = metadata.packages_distributions()
    for package, (_, extra) in extras._EXTRAS.items():
        wanted = {canonicalize_name(name) for name in tops[package]}
        named = map(Requirement, PROJECT["optional-dependencies"][extra])
        assert wanted & {canonicalize_name(one.name) for one in named}, package


def test_all_is_every_extra_but_that_for_development() -> None:
    given = PROJECT["optional-dependencies"]
    (everything,) = map(Requirement, given["all"])
    assert everything.extras == given.keys() - {"all", "dev"}


def closure(names: list[str]) -> set[str]:
    """Name the distributions that pip installs for some requirements."""
    found: set[str] = set()

    def needed(name: str, asked: set[str]) -> Iterator[Requirement]:
        for line in metadata.requires(name) or ():
            one = Requirement(line)
            if not one.marker or any(one.marker.evaluate({"extra": e}) for e in asked | {""}):
                yield one

    todo = [Requirement(name) for name in names]
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        if name not in found and (not one.marker or one.marker.evaluate()):
            found.add(name)
            todo += needed(name, one.extras)
    return found


HIDE = """
import sys
from importlib.machinery import PathFinder


class Visible(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        is_hidden = name.partition(".")[0] in {hidden!r}
        return None if is_hidden else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Visible
"""


@pytest.fixture
def core_alone(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that finds, of all packages, only those of the core."""
    core = closure(PROJECT["dependencies"]) | {"lookalike"}
    others = {
        top
        for top, names in metadata.packages_distributions().items()
        if not core & {canonicalize_name(name) for name in names} and top.isidentifier()
    }
    assert {"torch", "pyspark", "nncf", "cv2", "networkit", "fastapi", "pandas"} <= others
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    code = HIDE.format(hidden=others)
    (hidden / "sitecustomize.py").write_text(code)
    path = f"{hidden}:{Path(lookalike.__file__).parents[1]}"
    return environment(tmp_path, path)


def environment(folder: Path, path: str | None = None) -> dict[str, str]:
    """Make the environment of a process that looks for modules in `path` first."""
    left_out = ("SPARK", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return kept | ({"PYTHONPATH": path} if path else {}) | {"LOOKALIKE_CACHE": f"{folder}/cache"}


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a program that has to succeed, where no source of lookalike's lies."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd="/")
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_core_needs_no_extra(core_alone: dict[str, str], tmp_path: Path) -> None:
    work = tmp_path / "work"
    run(sys.executable, PROGRAM, work, env=core_alone)
    # Here is OpenCV, so that what was skipped for want of it can be read.
    done = lookalike.open_index(work / "cars.index").sync()
    assert (done.changed, done.images, done.skipped) == (1, 1, 0)


FROM_ZIP = """
import sys
from pathlib import Path
import lookalike
from lookalike.images.synthetic import draw_collection
assert ".zip" in lookalike.__file__
here = Path(sys.argv[1])
drawn = draw_collection(here, images=4, held_out=1)
index = lookalike.create_index(drawn.photos, here / "cars.index")
assert index.report.images == 4
(new,) = drawn.new.iterdir()
assert len(lookalike.open_index(here / "cars.index").search(new, k=3)) == 3
for model in ("resnet18", "efficientnet-lite0"):
    assert lookalike.ImageEmbedder(model)(new).shape == (512,)
"""


def test_a_zip_of_the_package_works(tmp_path: Path) -> None:
    """As Spark's `--py-files` ships it."""
    package = Path(lookalike.__file__).parent
    shipped = tmp_path / "lookalike.zip"
    with zipfile.ZipFile(shipped, "w") as archive:
        for file in package.rglob("*"):
            if "__pycache__" not in file.parts:
                archive.write(file, file.relative_to(package.parent))
    here = environment(tmp_path, str(shipped))
    run(sys.executable, "-c", FROM_ZIP, tmp_path / "work", env=here)


@pytest.mark.long
def test_the_core_in_an_environment_of_its_own(tmp_path: Path) -> None:
    """Installs half a gigabyte, in a minute."""
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    pip = [str(python), "-m", "pip"]
    if subprocess.run([*pip, "download", "--no-deps", "-d", tmp_path, "platformdirs"]).returncode:
        pytest.skip("pip reaches no index")
    run(*pip, "install", "--quiet", "-c", ROOT / "constraints.txt", ROOT)
    run(python, PROGRAM, tmp_path / "work", env=environment(tmp_path))
    size = sum(f.lstat().st_size for f in (tmp_path / "venv").rglob("*") if f.is_file())
    assert size < 1e9
