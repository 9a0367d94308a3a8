"""What all commands share: `-q`, `-v` and `--progress`, one-line errors, exit codes."""

import inspect
import logging
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.markup import escape

from lookalike.cli.options import with_signature
from lookalike.cli.output import as_options, errors, last_words, notes, option_names, printable
from lookalike.errors import LookalikeError
from lookalike.system.progress import Display, show_progress, terminal_line

FAILED, INTERRUPTED = 1, 130
"""Exit codes."""

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show results and errors only.")]
Progress = Annotated[
    str | None,
    typer.Option(
        "--progress",
        envvar="LOOKALIKE_PROGRESS",
        metavar="HOW",
        help="`line` on a terminal; `json`: events on stderr, one a line; FILE.prom: a file of "
        "figures for Prometheus. [default: line]",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show debugging messages.")]


class _LogHandler(logging.Handler):
    """Shows what the library logs as notes on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        text = printable(as_options(record.getMessage()))
        if record.levelno >= logging.WARNING:
            text = f"warning: {text}"
        elif record.levelno <= logging.DEBUG:
            text = f"{record.name}: {text}"
        notes.print(text, markup=False)


_HANDLER = _LogHandler()


def as_command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function: it ends with an exit code and, if it fails, with one line."""

    def command(
        ctx: typer.Context,
        quiet: Quiet = False,
        verbose: Verbose = False,
        progress: Progress = None,
        **own: Any,
    ) -> None:
        of_program = ctx.obj or {}
        option_names.clear()
        option_names.update(_options_of(ctx))
        quiet = quiet or of_program.get("quiet", False)
        _set_up_output(quiet, verbose or of_program.get("verbose", False))
        try:
            show_progress(_display(progress or of_program.get("progress"), quiet))
            function(**own)
        except KeyboardInterrupt as stopped:
            errors.print(printable(str(stopped)) or "stopped", markup=False)
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if not _is_expected(error):
                raise
            errors.print("[bold red]error:[/]", escape(printable(last_words(error))))
            raise typer.Exit(FAILED) from None

    ctx, *shared = list(inspect.signature(command).parameters.values())[:-1]
    own = inspect.signature(function).parameters.values()
    return with_signature(command, function, [ctx, *own, *shared])


def _options_of(ctx: typer.Context) -> dict[str, tuple[str, str]]:
    """Return the options by their parameters: those of the command, then those of all others."""
    program: Any = ctx.find_root().command
    commands = [ctx.command, *getattr(program, "commands", {}).values()]
    found: dict[str, tuple[str, str]] = {}
    for option in (one for command in commands for one in command.params):
        if option.param_type_name == "option":
            on = max(option.opts, key=len)
            found.setdefault(option.name, (on, max(option.secondary_opts, key=len, default=on)))
    return found


def _is_expected(error: Exception) -> bool:
    if isinstance(error, LookalikeError | OSError):
        return not isinstance(error, BrokenPipeError)
    if "pyspark" not in sys.modules:
        return False
    from lookalike.spark import is_spark_error

    return is_spark_error(error)


def _set_up_output(quiet: bool, verbose: bool) -> None:
    """Show notes and the log of the library as far as they are wanted."""
    notes.quiet = quiet
    library = logging.getLogger("lookalike")
    library.addHandler(_HANDLER)  # once: one that is there is not added again
    usual = logging.INFO if notes.is_terminal else logging.WARNING
    library.setLevel(logging.DEBUG if verbose else usual)


def _display(how: str | None, quiet: bool) -> Display | None:
    """Return how progress is shown. Raises `LookalikeError` for an unknown way."""
    if how in (None, "line"):
        return None if quiet else terminal_line
    from lookalike.system.progress_events import json_lines, prometheus_file

    if how == "json":
        return json_lines()
    if how is not None and how.endswith(".prom"):
        return prometheus_file(how)
    raise LookalikeError(
        f"`progress` is {how!r}: give `line`, `json`, or a file that ends in .prom"
    )
