"""The face of an index: all that can be asked of it, and what happens when its files move."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyspark.ml.feature import BucketedRandomProjectionLSHModel, MinHashLSHModel

import lookalike
from helpers.segments import in_pieces, unit
from lookalike import Index, LookalikeError, SearchResult, images, lsh
from lookalike.errors import ImageError
from lookalike.images.synthetic import DrawnCollection
from lookalike.ingest import Options, build_index
from lookalike.lsh.search import load_hasher, write_hashes
from lookalike.search.filters import Filter
from lookalike.search.query import make_query, random_query
from lookalike.search.results import SearchResults, draw_sample
from lookalike.search.rows import Rows
from lookalike.spark import session
from lookalike.system.arrays import Vectors


def stored_vectors(index: Index) -> tuple[list[str], Vectors]:
    """Return the paths of all images, and their vectors."""
    segments = index._table.segments
    paths = [str(path) for one in segments for path in one.rows["path"].to_pylist()]
    return paths, np.concatenate([one.vectors for one in segments])


def nearest_by_hand(index: Index, vector: Vectors, k: int) -> list[tuple[str, float]]:
    """Return the paths of the k nearest images with their distances, by NumPy."""
    paths, vectors = stored_vectors(index)
    distances = np.linalg.norm(vectors.astype(float) - vector, axis=1)
    return [(paths[at], float(distances[at])) for at in np.argsort(distances, kind="stable")[:k]]


def assert_are(hits: SearchResult, wanted: list[tuple[str, float]]) -> None:
    """Check the neighbours one by one, with their ranks."""
    assert [hit.path for hit in hits] == [path for path, _ in wanted]
    assert [hit.rank for hit in hits] == list(range(1, len(wanted) + 1))
    distances = [distance for _, distance in wanted]
    np.testing.assert_allclose([hit.distance for hit in hits], distances, atol=1e-5)


@pytest.fixture(scope="module")
def photos(drawn: DrawnCollection) -> list[Path]:
    return sorted(drawn.photos.rglob("*.jpg"))


@pytest.fixture(scope="module")
def new(drawn: DrawnCollection) -> Path:
    return min(drawn.new.rglob("*.jpg"))


# Images that are drawn to be looked at.


def test_images_of_an_index_show_themselves(index: Index, photos: list[Path]) -> None:
    shown = index.sample(3, seed=5)
    assert len(shown) == 3 == len({query.id for query in shown})
    assert shown._repr_html_().count("data:image/jpeg") == 3
    assert shown.picture().width > 3 * 228
    assert all(os.path.basename(query.path or "") in repr(shown) for query in shown)
    assert [query.id for query in index.sample(3, 5)] == [query.id for query in shown]
    assert {query.id for query in index.sample(3, 6)} != {query.id for query in shown}
    assert len(index.sample(1000)) == 96
    # Each is a query: its own row is left out, its own picture is at hand.
    hits = index.search(shown[0], 4)
    assert_are(hits, nearest_by_hand(index, shown[0].vector, 5)[1:])
    assert hits.query.picture() is not None


def test_images_with_a_label_are_shown(index: Index) -> None:
    label = index.sample(1, 0)[0].label
    assert label is not None
    assert {query.label for query in index.sample(5, label=label)} == {label}
    with pytest.raises(LookalikeError, match="no image has the label 'a spaceship'"):
        index.sample(label="a spaceship")
    with pytest.raises(LookalikeError, match="at least 1"):
        index.sample(0)


def test_an_image_that_is_gone_or_elsewhere_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "secret.png")
    rows = Rows(in_pieces(unit((2, 8), 0), [2]))
    paths = pa.array(["../secret.png", "gone.png"])
    table = pa.table({"path": paths, "label": pa.nulls(2, pa.string())})
    rows.segments[0].__dict__["rows"] = table
    shown = draw_sample(rows, images.locate(tmp_path / "photos"), 2, 0, Filter())
    assert [query.picture() for query in shown] == [None, None]
    assert shown._repr_html_().count("file is gone") == 4  # said, and described


def test_several_answers_show_themselves(index: Index, photos: list[Path]) -> None:
    answers = index.search([photos[0], Image.open(photos[1])], k=2)
    assert isinstance(answers, list) and len(answers) == 2
    assert answers._repr_html_().count("data:image/jpeg") == 6  # type: ignore[attr-defined]
    assert repr(answers[0]).startswith(
        f"SearchResult(2 neighbours of {photos[0].name}, the nearest 0."
    )
    many = SearchResults(answers[:1] * 50)
    assert many._repr_html_().count("data:image/jpeg") == 20 * 3
    assert "and 30 more answers" in many._repr_html_()


def copy_of(index: Index, folder: Path) -> Index:
    """Copy an index; its photos stay where they are."""
    shutil.copytree(index.path, folder)
    return lookalike.open_index(folder)


# Search.


def test_a_photo_inside_leaves_itself_out(index: Index, photos: list[Path]) -> None:
    hits = index.search(photos[3])
    paths, vectors = stored_vectors(index)
    own = images.encode_path(os.path.relpath(photos[3], index._table.source.root))
    around = nearest_by_hand(index, vectors[paths.index(own)], 6)
    assert around[0][0] == own
    assert_are(hits, around[1:])
    assert (hits.engine, hits.candidates) == ("exact", None)
    assert hits.query.label is not None
    assert hits.query.path == str(photos[3])
    assert hits.took_ms > 0


def test_a_photo_outside(index: Index, new: Path) -> None:
    hits = index.search(str(new), k=7)
    assert_are(hits, nearest_by_hand(index, index.embedder(new), 7))
    assert (hits.query.label, hits.query.id) == (None, None)


@pytest.mark.parametrize(
    "given",
    [
        Image.open,
        lambda path: np.asarray(Image.open(path)),
        Path.read_bytes,
        lambda path: Image.open(path).convert("CMYK"),
    ],
    ids=["PIL", "array", "bytes", "CMYK"],
)
def test_pictures_without_a_file(
    index: Index, photos: list[Path], given: Callable[[Path], Any]
) -> None:
    hits = index.search(given(photos[3]))
    assert hits[0].path == photos[3].name
    assert hits[0].distance < 0.2
    assert hits.query.path is None
    assert hits._repr_html_().count("<img") == 6, "the query is seen, too"


def test_a_vector_of_any_length(index: Index, new: Path) -> None:
    vector = index.embedder(new)
    wanted = nearest_by_hand(index, vector, 5)
    assert_are(index.search(vector), wanted)
    assert_are(index.search((3 * vector).astype(float)), wanted)


def test_a_list_gets_a_list(index: Index, photos: list[Path], new: Path) -> None:
    hits = index.search([photos[0], str(new), index.embedder(new)], k=2)
    assert [type(one) for one in hits] == [SearchResult] * 3
    for one, alone in zip(hits, (photos[0], new, new), strict=True):
        assert one.neighbors == index.search(alone, k=2).neighbors
    assert index.search([]) == []


def test_hits_are_a_sequence_and_a_table(index: Index, photos: list[Path]) -> None:
    hits = index.search(photos[3])
    frame = hits.to_pandas()
    assert list(frame.columns) == ["rank", "id", "path", "label", "distance", "band"]
    assert frame["rank"].tolist() == [1, 2, 3, 4, 5]
    assert frame["id"].tolist() == [hit.id for hit in hits]
    assert frame["distance"].tolist() == [hit.distance for hit in hits]
    assert frame["label"].tolist() == [hit.label for hit in hits]
    assert all(Path(path).is_file() for path in frame["path"])
    assert (len(hits), hits[0], list(hits[1:])) == (5, hits.neighbors[0], list(hits)[1:])
    assert list(index.search(photos[3], k=3).to_pandas()["rank"]) == [1, 2, 3]


def test_hits_show_themselves(index: Index, photos: list[Path]) -> None:
    hits = index.search(photos[3])
    html = hits._repr_html_()
    assert html.count("<img") == 6
    assert "file is gone" not in html
    assert all(f'title="{hit.path}"' in html for hit in hits)
    assert hits.picture().width > 1600
    assert hits.html("some note").startswith("<!DOCTYPE html>")
    assert "some note" in hits.html("some note")


@pytest.mark.parametrize("k", [0, -1])
@pytest.mark.parametrize("engine", ["exact", "spark-lsh"])
def test_no_neighbors_cannot_be_asked_for(index: Index, new: Path, k: int, engine: Any) -> None:
    with pytest.raises(LookalikeError, match=f"k is {k}: give at least 1"):
        index.search(new, k=k, engine=engine)


def test_more_neighbors_than_there_are(index: Index, photos: list[Path], new: Path) -> None:
    own = photos[3].name
    inside, outside = index.search(photos[3], k=1000), index.search(new, k=1000)
    assert sorted(hit.path for hit in outside) == [path.name for path in photos]
    assert sorted(hit.path for hit in inside) == [path.name for path in photos if path.name != own]
    hashed = index.search(photos[3], k=1000, engine="spark-lsh")
    assert own not in {hit.path for hit in hashed}
    assert 5 <= len({hit.id for hit in hashed}) == len(hashed) < len(photos)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.ones(3, np.float32), "3 .*512"),
        (np.ones(513, np.float32), "513 .*512"),
        (np.full(512, np.nan, np.float32), "not finite"),
        (np.r_[np.ones(511), np.inf], "not finite"),
    ],
    ids=["short", "long", "nan", "inf"],
)
def test_a_vector_that_does_not_fit_is_refused(index: Index, vector: Any, message: str) -> None:
    with pytest.raises(LookalikeError, match=message):
        index.search(vector)


def test_what_is_no_picture_is_refused(index: Index, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    for given in (tmp_path / "text.jpg", tmp_path / "nowhere.jpg", tmp_path, b"no picture"):
        with pytest.raises(ImageError):
            index.search(given)
    with pytest.raises(LookalikeError, match="unknown engine 'fast'"):
        index.search(np.ones(512, np.float32), engine="fast")  # type: ignore[call-overload]


@pytest.mark.parametrize("at", [5, 20, 41])
def test_a_photo_saved_anew_finds_the_original(
    index: Index, photos: list[Path], tmp_path: Path, at: int
) -> None:
    with Image.open(photos[at]) as photo:
        half = photo.resize((photo.width * 2 // 3, photo.height * 2 // 3))
    half.save(tmp_path / "again.jpg", quality=60)
    assert index.search(tmp_path / "again.jpg")[0].path == photos[at].name


def test_equal_distances_are_in_the_order_of_ids(photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in "cabd":
        shutil.copy(photos[0], tmp_path / "photos" / f"{name}.jpg")
    twins = lookalike.create_index(tmp_path / "photos", tmp_path / "x.index")
    hits = twins.search(tmp_path / "photos" / "c.jpg")
    assert [hit.path for hit in hits] == ["a.jpg", "b.jpg", "d.jpg"]
    assert [hit.distance for hit in hits] == [0, 0, 0]


# Hashing.


def test_hashing_finds_what_exact_search_finds(index: Index, photos: list[Path]) -> None:
    some: list[Any] = list(photos[::12])
    agreed = []
    for exact, hashed in zip(
        index.search(some), index.search(some, engine="spark-lsh"), strict=True
    ):
        assert hashed.engine == "spark-lsh"
        assert [hit.rank for hit in hashed] == list(range(1, len(hashed) + 1))
        assert exact.query.id not in {hit.id for hit in hashed}
        known = {hit.id: hit for hit in index.search(exact.query, len(index))}
        for hit in hashed:
            assert (hit.path, hit.label) == (known[hit.id].path, known[hit.id].label)
            assert hit.distance == pytest.approx(known[hit.id].distance, abs=1e-4)
        agreed.append(len({hit.id for hit in exact} & {hit.id for hit in hashed}))
    assert np.mean(agreed) >= 4


def test_explanations_name_the_tables(index: Index, photos: list[Path]) -> None:
    hits = index.search(photos[3], engine="spark-lsh", explain=True)
    assert hits.candidates is not None
    assert len(hits) <= hits.candidates <= len(index)
    tables = set(range(1, load_hasher(index.path).parameters.tables + 1))
    assert all(hit.tables and set(hit.tables) <= tables for hit in hits)
    told = hits.to_dict()
    assert told["candidates"] == hits.candidates
    assert [tuple(hit["tables"]) for hit in told["neighbors"]] == [hit.tables for hit in hits]
    assert all(hit.tables is None for hit in index.search(photos[3], engine="spark-lsh"))
    with pytest.raises(LookalikeError, match='set `engine="spark-lsh"`'):
        index.search(photos[3], explain=True)


def test_hashes_are_written_for_spark(index: Index, tmp_path: Path) -> None:
    out = tmp_path / "hashes"
    frame = write_hashes(index.path, out)
    assert frame.columns == ["id", "path", "label", "hashes"]
    rows = {row["id"]: row for row in session().read.parquet(str(out / "hashes")).collect()}
    assert len(rows) == frame.count() == len(index) == pq.read_table(out / "hashes").num_rows
    model = BucketedRandomProjectionLSHModel.load(str(out / "model"))
    again = model.transform(lsh.with_vectors(index.to_spark()))
    for row in again.collect():
        assert rows[row["id"]]["hashes"] == [bucket[0] for bucket in row["hashes"]]
        assert (rows[row["id"]]["path"], rows[row["id"]]["label"]) == (row["path"], row["label"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hashes"]


def test_minhashes_are_written_for_spark(index: Index, tmp_path: Path) -> None:
    frame = write_hashes(index.path, tmp_path / "sets", "minhash")
    model = MinHashLSHModel.load(str(tmp_path / "sets" / "model"))
    sets = lsh.with_sets(lsh.with_vectors(index.to_spark()))
    again = {row["id"]: row["hashes"] for row in model.transform(sets).collect()}
    rows = frame.collect()
    assert len(rows) == len(again) == len(index)
    for row in rows:
        assert row["hashes"] == [bucket[0] for bucket in again[row["id"]]]
        assert len(row["hashes"]) == 8


def test_hashes_replace_nothing_but_hashes(index: Index, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "precious.txt").write_text("precious")
    with pytest.raises(LookalikeError):
        write_hashes(index.path, tmp_path / "photos")
    assert (tmp_path / "photos" / "precious.txt").read_text() == "precious"
    with pytest.raises(LookalikeError, match="unknown family 'simhash': choose"):
        write_hashes(index.path, tmp_path / "x", "simhash")  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == ["photos"]


# The index itself.


def test_random_queries_repeat_with_their_seed(index: Index) -> None:
    drawn = [random_query(index._table, seed) for seed in range(8)]
    again = random_query(index._table, 5)
    assert (again.id, again.path, again.label) == (drawn[5].id, drawn[5].path, drawn[5].label)
    assert len({query.id for query in drawn}) > 3
    paths, vectors = stored_vectors(index)
    for query in drawn:
        assert query.path is not None
        assert query.label is not None
        stored = vectors[paths.index(Path(query.path).name)]
        np.testing.assert_allclose(query.vector, stored, atol=1e-4)
    assert drawn[5].id not in {hit.id for hit in index.search(drawn[5], len(index))}
    assert random_query(index._table) is not None


def test_info_says_what_is_there(index: Index, drawn: DrawnCollection) -> None:
    recall = load_hasher(index.path).parameters.measured_recall
    info = index.info()
    assert (info["images"], info["skipped"], info["version"]) == (96, 0, 0)
    assert info["root"] == str(drawn.photos)
    known = index._searcher.known_recall()  # None, unless another test has asked for it
    assert info["recall"] == {"exact": 1.0, "approximate": known, "spark-lsh": recall}
    assert info["bytes"] == sum(path.stat().st_size for path in index._table.files()) > 0
    assert info["segments"] == len(index._table.files()) > 0
    model = {key: info["model"][key] for key in ("backbone", "weights", "precision", "width")}
    assert model == {
        "backbone": "efficientnet-lite0",
        "weights": "general",
        "precision": "f32",
        "width": 512,
    }
    assert repr(index) == f"Index({str(index.path)!r}, 96 images, efficientnet-lite0)"
    assert index.to_spark().count() == len(index) == 96


def test_a_moved_index_answers_as_before(index: Index, new: Path, tmp_path: Path) -> None:
    first = copy_of(index, tmp_path / "first.index")
    wanted = first.search(new).neighbors
    first.path.rename(tmp_path / "moved.index")
    moved = lookalike.open_index(tmp_path / "moved.index")
    assert moved.search(new).neighbors == wanted
    assert moved.to_spark().count() == len(moved) == 96
    assert "file is gone" not in moved.search(new).html()


def test_an_index_without_its_model_answers_what_needs_none(
    index: Index, photos: list[Path], new: Path, tmp_path: Path
) -> None:
    copy = copy_of(index, tmp_path / "x.index")
    shutil.rmtree(copy.path / "_model")
    assert copy.search(photos[3]).neighbors == index.search(photos[3]).neighbors
    assert len(copy.search(np.ones(512, np.float32))) == 5
    assert copy.info()["images"] == 96
    with pytest.raises(LookalikeError, match="model"):
        copy.search(new)
    with pytest.raises(LookalikeError, match="model"):
        random_query(copy._table, 0)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: (path / "_lookalike.json").write_text("{"), "damaged"),
        (lambda path: (path / "_lookalike.json").unlink(), "damaged"),
        (lambda path: [one.unlink() for one in path.glob("*lookalike.json")], "not an index"),
        (lambda path: shutil.rmtree(path / "_delta_log"), "damaged"),
        (lambda path: [log.write_text("?") for log in (path / "_delta_log").iterdir()], "damaged"),
        (lambda path: shutil.rmtree(path), "does not exist"),
    ],
    ids=["about", "no about", "neither name", "no log", "log", "nothing"],
)
def test_a_damaged_index_is_told_in_a_line(
    index: Index, tmp_path: Path, harm: Callable[[Path], Any], message: str
) -> None:
    copy = copy_of(index, tmp_path / "x.index")
    harm(copy.path)
    with pytest.raises(LookalikeError, match=message) as error:
        lookalike.open_index(copy.path)
    assert "\n" not in str(error.value)


def test_a_missing_data_file_is_told_in_a_line(
    index: Index, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copy_of(index, tmp_path / "x.index")
    for file in copy._table.files():
        file.unlink()
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "empty cache"))
    with pytest.raises(LookalikeError, match=r"data file .* is missing"):
        lookalike.open_index(copy.path).search(np.ones(512, np.float32))


def test_photos_change_after_they_were_indexed(
    photos: list[Path], new: Path, drawn: DrawnCollection, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in photos[:6]:
        shutil.copy(photo, folder)
    index = Index(build_index(folder, tmp_path / "x.index", Options(labels=drawn.labels))[0])
    changed, gone = folder / photos[0].name, folder / photos[1].name
    before = make_query(index._table, changed)
    shutil.copy(new, changed)
    after = make_query(index._table, changed)
    np.testing.assert_allclose(after.vector, index.embedder(new), atol=1e-6)
    assert not np.allclose(after.vector, before.vector, atol=1e-2)
    assert after.id == before.id
    assert changed.name not in {hit.path for hit in index.search(changed)}

    gone.unlink()
    hits = index.search(changed, k=5)
    assert gone.name in {hit.path for hit in hits}
    assert hits.html().count("file is gone") >= 1
    with pytest.raises(ImageError):
        index.search(gone)


def test_lookalike_index_takes_options_and_says_no_to_others(
    photos: list[Path], drawn: DrawnCollection, tmp_path: Path
) -> None:
    given = [str(photo) for photo in photos[:3]]
    made = lookalike.create_index(given, str(tmp_path / "x.index"), labels=drawn.labels)
    assert len(made) == 3
    assert all(hit.label for hit in made.search(given[0]))
    assert lookalike.create_index(given, tmp_path / "x.index")._table.version == 0
    (tmp_path / "others").mkdir()
    shutil.copy(given[0], tmp_path / "others")
    with pytest.raises(LookalikeError, match="already exists, made of"):
        lookalike.create_index(tmp_path / "others", tmp_path / "x.index")
    with pytest.raises(TypeError):
        lookalike.create_index(given, tmp_path / "y.index", colour="red")  # type: ignore[call-arg]
    assert len(lookalike.create_index(given[:2], tmp_path / "x.index", overwrite=True)) == 2
