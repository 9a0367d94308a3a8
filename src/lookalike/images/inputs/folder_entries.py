"""The entries of a folder in order. Those of a very large folder are sorted on disk."""

import heapq
import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from lookalike.images.inputs.source import decode_path, encode_path

MAX_SORTED_ENTRIES = 2**17
"""Entries that are sorted in memory: 30 MB. Of more, sorted runs are merged from files."""

_SIGNS: dict[bool | None, str] = {True: "/", False: "f", None: "?"}


class Entry(NamedTuple):
    """A name in a folder, and whether it is a folder; None if that is unknown."""

    name: str
    is_folder: bool | None


def scan_folder(folder: str) -> Iterator[Entry]:
    """Yield the entries of a folder in any order, but no hidden ones; none where it is unreadable.

    A link to a folder is a folder.
    """
    with suppress(OSError), os.scandir(folder) as scan:
        for found in scan:
            if not found.name.startswith("."):
                yield Entry(found.name, found.is_dir())


def sort_entries(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Take all entries and give them in the order of the paths that they lead to.

    Memory holds `MAX_SORTED_ENTRIES` of them. Raises `OSError`, also where the disk for temporary
    files is full.
    """
    runs: list[Iterator[Entry]] = []
    while some := sorted(itertools.islice(entries, MAX_SORTED_ENTRIES), key=_order):
        if not runs and len(some) < MAX_SORTED_ENTRIES:
            return iter(some)
        runs.append(_stored(some))
    return heapq.merge(*runs, key=_order)


def _order(entry: Entry) -> str:
    # With a slash, a folder sorts where the paths of its files do.
    return encode_path(entry.name) + "/" * bool(entry.is_folder)


def _stored(entries: list[Entry]) -> Iterator[Entry]:
    """Write entries to a temporary file; give them from there."""
    kinds = {sign: is_folder for is_folder, sign in _SIGNS.items()}
    file = tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n")  # noqa: SIM115
    file.writelines(f"{_SIGNS[one.is_folder]}{encode_path(one.name)}\n" for one in entries)
    file.seek(0)

    def read() -> Iterator[Entry]:
        with file:
            for line in file:
                yield Entry(decode_path(line[1:-1]), kinds[line[0]])

    return read()
