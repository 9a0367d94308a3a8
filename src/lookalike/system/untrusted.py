"""Read untrusted files safely: JSON, arrays, types in Parquet schemas, parts of paths.

Nothing here loads a pickle, imports a module or looks up a class. Parts of an index that become
part of a path are checked by `is_hash`, `check_inner_names` and `check_file_name`.
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
# Names of data files of Delta writers: no leading dot, no special characters of globs and URIs.
_INNER_NAME = r"\A([0-9A-Za-z_=-][0-9A-Za-z_=.-]*/)*[0-9A-Za-z_=-][0-9A-Za-z_=.-]*\.parquet\z"
_MAX_JSON_BYTES = 2**20  # a thousand times the size of any JSON file of this project


def is_hash(text: str) -> bool:
    """Tell whether a text is a content hash of this project, which is safe in a path."""
    return _HASH.fullmatch(text) is not None


def check_inner_names(names: pa.StringArray | pa.ChunkedArray) -> None:
    """Raise `ValueError` unless names of data files in a log lie below the index."""
    outside = names.filter(
        pc.invert(pc.fill_null(pc.match_substring_regex(names, _INNER_NAME), False))
    )
    if len(outside):
        name = str(outside[0])[:200]
        raise ValueError(f"its log names a data file outside the index: {name!r}")


def check_file_name(name: str) -> str:
    """Return a file name. Raises `ValueError` unless it is a plain name without folders."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"not a file name: {name[:40]!r}")
    return name


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object. Raises `OSError`, or `ValueError` for other or very large content."""
    with file.open("rb") as opened:
        content = opened.read(_MAX_JSON_BYTES + 1)
    if len(content) > _MAX_JSON_BYTES:
        raise ValueError(f"{file.name} is over {_MAX_JSON_BYTES:,} bytes")
    try:
        found = json.loads(content)
    except RecursionError:
        raise ValueError(f"{file.name} is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} is not a JSON object")
    return found


def map_array(file: Path, *, check_all: bool = False) -> npt.NDArray[Any]:
    """Map a sealed array of `np.save` for reading. Raises `OSError` or `ValueError`.

    `np.load` would also load an archive or a pickle, depending on the content.
    """
    content = map_sealed(file, check_all=check_all)
    opened = pa.BufferReader(content)
    if np.lib.format.read_magic(opened) != (1, 0):
        raise ValueError(f"{file.name} has an unknown format")
    shape, by_columns, kind = np.lib.format.read_array_header_1_0(opened)
    if kind.hasobject:
        raise ValueError(f"{file.name} holds objects")
    array = np.frombuffer(content, kind, math.prod(shape), opened.tell())
    return array.reshape(shape, order="F" if by_columns else "C")


def read_arrays(file: Path | BinaryIO) -> dict[str, npt.NDArray[Any]]:
    """Read arrays of `np.savez`. Raises `OSError`, or `ValueError` for other content."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            # Compressed arrays could expand to any size.
            if any(member.compress_type for member in stored.zip.infolist()):
                raise ValueError("a compressed archive")
            return dict(stored)
    except OSError:
        raise
    except Exception as error:  # a damaged archive can raise anything
        raise ValueError(f"no arrays: {str(error)[:200]}") from None


_SPARK_ML_TYPES = {
    f"{package}.linalg.{kind}UDT"
    for package in ("pyspark.ml", "pyspark.mllib", "org.apache.spark.ml", "org.apache.spark.mllib")
    for kind in ("Vector", "Matrix")
}


SPARK_SCHEMA = b"org.apache.spark.sql.parquet.row.metadata"
"""The key in the metadata of a Parquet file under which Spark writes its schema."""


def foreign_types(schema: str) -> list[str]:
    """Return the user-defined types in a schema (Spark JSON) other than those of Spark ML.

    PySpark imports the module of such a type when it reads the schema, and some versions unpickle
    the type.
    """
    found = []
    for one in _user_defined_types(json.loads(schema)):
        names = [str(one[key]) for key in ("pyClass", "class") if one.get(key)]
        if unknown := [name for name in names if name not in _SPARK_ML_TYPES]:
            found.append(unknown[0])
        elif "serializedClass" in one or not names:
            found.append("without a name")
    return found


def _user_defined_types(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        if part.get("type") == "udt":
            yield part
        for inner in part.values():
            yield from _user_defined_types(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _user_defined_types(inner)


def without_formulas(column: pa.Array) -> pa.Array:
    """Return a text column in which a spreadsheet finds no formula.

    https://owasp.org/www-community/attacks/CSV_Injection
    """
    return pc.replace_substring_regex(column, r"\A([=+\-@\t\r])", r"'\1")
