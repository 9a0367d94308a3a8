"""Data for all tests: drawn cars, an index of them, every kind of bad input."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookalike import Index
from lookalike.build import Options, build_collection
from lookalike.drawing import DrawnCollection, draw_collection

SHARED = Path(os.environ.get("LOOKALIKE_PHOTOS", Path(__file__).parents[2] / "shared" / "data"))
UNSEEN = SHARED / "stanford-cars-unseen"

needs_photos = pytest.mark.skipif(
    not UNSEEN.exists(), reason="real photos are not at hand: set LOOKALIKE_PHOTOS"
)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the tests' own, shared by all of them."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("LOOKALIKE_CACHE")
    os.environ["LOOKALIKE_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["LOOKALIKE_CACHE"]
    else:
        os.environ["LOOKALIKE_CACHE"] = before


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> DrawnCollection:
    """96 drawn cars with labels, and four new ones."""
    return draw_collection(tmp_path_factory.mktemp("drawn"), images=96, held_out=4)


@pytest.fixture(scope="session")
def index(drawn: DrawnCollection, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An index of the drawn cars. Tests that change it copy it first."""
    out = tmp_path_factory.mktemp("index") / "cars.index"
    return Index(build_collection(drawn.photos, out, Options(labels=drawn.labels))[0])


@pytest.fixture
def folder_of_all() -> Iterator[Path]:
    """A folder that nobody may enter too: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)
