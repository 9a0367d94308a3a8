"""The command line.

Importing it, and showing help, loads none of the libraries that do the work: a command imports them
when it runs.
"""

import io
import logging
import signal
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from lookalike.cli import analysis, demo, ingest, lsh, maintenance, plan, search, serve, train
from lookalike.cli.command import Progress, Quiet, Verbose, as_command

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Visual similarity search for image collections of any size, on Apache Spark.",
)
COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Start here": {"demo": demo.demo},
    "Build and update an index": {
        "index": ingest.index,
        "embed": ingest.embed,
        "add": ingest.add,
        "remove": ingest.remove,
        "sync": ingest.sync,
        "watch": ingest.watch,
        "upgrade": maintenance.upgrade,
    },
    "Search": {
        "search": search.search,
        "serve": serve.serve,
        "neighbors": search.neighbors,
        "plan": plan.plan,
        "evaluate": search.evaluate,
    },
    "Analyse": {
        "gallery": analysis.gallery,
        "duplicates": analysis.duplicates,
        "undo": analysis.undo,
        "clusters": analysis.clusters,
        "outliers": analysis.outliers,
        "join": analysis.join,
    },
    "Train": {"train": train.train},
    "Hash on Spark": {"hash": lsh.hash_, "tune": lsh.tune},
    "Maintain an index": {
        "info": search.info,
        "regions": maintenance.regions,
        "check": maintenance.check,
        "vacuum": maintenance.vacuum,
        "root": maintenance.root,
    },
}
"""Commands by what one wants to do, in the order of the help."""

for panel, commands in COMMANDS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=panel)(as_command(command))


def _show_version(wanted: bool) -> None:
    if wanted:
        from lookalike import __version__

        typer.echo(f"lookalike {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    progress: Progress = None,
) -> None:
    """Take the options that stand before the command."""
    ctx.obj = {"quiet": quiet, "verbose": verbose, "progress": progress}


def main() -> None:
    """Run the command line.

    The exit code is 0, 1 after an error, 2 after wrong usage, or 130 after Ctrl-C.
    """
    logging.getLogger().addHandler(logging.NullHandler())  # py4j logs a traceback at each Ctrl-C
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name must not fail a terminal without UTF-8
    try:
        app()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C need not wait for Java to end
