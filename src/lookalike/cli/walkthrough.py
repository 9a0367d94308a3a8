"""The twelve steps of the reference workflow, one after another, each named as it goes."""

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from lookalike import images, lsh
from lookalike.errors import ImageError, LookalikeError
from lookalike.images.synthetic import draw_collection
from lookalike.index import Index
from lookalike.ingest import Options, build_index
from lookalike.ingest.export import export_csv
from lookalike.lsh import search
from lookalike.models.embedder import ImageEmbedder
from lookalike.models.weights import AUTO
from lookalike.search.query import random_query
from lookalike.search.results import Query, SearchResult
from lookalike.spark import session
from lookalike.system.extras import require
from lookalike.system.files import delete_folder
from lookalike.system.paths import Name, local_path

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What the demo left behind."""

    neighbors: SearchResult
    images: int
    picture: Path
    page: Path
    index: Path
    csv: Path


def run(
    photos: Name | None,
    labels: Name | None,
    out: Name,
    say: Say,
    *,
    seed: int | None = None,
    drawn: int = 640,
    options: Options | None = None,
) -> Outcome:
    """Run all twelve steps on photos, or without any on cars that it draws, into the folder `out`.

    `say` is given a line for each step. What an earlier run left in `out` is replaced.
    """
    require("the demo", "torch", "pyspark")
    lsh.check_hashing()
    options = options or Options()
    if options.model == options.weights == AUTO:
        options = replace(options, model="resnet18")
    out = local_path(out)
    _claim(out)
    new: Path | None = None
    if photos is None:
        started = time.perf_counter()
        delete_folder(out / "photos")
        collection = draw_collection(out / "photos", images=drawn)
        photos, labels, new = collection.photos, collection.labels, collection.new
        say(f"{drawn} cars drawn into {photos} in {time.perf_counter() - started:.0f} s")
    options = replace(options, labels=labels)

    source = images.locate(photos)
    first = _first_readable(source)
    photo = images.decode(images.read(source, first))
    tensor = images.transform()(photo)
    size = f"{photo.width} x {photo.height}"
    say(f" 1  {first}, {size}, resized and normalised: a tensor of {tuple(tensor.shape)}")

    embed = ImageEmbedder(options.model, options.weights)  # int8 needs more than one picture
    vector = embed(photo)
    start = ", ".join(f"{value:.3f}" for value in vector[:3])
    say(f" 2  {embed.model.backbone} without its last layer: {len(vector)} numbers, {start}, ...")

    index_path = out / "cars.index"
    stored, report = build_index(photos, index_path, options, overwrite=True)
    index = Index(stored)
    rate = report.images / report.seconds
    say(f" 3  {report.images:,} images embedded, {rate:.0f} a second; {report.skipped} skipped")
    if report.not_looked_at:
        say(f"    not looked at: {images.describe_ignored(report.not_looked_at)}")
    csv_path = out / "cars.csv"
    export_csv(stored, csv_path)
    say(f" 4  stored in {csv_path}, {csv_path.stat().st_size / 1e6:.0f} MB")

    spark = session()
    table = lsh.read_embeddings(spark, csv_path, embed.width)
    say(f" 5  read as a Spark DataFrame of {len(table.columns)} columns")
    vectors = lsh.assemble(table, embed.width)
    say(f" 6  VectorAssembler: {', '.join(vectors.columns)}")
    hasher = lsh.fit(vectors)
    chosen = hasher.parameters
    say(
        f" 7  BucketedRandomProjectionLSH: bucketLength {chosen.bucket_length:.4f}, "
        f"{chosen.tables} tables, chosen from the distances between neighbours"
    )
    row = hasher.transform(vectors).select("image", "hashes").first()
    assert row is not None
    buckets = ", ".join(f"{bucket[0]:.0f}" for bucket in row["hashes"])
    say(f" 8  hashed: {row['image']} is in the buckets {buckets}")

    # With the index's own model: its precision is chosen when its images are at hand.
    query = _new_query(new, index.embedder, seed) if new is not None else random_query(stored, seed)
    assert query.path is not None
    say(f" 9  a random picture: {query.path}{'' if new is None else ', new to the index'}")
    say(f"10  embedded from its pixels: {len(query.vector)} numbers")
    own = os.path.relpath(images.decode_path(query.path), source.root)
    others = lsh.numbered(vectors, without=None if new else images.encode_path(own))
    started = time.perf_counter()
    found = search.hashed(others, hasher, query.vector, 5)
    took = (time.perf_counter() - started) * 1000
    neighbors = SearchResult(
        query, tuple(found), "spark-lsh", took, stored.source, find_bands=lambda: index.bands
    )
    exact = index.search(query, 5)
    agreed = len({n.path for n in exact} & {n.path for n in neighbors})
    say(
        f"11  its five neighbours by approxNearestNeighbors, {took:.0f} ms; exact search, "
        f"{exact.took_ms:.1f} ms, has {agreed} of these {len(neighbors)}"
    )

    picture, page = out / "neighbors.png", out / "neighbors.html"
    neighbors.picture().save(picture)
    note = f"approxNearestNeighbors over {len(index):,} images"
    page.write_text(neighbors.html(note), encoding="utf-8")
    say(f"12  shown as pictures: {picture} and {page}")
    return Outcome(neighbors, len(index), picture, page, index_path, csv_path)


def _claim(out: Path) -> None:
    """Refuse a folder that holds anything but what an earlier demo left there."""
    marker = out / ".lookalike-demo"
    if out.exists() and not marker.exists() and any(out.iterdir()):
        raise LookalikeError(f"{out} holds other files: set `out` to a new or empty folder")
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _first_readable(source: images.Source) -> str:
    for file in images.walk(source):
        try:
            images.decode(images.read(source, file.path))
            return file.path
        except ImageError:
            continue
    raise images.no_images_error(source)


def _new_query(folder: Path, embed: ImageEmbedder, seed: int | None) -> Query:
    path = random.Random(seed).choice(sorted(folder.glob("*.jpg")))
    return Query(embed(path), images.encode_path(str(path)))
