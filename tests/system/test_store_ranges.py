"""Listings in several ranges at once: all names, each once, and few requests."""

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import pyarrow as pa
import pytest

from lookalike.system.store import OBJECT, StoreError
from lookalike.system.store_ranges import list_ranges, middle

PAGE = 10
_RNG = np.random.default_rng(1)
TREES = {
    "numbers in one folder": [f"photos/{at:09}.jpg" for at in range(3_000)],
    "hashes": [f"{number:016x}.jpg" for number in _RNG.integers(0, 2**62, 3_000)],
    "few folders": [f"{at % 20:02}/{at:06}.jpg" for at in range(3_000)],
    "many folders": [f"user {number}/{at}" for number in _RNG.permutation(900) for at in range(3)],
    "most in the last": [*(f"a/{at:03}" for at in range(300)), *(f"~/{at}" for at in range(2_000))],
    "other letters": [f"图片/é{at:05}ü" for at in range(2_000)],
    "each begins with the one before": ["-" * at for at in range(1, 400)],
    "marks of folders": [
        *(f"{at:03}{end}" for at in range(700) for end in ("-a.jpg", ".jpg", "/", "/b.jpg")),
        *(f"{at}/" for at in range(100)),
        *("V/", "V", "W"),
    ],
    "a page": [f"{at}" for at in range(PAGE)],
    "nothing": [],
}


def batch(names: list[str]) -> pa.RecordBatch:
    """A key that ends in a slash is listed as obstore lists it: without, and empty."""
    rows = [
        {"name": name.rstrip("/"), "size": int(not name.endswith("/")), "modified": 0}
        for name in names
    ]
    return pa.RecordBatch.from_pylist(rows, OBJECT)


class Listed:
    """A store's listing of names in pages; counts requests, and those of other threads."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.requests = sorted(names), 0
        self.threads: set[int] = set()
        self._lock = threading.Lock()

    def pages(self, after: str) -> Iterator[pa.RecordBatch]:
        at = bisect_right(self.names, after)
        while True:
            with self._lock:
                self.requests += 1
                self.threads.add(threading.get_ident())
            threading.Event().wait(0.0005)  # others come in between
            if found := self.names[at : at + PAGE]:
                yield batch(found)
            at += PAGE
            if at >= len(self.names):
                return


def names_of(pages: Callable[[str], Iterator[pa.RecordBatch]], threads: int = 8) -> list[str]:
    return [name for one in list_ranges(pages, threads) for name in one["name"].to_pylist()]


@pytest.mark.parametrize("tree", TREES)
def test_every_name_is_listed_once(tree: str) -> None:
    listed = Listed(list(map(str, TREES[tree])))
    wanted = [name.rstrip("/") for name in listed.names]
    assert sorted(names_of(listed.pages)) == sorted(wanted)
    assert listed.requests <= 2 * (len(listed.names) // PAGE + 9)
    if len(listed.names) >= 2_000:
        assert len(listed.threads) > 2, "several threads list"
    alone = Listed(listed.names)
    assert names_of(alone.pages, 1) == wanted
    assert (len(alone.threads), alone.requests) == (1, max(1, -(-len(listed.names) // PAGE)))


def test_a_store_that_lists_from_the_start_only() -> None:
    listed = Listed(list(TREES["hashes"]))
    assert sorted(names_of(lambda _: listed.pages(""))) == listed.names


def test_a_store_that_lists_in_any_order() -> None:
    names = [str(name) for name in _RNG.permutation(TREES["hashes"])]

    def pages(_: str) -> Iterator[pa.RecordBatch]:
        yield from (batch(names[at : at + PAGE]) for at in range(0, len(names), PAGE))

    assert names_of(pages) == names
    names[:200] = sorted(names[:200])  # which shows later
    with pytest.raises(StoreError, match="out of order: give one of its folders"):
        names_of(pages)


def test_a_failure_ends_a_listing(deadline: None) -> None:
    listed = Listed(list(TREES["hashes"]))

    def pages(after: str) -> Iterator[pa.RecordBatch]:
        for one in listed.pages(after):
            if listed.requests > 100:
                raise StoreError("it is over")
            yield one

    with pytest.raises(StoreError, match="it is over"):
        names_of(pages)


def test_a_listing_that_is_left_early_asks_for_no_more(deadline: None) -> None:
    listed = Listed(list(TREES["hashes"]))
    listing = list_ranges(listed.pages, 8)
    assert len(list(islice(listing, 20))) == 20
    listing.close()  # type: ignore[attr-defined]
    asked = listed.requests
    threading.Event().wait(0.05)
    assert listed.requests == asked < 150
    assert not [one for one in threading.enumerate() if one.ident in listed.threads - {MAIN}]


MAIN = threading.get_ident()


def test_a_middle_lies_between() -> None:
    names = sorted({name for tree in TREES.values() for name in tree[::97]})
    for low, high in zip(names, [*names[1:], None], strict=True):
        found = middle(low, high)
        assert found is None or (low < found and (high is None or found < high))
    assert middle("a", "a0") is None
