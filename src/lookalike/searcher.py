"""A collection made ready to be searched: its signatures, and how many candidates a recall takes.

What takes time is done once and kept: the rotation with the collection, the signatures of each
segment in its cache, the candidate counts with the version. Where the collection cannot be written
to, it costs that time again in the next process. Neither a JVM nor torch is started.
"""

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from lookalike import search
from lookalike.cache import new_file
from lookalike.collection import Collection, Segment
from lookalike.embedding import Vectors
from lookalike.errors import LookalikeError
from lookalike.hashing.signatures import SAMPLE, Codes, Rotation, Signatures
from lookalike.search import Mask, Neighbor, Rows

EXACT_UP_TO = 20_000
"""Rows up to which exact search takes hardly longer, some 2 ms, and misses nothing."""
RECALL = 0.98
RECALLS = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
NEIGHBORS = 10  # that the recalls are of
QUERIES = 200  # rows drawn: half say how many candidates a recall takes, half what that is worth
_MOST = 0.02  # of all rows are candidates; a recall that takes more is left to exact search
_FEW = 2 * NEIGHBORS + 2  # rows at least, or there is nothing to measure
_RESERVE = 1 / 3  # of what a recall allows to miss is not missed by the half that decides

DAMAGED = (OSError, ValueError, TypeError, KeyError)
Engine = Literal["exact", "lsh"]


