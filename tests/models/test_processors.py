"""Every processor gives the same vectors: older ones are had by hiding what this one can."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers.photographs import FEW, photographed
from lookalike.models import Model, at_precision, engine, resolve
from lookalike.models.embedder import normalize
from lookalike.system.arrays import Pixels

OLDER = {
    "AVX2": "avx512,vnni,amx",
    "AVX-512 without VNNI": "bf16,vnni,amx",
    "AVX-VNNI": "avx512,amx",
    "AVX": "avx2,avx512,vnni,amx",
}
SOURCE = Path(__file__).parents[1] / "helpers" / "cpuid.c"


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """Return the environment in which a process sees one of `OLDER`."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("what hides instruction sets is C for Linux")
    library = tmp_path_factory.mktemp("cpuid") / "cpuid.so"
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-Wall",
        "-Werror",
        "-o",
        str(library),
        str(SOURCE),
        "-ldl",
    ]
    subprocess.run(command, check=True, env={**os.environ, "LD_PRELOAD": ""})

    def environment(kind: str) -> dict[str, str]:
        return {**os.environ, "LD_PRELOAD": str(library), "WITHOUT": OLDER[kind]}

    tried = subprocess.run(["true"], env=environment("AVX"), capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(tried.stderr.strip())
    return environment


@pytest.fixture(scope="module")
def photos() -> Pixels:
    """Return those of which test_precision.py has an int8 already, where it has run before."""
    return photographed(FEW)


EMBED = """
import sys
from pathlib import Path
import numpy as np
from lookalike.models import Model
from lookalike.models import engine
from lookalike.models.runtimes import processor
folder = Path(sys.argv[1])
np.save(folder / "there.npy", engine(Model.load(folder / "model"))(np.load(folder / "photos.npy")))
print(*processor(), sep=",")
"""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("resnet18", "AVX2"),
        *[pytest.param("resnet18", kind, marks=pytest.mark.long) for kind in [*OLDER][1:]],
        *[pytest.param("efficientnet-lite0", kind, marks=pytest.mark.long) for kind in OLDER],
    ],
)
def test_int8_gives_the_same_vectors_there(
    older: Callable[[str], dict[str, str]], photos: Pixels, tmp_path: Path, name: str, kind: str
) -> None:
    model = at_precision(resolve(name), "int8", lambda: photos)
    model.save(tmp_path / "model")
    np.save(tmp_path / "photos.npy", photos)
    command = [sys.executable, "-c", EMBED, str(tmp_path)]
    done = subprocess.run(command, env=older(kind), capture_output=True, text=True)
    assert done.stderr == ""
    assert "BF16" not in done.stdout or kind == "AVX-512 without VNNI"
    here, there = normalize(engine(model)(photos)), normalize(np.load(tmp_path / "there.npy"))
    assert (here * there).sum(axis=1).min() > 0.999


MAKE = """
import sys
from pathlib import Path
import numpy as np
from lookalike.models import at_precision
from lookalike.models import engine
from lookalike.models import resolve
folder = Path(sys.argv[1])
photos = np.load(folder / "photos.npy")
at_precision(resolve(), "int8", lambda: photos).save(folder / "model")
"""


@pytest.mark.long
def test_int8_made_there_is_int8_made_here(
    older: Callable[[str], dict[str, str]], photos: Pixels, tmp_path: Path
) -> None:
    np.save(tmp_path / "photos.npy", photos)
    environment = {**older("AVX2"), "LOOKALIKE_CACHE": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", MAKE, str(tmp_path)], env=environment, check=True)
    made = Model.load(tmp_path / "model")
    assert made == at_precision(resolve(), "int8", lambda: photos)
    assert engine(made)(photos).shape == (FEW, 512), "its probe is known again"
