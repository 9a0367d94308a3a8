"""Run networks: OpenVINO on CPUs, PyTorch on CUDA.

https://docs.openvino.ai/2025/openvino-workflow/running-inference.html
https://docs.pytorch.org/docs/stable/notes/cuda.html
"""

import contextlib
import json
import logging
import shutil
import sys
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from lookalike.errors import LookalikeError, either
from lookalike.models.callables import CallableEngine
from lookalike.models.ir_validation import check_graph
from lookalike.system.arrays import Pixels, Vectors
from lookalike.system.extras import install, is_installed, require

if TYPE_CHECKING:
    from torch import nn

    from lookalike.models.model import Model
    from lookalike.models.networks import Scale


logger = logging.getLogger(__name__)

# Without this package OpenVINO reports nothing to anybody.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

DEVICES = ("auto", "cpu", "cuda")


class Engine(Protocol):
    """A callable from pixels, uint8 (n, height, width, 3), to features, float32 (n, width).

    Threads may share it. `batch` is the fastest n.
    """

    batch: int

    def __call__(self, pixels: Pixels) -> Vectors:
        """Run the network on a batch of any size."""


_FIRST_CALL = threading.Lock()


class OpenVinoEngine:
    """A network compiled for this processor.

    `threads`, 0 for all cores, work on the batches of up to `streams` callers at a time.
    """

    batch = 16  # activations still fit into the processor's caches
    _has_run = False

    def __init__(
        self, xml: bytes, weights: bytes, precision: str, threads: int, streams: int
    ) -> None:
        import openvino

        core = openvino.Core()
        options: dict[str, Any] = {
            # The layers that int8 leaves in floating point stay in f32.
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # else two workers use the same core
        }
        check_graph(xml, len(weights))
        try:
            network = core.read_model(model=xml, weights=weights)
            self._compiled = core.compile_model(network, "CPU", options)
        except RuntimeError as error:
            detail = " ".join(str(error).split())[-200:]
            raise LookalikeError(f"OpenVINO cannot run this network: {detail}") from None
        self._of_thread = threading.local()  # a request serves one caller at a time
        count = network.input(0).get_partial_shape()[0]
        self._count = count.get_length() if count.is_static else 0

    def __call__(self, pixels: "Pixels | npt.NDArray[np.int64]") -> Vectors:
        """Run the network on a batch of any size: pixels, or the tokens of texts."""
        if OpenVinoEngine._has_run:
            return self._run(pixels)
        # The first call in a process creates shared state. Two threads that create it at the same
        # time can deadlock: one holds the interpreter's lock, the other OpenVINO's.
        with _FIRST_CALL:
            vectors = self._run(pixels)
            OpenVinoEngine._has_run = True
            return vectors

    def _run(self, pixels: "Pixels | npt.NDArray[np.int64]") -> Vectors:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        if self._count and len(pixels) != self._count:
            return self._run_in_parts(pixels)
        results = self._of_thread.request.infer(pixels, share_inputs=True)
        return np.array(results[0], dtype=np.float32)  # a copy: OpenVINO reuses its buffer

    def _run_in_parts(self, pixels: "Pixels | npt.NDArray[np.int64]") -> Vectors:
        """Run a network that takes batches of one size: the last one is filled up."""
        parts = []
        for at in range(0, len(pixels), self._count):
            part = pixels[at : at + self._count]
            filled = np.concatenate([part, part[-1:].repeat(self._count - len(part), axis=0)])
            parts.append(self._run(filled)[: len(part)])
        return np.concatenate(parts)


_CUDA_STREAMS = 2  # one copies while the other computes


class TorchEngine:
    """A network in PyTorch, for CUDA, and for networks that OpenVINO cannot convert.

    On a CPU, `threads`, 0 for all cores, work on the batch of each caller.
    """

    def __init__(self, model: "Model", device: str, threads: int) -> None:
        require(f"the network {model.backbone}", "torch")
        import torch

        from lookalike.models.networks import FromPixels

        # Else cuDNN rounds f32 factors to ten bits. The switch is for the whole process.
        torch.backends.cudnn.allow_tf32 = False
        self.batch = 256 if device == "cuda" else 16
        self._device = device
        self._streams: SimpleQueue[Any] = SimpleQueue()
        self._type = torch.bfloat16 if model.precision == "bf16" else torch.float32
        pure, scale = _restored(model)
        network = FromPixels(pure, model.backbone, scale).eval().requires_grad_(False)
        with _memory_of_gpu():
            self._network = network.to(device).to(memory_format=torch.channels_last)
        if device == "cuda":
            torch.cuda.synchronize()  # other streams do not wait for the default one
            for _ in range(_CUDA_STREAMS):
                self._streams.put(torch.cuda.Stream())  # type: ignore[no-untyped-call]
        if device == "cpu" and threads:
            torch.set_num_threads(threads)

    def __call__(self, pixels: Pixels) -> Vectors:
        """Run the network on a batch of any size.

        On CUDA, callers wait for one of a few streams, each of which has its own memory. Raises
        `LookalikeError` if the GPU's memory is full.
        """
        import torch

        batch = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
        if self._device == "cuda":
            batch = batch.pin_memory()
        # Autocast's cache is shared by streams, which do not wait for each other.
        mixed = torch.autocast(
            self._device, self._type, enabled=self._type != torch.float32, cache_enabled=False
        )
        with torch.inference_mode(), self._stream(), _memory_of_gpu(), mixed:
            features = self._network(batch.to(self._device, non_blocking=True))
            vectors: Vectors = features.float().cpu().numpy()
        return vectors

    @contextlib.contextmanager
    def _stream(self) -> Iterator[None]:
        import torch

        if self._device != "cuda":
            yield
            return
        stream = self._streams.get()
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            self._streams.put(stream)


