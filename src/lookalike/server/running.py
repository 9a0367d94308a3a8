"""The server as a process: its port, its connections, its end."""

import asyncio
import ipaddress
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lookalike.errors import LookalikeError
from lookalike.index import Index
from lookalike.server.app import create_app
from lookalike.server.guard import LOOPBACK, is_loopback
from lookalike.server.thumbnails import CAP
from lookalike.server.uploads import Limits

HEAD_SECONDS = 10.0
"""For the head of a request to arrive."""
HEAD_BYTES = 64 * 2**10
_CONNECTIONS = 1000  # at a time; whoever comes later is told to try again
_GRACE = 3  # seconds that answers under way get when the server ends


class Patient(HttpToolsProtocol):
    """Closes connections whose request does not begin, or does not end; uvicorn would wait."""

    _timer: asyncio.TimerHandle | None = None
    _in_head = True
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._wait()

    def on_message_begin(self) -> None:
        """Wait for the rest of a head, or of one that follows on the same connection."""
        super().on_message_begin()
        self._in_head = True
        self._wait()

    def on_headers_complete(self) -> None:
        """Wait no longer: what comes now has limits of its own."""
        self._in_head, self._head_bytes = False, 0
        self._stop_waiting()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Take what arrives; of a head no more than there is room for."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES and b"\r\n\r\n" not in data[:HEAD_BYTES]:
                self._end(b"431 Request Header Fields Too Large")
                return
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(HEAD_SECONDS, self._end, b"408 Request Timeout")

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, status: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\n\r\n")
            self.transport.close()


def serve(
    index: Index | str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    token: str | None = None,
    limits: Limits = Limits(),  # noqa: B008 - it cannot change
    cap: int = CAP,
    access_log: bool = False,
    began: Callable[[str], object] = lambda address: None,
) -> None:
    """Serve an index until Ctrl-C or SIGTERM.

    Where other machines can reach `host`, a token is made unless one is given. Port 0 takes one
    that is free. `began` is told the address to open. Raises `LookalikeError` where the port is
    not to be had.
    """
    listening = _listen(host, port)
    try:
        if not is_loopback(host):
            token = token or secrets.token_urlsafe(16)
        hosts = LOOPBACK | {f"[{host}]" if ":" in host else host.lower()}
        app = create_app(index, token=token, hosts=hosts, limits=limits, cap=cap)
        config = uvicorn.Config(
            app,
            http=Patient,
            ws="none",
            lifespan="on",
            log_level="info" if access_log else "warning",
            access_log=access_log,
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_GRACE,
        )
        began(_address(listening, host, token))
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()


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
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LookalikeError(
            f"cannot listen on {host} port {port} ({reason}): say another --port, or 0 for any"
        ) from None
    return listening


def _address(listening: socket.socket, host: str, token: str | None) -> str:
    port: Any = listening.getsockname()[1]
    shown = host
    if host in ("0.0.0.0", "::"):
        shown = socket.gethostname()
    elif ":" in host and ipaddress.ip_address(host):
        shown = f"[{host}]"
    return f"http://{shown}:{port}/" + (f"?token={quote(token)}" if token else "")
