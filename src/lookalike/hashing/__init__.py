"""Locality-sensitive hashing on Spark: steps 5 to 8 and 11, with parameters that come from data.

`frames` makes vector columns, `sample` draws rows with their true neighbours, `parameters` turns
those distances into a bucket length and a number of tables, `projection` hashes vectors with them,
`sets` hashes sets.
"""

from lookalike.hashing.frames import (
    assemble,
    bucket_columns,
    numbered,
    read_embeddings,
    with_vectors,
)
from lookalike.hashing.parameters import Parameters, choose_parameters, collision_probability
from lookalike.hashing.projection import Hasher, directions, fit
from lookalike.hashing.sample import Sample, draw_sample
from lookalike.hashing.sets import fit_sets, with_sets

__all__ = [
    "Hasher",
    "Parameters",
    "Sample",
    "assemble",
    "bucket_columns",
    "choose_parameters",
    "collision_probability",
    "directions",
    "draw_sample",
    "fit",
    "fit_sets",
    "numbered",
    "read_embeddings",
    "with_sets",
    "with_vectors",
]