def _restored(model: "Model") -> "tuple[nn.Module, Scale | None]":
    """Make the network of a model from its tensors; return its mean and deviation if it has own."""
    from lookalike.models import libraries, networks

    if not model.architecture:
        return networks.restore(model.backbone, model.weights, model.network), None
    try:
        about = json.loads(model.architecture)
        mean, deviation = ([float(part) for part in parts] for parts in about["scale"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise LookalikeError(f"no description of a network ({error}): index again") from None
    return libraries.restore(about, model.network), (mean, deviation)


@contextlib.contextmanager
def _memory_of_gpu() -> Iterator[None]:
    """Raise `LookalikeError` with advice if the GPU's memory is full."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise LookalikeError(
            "the memory of the GPU is full, mostly of other programs' data: "
            'end one of them, or set `device="cpu"`'
        ) from None


def processor() -> list[str]:
    """Return the processor's name and its native precisions, to key measured speeds.

    Virtual machines give different processors the same name.
    """
    import openvino

    core = openvino.Core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [str(core.get_property("CPU", "FULL_DEVICE_NAME")), *sorted(map(str, able))]


_NO_CUDA = "PyTorch finds no CUDA here"


@lru_cache(1)
def _why_no_cuda() -> str:
    """Return why CUDA is unavailable, "" if it is available."""
    # Look for a driver first: importing PyTorch takes seconds.
    if not (Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi")):
        return _NO_CUDA
    if not is_installed("torch"):
        return f"the GPU here needs PyTorch ({install('torch')})"
    import torch

    if not torch.cuda.is_available():
        return _NO_CUDA
    try:  # the card may be unsupported, or its memory full
        tiny = torch.ones(1, 1, 8, 8, device="cuda")
        torch.nn.functional.conv2d(tiny, tiny).item()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0][:200]
        return f"PyTorch cannot use the GPU here ({reason})"
    return ""


_warn_once = lru_cache(logger.warning)


def find_device(wanted: str = "auto") -> str:
    """Return `cuda` or `cpu` for one of `DEVICES`; raise `LookalikeError` if it is unavailable."""
    if wanted not in DEVICES:
        raise LookalikeError(f"unknown device {wanted!r}: choose {either(DEVICES)}")
    if wanted == "cpu":
        return "cpu"
    why_not = _why_no_cuda()
    if why_not and wanted == "cuda":
        raise LookalikeError(f'{why_not}: leave `device` out, or set `device="cpu"`')
    if why_not and why_not != _NO_CUDA:
        _warn_once(f"{why_not}: the processor does the work")
    return "cpu" if why_not else "cuda"


_CACHED_ENGINES = 4
_MIN_PROBE_COSINE = 0.995  # between processors; less means overflow


@lru_cache(_CACHED_ENGINES)
def _engine(model: "Model", threads: int, streams: int, device: str) -> Engine:
    if device == "cuda" and model.network and not _why_no_cuda():
        return TorchEngine(model, "cuda", threads)
    if not model.graph:
        return TorchEngine(model, "cpu", max(threads // streams, 1) if threads else 0)
    made = OpenVinoEngine(model.graph, model.weights_data, model.precision, threads, streams)
    if model.probe:
        _check_probe(np.frombuffer(model.probe, np.float32), made(probe(model))[0])
    return made


_SQUARES = np.random.default_rng(0).integers(0, 256, (7, 7, 3), np.uint8)


def probe(model: "Model") -> Pixels:
    """Return an image of coloured squares, uint8 (1, height, width, 3), which checks an engine."""
    rows, columns = (np.arange(side) * 7 // side for side in model.input.crop)
    return np.ascontiguousarray(_SQUARES[rows][:, columns][None])


def _check_probe(expected: Vectors, actual: Vectors) -> None:
    """Raise `LookalikeError` unless two vectors (width,) agree."""
    lengths = float(np.linalg.norm(expected) * np.linalg.norm(actual))
    cosine = float(expected @ actual) / max(lengths, 1e-30)
    if not cosine > _MIN_PROBE_COSINE:
        raise LookalikeError(
            "this processor computes int8 otherwise than the one where the network was calibrated "
            f"(cosine {cosine:.3f}): use one with VNNI, or index again with `overwrite=True`"
        )


def engine(model: "Model", threads: int = 0, streams: int = 1, device: str = "cpu") -> Engine:
    """Return the engine of a model, created once for each process.

    Parameters
    ----------
    model
        The model.
    threads
        Threads that the network uses, 0 for all cores.
    streams
        Callers that are served at the same time.
    device
        "cpu" or "cuda". A worker without CUDA uses its CPU.
    """
    model.check_runs()
    if model.function is not None:  # not kept: another function may have the name
        return CallableEngine(model.function, model.width)
    return _engine(model, threads, streams, device)
