"""Habits of the command line: help, completion, exit codes, what is shown and what is logged."""

import io
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import lookalike
from lookalike import Index, LookalikeError
from lookalike.cli import app, output
from lookalike.errors import Unreadable
from lookalike.lsh import search as on_spark
from lookalike.system.progress import progress_line, show_progress

COMMAND = str(Path(sys.executable).with_name("lookalike"))
PROGRAM: Any = typer.main.get_command(app)
COMMANDS = PROGRAM.commands
HEAVY = {
    "numpy",
    "pyarrow",
    "pandas",
    "scipy",
    "duckdb",
    "deltalake",
    "openvino",
    "faiss",
    "torch",
    "pyspark",
    "PIL",
    "uvicorn",
}
"""Libraries that do the work of commands."""


@pytest.fixture
def run() -> Callable[..., Any]:
    """Run a command in this process."""

    def invoke(*arguments: object) -> Any:
        return CliRunner().invoke(app, [str(one) for one in arguments])

    return invoke


def loaded_by(code: str) -> set[str]:
    """Return those of the `HEAVY` libraries that a new process loads for some code."""
    script = f"import sys\n{code}\nprint('loaded', *{HEAVY} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_help_loads_no_library_that_does_the_work() -> None:
    names = [[], *([name] for name in COMMANDS)]
    code = (
        "from typer.testing import CliRunner\n"
        "from lookalike.cli import app\n"
        f"for name in {names}:\n"
        "    assert CliRunner().invoke(app, [*name, '--help']).exit_code == 0, name"
    )
    assert loaded_by(code) == set()
    wrong = "from typer.testing import CliRunner\nfrom lookalike.cli import app\n"
    wrong += "assert CliRunner().invoke(app, ['search']).exit_code == 2"
    assert loaded_by(wrong) == set()


def test_importing_the_package_loads_no_library_either() -> None:
    assert loaded_by("import lookalike\nassert lookalike.LookalikeError") == set()
    assert "numpy" in loaded_by("import lookalike\nlookalike.Index")
    assert {*lookalike.__all__} <= {*dir(lookalike)}
    for name in lookalike.__all__:
        assert getattr(lookalike, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        lookalike.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_the_version(run: Callable[..., Any]) -> None:
    assert run("--version").output == f"lookalike {lookalike.__version__}\n"


def test_commands_are_grouped_by_what_one_wants_to_do(run: Callable[..., Any]) -> None:
    said = run("--help").output
    panels = ["Start here", "Build", "Search", "Analyse", "Train", "Hash on Spark", "Maintain"]
    places = [said.index(f"─ {panel}") for panel in panels]
    assert places == sorted(places)


def test_an_option_has_one_text() -> None:
    """But `--spark`, `--shown`, `--queries`, `--images` and `--engine` choose different things."""
    texts = defaultdict(set)
    for command in COMMANDS.values():
        for option in (one for one in command.params if one.param_type_name == "option"):
            texts[option.name].add(option.help.partition(" [default")[0])
    for name in ("spark", "shown", "queries", "images", "engine"):
        texts.pop(name, None)
    assert {name: found for name, found in texts.items() if len(found) > 1} == {}


def test_every_option_has_a_text_and_every_result_a_short_option() -> None:
    for name, command in COMMANDS.items():
        options = {one.name: one for one in command.params if one.param_type_name == "option"}
        assert all(one.help for one in options.values()), name
        assert {"-q", "-v"} <= {*options["quiet"].opts, *options["verbose"].opts}
        assert "out" not in options or "-o" in options["out"].opts


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("search x.index --engine ", {"auto", "exact", "approximate", "spark-lsh"}),
        ("neighbors x.index --engine ", {"auto", "exact", "approximate"}),
        ("index photos --model eff", {"efficientnet-lite0"}),
        ("index photos --precision ", {"auto", "f32", "bf16", "int8"}),
        ("duplicates x.index --keep s", {"sharpest"}),
        ("dup", {"duplicates"}),
    ],
)
def test_completion(typed: str, offered: set[str]) -> None:
    words = ["lookalike", *typed.split(" ")]
    variables = {
        "_LOOKALIKE_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [COMMAND], capture_output=True, text=True, env={**os.environ, **variables}
    )
    assert set(done.stdout.split()) == offered, done.stderr


# What is shown.


def test_quiet_shows_results_and_errors_only(
    index: Index, tmp_path: Path, run: Callable[..., Any]
) -> None:
    asked = ("search", index.path, "--random", "--seed", 1, "--picture", tmp_path / "found.png")
    loud, quiet, before = run(*asked), run(*asked, "-q"), run("-q", *asked)
    assert loud.exit_code == quiet.exit_code == before.exit_code == 0
    assert loud.stderr == f"wrote {tmp_path / 'found.png'}\n"
    assert quiet.stderr == before.stderr == ""
    assert len(quiet.stdout.splitlines()) == 7
    failed = run("-q", "info", tmp_path)
    assert failed.exit_code == 1 and failed.stderr.startswith("error: ")


