"""Bucket length and number of tables from the distances in the data, by the formula of the scheme.

Datar, Immorlica, Indyk, Mirrokni, "Locality-sensitive hashing scheme based on p-stable
distributions" (2004). Pairs of vectors are float64: (n,), their distances, where the vectors have
length 1; else (n, 3), the distance and both lengths.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lookalike.errors import LookalikeError

Floats: TypeAlias = npt.NDArray[np.float64]
Collide: TypeAlias = Callable[[Floats, float], Floats]
"""From pairs and a bucket length to how likely one hash puts both into one bucket, (n,)."""

RECALL = 0.95  # what the parameters are chosen for
TABLES = (1, 2, 3, 4, 6, 8, 12, 16)  # more cost time and, for whole-vector hashes, gain little
AMPLIFIED_TABLES = (4, 8, 16, 32, 64)
HASHES = (2, 3, 4, 6, 8, 12, 16, 24)  # combined in a table, where hashes are combined
_LEAST = 1e-6  # bucket length over the length of a vector: below any distance that means something
_GRID = np.linspace(-6, 6, 4001)
_CDF = np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in _GRID])
_QUANTILES = np.interp((np.arange(400) + 0.5) / 400, _CDF, _GRID)


@dataclass(frozen=True)
class Parameters:
    """Parameters of `BucketedRandomProjectionLSH`, and what to expect of them.

    `recall` is the share of true neighbours that fall into a bucket of the query in at least one
    table; `candidates` the share of all rows that do, each of which Spark compares with the query.
    `predicted_*` come from the distances alone, `measured_*` from the model's own hashes. `hashes`
    are combined in each table: one in Spark's, more in those of `AmplifiedProjectionLSH`.
    """

    bucket_length: float
    tables: int
    predicted_recall: float
    predicted_candidates: float
    measured_recall: float | None = None
    measured_candidates: float | None = None
    hashes: int = 1


def collision_probability(pairs: Floats, bucket_length: float, width: int) -> Floats:
    """Probability that two vectors share a bucket of one of Spark's hashes; pairs to (n,).

    The hash is floor(x.v / bucket_length), v a random unit vector. Both projections are normal
    with deviation |x| / sqrt(width), for widths over some 50, and correlated as the cosine between
    the vectors says; the integral over the shorter vector's is taken at its quantiles. The paper
    shifts the buckets at random; Spark does not, so that 0 is a border however long they are.
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
    """Probability that two vectors share a bucket of one of the paper's hashes; pairs to (n,).

    The hash is floor(x.a / bucket_length + b), a normal, b uniform in [0, 1): section 3.2 of the
    paper. It depends on nothing but the distance, so that neither lengths nor a centre matter.
    """
    ratio = bucket_length / np.maximum(distances(pairs), 1e-9 * bucket_length)
    missed = 2 / (math.sqrt(2 * math.pi) * ratio) * (1 - np.exp(-(ratio**2) / 2))
    shared: Floats = 2 * _cdf(ratio) - 1 - missed
    return shared


def _cdf(values: Floats) -> Floats:
    """Cumulative standard normal distribution, from a table: some millions of values are asked."""
    shares: Floats = np.interp(values, _GRID, _CDF)
    return shares


def expected(
    pairs: Floats, collide: Collide, bucket_length: float, tables: int, hashes: int = 1
) -> float:
    """Share of the pairs to expect in one bucket of at least one table, in all of its hashes."""
    once = collide(pairs, bucket_length) ** hashes
    return float(np.mean(1 - (1 - once) ** tables))


def predict(near: Floats, far: Floats, width: int, bucket_length: float, tables: int) -> Parameters:
    """Say what recall and what share of candidates to expect of Spark's hashing.

    `near` are pairs of true neighbours, `far` of any rows.
    """
    collide = partial(collision_probability, width=width)
    recall, candidates = (
        expected(thinned(some), collide, bucket_length, tables) for some in (near, far)
    )
    return Parameters(bucket_length, tables, recall, candidates)


def choose_parameters(
    near: Floats, far: Floats, width: int, recall: float = RECALL, scale: float = 1.0
) -> Parameters:
    """Choose the bucket length and number of tables that reach a recall with least candidates.

    `near` are pairs of true neighbours, `far` of any rows; `scale` is the length of a vector.
    """
    check_target_recall(recall)
    if distances(near).max(initial=0) == 0:
        return Parameters(1.0, 1, 1.0, 1.0)  # all vectors equal: any bucket will do
    return least_candidates(curve(near, far, width, recall, scale))


def least_candidates(some: Iterable[Parameters]) -> Parameters:
    """The parameters that are predicted to compare a query with the fewest rows."""
    return min(some, key=lambda parameters: parameters.predicted_candidates)


def curve(
    near: Floats, far: Floats, width: int, recall: float, scale: float = 1.0
) -> list[Parameters]:
    """For each number of Spark's tables, the shortest bucket length predicted to reach a recall.

    `near` are pairs of true neighbours, `far` of any rows; `scale` is the length of a vector. Few
    tables may not reach it with any bucket, and are left out; the most are in any case the last.
    """
    near, far = thinned(near), thinned(far)
    collide = partial(collision_probability, width=width)
    found = (shortest(near, far, collide, recall, tables, 1, scale) for tables in TABLES)
    return [one for one in found if one.predicted_recall >= recall or one.tables == TABLES[-1]]


def amplified_curve(near: Floats, far: Floats, recall: float, scale: float) -> list[Parameters]:
    """For each number of tables, the hashes combined in each, and the shortest bucket length.

    As `curve`, for the paper's shifted hashes, `HASHES` of which have to agree in a table: it is
    then the more selective, and its buckets may be longer.
    """
    near, far = thinned(near, 2000), thinned(far, 2000)  # what few pairs are near decides here
    return [
        least_candidates(
            shortest(near, far, shifted_probability, recall, tables, hashes, scale)
            for hashes in HASHES
        )
        for tables in AMPLIFIED_TABLES
    ]


def bytes_read(one: Parameters, width: int) -> float:
    """Bytes a row that a query reads: 8 for the hash in each table, 4 a number for candidates.

    What more tables save in candidates they cost in hashes, so that this has a minimum.
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
    """Find the shortest bucket length that reaches a recall, or the longest if none does."""
    low, high = _LEAST * scale, 100 * max(scale, float(near.max(initial=0)))

    def reaches(length: float) -> bool:
        return expected(near, collide, length, tables, hashes) >= recall

    if reaches(low):
        high = low
    elif reaches(high):
        for _ in range(24):  # bisection, on a logarithmic scale
            middle = math.sqrt(low * high)
            low, high = (low, middle) if reaches(middle) else (middle, high)
    found, candidates = (expected(some, collide, high, tables, hashes) for some in (near, far))
    return Parameters(high, tables, found, candidates, hashes=hashes)


def thinned(pairs: Floats, most: int = 200) -> Floats:
    """Take pairs evenly spaced by distance: the means over them are those over all."""
    if len(pairs) <= most:
        return pairs
    order = np.argsort(distances(pairs))
    places = ((np.arange(most) + 0.5) * len(pairs) / most).astype(int)
    some: Floats = pairs[order[places]]
    return some


def distances(pairs: Floats) -> Floats:
    """The distances of pairs, (n,)."""
    return pairs if pairs.ndim == 1 else pairs[:, 0]


def check_target_recall(recall: float) -> None:
    """Raise `LookalikeError` unless a recall can be asked of hashing."""
    if not 0 < recall < 1:
        raise LookalikeError(f"`recall` is {recall}, not between 0 and 1: give 0.9, for example")
