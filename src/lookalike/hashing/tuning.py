"""`tune`: what hashing can do for a collection, and with which parameters, before anybody guesses.

Half of the drawn queries choose the parameters by the formulas, the other half says what the actual
hashes are worth. Beside Spark's own scheme stand those that go further: vectors that are centred,
their leading directions alone, and several hashes combined in each table.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from lookalike.hashing.parameters import (
    TABLES,
    Floats,
    Parameters,
    amplified_curve,
    bytes_read,
    check_target_recall,
    curve,
    least_candidates,
)
from lookalike.hashing.projection import buckets, spark_directions
from lookalike.hashing.sample import Sample, draw_sample
from lookalike.hashing.tables import Tables, leading_axes

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from lookalike.hashing.amplified import AmplifiedProjectionLSH

RECALL = 0.9
QUERIES = 400
SUBSPACES = (16, 32, 64)  # leading directions, of which the best number is taken
_MANY = 0.1  # of all rows: a search that compares as many is not worth its hashes

Change = Callable[[Any], Any]
"""What is done to vectors before they are hashed: (..., width) to (..., other width)."""


@dataclass(frozen=True)
class Scheme:
    """One way to hash: what is done to the vectors, and the best parameters for that.

    `subspace` is the number of leading directions, 0 where all numbers of a vector are hashed.
    `curve` has the best for each number of tables, `parameters` are the best of these.
    """

    vectors: str
    subspace: int
    amplified: bool
    parameters: Parameters
    curve: tuple[Parameters, ...]


@dataclass(frozen=True)
class Tuned:
    """What `tune` found: schemes side by side, Spark's for the vectors as they are first.

    Recall is that of the ten nearest neighbours. `width` is how many numbers a vector has.
    """

    target_recall: float
    width: int
    schemes: tuple[Scheme, ...]

    @property
    def parameters(self) -> Parameters:
        """What to give to `BucketedRandomProjectionLSH`."""
        return self.schemes[0].parameters

    @property
    def curve(self) -> tuple[Parameters, ...]:
        """For each number of tables, what to give to `BucketedRandomProjectionLSH`."""
        return self.schemes[0].curve

    @property
    def amplified(self) -> Scheme:
        """The best scheme that combines hashes, for `AmplifiedProjectionLSH`."""
        several = [scheme for scheme in self.schemes if scheme.amplified]
        return min(several, key=lambda scheme: bytes_read(scheme.parameters, self.width))

    def stage(self, column: str = "features", seed: int = 0) -> "AmplifiedProjectionLSH":
        """Return `AmplifiedProjectionLSH` with its parameters, to `fit` or for a `Pipeline`."""
        from lookalike.hashing.amplified import AmplifiedProjectionLSH

        best = self.amplified
        return AmplifiedProjectionLSH(
            inputCol=column,
            seed=seed,
            bucketLength=best.parameters.bucket_length,
            numHashTables=best.parameters.tables,
            numHashFunctions=best.parameters.hashes,
            subspace=best.subspace,
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {**asdict(self), "parameters": asdict(self.parameters)}

    def __str__(self) -> str:
        return "\n".join(describe(self))


def tune(
    vectors: "DataFrame", target_recall: float = RECALL, column: str = "features", seed: int = 0
) -> Tuned:
    """Find parameters that reach a recall, and say which share of all rows they compare.

    `vectors` has a vector column. Two passes over it draw a sample and look up its ten nearest
    neighbours; nothing else is collected. The same for the same data, partitions and seed.
    Centred vectors are not brought to one length again: that would change who is near, and
    candidates do not become fewer by it.
    """
    check_target_recall(target_recall)
    choosing, measuring = draw_sample(vectors, column, seed, QUERIES).halves()
    trial = _Trial(vectors, choosing, measuring, target_recall, seed)
    centre = choosing.others.mean(axis=0, dtype=np.float64)
    schemes = trial.both("as they are", 0, lambda rows: rows)
    schemes += trial.both("centred", 0, lambda rows: rows - centre)
    inside: dict[int, Change] = {
        count: partial(_inside, centre, leading_axes(choosing.others, count))
        for count in SUBSPACES
        if count < trial.width
    }
    if inside:
        count = min(inside, key=lambda count: trial.bytes_read(inside[count]))
        schemes += trial.both(f"{count} leading directions", count, inside[count])
    return Tuned(target_recall, trial.width, tuple(schemes))


def _inside(centre: Floats, axes: Floats, rows: Any) -> Any:
    return (rows - centre) @ axes.T


@dataclass(frozen=True)
class _Trial:
    """What schemes are tried with."""

    vectors: "DataFrame"
    choosing: Sample
    measuring: Sample
    recall: float
    seed: int

    @property
    def width(self) -> int:
        return int(self.choosing.queries.shape[1])

    def both(self, name: str, subspace: int, change: Change) -> list[Scheme]:
        """Try one hash a table, as Spark has it, and several, on vectors that were changed."""
        chosen, held_out = self.choosing.mapped(change), self.measuring.mapped(change)
        near, far, width = chosen.near(), chosen.far(), chosen.queries.shape[1]
        spark = self.vectors.sparkSession
        projections = spark_directions(spark, width, TABLES[-1], self.seed)
        plain = tuple(
            held_out.measure(one, partial(buckets, projections[: one.tables], one))
            for one in curve(near, far, width, self.recall, self.choosing.scale())
        )
        several = tuple(
            held_out.measure(one, Tables.draw(one, np.empty((0, width)), self.seed))
            for one in self._amplified(chosen)
        )
        best = min(several, key=self._bytes_read)
        return [
            Scheme(name, subspace, False, least_candidates(plain), plain),
            Scheme(name, subspace, True, best, several),
        ]

    def bytes_read(self, change: Change) -> float:
        """Return what the best of several hashes a table has to read, on vectors so changed."""
        return min(map(self._bytes_read, self._amplified(self.choosing.mapped(change))))

    def _bytes_read(self, one: Parameters) -> float:
        return bytes_read(one, self.width)

    def _amplified(self, sample: Sample) -> list[Parameters]:
        scale = self.choosing.scale()
        return amplified_curve(sample.near(), sample.far(), self.recall, scale)


def describe(tuned: Tuned) -> list[str]:
    """Say plainly what hashing is worth here, and what to take: some lines for a person."""
    stock, best = tuned.schemes[0], tuned.amplified
    tables = ", ".join(f"{_share(one)} with {one.tables}" for one in stock.curve)
    if (stock.parameters.measured_candidates or 0) < _MANY:
        verdict = "BucketedRandomProjectionLSH with these parameters is worth having here."
    else:
        verdict = (
            "That is hardly a search. Use the engine `auto`, which compares under 2 % of the rows, "
            "or all where they are few, and starts no JVM. Where Spark ML has to search, "
            f"AmplifiedProjectionLSH compares {_share(best.parameters)}: hashing.tune(...).stage()"
        )
    return [
        f"Spark ML's LSH finds {tuned.target_recall:.0%} of the ten nearest neighbours by "
        f"comparing a query with {_share(stock.parameters)} of all rows ({tables} tables).",
        "Side by side, measured (predicted):",
        *(f"  {_words(scheme)}" for scheme in tuned.schemes),
        verdict,
    ]


def _words(scheme: Scheme) -> str:
    one = scheme.parameters
    tables = f"{one.tables} tables of {one.hashes} hash{'es' if one.hashes > 1 else ''}"
    return (
        f"{scheme.vectors}, {tables}, bucket length {one.bucket_length:.4g}: recall "
        f"{one.measured_recall:.3f} ({one.predicted_recall:.3f}), candidates "
        f"{one.measured_candidates:.1%} ({one.predicted_candidates:.1%})"
    )


def _share(one: Parameters) -> str:
    share = one.measured_candidates or 0.0
    return f"{share:.0%}" if share >= _MANY else f"{share:.1%}"
