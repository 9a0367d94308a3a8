"""The command line. Every command says what it did; a problem is one line and exit code 1."""

import io
import logging
import sys
from collections.abc import Callable
from typing import NoReturn

import typer
from rich.markup import escape

from lookalike.cli import asking, grouping, keeping, making, serving, training, upkeep
from lookalike.cli.printing import last_words, notes, printable
from lookalike.errors import LookalikeError
from lookalike.spark import is_of_spark

_INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Visual similarity search for image collections of any size, on Apache Spark.",
)
commands: dict[str, Callable[..., None]] = {
    "embed": making.embed,
    "index": making.index,
    "add": keeping.add,
    "remove": keeping.remove,
    "sync": keeping.sync,
    "watch": keeping.watch,
    "root": keeping.root,
    "check": upkeep.check,
    "vacuum": upkeep.vacuum,
    "info": asking.info,
    "search": asking.search,
    "serve": serving.serve,
    "neighbors": asking.neighbors,
    "join": grouping.join,
    "duplicates": grouping.duplicates,
    "undo": grouping.undo,
    "clusters": grouping.clusters,
    "outliers": grouping.outliers,
    "gallery": grouping.gallery,
    "hash": making.hash_,
    "tune": asking.tune,
    "evaluate": asking.evaluate,
    "train": training.train,
    "demo": making.demo,
}
for name, command in commands.items():  # which is their order in the help
    app.command(name)(command)


def main() -> NoReturn:
    """Run the command line: exit code 0, 1 with a one-line error, or 2 for wrong usage."""
    logging.getLogger().addHandler(logging.NullHandler())  # else py4j tells of every Ctrl-C
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name must not fail a terminal without UTF-8
    try:
        app(standalone_mode=True)
        sys.exit(0)
    except Exception as error:
        ours = isinstance(error, LookalikeError | OSError)
        if not ours and not is_of_spark(error):
            raise
        message = last_words(error)
    except SystemExit as ended:
        if ended.code != _INTERRUPTED:
            raise
        message = "stopped: run the same command to start again"
    notes.print(f"[bold red]error:[/] {escape(printable(' '.join(message.split())))}")
    sys.exit(1)
