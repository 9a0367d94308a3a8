"""Data for all tests: drawn cars, an index of them, every kind of bad input."""

import fcntl
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before NumPy, faiss and PyTorch are loaded: several processes with a thread per core each would
# spend half of their time waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from helpers.browser import browser, screenshots, visit  # noqa: F401 - fixtures
from helpers.stores import S3, SETTINGS, s3_server
from lookalike import Index
from lookalike.images.synthetic import DrawnCollection, draw_collection
from lookalike.ingest import Options, build_index

# A shell that runs tests in the background has them, and all they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="session", autouse=True)
def quick_java() -> Iterator[None]:
    """Settings for the Java of every Spark session, of this process and of those it starts."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SPARK_CONF_DIR", str(Path(__file__).with_name("helpers") / "spark"))
        yield


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> DrawnCollection:
    """96 drawn cars with labels, and four new ones: drawn once for all processes of a run."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    out = folder / "drawn"
    with (folder / "drawn.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock.fileno()).st_size:
            return DrawnCollection(out / "cars_train", out / "cardatasettrain.csv", out / "new")
        done = draw_collection(out, images=96, held_out=4)
        lock.write("done")
        return done


@pytest.fixture(scope="session")
def index(drawn: DrawnCollection, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An index of the drawn cars. Tests that change it copy it first."""
    out = tmp_path_factory.mktemp("index") / "cars.index"
    options = Options(labels=drawn.labels, spark=False)  # one segment, whatever ran before
    return Index(build_index(drawn.photos, out, options)[0])


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    """A real S3 server on loopback with an empty bucket; the environment names it."""
    with s3_server() as server:
        yield server


@pytest.fixture
def workers(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Python workers of Spark know the server: they have the environment of Spark's start."""
    from lookalike.spark import session

    for name, value in {**SETTINGS, "AWS_ENDPOINT_URL": s3.address}.items():
        monkeypatch.setitem(session().sparkContext.environment, name, value)


@pytest.fixture
def folder_of_all() -> Iterator[Path]:
    """A folder that nobody may enter too: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def deadline() -> Iterator[None]:
    """Fail, do not hang."""

    def stop(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure precisions from 96 images on, and take the first that agrees at all."""
    monkeypatch.setattr("lookalike.ingest.options.MIN_IMAGES_TO_MEASURE", 96)
    monkeypatch.setattr("lookalike.models.precision.SAMPLE_IMAGES", 96)
    monkeypatch.setattr("lookalike.models.precision.MIN_AGREEMENT", 0.5)
    monkeypatch.setattr("lookalike.models.precision._MAX_COST", 1e9)
