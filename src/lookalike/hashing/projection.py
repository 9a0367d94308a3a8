"""Steps 7, 8 and 11: Spark ML's `BucketedRandomProjectionLSH`, with parameters from the data.

https://spark.apache.org/docs/latest/ml-features.html#locality-sensitive-hashing
"""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lookalike.cache import new_folder
from lookalike.embedding import Vectors
from lookalike.errors import LookalikeError
from lookalike.hashing.parameters import RECALL, Floats, Parameters, choose_parameters, predict
from lookalike.hashing.sample import Sample, draw_sample
from lookalike.spark import local_uri

if TYPE_CHECKING:
    from pyspark.ml.feature import BucketedRandomProjectionLSHModel
    from pyspark.sql import DataFrame


@dataclass(frozen=True)
class Hasher:
    """A fitted `BucketedRandomProjectionLSH` with the parameters it was given."""

    model: "BucketedRandomProjectionLSHModel"
    parameters: Parameters

    @property
    def input_column(self) -> str:
        """The vector column it hashes."""
        return str(self.model.getInputCol())

    def transform(self, vectors: "DataFrame") -> "DataFrame":
        """Step 8: add the column `hashes`, one bucket number a hash table."""
        return self.model.transform(vectors)

    def nearest(self, vectors: "DataFrame", query: Vectors, k: int) -> "DataFrame":
        """Step 11: `approxNearestNeighbors`, at most k rows with their `distance`, nearest first.

        Rows that share no bucket with the query are not compared, so fewer may come back.
        """
        from pyspark.ml.linalg import DenseVector

        key = DenseVector(query.astype(float).tolist())
        return self.model.approxNearestNeighbors(vectors, key, k, distCol="distance")

    def explain(self, vectors: "DataFrame", query: Vectors) -> "DataFrame":
        """Say of every row which tables it shares a bucket with the query in, counted from 1.

        Adds `tables array<int>`; rows where it is not empty are the candidates.
        """
        from pyspark.ml.functions import vector_to_array
        from pyspark.sql import functions as F

        own = np.floor(directions(self.model) @ query / self.model.getBucketLength())
        shared = [
            F.when(vector_to_array(F.col("hashes")[table])[0] == float(bucket), table + 1)
            for table, bucket in enumerate(own)
        ]
        return self.transform(vectors).withColumn("tables", F.array_compact(F.array(*shared)))

    def save(self, folder: Path) -> None:
        """Write model and parameters; an older one there is replaced."""
        shutil.rmtree(folder, ignore_errors=True)
        with new_folder(folder) as staging:
            self.model.save(local_uri(staging / "model"))
            about = json.dumps(asdict(self.parameters), indent=1)
            (staging / "parameters.json").write_text(about + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Hasher":
        """Read back what `save` wrote."""
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException
        from pyspark.ml.feature import BucketedRandomProjectionLSHModel

        try:
            parameters = Parameters(**json.loads((folder / "parameters.json").read_text()))
            model = BucketedRandomProjectionLSHModel.load(local_uri(folder / "model"))
        except (OSError, ValueError, TypeError, Py4JError, PySparkException) as error:
            detail = str(error).splitlines()[0]
            raise LookalikeError(f"no hash model in {folder} ({detail}): make it again") from None
        return cls(model, parameters)


def fit(
    vectors: "DataFrame",
    *,
    column: str = "features",
    recall: float = RECALL,
    bucket_length: float | None = None,
    tables: int | None = None,
    seed: int = 0,
) -> Hasher:
    """Step 7: a `BucketedRandomProjectionLSH` model whose parameters come from the data.

    A sample of nearest-neighbour distances decides; `bucket_length` and `tables`, given together,
    overrule it. The model is the same for the same data, partitions and seed.
    """
    from pyspark.ml.feature import BucketedRandomProjectionLSH

    sample = draw_sample(vectors, column, seed)
    width = sample.queries.shape[1]
    if (bucket_length is None) != (tables is None):
        raise LookalikeError("give bucket_length and tables together, or neither")
    # The formulas are for vectors of length 1; others are, but for their scale, no different.
    scale = sample.scale()
    near, far = sample.near() / scale, sample.far() / scale
    if bucket_length is not None and tables is not None:
        parameters = predict(near, far, width, bucket_length / scale, tables)
    else:
        parameters = choose_parameters(near, far, width, recall)
    parameters = replace(parameters, bucket_length=parameters.bucket_length * scale)
    lsh = BucketedRandomProjectionLSH(
        inputCol=column,
        outputCol="hashes",
        seed=seed,
        bucketLength=parameters.bucket_length,
        numHashTables=parameters.tables,
    )
    model = lsh.fit(vectors)
    return Hasher(model, measured(parameters, model, sample))


def measured(
    parameters: Parameters, model: "BucketedRandomProjectionLSHModel", sample: Sample
) -> Parameters:
    """Add to the parameters the recall and the share of candidates that the model's hashes have."""
    projections = directions(model)

    def hashes(vectors: Vectors) -> Floats:
        buckets: Floats = np.floor(vectors @ projections.T / parameters.bucket_length)
        return buckets

    own = hashes(sample.queries)
    found = (hashes(sample.neighbors) == own[:, None]).any(axis=2)
    candidates = (hashes(sample.others)[None] == own[:, None]).any(axis=2)
    return replace(
        parameters,
        measured_recall=float(found.mean()),
        measured_candidates=float(candidates.mean()),
    )


def directions(model: "BucketedRandomProjectionLSHModel") -> Floats:
    """The random unit vectors of a fitted model, (tables, width)."""
    # Spark gives Python no other way to see them.
    return np.array(model._call_java("randMatrix").toArray())
