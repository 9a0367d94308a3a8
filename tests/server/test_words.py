"""Searching in words: in Python, from the shell, over HTTP, and on the page in a real browser."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from playwright.sync_api import expect, sync_playwright

import lookalike
from helpers import tiny_networks
from helpers.command import run, told
from helpers.servers import CHROMIUM, serving
from helpers.small import pictures
from lookalike import Index, LookalikeError
from lookalike.server import create_app

WORDS = ["a red coupe at night", "Ein grünes Auto, 100% neu?"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An index of thirty pictures by a network with a text side, of random weights."""
    folder = tmp_path_factory.mktemp("words")
    model = f"clip:{tiny_networks.clip_folder(folder / 'clip')}"
    photos = pictures(folder / "photos", 30, seed=5)
    return lookalike.create_index(photos, folder / "words.index", model=model, spark=False)


def paths_of(index: Index, vector: np.ndarray, k: int = 5) -> list[str]:
    return [neighbor.path for neighbor in index.search(vector, k)]


def test_words_find_what_their_vectors_find(words: Index) -> None:
    found = words.search(text=WORDS[0])
    vectors = words.embedder.embed_text(WORDS)
    assert [neighbor.path for neighbor in found] == paths_of(words, vectors[0])
    assert found.query.text == WORDS[0]
    assert found.to_dict()["query"] == {"path": None, "label": None, "text": WORDS[0]}
    assert WORDS[0] in found.html()
    assert found.picture().width > 320
    assert repr(WORDS[0]) in repr(found)
    several = words.search(text=WORDS, k=3)
    assert [[n.path for n in one] for one in several] == [paths_of(words, v, 3) for v in vectors]
    exactly = words.search(text=WORDS[0], engine="exact", path="00*")
    assert {neighbor.path[:2] for neighbor in exactly} == {"00"}


def test_one_query_at_a_time(words: Index, index: Index) -> None:
    with pytest.raises(LookalikeError, match=r"and one alone$"):
        words.search("photo.png", text="a car")  # type: ignore[call-overload]
    with pytest.raises(LookalikeError, match=r"^a text without words: "):
        words.search(text=" ")
    with pytest.raises(LookalikeError, match=r"^efficientnet-lite0 embeds no words: "):
        index.search(text="a car")


def test_from_the_shell(words: Index, index: Index, tmp_path: Path) -> None:
    sheet = tmp_path / "found.png"
    answer = told("search", words.path, "--text", WORDS[1], "-k", "3")
    assert answer["query"]["text"] == WORDS[1]
    assert len(answer["neighbors"]) == 3
    assert run("search", words.path, "--text", WORDS[1], "--picture", sheet).code == 0
    assert Image.open(sheet).width > 320
    done = run("search", index.path, "--text", WORDS[0])
    assert (done.code, done.out) == (1, "")
    assert "embeds no words: index with a network that does, such as `clip:" in done.err
    assert run("search", words.path, "--text", "a", "--random").code == 2


def test_their_recall_is_measured(words: Index, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("\n".join(WORDS), "utf-8")
    figures = told("evaluate", words.path, "-k", "3", "--no-spark", "--texts", tmp_path / "texts")
    assert (figures["text"]["queries"], figures["text"]["k"]) == (2, 3)
    assert 0.5 < figures["text"]["recall"] <= 1
    shown = run("evaluate", words.path, "--no-spark", "--texts", tmp_path / "texts").out
    assert "recall@5 of 2 queries in words: " in shown


def test_over_http(words: Index, index: Index) -> None:
    wanted = [n.path for n in words.search(text=WORDS[1], k=4)]
    with TestClient(create_app(words), base_url="http://localhost") as client:
        assert client.get("/api/info").json()["has_words"] is True
        by_get = client.get("/api/search", params={"text": WORDS[1], "k": 4}).json()
        by_post = client.post("/api/search?k=4", json={"text": WORDS[1]}).json()
        for answer in (by_get, by_post):
            assert [one["path"] for one in answer["neighbors"]] == wanted
            assert answer["query"]["text"] == WORDS[1]
        tile = client.get(f"/{by_get['query']['thumbnail']}")
        assert Image.open(io.BytesIO(tile.content)).format == "JPEG"
        for body, status in (
            (b"{}", 422),
            (b"junk", 422),
            (b'{"text": 5}', 422),
            (b'{"text": "' + b"x" * 1001 + b'"}', 422),
            (b" " * 20_000, 422),
            (b'{"text": " "}', 400),
        ):
            headers = {"content-type": "application/json; charset=utf-8"}
            assert client.post("/api/search", content=body, headers=headers).status_code == status
        assert client.get("/api/search", params={"text": "a", "image": 0}).status_code == 400
        assert client.get("/api/search", params={"text": "x" * 1001}).status_code == 422
    with TestClient(create_app(index), base_url="http://localhost") as client:
        assert client.get("/api/info").json()["has_words"] is False
        refused = client.get("/api/search", params={"text": "a car"})
        assert (refused.status_code, refused.json()["error"].split(":")[0]) == (
            400,
            "efficientnet-lite0 embeds no words",
        )


@pytest.fixture(scope="module")
def address(words: Index) -> Iterator[str]:
    with serving(create_app(words)) as address:
        yield address


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here to look at the page with")
def test_on_the_page(address: str, words: Index) -> None:
    wanted = [n.path for n in words.search(text=WORDS[1], k=24)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 700})
        expect.set_options(timeout=30_000)
        page.goto(address)
        box = page.get_by_role("searchbox", name="Search in words")
        box.fill(WORDS[1])
        box.press("Enter")
        cards = page.locator("#neighbors a.card")
        expect(cards).to_have_count(24)
        assert [card.get_attribute("title") for card in cards.all()] == wanted
        expect(page.locator("#results-title")).to_contain_text(WORDS[1])
        assert page.evaluate("document.querySelector('#query-picture').naturalWidth") > 0
        page.reload()  # the address says it all
        expect(cards).to_have_count(24)
        expect(box).to_have_value(WORDS[1])
        cards.first.click()
        expect(page.locator("#results-title")).to_contain_text(Path(wanted[0]).name)
        expect(box).to_have_value("")
        page.go_back()
        expect(page.locator("#results-title")).to_contain_text(WORDS[1])
        browser.close()
