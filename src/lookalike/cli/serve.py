"""The command that shows an index in a browser."""

import threading
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli.options import IndexesArgument
from lookalike.cli.output import errors, printable

_MAX_LIMIT = 10_000_000


def serve(
    indexes: IndexesArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; 0.0.0.0 lets in other machines, which need the token."
        ),
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(
            envvar="LOOKALIKE_TOKEN",
            help="Token that requests need. [default: made if other machines can connect]",
        ),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    upload_mb: Annotated[float, typer.Option(help="The largest upload, in megabytes.")] = 20,
    upload_mpixels: Annotated[float, typer.Option(help="The largest upload, in megapixels.")] = 100,
    cache_mb: Annotated[
        float, typer.Option(help="Disk space for thumbnails, in megabytes.")
    ] = 2000,
    originals: Annotated[
        bool | None,
        typer.Option(
            "--originals/--no-originals",
            help="Give out the files of images, with their metadata. "
            "[default: if only this machine can connect]",
        ),
    ] = None,
    allow_changes: Annotated[
        bool,
        typer.Option("--allow-changes", help="Let the page set images aside, and put them back."),
    ] = False,
    aside: Annotated[
        Path | None,
        typer.Option(help="Folder for --allow-changes. [default: INDEX.aside]"),
    ] = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log every request.")] = False,
) -> None:
    """Serve an index, or several, as a web page and an HTTP API, until Ctrl-C.

    Drop an image on the page to see what looks like it. `api/openapi.json` describes the API.
    Changes to the index show within a second or two. Of several indexes, each has its name in its
    address.

    Example: `lookalike serve cars.index`
    """
    from lookalike.create import open_index
    from lookalike.server import Limits
    from lookalike.server import serve as serve_index

    if not all(0 < limit < _MAX_LIMIT for limit in (upload_mb, upload_mpixels, cache_mb + 1)):
        raise typer.BadParameter(f"limits must be above 0 and below {_MAX_LIMIT:,}")
    opened = [open_index(index) for index in indexes]

    def on_start(addresses: list[str]) -> None:
        names = ", ".join(printable(Path(index).resolve().name) for index in indexes)
        what = f"{sum(map(len, opened)):,} images of {names}"
        # With --quiet too: they may hold a token that nobody knows yet.
        errors.print(f"{addresses[0]}  {what}, Ctrl-C ends it", markup=False)
        for address in addresses[1:]:
            errors.print(f"{address}  from other machines", markup=False)
        if open_page:  # a browser in the terminal waits for the page
            threading.Thread(target=webbrowser.open, args=addresses[:1], daemon=True).start()

    limits = Limits(round(upload_mb * 1e6), round(upload_mpixels * 1e6))
    serve_index(
        opened,
        host,
        port,
        token=token,
        limits=limits,
        cap=round(cache_mb * 1e6),
        originals=originals,
        allow_changes=allow_changes,
        aside=aside,
        access_log=access_log,
        on_start=on_start,
    )
