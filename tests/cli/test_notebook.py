"""The notebook of the twelve steps runs from the first cell to the last."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "reference_workflow.ipynb"


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
