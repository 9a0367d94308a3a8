"""One version of an index for the server: find images, list them, draw them, search."""

import hashlib
import os
import re
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fastapi import HTTPException

from lookalike import images
from lookalike.errors import ImageError, LookalikeError
from lookalike.search.bands.kept import bands_of, saved_bands
from lookalike.search.bands.limits import Bands
from lookalike.search.bands.names import NOT_MEASURED
from lookalike.search.bands.search import search_in_bands
from lookalike.search.engines import KnnEngine
from lookalike.search.filters import Filter
from lookalike.search.recall import RECALL_K, RECALLS, RecallProfile
from lookalike.search.results import Query, SearchResult
from lookalike.search.rows import Neighbor, Rows
from lookalike.search.searcher import EXACT_UP_TO, Searcher
from lookalike.server.sizes import Sizes, read_sizes
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Mask, Numbers, Vectors
from lookalike.system.defaults import TARGET_RECALL
from lookalike.system.untrusted import is_hash

PICTURE_SIDES = {"thumbnail": 320, "picture": 1280}
"""Longer side in pixels of the addresses in a response."""
HASH_DIGITS = 8
"""Digits of the content hash in the address of a picture."""


class VersionKey(NamedTuple):
    """A version of one index. `identity` changes if another index takes its place."""

    identity: str
    version: int


