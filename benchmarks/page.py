"""The page in a browser: how smoothly its map moves, how long a click takes. One line of JSON.

    python benchmarks/page.py --index cars.index --json
    python benchmarks/page.py --vectors crops.npy --rows 50000 --json

A headless Chromium, which draws without a graphics card, drags the map about and zooms it, and
clicks from look-alike to look-alike. Told are milliseconds: a frame, and from a click until the
look-alikes are drawn. Images behind vectors there are none, so that only their map is looked at.
"""

import argparse
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from playwright.sync_api import Page, sync_playwright

from lookalike.server import create_app
from measure import machine
from stored import collection_of

CLICKS = 30
FRAMES = """() => {
    const times = window.times = [];
    const frame = (now) => { times.push(now); requestAnimationFrame(frame); };
    requestAnimationFrame(frame);
}"""
CLICK = """() => new Promise((resolve) => {
    const title = document.querySelector("#results-title");
    const started = performance.now();
    const seen = new MutationObserver(() => requestAnimationFrame(() => {
        seen.disconnect();
        resolve(performance.now() - started);
    }));
    seen.observe(document.querySelector("#neighbors"), {childList: true});
    document.querySelector("#neighbors a.card").click();
})"""


def main() -> None:
    """Serve an index, look at it, say how that went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given_by = parser.add_mutually_exclusive_group(required=True)
    given_by.add_argument("--index", type=Path, help="an index of photos that are at hand")
    given_by.add_argument("--vectors", type=Path, help="float32 (n, width), .npy")
    parser.add_argument("--rows", type=int, help="how many of the vectors")
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = given.index
        if path is None:
            os.environ["LOOKALIKE_CACHE"] = str(Path(folder) / "cache")
            path = Path(folder) / "index"
            collection_of(np.load(given.vectors, mmap_mode="r")[: given.rows], path)
        server = uvicorn.Server(uvicorn.Config(create_app(path), port=0, log_level="critical"))
        running = threading.Thread(target=server.run)
        running.start()
        try:
            while not server.started:
                running.join(0.1)
            port = server.servers[0].sockets[0].getsockname()[1]
            told = looked_at(f"http://127.0.0.1:{port}/", clicks=given.vectors is None)
        finally:
            server.should_exit = True
            running.join()
    print(json.dumps({"machine": machine(), **told}))  # noqa: T201


def looked_at(address: str, clicks: bool) -> dict[str, Any]:
    """Open the page in a browser; return what was measured."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--enable-unsafe-swiftshader"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"{address}?view=map")
        page.locator("#map-state", has_text="in view").wait_for(state="attached", timeout=300_000)
        told: dict[str, Any] = {
            "map": page.locator("#map-state").text_content(),
            "frame_while_dragged": frames(page, zoom=False),
            "frame_while_zoomed": frames(page, zoom=True),
        }
        if clicks:
            page.goto(f"{address}?image=5")
            page.locator("#neighbors a.card").first.wait_for()
            told["click"] = quantiles([page.evaluate(CLICK) for _ in range(CLICKS)])
        browser.close()
        return told


def frames(page: Page, zoom: bool) -> dict[str, float]:
    """Drag the map about, or zoom it; return how long frames took meanwhile."""
    page.mouse.move(640, 400)
    page.evaluate(FRAMES)
    if not zoom:
        page.mouse.down()
    for step in range(90):
        if zoom:
            page.mouse.wheel(0, -60 if step < 45 else 60)
        else:
            turn = step / 90 * 4 * np.pi
            page.mouse.move(640 + 200 * np.sin(turn), 400 + 120 * (1 - np.cos(turn)))
        page.wait_for_timeout(16)
    if not zoom:
        page.mouse.up()
    return quantiles(np.diff(page.evaluate("window.times")).tolist())


def quantiles(times: list[float]) -> dict[str, float]:
    """Return the median of some times, and that which 95 of 100 do not exceed."""
    return {
        name: round(float(np.quantile(times, q)), 1) for name, q in (("p50", 0.5), ("p95", 0.95))
    }


if __name__ == "__main__":
    main()
