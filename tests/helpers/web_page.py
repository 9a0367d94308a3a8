"""What tests do on the page, and what they read there."""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from lookalike.images.synthetic import DrawnCollection

PHONE = {"width": 360, "height": 740}
Visit = Callable[..., Page]


def new_photo(drawn: DrawnCollection) -> Path:
    return sorted(drawn.new.iterdir())[0]


def wall(page: Page) -> Locator:
    cards = page.locator("#wall a.card")
    expect(cards.first).to_be_visible()
    return cards


def neighbors(page: Page, of: str = "", number: int = 24) -> Locator:
    """The cards of the neighbours, once they are those of this query."""
    expect(page.locator("#results-title")).to_have_text(re.compile(f"Look-alikes of .*{of}"))
    expect(page.locator("#main")).to_have_attribute("aria-busy", "false")
    cards = page.locator("#neighbors a.card")
    expect(cards).to_have_count(number)
    return cards


def map_of(page: Page) -> Locator:
    """The canvas, once the map is on it."""
    expect(page.locator("#map-state")).to_contain_text("in view", timeout=120_000)
    return page.locator("#map-canvas")


def give(page: Page, how: str, data: bytes, name: str, kind: str) -> None:
    """Drop or paste a file as a browser would say that a person did."""
    page.evaluate(
        """([how, data, name, type]) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, {type}));
            const options = {bubbles: true, cancelable: true};
            const event = how === "paste"
              ? new ClipboardEvent("paste", {...options, clipboardData: transfer})
              : new DragEvent(how, {...options, dataTransfer: transfer});
            document.body.dispatchEvent(event);
        }""",
        [how, base64.b64encode(data).decode(), name, kind],
    )


def query_of(page: Page) -> str:
    return page.url.partition("?")[2]


def violations(page: Page, rules: dict[str, Any]) -> list[str]:
    """What axe finds, whatever its impact."""
    found = Axe().run(page, options={"resultTypes": ["violations"], **rules})
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found.response["violations"]]
