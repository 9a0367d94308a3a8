"""One version of an index as the server shows it: found by id, label and chance, and searched."""

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fastapi import HTTPException

from lookalike import images
from lookalike.errors import ImageError, LookalikeError
from lookalike.search.query import search_vectors
from lookalike.search.recall import RECALL_K, RECALLS
from lookalike.search.results import Query, SearchResult
from lookalike.search.rows import Neighbor
from lookalike.search.searcher import EXACT_UP_TO, Searcher
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Mask, Numbers, Vectors
from lookalike.system.defaults import RECALL
from lookalike.system.untrusted import is_hash

SIDES = {"thumbnail": 320, "picture": 1280}
HASH = 8
"""Digits of a content's hash that the address of a picture carries."""


class Edition(NamedTuple):
    """Which version of which collection: one that takes its place begins at 0 again."""

    identity: str
    version: int


class Shelf:
    """One version of an index, which stays what it is while others are made."""

    def __init__(self, table: EmbeddingTable) -> None:
        self.table = table
        self.searcher = Searcher(table)
        self.rows = self.searcher.rows
        self.version = table.version
        identity = table.identity.encode(errors="backslashreplace")
        digest = hashlib.blake2b(identity, digest_size=6).hexdigest()
        self.edition = Edition(digest, self.version)
        self.is_ready = len(self.rows) <= EXACT_UP_TO

    def get_ready(self) -> None:
        """Make or read what quick searches need; until then all rows are compared."""
        if not self.is_ready:
            self.searcher.get_ready()
            self.is_ready = True

    def image(self, row: int) -> dict[str, Any]:
        """Return what `answers.Image` says of a row."""
        number, path = int(self.rows.ids[row]), self._shown(self.rows.paths[row].as_py())
        address = f"api/images/{number}/picture"
        seen = self.content_hash(row)[:HASH]
        return {
            "id": number,
            "path": path,
            "name": os.path.basename(path),
            "label": self.rows.labels[row].as_py(),
            **{name: f"{address}?size={side}&v={seen}" for name, side in SIDES.items()},
        }

    def _shown(self, path: str) -> str:
        """Return a path below the folder that was indexed; where that lies is nobody's business."""
        source = self.table.source
        if not (os.path.isabs(path) or "://" in path):
            return path
        for folder in (source.root, *source.also):
            if path.startswith(f"{folder.rstrip('/')}/"):
                return os.path.relpath(path, folder)
        return os.path.basename(path)

    def find(self, number: int) -> int | None:
        """Return which row has an id, None where none has."""
        row = int(self.rows.find(np.array([number]))[0])
        return None if row < 0 else row

    def content_hash(self, row: int) -> str:
        """Return the hash of the content that a row was made of; "" where it has none."""
        named = self.rows.hashes[row].as_py() or ""
        return named if is_hash(named) else ""

    def query(self, row: int) -> Query:
        """Return the query that an image of the index is."""
        vector: Vectors = self.rows.vectors(np.array([row]))[0]
        return Query(vector, id=int(self.rows.ids[row]))

    def search(
        self,
        query: Query,
        k: int,
        labels: Sequence[str] = (),
        paths: Sequence[str] = (),
        within: float | None = None,
    ) -> dict[str, Any]:
        """Return what `answers.Found` says, but for the query; `HTTPException` as `chosen`."""
        chosen = self.chosen(labels, paths)
        if chosen is not None and not chosen.any():
            hits = SearchResult(query, (), "exact", 0.0, self.table.source)
        else:
            hits = search_vectors(
                self.searcher,
                query,
                k,
                "auto" if self.is_ready else "exact",
                RECALL,
                within,
                list(labels) or None,
                list(paths) or None,
            )
        compared = hits.candidates
        if compared is None:
            compared = len(self.rows) if chosen is None else int(np.count_nonzero(chosen))
        return {
            "engine": hits.engine,
            "compared": compared,
            "images": len(self.rows),
            "took_ms": round(hits.took_ms, 3),
            "recall": 1.0 if hits.engine == "exact" else self.recall["measured"],
            **self.edition._asdict(),
            "neighbors": self._neighbors(hits.neighbors),
        }

    def _neighbors(self, found: Sequence[Neighbor]) -> list[dict[str, Any]]:
        rows = self.rows.find(np.array([one.id for one in found], np.int64)).tolist()
        return [
            {"rank": one.rank, "distance": one.distance, **self.image(row)}
            for one, row in zip(found, rows, strict=True)
        ]

    def chosen(self, labels: Sequence[str], paths: Sequence[str]) -> Mask | None:
        """Say of each row whether a filter leaves it in; `HTTPException` for what is no glob."""
        try:
            return self.rows.chosen(list(labels) or None, list(paths) or None)
        except LookalikeError as error:
            raise HTTPException(422, str(error)) from None

    def draw(
        self, count: int, seed: int | None, labels: Sequence[str], paths: Sequence[str]
    ) -> Numbers:
        """Draw rows at random, each once: int64 (count or fewer,)."""
        some = self.rows.left(self.chosen(labels, paths))
        return np.random.default_rng(seed).choice(some, min(count, len(some)), replace=False)

    def page(
        self, after: int | None, limit: int, labels: Sequence[str], paths: Sequence[str]
    ) -> tuple[Numbers, int | None, int]:
        """Return the next rows by id, after which id more come, and how many there are in all."""
        ids = self.rows.ids
        all_ = self.rows.left(self.chosen(labels, paths))
        left = all_ if after is None else all_[ids[all_] > after]
        if limit < len(left):
            left = left[np.argpartition(ids[left], limit)[: limit + 1]]
        left = left[np.argsort(ids[left])]
        page = left[:limit]
        return page, int(ids[page[-1]]) if len(left) > limit else None, len(all_)

    @cached_property
    def labels(self) -> pa.Table:
        """All labels, `label, images`, the most frequent first."""
        counts = pc.value_counts(self.rows.labels.drop_null())
        table = pa.table({"label": counts.field("values"), "images": counts.field("counts")})
        return table.sort_by([("images", "descending"), ("label", "ascending")])

    def labels_with(self, text: str, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Return labels that hold a text, whatever its case, and how many do.

        The text itself comes first, then those that begin with it, the most frequent first.
        """
        found = self.labels
        if text:
            found = found.filter(pc.match_substring(found["label"], text, ignore_case=True))
            begins = pc.starts_with(found["label"], text, ignore_case=True)
            place = pc.add(pc.equal(found["label"], text).cast("int8"), begins.cast("int8"))
            found = found.take(pc.array_sort_indices(place, "descending"))
        return found.slice(0, limit).to_pylist(), len(found)

    @property
    def recall(self) -> dict[str, Any]:
        """What `answers.Recall` says."""
        about = {"asked": RECALL, "k": RECALL_K}
        if len(self.rows) <= EXACT_UP_TO:
            return {**about, "engine": "exact", "measured": 1.0, "queries": 0}
        known = self.searcher.profile if self.is_ready else None
        return {
            **about,
            "engine": "approximate",
            "measured": known and known.recall[RECALLS.index(RECALL)],
            "queries": known.queries if known else 0,
        }

    def read(self, row: int) -> bytes:
        """Return the bytes of an image, as they are now; `ImageError` if it is gone."""
        source = self.table.source
        try:
            return images.read(source, self.rows.paths[row].as_py())
        except ImageError:
            if source.kind == "files":
                raise
            # What remote file systems say names places.
            raise ImageError("its table or its place cannot be read") from None
