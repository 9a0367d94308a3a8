"""A network in an ONNX file, which OpenVINO reads without the onnx package.

https://docs.openvino.ai/2025/openvino-workflow/model-preparation/convert-model-onnx.html
"""

import hashlib
import json
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.errors import LookalikeError, one_line
from lookalike.images import Preprocessing
from lookalike.images.decoding.raster import DEVIATION, MEAN, SIDE
from lookalike.models.ir_validation import check_graph
from lookalike.models.libraries.descriptions import of_processor
from lookalike.models.libraries.loaded import Input
from lookalike.models.openvino_ir import packed
from lookalike.models.runtimes import OpenVinoEngine

_SUFFIX = ".onnx"
_DESCRIPTION = "preprocessor_config.json"
_USUAL_OUTPUTS = ("image_embeds", "embeddings", "embedding", "pooler_output", "features")
"""Names of the output with the vector where there are several, as exporters call it."""
_MAX_SHOWN = 6  # names of outputs in a message
_LOCATION = b"\x0a\x08location\x12"
"""In a file whose weights lie in others: the key with the name of one, as protobuf writes it."""


@dataclass(frozen=True)
class OnnxNetwork:
    """A network from pixels to vectors, in OpenVINO's format; `identity` is what defines it."""

    name: str
    width: int
    input: Input
    graph: bytes
    data: bytes
    identity: list[str]


def is_onnx(name: str) -> bool:
    """Tell whether a name is that of an ONNX file, with or without `#OUTPUT`.

    >>> is_onnx("photo.onnx"), is_onnx("photo.onnx#image_embeds"), is_onnx("resnet18")
    (True, True, False)
    """
    return _split(name)[0].lower().endswith(_SUFFIX)


def _split(name: str) -> tuple[str, str]:
    file, hash_, output = name.rpartition("#")
    if hash_ and file.lower().endswith(_SUFFIX):
        return file, output
    return name, ""


def load(name: str) -> OnnxNetwork:
    """Read an ONNX file whose input is images and whose output is one vector for each.

    Resize, mean and deviation are those of `preprocessor_config.json` beside the file; without one
    images are squashed to the size of its input, and have ImageNet's mean and deviation. An input
    of uint8 gets pixels as they are.

    Parameters
    ----------
    name
        The file, with `#OUTPUT` where it has several outputs.

    Raises
    ------
    LookalikeError
        If there is no such file, or its inputs and outputs are others.
    """
    import openvino

    file, output = _split(name)
    path = Path(file)
    if not path.is_file():
        raise LookalikeError(f"no such file: {file}")
    try:
        model = openvino.Core().read_model(str(path))
    except RuntimeError as error:
        raise LookalikeError(f"OpenVINO cannot read {file}: {_last(error)}") from None
    model = _only(model, _image_input(model, file), _output(model, output, file))
    layout, high, wide, batch = _layout(model, file)
    described = _description(path, (high, wide))
    high, wide, _ = described.preprocessing.shape
    is_raw = model.input(0).get_element_type() == openvino.Type.u8
    # The shape in the file may be the one that it was exported with, and any would do.
    for count in dict.fromkeys((-1, batch)):
        try:
            graph, data = _packed(model.clone(), layout, (count, high, wide), described, is_raw)
            check_graph(graph, len(data))
            width = _width(graph, data, (high, wide))
            break
        except (RuntimeError, ValueError, LookalikeError) as error:
            reason = error
    else:
        raise LookalikeError(f"{file} gives no vectors: {_last(reason)}")
    return OnnxNetwork(
        path.stem, width, described, graph, data, _identity(path, output, described, data)
    )


def _identity(path: Path, output: str, about: Input, data: bytes) -> list[str]:
    """Return what defines the vectors: the file, weights that lie beside it, and its input."""
    with path.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as content:
        digest = hashlib.blake2b(content).hexdigest()
        is_whole = content.find(_LOCATION) < 0
    weights = "" if is_whole else hashlib.blake2b(data, digest_size=16).hexdigest()
    scale = json.dumps([about.mean, about.deviation])
    return [digest, weights, output, about.preprocessing.name, scale]


def _image_input(model: Any, file: str) -> Any:
    found = [one for one in model.inputs if one.get_partial_shape().rank == 4]
    if len(found) != 1:
        shapes = ", ".join(f"{_name(one)} {one.get_partial_shape()}" for one in model.inputs)
        raise LookalikeError(
            f"{file} has the inputs {shapes}: give a file with one input of images, "
            "(n, 3, height, width)"
        )
    kind = found[0].get_element_type().get_type_name()
    if kind not in ("f32", "f16", "u8"):
        raise LookalikeError(f"{file} takes images of {kind}: export it with float32 or uint8")
    return found[0]


def _output(model: Any, wanted: str, file: str) -> Any:
    """Return the output with the vectors: the named one, the only one, or one of a usual name."""
    outputs = {_name(one): one for one in model.outputs}
    shown = ", ".join(f"{n} {o.get_partial_shape()}" for n, o in list(outputs.items())[:_MAX_SHOWN])
    if wanted:
        if wanted not in outputs:
            raise LookalikeError(f"{file} has no output {wanted!r}: choose one of {shown}")
        return outputs[wanted]
    if len(outputs) == 1:
        return model.output(0)
    for name in _USUAL_OUTPUTS:
        if name in outputs:
            return outputs[name]
    raise LookalikeError(
        f"{file} has the outputs {shown}: add #NAME to the file's name to choose one"
    )


