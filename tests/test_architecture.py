"""The road in docs/architecture.md is the one that the modules take."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import lookalike

SOURCES = Path(lookalike.__file__).parent
TEXT = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text()
ROAD = re.findall(r"\w+", TEXT.split("before it:\n\n")[1].split("\n\n")[0])
BESIDE = re.findall(r"`(\w+)`", TEXT.split("\n\n")[3].split(" stand beside")[0])
MODULES = sorted(SOURCES.rglob("*.py"))


def part(file: Path) -> str:
    """Name what a file belongs to on the road: a module or a package."""
    return file.relative_to(SOURCES).with_suffix("").parts[0]


def imported(file: Path) -> Iterator[str]:
    """Give the parts of lookalike that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "lookalike":
                yield from (name.name for name in node.names)
            elif node.module.startswith("lookalike."):
                yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (
                name.name.split(".")[1] for name in node.names if name.name.startswith("lookalike.")
            )


def test_every_module_is_on_the_road_or_beside_it() -> None:
    parts = {part(file) for file in MODULES} - {"__init__", "__main__"}
    assert parts == {*ROAD, *BESIDE}
    assert len(ROAD) == len(set(ROAD)) > 10


def test_a_module_imports_what_lies_before_it() -> None:
    wrong = {}
    for file in MODULES:
        own = part(file)
        if own in ("__init__", "__main__"):
            continue
        before = {*ROAD[: ROAD.index(own)], *BESIDE} if own in ROAD else {*BESIDE}
        if beyond := set(imported(file)) - before - {own, "__version__"}:
            wrong[str(file.relative_to(SOURCES))] = sorted(beyond)
    assert not wrong
