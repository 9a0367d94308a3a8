"""The four bands of distance, and their limits in one index."""

import json
import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lookalike.errors import LookalikeError
from lookalike.search.bands.names import BANDS, Band, check_band
from lookalike.system.files import new_file
from lookalike.system.untrusted import read_json

if TYPE_CHECKING:
    from pyspark.sql import Column


@dataclass(frozen=True)
class Bands:
    """What a distance means in one index: the upper limits of the bands, measured on its images.

    It is false where the index has no limits; `reason` says why.

    Attributes
    ----------
    limits : tuple of float, or None
        The largest distance of "same photo", "close" and "similar", rising; beyond is "weak".
    reason : str
        Why there are no limits, else "".
    fingerprint : str
        The model that they are of.
    rows : int
        Number of embedded rows at the time.
    images, copies, pairs : int
        Number of images that were changed, of their copies, and of random pairs measured. Without
        copies "same photo" is only for equal vectors.

    Examples
    --------
    >>> bands = Bands((0.4, 0.6, 0.9))
    >>> bands.name(0.5), bands.name(1.2)
    ('close', 'weak')
    >>> bands.names([0.1, 0.9, 0.95])
    ['same photo', 'similar', 'weak']
    >>> bands.limit("similar")
    0.9
    """

    limits: tuple[float, float, float] | None = None
    reason: str = ""
    fingerprint: str = ""
    rows: int = 0
    images: int = 0
    copies: int = 0
    pairs: int = 0

    def __bool__(self) -> bool:
        return self.limits is not None

    def name(self, distance: float) -> Band | None:
        """Return the band of a distance; None where the index has no limits."""
        return None if self.limits is None else BANDS[bisect_left(self.limits, distance)]

    def names(self, distances: Iterable[float]) -> list[Band | None]:
        """Return the band of each distance, such as those of `kneighbors`."""
        return [self.name(distance) for distance in distances]

    def column(self, distance: "str | Column" = "distance") -> "Column":
        """Return a column of Spark with the band of each distance; null without limits.

        Parameters
        ----------
        distance : str or pyspark.sql.Column
            The column of distances, such as that of `kneighbors().to_spark()`.
        """
        from pyspark.sql import functions as F

        if self.limits is None:
            return F.lit(None).cast("string").alias("band")
        given = F.col(distance) if isinstance(distance, str) else distance
        chosen = F.when(given.isNull(), None)
        for limit, name in zip(self.limits, BANDS, strict=False):
            chosen = chosen.when(given <= limit, name)
        return chosen.otherwise(BANDS[-1]).alias("band")

    def limit(self, band: str) -> float:
        """Return the largest distance of a band; infinity for "weak".

        Raises `LookalikeError` for an unknown band, and where the index has no limits.
        """
        check_band(band)
        if self.limits is None:
            raise LookalikeError(f"the index has no bands ({self.reason}): leave `min_band` out")
        return (*self.limits, math.inf)[BANDS.index(band)]

    def to_dict(self) -> dict[str, Any]:
        """Return limits by name and what they were measured on, for JSON; or why there are none."""
        if self.limits is None:
            return {"limits": None, "reason": self.reason}
        return {
            "limits": dict(zip(BANDS, self.limits, strict=False)),
            "images": self.images,
            "copies": self.copies,
            "pairs": self.pairs,
        }

    def __str__(self) -> str:
        if self.limits is None:
            return f"none: {self.reason}"
        same, close, similar = self.limits
        how = f"measured with {self.copies:,} copies and {self.pairs:,} random pairs"
        if not self.copies:
            how = f"measured with {self.pairs:,} random pairs, no image could be changed"
        return f"same photo up to {same:g}, close {close:g}, similar {similar:g}; {how}"

    def save(self, file: Path) -> None:
        """Write the limits as JSON, atomically."""
        with new_file(file) as part:
            part.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read limits back. Raises `OSError`, or `ValueError` and the like for a damaged file."""
        about = read_json(file)
        limits = tuple(map(float, about["limits"]))
        if len(limits) != 3 or not 0 <= limits[0] <= limits[1] <= limits[2] < math.inf:
            raise ValueError(f"no limits: {about['limits']}")
        counts = [int(about[name]) for name in ("rows", "images", "copies", "pairs")]
        if min(counts) < 0:
            raise ValueError(f"no counts: {counts}")
        return cls(limits, "", str(about["fingerprint"]), *counts)
