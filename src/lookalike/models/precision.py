"""Convert models to f32, bf16 or int8, and choose the fastest whose neighbours agree with f32."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lookalike.errors import LookalikeError, Unreadable, either
from lookalike.models import lite0_package
from lookalike.models.model import Model, fingerprint
from lookalike.models.quantization import METHOD, cancel_preload, preload, quantize
from lookalike.models.resolution import identity, resolve
from lookalike.models.runtimes import engine, probe, processor
from lookalike.models.weights import BUNDLED
from lookalike.system.arrays import Pixels, Vectors
from lookalike.system.cache import cache_folder, ignore_cache_errors
from lookalike.system.extras import is_installed
from lookalike.system.files import new_file
from lookalike.system.resources import cores
from lookalike.system.untrusted import read_json

PRECISIONS = ("auto", "f32", "bf16", "int8")
SAMPLE_IMAGES = 256  # on which precisions are compared
CALIBRATION_IMAGES = 32  # of the sample, which set the ranges of int8
_LITE0_CALIBRATION_IMAGES = 256
MIN_AGREEMENT = 0.95  # share of the five nearest neighbours that are those of f32
_LOSES_IN_INT8 = {lite0_package.NAME}  # keeps 92 % of its neighbours at best: `auto` skips int8
_MAX_COST = 0.85  # of the time of f32, for a lower precision to be worth it


def check_precision(precision: str) -> None:
    """Raise `LookalikeError` for an unknown precision."""
    if precision not in PRECISIONS:
        raise LookalikeError(f"unknown precision {precision!r}: choose {either(PRECISIONS)}")


def at_precision(
    full: Model, precision: str, sample: Callable[[], Pixels] | None = None, device: str = "cpu"
) -> Model:
    """Convert a full-precision model to another precision.

    Parameters
    ----------
    full
        A model in f32.
    precision
        One of `PRECISIONS`. `auto` chooses the first of int8 (if NNCF is installed), bf16 and f32
        that is faster than f32 and agrees with it on the sample, and f32 without a sample. The
        choice is cached for the same images and processor.
    sample
        Returns images, uint8 (n, height, width, 3), which also calibrate int8.
    device
        "cpu" or "cuda".

    Raises
    ------
    LookalikeError
        If int8 lacks images, or the model or device does not support it.
    """
    check_precision(precision)
    if full.is_callable:
        if precision not in ("auto", "f32"):
            raise LookalikeError(f"{full.backbone} has its own precision: leave `precision` out")
        return full
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
    """Return the full-precision model that another was made from; None if it is not available.

    bf16 has the weights of f32. The original of int8 is the bundled model or in the cache folder;
    nothing is downloaded.
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
    """Tell whether a model was made from the weights bundled with this version of lookalike."""
    if BUNDLED.get(model.backbone) != model.weights:
        return False
    full = identity(model.backbone, model.weights)
    int8 = _int8_fingerprint(full, model.weights_data)
    return model.fingerprint in (full, fingerprint([full, "bf16"]), int8)


def overlap(one: Vectors, other: Vectors, k: int = 5) -> float:
    """Return the mean of `overlaps`: the share of nearest neighbours in common."""
    return float(overlaps(one, other, k).mean())


def overlaps(one: Vectors, other: Vectors, k: int = 5) -> npt.NDArray[np.float64]:
    """Return, for each image, the share of its k nearest neighbours that two embeddings share.

    Parameters
    ----------
    one, other
        float32 (n, width), of the same n > k images in the same order.
    k
        Neighbours among the other images, by cosine.

    Returns
    -------
    float64 (n,), in 0..1.
    """
    pairs = zip(_neighbors(one, k), _neighbors(other, k), strict=True)
    return np.array([len(np.intersect1d(a, b)) / k for a, b in pairs])


def _neighbors(vectors: Vectors, k: int) -> npt.NDArray[np.intp]:
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return np.argsort(-cosines, axis=1, kind="stable")[:, :k]


