"""The face a person imports: make an index, open one, find look-alikes."""

import contextlib
import dataclasses
import os
import random
import time
from collections.abc import Sequence
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from PIL import Image

from lookalike import embedding, evaluate, fidelity, images, on_spark, search
from lookalike.embedding import ImageLike, Vectors, content_hash, to_pixels
from lookalike.engine import Engine, KnnEngine, check_engine
from lookalike.errors import ImageError, LookalikeError
from lookalike.extras import install, is_installed, require
from lookalike.given import Name, local_path
from lookalike.groupings import Groupings
from lookalike.hits import (
    ImageSample,
    Query,
    SearchResult,
    SearchResults,
    draw_sample,
    nothing_left,
)
from lookalike.images.decoding import read as read_file
from lookalike.progress import progress_line, say
from lookalike.searcher import NEIGHBORS, RECALL, RECALLS, Searcher
from lookalike.spark import session
from lookalike.storage import EmbeddingTable, Segment
from lookalike.untrusted import read_json

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from lookalike.build import Changed, Report
    from lookalike.build.keeping import Photos
    from lookalike.hashing import Hasher, Tuned
    from lookalike.ingest.diff import Say
    from lookalike.storage.maintenance import Checked, Repaired, Vacuumed

_FEW = 5  # neighbours, where nobody says how many
_DARKEST = 0.5 / 255  # what is less is black in a picture
_LOOKED_FOR = 20  # images, before it is believed that all have moved


