"""How fast a store is listed or indexed, and how memory grows with the number of objects.

    python benchmarks/listing.py --objects 50000 200000 --folders 20 --latency-ms 0
    python benchmarks/listing.py --objects 50000 200000 --index

A server of this script answers S3's listing of drawn names over HTTP, in a process of its own, each
page after a latency; each number of objects is listed in a fresh process. With `--index` that
process also reads them, the same small picture each, embeds them with a function that costs
nothing, and writes an index. Prints JSON: seconds, microseconds an object, and the peak memory of
the process in MB, before and after.
"""

import argparse
import io
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from bisect import bisect_left, bisect_right
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import numpy.typing as npt
from PIL import Image

PAGE = 1000


def names(objects: int, folders: int) -> list[str]:
    """Return the names of drawn objects, in order."""
    return sorted(f"photos/{at % folders:02}/{at:09}.png" for at in range(objects))


def picture() -> bytes:
    """Return a small picture."""
    content = io.BytesIO()
    Image.linear_gradient("L").resize((16, 16)).save(content, "PNG")
    return content.getvalue()


def mean_rows(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return a vector (n, height) of each image (n, height, width, 3)."""
    rows: npt.NDArray[np.float32] = images.mean((2, 3), dtype=np.float32)
    return rows


def serve(objects: int, folders: int, latency: float, ready: Connection) -> None:
    """Answer `ListObjectsV2` for drawn names, and `GetObject` with a picture."""
    every, content_of_each = names(objects, folders), picture()
    row = (
        "<Contents><Key>{}</Key><LastModified>2024-05-06T07:08:09.000Z</LastModified>"
        f'<ETag>"0"</ETag><Size>{len(content_of_each)}</Size></Contents>'
    )

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path.endswith(".png"):
                self.reply(content_of_each)
                return
            time.sleep(latency)
            asked = {name: value[0] for name, value in parse_qs(urlsplit(self.path).query).items()}
            prefix = asked.get("prefix", "")
            first, last = bisect_left(every, prefix), bisect_left(every, prefix + "\x7f")
            first = max(first, bisect_right(every, asked.get("start-after", "")))
            start = int(asked.get("continuation-token", first))
            content = every[start : min(start + PAGE, last)]
            more = start + PAGE < last
            token = f"<NextContinuationToken>{start + PAGE}</NextContinuationToken>" if more else ""
            body = (
                "<?xml version='1.0'?><ListBucketResult><Name>b</Name>"
                f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}"
                f"{''.join(map(row.format, content))}</ListBucketResult>"
            ).encode()
            self.reply(body)

        def reply(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Last-Modified", "Mon, 06 May 2024 07:08:09 GMT")
            self.send_header("ETag", '"0"')
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    ready.send(server.server_address[1])
    server.serve_forever()


def index_once(folder: str) -> int:
    """Index all objects in this process; return the number of images."""
    import lookalike

    model = lookalike.CallableModel(mean_rows, name="mean rows", version="1", size=16)
    index = lookalike.create_index("s3://b/photos", f"{folder}/x.index", model=model, spark=False)
    return len(index)


def measure(objects: int, port: int, index: bool, result: Connection) -> None:
    """List or index once; send seconds and memory."""
    from lookalike.images.inputs.source import Source
    from lookalike.images.inputs.store_listing import list_store

    os.environ |= {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        source, listing = Source("uri", "s3://b/photos", ()), Path(folder) / "listing.parquet"
        count = index_once(folder) if index else list_store(source, listing)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert count == objects
    result.send(
        {
            "objects": objects,
            "seconds": round(seconds, 2),
            "microseconds_an_object": round(seconds / objects * 1e6, 1),
            "peak_mb_before": before // 1024,
            "peak_mb": after // 1024,
        }
    )


def main() -> None:
    """List each number of objects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, nargs="+", default=[50_000, 200_000])
    parser.add_argument("--folders", type=int, default=20)
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--index", action="store_true", help="read and index the objects, too")
    arguments = parser.parse_args()
    processes = multiprocessing.get_context("spawn")
    runs = []
    for objects in arguments.objects:
        here, there = processes.Pipe()
        served = (objects, arguments.folders, arguments.latency_ms / 1000, there)
        server = processes.Process(target=serve, args=served, daemon=True)
        server.start()
        listing = processes.Process(
            target=measure, args=(objects, here.recv(), arguments.index, there)
        )
        listing.start()
        listing.join()
        runs.append(here.recv())
        server.terminate()
        server.join()
    print(json.dumps({"machine": platform.processor() or platform.machine(), "runs": runs}))  # noqa: T201


if __name__ == "__main__":
    main()
