"""Precisions: f32, bf16 and int8, and the choice of the quickest one whose neighbours agree."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lookalike.cache import cache_folder, keeping, new_file
from lookalike.errors import LookalikeError, Unreadable, either
from lookalike.extras import is_installed
from lookalike.models import lite0
from lookalike.models.calibration import METHOD, cancel_preload, preload, quantize
from lookalike.models.engines import PROBE, Pixels, Vectors, engine, processor
from lookalike.models.model import Model, fingerprint, identity, resolve
from lookalike.spark import cores
from lookalike.untrusted import read_json
from lookalike.weights import BUNDLED

PRECISIONS = ("auto", "f32", "bf16", "int8")
SAMPLE = 256  # images on which precisions are compared
CALIBRATION = 32  # of these, the images whose activations give int8 its ranges
_OF_DELICATE = 256  # images, for a network of `_NOT_IN_INT8`
AGREEMENT = 0.95  # of the five nearest neighbours must be those of f32
_NOT_IN_INT8 = {lite0.NAME}  # keeps 92 % of its neighbours at best: `auto` does not try
_QUICKER = 0.85  # of the work of f32: else less precision buys nothing


def check_precision(precision: str) -> None:
    """Raise `LookalikeError` for a precision that there is not."""
    if precision not in PRECISIONS:
        raise LookalikeError(f"unknown precision {precision!r}: choose {either(PRECISIONS)}")


def at_precision(
    full: Model, precision: str, sample: Callable[[], Pixels] | None = None, device: str = "cpu"
) -> Model:
    """Give a full-precision model another precision.

    `auto` takes int8 (where NNCF is installed), else bf16, else f32: the first that is quicker than
    f32 and agrees with it on the images that `sample` returns (uint8, (n, 224, 224, 3)); f32
    without any. `int8` is calibrated on them. What was found out is kept in the cache folder, for
    the same images and the same processor.
    Raises `LookalikeError` for int8 without images, or where it is not to be had.
    """
    check_precision(precision)
    if precision == "bf16":
        return _bf16(full)
    if precision == "int8":
        if device != "cpu" or not full.graph:
            raise LookalikeError('int8 runs on CPUs through OpenVINO: use bf16, or `device="cpu"`')
        pixels = sample() if sample else ()
        if not len(pixels):
            raise LookalikeError("int8 is calibrated on images: make an index with it first")
        return _int8(full, np.asarray(pixels))
    if precision == "auto" and sample is not None:
        return _quickest(full, sample(), device)
    return full


def in_f32(model: Model) -> Model | None:
    """Return the model in full precision that another was made of; None where it is not at hand.

    bf16 has the weights of f32 and only computes with less. What int8 was made of is the bundled
    model or lies in the cache folder, if anywhere: nothing is downloaded.
    """
    if model.precision == "f32":
        return model
    if model.precision == "bf16":
        again = fingerprint([model.fingerprint, "f32"])
        return replace(model, precision="f32", fingerprint=again, agreement=None)
    if BUNDLED.get(model.backbone) == model.weights:
        full = resolve(model.backbone, model.weights)
        if _int8_fingerprint(full.fingerprint, model.weights_data) == model.fingerprint:
            return full
    for folder in (cache_folder() / "models").glob("*"):
        if _int8_fingerprint(folder.name, model.weights_data) == model.fingerprint:
            with contextlib.suppress(LookalikeError):  # damaged
                return Model.load(folder)
    return None


def is_bundled(model: Model) -> bool:
    """Say whether a model was made of the weights that come with this version of lookalike."""
    if BUNDLED.get(model.backbone) != model.weights:
        return False
    full = identity(model.backbone, model.weights)
    int8 = _int8_fingerprint(full, model.weights_data)
    return model.fingerprint in (full, fingerprint([full, "bf16"]), int8)


def overlap(one: Vectors, other: Vectors, k: int = 5) -> float:
    """Return the mean share of the k nearest neighbours that two embeddings have in common.

    Both as in `overlaps`.
    """
    return float(overlaps(one, other, k).mean())


def overlaps(one: Vectors, other: Vectors, k: int = 5) -> npt.NDArray[np.float64]:
    """Return what share of its k nearest neighbours each image has in both embeddings: (n,).

    Both are float32 (n, width), of the same n > k images in the same order; every image asks for
    its neighbours among the others, by cosine.
    """
    pairs = zip(_neighbors(one, k), _neighbors(other, k), strict=True)
    return np.array([len(np.intersect1d(a, b)) / k for a, b in pairs])


def _neighbors(vectors: Vectors, k: int) -> npt.NDArray[np.intp]:
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    nearness = unit @ unit.T
    np.fill_diagonal(nearness, -np.inf)
    return np.argsort(-nearness, axis=1, kind="stable")[:, :k]


def _bf16(full: Model) -> Model:
    return replace(full, precision="bf16", fingerprint=fingerprint([full.fingerprint, "bf16"]))


def _int8(full: Model, pixels: Pixels) -> Model:
    count = _OF_DELICATE if full.backbone in _NOT_IN_INT8 else CALIBRATION
    some = pixels[:: max(len(pixels) // count, 1)][:count]
    made_of = [full.fingerprint, "int8", METHOD, _digest(some)]
    folder = cache_folder() / "models" / fingerprint(made_of)
    readable = True
    try:
        kept = replace(Model.load(folder), weights=full.weights)
        cancel_preload()
        return kept
    except Unreadable:
        readable = False
    except LookalikeError:  # not there yet, or damaged
        pass
    graph, data = quantize(full.graph, full.weights_data, some)
    model = replace(
        full,
        precision="int8",
        fingerprint=_int8_fingerprint(full.fingerprint, data),
        graph=graph,
        weights_data=data,
        network=b"",
    )
    model = replace(model, probe=engine(model)(PROBE).tobytes())
    if readable:
        model.keep(folder)
    return model


def _int8_fingerprint(full: str, data: bytes) -> str:
    """Return the fingerprint of the int8 model with these weights, made of that of f32."""
    return fingerprint([full, "int8", hashlib.blake2b(data, digest_size=16).hexdigest()])


def _quickest(full: Model, pixels: Pixels, device: str) -> Model:
    """Compare precisions on real images: both their speed and their neighbours are measured."""
    if len(pixels) < SAMPLE // 2:  # few enough to be embedded before anything is known
        return full
    makers: dict[str, Callable[[], Model]] = {"bf16": lambda: _bf16(full)}
    on_cpu = device == "cpu" and bool(full.graph)
    if on_cpu and full.backbone not in _NOT_IN_INT8 and is_installed("nncf"):
        makers = {"int8": lambda: _int8(full, pixels), **makers}
    known = [full.fingerprint, _digest(pixels), device, METHOD, *makers, *processor()]
    note = cache_folder() / "choices" / f"{fingerprint(known)}.json"
    # Not there, or damaged, or of an int8 that is gone:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, LookalikeError):
        choice = read_json(note)
        made = {"f32": lambda: full, **makers}[choice["precision"]]()
        return replace(made, agreement=choice["agreement"])

    with preload("int8" in makers):  # NNCF is imported while f32 is measured
        chosen = _compare(full, makers, pixels, device)
    with keeping():
        note.parent.mkdir(parents=True, exist_ok=True)
        about = {"precision": chosen.precision, "agreement": chosen.agreement}
        with new_file(note) as part:
            part.write_text(json.dumps(about))
    return chosen


def _compare(
    full: Model, makers: dict[str, Callable[[], Model]], pixels: Pixels, device: str
) -> Model:
    wanted, cost = _run(full, pixels, device)
    for make in makers.values():
        try:
            candidate = make()
            vectors, costs = _run(candidate, pixels, device)
        except (LookalikeError, OSError, RuntimeError):  # not every network, not on every machine
            continue
        agreement = overlap(wanted, vectors)
        if agreement >= AGREEMENT and costs < _QUICKER * cost:
            return replace(candidate, agreement=round(agreement, 4))
    return full


def _run(model: Model, pixels: Pixels, device: str) -> tuple[Vectors, float]:
    """Embed pixels; return the vectors and the seconds of work, which on a CPU are CPU seconds.

    A JVM that starts meanwhile would make whatever is measured first look slow.
    """
    clock = time.process_time if device == "cpu" else time.perf_counter
    run = engine(model, cores(), streams=cores(), device=device)
    batches = [pixels[at : at + run.batch] for at in range(0, len(pixels), run.batch)]
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(run, batches[: cores()]))  # the first ones also prepare the engine
        started = clock()
        vectors = np.concatenate(list(pool.map(run, batches)))
        return vectors, clock() - started


def _digest(pixels: Pixels) -> str:
    return hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()