def test_verbose_shows_debugging_messages(index: Index, run: Callable[..., Any]) -> None:
    usual, verbose = run("check", index.path), run("check", index.path, "-v")
    assert (usual.exit_code, usual.stderr) == (0, "")
    assert verbose.stdout == usual.stdout
    assert "lookalike.system.progress: checking: started\n" in verbose.stderr


def test_warnings_of_the_library_are_shown(
    index: Index, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("lookalike.index")

    def info(self: Index) -> Any:
        log.info("not for logs")
        log.warning("set `image_name`, 100 %")
        return told

    told = index.info()
    monkeypatch.setattr(Index, "info", info)
    assert run("info", index.path, "--json").stderr == "warning: set --image-name, 100 %\n"
    assert run("-q", "info", index.path, "--json").stderr == ""


def test_the_library_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert any(
        isinstance(one, logging.NullHandler) for one in logging.getLogger("lookalike").handlers
    )
    show_progress(None)
    with progress_line("working", "images") as move:
        move(1, 2, "a note")
    assert capfd.readouterr() == ("", "")


class Terminal(io.StringIO):
    """A terminal that keeps what it shows."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("colour", [True, False])
def test_progress_fits_a_terminal(monkeypatch: pytest.MonkeyPatch, colour: bool) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    show_progress()
    try:
        with progress_line("measuring how well signatures find neighbours", "images") as move:
            move(1_234_567, 12_345_678, "123,456 skipped, and a long note about them")
    finally:
        show_progress(None)
    shown = terminal.getvalue()
    assert "10%" in shown
    assert ("\x1b[38;5;" in shown or "\x1b[3" in shown) == colour
    plain = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", shown)
    lines = [line for part in plain.split("\n") for line in part.split("\r")]
    assert max(map(len, lines)) <= 80


def test_progress_is_not_for_files(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    show_progress()
    try:
        with progress_line("working", "images") as move:
            move(1, 2)
    finally:
        show_progress(None)
    assert file.getvalue() == ""


# How it ends.


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (LookalikeError("leave `recall` out"), 1, "error: leave --recall out\n"),
        (Unreadable("x", OSError(5, "odd")), 1, "error: x cannot be read now (odd): "),
        (OSError(13, "no right", "x"), 1, "error: no right: x\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (KeyboardInterrupt("stopped at 3"), 130, "stopped at 3\n"),
    ],
)
def test_how_a_command_ends(
    index: Index,
    run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    said: str,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(on_spark, "tune_index", fail)
    done = run("tune", index.path)
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.startswith(said) and done.stderr.count("\n") == 1


def test_a_fault_of_ours_is_not_hidden(
    index: Index, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_spark, "tune_index", lambda *_: 1 / 0)
    assert isinstance(run("tune", index.path).exception, ZeroDivisionError)


@pytest.mark.long  # starts Spark in a process of its own
def test_ctrl_c_while_spark_works(index: Index, tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time\n"
        "from lookalike import on_spark\n"
        "from lookalike.cli import main\n"
        "from lookalike.spark import session\n"
        "def slow(*_):\n"
        "    rows = session().range(0, 4, 1, 4).rdd\n"
        "    print('working', flush=True)\n"
        "    rows.foreach(lambda row: time.sleep(60))\n"
        "on_spark.tune_index = slow\n"
        f"sys.argv = ['lookalike', 'tune', {str(index.path)!r}]\n"
        "main()\n"
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        signal.signal(signal.SIGINT, before)
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        threading.Event().wait(3)  # until tasks sleep
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert (process.returncode, said) == (130, "stopped\n")


# Python's parameters, and the options of the shell.


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("`within` is 3", "--within is 3"),
        (
            "choose another `out`, or set `overwrite=True`",
            "choose another --out, or set --overwrite",
        ),
        ('set `engine="spark-lsh"`', "set --engine spark-lsh"),
        ("leave `spark=False` out", "leave --no-spark out"),
        ("leave `k` out", "leave -k out"),
        ("again with `like=/a b/x.index`", "again with --like /a b/x.index"),
        ("run `lookalike root`, or `nothing`", "run `lookalike root`, or `nothing`"),
    ],
)
def test_parameters_are_named_as_options(
    index: Index,
    run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    message: str,
    shown: str,
) -> None:
    def fail(self: Index, *_: Any, **__: Any) -> None:
        raise LookalikeError(message)

    monkeypatch.setattr(Index, "info", fail)
    assert run("info", index.path).stderr == f"error: {shown}\n"
    assert output.as_options(message) == shown
