"""Bucket length and number of tables from the distances in the data, by the formula of the scheme.

Datar, Immorlica, Indyk, Mirrokni, "Locality-sensitive hashing scheme based on p-stable
distributions" (2004).
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lookalike.errors import LookalikeError

Floats: TypeAlias = npt.NDArray[np.float64]

RECALL = 0.95  # what the parameters are chosen for
TABLES = (1, 2, 3, 4, 6, 8, 12, 16)  # more cost time and, for whole-vector hashes, gain little


@dataclass(frozen=True)
class Parameters:
    """Parameters of `BucketedRandomProjectionLSH`, and what to expect of them.

    `recall` is the share of true neighbours that fall into a bucket of the query in at least one
    table; `candidates` the share of all rows that do, each of which Spark compares with the query.
    `predicted_*` come from the distances alone, `measured_*` from the model's own hashes.
    """

    bucket_length: float
    tables: int
    predicted_recall: float
    predicted_candidates: float
    measured_recall: float | None = None
    measured_candidates: float | None = None


def collision_probability(distance: Floats, bucket_length: float | Floats, width: int) -> Floats:
    """Probability that two vectors at a distance share a bucket of one hash.

    The hash is floor(x.v / bucket_length), v a random unit vector, as Spark draws it. The projected
    difference is then normal with deviation distance / sqrt(width) (for large widths); Datar et
    al., section 4.2.
    """
    scale = np.maximum(distance, 1e-12) / math.sqrt(width)
    ratio = bucket_length / scale
    tail = np.vectorize(math.erfc, otypes=[float])(ratio / math.sqrt(2))
    slope = 2 / (math.sqrt(2 * math.pi) * ratio) * (1 - np.exp(-(ratio**2) / 2))
    return np.asarray(1 - tail - slope)


def choose_parameters(near: Floats, far: Floats, width: int, recall: float = RECALL) -> Parameters:
    """Choose the bucket length and number of tables that reach a recall with least candidates.

    `near` are distances to true neighbours, `far` to any row, both 1-D. Every number of tables
    gets the smallest bucket length that is predicted to reach `recall`.
    """
    if not 0 < recall < 1:
        raise LookalikeError(f"recall {recall} is not between 0 and 1")
    near, far = _thinned(near), _thinned(far)
    if near.max(initial=0) == 0:  # all vectors equal: any bucket will do
        return Parameters(1.0, 1, 1.0, 1.0)

    def either(distances: Floats, length: float, tables: int) -> float:
        return float(np.mean(1 - (1 - collision_probability(distances, length, width)) ** tables))

    best: Parameters | None = None
    for tables in TABLES:
        low, high = 1e-6, 100.0 * float(near.max())
        for _ in range(40):  # bisection, on a logarithmic scale
            middle = math.sqrt(low * high)
            low, high = (low, middle) if either(near, middle, tables) >= recall else (middle, high)
        expected = Parameters(high, tables, either(near, high, tables), either(far, high, tables))
        if best is None or expected.predicted_candidates < best.predicted_candidates:
            best = expected
    assert best is not None
    return best


def _thinned(distances: Floats, most: int = 2000) -> Floats:
    """Take evenly spaced quantiles: the means over them are those over all."""
    if len(distances) <= most:
        return distances
    quantiles: Floats = np.quantile(distances, (np.arange(most) + 0.5) / most)
    return quantiles
