"""Choose the bucket length and the number of tables from distances in the data.

The formulas are those of Datar, Immorlica, Indyk, Mirrokni, "Locality-sensitive hashing scheme
based on p-stable distributions" (2004). Pairs of vectors are float64: (n,), their distances, for
vectors of length 1; else (n, 3), the distance and both lengths.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from lookalike.errors import LookalikeError
from lookalike.system.arrays import Floats

Collide: TypeAlias = Callable[[Floats, float], Floats]
"""From pairs and a bucket length to the probability that they share a bucket, (n,)."""

LSH_RECALL = 0.95
"""Default target recall of `fit`."""
TABLES = (1, 2, 3, 4, 6, 8, 12, 16)  # more tables take longer and hardly help
AMPLIFIED_TABLES = (4, 8, 16, 32, 64)
HASHES = (2, 3, 4, 6, 8, 12, 16, 24)  # per amplified table
_MIN_BUCKET_RATIO = 1e-6  # to the length of a vector: below any meaningful distance
_GRID = np.linspace(-6, 6, 4001)
_CDF = np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in _GRID])
_SLOPES = np.append(np.diff(_CDF), 0)
_STEPS_PER_DEVIATION = (len(_GRID) - 1) / 12
_QUANTILES = np.interp((np.arange(400) + 0.5) / 400, _CDF, _GRID)


@dataclass(frozen=True)
class Parameters:
    """Parameters of `BucketedRandomProjectionLSH`, with predicted and measured figures.

    Attributes
    ----------
    bucket_length : float
    tables : int
    predicted_recall, predicted_candidates : float
        From the distances alone: the share of true neighbours in a bucket of the query in at least
        one table, and the share of all rows there, which Spark compares with the query.
    measured_recall, measured_candidates : float, optional
        The same from the hashes of the fitted model.
    hashes : int
        Hashes per table: 1 in Spark ML, more in `AmplifiedProjectionLSH`.
    """

    bucket_length: float
    tables: int
    predicted_recall: float
    predicted_candidates: float
    measured_recall: float | None = None
    measured_candidates: float | None = None
    hashes: int = 1


def collision_probability(pairs: Floats, bucket_length: float, width: int) -> Floats:
    """Return the probability that two vectors share a bucket of a hash of Spark ML: (n,).

    The hash is floor(x.v / bucket_length) with a random unit vector v. For widths above some 50
    both projections are normal with deviation |x| / sqrt(width), and their correlation is the
    cosine of the vectors; the integral over the projection of the shorter vector is taken at its
    quantiles. Unlike the paper, Spark does not shift buckets, so 0 is always a border.

    Examples
    --------
    >>> collision_probability(np.array([0.0]), 1.0, 512)
    array([1.])
    """
    if pairs.ndim == 1:
        pairs = np.column_stack([pairs, np.ones((len(pairs), 2))])
    distance = pairs[:, :1]
    short, long = np.sort(pairs[:, 1:], axis=1).T[:, :, None] / math.sqrt(width)
    product = np.maximum(2 * short * long, np.finfo(float).tiny)
    cosine = np.clip((short**2 + long**2 - distance**2 / width) / product, -1, 1)
    spread = long * np.sqrt(np.maximum(1 - cosine**2, 1e-12))
    spread = np.maximum(spread, 1e-9 * bucket_length)
    start = np.floor(short * _QUANTILES / bucket_length) * bucket_length
    start = start - cosine * long * _QUANTILES
    shared: Floats = _cdf((start + bucket_length) / spread) - _cdf(start / spread)
    means: Floats = np.where(distance[:, 0] == 0, 1, shared.mean(axis=1))
    return means


def shifted_probability(pairs: Floats, bucket_length: float) -> Floats:
    """Return the probability that two vectors share a bucket of a shifted hash: (n,).

    The hash is floor(x.a / bucket_length + b), a normal, b uniform in [0, 1): section 3.2 of the
    paper. It depends on the distance alone.
    """
    ratio = bucket_length / np.maximum(distances(pairs), 1e-9 * bucket_length)
    missed = 2 / (math.sqrt(2 * math.pi) * ratio) * (1 - np.exp(-(ratio**2) / 2))
    shared: Floats = 2 * _cdf(ratio) - 1 - missed
    return shared


def _cdf(values: Floats) -> Floats:
    """Return the standard normal distribution function, from a table, for millions of values.

    The table has even steps, so a place in it is computed; `np.interp` would search for it.
    """
    places = (np.clip(values, -6, 6) + 6) * _STEPS_PER_DEVIATION
    below = places.astype(np.int32)
    shares: Floats = _CDF[below] + (places - below) * _SLOPES[below]
    return shares


def expected_share(
    pairs: Floats, collide: Collide, bucket_length: float, tables: int, hashes: int = 1
) -> float:
    """Return the expected share of pairs that agree in all hashes of at least one table."""
    once = collide(pairs, bucket_length) ** hashes
    return float(np.mean(1 - (1 - once) ** tables))


def predict(near: Floats, far: Floats, width: int, bucket_length: float, tables: int) -> Parameters:
    """Predict recall and share of candidates of Spark ML's hashing.

    `near` are pairs of true neighbours, `far` are random pairs.
    """
    collide = partial(collision_probability, width=width)
    recall, candidates = (
        expected_share(thin(some), collide, bucket_length, tables) for some in (near, far)
    )
    return Parameters(bucket_length, tables, recall, candidates)


def choose_parameters(
    near: Floats, far: Floats, width: int, recall: float = LSH_RECALL, scale: float = 1.0
) -> Parameters:
    """Choose the bucket length and number of tables that reach a recall with fewest candidates.

    Parameters
    ----------
    near, far : float64 (n,) or (n, 3)
        Pairs of true neighbours, and random pairs.
    width : int
        The length of the vectors.
    recall : float
        Target recall, between 0 and 1.
    scale : float
        The usual norm of a vector.
    """
    check_target_recall(recall)
    if distances(near).max(initial=0) == 0:
        return Parameters(1.0, 1, 1.0, 1.0)  # all vectors are equal
    return least_candidates(curve(near, far, width, recall, scale))


def least_candidates(some: Iterable[Parameters]) -> Parameters:
    """Return the parameters with the fewest predicted candidates."""
    return min(some, key=lambda parameters: parameters.predicted_candidates)


def curve(
    near: Floats, far: Floats, width: int, recall: float, scale: float = 1.0
) -> list[Parameters]:
    """Return the shortest bucket length that reaches a recall, for each number of tables.

    Few tables may not reach it with any bucket length and are left out, except for the largest
    number of tables.
    """
    near, far = thin(near), thin(far)
    collide = partial(collision_probability, width=width)
    found = (shortest(near, far, collide, recall, tables, 1, scale) for tables in TABLES)
    return [one for one in found if one.predicted_recall >= recall or one.tables == TABLES[-1]]


def amplified_curve(near: Floats, far: Floats, recall: float, scale: float) -> list[Parameters]:
    """Return the best hashes per table and bucket length, for each number of tables.

    As `curve`, for shifted hashes of which several must agree in a table: the table is more
    selective, and its buckets may be longer.
    """
    near, far = thin(near, 2000), thin(far, 2000)  # the few near pairs decide
    return [
        least_candidates(
            shortest(near, far, shifted_probability, recall, tables, hashes, scale)
            for hashes in HASHES
        )
        for tables in AMPLIFIED_TABLES
    ]


def bytes_read(one: Parameters, width: int) -> float:
    """Return the bytes per row that a query reads: 8 per table, 4 per number of a candidate.

    More tables save candidates and cost hashes, so this has a minimum.
    """
    return 8 * one.tables + 4 * width * one.predicted_candidates


def shortest(
    near: Floats,
    far: Floats,
    collide: Collide,
    recall: float,
    tables: int,
    hashes: int,
    scale: float,
) -> Parameters:
    """Return the shortest bucket length that reaches a recall, else the longest."""
    low, high = _MIN_BUCKET_RATIO * scale, 100 * max(scale, float(near.max(initial=0)))

    def reaches(length: float) -> bool:
        return expected_share(near, collide, length, tables, hashes) >= recall

    if reaches(low):
        high = low
    elif reaches(high):
        for _ in range(24):  # bisection, on a logarithmic scale
            middle = math.sqrt(low * high)
            low, high = (low, middle) if reaches(middle) else (middle, high)
    found, candidates = (
        expected_share(some, collide, high, tables, hashes) for some in (near, far)
    )
    return Parameters(high, tables, found, candidates, hashes=hashes)


def thin(pairs: Floats, count: int = 200) -> Floats:
    """Take `count` pairs at even ranks of distance, which keeps means."""
    if len(pairs) <= count:
        return pairs
    order = np.argsort(distances(pairs))
    places = ((np.arange(count) + 0.5) * len(pairs) / count).astype(int)
    some: Floats = pairs[order[places]]
    return some


def distances(pairs: Floats) -> Floats:
    """Return the distances of pairs: (n,)."""
    return pairs if pairs.ndim == 1 else pairs[:, 0]


def check_target_recall(recall: float) -> None:
    """Raise `LookalikeError` unless a recall is between 0 and 1, both excluded."""
    if not 0 < recall < 1:
        raise LookalikeError(f"`recall` is {recall}, not between 0 and 1: give 0.9, for example")
