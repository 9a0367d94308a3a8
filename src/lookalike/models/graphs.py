"""The graph of a network, looked through before OpenVINO reads it.

An index brings its model along, and may come from anybody. OpenVINO's reader takes what it is given
for any of the formats it knows, some of which name other files, and trusts sizes and depths in it:
a sum that overflows has it read beyond the weights. Graphs that lookalike makes need none of that.
https://docs.openvino.ai/2025/documentation/openvino-ir-format.html
"""

import math
import re
from typing import NoReturn
from xml.parsers import expat

from lookalike.errors import LookalikeError

_DEEPEST = 12  # elements inside each other; convolutions to transformers have 6
_OPSET = re.compile(r"opset\d+")
# Of constants, in bits. Strings are none of them: they would be addresses in the weights.
_BITS = {"boolean": 8, "u8": 8, "i8": 8, "u16": 16, "i16": 16, "f16": 16, "bf16": 16, "u32": 32}
_BITS |= {"i32": 32, "f32": 32, "u64": 64, "i64": 64, "f64": 64, "u4": 4, "i4": 4}


def check_graph(graph: bytes, weights: int) -> None:
    """Raise `LookalikeError` unless a graph is made of OpenVINO's own operations and is sound.

    `graph` is XML, `weights` the count of bytes in the other file. Constants lie within it, and no
    part refers to other files, holds a network of its own, or is nested without end.
    """
    parser = expat.ParserCreate()
    names: list[str] = []

    def start(name: str, given: dict[str, str]) -> None:
        names.append(name)
        if names[0] != "net" or len(names) > _DEEPEST or name in ("body", "pre-process"):
            raise ValueError(f"{name} is not expected there")
        if name == "layer" and not _OPSET.fullmatch(given.get("version", "")):
            raise ValueError(f"an operation of {given.get('version')!r}")
        if name == "data" and not given.keys().isdisjoint(("offset", "size")):
            _check_constant(given, weights)

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


def _check_constant(given: dict[str, str], weights: int) -> None:
    """Raise `ValueError` or `KeyError` unless a constant lies in so many bytes of weights."""
    offset, size = int(given["offset"]), int(given["size"])
    shape = [int(number) for number in given["shape"].split(",") if number.strip()]
    needed = -(-math.prod(shape) * _BITS[given["element_type"]] // 8)
    if min(offset, size, *shape, 0) < 0 or offset + size > weights or size != needed:
        raise ValueError("a constant that is not within its weights")
