"""What the documentation names is there: files, headings, modules, commands, options."""

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import typer.main

import lookalike
from lookalike.cli import COMMANDS, app

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "lookalike"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "recipes").glob("*.md")),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
    *sorted((PACKAGE / "models" / "weights").glob("*.md")),
]
PAGES.remove(ROOT / "CHANGELOG.md")  # it names what was there once
FOLDERS = ("src", "tests", "benchmarks", "recipes", "docs", "examples")
MADE = {"recipes/work"}
"""Folders that commands make."""
ROOMS = [
    place.stem
    for place in PACKAGE.iterdir()
    if place.suffix == ".py" or (place / "__init__.py").is_file()
    if not place.name.startswith("_")
]
VARIABLES = {"index", "spark"}
"""Names of rooms that examples give to objects."""
FOREIGN_NAMES = {"HADOOP_CONF_DIR", "IndexFlatL2", "overflow_fix"}
FOREIGN_OPTIONS = {"--py-files"}

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^(?:    .*\n)+", re.MULTILINE)
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^)\s]*)\)")
_PATH = re.compile(rf"(?<![\w/.:-])(?:{'|'.join(FOLDERS)})/[\w./*-]*")
_MODULE_FILE = re.compile(r"(?<![\w/.*-])[\w/]+\.(?:py|js|css)\b")
_DOTTED = re.compile(rf"(?<![\w/.-])(?:lookalike|{'|'.join(ROOMS)})(?:\.\w+)+")
_METHOD = re.compile(r"(?<![\w/.-])index\.(\w+)(?![\w.]*/)")
_NAME = re.compile(r"[A-Za-z]+_\w+|(?:[A-Z][a-z0-9]+){2,}[A-Z]*")
_FILE_ENDING = re.compile(r"\.(?:csv|html|index|json|jpg|md|parquet|png|py|safetensors|svg)$")
_COMMAND = re.compile(r"(?<![\w./-])lookalike ([a-z]+)((?: +[^\s|`#]+)*)")
_TARGET = re.compile(r"(?<![\w./-])make ([a-z][a-z0-9-]+)")

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """Return the text of a page without its blocks of code."""
    return _BLOCK.sub("", _FENCE.sub("", page.read_text()))


def code(page: Path) -> list[str]:
    """Return what a page sets as code: spans, and the lines of blocks."""
    text = page.read_text()
    blocks = [*_FENCE.findall(text), *_BLOCK.findall(_FENCE.sub("", text))]
    return [*_SPAN.findall(prose(page)), *(line for one in blocks for line in one.splitlines())]


def found(pattern: re.Pattern[str], page: Path) -> Iterator[re.Match[str]]:
    """Give what a pattern matches in the code of a page."""
    for line in code(page):
        yield from pattern.finditer(line)


@cache
def headings(page: Path) -> set[str]:
    """Return the fragments by which the headings of a page are linked, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_pages_are_those_that_readers_know() -> None:
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "docs/explanation/architecture.md"} <= names
    linked = set(_LINK.findall((ROOT / "README.md").read_text()))
    assert "CONTRIBUTING.md" in linked
    assert {name for name in names if name.startswith("docs/")} <= linked


@by_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for link in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, fragment = link.partition("#")
        target = page.parent / name if name else page
        if not link or not target.exists() or (fragment and fragment not in headings(target)):
            broken.append(link)
    assert not broken


@by_page
def test_paths_are_there(page: Path) -> None:
    lost = []
    for match in found(_PATH, page):
        path = match[0].rstrip(".")
        if path not in MADE and not (any(ROOT.glob(path)) if "*" in path else exists(path)):
            lost.append(path)
    assert not lost


def exists(path: str) -> bool:
    place = ROOT / path
    return place.is_dir() if path.endswith("/") else place.exists()


@by_page
def test_files_of_code_are_there(page: Path) -> None:
    assert [
        match[0]
        for match in found(_MODULE_FILE, page)
        if not any(file.endswith(f"/{match[0]}") for file in sources())
    ] == []


@cache
def sources() -> list[str]:
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.*")]
    return [file.as_posix() for file in files]


@by_page
def test_dotted_names_are_there(page: Path) -> None:
    lost = []
    for match in found(_DOTTED, page):
        name = match[0].removeprefix("lookalike.")
        if match[0].split(".")[0] in VARIABLES or _FILE_ENDING.search(match[0]):
            continue
        if not is_defined(PACKAGE, name.split(".")):
            lost.append(match[0])
    assert not lost


def is_defined(place: Path, parts: list[str]) -> bool:
    """Tell whether a dotted name, as parts below a package, is a module or a name in one."""
    if not parts:
        return True
    first, *rest = parts
    if (place / first / "__init__.py").is_file():
        return is_defined(place / first, rest)
    if (place / f"{first}.py").is_file():
        return not rest or rest[0] in names_in(place / f"{first}.py")
    return first in names_in(place / "__init__.py")


@cache
def names_in(module: Path) -> set[str]:
    """Return the names that a module defines or imports, and those in its `__all__`."""
    names: set[str] = set()
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(one.asname or one.name for one in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            given = [one.id for one in targets if isinstance(one, ast.Name)]
            names.update(given)
            if given == ["__all__"] and node.value is not None:
                names.update(ast.literal_eval(node.value))
    return names


@by_page
def test_methods_of_an_index_are_there(page: Path) -> None:
    names = {match[1] for match in found(_METHOD, page) if not _FILE_ENDING.search(match[0])}
    assert {name for name in names if not hasattr(lookalike.Index, name)} == set()


@by_page
def test_names_are_those_of_the_code(page: Path) -> None:
    names = {span for span in _SPAN.findall(prose(page)) if _NAME.fullmatch(span)}
    assert {name for name in names - FOREIGN_NAMES if name not in source_text()} == set()


@cache
def source_text() -> str:
    """Return all code but this file's, whose examples are wrong."""
    files = [Path(file) for file in sources() if file.endswith(".py") and file != __file__]
    return "\n".join(file.read_text() for file in files)


