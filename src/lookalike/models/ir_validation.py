"""Validate the graph of an untrusted network before OpenVINO reads it.

An index contains its model, and anyone may have written it. OpenVINO's reader accepts every format
it knows, some of which refer to other files, and trusts sizes and depths: sums that overflow make
it read beyond the weights. Graphs of lookalike need none of that.
https://docs.openvino.ai/2025/documentation/openvino-ir-format.html
"""

import math
import re
from typing import NoReturn
from xml.parsers import expat

from lookalike.errors import LookalikeError

_MAX_DEPTH = 12  # of nested elements; networks have 6
_OPSET = re.compile(r"opset\d+")
# Size of constants in bits. Strings are not allowed: they would be addresses in the weights.
_BITS = {"boolean": 8, "u8": 8, "i8": 8, "u16": 16, "i16": 16, "f16": 16, "bf16": 16, "u32": 32}
_BITS |= {"i32": 32, "f32": 32, "u64": 64, "i64": 64, "f64": 64, "u4": 4, "i4": 4}


def check_graph(graph: bytes, weights: int) -> None:
    """Check that a graph consists of OpenVINO's own operations and stays within its weights.

    Parameters
    ----------
    graph
        XML in OpenVINO's format.
    weights
        The size of the weights in bytes.

    Raises
    ------
    LookalikeError
        If a constant is outside the weights, or a part refers to other files, contains another
        network, or is nested too deeply.

    """
    parser = expat.ParserCreate()
    names: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        names.append(name)
        if names[0] != "net" or len(names) > _MAX_DEPTH or name in ("body", "pre-process"):
            raise ValueError(f"{name} is not expected there")
        if name == "layer" and not _OPSET.fullmatch(attributes.get("version", "")):
            raise ValueError(f"an operation of {attributes.get('version')!r}")
        if name == "data" and not attributes.keys().isdisjoint(("offset", "size")):
            _check_constant(attributes, weights)

    def end(_: str) -> None:
        names.pop()

    def doctype(*_: object) -> NoReturn:
        raise ValueError("a document type")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(graph, True)
    except (expat.ExpatError, ValueError, KeyError) as error:
        raise LookalikeError(
            f"no network that lookalike made, so it was not loaded ({error}): index again"
        ) from None


def _check_constant(attributes: dict[str, str], weights: int) -> None:
    """Raise `ValueError` or `KeyError` for a constant outside the weights."""
    offset, size = int(attributes["offset"]), int(attributes["size"])
    shape = [int(number) for number in attributes["shape"].split(",") if number.strip()]
    needed = -(-math.prod(shape) * _BITS[attributes["element_type"]] // 8)
    if min(offset, size, *shape, 0) < 0 or offset + size > weights or size != needed:
        raise ValueError("a constant that is not within its weights")
