"""The face a person imports: make an index, open one, find look-alikes."""

import contextlib
import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from lookalike import embedding, evaluate, images, search
from lookalike.collection import Collection, Segment, make_free, put_in_place, staging_folder
from lookalike.embedding import ImageLike, Vectors, content_hash, to_pixels
from lookalike.errors import LookalikeError
from lookalike.hits import Hits, Query
from lookalike.images.decoding import read as read_file

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from lookalike.hashing import Hasher

Engine = Literal["auto", "exact", "spark"]


class Index:
    """An index on disk, opened at one version. Searching it starts neither a JVM nor torch."""

    def __init__(self, opened: Collection) -> None:
        self.collection = opened

    @property
    def path(self) -> Path:
        """The folder of the index."""
        return self.collection.path

    def __len__(self) -> int:
        return self.collection.counts()[0]

    def __repr__(self) -> str:
        about = self.collection.about_model
        return f"Index({str(self.path)!r}, {len(self):,} images, {about['backbone']})"

    def info(self) -> dict[str, Any]:
        """Return what `lookalike info --json` prints: counts, version, model, size, recall.

        `recall` is that of each engine where it is known: exact search misses nothing, the
        hash tables were measured when they were made.
        """
        embedded, skipped = self.collection.counts()
        spark_recall = None
        with contextlib.suppress(OSError, ValueError, KeyError):  # none yet, or a damaged one
            parameters = self.collection.hash_folder / "parameters.json"
            spark_recall = json.loads(parameters.read_text())["measured_recall"]
        return {
            "images": embedded,
            "skipped": skipped,
            "version": self.collection.version,
            "segments": len(self.collection.files()),
            "bytes": self.collection.size(),
            "root": self.collection.source.root,
            "model": self.collection.about_model,
            "recall": {"exact": 1.0, "spark": spark_recall},
        }

    @overload
    def search(
        self, image: ImageLike, k: int = 5, *, engine: Engine = "auto", explain: bool = False
    ) -> Hits: ...

    @overload
    def search(
        self, image: list[ImageLike], k: int = 5, *, engine: Engine = "auto", explain: bool = False
    ) -> list[Hits]: ...

    def search(
        self,
        image: "ImageLike | list[ImageLike]",
        k: int = 5,
        *,
        engine: Engine = "auto",
        explain: bool = False,
    ) -> "Hits | list[Hits]":
        """Find the k nearest neighbours of an image, or of each of a list of images.

        `image` is whatever `ImageEmbedder` takes, or a float vector (width,) of the same model.
        Vectors may come as an array (n, width). A file that is in the index is not its own
        neighbour. That a vector is of another model shows only if its width is. `engine` is
        `exact` or `spark` (hashing, approximate; `explain` says which tables collided); `auto`
        takes exact search.
        Raises `LookalikeError` for k < 1 or a vector of another model's width, and
        `lookalike.images.BadImage` for what is no picture.
        """
        if self._are_vectors(image):
            image = list(cast("Vectors", image))
        if isinstance(image, list | tuple):
            return [
                self.nearest(self.query(one), k, engine=engine, explain=explain) for one in image
            ]
        return self.nearest(self.query(image), k, engine=engine, explain=explain)

    def nearest(
        self, query: Query, k: int = 5, *, engine: Engine = "auto", explain: bool = False
    ) -> Hits:
        """Find the k nearest neighbours of a query."""
        search.check_k(k)
        opened = self.collection
        candidates = None
        if engine == "spark":
            vectors, hasher = self._hashed()
            started = time.perf_counter()
            found = search.hashed(vectors, hasher, query.vector, k, query.id)
            took = time.perf_counter() - started
            if explain:
                found, candidates = _explained(found, hasher, vectors, query)
        elif engine in ("auto", "exact"):
            if explain:
                raise LookalikeError("--explain is about hash tables: add --engine spark")
            started = time.perf_counter()
            found = search.exact(opened.segments, query.vector, k, query.id)
            took = time.perf_counter() - started
            engine = "exact"
        else:
            raise LookalikeError(f"no engine {engine!r}: say auto, exact or spark")
        return Hits(query, tuple(found), engine, took * 1000, opened.source, candidates)

    def query(self, image: ImageLike) -> Query:
        """Turn an image into a query; one whose file is in the index needs no embedding."""
        if isinstance(image, np.ndarray) and image.ndim == 1:
            return Query(self._checked(image))
        if isinstance(image, bytes | Image.Image):
            return Query(self.embedder(image), content=image)
        if not isinstance(image, str | os.PathLike):
            return Query(self.embedder(image), content=Image.fromarray(to_pixels(image)))
        path = os.path.abspath(image)
        data = read_file(image)
        row = self._row_of_path(path)
        segment, at, values = row if row else (None, 0, {})
        if segment is not None and values["content_hash"] == content_hash(data):
            vector: Vectors = np.array(segment.vectors[at])
        else:
            vector = self.embedder(data)
        return Query(vector, images.encode_path(path), values.get("label"), values.get("id"))

    def random(self, seed: int | None = None) -> Query:
        """Steps 9 and 10: take an indexed picture at random and embed its pixels anew."""
        segments = self.collection.segments
        total = sum(len(segment.ids) for segment in segments)
        if total == 0:
            raise LookalikeError(f"{self.path} holds no embedded image: index some")
        at = random.Random(seed).randrange(total)
        for segment in segments:
            if at < len(segment.ids):
                break
            at -= len(segment.ids)
        row = segment.rows.slice(at, 1).to_pylist()[0]
        source = self.collection.source
        try:
            data = images.read(source, row["path"])
        except images.BadImage as error:
            where = images.full_path(source, row["path"])
            raise LookalikeError(f"{where}, indexed once, cannot be read now: {error}") from None
        path = images.encode_path(images.full_path(source, row["path"]))
        content = None if source.kind == "files" else data
        return Query(self.embedder(data), path, row["label"], row["id"], content)

    def evaluate(self, k: int = 5, queries: int = 50, seed: int = 0) -> dict[str, Any]:
        """Measure the index: R@1 and P@5 by label, recall of hashing against exact search.

        `queries` images are drawn for the recall, which asks Spark twice for each.
        """
        search.check_k(k)
        segments = self.collection.segments
        vectors, hasher = self._hashed()
        return {
            "images": len(self),
            **evaluate.by_label(segments, seed=seed),
            "spark": evaluate.hash_recall(segments, vectors, hasher, k, queries, seed),
        }

    @property
    def embedder(self) -> embedding.ImageEmbedder:
        """The embedder that made this index's vectors."""
        return embedding.ImageEmbedder(model=self.collection.model)

    def dataframe(self, spark: "SparkSession | None" = None) -> "DataFrame":
        """Return the index as a Spark DataFrame: `id, path, label, ..., embedding`."""
        from lookalike.spark import session

        return self.collection.dataframe(spark or session())

    def hasher(self) -> "Hasher":
        """Return the hash model of this version; it is made and saved the first time."""
        return self._hashed()[1]

    def _hashed(self) -> "tuple[DataFrame, Hasher]":
        from lookalike.hashing import Hasher, fit, with_vectors
        from lookalike.spark import progress, session

        spark = session()
        vectors = with_vectors(self.collection.dataframe(spark))
        folder = self.collection.hash_folder
        with contextlib.suppress(LookalikeError):  # none yet, or a damaged one
            return vectors, Hasher.load(folder)
        with progress(spark, "choosing hash parameters"):
            hasher = fit(vectors)
        if os.access(self.path, os.W_OK):  # else it is made again the next time
            hasher.save(folder)
        return vectors, hasher

    def hash(
        self, out: str | Path, family: str = "projection", *, overwrite: bool = False
    ) -> "DataFrame":
        """Steps 7 and 8: write the hashes of all vectors to `out/hashes`, the model beside them.

        The hashes are Parquet: `id, path, label, hashes array<double>`, a number a hash table.
        `family` is `projection`, for the vectors as they are, or `minhash`, for the set of the
        strongest features of each. Returns them as a DataFrame.
        """
        from lookalike import hashing
        from lookalike.spark import local_uri, progress

        out = Path(out)
        make_free(out, overwrite)
        if out.exists() and not (out / "hashes").is_dir():
            raise LookalikeError(f"{out} holds no hashes and is not replaced")
        with staging_folder(out) as staging:
            fresh = staging / "out"
            if family == "projection":
                vectors, hasher = self._hashed()
                hashed, tables = hasher.transform(vectors), hasher.parameters.tables
                hasher.save(fresh)
            elif family == "minhash":
                sets = hashing.with_sets(hashing.with_vectors(self.dataframe()))
                model = hashing.fit_sets(sets)
                hashed, tables = model.transform(sets), model.getNumHashTables()
                model.save(local_uri(fresh / "model"))
            else:
                raise LookalikeError(f"no hash family {family!r}: say projection or minhash")
            rows = hashing.bucket_columns(hashed, tables).select("id", "path", "label", "hashes")
            with progress(rows.sparkSession, "hashing"):
                rows.write.parquet(local_uri(fresh / "hashes"))
            put_in_place(fresh, out)
        return rows.sparkSession.read.parquet(local_uri(out / "hashes"))

    def _row_of_path(self, path: str) -> "tuple[Segment, int, dict[str, Any]] | None":
        source = self.collection.source
        if source.kind != "files":
            return None
        real = os.path.relpath(os.path.realpath(path), os.path.realpath(source.root))
        # By its name, or, where a link leads to one of the two, by where it really is.
        for below in dict.fromkeys((os.path.relpath(path, source.root), real)):
            for segment in self.collection.segments:
                at = pc.index(segment.rows["path"], images.encode_path(below)).as_py()
                if at >= 0:
                    return segment, at, segment.rows.slice(at, 1).to_pylist()[0]
        return None

    def _are_vectors(self, image: Any) -> bool:
        """Tell embeddings (n, width) from a grey picture: their rows have length 1."""
        if not (isinstance(image, np.ndarray) and image.ndim == 2 and image.dtype.kind == "f"):
            return False
        lengths = np.linalg.norm(image, axis=1)
        return image.shape[1] == self.collection.about_model["width"] and np.allclose(
            lengths, 1, atol=1e-3
        )

    def _checked(self, vector: Vectors) -> Vectors:
        width = self.collection.about_model["width"]
        if vector.shape != (width,):
            raise LookalikeError(
                f"a vector of {len(vector)} numbers, but this index has {width}: "
                "embed the query with the index's own model (index.embedder)"
            )
        if not np.isfinite(vector).all():
            raise LookalikeError("a vector with numbers that are not finite: embed the query again")
        given = np.asarray(vector, np.float32)
        if abs(float(np.linalg.norm(given)) - 1) < 1e-6:  # an image and its vector find the same
            return given
        unit: Vectors = embedding.normalize(given[None])[0]
        return unit