@by_page
def test_commands_and_their_options_are_there(page: Path) -> None:
    known = options_of_commands()
    wrong = []
    for match in found(_COMMAND, page):
        name, arguments = match.groups()
        given = re.findall(r"(?<!\S)--?[a-z][a-z-]*", arguments)
        wrong += [f"{name} {one}" for one in given if one not in known.get(name, ())]
        if name not in known:
            wrong.append(name)
    assert not wrong


@cache
def options_of_commands() -> dict[str, set[str]]:
    group = typer.main.get_command(app)
    assert hasattr(group, "commands")
    return {
        name: {
            option
            for parameter in command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        | {"--help", "-h"}
        for name, command in group.commands.items()
    }


@by_page
def test_options_belong_to_a_command_or_a_script(page: Path) -> None:
    known = set().union(
        *options_of_commands().values(), {"--version", "--install-completion", "--show-completion"}
    )
    for folder in ("benchmarks", "recipes"):
        for script in (ROOT / folder).rglob("*.py"):
            known.update(re.findall(r'"(--[a-z0-9-]+)"', script.read_text()))
    spans = [span for span in _SPAN.findall(prose(page)) if span.startswith("--")]
    assert {span.split()[0] for span in spans} - known - FOREIGN_OPTIONS == set()


@by_page
def test_targets_of_make_are_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {match[1] for match in found(_TARGET, page)} <= targets


def test_the_table_of_rooms_names_each_folder_and_only_files_that_are_there() -> None:
    rows = re.findall(
        r"^\| `([\w/.]+)`(.*)$", (ROOT / "docs/explanation/architecture.md").read_text(), re.M
    )
    folders = {file.parent.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py")}
    assert folders - {".", "models/weights"} <= {room.rstrip("/") for room, _ in rows}
    assert {f"{room}.py" for room in ROOMS if not (PACKAGE / room).is_dir()} <= {
        room for room, _ in rows
    }
    for room, rest in rows:
        for name in re.findall(r"`([\w/*]+\.py)`", rest):
            assert any((PACKAGE / room).glob(name)), f"{room} has no {name}"


def test_the_picture_of_the_rooms_has_them_all() -> None:
    drawn = set(re.findall(r"[a-z]+", (ROOT / "docs" / "rooms.svg").read_text()))
    assert set(ROOMS) <= drawn


def test_the_command_line_of_the_documentation_is_that_of_the_program() -> None:
    """Each command is explained somewhere in the pages, so that none is for insiders."""
    said = "\n".join("\n".join(code(page)) for page in PAGES)
    names = {name for panel in COMMANDS.values() for name in panel}
    assert {name for name in names if f"lookalike {name}" not in said} == set()


Check = Callable[[Path], None]


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("[a](nowhere.md)", test_links_lead_to_files_and_headings),
        ("[a]()", test_links_lead_to_files_and_headings),
        ("# One\n[a](#two)", test_links_lead_to_files_and_headings),
        ("`tests/nowhere.py`", test_paths_are_there),
        ("    python benchmarks/nowhere.py --json\n", test_paths_are_there),
        ("`decoding/nowhere.py`", test_files_of_code_are_there),
        ("`lookalike.search.nowhere`", test_dotted_names_are_there),
        ("`lookalike.search.exact.nowhere`", test_dotted_names_are_there),
        ("`images.nowhere()`", test_dotted_names_are_there),
        ("```python\nfrom lookalike.nowhere import x\n```", test_dotted_names_are_there),
        ("`index.nowhere(...)`", test_methods_of_an_index_are_there),
        ("`no_where`", test_names_are_those_of_the_code),
        ("`NoWhere`", test_names_are_those_of_the_code),
        ("`lookalike nowhere`", test_commands_and_their_options_are_there),
        ("    lookalike info a.index --nowhere\n", test_commands_and_their_options_are_there),
        ("`--nowhere`", test_options_belong_to_a_command_or_a_script),
        ("`make nowhere`", test_targets_of_make_are_there),
    ],
)
def test_a_wrong_page_is_found_out(tmp_path: Path, text: str, check: Check) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(AssertionError):
        check(page)
