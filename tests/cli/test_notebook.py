"""The notebooks run from the first cell to the last, and show what they promise."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from helpers import tiny_networks

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOK = EXAMPLES / "reference_workflow.ipynb"


@pytest.mark.long
def test_the_notebook_runs_and_ends_with_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAWN", "96")
    for name in ("PHOTOS", "LABELS", "CSV"):
        monkeypatch.delenv(name, raising=False)
    notebook = nbformat.reads(NOTEBOOK.read_text(), as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    sheet, *rows = (cell.outputs[-1].data for cell in cells[-4:])
    assert "image/png" in sheet
    (medians,) = (one for cell in cells for one in cell.outputs if "medians" in one.get("text", ""))
    near, far = map(float, re.findall(r"\d\.\d\d", medians.text))
    assert 0 < near < far, "distances; lengths of vectors are all 1"
    # A query and its five neighbours; five drawn images; two queries with three neighbours each.
    assert [row["text/html"].count("data:image/jpeg") for row in rows] == [6, 5, 8]


def test_the_notebook_has_all_twelve_steps() -> None:
    notebook = nbformat.reads(NOTEBOOK.read_text(), as_version=4)  # type: ignore[no-untyped-call]
    headings = [cell.source.splitlines()[0] for cell in notebook.cells if "## " in cell.source]
    numbers = [int(n) for heading in headings for n in re.findall(r"\d+", heading)]
    assert numbers == list(range(1, 13))


def run(name: str) -> list[Any]:
    """Execute a notebook; return its cells of code."""
    text = (EXAMPLES / f"{name}.ipynb").read_text()
    notebook = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cells: list[Any], source: str, kind: str = "text/plain") -> str:
    """Return what the last of the cells shows that have a text in their source."""
    cell = [one for one in cells if source in one.source][-1]
    return str(cell.outputs[-1].data[kind])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PHOTOS", "MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DRAWN", "160")


@pytest.mark.long  # a kernel, and an index of its own, each
def test_the_notebook_of_duplicates(drawn: None) -> None:
    cells = run("duplicates")
    known = shown(cells, "known")
    assert known.count("True") >= 7 and known.count("True") + known.count("False") == 9
    assert "image/png" in cells[5].outputs[-1].data
    assert int(shown(cells, "aside.done")) == int(shown(cells, "undo(")) >= 7


@pytest.mark.long  # a kernel, and an index of its own, each
def test_the_notebook_of_a_product_catalogue(drawn: None) -> None:
    cells = run("product_catalogue")
    assert shown(cells, "photo, k=5)", "text/html").count("data:image/jpeg") == 6
    cheap = shown(cells, "cheap", "text/html")
    assert "FR" not in cheap and cheap.count("P-") == 10
    assert {"P-00010", "P-00060", "P-00110"} & set(re.findall(r"P-\d+", shown(cells, "suspects")))


@pytest.mark.long  # a kernel and a Spark of its own
def test_the_notebook_of_stages(drawn: None) -> None:
    cells = run("spark_stages")
    text = "".join(one.get("text", "") for cell in cells for one in cell.outputs)
    assert "indices" in text and "hashes" in text and "NULL|  160" in text
    assert 0.9 <= float(shown(cells, "nearest.recall")) <= 1


@pytest.mark.long  # a kernel, and a model of open_clip
def test_the_notebook_of_words(
    drawn: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tiny model of random weights: nothing is downloaded, and no picture is right."""
    monkeypatch.setenv("MODEL", f"clip:{tiny_networks.clip_folder(tmp_path / 'clip')}")
    cells = run("text_search")
    assert shown(cells, "mixed", "text/html").count("data:image/jpeg") >= 5
    assert "a blue van" in shown(cells, "k=3, where", "text/html")


def test_notebooks_are_kept_without_output() -> None:
    for file in EXAMPLES.glob("*.ipynb"):
        notebook = nbformat.reads(file.read_text(), as_version=4)  # type: ignore[no-untyped-call]
        nbformat.validate(notebook)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(not cell.outputs and cell.execution_count is None for cell in cells)
        assert file.name in (EXAMPLES.parent / "README.md").read_text() + "".join(
            page.read_text() for page in (EXAMPLES.parent / "docs").rglob("*.md")
        )
