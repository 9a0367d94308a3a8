"""Precisions: less of it only where it is quicker and the neighbours stay; measured once."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.photographs import FEW, photographed
from helpers.processes import calibrating
from helpers.refusals import refusal
from lookalike import LookalikeError
from lookalike.images import SIDE
from lookalike.models import (
    SAMPLE_IMAGES,
    Model,
    at_precision,
    engine,
    in_f32,
    overlap,
    overlaps,
    quantization,
    resolve,
)
from lookalike.models.embedder import normalize
from lookalike.models.precision import CALIBRATION_IMAGES, MIN_AGREEMENT
from lookalike.models.quantization import quantize
from lookalike.system.arrays import Pixels, Vectors


@pytest.fixture(scope="module")
def sample() -> Pixels:
    """As few photos as `auto` measures with."""
    return photographed(SAMPLE_IMAGES // 2)


@pytest.fixture(scope="module")
def few(sample: Pixels) -> Pixels:
    """Photos enough for what is not about how good int8 is."""
    return sample[:FEW]


@pytest.fixture(scope="module")
def full() -> Model:
    return resolve("resnet18")


@pytest.fixture(scope="module")
def exact(full: Model, sample: Pixels) -> Vectors:
    return vectors_of(full, sample)


@pytest.fixture(scope="module")
def informer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An `openvino_telemetry` in front of the real one; gives the file that says it was used."""
    folder = tmp_path_factory.mktemp("informer")
    told = folder / "told"
    (folder / "openvino_telemetry").mkdir()
    (folder / "openvino_telemetry" / "__init__.py").write_text(f"open({str(told)!r}, 'w')\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        yield told


@pytest.fixture(scope="module")
def int8(full: Model, sample: Pixels, informer: Path) -> Model:
    return at_precision(full, "int8", lambda: sample)


@pytest.fixture(scope="module")
def int8_of_few(full: Model, few: Pixels) -> Model:
    return at_precision(full, "int8", lambda: few)


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process can be started that would quantise anything."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")


