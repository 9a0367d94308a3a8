"""Locality-sensitive hashing on Spark ML: steps 5 to 8 and 11, with parameters from the data.

`frames` makes vector columns. `sample` draws rows and finds their true neighbours. `parameters`
chooses the bucket length and the number of tables from those distances. `projection` hashes vectors
with `BucketedRandomProjectionLSH`. `tables` and `amplified` combine several hashes per table.
`tuning` compares the schemes. `minhash` hashes sets.
"""

from typing import TYPE_CHECKING, Any

from lookalike.lsh.frames import assemble, bucket_columns, numbered, read_embeddings, with_vectors
from lookalike.lsh.join import Candidates, candidates, similarity_join
from lookalike.lsh.minhash import fit_sets, with_sets
from lookalike.lsh.parameters import Parameters, choose_parameters, collision_probability
from lookalike.lsh.projection import Hasher, check_hashing, directions, fit
from lookalike.lsh.sample import Sample, draw_sample
from lookalike.lsh.tuning import Scheme, Tuned, describe, tune
from lookalike.system.extras import require

if TYPE_CHECKING:
    from lookalike.lsh.amplified import AmplifiedProjectionLSH, AmplifiedProjectionLSHModel


__all__ = [
    "AmplifiedProjectionLSH",
    "AmplifiedProjectionLSHModel",
    "Candidates",
    "Hasher",
    "Parameters",
    "Sample",
    "Scheme",
    "Tuned",
    "assemble",
    "bucket_columns",
    "candidates",
    "choose_parameters",
    "collision_probability",
    "describe",
    "check_hashing",
    "directions",
    "draw_sample",
    "fit",
    "fit_sets",
    "numbered",
    "read_embeddings",
    "similarity_join",
    "tune",
    "with_sets",
    "with_vectors",
]


def __getattr__(name: str) -> Any:
    """Import the stages of `pyspark.ml` only on use, because the import is slow."""
    if name.startswith("AmplifiedProjectionLSH"):
        require(name, "pyspark")
        from lookalike.lsh import amplified

        return getattr(amplified, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
