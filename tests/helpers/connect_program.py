"""What test_connect.py compares, done in one process: `python connect_program.py FOLDER OUT`.

It does the same with Spark, classic or through Spark Connect, as the environment says, and without
Spark (`SPARK=no`), and prints what it found as JSON.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import lookalike
from lookalike import Index

SPARK = os.environ.get("SPARK", "yes") == "yes"
WIDTH, VECTORS = 16, 400
Found = dict[str, Any]


def rows_of(index: Index) -> Found:
    """Return what an index has of each image or key."""
    table = pa.concat_tables(pq.read_table(file) for file in index._table.files())
    name = "key" if index._table.has_keys else "path"
    return {
        str(row[name]): [row["label"], row["status"], row["embedding"]]
        for row in table.select([name, "label", "status", "embedding"]).to_pylist()
    }


def neighbors_of(table: pa.Table) -> Found:
    """Return the neighbours of each query, with distances; ids become names by their order."""
    found: Found = {}
    for row in table.sort_by([("query_id", "ascending"), ("rank", "ascending")]).to_pylist():
        found.setdefault(str(row["query_id"]), []).append([row["neighbor_id"], row["distance"]])
    return found


def own_vectors() -> pa.Table:
    """Return a table of vectors of the user's own."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(VECTORS, WIDTH)).astype(np.float32)
    vectors = pa.array(list(drawn), pa.list_(pa.float32()))
    return pa.table({"sku": [f"s{row}" for row in range(VECTORS)], "vector": vectors})


def image_files(folder: Path) -> Any:
    """Return a DataFrame of the files of a folder, with their contents."""
    if SPARK:
        from pyspark.sql import functions as F

        from lookalike.spark import session

        read = session().read.format("binaryFile").load(str(folder))
        return read.withColumn("kind", F.substring("path", -8, 4))
    files = sorted(folder.iterdir())
    contents = [file.read_bytes() for file in files]
    paths = list(map(str, files))
    kinds = [path[-8:-4] for path in paths]
    return pa.table({"path": paths, "content": contents, "kind": kinds})


def run(here: Path, out: Path) -> Found:
    """Index a folder, a table of images and vectors; then add, search and compare."""
    found: Found = {}
    photos, labels = here / "cars_train", here / "cardatasettrain.csv"
    index = lookalike.create_index(
        photos, out / "cars.index", labels=labels, model="resnet18", precision="f32", spark=SPARK
    )
    found["folder"] = rows_of(index)
    new = sorted((here / "new").iterdir())
    index.add(new, spark=SPARK)
    found["added"] = rows_of(index)
    shards = lookalike.create_index(
        here / "shards", out / "shards.index", like=index.path, image_column="image"
    )
    found["table"] = rows_of(shards)

    options: Any = {"like": index.path, "label_column": "kind", "keep_columns": ["kind"]}
    if not SPARK:
        options["path_column"] = "path"
    files = lookalike.create_index(image_files(photos), out / "files.index", **options)
    found["files"] = rows_of(files)
    found["kept"] = sorted(files.to_pandas(["kind"])["kind"])
    found["same"] = files.add(image_files(photos)).same
    if SPARK:
        files.register_function("alike")
        query = f"select path, distance from alike(image => '{new[0]}', k => 3)"
        found["function"] = [
            list(row) for row in files.to_spark().sparkSession.sql(query).collect()
        ]
    else:
        found["function"] = [[hit.path, hit.distance] for hit in files.search(new[0], k=3)]

    columns: Any = {"embedding_column": "vector", "id_column": "sku"}
    vectors: Any = own_vectors()
    if SPARK:
        from lookalike.spark import is_connect, session

        spark = session()
        found["connect"] = is_connect(spark)
        vectors = spark.createDataFrame(vectors.to_pandas()).repartition(3)
    own = lookalike.create_index(vectors, out / "own.index", **columns)
    found["vectors"] = rows_of(own)
    if SPARK:
        kept = index.to_spark().filter("status = 'ok'").select("id").collect()
        found["rows"] = sorted(row["id"] for row in kept)
        near = own.kneighbors(k=5, engine="exact").write(out / "near").toArrow()
        queries = vectors.filter("sku in ('s1', 's2', 's399')")
        asked = own.kneighbors(queries, 3, id_column="sku", column="vector").to_spark().toArrow()
        found["queries"] = neighbors_of(asked)
        cells = own.kneighbors(k=5, engine="approximate", recall=0.9).to_spark().toArrow()
        found["approximate"] = neighbors_of(cells)
    else:
        from lookalike.search.knn.graph import write_graph

        found["rows"] = sorted(id_ for one in index._table.segments for id_ in one.ids.tolist())
        write_graph(own._table, out / "near", 5, spark=False)
        numbers = pq.read_table(out / "near")
        keys = {
            id_: key
            for one in own._table.segments
            for id_, key in zip(one.ids.tolist(), one.rows["key"].to_pylist(), strict=True)
        }
        for name in ("query_id", "neighbor_id"):
            named = pa.array([keys[id_] for id_ in numbers[name].to_pylist()])
            numbers = numbers.set_column(numbers.schema.get_field_index(name), name, named)
        near = numbers
        found["queries"] = {
            sku: [[hit.id, hit.distance] for hit in own.search(np.array(vector), k=3)]
            for sku, vector in zip(*own_vectors().to_pydict().values(), strict=True)
            if sku in ("s1", "s2", "s399")
        }
    found["neighbors"] = neighbors_of(near)
    hits = index.search(new[0], k=5)
    found["search"] = [[hit.path, hit.distance] for hit in hits]
    twice = index.duplicates(out / "twice", within=0.5, spark=SPARK)
    found["duplicates"] = {key: value for key, value in twice.figures.items() if key != "spark"}
    pairs = index.pairs(out / "pairs", within=0.6, verify=True, spark=SPARK).to_pandas()
    found["join"] = sorted(
        [row.a_path, row.b_path, row.distance, row.agreement] for row in pairs.itertuples()
    )
    figures = index.evaluate(k=3, queries=20, spark=None if SPARK else False)
    found["evaluate"] = [figures[key] for key in ("images", "R@1", "mAP@R")]
    return found


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), Path(sys.argv[2]))))  # noqa: T201
