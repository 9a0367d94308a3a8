"""The tutorial runs as it is written, from its first command to its last, on drawn photos."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

import lookalike
from helpers.command import run
from lookalike.images.synthetic import DrawnCollection

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.md"
NOT_RUN = {"pip", "lookalike demo", "lookalike serve", "lookalike watch", "lookalike train"}
"""Installing, what runs until Ctrl-C, and what has long tests of its own."""


@pytest.fixture
def folder(drawn: DrawnCollection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the tutorial names: photos, labels, a new photo, training and test."""
    photos = sorted(drawn.photos.glob("*.jpg"))
    first, second, *_ = sorted(drawn.new.glob("*.jpg"))
    for name, chosen in {
        "photos": photos[:60],
        "photos/boats": photos[60:],
        "train": photos[:60],
        "test": photos[50:],
    }.items():
        (tmp_path / name).mkdir()
        for photo in chosen:
            shutil.copy(photo, tmp_path / name)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(second, tmp_path / "elsewhere" / "new.jpg")
    shutil.copy(first, tmp_path / "new.jpg")
    shutil.copy(drawn.labels, tmp_path / "labels.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parts() -> list[tuple[str, str]]:
    """Return the blocks of the tutorial in order: "python" or "shell", and the text."""
    pattern = re.compile(r"^```python\n(.*?)^```$|^((?:    [^\n]*\n)+)", re.MULTILINE | re.DOTALL)
    return [
        ("python", found[1]) if found[1] else ("shell", found[2])
        for found in pattern.finditer(TUTORIAL.read_text())
    ]


@pytest.mark.long  # a minute or two: Spark, and a dozen commands
def test_every_command_and_every_line_of_python_runs(folder: Path) -> None:
    session: dict[str, object] = {}
    failed, ran = [], set()
    for kind, text in parts():
        if kind == "python":
            exec(compile(text, str(TUTORIAL), "exec"), session)
            continue
        for line in text.splitlines():
            given = shlex.split(line, comments=True)
            if given[0] in NOT_RUN or " ".join(given[:2]) in NOT_RUN:
                continue
            assert given[0] == "lookalike"
            done = run(*given[1:])
            ran.add(given[1])
            if done.code:
                failed.append((line, done.err))
    lookalike.show_progress(None)
    assert failed == []
    assert {"index", "search", "embed", "hash", "neighbors", "join"} <= ran
    assert (folder / "found.png").stat().st_size > 10_000
    assert (folder / "neighbors.png").stat().st_size > 10_000
