"""The site of the documentation: it builds, its links lead somewhere, and it names all there is."""

import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer.main

import lookalike
from lookalike import lsh, ml
from lookalike.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BIN = Path(sys.executable).parent


class Page(HTMLParser):
    """The anchors of a page, its links, and what it loads."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in ("script", "img", "source", "iframe") and "src" in given:
            self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") != "canonical":
            self.loaded.append(given.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site from a copy, so that nothing is left in the folder of the project."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    (folder / "src").symlink_to(ROOT / "src")
    done = subprocess.run(
        [BIN / "zensical", "build", "--strict"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_pages_made_from_the_code_are_up_to_date() -> None:
    command = [sys.executable, str(DOCS / "make_reference.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_page_is_in_the_site_and_links_lead_somewhere(site: Path) -> None:
    pages = {file: Page(file) for file in site.rglob("*.html")}
    for source in DOCS.rglob("*.md"):
        assert (site / source.relative_to(DOCS)).with_suffix(".html") in pages
    broken = []
    for file, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link) or file.name == "404.html":
                continue
            name, _, anchor = unquote(link).partition("#")
            target = (file.parent / name).resolve() if name else file
            target = target / "index.html" if target.is_dir() else target
            lost = target.suffix == ".html" and anchor and anchor not in pages[target].anchors
            if not target.exists() or lost:
                broken.append((file.name, link))
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for file in site.rglob("*.html"):
        assert [one for one in Page(file).loaded if re.match(r"(https?:)?//", one)] == []


def test_every_command_and_option_is_there() -> None:
    text = (DOCS / "reference" / "cli.md").read_text()
    for name, command in vars(typer.main.get_command(app))["commands"].items():
        own = text.partition(f"### lookalike {name}\n")[2].partition("\n### ")[0]
        assert own
        for option in command.params:
            if option.param_type_name == "option" and option.name != "help":
                shared = option.name in ("quiet", "verbose", "progress")
                for flag in (*option.opts, *option.secondary_opts):
                    assert f"`{flag}`" in (text if shared else own), f"{name} {flag}"


def test_every_public_name_is_there(site: Path) -> None:
    anchors = Page(site / "reference" / "api.html").anchors
    for module in (lookalike, ml, lsh):
        missing = {f"{module.__name__}.{name}" for name in module.__all__} - anchors
        assert missing == set()
    methods = {
        name
        for name, value in vars(lookalike.Index).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, property))
    }
    places = ("lookalike.Index", "lookalike.index.Index")
    assert {name for name in methods if not anchors & {f"{one}.{name}" for one in places}} == set()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.long  # half a minute: two archives are made
def test_wheel_and_source_archive_are_in_order(tmp_path: Path) -> None:
    build = f"{sys.executable} -m build --no-isolation --outdir {tmp_path} {ROOT}"
    done = subprocess.run(shlex.split(build), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    made = sorted(tmp_path.iterdir())
    assert [file.suffix for file in made] == [".whl", ".gz"] or len(made) == 2
    done = subprocess.run(
        [str(BIN / "twine"), "check", "--strict", *map(str, made)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
