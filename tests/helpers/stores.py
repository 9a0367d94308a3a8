"""A real S3 server on loopback, and a proxy before it that fails as stores do."""

import http.client
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@dataclass
class Answer:
    """What a proxy answers instead of the store: a status and a body, or half of the true one."""

    status: int = 0
    body: bytes = b""
    cut: bool = False
    seconds: float = 0.0


Fault = Callable[[str, str], Answer | None]
"""Takes method and path of a request; None passes it on."""


@contextmanager
def proxy(port: int, fault: Fault) -> Iterator[str]:
    """Run a proxy before the server on a port of this machine; give its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = fault(self.command, self.path)
            if answer is not None and answer.seconds:
                threading.Event().wait(answer.seconds)
            if answer is not None and answer.status:
                self.reply(answer.status, {}, answer.body)
                return
            passed = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            headers = {name: value for name, value in self.headers.items() if name != "Connection"}
            passed.request(self.command, self.path, body or None, headers)
            got = passed.getresponse()
            content = got.read()
            passed.close()
            if answer is not None and answer.cut:
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
