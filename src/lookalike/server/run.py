"""Run the server: its port, the timeouts of its connections, its shutdown."""

import asyncio
import logging
import re
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lookalike.errors import LookalikeError, one_line
from lookalike.server.app import Indexed, create_app
from lookalike.server.security import LOOPBACK, is_loopback
from lookalike.server.state import Access
from lookalike.server.thumbnails import MAX_CACHE_BYTES
from lookalike.server.uploads import Limits

HEAD_TIMEOUT_SECONDS = 10.0
"""Longest time to receive the head of a request."""
MAX_HEAD_BYTES = 64 * 2**10
READ_TIMEOUT_SECONDS = 30.0
"""Longest time that a client may read nothing of a response."""
_MAX_CONNECTIONS = 1000  # beyond that the server answers 503
_GRACE_SECONDS = 3  # for open responses at shutdown
_TOKEN = re.compile(r"([?&]token=)[^&]*")


class TimeoutProtocol(HttpToolsProtocol):
    """Closes connections that send no request or read no response; uvicorn has no such timeouts."""

    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _unparsed_bytes = 0  # bytes since the last complete head or part of a body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout for a head."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Receive data; refuse an endless head, or endless lines after a body."""
        if self.transport.is_closing():
            return
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self._unparsed_bytes > MAX_HEAD_BYTES:
            self._refuse(b"431 Request Header Fields Too Large")
        elif self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._wait()  # uvicorn has just stopped its own timeout

    def on_message_begin(self) -> None:
        """Restart the timeout for a head."""
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        """Stop the timeout: bodies have their own."""
        self._unparsed_bytes = 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Receive a part of a body."""
        self._unparsed_bytes = 0
        super().on_body(body)

    def pause_writing(self) -> None:
        """Start the timeout for a client that reads nothing."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(READ_TIMEOUT_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the timeout: the client reads again."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def shutdown(self) -> None:
        """Let responses finish, but do not wait for slow clients."""
        if self._write_timer is not None:
            self.transport.abort()
        elif self.cycle is not None and self.cycle.more_body:
            self.transport.close()
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timeouts."""
        self._stop_waiting()
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop_waiting()
        self._head_timer = self.loop.call_later(
            HEAD_TIMEOUT_SECONDS, self._refuse, b"408 Request Timeout"
        )

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: bytes) -> None:
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\n\r\n")
            self.transport.close()


def serve(
    index: Indexed | Sequence[Indexed],
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    token: str | None = None,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    cap: int = MAX_CACHE_BYTES,
    originals: bool | None = None,
    allow_changes: bool = False,
    aside: Path | None = None,
    access_log: bool = False,
    on_start: Callable[[list[str]], object] = lambda addresses: None,
) -> None:
    """Serve an index, or several, until Ctrl-C or SIGTERM.

    Parameters
    ----------
    index
        The index, or its folder; or several.
    host, port
        The address to listen on. Port 0 takes a free port.
    token
        Requests have to send this token. If other machines can reach `host`, the default is a
        random token.
    limits
        Limits of an upload.
    cap
        Largest size in bytes of the thumbnail cache on disk.
    originals
        Whether the files of images are given out as they are, with their metadata. By default where
        only this machine can reach the server.
    allow_changes
        Let the page set images aside, and put them back.
    aside
        The folder for them; by default beside the index, `NAME.aside`.
    access_log
        Log requests.
    on_start
        Called with the addresses to open, that for this machine first.

    Raises
    ------
    LookalikeError
        If the port cannot be opened, or the token cannot be part of an address.

    """
    if token and not re.fullmatch(r"[\w.~-]+", token, re.ASCII):
        raise LookalikeError("a token may have letters, digits, and - . _ ~: choose another")
    listening = _listen(host, port)
    try:
        token = token or (None if is_loopback(host) else secrets.token_urlsafe(16))
        hosts = LOOPBACK | {f"[{host}]" if ":" in host else host.lower()}
        gives_originals = is_loopback(host) if originals is None else originals
        access = Access(gives_originals, allow_changes, aside)
        app = create_app(index, token=token, hosts=hosts, limits=limits, cap=cap, access=access)
        config = uvicorn.Config(
            app,
            http=TimeoutProtocol,
            ws="none",
            lifespan="on",
            log_level="info" if access_log else "warning",
            access_log=access_log,
            server_header=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        logging.getLogger("uvicorn.access").addFilter(_without_token)
        on_start(_addresses(listening, host, token))
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()


def _without_token(line: logging.LogRecord) -> bool:
    """Remove the token from an address in a log line."""
    if isinstance(line.args, tuple):
        line.args = tuple(
            _TOKEN.sub(r"\1...", one) if isinstance(one, str) else one for one in line.args
        )
    return True


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(place)
            listening.listen(1024)
        except OSError:
            listening.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:  # UnicodeError: not a host name
        raise LookalikeError(
            f"cannot listen on {host} port {port} ({one_line(error)}): choose another `port`, "
            "or 0 for any"
        ) from None
    return listening


def _addresses(listening: socket.socket, host: str, token: str | None) -> list[str]:
    port = listening.getsockname()[1]
    names = ["127.0.0.1", socket.gethostname()] if host in ("0.0.0.0", "::") else [host]
    rest = f"?token={token}" if token else ""
    return [f"http://{f'[{name}]' if ':' in name else name}:{port}/{rest}" for name in names]
