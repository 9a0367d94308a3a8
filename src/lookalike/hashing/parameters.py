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
_GRID = np.linspace(-6, 6, 4001)
_CDF = np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in _GRID])
_QUANTILES = np.interp((np.arange(400) + 0.5) / 400, _CDF, _GRID)


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


def collision_probability(distance: Floats, bucket_length: float, width: int) -> Floats:
    """Probability that two unit vectors at a distance share a bucket of one hash; (n,) to (n,).

    The hash is floor(x.v / bucket_length), v a random unit vector. Both projections are normal
    with deviation 1 / sqrt(width), for widths over some 50, and correlated as the cosine between
    the vectors says; the integral over the first is taken at its quantiles. The paper shifts the
    buckets at random; Spark does not, so that 0 is a border however long the buckets are.
    """
    deviation = 1 / math.sqrt(width)
    cosine = np.maximum(1 - distance**2 / 2, -1)[:, None]
    spread = deviation * np.sqrt(np.maximum(1 - cosine**2, 1e-12))
    first = deviation * _QUANTILES
    start = np.floor(first / bucket_length) * bucket_length - cosine * first
    shared: Floats = _cdf((start + bucket_length) / spread) - _cdf(start / spread)
    means: Floats = shared.mean(axis=1)
    return means


def _cdf(values: Floats) -> Floats:
    """Cumulative standard normal distribution, from a table: some millions of values are asked."""
    shares: Floats = np.interp(values, _GRID, _CDF)
    return shares


def predict(near: Floats, far: Floats, width: int, bucket_length: float, tables: int) -> Parameters:
    """Say what recall and what share of candidates to expect of a bucket length and tables.

    `near` are distances to true neighbours, `far` to any row, both 1-D.
    """
    recall, candidates = (
        float(np.mean(1 - (1 - collision_probability(d, bucket_length, width)) ** tables))
        for d in (_thinned(near), _thinned(far))
    )
    return Parameters(bucket_length, tables, recall, candidates)


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
    reaching: list[Parameters] = []
    for tables in TABLES:
        low, high = 1e-6, 1.0  # at 1, all but the outermost projections have two buckets: the signs
        best = predict(near, far, width, high, tables)
        if best.predicted_recall < recall and tables != TABLES[-1]:
            continue
        for _ in range(30):  # bisection, on a logarithmic scale
            middle = predict(near, far, width, math.sqrt(low * high), tables)
            if middle.predicted_recall >= recall:
                best = middle
                high = middle.bucket_length
            else:
                low = middle.bucket_length
        reaching.append(best)
    return min(reaching, key=lambda parameters: parameters.predicted_candidates)


def _thinned(distances: Floats, most: int = 200) -> Floats:
    """Take evenly spaced quantiles: the means over them are those over all."""
    if len(distances) <= most:
        return distances
    quantiles: Floats = np.quantile(distances, (np.arange(most) + 0.5) / most)
    return quantiles
