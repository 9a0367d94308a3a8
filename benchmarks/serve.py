"""The server under load, by wrk (https://github.com/wg/wrk). Prints one line of JSON.

    python benchmarks/serve.py --index cars.index --photos elsewhere/ --json
    python benchmarks/serve.py --vectors drawn.npy --json      # see vectors.py

One client at a time says how long people wait: for look-alikes of an indexed image, within a
distance as well, of an upload, and for a small picture. Many at a time say what the server bears:
milliseconds at the median and the 99th of 100, as wrk corrects them for what a stall would have
delayed, answers that were no 2xx, memory before and after. Of vectors, with no images behind them,
searches alone are asked, also while their signatures are being made. Debian's package is `wrk`.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from measure import machine, memory_of_tree
from stored import collection_of

IDS = 2000  # images that ask
PHOTOS = 100  # that are uploaded, over and over
SCRIPT = """
local asked = {{{requests}}}
local at = math.random(#asked)
function request()
  at = at % #asked + 1
  return asked[at]()
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format("answer %d %d %d %d %d %d %d %d %d\\n", summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    e.status, e.timeout, e.connect, e.read + e.write))
end
"""
NAMES = ("requests", "us", "p50", "p99", "max", "status", "timeout", "connect", "broken")


def main() -> None:
    """Start the server, load it, say what it bore."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given_by = parser.add_mutually_exclusive_group(required=True)
    given_by.add_argument("--index", type=Path, help="an index of photos that are at hand")
    given_by.add_argument("--vectors", type=Path, help="float32 (n, width), .npy")
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs to upload")
    parser.add_argument("--seconds", type=int, default=30, help="that each load lasts")
    parser.add_argument("--searches", type=int, default=200, help="at once")
    parser.add_argument("--uploads", type=int, default=20, help="at once")
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("this needs wrk (https://github.com/wg/wrk): apt install wrk")
    with tempfile.TemporaryDirectory() as folder:
        path = given.index
        if path is None:
            os.environ["LOOKALIKE_CACHE"] = str(Path(folder) / "cache")
            path = Path(folder) / "index"
            for segment in collection_of(np.load(given.vectors, mmap_mode="r"), path).segments:
                len(segment.ids)  # opened once, as an index is that somebody has searched
        print(json.dumps({"machine": machine(), **measured(given, path, Path(folder))}))  # noqa: T201


def measured(given: argparse.Namespace, path: Path, folder: Path) -> dict[str, Any]:
    """Serve an index and load the server; return what it bore."""
    command = [str(Path(sys.executable).with_name("lookalike")), "serve", str(path)]
    started = time.perf_counter()
    server = subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True)
    short, long, many, some = given.seconds // 3, given.seconds, given.searches, given.uploads
    try:
        assert server.stderr is not None
        address = re.findall(r"http://\S+", server.stderr.readline())[0]
        about = info(address)
        told: dict[str, Any] = {"ready_s": round(time.perf_counter() - started, 2)}
        photos = sorted(given.photos.rglob("*.jpg"))[:PHOTOS] if given.photos else []
        search, near, picture, upload = scripts(folder, ids(address), photos)

        def loaded(script: Path, at_once: int, seconds: int) -> dict[str, Any]:
            return load(server.pid, address, script, at_once, seconds)

        if about["recall"]["measured"] is None:
            told["search, meanwhile"] = loaded(search, 1, short)
            while (about := info(address))["recall"]["measured"] is None:
                time.sleep(1)
        time.sleep(2)  # until the network is compiled, which happens beside the first answers
        told["index"] = about
        told["search"] = loaded(search, 1, short)
        told["search within 0.4"] = loaded(near, 1, short)
        told[f"{many} searches"] = loaded(search, many, long)
        if photos:
            told["picture"] = loaded(picture, 1, short)
            told["upload"] = loaded(upload, 1, short)
            told[f"{some} uploads"] = loaded(upload, some, long)
    finally:
        server.terminate()
        server.wait()
    return told


def info(address: str) -> dict[str, Any]:
    """Return what the server says of the index, as soon as it says anything."""
    with urllib.request.urlopen(f"{address}api/info", timeout=60) as answer:
        about = json.load(answer)
    return {name: about[name] for name in ("images", "model", "recall")}


def ids(address: str) -> list[int]:
    """Return the ids of images drawn at random."""
    found: set[int] = set()
    for seed in range(IDS // 200):
        with urllib.request.urlopen(f"{address}api/random?count=200&seed={seed}") as answer:
            found.update(image["id"] for image in json.load(answer)["images"])
    return sorted(found)


def scripts(folder: Path, numbers: list[int], photos: list[Path]) -> list[Path]:
    """Write what wrk is to ask for: searches, those within a distance, pictures, uploads."""
    searches = [get(f"/api/search?image={number}&k=24") for number in numbers]
    near = [get(f"/api/search?image={number}&k=24&within=0.4") for number in numbers]
    pictures = [get(f"/api/images/{number}/picture?size=320") for number in numbers]
    uploads = []
    for at, photo in enumerate(photos):
        body = folder / f"{at}.jpg"
        shutil.copyfile(photo, body)
        uploads.append(
            f'(function() local f = io.open("{body}", "rb"); local b = f:read("*a"); f:close(); '
            'return function() return wrk.format("POST", "/api/search?k=24", '
            '{["Content-Type"] = "image/jpeg"}, b) end end)()'
        )
    written = []
    named = {"search": searches, "near": near, "picture": pictures, "upload": uploads}
    for name, asked in named.items():
        written.append(folder / f"{name}.lua")
        written[-1].write_text(SCRIPT.format(requests=",\n".join(asked)))
    return written


def get(path: str) -> str:
    """Return a function in Lua that asks for a path."""
    return f'function() return wrk.format("GET", "{path}") end'


def load(server: int, address: str, script: Path, at_once: int, seconds: int) -> dict[str, Any]:
    """Ask for so many seconds; return what came of it."""
    memory = [memory_of_tree(server)]
    over = threading.Event()

    def look() -> None:
        while not over.wait(1):
            memory.append(memory_of_tree(server))

    looking = threading.Thread(target=look)
    looking.start()
    threads = min(at_once, 2)
    command = ["wrk", f"-t{threads}", f"-c{at_once}", f"-d{seconds}s", "--timeout", "30s"]
    done = subprocess.run(
        [*command, "-s", str(script), address], capture_output=True, text=True, check=True
    )
    over.set()
    looking.join()
    numbers = [int(one) for one in re.findall(r"^answer (.*)$", done.stdout, re.M)[0].split()]
    told = dict(zip(NAMES, numbers, strict=True))
    third = max(len(memory) // 3, 1)
    return {
        "requests": told["requests"],
        "per_s": round(told["requests"] / (told["us"] / 1e6), 1),
        "ms": {name: round(told[name] / 1000, 2) for name in ("p50", "p99", "max")},
        "errors": sum(told[name] for name in ("status", "timeout", "connect", "broken")),
        "megabytes": {
            "first_third": round(max(memory[:third]) / 1e6),
            "last_third": round(max(memory[-third:]) / 1e6),
        },
    }


if __name__ == "__main__":
    main()
