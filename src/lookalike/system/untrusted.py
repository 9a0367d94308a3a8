"""What may have come from anybody, read within bounds: JSON, arrays, the types that Parquet names.

Nothing here runs what it reads: no pickle is loaded, no module imported, no class looked up. What
an index says that becomes part of a path is checked here as well: `is_hash`, `inner_names`.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.system.cache import map_sealed

_HASH = re.compile("[0-9a-f]{32}")
# As Delta's writers name data files. None begins with a dot, or holds what globs, shells and URIs
# take for something else.
_INNER = r"\A([0-9A-Za-z_=-][0-9A-Za-z_=.-]*/)*[0-9A-Za-z_=-][0-9A-Za-z_=.-]*\.parquet\z"
_MOST = 2**20  # bytes of a JSON file: a thousand times what any of ours has


def is_hash(text: str) -> bool:
    """Say whether a text is a hash of content as we write it, which leads to nothing as a path."""
    return _HASH.fullmatch(text) is not None


def inner_names(names: pa.StringArray | pa.ChunkedArray) -> None:
    """Raise `ValueError` unless names of data files, as a log has them, lie below the index."""
    strange = names.filter(pc.invert(pc.fill_null(pc.match_substring_regex(names, _INNER), False)))
    if len(strange):
        name = str(strange[0])[:200]
        raise ValueError(f"its log names a data file outside the index: {name!r}")


def inner_name(name: str) -> str:
    """Return a plain name of a file; `ValueError` for what leads elsewhere."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"no name of a file: {name[:40]!r}")
    return name


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object. Raises `OSError`, or `ValueError` for what is none or is very large."""
    with file.open("rb") as opened:
        content = opened.read(_MOST + 1)
    if len(content) > _MOST:
        raise ValueError(f"{file.name} is over {_MOST:,} bytes")
    try:
        found = json.loads(content)
    except RecursionError:
        raise ValueError(f"{file.name} is nested without end") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} is no JSON object")
    return found


def map_array(file: Path, *, all_of_it: bool = False) -> npt.NDArray[Any]:
    """Map a sealed array that `np.save` wrote, to be read. Raises `OSError`, `ValueError`.

    `np.load` would take an archive or a pickle for an array by what is in the file.
    """
    content = map_sealed(file, all_of_it=all_of_it)
    opened = pa.BufferReader(content)
    if np.lib.format.read_magic(opened) != (1, 0):
        raise ValueError(f"{file.name} is of a later format")
    shape, by_columns, kind = np.lib.format.read_array_header_1_0(opened)
    if kind.hasobject:
        raise ValueError(f"{file.name} holds objects")
    array = np.frombuffer(content, kind, math.prod(shape), opened.tell())
    return array.reshape(shape, order="F" if by_columns else "C")


def read_arrays(file: Path | BinaryIO) -> dict[str, npt.NDArray[Any]]:
    """Read arrays that `np.savez` wrote. Raises `OSError`, or `ValueError` for anything else."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            # They are kept as they are: what is packed could unpack to any size.
            if any(member.compress_type for member in stored.zip.infolist()):
                raise ValueError("a packed archive")
            return dict(stored)
    except OSError:
        raise
    except Exception as error:  # an archive can be damaged in any way
        raise ValueError(f"no arrays: {str(error)[:200]}") from None


_KNOWN = {
    f"{package}.linalg.{kind}UDT"
    for package in ("pyspark.ml", "pyspark.mllib", "org.apache.spark.ml", "org.apache.spark.mllib")
    for kind in ("Vector", "Matrix")
}


def foreign_types(schema: str) -> list[str]:
    """Return the types in a schema, given in Spark's JSON, that are neither Spark's nor SQL's.

    Whoever asks PySpark for such a schema has it import the module that the type names, and in
    some versions unpickle the type itself.
    """
    found = []
    for one in _user_types(json.loads(schema)):
        names = [str(one[key]) for key in ("pyClass", "class") if one.get(key)]
        if strange := [name for name in names if name not in _KNOWN]:
            found.append(strange[0])
        elif "serializedClass" in one or not names:
            found.append("without a name")
    return found


def _user_types(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        if part.get("type") == "udt":
            yield part
        for inner in part.values():
            yield from _user_types(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _user_types(inner)


def without_formulas(column: pa.Array) -> pa.Array:
    """Return a column of text so that a spreadsheet finds no formula in it.

    https://owasp.org/www-community/attacks/CSV_Injection
    """
    return pc.replace_substring_regex(column, r"\A([=+\-@\t\r])", r"'\1")
