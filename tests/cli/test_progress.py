"""Progress for programs: events on stderr, figures for Prometheus."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from lookalike import Index
from lookalike.cli import app
from lookalike.system.progress import progress_line, show_progress
from lookalike.system.progress_events import json_lines, prometheus_file

Run = Callable[..., Any]


@pytest.fixture
def run() -> Run:
    """Run a command in this process."""

    def invoke(*arguments: object, **environment: str) -> Any:
        return CliRunner().invoke(app, [str(one) for one in arguments], env=environment)

    return invoke


def events_of(stderr: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("before", [True, False])
def test_events(index: Index, run: Run, tmp_path: Path, before: bool) -> None:
    """Who cannot read a terminal is told of each job from its start to its end."""
    given = ("--progress", "json")
    command = ("gallery", index.path, "--out", tmp_path / "out", "--json", "--no-spark")
    done = run(*given, *command) if before else run(*command, *given)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["images"] == index.info()["images"]
    events = events_of(done.stderr)
    assert "comparing images" in {one["name"] for one in events}
    for job in {one["job"] for one in events}:
        own = [one for one in events if one["job"] == job]
        assert [own[0]["event"], own[-1]["event"]] == ["start", "end"]
        assert all(one["event"] == "progress" for one in own[1:-1])
        assert [one["seconds"] for one in own] == sorted(one["seconds"] for one in own)
        assert len({(one["name"], one["unit"]) for one in own}) == 1


def test_the_environment_says_how(index: Index, run: Run, tmp_path: Path) -> None:
    """A quiet command tells its events too."""
    command = ("-q", "gallery", index.path, "--out", tmp_path / "out")
    done = run(*command, LOOKALIKE_PROGRESS="json")
    assert done.exit_code == 0, done.output
    assert {one["event"] for one in events_of(done.stderr)} >= {"start", "end"}
    assert events_of(run(*command, "--overwrite").stderr) == []


def test_a_failed_job(capfd: pytest.CaptureFixture[str]) -> None:
    show_progress(json_lines())
    try:
        with pytest.raises(ValueError, match="wrong"), progress_line("working", "images") as move:
            move(1, 2, "a note")
            raise ValueError("wrong")
    finally:
        show_progress(None)
    first, last = map(json.loads, capfd.readouterr().err.splitlines())
    assert (first["event"], first["done"], first["total"]) == ("start", 0, None)
    assert (last["event"], last["done"], last["total"]) == ("failed", 1, 2)
    assert (last["name"], last["unit"], last["note"]) == ("working", "images", "a note")


def figures_in(file: Path) -> dict[tuple[str, str], float]:
    """Return what Prometheus reads, by name and job."""
    return {
        (one.name, one.labels["job"]): one.value
        for family in text_string_to_metric_families(file.read_text())
        for one in family.samples
        if not one.name.endswith("_created")
    }


def test_figures_for_prometheus(index: Index, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "lookalike.prom"
    command = ("gallery", index.path, "--out", tmp_path / "out", "--no-spark")
    done = run(*command, "--progress", file)
    assert done.exit_code == 0, done.output
    figures = figures_in(file)
    jobs = {job for _, job in figures}
    assert "comparing images" in jobs
    for job in jobs:
        assert figures["lookalike_job_running", job] == 0
        assert figures["lookalike_job_failures_total", job] == 0
        assert figures["lookalike_job_seconds", job] > 0


def test_figures_of_a_job_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lookalike.system.progress_events.INTERVAL_SECONDS", 0.0)
    file = tmp_path / "lookalike.prom"
    show_progress(prometheus_file(file))
    try:
        with pytest.raises(ValueError, match="wrong"), progress_line("working", "images") as move:
            move(3, None)
            assert figures_in(file)["lookalike_job_total", "working"] == -1
            move(5, 10)
            figures = figures_in(file)
            assert figures["lookalike_job_done", "working"] == 5
            assert figures["lookalike_job_total", "working"] == 10
            assert figures["lookalike_job_running", "working"] == 1
            raise ValueError("wrong")
    finally:
        show_progress(None)
    assert figures_in(file)["lookalike_job_failures_total", "working"] == 1
    assert figures_in(file)["lookalike_job_running", "working"] == 0


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("jsonl", "error: --progress is 'jsonl': give `line`, `json`, or a file that ends in"),
        ("nowhere/x.prom", "error: nowhere/x.prom cannot be written (No such file or directory)"),
    ],
)
def test_no_such_progress(
    index: Index, run: Run, how: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    done = run("info", index.path, "--progress", how)
    assert done.exit_code == 1
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1
