"""A real S3 server on loopback, and a proxy before it that fails as stores do."""

import http.client
import logging
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

BUCKET = "photos"


@dataclass(frozen=True)
class S3:
    """A server: its address, and a client that fills it."""

    address: str
    port: int
    client: Any = field(repr=False)

    def put(self, key: str, content: bytes, bucket: str = BUCKET) -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=content)

    def keys(self, bucket: str = BUCKET) -> list[str]:
        found = self.client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return [one["Key"] for one in found]


SETTINGS = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}


@contextmanager
def s3_server() -> Iterator[S3]:
    """Run moto's server with an empty bucket, and point the environment at it."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs each request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        address = f"http://{host}:{port}"
        with pytest.MonkeyPatch.context() as patched:
            for name, value in SETTINGS.items():
                patched.setenv(name, value)
            patched.setenv("AWS_ENDPOINT_URL", address)
            client = boto3.client(
                "s3",
                endpoint_url=address,
                region_name="us-east-1",
                aws_access_key_id="tester",
                aws_secret_access_key="secret",
            )
            client.create_bucket(Bucket=BUCKET)
            yield S3(address, port, client)
    finally:
        server.stop()


@dataclass(frozen=True)
class Answer:
    """What a proxy answers instead of the store.

    After `seconds`: a `status` with a body; the true answer, whose body is `cut` in half, or lacks
    the `hidden` newest objects of a listing; or none, where the connection is `reset`. With `done`
    the store has done the request before its answer is lost or replaced.
    """

    status: int = 0
    body: bytes = b""
    cut: bool = False
    seconds: float = 0.0
    reset: bool = False
    done: bool = False
    hidden: int = 0

    @property
    def is_passed_on(self) -> bool:
        """Tell whether the store gets the request."""
        return self.done or not (self.status or self.reset)


Fault = Callable[[str, str], Answer | None]
"""Takes method and path of a request; None passes it on."""


@contextmanager
def proxy(port: int, fault: Fault) -> Iterator[str]:
    """Run a proxy before the server on a port of this machine; give its address."""
    writing = threading.Lock()  # moto decides on conditional puts in two steps

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = fault(self.command, self.path) or Answer()
            if answer.seconds:
                threading.Event().wait(answer.seconds)
            if not answer.is_passed_on:
                self.replace(answer)
                return
            passed = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            headers = {name: value for name, value in self.headers.items() if name != "Connection"}
            with writing if self.command == "PUT" else nullcontext():
                passed.request(self.command, self.path, body or None, headers)
                got = passed.getresponse()
                content = got.read()
            passed.close()
            if answer.status or answer.reset:
                self.replace(answer)
                return
            if answer.hidden:
                content = _without_newest(content, answer.hidden)
            if answer.cut and content:
                self.send_response(got.status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
                return
            kept = {
                name: value
                for name, value in got.getheaders()
                if name.lower() not in ("content-length", "connection", "transfer-encoding")
            }
            length = got.getheader("Content-Length") if self.command == "HEAD" else None
            self.reply(got.status, kept, content, length)

        def replace(self, answer: Answer) -> None:
            if answer.status:
                self.reply(answer.status, {}, answer.body)
                return
            # Closed with this option, a connection is reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

        def reply(
            self, status: int, headers: dict[str, str], body: bytes, length: str | None = None
        ) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            return  # a client that went away

    server = Server(("127.0.0.1", 0), Handler)
    running = threading.Thread(target=server.serve_forever, args=(0.05,))
    running.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        running.join()
        server.server_close()


def _without_newest(listing: bytes, count: int) -> bytes:
    """Return a listing of S3 without its newest objects."""
    objects = re.findall(rb"<Contents>.*?</Contents>", listing, re.DOTALL)

    def age(one: bytes) -> tuple[bytes, bytes]:
        (key,) = re.findall(rb"<Key>(.*?)</Key>", one)
        (time,) = re.findall(rb"<LastModified>(.*?)</LastModified>", one)
        return time, key

    for one in sorted(objects, key=age, reverse=True)[:count]:
        listing = listing.replace(one, b"")
    return listing
