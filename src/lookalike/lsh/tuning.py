"""Find the parameters of hashing for a target recall, and compare the schemes.

Half of the drawn queries choose the parameters by the formulas, the other half measures the actual
hashes. The schemes are Spark ML's own, and those with centred vectors, with the leading directions
alone, and with several hashes per table.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from lookalike.lsh.parameters import (
    TABLES,
    Parameters,
    amplified_curve,
    bytes_read,
    check_target_recall,
    curve,
    least_candidates,
)
from lookalike.lsh.projection import buckets, spark_directions
from lookalike.lsh.sample import Sample, draw_sample
from lookalike.lsh.tables import Tables, leading_axes
from lookalike.system.arrays import Floats

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from lookalike.lsh.amplified import AmplifiedProjectionLSH


TARGET_RECALL = 0.9
TUNING_QUERIES = 400
SUBSPACES = (16, 32, 64)  # numbers of leading directions to try
_MAX_CANDIDATE_SHARE = 0.1  # of all rows, for hashing to be worth it

Change = Callable[[Any], Any]
"""A change of vectors before they are hashed: (..., width) to (..., other width)."""


@dataclass(frozen=True)
class Scheme:
    """A way to hash: the change of the vectors, and the best parameters.

    Attributes
    ----------
    vectors : str
        The change, in words.
    subspace : int
        Number of leading directions; 0 to hash all numbers of a vector.
    amplified : bool
        Whether a table combines several hashes.
    parameters : Parameters
        The best of the curve.
    curve : tuple of Parameters
        The best for each number of tables.
    """

    vectors: str
    subspace: int
    amplified: bool
    parameters: Parameters
    curve: tuple[Parameters, ...]


@dataclass(frozen=True)
class Tuned:
    """The result of `tune`: schemes side by side, Spark ML's own first.

    Recall is that of the ten nearest neighbours; `width` is the length of a vector.
    """

    target_recall: float
    width: int
    schemes: tuple[Scheme, ...]

    @property
    def parameters(self) -> Parameters:
        """The best parameters of `BucketedRandomProjectionLSH`."""
        return self.schemes[0].parameters

    @property
    def curve(self) -> tuple[Parameters, ...]:
        """The best parameters of `BucketedRandomProjectionLSH` for each number of tables."""
        return self.schemes[0].curve

    @property
    def amplified(self) -> Scheme:
        """The best scheme for `AmplifiedProjectionLSH`."""
        several = [scheme for scheme in self.schemes if scheme.amplified]
        return min(several, key=lambda scheme: bytes_read(scheme.parameters, self.width))

    def stage(self, column: str = "features", seed: int = 0) -> "AmplifiedProjectionLSH":
        """Return `AmplifiedProjectionLSH` with the best parameters, to fit or for a `Pipeline`."""
        from lookalike.lsh.amplified import AmplifiedProjectionLSH

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
        """Return all figures for JSON."""
        return {**asdict(self), "parameters": asdict(self.parameters)}

    def __str__(self) -> str:
        return "\n".join(describe(self))


def tune(
    vectors: "DataFrame",
    target_recall: float = TARGET_RECALL,
    column: str = "features",
    seed: int = 0,
) -> Tuned:
    """Find parameters that reach a recall, and measure the share of rows that they compare.

    Two passes over the table draw a sample and find its neighbours; nothing else is collected. The
    result is the same for the same data, partitions and seed. Centred vectors are not normalized
    again: that would change the neighbours and not save candidates.

    Parameters
    ----------
    vectors : DataFrame
    target_recall : float
        Between 0 and 1, of the ten nearest neighbours.
    column : str
        The vector column.
    seed : int

    Returns
    -------
    Tuned

    Raises
    ------
    LookalikeError
        For a recall out of range, or fewer than 2 vectors.
    """
    check_target_recall(target_recall)
    choosing, measuring = draw_sample(vectors, column, seed, TUNING_QUERIES).halves()
    trial = _Trial(vectors.sparkSession, choosing, measuring, target_recall, seed)
    centre = choosing.others.mean(axis=0, dtype=np.float64)
    schemes = trial.both("as they are", 0, lambda rows: rows)
    schemes += trial.both("centred", 0, lambda rows: rows - centre)
    inside: dict[int, Change] = {
        count: partial(_project, centre, leading_axes(choosing.others, count))
        for count in SUBSPACES
        if count < trial.width
    }
    if inside:
        curves = {count: trial.amplified(change) for count, change in inside.items()}
        count = min(curves, key=lambda count: min(map(trial.bytes_read, curves[count])))
        schemes += trial.both(
            f"{count} leading directions", count, inside[count], amplified=curves[count]
        )
    return Tuned(target_recall, trial.width, tuple(schemes))


def _project(centre: Floats, axes: Floats, rows: Any) -> Any:
    return (rows - centre) @ axes.T


@dataclass(frozen=True)
class _Trial:
    """The data and settings of all schemes."""

    spark: "SparkSession"
    choosing: Sample
    measuring: Sample
    recall: float
    seed: int

    @property
    def width(self) -> int:
        return int(self.choosing.queries.shape[1])

    def both(
        self, name: str, subspace: int, change: Change, amplified: list[Parameters] | None = None
    ) -> list[Scheme]:
        """Try one hash per table, as Spark ML does, and several, on changed vectors.

        `amplified` are the parameters for several, where they are known.
        """
        chosen, held_out = self.choosing.mapped(change), self.measuring.mapped(change)
        near, far, width = chosen.near(), chosen.far(), chosen.queries.shape[1]
        projections = spark_directions(self.spark, width, TABLES[-1], self.seed)
        plain = tuple(
            held_out.measure(one, partial(buckets, projections[: one.tables], one))
            for one in curve(near, far, width, self.recall, self.choosing.scale())
        )
        several = tuple(
            held_out.measure(one, Tables.draw(one, np.empty((0, width)), self.seed))
            for one in amplified or self.amplified(change)
        )
        best = min(several, key=self.bytes_read)
        return [
            Scheme(name, subspace, False, least_candidates(plain), plain),
            Scheme(name, subspace, True, best, several),
        ]

    def bytes_read(self, one: Parameters) -> float:
        """Return the bytes per row that a query reads, for vectors of full width."""
        return bytes_read(one, self.width)

    def amplified(self, change: Change) -> list[Parameters]:
        """Return the best parameters with several hashes per table, on changed vectors."""
        sample = self.choosing.mapped(change)
        return amplified_curve(sample.near(), sample.far(), self.recall, self.choosing.scale())


def describe(tuned: Tuned) -> list[str]:
    """Return the comparison and a recommendation in words, as lines."""
    stock, best = tuned.schemes[0], tuned.amplified
    tables = ", ".join(f"{_share(one)} with {one.tables}" for one in stock.curve)
    if (stock.parameters.measured_candidates or 0) < _MAX_CANDIDATE_SHARE:
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
    return f"{share:.0%}" if share >= _MAX_CANDIDATE_SHARE else f"{share:.1%}"
