"""Modules and names that docstrings and comments of the source mention are there."""

import re
from functools import cache
from pathlib import Path

import lookalike

PACKAGE = Path(lookalike.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
_SPAN = re.compile(r"`[^`]*`")
_DOTTED = re.compile(r"`((?:\w+\.)+)(\w+)(?:\([^`]*\))?`")
_FOREIGN = {"np", "pa", "pyspark"}
_FILES = {"csv", "html", "json", "md", "npy", "npz", "parquet", "png", "toml", "txt"}


@cache
def code_by_name() -> dict[str, str]:
    """Return the source without its spans, by the name of the module, package or class."""
    named: dict[str, str] = {}
    for file in MODULES:
        code = _SPAN.sub("", file.read_text())
        own = file.parent.name if file.stem == "__init__" else file.stem
        for name in (own, *re.findall(r"^class (\w+)", code, re.MULTILINE)):
            named[name] = named.get(name, "") + code
    return named


def unknown_names(text: str) -> list[str]:
    """Return the dotted names in a text whose module, class or name is not there."""
    named, own = code_by_name(), _SPAN.sub("", text)
    unknown = []
    for span in _DOTTED.finditer(text):
        path, name = span[1].rstrip(".").split("."), span[2]
        if path[0] in _FOREIGN:
            continue
        code = named.get(path[-1], own if re.search(rf"\b{path[0]}\b", own) else "")
        if name not in {*_FILES, *named} and not re.search(rf"\b{name}\b", code):
            unknown.append(span[0])
    return unknown


def test_names_in_docstrings_are_there() -> None:
    unknown = {str(file.relative_to(PACKAGE)): unknown_names(file.read_text()) for file in MODULES}
    assert not {file: names for file, names in unknown.items() if names}


def test_a_name_that_is_gone_is_found_out() -> None:
    gone = ["`engines.DEVICES`", "`raster.decode_all`", "`Index.show_all`"]
    there = "`runtimes.DEVICES`, `raster.decode(data)`, `Index.versions`, `aside.csv`"
    assert unknown_names(f"{there}, {', '.join(gone)}") == gone
