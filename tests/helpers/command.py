"""The command line: in this process, in one of its own, or several commands in one new process."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lookalike.cli import main

COMMAND = str(Path(sys.executable).with_name("lookalike"))
Argument = str | bytes | Path

_NEXT = "&&"  # between commands
_IN_TURN = f"""
import sys
from itertools import groupby
from lookalike.cli import main
for is_next, given in groupby(sys.argv[1:], {_NEXT!r}.__eq__):
    if is_next:
        continue
    sys.argv = ["lookalike", *given]
    try:
        main()
    except SystemExit as stopped:
        for stream in (sys.stdout, sys.stderr):
            print(end=f"\\0{{stopped.code}}\\0", file=stream, flush=True)
"""


class Done(NamedTuple):
    """What a command came to: its exit code, what it printed, what it noted."""

    code: int
    out: str
    err: str


def run(*arguments: object, stdin: bytes = b"", encoding: str = "utf-8") -> Done:
    """Run a command in this process, whose Spark session it uses."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    given = io.TextIOWrapper(io.BytesIO(stdin), encoding=encoding)
    texts = [os.fsdecode(one) if isinstance(one, bytes) else str(one) for one in arguments]
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        patched.setattr(sys, "argv", ["lookalike", *texts])
        patched.setattr(sys, "stdin", given)
        with pytest.raises(SystemExit) as stopped:
            main()
    code = stopped.value.code
    assert isinstance(code, int)
    return Done(code, _text(out), _text(err))


def run_apart(*arguments: Argument, **environment: str) -> Done:
    """Run a command in a process of its own, as a shell does."""
    done = subprocess.run(
        [COMMAND, *arguments],
        capture_output=True,
        env={**os.environ, **environment},
        timeout=300,
    )
    return Done(done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr))


def run_in_turn(*commands: Sequence[Argument], **environment: str) -> list[Done]:
    """Run commands one after the other in one new process, into which nothing has been loaded."""
    given = [one for command in commands for one in (*command, _NEXT)]
    done = subprocess.run(
        [sys.executable, "-c", _IN_TURN, *given],
        capture_output=True,
        env={**os.environ, **environment},
        timeout=300,
    )
    out, err = (os.fsdecode(said).split("\0") for said in (done.stdout, done.stderr))
    assert len(out) == len(err) == 2 * len(commands) + 1, err
    codes = map(int, out[1::2])
    return [Done(*one) for one in zip(codes, out[:-1:2], err[:-1:2], strict=True)]


def told(*arguments: object) -> Any:
    """Run a command that prints JSON; return what it means."""
    done = run(*arguments, "--json")
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


def assert_fails(done: Done, *words: str) -> None:
    """Check for exit code 1 and one line that says what is wrong."""
    assert (done.code, done.out) == (1, ""), done
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1 and done.err.endswith("\n"), done.err
    assert all(word in done.err for word in words), done.err


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode(stream.encoding, "surrogateescape")
