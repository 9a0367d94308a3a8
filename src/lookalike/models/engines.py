"""Engines: what turns pixels into vectors at speed. OpenVINO on CPUs, PyTorch on CUDA.

https://docs.openvino.ai/2025/openvino-workflow/running-inference.html
https://docs.pytorch.org/docs/stable/notes/cuda.html
"""

import contextlib
import logging
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from lookalike.errors import LookalikeError, either
from lookalike.extras import install, is_installed, require
from lookalike.models.graphs import check_graph

if TYPE_CHECKING:
    from lookalike.models.model import Model
    from lookalike.models.networks import FromPixels

logger = logging.getLogger(__name__)

# Its absence makes OpenVINO use its own silent stand-in: nothing is ever reported to anybody.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

DEVICES = ("auto", "cpu", "cuda")

Pixels: TypeAlias = npt.NDArray[np.uint8]
Vectors: TypeAlias = npt.NDArray[np.float32]


class Engine(Protocol):
    """A callable from pixels, uint8 (n, 224, 224, 3), to features, float32 (n, width).

    Threads may share it. `batch` is the n at which it is quickest.
    """

    batch: int

    def __call__(self, pixels: Pixels) -> Vectors:
        """Run the network on a batch of any size."""


_FIRST_CALL = threading.Lock()


class OpenVinoEngine:
    """One network compiled for this processor.

    `threads` work on the batches of `streams` callers at a time; 0 threads means all cores.
    """

    batch = 16  # what flows between the layers still fits into the caches
    _has_run = False

    def __init__(
        self, xml: bytes, weights: bytes, precision: str, threads: int, streams: int
    ) -> None:
        import openvino

        core = openvino.Core()
        options: dict[str, Any] = {
            # What a quantised network leaves in floating point is not worth rounding once more.
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # two workers would pin themselves to the same core
        }
        check_graph(xml, len(weights))
        try:
            network = core.read_model(model=xml, weights=weights)
            self._compiled = core.compile_model(network, "CPU", options)
        except RuntimeError as error:
            detail = " ".join(str(error).split())[-200:]
            raise LookalikeError(f"OpenVINO cannot run this network: {detail}") from None
        self._of_thread = threading.local()  # a request serves one caller at a time

    def __call__(self, pixels: Pixels) -> Vectors:
        """Run the network on a batch of any size."""
        if OpenVinoEngine._has_run:
            return self._run(pixels)
        # The first call in a process makes what all share. Two threads that make it at once can
        # wait for each other for ever: one for the interpreter, one for what the other makes.
        with _FIRST_CALL:
            vectors = self._run(pixels)
            OpenVinoEngine._has_run = True
            return vectors

    def _run(self, pixels: Pixels) -> Vectors:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        results = self._of_thread.request.infer(pixels, share_inputs=True)
        return np.array(results[0], dtype=np.float32)  # a copy: its own is reused


_ON_GPU = 2  # batches at a time: the copies of one overlap with the computing of the other


class TorchEngine:
    """A network in PyTorch, channels last: on CUDA, or where OpenVINO cannot convert it.

    On a CPU `threads` work on the batch of each caller; 0 threads means all cores.
    """

    def __init__(self, model: "Model", device: str, threads: int) -> None:
        require(f"the network {model.backbone}", "torch")
        import torch

        from lookalike.models.networks import FromPixels, restore

        # f32 means f32: cuDNN would otherwise round what it multiplies to ten bits. For the whole
        # process, for it knows nothing narrower: not a thread, not a call.
        torch.backends.cudnn.allow_tf32 = False
        self.batch = 256 if device == "cuda" else 16
        self._device = device
        self._streams: SimpleQueue[Any] = SimpleQueue()
        self._type = torch.bfloat16 if model.precision == "bf16" else torch.float32
        pure = restore(model.backbone, model.weights, model.network)
        network = FromPixels(pure, model.backbone).eval().requires_grad_(False)
        with _memory_of_gpu():
            self._network = network.to(device).to(memory_format=torch.channels_last)
        if device == "cuda":
            torch.cuda.synchronize()  # no other stream waits for what the default one has begun
            for _ in range(_ON_GPU):
                self._streams.put(torch.cuda.Stream())  # type: ignore[no-untyped-call]
        if device == "cpu" and threads:
            torch.set_num_threads(threads)

    def __call__(self, pixels: Pixels) -> Vectors:
        """Run the network on a batch of any size.

        On CUDA a calling thread waits for one of a few streams: each keeps memory of its own.
        Raises `LookalikeError` where that memory does not suffice.
        """
        import torch

        batch = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
        if self._device == "cuda":
            batch = batch.pin_memory()
        # What autocast keeps is the process's: one stream would use what another has yet to make.
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


