"""What hashing on Spark is worth: Spark ML's scheme, and what goes beyond it. Prints JSON.

    python benchmarks/hashing.py --index cars.index --json
    python benchmarks/hashing.py --vectors crops.npy --recall 0.9 --json

First what `lsh.tune` says: the schemes side by side, predicted and measured. Then the same
queries, in turns, to Spark's `approxNearestNeighbors` and to that of `AmplifiedProjectionLSH`, each
with the parameters found, over tables that are hashed and cached already. Vectors are an array
(n, width) for `numpy.load`.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import lookalike
from lookalike import lsh
from lookalike.lsh import tuning
from lookalike.lsh.sample import SAMPLE_NEIGHBORS
from lookalike.spark import local_uri, session
from measure import machine

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

BLOCK = 16_384  # rows written at a time


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--index", type=Path)
    which.add_argument("--vectors", type=Path)
    parser.add_argument("--recall", type=float, default=tuning.TARGET_RECALL)
    parser.add_argument("--queries", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.index:
            vectors = lsh.with_vectors(lookalike.open_index(given.index).to_spark())
        else:
            vectors = written(given.vectors, Path(folder, "vectors.parquet"))
        print(json.dumps(run(vectors, given.recall, given.queries, given.seed)))  # noqa: T201


def written(file: Path, parquet: Path) -> "DataFrame":
    """Give Spark the vectors of an array in a file."""
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions as F

    rows = np.load(file, mmap_mode="r")
    schema = pa.schema({"embedding": pa.list_(pa.float32())})
    with pq.ParquetWriter(parquet, schema) as writer:
        for start in range(0, len(rows), BLOCK):
            block = np.asarray(rows[start : start + BLOCK], np.float32)
            ends = pa.array(np.arange(len(block) + 1, dtype=np.int32) * block.shape[1])
            lists = pa.ListArray.from_arrays(ends, pa.array(block.ravel()))
            writer.write_table(pa.table([lists], schema=schema))
    table = session().read.parquet(local_uri(parquet))
    return table.select(array_to_vector(F.col("embedding").cast("array<double>")).alias("features"))


def run(vectors: "DataFrame", recall: float, queries: int, seed: int) -> dict[str, Any]:
    """Tune, then search with what was found."""
    vectors = vectors.cache()
    started = time.perf_counter()
    tuned = lsh.tune(vectors, recall, seed=seed)
    took = time.perf_counter() - started
    found = tuned.parameters
    stock = lsh.fit(
        vectors, bucket_length=found.bucket_length, tables=found.tables, seed=seed
    ).model
    amplified = tuned.stage(seed=seed).fit(vectors)
    return {
        "machine": machine(),
        "rows": vectors.count(),
        "tune_s": round(took, 1),
        **tuned.to_dict(),
        "said": lsh.describe(tuned),
        "search": in_turns({"stock": stock, "amplified": amplified}, vectors, queries, seed + 1),
    }


def in_turns(
    models: dict[str, Any], vectors: "DataFrame", queries: int, seed: int
) -> dict[str, Any]:
    """Ask each model the same queries in turns: median time, recall@10, ratio of the first two."""
    from pyspark.ml.linalg import DenseVector

    hashed = {name: model.transform(vectors).cache() for name, model in models.items()}
    for table in hashed.values():
        table.count()
    sample = lsh.draw_sample(vectors, seed=seed, count=queries)
    vectors.unpersist()
    times: dict[str, list[float]] = {name: [] for name in models}
    found: dict[str, list[float]] = {name: [] for name in models}
    keys = [DenseVector(query.astype(float)) for query in sample.queries]
    for name, model in models.items():  # the first of all pays for what is compiled
        model.approxNearestNeighbors(hashed[name], keys[0], SAMPLE_NEIGHBORS + 1).collect()
    for key, near in zip(keys, sample.near()[:, 0].reshape(len(keys), -1), strict=True):
        for name, model in models.items():
            started = time.perf_counter()
            rows = model.approxNearestNeighbors(hashed[name], key, SAMPLE_NEIGHBORS + 1).collect()
            times[name].append((time.perf_counter() - started) * 1000)
            # The query itself is the first. What is as near as the tenth of all is one of them.
            distances = np.array([row["distCol"] for row in rows[1:]])
            found[name].append(float(np.mean(distances <= near[-1] + 1e-5)) * len(distances) / 10)
    medians = {name: statistics.median(some) for name, some in times.items()}
    first, second = list(medians)[:2]
    return {
        "queries": len(keys),
        **{f"{name}_ms": round(median, 1) for name, median in medians.items()},
        f"{first}_over_{second}": round(medians[first] / medians[second], 2),
        **{f"{name}_recall": round(statistics.mean(some), 3) for name, some in found.items()},
    }


if __name__ == "__main__":
    main()
