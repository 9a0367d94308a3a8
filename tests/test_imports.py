"""Imports run one way, from room to room, and the documentation says so."""

import ast
from collections.abc import Iterator
from pathlib import Path

import lookalike

SOURCES = Path(lookalike.__file__).parent
ARCHITECTURE = Path(__file__).parents[1] / "docs" / "explanation" / "architecture.md"
ORDER = (
    "errors · system · spark · images · rendering · models · storage · search · lsh · ingest · "
    "analysis · index · create · ml · server · cli"
)
"""Each room imports only what stands before it."""
ROOMS = ORDER.split(" · ")
STRANGERS = ({"rendering", "models"}, {"lsh", "ingest"})
"""Neither of two imports the other."""
MAX_LINES = 400


def modules() -> Iterator[tuple[Path, str]]:
    """Give each module and its room, but for the two that open the package."""
    for file in sorted(SOURCES.rglob("*.py")):
        room = file.relative_to(SOURCES).with_suffix("").parts[0]
        if room not in ("__init__", "__main__"):
            yield file, room


def imported(file: Path) -> Iterator[str]:
    """Give what a module imports of lookalike, wherever in it: dotted names of modules."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lookalike"):
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield whole if is_module(whole) else node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("lookalike."))


def is_module(name: str) -> bool:
    """Tell whether a dotted name is a module or a package of lookalike."""
    place = SOURCES.joinpath(*name.split(".")[1:])
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def test_a_room_imports_only_rooms_before_it() -> None:
    upward = []
    for file, room in modules():
        for name in set(imported(file)) - {"lookalike"}:
            other = name.split(".")[1]
            later = ROOMS.index(other) > ROOMS.index(room)
            if later or {room, other} in STRANGERS:
                upward.append(f"{file.relative_to(SOURCES)} imports {name}")
    assert not upward
    assert {room for _, room in modules()} == set(ROOMS)


def test_no_modules_import_each_other_in_a_circle() -> None:
    arrows = {}
    for file in sorted(SOURCES.rglob("*.py")):
        parts = file.relative_to(SOURCES.parent).with_suffix("").parts
        if parts[-1] == "__init__":  # the face of a room gathers what is inside
            continue
        arrows[".".join(parts)] = {name for name in imported(file) if is_leaf(name)}
    while free := [name for name, targets in arrows.items() if not targets & arrows.keys()]:
        for name in free:
            del arrows[name]
    assert not arrows


def is_leaf(name: str) -> bool:
    """Tell whether a dotted name is a module that is no package."""
    return SOURCES.joinpath(*name.split(".")[1:]).with_suffix(".py").is_file()


def test_no_module_is_too_long_to_be_read() -> None:
    long = {str(file.relative_to(SOURCES)) for file, _ in modules() if lines(file) > MAX_LINES}
    assert not long


def lines(file: Path) -> int:
    return len(file.read_text().splitlines())


def test_the_documentation_gives_the_same_order() -> None:
    assert ORDER in ARCHITECTURE.read_text()
