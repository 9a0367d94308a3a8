"""The server as a process: its port, its connections, its end."""

import asyncio
import logging
import re
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lookalike.errors import LookalikeError, one_line
from lookalike.index import Index
from lookalike.server.app import create_app
from lookalike.server.security import LOOPBACK, is_loopback
from lookalike.server.thumbnails import CAP
from lookalike.server.uploads import Limits

HEAD_SECONDS = 10.0
"""For the head of a request to arrive."""
HEAD_BYTES = 64 * 2**10
READ_SECONDS = 30.0
"""For somebody to take some of an answer."""
_CONNECTIONS = 1000  # at a time; whoever comes later is told to try again
_GRACE = 3  # seconds that answers under way get when the server ends
_TOKEN = re.compile(r"([?&]token=)[^&]*")


class Patient(HttpToolsProtocol):
    """Closes connections that bring no request, or take no answer; uvicorn would wait for ever."""

    _timer: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None
    _loose = 0  # bytes that were neither the end of a head nor of a body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take what arrives, but no endless head, nor endless lines after a body."""
        if self.transport.is_closing():
            return
        self._loose += len(data)
        super().data_received(data)
        if self._loose > HEAD_BYTES:
            self._end(b"431 Request Header Fields Too Large")
        elif self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._wait()  # uvicorn has just stopped to

    def on_message_begin(self) -> None:
        """Wait for the rest of a head."""
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        """Wait no longer: what comes now has limits of its own."""
        self._loose = 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._loose = 0
        super().on_body(body)

    def pause_writing(self) -> None:
        """Give up on who takes no answer."""
        super().pause_writing()
        self._reading = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on with who takes it after all."""
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def shutdown(self) -> None:
        """Let answers under way finish, but wait for nobody."""
        if self._reading is not None:
            self.transport.abort()
        elif self.cycle is not None and self.cycle.more_body:
            self.transport.close()
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop_waiting()
        if self._reading is not None:
            self._reading.cancel()
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
            if self.cycle is None or self.cycle.response_complete:
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
    began: Callable[[list[str]], object] = lambda addresses: None,
) -> None:
    """Serve an index until Ctrl-C or SIGTERM.

    Where other machines can reach `host`, a token is made unless one is given. Port 0 takes one
    that is free. `began` is told the addresses to open, that for this machine first. Raises
    `LookalikeError` where the port is not to be had, or the token cannot be part of an address.
    """
    if token and not re.fullmatch(r"[\w.~-]+", token, re.ASCII):
        raise LookalikeError("a token is made of letters, digits, and - . _ ~: choose another")
    listening = _listen(host, port)
    try:
        token = token or (None if is_loopback(host) else secrets.token_urlsafe(16))
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
        logging.getLogger("uvicorn.access").addFilter(_without_token)
        began(_addresses(listening, host, token))
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()


def _without_token(line: logging.LogRecord) -> bool:
    """Take the token out of an address that is about to be logged."""
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
    except (OSError, OverflowError, UnicodeError) as error:  # the last for what is no host name
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