class Index(Groupings):
    """An index on disk, opened at one version. Searching it starts neither a JVM nor torch.

    It stays at that version, whatever others write, until it changes the index itself or is told to
    `refresh`. `report` says what the run did that made it, None where it was opened.
    """

    report: "Report | None" = None

    def __init__(self, opened: EmbeddingTable) -> None:
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
        hash tables were measured when they were made. `approximate` says more of the signatures:
        of how many neighbours (`k`) how many `queries` found what share, by the share asked for.
        """
        embedded, skipped = self.collection.counts()
        spark_recall = None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # none, or damaged
            parameters = self.collection.hash_folder / "parameters.json"
            spark_recall = float(read_json(parameters)["measured_recall"])
        known = self.searcher.known()
        return {
            "images": embedded,
            "skipped": skipped,
            "version": self.collection.version,
            "segments": len(self.collection.files()),
            "bytes": self.collection.size(),
            "root": self.collection.source.root,
            "model": self.collection.about_model,
            "recall": {
                "exact": 1.0,
                "approximate": self.searcher.known_recall(),
                "spark-lsh": spark_recall,
            },
            "approximate": known
            and {
                "k": NEIGHBORS,
                "queries": known.queries,
                "recall": dict(zip(map(str, RECALLS), known.recall, strict=True)),
            },
        }

    def history(self) -> list[dict[str, Any]]:
        """Return what is known of each version, newest first (`EmbeddingTable.history`)."""
        return self.collection.history()

    def refresh(self) -> bool:
        """Move on to the newest version; say whether there was a newer one."""
        moved = not self.collection.is_newest()
        if moved:
            self._move_to(self.collection.newest())
        return moved

    def _move_to(self, collection: EmbeddingTable) -> None:
        self.collection = collection
        self.__dict__.pop("searcher", None)

    def add(
        self, photos: "Photos", *, dry_run: bool = False, say: "Say | None" = None, **options: Any
    ) -> "Changed":
        """Embed what is new or changed among some images, and move on to what is then there.

        An image is the same while path, size and time of change are; bytes that are known by
        another path are not embedded again. `options` are the fields of `lookalike.build.Options`
        that say how images are read. With `dry_run` nothing is changed; `say` is told each path.
        """
        from lookalike import build

        return self._changed(
            build.add(self.collection, photos, build.Options(**options), dry_run=dry_run, say=say)
        )

    def sync(
        self,
        photos: "Photos | None" = None,
        *,
        dry_run: bool = False,
        say: "Say | None" = None,
        **options: Any,
    ) -> "Changed":
        """Make the index equal to a folder (its root): `add`, and remove what is no longer there.

        With `photos` only what lies in them can be removed.
        """
        from lookalike import build

        return self._changed(
            build.sync(self.collection, photos, build.Options(**options), dry_run=dry_run, say=say)
        )

    def remove(
        self, names: str | Sequence[str], *, dry_run: bool = False, say: "Say | None" = None
    ) -> "Changed":
        """Remove images by path, folder or glob, and move on to what is then there.

        The files stay. Raises `LookalikeError`, and removes nothing, where a name is of no image.
        """
        from lookalike import build

        given = [names] if isinstance(names, str) else list(names)
        if not all(given):  # which would be the folder that this process is in
            raise LookalikeError("an empty name: name images, folders or globs")
        return self._changed(build.remove(self.collection, given, dry_run=dry_run, say=say))

    def _changed(self, done: "tuple[EmbeddingTable, Changed]") -> "Changed":
        collection, changed = done
        if collection is not self.collection:
            self._move_to(collection)
        return changed

    def check(self) -> "Checked":
        """Check all that must be true of the index, to the last byte; nothing is changed.

        One that is too damaged to be opened otherwise can be with `open_index(path, look=False)`.
        """
        from lookalike.searcher import check_signatures
        from lookalike.storage.maintenance import check

        return check(self.collection, check_signatures)

    def repair(self) -> "Repaired":
        """Repair the index, and move on to what is then there.

        Images that are lost with damaged files are embedded again by `sync`, from their photos.
        """
        from lookalike.searcher import check_signatures
        from lookalike.storage.maintenance import repair

        repaired = repair(self.collection, check_signatures)
        if not repaired.found.ok:
            self._move_to(EmbeddingTable.open(self.path))
        return repaired

    def vacuum(self, keep_days: float = 7, *, dry_run: bool = False) -> "Vacuumed":
        """Delete what only versions need that were not the newest in the last `keep_days` days.

        They can be opened no longer. The newest one stays as it is, its small segments made one.
        """
        from lookalike.storage.maintenance import vacuum

        vacuumed = vacuum(self.collection, keep_days, dry_run=dry_run)
        self.refresh()
        return vacuumed

    def move_photos(self, root: Name) -> None:
        """Say where the photos are now, after their folder was moved or the index was copied.

        Raises `LookalikeError` where none of some images drawn at random is found there.
        """
        moved = os.fspath(root)
        if self.collection.source.kind == "files" or "://" not in moved:
            moved = os.path.abspath(local_path(root))
            if self.collection.source.kind == "files" and os.path.isfile(moved):
                raise LookalikeError(f"{images.encode_path(moved)} is no folder: say where it is")
        source = dataclasses.replace(self.collection.source, root=moved)
        rows = self.searcher.rows
        paths = rows.paths.take(search.draw(len(rows), _LOOKED_FOR)).to_pylist()
        if paths and not any(_is_there(source, path) for path in paths):
            raise LookalikeError(
                f"{images.full_path(source, paths[0])} is not there, nor are others"
            )
        self._move_to(self.collection.move(moved))

    @overload
    def search(self, image: ImageLike, k: int | None = None, **options: Any) -> SearchResult: ...

    @overload
    def search(
        self, image: list[ImageLike], k: int | None = None, **options: Any
    ) -> list[SearchResult]: ...

    def search(
        self, image: "ImageLike | list[ImageLike]", k: int | None = None, **options: Any
    ) -> "SearchResult | list[SearchResult]":
        """Find the k nearest neighbours (5) of an image, or of each of a list of images.

        `image` is whatever `ImageEmbedder` takes, or a vector (width,) of the same model, of any
        length but 0. Vectors of length 1 may come as an array (n, width). A file that is in the
        index is not its own neighbour. That a vector is of another model shows only if its width
        is. `options` are those of `nearest`. Raises `LookalikeError` for k < 1 or a vector of
        another width or without a direction, and `ImageError` for what is no
        picture.
        """
        image = _as_array(image)
        if self._are_vectors(image):
            image = list(cast("Vectors", image))
        if isinstance(image, list | tuple):
            return SearchResults(self.nearest(self.query(one), k, **options) for one in image)
        return self.nearest(self.query(image), k, **options)

    def nearest(
        self,
        query: Query,
        k: int | None = None,
        *,
        engine: Engine = "auto",
        recall: float = RECALL,
        within: float | None = None,
        label: str | Sequence[str] | None = None,
        path: str | Sequence[str] | None = None,
        explain: bool = False,
    ) -> SearchResult:
        """Find the k nearest neighbours (5) of a query.

        `auto` compares the query with all rows (`exact`) while that is as quick, else with those
        whose signatures are near (`approximate`), as many as find the share `recall` of true
        neighbours. `spark-lsh` is hashing by Spark ML; `explain` says which of its tables collided.
        `within` is a largest distance: then all rows so near are found, or the k nearest of them,
        exactly. `label` and `path` leave in only rows with one of these labels, whose path below
        the root matches one of these globs (`*` matches slashes too). Raises `LookalikeError` where
        no row is left in, whatever the query: that nothing is `within` a distance is an answer.
        """
        if k is not None:
            search.check_k(k)
        check_engine(engine)
        if engine == "spark-lsh":
            if within is not None or label is not None or path is not None:
                raise LookalikeError(
                    "filters and --within are not for --engine spark-lsh: leave it out"
                )
            return on_spark.nearest(self.collection, query, k or _FEW, explain)
        if explain:
            raise LookalikeError("--explain is about hash tables: add --engine spark-lsh")
        searcher = self.searcher
        self._check_width(query.vector)
        allowed = searcher.rows.chosen(_listed(label), _listed(path))
        if allowed is not None and len(allowed) and not allowed.any():
            raise nothing_left(_listed(label), _listed(path))
        if within is None and searcher.may_estimate(engine, recall, len(searcher.rows)):
            with progress_line("getting signatures ready"):
                searcher.get_ready()  # or it would count as time that this search took
        started = time.perf_counter()
        used: Engine = "exact"
        compared: int | None = None
        if within is not None:
            if not within >= 0 or engine == "approximate":
                raise LookalikeError("--within is a distance from 0 to 2, and searched exactly")
            found = search.within(searcher.rows, query.vector, within, k, query.id, allowed)
        else:
            found, used, compared = searcher.nearest(
                query.vector,
                k or _FEW,
                engine=engine,
                recall=recall,
                without=query.id,
                allowed=allowed,
            )
        took = time.perf_counter() - started
        candidates = compared if used == "approximate" else None
        return SearchResult(
            query, tuple(found), used, took * 1000, self.collection.source, candidates
        )

    @cached_property
    def searcher(self) -> Searcher:
        """The rows of this version, ready to be searched."""
        return Searcher(self.collection)

    def query(self, image: ImageLike) -> Query:
        """Turn an image into a query; one whose file is in the index needs no embedding."""
        image = _as_array(image)
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
        except ImageError as error:
            where = images.full_path(source, row["path"])
            raise LookalikeError(f"{where}, indexed once, cannot be read now: {error}") from None
        path = images.encode_path(images.full_path(source, row["path"]))
        content = None if source.kind == "files" else data
        return Query(self.embedder(data), path, row["label"], row["id"], content)

    def show(
        self, n: int = 10, seed: int | None = None, label: str | Sequence[str] | None = None
    ) -> ImageSample:
        """Draw n images at random, or n of some labels; in a notebook they show as pictures.

        Each is a query: `index.nearest(index.show()[0])`. Raises `LookalikeError` for n < 1 and
        where there is no such image.
        """
        source = self.collection.source
        return draw_sample(self.searcher.rows, source, n, seed, _listed(label))

    def evaluate(
        self, k: int = 5, queries: int = 50, seed: int = 0, *, spark: bool | None = None
    ) -> dict[str, Any]:
        """Measure the index: R@1, P@5, mAP@R by label; recall of each engine against exact search.

        `queries` images are drawn for the recall. With `spark` (where it is installed, unless said)
        Spark's hashing is measured too, with two searches for each of them.
        Where the index is in less than f32, what that costs is measured too (`against_f32`).
        """
        search.check_k(k)
        if queries < 1:
            raise LookalikeError(f"queries is {queries}: draw at least 1 image")
        search.check_seed(seed)
        if spark is None and not (spark := is_installed("pyspark")):
            say(f"Spark's hashing is not measured: {install('pyspark')} adds it")
        elif spark:
            require("measuring Spark's hashing", "pyspark")
        rows = self.searcher.rows
        figures = {
            "images": len(self),
            **evaluate.by_label(rows, seed=seed),
            **evaluate.by_signatures(self.searcher, k, queries, seed),
        }
        if spark:
            vectors, hasher = on_spark.vectors_and_hasher(self.collection)
            figures["spark-lsh"] = evaluate.by_hashing(rows, vectors, hasher, k, queries, seed)
        if self.collection.about_model["precision"] != "f32":
            with progress_line("embedding again in f32"):
                figures["against_f32"] = fidelity.against_f32(self.collection, rows, k, seed)
        return figures

    @property
    def embedder(self) -> embedding.ImageEmbedder:
        """The embedder that made this index's vectors."""
        return embedding.ImageEmbedder(
            model=self.collection.model, truncated=self.collection.source.truncated
        )

    def dataframe(self, spark: "SparkSession | None" = None) -> "DataFrame":
        """Return the index as a Spark DataFrame: `id, path, label, ..., embedding`."""
        return self.collection.dataframe(spark or session())

    def hasher(self) -> "Hasher":
        """Return the hash model of this version; it is made and saved the first time."""
        return on_spark.vectors_and_hasher(self.collection)[1]

    def tune(self, recall: float = 0.9, seed: int = 0) -> "Tuned":
        """Say what hashing on Spark is worth for this index, and with which parameters.

        `recall` is the share of the ten nearest neighbours that hash tables have to find; `seed`
        says which images are drawn to choose the parameters, and which to measure them.
        """
        return on_spark.tune(self.collection, recall, seed)

    def neighbors(
        self,
        out: Name,
        k: int = 10,
        queries: "Index | Name | None" = None,
        *,
        engine: KnnEngine = "auto",
        recall: float = RECALL,
        paths: bool = False,
        overwrite: bool = False,
    ) -> "DataFrame":
        """Write the k nearest neighbours of every image to a folder of Parquet, on Spark.

        Its columns are `query_id, rank, neighbor_id, distance`, with `paths` also `query_path,
        neighbor_path`. `queries` is another index of the same model, whose images then ask this
        one. `engine` and `recall` as in `nearest`. Returns the table as a DataFrame.
        """
        asking = queries.collection if isinstance(queries, Index) else queries
        return on_spark.write_neighbors(
            self.collection,
            local_path(out),
            k,
            asking,
            engine=engine,
            recall=recall,
            paths=paths,
            overwrite=overwrite,
        )

    def kneighbors(
        self,
        queries: "DataFrame",
        k: int = 10,
        *,
        id_column: str = "id",
        column: str = "embedding",
        engine: KnnEngine = "auto",
        recall: float = RECALL,
    ) -> "DataFrame":
        """Find the k nearest neighbours of each row of a DataFrame with a vector, on Spark.

        `column` holds vectors or arrays of numbers, of the index's width and of any length but 0;
        `id_column` numbers or names. Returns a DataFrame `query_id, rank, neighbor_id, distance`.
        The queries are written to a folder that all workers see, beside the index, and that goes
        with the Python process.
        """
        return on_spark.kneighbors(
            self.collection,
            queries,
            k,
            id_column=id_column,
            column=column,
            engine=engine,
            recall=recall,
        )

    def hash(
        self, out: Name, family: str = "projection", *, overwrite: bool = False
    ) -> "DataFrame":
        """Steps 7 and 8: write the hashes of all vectors to `out/hashes`, the model beside them.

        The hashes are Parquet: `id, path, label, hashes array<double>`, a number a hash table.
        `family` is `projection`, for the vectors as they are, or `minhash`, for the set of the
        strongest features of each. Returns them as a DataFrame.
        """
        return on_spark.write_hashes(self.collection, local_path(out), family, overwrite)

    def _row_of_path(self, path: str) -> "tuple[Segment, int, dict[str, Any]] | None":
        source = self.collection.source
        if source.kind != "files":
            return None
        real = os.path.relpath(os.path.realpath(path), os.path.realpath(source.root))
        # By its name, or, where a link leads to one of the two, by where it really is.
        # Images outside the root have their whole paths.
        for below in dict.fromkeys((os.path.relpath(path, source.root), real, path)):
            for segment in self.collection.segments:
                at = pc.index(segment.rows["path"], images.encode_path(below)).as_py()
                if at >= 0:
                    return segment, at, segment.rows.slice(at, 1).to_pylist()[0]
        return None

    def _are_vectors(self, image: Any) -> bool:
        """Tell embeddings (n, width) from a grey picture of that width, whose floats are in 0..1.

        Half of their rows have length 1, or as a picture they would be none, or black.
        """
        if not (isinstance(image, np.ndarray) and image.ndim == 2 and image.dtype.kind == "f"):
            return False
        if image.shape[1] != self.collection.about_model["width"]:
            return False
        unit = np.isclose(np.linalg.norm(image.astype(np.float64), axis=1), 1, atol=1e-3)
        is_picture = image.size > 0 and image.min() >= 0 and _DARKEST <= image.max() <= 1
        return bool(2 * np.count_nonzero(unit) >= len(unit)) or not is_picture

    def _check_width(self, vector: npt.NDArray[Any]) -> None:
        width = self.collection.about_model["width"]
        if vector.shape != (width,):
            raise LookalikeError(
                f"a vector of {vector.size} numbers, but this index has {width}: "
                "embed the query with the index's own model (index.embedder)"
            )

    def _checked(self, vector: npt.NDArray[Any]) -> Vectors:
        self._check_width(vector)
        if vector.dtype.kind not in "fiu":
            raise LookalikeError(f"a vector of {vector.dtype}: give numbers")
        if not np.isfinite(vector).all():
            raise LookalikeError("a vector with numbers that are not finite: embed the query again")
        unit = embedding.unit_rows(vector[None])  # an image and its vector find the same
        if not embedding.have_direction(unit)[0]:
            raise LookalikeError(
                "a vector of zeros, or too near zero, has no direction: embed the query again"
            )
        return cast("Vectors", unit[0])