def _bf16(full: Model) -> Model:
    return replace(full, precision="bf16", fingerprint=fingerprint([full.fingerprint, "bf16"]))


def _int8(full: Model, pixels: Pixels) -> Model:
    count = _LITE0_CALIBRATION_IMAGES if full.backbone in _LOSES_IN_INT8 else CALIBRATION_IMAGES
    sample = pixels[:: max(len(pixels) // count, 1)][:count]
    made_of = [full.fingerprint, "int8", METHOD, _digest(sample)]
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
    graph, data = quantize(full.graph, full.weights_data, sample)
    model = replace(
        full,
        precision="int8",
        fingerprint=_int8_fingerprint(full.fingerprint, data),
        graph=graph,
        weights_data=data,
        network=b"",
    )
    model = replace(model, probe=engine(model)(probe(model)).tobytes())
    if readable:
        model.keep(folder)
    return model


def _int8_fingerprint(full: str, data: bytes) -> str:
    """Return the fingerprint of the int8 model with these weights, made from an f32 model."""
    return fingerprint([full, "int8", hashlib.blake2b(data, digest_size=16).hexdigest()])


def _quickest(full: Model, pixels: Pixels, device: str) -> Model:
    """Choose a precision by measured speed and neighbours on real images."""
    if len(pixels) < SAMPLE_IMAGES // 2:  # embedding them in f32 is faster than measuring
        return full
    makers: dict[str, Callable[[], Model]] = {"bf16": lambda: _bf16(full)}
    on_cpu = device == "cpu" and bool(full.graph)
    if on_cpu and full.backbone not in _LOSES_IN_INT8 and is_installed("nncf"):
        makers = {"int8": lambda: _int8(full, pixels), **makers}
    known = [full.fingerprint, _digest(pixels), device, METHOD, *makers, *processor()]
    note = cache_folder() / "choices" / f"{fingerprint(known)}.json"
    # The note may be missing or damaged, or its int8 model gone.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, LookalikeError):
        choice = read_json(note)
        made = {"f32": lambda: full, **makers}[choice["precision"]]()
        return replace(made, agreement=choice["agreement"])

    with preload("int8" in makers):  # NNCF is imported while f32 is measured
        chosen = _compare(full, makers, pixels, device)
    with ignore_cache_errors():
        note.parent.mkdir(parents=True, exist_ok=True)
        about = {"precision": chosen.precision, "agreement": chosen.agreement}
        with new_file(note) as part:
            part.write_text(json.dumps(about))
    return chosen


def _compare(
    full: Model, makers: dict[str, Callable[[], Model]], pixels: Pixels, device: str
) -> Model:
    reference, full_seconds = _embed_timed(full, pixels, device)
    for make in makers.values():
        try:
            candidate = make()
            vectors, seconds = _embed_timed(candidate, pixels, device)
        except (LookalikeError, OSError, RuntimeError):  # not supported by this network or machine
            continue
        agreement = overlap(reference, vectors)
        if agreement >= MIN_AGREEMENT and seconds < _MAX_COST * full_seconds:
            return replace(candidate, agreement=round(agreement, 4))
    return full


def _embed_timed(model: Model, pixels: Pixels, device: str) -> tuple[Vectors, float]:
    """Embed pixels; return the vectors and the seconds, on a CPU in CPU time.

    Wall time would depend on other work, such as a JVM that starts.
    """
    clock = time.process_time if device == "cpu" else time.perf_counter
    run = engine(model, cores(), streams=cores(), device=device)
    batches = [pixels[at : at + run.batch] for at in range(0, len(pixels), run.batch)]
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(run, batches[: cores()]))  # warm-up
        started = clock()
        vectors = np.concatenate(list(pool.map(run, batches)))
        return vectors, clock() - started


def _digest(pixels: Pixels) -> str:
    return hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()