class Snapshot:
    """One version of an index, unchanged while newer ones are written."""

    def __init__(self, table: EmbeddingTable) -> None:
        self.table = table
        self.searcher = Searcher(table)
        self.count = table.counts()[0]
        self.version = table.version
        identity = table.identity.encode(errors="backslashreplace")
        digest = hashlib.blake2b(identity, digest_size=6).hexdigest()
        self.version_key = VersionKey(digest, self.version)
        self.regions = self.searcher.usable_regions("auto", TARGET_RECALL)
        self.bands = saved_bands(table)
        """What a distance means; None until it is measured."""
        self.sizes: Sizes | None = None
        """Width and height of each row; None until they are read, or where they are not."""
        self.is_ready = self.count <= EXACT_UP_TO or self.regions is not None
        if self.regions is None:
            _ = self.rows  # mapped before the first request

    @property
    def rows(self) -> Rows:
        """The rows; where there are regions they are mapped for browsing and filters alone."""
        return self.searcher.rows

    def get_ready(self) -> None:
        """Make or read the signatures; until then searches compare all rows."""
        if not self.is_ready:
            self.searcher.get_ready()
            self.is_ready = True

    def read_sizes(self) -> None:
        """Read the sizes of the images; until then they are null in answers."""
        if self.sizes is None and self.regions is None:
            self.sizes = read_sizes(self.table, self.rows)

    def measure_bands(self) -> None:
        """Measure the bands where none are saved; until then searches do without."""
        if self.bands is None:
            self.bands = bands_of(self.searcher)

    def image(self, row: int) -> dict[str, Any]:
        """Return a row as `schemas.Image`."""
        shown = self._shown(
            int(self.rows.ids[row]),
            self.rows.id_of(row),
            self.rows.paths[row].as_py(),
            self.rows.labels[row].as_py(),
            self.content_hash(row),
        )
        if self.sizes is not None:
            width, height = self.sizes[row].tolist()
            shown["width"], shown["height"] = width or None, height or None
        return shown

    def _shown(
        self, number: int, id_: int | str, path: str, label: str | None, content_hash: str
    ) -> dict[str, Any]:
        path = self._display_path(path)
        address = f"api/images/{number}/picture"
        prefix = content_hash[:HASH_DIGITS]
        return {
            "id": number,
            "key": id_ if self.table.has_keys else None,
            "path": path,
            "name": os.path.basename(path) if self.table.has_pictures else path,
            "label": label,
            "width": None,
            "height": None,
            **{name: f"{address}?size={side}&v={prefix}" for name, side in PICTURE_SIDES.items()},
        }

    def _display_path(self, path: str) -> str:
        """Return a path relative to an indexed folder, which is not disclosed."""
        source = self.table.source
        if not (os.path.isabs(path) or "://" in path):
            return path
        for folder in (source.root, *source.also):
            if path.startswith(f"{folder.rstrip('/')}/"):
                return os.path.relpath(path, folder)
        return os.path.basename(path)

    def find(self, number: int) -> int | None:
        """Return the row of an id, None if there is none."""
        row = int(self.rows.find(np.array([number]))[0])
        return None if row < 0 else row

    def row_of_key(self, key: str) -> int | None:
        """Return the row with a key, None if there is none."""
        if self.rows.keys is None:
            return None
        if pa.types.is_string(self.rows.keys.type):
            return self.rows.row_of(key)
        is_number = re.fullmatch(r"-?[0-9]{1,19}", key) is not None
        return self.rows.row_of(int(key)) if is_number else None

    def content_hash(self, row: int) -> str:
        """Return the content hash of a row, "" if it has none."""
        named = self.rows.hashes[row].as_py() or ""
        return named if is_hash(named) else ""

    def has_words(self) -> bool:
        """Tell whether the model embeds words."""
        return self.table.has_network and self.table.model.text is not None

    def query(self, row: int) -> Query:
        """Return an image of the index as a query."""
        vector: Vectors = self.rows.vectors(np.array([row]))[0]
        return Query(vector, id=self.rows.id_of(row), number=int(self.rows.ids[row]))

    def search(
        self,
        query: Query,
        k: int,
        chosen: Filter,
        within: float | None = None,
        min_band: str | None = None,
        all_copies: bool = True,
    ) -> dict[str, Any]:
        """Return the fields of `schemas.SearchResponse` without the query.

        Raises `HTTPException` as `mask` does, and for `min_band` where there are no bands.
        """
        mask = self.mask(chosen) if chosen else None
        if mask is not None and not mask.any():
            hits = SearchResult(query, (), "exact", 0.0, self.table.source)
        else:
            hits = self._search(query, k, chosen, within, min_band, all_copies)
        compared = hits.candidates
        if compared is None:
            compared = self.count if mask is None else int(np.count_nonzero(mask))
        return {
            "engine": hits.engine,
            "compared": compared,
            "images": self.count,
            "took_ms": round(hits.took_ms, 3),
            "recall": 1.0 if hits.engine == "exact" else self.recall["measured"],
            **self.version_key._asdict(),
            "bands": self._about_bands(hits.bands),
            "looked": hits.looked,
            "neighbors": self._neighbors(hits),
        }

    def _search(
        self,
        query: Query,
        k: int,
        chosen: Filter,
        within: float | None,
        min_band: str | None,
        all_copies: bool,
    ) -> SearchResult:
        engine: KnnEngine = "auto" if self.is_ready else "exact"
        bands = self.bands or Bands(reason=NOT_MEASURED)
        try:
            return search_in_bands(
                self.searcher,
                query,
                k,
                engine,
                TARGET_RECALL,
                within,
                chosen,
                min_band,
                all_copies,
                bands,
            )
        except LookalikeError as error:
            if min_band is None:
                raise
            raise HTTPException(422, str(error)) from None

    def _about_bands(self, bands: Bands) -> dict[str, Any]:
        about = {"limits": None, "reason": "", **bands.to_dict()}
        return {"measured": self.bands is not None, **about}

    def _neighbors(self, hits: SearchResult) -> list[dict[str, Any]]:
        found = hits.neighbors
        if self.regions is not None:
            images = [
                self._shown(one.number, one.id, one.path, one.label, _hash_of(one)) for one in found
            ]
        else:
            rows = self.rows.find(np.array([one.number for one in found], np.int64))
            images = [self.image(row) for row in rows.tolist()]
        return [
            {
                "rank": one.rank,
                "distance": one.distance,
                "band": band,
                "copies": one.copies,
                **image,
            }
            for one, band, image in zip(found, hits.band_names, images, strict=True)
        ]

    def mask(self, chosen: Filter) -> Mask | None:
        """Return which rows a filter chooses, None for all; a bad one raises `HTTPException`."""
        try:
            return self.rows.chosen(chosen)
        except LookalikeError as error:
            raise HTTPException(422, str(error)) from None

    def sample(self, count: int, seed: int | None, chosen: Filter) -> Numbers:
        """Draw different rows at random: int64 (count or fewer,)."""
        rows = self.rows.left(self.mask(chosen))
        return np.random.default_rng(seed).choice(rows, min(count, len(rows)), replace=False)

    def page(
        self, after: int | None, limit: int, chosen: Filter
    ) -> tuple[Numbers, int | None, int]:
        """Return the rows of a page by id, `after` of the next page, and the number of all rows."""
        ids = self.rows.ids
        matching = self.rows.left(self.mask(chosen))
        left = matching if after is None else matching[ids[matching] > after]
        if limit < len(left):
            left = left[np.argpartition(ids[left], limit)[: limit + 1]]
        left = left[np.argsort(ids[left])]
        page = left[:limit]
        return page, int(ids[page[-1]]) if len(left) > limit else None, len(matching)

    @cached_property
    def labels(self) -> pa.Table:
        """All labels, `label, images`, the most frequent first."""
        counts = pc.value_counts(self.rows.labels.drop_null())
        table = pa.table({"label": counts.field("values"), "images": counts.field("counts")})
        return table.sort_by([("images", "descending"), ("label", "ascending")])

    def labels_with(self, text: str, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Return labels that contain a text in any case, and their number.

        The text itself is first, then labels that start with it, each most frequent first.
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
        """The measured recall as `schemas.Recall`."""
        about = {"asked": TARGET_RECALL, "k": RECALL_K}
        if self.count <= EXACT_UP_TO:
            return {**about, "engine": "exact", "measured": 1.0, "queries": 0}
        if self.regions is not None:
            known: RecallProfile | None = self.regions.profile
        else:
            known = self.searcher.profile if self.is_ready else None
        return {
            **about,
            "engine": "approximate",
            "measured": known and known.recall[RECALLS.index(TARGET_RECALL)],
            "queries": known.queries if known else 0,
        }

    def read(self, row: int) -> bytes:
        """Return the current bytes of an image. Raises `ImageError` if it is gone."""
        source = self.table.source
        try:
            return images.read(source, self.rows.paths[row].as_py())
        except ImageError:
            if source.kind == "files":
                raise
            # Messages of remote file systems contain their addresses.
            raise ImageError("its table or file system cannot be read") from None


def _hash_of(found: Neighbor) -> str:
    return found.content_hash if is_hash(found.content_hash) else ""
