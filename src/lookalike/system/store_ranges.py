"""List many objects of a store in little time: several ranges of their names at once.

A store gives one page of 1,000 names after the other, in their order, from any name on. So a
listing that goes on is split: another thread lists from a name in the middle of the rest, and both
are split again. Where names are is unknown; a middle without names after it halves what is left to
guess. A split costs a request, and there are no more of these than pages.
"""

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from lookalike.system.store_errors import StoreError

Batches: TypeAlias = Iterator[pa.RecordBatch]
"""Objects, as `store.OBJECT` describes them."""

_ALONE_PAGES = 5  # before a listing is split
_QUEUED_BATCHES = 32
_MIDDLES = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"  # as they are sorted
_TAIL = "~"  # few names end in it: a middle is none


def list_ranges(pages: Callable[[str], Batches], threads: int) -> Batches:
    """Yield all objects of a store that lists names in their order, in any order.

    Memory holds some pages, however many objects there are.

    Parameters
    ----------
    pages
        Lists the objects whose names follow a name, in the order of their UTF-8: all after "".
    threads
        Ranges that are listed at once.

    """
    batches = pages("")
    at, ordered, count = "", threads > 1, 0
    for batch in itertools.islice(batches, _ALONE_PAGES):
        keys = _keys(batch, at) if ordered else None
        if keys is not None:
            at = keys[-1].as_py()
        ordered, count = keys is not None, count + 1
        yield batch
    if ordered and count == _ALONE_PAGES:
        yield from _Ranges(pages, threads).batches(_Range(at), batches)
    else:
        yield from batches


@dataclass(eq=False)
class _Range:
    """Names after `at`, up to `end`; there are none after `limit`."""

    at: str
    end: str | None = None
    limit: str | None = None
    pages: int = 1  # since the last try to split it

    def holds(self, name: str) -> bool:
        return self.end is None or name <= self.end


class _Ranges:
    """Ranges of one listing, and the threads that list them."""

    def __init__(self, pages: Callable[[str], Batches], threads: int) -> None:
        self._pages, self._threads = pages, threads
        self._active: list[_Range] = []
        self._changed = threading.Condition()
        self._splits = True  # until the store turns out not to list from a name on

    def batches(self, first: _Range, rest: Batches) -> Batches:
        self._active = [first]
        works = [self._work(first, rest), *(self._work() for _ in range(1, self._threads))]
        yield from together(works, self._threads, self._stop)

    def _stop(self) -> None:
        """End the threads that wait for something to do."""
        with self._changed:
            self._active = []
            self._changed.notify_all()

    def _work(self, own: _Range | None = None, batches: Batches | None = None) -> Batches:
        """List a range, then halves of others, until there are none."""
        while True:
            if own is not None and batches is not None:
                yield from self._listed(own, batches)
            found = self._split()
            if found is None:
                return
            own, batches = found

    def _listed(self, own: _Range, batches: Batches) -> Batches:
        try:
            for batch in batches:
                keys = _keys(batch, own.at)
                if keys is None:
                    raise StoreError("the store lists names out of order: give one of its folders")
                last = keys[-1].as_py()
                with self._changed:
                    is_over = not own.holds(last)
                    if is_over:
                        inside = pc.sum(pc.less_equal(keys, own.end)).as_py()
                        batch = batch.slice(0, inside)
                    own.at, own.pages = last, own.pages + 1
                    self._changed.notify_all()
                if batch.num_rows:
                    yield batch
                if is_over:
                    return
        finally:
            with self._changed:
                with suppress(ValueError):
                    self._active.remove(own)
                self._changed.notify_all()

    def _split(self) -> tuple[_Range, Batches] | None:
        """Take the second half of a range; None when there is nothing left to do."""
        while True:
            with self._changed:
                found = None
                while self._splits and self._active and found is None:
                    if (found := self._largest()) is None:
                        self._changed.wait()
                if found is None:
                    return None
                whole, after = found
                whole.pages = 0  # so that nobody else splits it now
            batches = self._pages(after)
            try:
                first = next(batches, None)
            except StoreError:  # the others hear of it too, if it is not about this request
                self._splits = False
                return None
            keys = None if first is None else _keys(first, after)
            with self._changed:
                if first is not None and keys is None:
                    self._splits = False
                    return None
                if keys is None or not whole.holds(keys[0].as_py()):
                    whole.limit = min(whole.limit or after, after)
                elif whole.at < after and whole in self._active:
                    half = _Range(after, whole.end, whole.limit)
                    whole.end = whole.limit = after
                    self._active.append(half)
                    return half, itertools.chain([first], batches)

    def _largest(self) -> tuple[_Range, str] | None:
        """Return a range to split, and where: the one that has gone on longest."""
        for one in sorted(self._active, key=lambda one: -one.pages):
            if one.pages and (after := middle(one.at, one.limit)) is not None:
                return one, after
        return None


def middle(low: str, high: str | None) -> str | None:
    """Return a name between two others, None if none is found; `high` may be None for no bound.

    >>> middle("00/012.jpg", None), middle("00/012.jpg", "0N"), middle("a", "b")
    ('W~', '0C~', 'aV~')
    """
    above = high is None
    for at in range(len(low) + 1):
        floor = low[at : at + 1]
        ceiling = None if above or high is None else high[at : at + 1]
        found = [one for one in _MIDDLES if one > floor and (ceiling is None or one < ceiling)]
        if found:
            return low[:at] + found[len(found) // 2] + _TAIL
        above = above or (ceiling is not None and floor < ceiling)
    return None


def _keys(batch: pa.RecordBatch, after: str) -> pa.Array | None:
    """Return the keys of objects; None unless they follow another one, and each other.

    A key is a name, but for the mark of a folder, whose key ends in a slash: it comes after names
    that seem to follow it.
    """
    names = batch["name"]
    if pc.any(pc.equal(batch["size"], 0)).as_py():
        keys, last = [], after
        for name, size in zip(names.to_pylist(), batch["size"].to_pylist(), strict=True):
            last = f"{name}/" if not size and name <= last else name
            keys.append(last)
        names = pa.array(keys, names.type)
    rises = pc.all(pc.less(names[:-1], names[1:])).as_py()
    return names if rises is not False and names[0].as_py() > after else None


def together(
    listings: Sequence[Batches], threads: int, stop: Callable[[], None] = lambda: None
) -> Batches:
    """Yield the batches of several listings, `threads` of them at once, as they come.

    `stop` is called when nobody takes any more.
    """
    ready: queue.Queue[pa.RecordBatch | BaseException | None] = queue.Queue(_QUEUED_BATCHES)
    stopped = threading.Event()

    def put(one: pa.RecordBatch | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready.put(one, timeout=0.1)
                return

    def run(listing: Batches) -> None:
        try:
            while not stopped.is_set() and (batch := next(listing, None)) is not None:
                put(batch)
            put(None)
        except BaseException as error:
            put(error)

    with ThreadPoolExecutor(threads) as pool, _stopping(stopped, pool, stop):
        for listing in listings:
            pool.submit(run, listing)
        left = len(listings)
        while left:
            found = ready.get()
            if isinstance(found, BaseException):
                raise found
            if found is None:
                left -= 1
            else:
                yield found


@contextmanager
def _stopping(
    stopped: threading.Event, pool: ThreadPoolExecutor, stop: Callable[[], None]
) -> Iterator[None]:
    """At the end let threads stop after their request, and start no other."""
    try:
        yield
    finally:
        stopped.set()
        stop()
        pool.shutdown(wait=False, cancel_futures=True)