def _as_array(image: Any) -> Any:
    """Return numbers that came as a list or as a tensor without channels as an array."""
    if hasattr(image, "detach") and image.ndim < 3:
        return image.detach().cpu().numpy()
    if isinstance(image, list | tuple) and image and all(isinstance(one, Real) for one in image):
        return np.array(image, np.float64)
    return image


def _is_there(source: images.Source, path: str) -> bool:
    with contextlib.suppress(ImageError):
        images.read(source, path)
        return True
    return False


def _listed(one: str | Sequence[str] | None) -> list[str] | None:
    return [one] if isinstance(one, str) else None if one is None else list(one)


def create_index(
    photos: Name | Sequence[Name],
    out: Name,
    *,
    overwrite: bool = False,
    **options: Any,
) -> Index:
    """Embed all images of a folder, glob, list, URI or table, and keep them as an index.

    Where `out` is an index of the same images, it is gone on with, and only what is new or changed
    is embedded.
    `options` are the fields of `lookalike.build.Options`: `labels` names a CSV file, `model`,
    `weights` and `precision` a model, `like` an index whose model is taken. Images that cannot be
    read are kept with the reason; `report` of what is returned has the counts, those of files that
    are no images too. Raises `LookalikeError` where nothing can be indexed: `out` is as it was.
    """
    from lookalike.build import Options, build_collection

    collection, report = build_collection(photos, local_path(out), Options(**options), overwrite)
    made = Index(collection)
    made.report = report
    return made


def open_index(path: Name, version: int | None = None, *, look: bool = True) -> Index:
    """Open an index, at its newest version or an older one.

    Raises `LookalikeError` if there is none, or, unless `look` is false, if it lacks a data file.
    """
    return Index(EmbeddingTable.open(path, version, look=look))
