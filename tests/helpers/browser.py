"""A real browser at the page of the server that a module starts."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # not every run of tests needs a browser
    from playwright.sync_api import Browser, Page

    from helpers.web_page import Visit

DESK = {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import expect, sync_playwright

    from helpers.servers import CHROMIUM

    expect.set_options(timeout=30_000)  # of a machine with much else to do
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--enable-unsafe-swiftshader"]
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: "Browser", address: str) -> Iterator["Visit"]:
    """Open the page; afterwards nothing may have gone wrong in it, and nothing left its origin.

    `wrong` is a pattern of what is to go wrong. Options are those of a browser context.
    """
    contexts = []
    problems: list[str] = []

    def open_page(asked: str = "", *, wrong: str = "^$", **options: Any) -> "Page":
        context = browser.new_context(**{"viewport": DESK, **options})
        contexts.append(context)
        page = context.new_page()

        def note(what: str) -> None:
            if not re.search(wrong, what):
                problems.append(what)

        page.on("pageerror", lambda error: note(str(error)))
        page.on("console", lambda said: note(said.text) if said.type == "error" else None)
        context.on(
            "request",
            lambda sent: (
                None if sent.url.startswith((address, "blob:")) else note(f"left: {sent.url}")
            ),
        )
        page.goto(address + asked)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("LOOKALIKE_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