@contextlib.contextmanager
def _memory_of_gpu() -> Iterator[None]:
    """Say what to do where the memory of a GPU does not suffice."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise LookalikeError(
            "the memory of the GPU is full, mostly of what other programs have there: "
            'end one of them, or set `device="cpu"`'
        ) from None


def convert(network: "FromPixels") -> tuple[bytes, bytes]:
    """Convert a network to OpenVINO's two files, returned as bytes: the graph, the weights."""
    import warnings

    import openvino
    import torch

    from lookalike.images import SIDE

    example = torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's own deprecation notes
        model = openvino.convert_model(network, example_input=example)
    model.reshape([-1, SIDE, SIDE, 3])
    return packed(model)


def packed(model: Any) -> tuple[bytes, bytes]:
    """Return OpenVINO's two files of one of its models: the graph, the weights."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, "network.xml")
        openvino.save_model(model, graph, compress_to_fp16=False)
        return graph.read_bytes(), graph.with_suffix(".bin").read_bytes()


def processor() -> list[str]:
    """Name the processor and what it does natively: what is quickest here is not so on every other.

    Virtual machines give processors of several kinds the same name.
    """
    import openvino

    core = openvino.Core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [str(core.get_property("CPU", "FULL_DEVICE_NAME")), *sorted(map(str, able))]


_NO_CUDA = "PyTorch finds no CUDA here"


@lru_cache(1)
def _why_no_cuda() -> str:
    """Say why there is no CUDA to be had, "" if there is."""
    # PyTorch takes seconds to import: first a look at whether there is a driver at all.
    if not (Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi")):
        return _NO_CUDA
    if not is_installed("torch"):
        return f"the GPU here needs PyTorch ({install('torch')})"
    import torch

    if not torch.cuda.is_available():
        return _NO_CUDA
    try:  # it may be a card that this PyTorch was not built for, or one whose memory is taken
        tiny = torch.ones(1, 1, 8, 8, device="cuda")
        torch.nn.functional.conv2d(tiny, tiny).item()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0][:200]
        return f"PyTorch cannot use the GPU here ({reason})"
    return ""


_warn_once = lru_cache(logger.warning)


def find_device(wanted: str = "auto") -> str:
    """Return `cuda` or `cpu` for one of `DEVICES`; `LookalikeError` where it is not to be had."""
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


_MODELS_AT_ONCE = 4
_SAME = 0.995  # cosine of two vectors of one picture, on whatever processors; less is overflow


@lru_cache(_MODELS_AT_ONCE)
def _engine(model: "Model", threads: int, streams: int, device: str) -> Engine:
    if device == "cuda" and model.network and not _why_no_cuda():
        return TorchEngine(model, "cuda", threads)
    if not model.graph:
        return TorchEngine(model, "cpu", max(threads // streams, 1) if threads else 0)
    made = OpenVinoEngine(model.graph, model.weights_data, model.precision, threads, streams)
    if model.probe:
        _compare(np.frombuffer(model.probe, np.float32), made(PROBE)[0])
    return made


PROBE: Pixels = np.random.default_rng(0).integers(0, 256, (1, 7, 7, 3), np.uint8)
PROBE = PROBE.repeat(32, axis=1).repeat(32, axis=2)
"""A picture of coloured squares, by whose vector an engine is known again: (1, 224, 224, 3)."""


def _compare(wanted: Vectors, given: Vectors) -> None:
    """Raise `LookalikeError` unless two vectors (width,) are those of one picture."""
    lengths = float(np.linalg.norm(wanted) * np.linalg.norm(given))
    cosine = float(wanted @ given) / max(lengths, 1e-30)
    if not cosine > _SAME:
        raise LookalikeError(
            "this processor computes int8 otherwise than the one where the network was calibrated "
            f"(cosine {cosine:.3f}): use one with VNNI, or index again with `overwrite=True`"
        )


def engine(model: "Model", threads: int = 0, streams: int = 1, device: str = "cpu") -> Engine:
    """Return the engine of a model, made once a process.

    A worker without CUDA falls back to its processor, whatever the driver has.
    """
    return _engine(model, threads, streams, device)