def _explained(
    found: list[search.Neighbor], hasher: "Hasher", vectors: "DataFrame", query: Query
) -> tuple[list[search.Neighbor], int]:
    """Add to each neighbour the hash tables that it shares with the query; count all who do."""
    candidates = hasher.explain(vectors, query.vector).filter("size(tables) > 0")
    ids = [neighbor.id for neighbor in found]
    rows = candidates.filter(candidates["id"].isin(ids)).select("id", "tables").collect()
    tables = {row["id"]: tuple(row["tables"]) for row in rows}
    return [replace(n, tables=tables.get(n.id, ())) for n in found], candidates.count()


def index(
    photos: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    overwrite: bool = False,
    **options: Any,
) -> Index:
    """Embed all images of a folder, glob, list, URI or table, and keep them as an index.

    `options` are the fields of `lookalike.build.Options`: `labels` names a CSV file, `model`,
    `weights` and `precision` a model. Images that cannot be read are kept with the reason.
    Raises `LookalikeError` where nothing can be indexed; `out` is then as it was.
    """
    from lookalike.build import Options, build_collection

    return Index(build_collection(photos, Path(out), Options(**options), overwrite)[0])


def open(path: str | Path) -> Index:
    """Open an index. Raises `LookalikeError` if there is none."""
    return Index(Collection.open(path))