@dataclass(frozen=True)
class Measured:
    """What the signatures of one version are worth, measured on drawn rows.

    `candidates` has for each of `RECALLS` how many rows have to be compared with a query, None
    where only exact search will do; `recall` what share of the 10 nearest neighbours other drawn
    rows found with so many. `rotation` is the fingerprint of the one that was measured.
    """

    rotation: str
    rows: int
    queries: int
    candidates: tuple[int | None, ...]
    recall: tuple[float | None, ...]

    def count(self, recall: float, k: int) -> int | None:
        """Return how many candidates k neighbours at a recall take; None for exact search."""
        for reached, count in zip(RECALLS, self.candidates, strict=True):
            if reached >= recall and count is not None:
                return round(count * max(k / NEIGHBORS, 1))
        return None

    def save(self, file: Path) -> None:
        """Write it as JSON, whole or not at all."""
        with new_file(file) as part:
            part.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read it back. Raises one of `DAMAGED`."""
        about = json.loads(file.read_text())
        candidates, recall = tuple(about["candidates"]), tuple(about["recall"])
        return cls(about["rotation"], about["rows"], about["queries"], candidates, recall)


def signed(segment: Segment, rotation: Rotation) -> Codes:
    """Return the signatures of a segment, uint8 (rows, bytes), from its cache or made for it."""
    name = f"signatures-{rotation.fingerprint}"
    return segment.derived(name, lambda one: rotation.sign(one.vectors))


class Searcher:
    """A collection at one version, ready to be searched."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.rows = Rows(collection.segments)

    def nearest(
        self,
        query: Vectors,
        k: int,
        *,
        engine: Literal["auto", "exact", "lsh"] = "auto",
        recall: float = RECALL,
        without: int | None = None,
        allowed: Mask | None = None,
    ) -> tuple[list[Neighbor], Engine, int]:
        """Return the k nearest rows to a query, the engine, and how many rows it compared with.

        `auto` compares all rows (`exact`) while that is as quick, and where `recall` takes too many
        candidates; else those whose signatures are near (`lsh`). `without` and `allowed` as in
        `search.exact`. With `lsh` there is no way back to exact search but for ties.
        """
        left = len(self.rows) if allowed is None else int(np.count_nonzero(allowed))
        count = self.candidates(k, engine, recall, left)
        if count is not None:
            found, compared = search.approximate(
                self.rows, self.signatures, query, k, count, without, allowed
            )
            if compared is not None:
                return found, "lsh", compared
        else:
            found = search.exact(self.rows, query, k, without, allowed)
        return found, "exact", left

    def candidates(self, k: int, engine: str, recall: float, left: int) -> int | None:
        """Return how many of `left` rows to compare with a query; None for all of them.

        Raises `LookalikeError` for another engine than `auto`, `exact` and `lsh`, and for a recall
        that is none.
        """
        if engine not in ("auto", "exact", "lsh"):
            raise LookalikeError(f"no engine {engine!r}: say auto, exact or lsh")
        if not 0 < recall <= 1:
            raise LookalikeError(f"recall {recall} is not over 0 and up to 1")
        if len(self.rows) < _FEW or not self.may_estimate(engine, recall, left):
            return None
        count = self.measured.count(recall, k)
        return self._most if count is None and engine == "lsh" else count

    def may_estimate(self, engine: str, recall: float, left: int) -> bool:
        """Say whether search may go by signatures."""
        return engine == "lsh" or (engine == "auto" and left > EXACT_UP_TO and recall < 1)

    @property
    def _most(self) -> int:
        return max(round(_MOST * len(self.rows)), 10 * NEIGHBORS)

    def known_recall(self) -> float | None:
        """Return the recall@10 that signatures have at `RECALL`; None where it is not measured."""
        with contextlib.suppress(*DAMAGED):
            return Measured.load(self._measured_file).recall[RECALLS.index(RECALL)]
        return None

    @property
    def _measured_file(self) -> Path:
        return self.collection.signature_folder / f"{self.collection.version}.json"

    def get_ready(self) -> None:
        """Make or read all that search by signatures needs."""
        if len(self.rows) >= _FEW:
            _ = self.signatures, self.measured

    @cached_property
    def rotation(self) -> Rotation:
        """The rotation of the collection, made from a sample when it is first needed."""
        file = self.collection.signature_folder / "rotation.npz"
        with contextlib.suppress(LookalikeError):  # none yet, or a damaged one
            return Rotation.load(file)
        rotation = Rotation.fit(self.rows.vectors(self._drawn(SAMPLE)))
        self._keep(partial(rotation.save, file))
        return rotation

    @cached_property
    def signatures(self) -> Signatures:
        """The signatures of all rows; made, segment by segment, where the cache lacks them."""
        parts = [signed(segment, self.rotation) for segment in self.rows.segments]
        return Signatures(self.rotation, parts)

    @cached_property
    def measured(self) -> Measured:
        """What the signatures of this version are worth, measured when it is first needed."""
        with contextlib.suppress(*DAMAGED):  # none yet, or a damaged one
            kept = Measured.load(self._measured_file)
            if kept.rotation == self.rotation.fingerprint:
                return kept
        measured = self._measure()
        self._keep(partial(measured.save, self._measured_file))
        return measured

    def _measure(self) -> Measured:
        ranks = self._ranks()
        half = len(ranks) // 2
        candidates: list[int | None] = []
        reached: list[float | None] = []
        for recall in RECALLS:
            wanted = 1 - (1 - recall) * (1 - _RESERVE)
            count = float(np.quantile(ranks[:half], wanted, method="inverted_cdf"))
            few = np.isfinite(count)
            candidates.append(int(count) if few else None)
            reached.append(round(float(np.mean(ranks[half:] <= count)), 4) if few else None)
        return Measured(
            self.rotation.fingerprint,
            len(self.rows),
            len(ranks) - half,
            tuple(candidates),
            tuple(reached),
        )

    def _ranks(self) -> npt.NDArray[np.float64]:
        """Draw rows; return for each of their neighbours (queries, 10) which candidate it is.

        Counted from 1, infinite beyond `_MOST` of all rows.
        """
        drawn = self._drawn(QUERIES)
        queries = self.rows.vectors(drawn)
        order = np.random.default_rng(1).permutation(len(drawn))
        _, nearest = search.exact_many(self.rows, queries, NEIGHBORS + 1)
        true = np.array(
            [rows[rows != own][:NEIGHBORS] for own, rows in zip(drawn, nearest, strict=True)]
        )
        _, found = self.signatures.nearest(queries, self._most + 1)
        ranks = np.full(true.shape, np.inf)
        for at, (own, some) in enumerate(zip(drawn, found, strict=True)):
            some = some[some != own]
            place = dict(zip(some.tolist(), range(1, len(some) + 1), strict=True))
            ranks[at] = [place.get(row, np.inf) for row in true[at].tolist()]
        return ranks[order]

    def _drawn(self, count: int) -> npt.NDArray[np.int64]:
        """Draw rows, each once, the same ones for the same collection; rising."""
        rng = np.random.default_rng(0)
        size = min(count, len(self.rows))
        return np.sort(rng.choice(len(self.rows), size, replace=False, shuffle=False))

    def _keep(self, save: "partial[None]") -> None:
        folder = self.collection.signature_folder
        if os.access(self.collection.path, os.W_OK):
            with contextlib.suppress(OSError):  # a full disk costs time, not the answer
                folder.mkdir(exist_ok=True)
                save()