def _name(port: Any) -> str:
    names = sorted(port.get_names())
    return str(names[0]) if names else "?"


def _only(model: Any, image: Any, output: Any) -> Any:
    """Return the part of a network between its images and an output."""
    import openvino

    if len(model.inputs) == len(model.outputs) == 1:
        return model
    try:
        source = output.get_node().input_value(0)
        return openvino.Model([source], [image.get_node()])
    except RuntimeError:
        raise LookalikeError(
            f"the output {_name(output)} needs other inputs than images: choose another output"
        ) from None


def _layout(model: Any, file: str) -> tuple[str, int | None, int | None, int]:
    """Return the layout of the input, its height and width where they are fixed, and its batch."""
    shape = model.input(0).get_partial_shape()
    sizes = [int(one.get_length()) if one.is_static else None for one in shape]
    if sizes[1] == 3 or (sizes[1] is None and sizes[3] != 3):
        layout, high, wide = "NCHW", sizes[2], sizes[3]
    elif sizes[3] == 3:
        layout, high, wide = "NHWC", sizes[1], sizes[2]
    else:
        raise LookalikeError(
            f"{file} takes {shape}: export it with red, green and blue, (n, 3, height, width)"
        )
    return layout, high, wide, sizes[0] or 1


def _description(path: Path, fixed: tuple[int | None, int | None]) -> Input:
    """Return how the input is made, by the description beside the file or else by its shape."""
    folders = [path.parent]
    if path.parent.name == "onnx":  # exporters write `onnx/model.onnx` too
        folders.append(path.parent.parent)
    beside = next((f / _DESCRIPTION for f in folders if (f / _DESCRIPTION).is_file()), None)
    if beside is not None:
        try:
            found = of_processor(json.loads(beside.read_text()))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise LookalikeError(f"{beside} describes no images: {one_line(error)}") from None
        crop = found.preprocessing.crop
        if any(side not in (None, other) for side, other in zip(fixed, crop, strict=True)):
            raise LookalikeError(
                f"{beside} makes images of {crop}, but {path.name} takes {fixed}: give the "
                "description of this network"
            )
        return found
    size = fixed[0] or fixed[1] or SIDE, fixed[1] or fixed[0] or SIDE
    try:
        return Input(Preprocessing("squash", size, "bilinear", size), MEAN, DEVIATION)
    except ValueError as error:
        raise LookalikeError(f"{path.name} takes {error}") from None


def _packed(
    model: Any, layout: str, shape: tuple[int, int, int], about: Input, is_raw: bool
) -> tuple[bytes, bytes]:
    """Return a network from pixels, uint8 (n, height, width, 3), in OpenVINO's format."""
    import openvino
    from openvino import Layout, Type
    from openvino.preprocess import PrePostProcessor

    count, high, wide = shape
    sizes = [count, 3, high, wide] if layout == "NCHW" else [count, high, wide, 3]
    model.reshape(openvino.PartialShape(sizes))
    processor = PrePostProcessor(model)
    image = processor.input()
    image.tensor().set_element_type(Type.u8).set_layout(Layout("NHWC"))
    image.model().set_layout(Layout(layout))
    if not is_raw:
        image.preprocess().convert_element_type(Type.f32)
        image.preprocess().mean([255 * part for part in about.mean])
        image.preprocess().scale([255 * part for part in about.deviation])
    processor.output().tensor().set_element_type(Type.f32)
    return packed(_flat(processor.build()))


def _flat(model: Any) -> Any:
    """Return the network with an output of two dimensions, where the others have one element."""
    import openvino
    from openvino import opset13 as ops

    shape = model.output(0).get_partial_shape()
    if len(shape) == 2:
        return model
    rest = [int(one.get_length()) if one.is_static else 0 for one in list(shape)[2:]]
    if len(shape) < 2 or any(one != 1 for one in rest):
        raise LookalikeError(
            f"its output is {shape}: export it with one vector for each image, (n, d)"
        )
    source = model.output(0).get_node().input_value(0)
    flat = ops.reshape(source, np.array([0, -1]), special_zero=True)
    return openvino.Model([flat], model.get_parameters())


def _width(graph: bytes, data: bytes, size: tuple[int, int]) -> int:
    """Return the width of the vectors; raise `LookalikeError` if each image has not its own."""
    run = OpenVinoEngine(graph, data, "f32", 0, 1)
    pixels = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    together = run(pixels)
    alone = np.concatenate([run(pixels[at : at + 1]) for at in range(3)])
    if together.ndim != 2 or together.shape != alone.shape:
        raise LookalikeError(f"three images give {together.shape}, not (3, d)")
    if not np.allclose(together, alone, rtol=0, atol=1e-3 * max(np.abs(alone).max(), 1e-30)):
        raise LookalikeError("the vector of an image depends on the others of its batch")
    return int(together.shape[1])


def _last(error: Exception) -> str:
    """Return the end of a message of OpenVINO, where the reason is."""
    return " ".join(str(error).split())[-200:]
