"""The command that shows an index in a browser."""

import contextlib
import threading
import webbrowser
from typing import Annotated

import typer

from lookalike.cli.arguments import IndexArgument
from lookalike.cli.printing import notes, printable

_MOST = 10_000_000


def serve(
    index: IndexArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free.")] = 8000,
    host: Annotated[
        str, typer.Option(help="0.0.0.0 for other machines too, which then need the token.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(
            envvar="LOOKALIKE_TOKEN",
            help="Requests have to carry it. [default: made up if other machines can ask]",
        ),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    upload_mb: Annotated[float, typer.Option(help="The largest upload, in megabytes.")] = 20,
    upload_mpixels: Annotated[float, typer.Option(help="The same, in megapixels.")] = 100,
    cache_mb: Annotated[
        float, typer.Option(help="Disk that small pictures may take, in megabytes.")
    ] = 2000,
    access_log: Annotated[bool, typer.Option("--access-log", help="A line a request.")] = False,
) -> None:
    """Open an index as a web page, until Ctrl-C: drop a photo, see what looks like it.

    Programs ask the same server: `api/openapi.json` says what. What others add to the index shows
    within a second or two.

    Example: `lookalike serve cars.index`
    """
    from lookalike.create import open_index
    from lookalike.server import Limits
    from lookalike.server import serve as serve_index

    if not all(0 < limit < _MOST for limit in (upload_mb, upload_mpixels, cache_mb + 1)):
        raise typer.BadParameter(f"limits are numbers above 0 and below {_MOST:,}")
    opened = open_index(index)

    def began(addresses: list[str]) -> None:
        what = f"{len(opened):,} images of {printable(index.resolve().name)}"
        notes.print(f"{addresses[0]}  {what}, Ctrl-C ends it", markup=False)
        for address in addresses[1:]:
            notes.print(f"{address}  from elsewhere", markup=False)
        if open_page:  # a browser in the terminal waits for the page
            threading.Thread(target=webbrowser.open, args=addresses[:1], daemon=True).start()

    limits = Limits(round(upload_mb * 1e6), round(upload_mpixels * 1e6))
    with contextlib.suppress(KeyboardInterrupt):
        serve_index(
            opened,
            host,
            port,
            token=token,
            limits=limits,
            cap=round(cache_mb * 1e6),
            access_log=access_log,
            began=began,
        )
    notes.print("stopped")