@pytest.fixture
def no_choices(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with all models and without a choice of one; gives the folder for choices."""
    (cache / "models").mkdir(exist_ok=True)
    (tmp_path / "models").symlink_to(cache / "models")
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path))
    return tmp_path / "choices"


def vectors_of(model: Model, photos: Pixels) -> Vectors:
    run = engine(model)
    parts = [run(photos[at : at + run.batch]) for at in range(0, len(photos), run.batch)]
    return normalize(np.concatenate(parts))


# --- int8 on other processors ---------------------------------------------------------------------


def test_int8_that_overflows_is_refused(int8_of_few: Model, few: Pixels) -> None:
    assert engine(int8_of_few)(few[:1]).shape == (1, 512)
    other = np.frombuffer(int8_of_few.probe, np.float32)[::-1].tobytes()
    elsewhere = dataclasses.replace(int8_of_few, fingerprint="elsewhere", probe=other)
    refusal(lambda: engine(elsewhere), r"cosine 0\.\d+\): use one with VNNI, or index again")


def test_int8_leaves_room_for_sums(int8: Model) -> None:
    """Where two products are added in 16 bits, weights of 7 are the most that cannot overflow."""
    import openvino

    network = openvino.Core().read_model(int8.graph, int8.weights_data)
    constants = [one for one in network.get_ops() if one.get_type_name() == "Constant"]
    weights = [one.get_data() for one in constants if one.get_element_type() == openvino.Type.i8]
    assert len(weights) == 20, "convolutions of ResNet-18"
    assert max(np.abs(some.astype(int)).max() for some in weights) * 255 * 2 < 2**15


def test_what_another_method_made_is_not_mistaken(
    full: Model,
    int8_of_few: Model,
    few: Pixels,
    no_choices: Path,
    no_process: None,
    choose: Callable[[float, float], Model],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert choose(0.0, ANY_TIME) == int8_of_few
    monkeypatch.setattr("lookalike.models.precision.METHOD", "another")
    refusal(lambda: at_precision(full, "int8", lambda: few), "no int8: Python does not start")
    assert choose(0.0, ANY_TIME) == at_precision(full, "bf16")
    assert len(list(no_choices.iterdir())) == 2


# --- neighbours in common -----------------------------------------------------------------------


def at_angles(*degrees: float) -> Vectors:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


FAN = at_angles(0, 10, 30, 70)
WITHOUT_LAST = FAN * np.array([[1], [1], [1], [0]], np.float32)


@pytest.mark.parametrize(
    ("one", "other", "k", "share"),
    [
        (FAN, FAN, 1, 1),
        (FAN, FAN, 3, 1),
        (FAN, FAN * np.array([[1], [5], [0.01], [1e4]], np.float32), 2, 1),
        (FAN, np.hstack([FAN, np.zeros((4, 5), np.float32)]), 2, 1),
        (at_angles(0, 10, 12, 90), at_angles(0, 12, 10, 90), 2, 1),
        (at_angles(0, 10, 12, 90), at_angles(0, 12, 10, 90), 1, 0.5),
        (FAN, at_angles(0, 10, 30, 25), 1, 0.75),
        (FAN, at_angles(0, 10, 30, 25), 2, 0.625),
        (FAN, at_angles(0, 10, 30, 25), 3, 1),
        (at_angles(0, 1, 100, 101), at_angles(0, 100, 1, 101), 1, 0),
        (WITHOUT_LAST, WITHOUT_LAST, 2, 1),
        (FAN, WITHOUT_LAST, 1, 0.75),  # what has no direction takes the first
        (np.zeros((6, 2), np.float32), np.zeros((6, 3), np.float32), 5, 1),
    ],
    ids=[
        *["the same", "the same, all of them", "lengths", "another width", "another order"],
        *["the nearest of another order", "one of four", "of two", "of all", "none", "zeros"],
        *["zeros in one", "nothing but zeros"],
    ],
)
def test_overlap(one: Vectors, other: Vectors, k: int, share: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert overlap(one, other, k) == pytest.approx(share)
        assert overlap(other, one, k) == pytest.approx(share)


def test_overlaps_are_of_each_image() -> None:
    one, other = at_angles(0, 10, 30, 60), at_angles(0, 10, 50, 60)
    assert overlaps(one, other, 1).tolist() == [1, 1, 0, 1]


def test_overlap_is_of_five_unless_told() -> None:
    one, other = np.random.default_rng(0).standard_normal((2, 30, 8)).astype(np.float32)
    assert overlap(one, other) == overlap(one, other, 5) != overlap(one, other, 4)


# --- int8 ---------------------------------------------------------------------------------------


def test_int8_is_near(exact: Vectors, int8: Model, sample: Pixels) -> None:
    rough = vectors_of(int8, sample)
    cosine = (exact * rough).sum(axis=1)
    assert cosine.mean() > 0.99
    assert cosine.min() > 0.95
    assert not np.array_equal(exact, rough)


def test_int8_is_a_model_of_its_own(full: Model, int8: Model) -> None:
    kept = {"precision", "fingerprint"}
    wanted = {key: value for key, value in full.about().items() if key not in kept}
    assert {key: value for key, value in int8.about().items() if key not in kept} == wanted
    assert int8.precision == "int8"
    assert re.fullmatch("[0-9a-f]{16}", int8.fingerprint)
    assert int8.fingerprint != full.fingerprint
    assert len(int8.weights_data) < len(full.weights_data) / 3
    assert int8.network == b""


def test_what_less_precision_was_made_of(
    full: Model,
    int8_of_few: Model,
    few: Pixels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert in_f32(full) is full
    bf16 = at_precision(full, "bf16")
    again = in_f32(bf16)
    assert again is not None and again.precision == "f32"
    assert len({again.fingerprint, bf16.fingerprint, full.fingerprint}) == 3
    np.testing.assert_array_equal(vectors_of(again, few), vectors_of(full, few))

    assert in_f32(int8_of_few) == full
    own = dataclasses.replace(int8_of_few, weights="own.pt")
    assert in_f32(own) == full, "found in the cache, whatever it is called"
    assert in_f32(dataclasses.replace(own, weights_data=b"others")) is None
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path))
    assert in_f32(own) is None
    (tmp_path / "models" / full.fingerprint).mkdir(parents=True)
    assert in_f32(own) is None, "a damaged one"


def test_nobody_is_told_of_it(int8: Model, informer: Path) -> None:
    assert not informer.exists()
    subprocess.run([sys.executable, "-c", "import openvino"], check=True)
    assert informer.exists(), "it would not have been seen"


def test_int8_is_made_once(full: Model, int8: Model, sample: Pixels, no_process: None) -> None:
    again = at_precision(full, "int8", lambda: sample.copy())
    assert again == int8
    assert (again.graph, again.weights_data) == (int8.graph, int8.weights_data)


def test_only_the_images_it_is_calibrated_on_count(
    full: Model, int8: Model, sample: Pixels, no_process: None
) -> None:
    used = sample[:: len(sample) // CALIBRATION_IMAGES]
    assert len(used) == CALIBRATION_IMAGES
    assert at_precision(full, "int8", lambda: used) == int8
    refusal(
        lambda: at_precision(full, "int8", lambda: sample[1:]),
        "no int8: Python does not start .*nowhere",
    )


def test_other_images_make_another_int8(
    int8: Model, int8_of_few: Model, few: Pixels, cache: Path
) -> None:
    assert int8_of_few.precision == "int8"
    assert int8_of_few.fingerprint != int8.fingerprint
    assert not np.array_equal(vectors_of(int8_of_few, few), vectors_of(int8, few))
    prints = {Model.load(folder).fingerprint for folder in (cache / "models").iterdir()}
    assert {int8.fingerprint, int8_of_few.fingerprint} <= prints


@pytest.fixture(scope="module")
def repaired(
    full: Model,
    int8_of_few: Model,
    few: Pixels,
    cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Model, Path]:
    """What is made where the kept one is damaged, and the folder in which it was kept."""
    (kept,) = (
        folder for folder in (cache / "models").iterdir() if Model.load(folder) == int8_of_few
    )
    other = tmp_path_factory.mktemp("other")
    folder = other / "models" / kept.name
    shutil.copytree(kept, folder)
    os.truncate(folder / "network.bin", 1000)
    with quantization.preload(True), pytest.MonkeyPatch.context() as patch:
        assert len(calibrating()) == 1
        patch.setenv("LOOKALIKE_CACHE", str(other))
        patch.setattr(sys, "executable", "/nowhere/python")  # the one that waits is enough
        return at_precision(full, "int8", lambda: few), folder


def test_the_same_images_make_the_same_int8(
    int8_of_few: Model, repaired: tuple[Model, Path]
) -> None:
    assert repaired[0] == int8_of_few
    assert repaired[0].weights_data == int8_of_few.weights_data


def test_a_process_that_is_not_needed_is_ended(full: Model, int8: Model, sample: Pixels) -> None:
    with quantization.preload(True):
        assert len(calibrating()) == 1
        assert at_precision(full, "int8", lambda: sample) == int8
        assert calibrating() == []
    with quantization.preload(True):
        assert len(calibrating()) == 1
    assert calibrating() == []
    with quantization.preload(False):
        assert calibrating() == []


def test_a_damaged_int8_in_the_cache_is_replaced(repaired: tuple[Model, Path]) -> None:
    model, folder = repaired
    assert Model.load(folder) == model


FRESH = """
import json, sys
from pathlib import Path
import numpy as np
from lookalike.models import Model
from lookalike.models import at_precision
from lookalike.models import engine
from lookalike.models import resolve
folder, sample = Path(sys.argv[1]), np.load(sys.argv[2])
stored = Model.load(folder)
cached = at_precision(resolve("resnet18"), "int8", lambda: sample)
heavy = sorted({"torch", "torchvision", "nncf", "pyspark"} & sys.modules.keys())
about = [stored.fingerprint, stored.agreement, cached.fingerprint]
print(json.dumps([engine(stored)(sample[:16]).tolist(), about, heavy]))
"""


def test_int8_needs_neither_torch_nor_nncf_later(
    int8: Model, sample: Pixels, tmp_path: Path
) -> None:
    dataclasses.replace(int8, agreement=0.97).save(tmp_path / "model")
    np.save(tmp_path / "sample.npy", sample)
    command = [sys.executable, "-c", FRESH, str(tmp_path / "model"), str(tmp_path / "sample.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    vectors, about, heavy = json.loads(done.stdout)
    assert about == [int8.fingerprint, 0.97, int8.fingerprint]
    assert heavy == []
    given = normalize(np.array(vectors, np.float32))
    assert np.abs(given - vectors_of(int8, sample[:16])).max() < 1e-6
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("graph", "images", "device", "pattern"),
    [
        (True, None, "cpu", "int8 is calibrated on images: make an index"),
        (True, 0, "cpu", "int8 is calibrated on images: make an index"),
        (True, FEW, "cuda", "int8 runs on CPUs through OpenVINO: use bf16"),
        (False, FEW, "cpu", "int8 runs on CPUs through OpenVINO: use bf16"),
    ],
    ids=["not given", "no images", "cuda", "no graph"],
)
def test_where_there_is_no_int8(
    full: Model, few: Pixels, graph: bool, images: int | None, device: str, pattern: str
) -> None:
    model = full if graph else dataclasses.replace(full, graph=b"", weights_data=b"")
    give = None if images is None else lambda: few[:images]
    refusal(lambda: at_precision(model, "int8", give, device), pattern)


def test_what_cannot_be_quantised_is_said_in_a_line(few: Pixels) -> None:
    refusal(lambda: quantize(b"<net/>", b"", few), r"^no int8 of this network \(.+\): use another")


def test_a_silent_failure_is_said_too(few: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    refusal(lambda: quantize(b"<net/>", b"", few), r"no int8 of this network \(exit code 1\)")


# --- auto ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [0, 1, SAMPLE_IMAGES // 2 - 1])
def test_nothing_is_measured_for_a_few_images(images: int, no_choices: Path, full: Model) -> None:
    broken = dataclasses.replace(full, graph=b"<net/>", fingerprint="0" * 16)
    blank = np.zeros((SAMPLE_IMAGES // 2, SIDE, SIDE, 3), np.uint8)
    assert at_precision(broken, "auto", lambda: blank[:images]) is broken
    assert broken.agreement is None
    assert not no_choices.exists()
    with pytest.raises(LookalikeError):  # with enough of them it is run
        at_precision(broken, "auto", lambda: blank)


def test_auto_takes_what_agrees_or_f32(
    full: Model, exact: Vectors, int8: Model, sample: Pixels, no_choices: Path
) -> None:
    chosen = at_precision(full, "auto", lambda: sample)
    if chosen.precision == "f32":  # nothing was quicker on this machine
        assert (chosen, chosen.agreement) == (full, None)
    else:
        assert chosen == at_precision(full, chosen.precision, lambda: sample)
        agreement = overlap(exact, vectors_of(chosen, sample))
        assert agreement >= MIN_AGREEMENT
        assert chosen.agreement == pytest.approx(agreement, abs=1e-4)
    (note,) = no_choices.iterdir()
    wanted = {"precision": chosen.precision, "agreement": chosen.agreement}
    assert json.loads(note.read_text()) == wanted


@pytest.fixture
def choose(
    full: Model, int8_of_few: Model, few: Pixels, no_choices: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[float, float], Model]:
    """Choose on a few images for a least agreement and a share of the time of f32."""
    monkeypatch.setattr("lookalike.models.precision.SAMPLE_IMAGES", 2 * FEW)

    def run(agreement: float, quicker: float) -> Model:
        monkeypatch.setattr("lookalike.models.precision.MIN_AGREEMENT", agreement)
        monkeypatch.setattr("lookalike.models.precision._MAX_COST", quicker)
        return at_precision(full, "auto", lambda: few)

    return run


ANY_TIME, NO_TIME = 1e9, 0.0


@pytest.mark.long
def test_auto_goes_by_agreement_and_time(
    full: Model,
    exact: Vectors,
    int8_of_few: Model,
    few: Pixels,
    no_choices: Path,
    no_process: None,
    choose: Callable[[float, float], Model],
) -> None:
    bf16 = at_precision(full, "bf16")
    near, nearer = (overlap(exact[:FEW], vectors_of(model, few)) for model in (int8_of_few, bf16))
    assert near < nearer
    for agreement, quicker, wanted, measured in (
        (near, ANY_TIME, int8_of_few, near),
        ((near + nearer) / 2, ANY_TIME, bf16, nearer),
        (1.01, ANY_TIME, full, None),
        (0.0, NO_TIME, full, None),
    ):
        chosen = choose(agreement, quicker)
        assert chosen == wanted
        assert chosen.agreement == (measured if measured is None else round(measured, 4))
        assert choose(0.0, ANY_TIME) == chosen, "it is not measured again"
        shutil.rmtree(no_choices)


def test_auto_without_int8(
    full: Model,
    choose: Callable[[float, float], Model],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "models").unlink()  # so that it would have to be made
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert choose(0.0, ANY_TIME) == at_precision(full, "bf16")


def test_a_note_is_followed(
    full: Model, no_choices: Path, no_process: None, choose: Callable[[float, float], Model]
) -> None:
    assert choose(0.0, ANY_TIME).precision == "int8"
    (note,) = no_choices.iterdir()
    note.write_text('{"precision": "bf16", "agreement": 0.125}')
    chosen = choose(0.0, ANY_TIME)
    assert chosen == at_precision(full, "bf16")
    assert chosen.agreement == 0.125
    note.write_text('{"precision": "f32", "agreement": null}')
    assert choose(0.0, ANY_TIME) == full


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(
            ["", "null", "[]", '{"precision": "f32"', '{"precision": "f32"}', '{"agreement": 0.5}'],
            marks=pytest.mark.long,
        ),
        ['{"precision": "f64", "agreement": 0.5}'],  # as another version may have it
    ],
    ids=["damaged", "of another precision"],
)
def test_a_note_that_says_nothing_is_written_anew(
    texts: list[str], no_choices: Path, no_process: None, choose: Callable[[float, float], Model]
) -> None:
    chosen = choose(0.0, ANY_TIME)
    (note,) = no_choices.iterdir()
    before = note.read_text()
    for text in texts:
        note.write_text(text)
        again = choose(0.0, ANY_TIME)
        assert (again, again.agreement) == (chosen, chosen.agreement)
        assert note.read_text() == before


def test_a_cache_that_cannot_be_written_costs_only_time(
    int8_of_few: Model,
    no_choices: Path,
    no_process: None,
    choose: Callable[[float, float], Model],
) -> None:
    no_choices.write_text("no folder")
    assert choose(0.0, ANY_TIME) == int8_of_few
    assert no_choices.read_text() == "no folder"
