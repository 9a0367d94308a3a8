"""Pairs, tight groups, and what is in a collection twice."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist
from typer.testing import CliRunner

import lookalike
from helpers.photos import UNSEEN, needs_photos
from helpers.segments import collection_of
from lookalike import Index, LookalikeError, images
from lookalike.analysis import pairs
from lookalike.analysis.alignment import align, thumbnail
from lookalike.analysis.overview import SECTIONS, draw_by_kind
from lookalike.analysis.representatives import find_stars
from lookalike.analysis.result import AnalysisResult
from lookalike.cli import app
from lookalike.errors import ImageError
from lookalike.images import decode_pixels
from lookalike.images.perturbations import CHANGES, variant
from lookalike.images.synthetic import DrawnCollection
from lookalike.models.embedder import normalize
from lookalike.search.rows import Rows, draw
from lookalike.system.defaults import MIN_AGREEMENT


def run(*arguments: object) -> str:
    """Run a command that ends well; return what it said on stdout."""
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


# Stars.


def greedy(count: int, edges: dict[tuple[int, int], float]) -> list[int]:
    """The same, one node after the other."""
    near: list[dict[int, float]] = [{} for _ in range(count)]
    for (one, other), distance in edges.items():
        near[max(one, other)][min(one, other)] = distance
    of: list[int] = []
    for node in range(count):
        before = [(length, rep) for rep, length in near[node].items() if of[rep] == rep]
        of.append(min(before)[1] if before else node)
    return of


def test_stars_are_those_of_the_greedy_algorithm() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = int(rng.integers(1, 40))
        ends = rng.integers(0, count, (int(rng.integers(0, 80)), 2))
        edges = {(min(a, b), max(a, b)): float(rng.integers(5)) for a, b in ends.tolist() if a != b}
        one, other = np.array(list(edges), np.int64).reshape(-1, 2).T
        flipped = rng.random(len(one)) < 0.5
        found = find_stars(
            count,
            np.where(flipped, one, other),
            np.where(flipped, other, one),
            np.array(list(edges.values()), np.float32),
        )
        assert found.tolist() == greedy(count, edges)


def test_a_chain_is_not_one_star() -> None:
    one = np.arange(999)
    found = find_stars(1000, one, one + 1, np.ones(999, np.float32))
    assert np.bincount(found).max() == 2


# Pixels.


def agreement(one: Any, other: Any) -> float:
    """How well two thumbnails agree."""
    laid = align(one, other)
    assert laid is not None
    return laid.agreement


@pytest.mark.parametrize("change", CHANGES)
def test_pixels_of_a_copy_agree_and_those_of_another_car_do_not(
    change: str, drawn: DrawnCollection
) -> None:
    photos = sorted(drawn.photos.rglob("*.jpg"))[:6]
    seen = [thumbnail(decode_pixels(photo.read_bytes())[0]) for photo in photos]
    for photo, own, other in zip(photos, seen, seen[1:] + seen[:1], strict=True):
        copy = thumbnail(decode_pixels(variant(Image.open(photo), change))[0])
        assert agreement(own, copy) >= MIN_AGREEMENT
        assert agreement(other, copy) < MIN_AGREEMENT


def test_a_picture_in_other_colours_is_another_picture(drawn: DrawnCollection) -> None:
    picture = Image.open(min(drawn.photos.rglob("*.jpg"))).convert("RGB")
    swapped = Image.merge("RGB", picture.split()[::-1])
    one, other = (thumbnail(np.asarray(p.resize((224, 224)))) for p in (picture, swapped))
    assert agreement(one, other) < MIN_AGREEMENT <= agreement(one, one)


@pytest.mark.parametrize("span", [0, 1, 4])
def test_what_is_blank_agrees_with_nothing(span: int) -> None:
    """Not even with itself: whether pixels are equal others say."""
    slope = np.linspace(200 - span, 200, 64).round().astype(np.uint8)
    blank = np.stack([np.tile(slope, (64, 1))] * 3, axis=2)
    colour = np.tile(np.array([90, 120, 200], np.uint8), (64, 64, 1))
    assert align(blank, blank) is align(blank, colour) is align(colour, colour) is None


# The join.


def true_pairs(vectors: Any, within: float) -> set[tuple[int, int]]:
    """All pairs of rows within a distance."""
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    one, other = np.nonzero(np.triu(distances <= within, 1))
    return set(zip(one.tolist(), other.tolist(), strict=True))


@pytest.fixture(scope="module")
def vectors() -> Any:
    """Heaps of vectors around 40 centres."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, 32))
    heaps = centres[rng.integers(40, size=400)] + 0.1 * rng.standard_normal((400, 32))
    return normalize(heaps.astype(np.float32))


@pytest.mark.parametrize(
    "how", [{"spark": False}, {"spark": True}, {"engine": "approximate"}], ids=str
)
def test_a_join_finds_each_pair_once(how: Any, vectors: Any, tmp_path: Path) -> None:
    collection = collection_of(vectors, tmp_path / "index", [150, 250])
    (tmp_path / "out").mkdir()
    figures = pairs.join(collection, tmp_path / "out", 0.15, 60, recall=0.999, **how)
    table = pd.read_parquet(tmp_path / "out" / "pairs")
    found = list(zip(table.a_id, table.b_id, strict=True))
    true = true_pairs(vectors, 0.15)
    assert len(found) == len(set(found)) == figures["pairs"]
    assert set(found) <= true
    assert len(found) >= (0.98 if "engine" in how else 1) * len(true) > 0
    assert figures["cut"] == 0 and figures["recall"] > 0.98
    assert table.distance.is_monotonic_increasing
    expected = np.linalg.norm(vectors[table.a_id] - vectors[table.b_id], axis=1)
    assert np.allclose(table.distance, expected, atol=1e-5)


def test_what_is_cut_is_counted(vectors: Any, tmp_path: Path) -> None:
    collection = collection_of(vectors, tmp_path / "index", [150, 250])
    (tmp_path / "out").mkdir()
    figures = pairs.join(collection, tmp_path / "out", 2, 3, spark=False)
    assert figures["cut"] == 400
    assert 400 * 3 / 2 <= figures["pairs"] <= 400 * 3


def test_equal_vectors_fill_nothing(tmp_path: Path) -> None:
    equal = np.tile(normalize(np.ones((1, 32), np.float32)), (3000, 1))
    collection = collection_of(equal, tmp_path / "index", [3000])
    for spark in (False, True):
        out = tmp_path / str(spark)
        out.mkdir()
        figures = pairs.join(collection, out, 0.1, 5, spark=spark)
        assert figures["cut"] == 3000
        assert 3000 <= figures["pairs"] <= 5 * 3000


def test_two_collections_are_joined(vectors: Any, tmp_path: Path) -> None:
    one = collection_of(vectors, tmp_path / "one", [400])
    other = collection_of(vectors[::10], tmp_path / "other", [40])
    for spark in (False, True):
        out = tmp_path / str(spark)
        out.mkdir()
        pairs.join(one, out, 1e-3, 5, other, spark=spark)
        table = pd.read_parquet(out / "pairs").sort_values("b_id")
        assert table.a_id.tolist() == list(range(0, 400, 10))
        assert table.b_id.tolist() == list(range(40))


def test_spark_ml_joins_where_it_fits_and_is_refused_where_not(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows(index._table.segments)
    apart = np.sort(pdist(rows.vectors(np.arange(len(rows)))))
    within = float(apart[10:12].mean())  # eleven pairs
    ours = index.pairs(tmp_path / "ours", within=within, spark=False, shown=0).to_pandas()
    stock = index.pairs(tmp_path / "stock", within=within, engine="spark-lsh", shown=0).to_pandas()
    known = set(zip(ours.a_id, ours.b_id, strict=True))
    found = set(zip(stock.a_id, stock.b_id, strict=True))
    assert found <= known and len(found) > 0.5 * len(known)
    monkeypatch.setattr("lookalike.lsh.join._MAX_DISK_SHARE", 1e-9)
    with pytest.raises(LookalikeError, match=r"compare [\d,]+ pairs .* [\d,]+ rows .* GB"):
        index.pairs(tmp_path / "refused", within=within, engine="spark-lsh")
    assert not (tmp_path / "refused").exists()


# Duplicates.


def unlike(photos: Path, count: int) -> list[Path]:
    """Drawn cars that do not happen to be nearly the same."""
    chosen: list[Path] = []
    seen: list[Any] = []
    for photo in sorted(photos.rglob("*.jpg")):
        own = thumbnail(decode_pixels(photo.read_bytes())[0])
        if len(chosen) < count and all(agreement(own, other) < 0.9 for other in seen):
            chosen.append(photo)
            seen.append(own)
    return chosen


@pytest.fixture(scope="module")
def planted(drawn: DrawnCollection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 drawn cars, of every second one three copies, one of them to the byte."""
    folder = tmp_path_factory.mktemp("planted") / "photos"
    folder.mkdir()
    for number, photo in enumerate(unlike(drawn.photos, 24)):
        (folder / f"{number:02}.jpg").write_bytes(photo.read_bytes())
        if number % 2 == 0:
            (folder / f"{number:02}-again.jpg").write_bytes(photo.read_bytes())
            for change in list(CHANGES)[number % 8 : number % 8 + 2]:
                copy = variant(Image.open(photo), change, number)
                (folder / f"{number:02}-{change.split(' %')[0]}.jpg").write_bytes(copy)
    return folder


@pytest.fixture(scope="module")
def twice(planted: Path) -> Index:
    """An index of them."""
    return lookalike.create_index(planted, out=planted.parent / "twice.index", spark=False)


@pytest.fixture(scope="module")
def between_copies(twice: Index) -> npt.NDArray[np.float64]:
    """Distances between copies of one picture; their scale is that of the weights."""
    rows = Rows(twice._table.segments)
    cars = pa.compute.utf8_slice_codeunits(rows.paths, 0, 2).to_numpy(zero_copy_only=False)
    one, other = np.triu_indices(len(rows), 1)
    same: npt.NDArray[np.bool_] = cars[one] == cars[other]
    apart: npt.NDArray[np.float64] = pdist(rows.vectors(np.arange(len(rows))))
    return apart[same]


@pytest.fixture(scope="module")
def wide(between_copies: npt.NDArray[np.float64]) -> float:
    """A distance within which all copies are."""
    return float(between_copies.max()) * 1.1


@pytest.fixture(scope="module")
def narrow(between_copies: npt.NDArray[np.float64]) -> float:
    """A distance within which some copies are, besides those to the byte."""
    return float(np.median(between_copies))


def copy_with_root(index: Index, out: Path, root: Path) -> None:
    """Copy an index, as one of the photos in another folder."""
    shutil.copytree(index.path, out)
    about = json.loads((out / "_lookalike.json").read_text())
    about["source"]["root"] = str(root)
    (out / "_lookalike.json").write_text(json.dumps(about))


def bases(paths: Any) -> set[str]:
    """The cars that paths are copies of."""
    return {path[:2] for path in paths}


def test_groups_are_the_copies_of_one_picture(twice: Index, tmp_path: Path, wide: float) -> None:
    found = twice.duplicates(tmp_path / "out", within=wide, spark=False)
    table = found.to_pandas()
    assert found.figures["groups"] == table.group.nunique() == 12
    for _, group in table.groupby("group"):
        assert len(bases(group.path)) == 1 and len(group) == 4
        assert group.action.tolist() == ["keep", "drop", "drop", "drop"]
        assert group.kept_path.unique().tolist() == [group.path.iloc[0]]
        area = group.width * group.height
        assert area.iloc[0] == area.max()
        assert (group.distance <= wide).all() and (group.agreement >= MIN_AGREEMENT).all()
    same = table[(table.action == "drop") & table.same_bytes]
    assert len(same) == found.figures["same_bytes"]
    assert (tmp_path / "out" / "index.html").is_file()
    assert (tmp_path / "out" / "threshold.png").is_file()
    assert AnalysisResult.open(tmp_path / "out").figures == found.figures


@pytest.mark.parametrize("keep", ["first", "oldest", "sharpest"])
def test_the_rule_says_which_to_keep(keep: Any, twice: Index, tmp_path: Path, wide: float) -> None:
    out = tmp_path / "out"
    found = twice.duplicates(out, within=wide, keep=keep, spark=False, shown=0)
    table = found.to_pandas()
    with twice._table.connect(tmp_path) as sql:
        rows = sql.execute("SELECT path, modified FROM stored").fetchall()
    modified = dict(rows)
    for _, group in table.groupby("group"):
        kept = group.path.iloc[0]
        if keep == "first":
            assert kept == group.path.min()
        if keep == "oldest":
            assert modified[kept] == min(modified[path] for path in group.path)
        if keep == "sharpest":
            assert "resized" not in kept


def test_a_distance_is_suggested(twice: Index, tmp_path: Path) -> None:
    found = twice.duplicates(tmp_path / "out", spark=False, shown=0)
    assert 0.05 < found.figures["within"] < 1
    assert found.figures["copies_within"] > 0.5
    assert found.figures["groups"] == 12


def test_through_spark_it_is_the_same(twice: Index, tmp_path: Path, wide: float) -> None:
    one, other = (
        twice.duplicates(tmp_path / str(spark), within=wide, spark=spark, shown=0).to_pandas()
        for spark in (False, True)
    )
    pd.testing.assert_frame_equal(one, other)


def test_without_pixels_distances_decide(twice: Index, tmp_path: Path) -> None:
    found = twice.duplicates(tmp_path / "out", within=0, verify=False, spark=False, shown=0)
    table = found.to_pandas()
    assert all(len(bases(group.path)) == 1 for _, group in table.groupby("group"))
    assert {path for path in table.path if "again" in path} == {
        f"{number:02}-again.jpg" for number in range(0, 24, 2)
    }


def test_copies_to_the_byte_are_one_group_however_many(
    drawn: DrawnCollection, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, photo in enumerate(sorted(drawn.photos.rglob("*.jpg"))[:3]):
        for copy in range(12):
            (photos / f"{number}-{copy:02}.jpg").write_bytes(photo.read_bytes())
    index = lookalike.create_index(photos, out=tmp_path / "x.index", spark=False)
    found = index.duplicates(tmp_path / "out", within=0.1, cap=2, keep="oldest", spark=False)
    table = found.to_pandas()
    assert found.figures["cut"] == 36
    assert [len(group) for _, group in table.groupby("group")] == [12, 12, 12]
    assert table.same_bytes.all()


def test_a_chain_of_morphing_pictures_is_not_one_group(
    drawn: DrawnCollection, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    one, other = (
        Image.open(photo).convert("RGB").resize((256, 192))
        for photo in sorted(drawn.photos.rglob("*.jpg"))[:2]
    )
    for step in range(21):
        Image.blend(one, other, step / 20).save(photos / f"{step:02}.png")
    index = lookalike.create_index(photos, out=tmp_path / "x.index", spark=False)
    for verify in (True, False):
        found = index.duplicates(
            tmp_path / str(verify), within=0.3, verify=verify, spark=False, shown=0
        )
        table = found.to_pandas()
        assert table.group.nunique() > 1
        rows = index._searcher.rows
        for _, group in table.groupby("group"):
            vectors = rows.vectors(np.sort(np.searchsorted(rows.ids, group.id)))
            widest = np.linalg.norm(vectors[:, None] - vectors[None], axis=2).max()
            assert widest <= 2 * 0.3 + 1e-5


def test_an_index_without_doubles_gives_an_empty_table(index: Index, tmp_path: Path) -> None:
    found = index.duplicates(tmp_path / "out", within=0, spark=False)
    assert found.figures["groups"] == found.figures["drop"] == 0
    assert found.to_pandas().empty


def test_photos_that_are_gone_are_told(twice: Index, tmp_path: Path, wide: float) -> None:
    moved = tmp_path / "moved.index"
    copy_with_root(twice, moved, tmp_path / "nowhere")
    opened = lookalike.open_index(moved)
    with pytest.raises(LookalikeError, match="cannot be read: set `within`"):
        opened.duplicates(tmp_path / "out")
    found = opened.duplicates(tmp_path / "out", within=wide, spark=False)
    assert found.figures["unreadable_pairs"] > 0
    assert found.figures["drop"] == found.figures["same_bytes"] == 12  # those need no look


def test_what_is_in_the_way_stays(twice: Index, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("x")
    with pytest.raises(LookalikeError, match="already exists"):
        twice.duplicates(out)
    with pytest.raises(LookalikeError, match="is something else"):
        twice.duplicates(out, overwrite=True)
    with pytest.raises(LookalikeError, match="unknown rule 'best'"):
        twice.duplicates(tmp_path / "new", keep="best")  # type: ignore[arg-type]
    with pytest.raises(LookalikeError, match="would be taken for images: choose another `out`"):
        twice.duplicates(Path(twice._table.source.root) / "out")
    assert (out / "mine.txt").is_file() and not (tmp_path / "new").exists()


# The commands.


@pytest.fixture
def copied(twice: Index, planted: Path, tmp_path: Path) -> Path:
    """The photos and the index, where they may be changed."""
    shutil.copytree(planted, tmp_path / "photos")
    copy_with_root(twice, tmp_path / "x.index", tmp_path / "photos")
    return tmp_path


def test_duplicates_are_moved_aside_and_back(copied: Path, wide: float) -> None:
    photos = copied / "photos"
    before = {file.name: file.read_bytes() for file in photos.iterdir()}
    arguments = ("duplicates", copied / "x.index", "--out", copied / "out", "--within", wide)
    said = run(*arguments, "--no-spark", "--apply", "move", "--to", copied / "aside")
    assert "12 groups: 36 images to drop" in said
    assert len(list(photos.iterdir())) == 24
    synced = json.loads(run("sync", copied / "x.index", "--json"))
    assert synced["removed"] == 36
    run("undo", copied / "aside")
    assert {file.name: file.read_bytes() for file in photos.iterdir()} == before


def test_an_image_that_has_changed_is_not_set_aside(copied: Path, wide: float) -> None:
    index = lookalike.open_index(copied / "x.index")
    found = index.duplicates(copied / "out", within=wide, spark=False, shown=0)
    drop = found.to_pandas().query("action == 'drop'").path.iloc[0]
    with (copied / "photos" / drop).open("ab") as file:
        file.write(b"more")
    aside = index.set_aside(found, "move", copied / "aside")
    assert aside.done == 35 and (copied / "photos" / drop).is_file()


def test_the_commands_print_figures(twice: Index, tmp_path: Path, narrow: float) -> None:
    arguments = (twice.path, "--within", narrow, "--no-spark", "--json")
    pairs_found = json.loads(run("join", *arguments, "--out", tmp_path / "pairs"))
    assert pairs_found["pairs"] > 12 and pairs_found["recall"] == 1
    twins = json.loads(run("duplicates", *arguments, "--out", tmp_path / "twice", "--shown", 0))
    assert twins["groups"] >= 12 and twins["drop"] >= 12
    assert (tmp_path / "pairs" / "index.html").is_file()
    assert not (tmp_path / "twice" / "index.html").exists()


def test_what_was_looked_at_can_be_applied_later(copied: Path, wide: float) -> None:
    arguments = ("duplicates", copied / "x.index", "--out", copied / "out", "--within", wide)
    run(*arguments, "--no-spark", "--csv")
    table = pd.read_csv(copied / "out" / "duplicates.csv")
    assert (table.action == "drop").sum() == 36
    written = (copied / "out" / "found.json").stat().st_mtime_ns
    run(*arguments, "--apply", "move", "--to", copied / "aside")
    assert (copied / "out" / "found.json").stat().st_mtime_ns == written
    assert len(list((copied / "photos").iterdir())) == 24


def test_an_image_goes_for_none_that_cannot_be_read(
    copied: Path, wide: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = lookalike.open_index(copied / "x.index")
    found = index.duplicates(copied / "out", within=wide, spark=False, shown=0)
    table = found.to_pandas()
    kept = table.path[table.action == "keep"].iloc[0]
    os.utime(copied / "photos" / kept)  # somebody was at it

    def unreadable(*_: object) -> bytes:
        raise ImageError("unreadable: Input/output error")

    monkeypatch.setattr(images, "read", unreadable)
    aside = index.set_aside(found, "move", copied / "aside")
    assert (aside.done, aside.changed) == (33, 3)


def test_an_old_result_moves_no_image_that_has_become_another(copied: Path, wide: float) -> None:
    photos, index = copied / "photos", lookalike.open_index(copied / "x.index")
    found = index.duplicates(copied / "out", within=wide, spark=False, shown=0)
    drops = found.to_pandas().query("action == 'drop'").path.tolist()
    new = Image.effect_noise((200, 200), 90).convert("RGB")
    new.save(photos / drops[0])  # another picture by the same name, and indexed as such
    (photos / "000.jpg").write_bytes((photos / drops[0]).read_bytes())
    index = lookalike.create_index(photos, out=copied / "x.index", overwrite=True, spark=False)
    aside = index.set_aside(found, "move", copied / "aside")
    assert (aside.done, aside.changed) == (35, 1)
    assert (photos / drops[0]).is_file() and (photos / "000.jpg").is_file()


def test_a_file_that_was_only_touched_is_the_same(copied: Path, wide: float) -> None:
    index = lookalike.open_index(copied / "x.index")
    found = index.duplicates(copied / "out", within=wide, spark=False, shown=0)
    for photo in (copied / "photos").iterdir():
        photo.touch()
    assert index.set_aside(found, "move", copied / "aside").done == 36


def test_nothing_is_set_aside_where_it_would_be_replaced(copied: Path, wide: float) -> None:
    index = lookalike.open_index(copied / "x.index")
    found = index.duplicates(copied / "out", within=wide, spark=False, shown=0)
    for place in (copied / "out" / "aside", copied / "x.index" / "aside"):
        with pytest.raises(LookalikeError, match="is replaced as a whole"):
            index.set_aside(found, "move", place)
    assert len(list((copied / "photos").iterdir())) == 60


def test_broken_photos_and_empty_indexes_are_no_hindrance(
    copied: Path, wide: float, narrow: float
) -> None:
    (copied / "photos" / "broken.jpg").write_bytes(b"no picture")
    index = lookalike.open_index(copied / "x.index")
    index.sync(spark=False)
    options: dict[str, Any] = {"spark": False, "shown": 0}
    assert index.duplicates(copied / "a", within=wide, **options).figures["drop"] == 36
    assert index.pairs(copied / "b", within=narrow, **options).figures["pairs"] > 0
    assert index.clusters(copied / "c", **options).figures["images"] == 60
    index.remove("*.jpg")
    assert index.duplicates(copied / "d", **options).figures["groups"] == 0
    assert index.pairs(copied / "e", within=narrow, **options).figures["pairs"] == 0
    assert index.clusters(copied / "f", **options).figures["clusters"] == 0
    assert index.outliers(copied / "g", **options).figures["images"] == 0


def test_an_index_joined_with_itself_by_another_path_is_one_index(
    copied: Path, twice: Index, narrow: float
) -> None:
    options: dict[str, Any] = {"within": narrow, "spark": False, "shown": 0}
    alone = twice.pairs(copied / "alone", **options)
    both = twice.pairs(copied / "both", twice.path, **options)
    assert both.figures == alone.figures


def test_a_folder_named_like_a_column_changes_nothing(
    twice: Index, tmp_path: Path, wide: float
) -> None:
    (tmp_path / "distance=7").mkdir()
    found = twice.duplicates(tmp_path / "distance=7" / "out", within=wide, spark=False)
    assert found.to_pandas().distance.max() <= wide


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"within": float("inf")}, "give a distance from 0 to 2"),
        ({"within": -1}, "give a distance from 0 to 2"),
        ({"within": 0.1, "agrees": 2}, "give a share from 0 to 1"),
        ({"within": 0.1, "cap": 10**6}, "pairs per image"),
        ({"within": 0.1, "cap": 0}, "k is 0"),
    ],
    ids=str,
)
def test_impossible_wishes_are_told(options: Any, error: str, twice: Index, tmp_path: Path) -> None:
    with pytest.raises(LookalikeError, match=error):
        twice.duplicates(tmp_path / "out", spark=False, **options)
    assert not (tmp_path / "out").exists()


@needs_photos
def test_leaks_between_two_collections_are_found(tmp_path: Path) -> None:
    photos = sorted((UNSEEN / "cars_train").glob("*.jpg"))
    train, test = tmp_path / "train", tmp_path / "test"
    for folder in (train, test):
        folder.mkdir()
    for number, photo in enumerate(photos[:160]):
        (train / photo.name).write_bytes(photo.read_bytes())
        if number < 60:
            change = ("recompressed", "resized", "brightness")[number % 3]
            (test / f"{number}.jpg").write_bytes(variant(Image.open(photo), change, number))
    for photo in photos[160:260]:
        (test / photo.name).write_bytes(photo.read_bytes())
    one, other = (
        lookalike.create_index(part, out=f"{part}.index", spark=False) for part in (train, test)
    )
    table = one.pairs(tmp_path / "leaks", other, within=0.6, verify=True).to_pandas()
    right = [(photo.name, f"{number}.jpg") for number, photo in enumerate(photos[:60])]
    same = table[table.agreement >= MIN_AGREEMENT]
    found = set(zip(same.a_path, same.b_path, strict=True))
    assert len(found & set(right)) >= 0.97 * len(right)
    assert len(found - set(right)) <= 3


# Clusters and outliers, through the commands; what they find has tests of its own.


def test_clusters_and_outliers_are_written_with_their_pictures(
    index: Index, tmp_path: Path
) -> None:
    out = tmp_path / "clusters"
    arguments = ("--no-spark", "--resolution", 10, "--json")
    figures = json.loads(run("clusters", index.path, "--out", out, *arguments))
    table = AnalysisResult.open(out).to_pandas()
    assert figures["in_clusters"] == len(table) and figures["clusters"] == table.cluster.nunique()
    assert (table.groupby("cluster").representative.sum() == 1).all()
    assert "cluster 1" in (out / "index.html").read_text()
    out = tmp_path / "outliers"
    figures = json.loads(run("outliers", index.path, "--out", out, "-k", 5, "--no-spark", "--json"))
    assert AnalysisResult.open(out).to_pandas()["rank"].tolist() == list(range(1, 97))
    assert figures["images"] == figures["labelled"] == 96
    assert figures["suspects"] == len(AnalysisResult.open(out).to_pandas("suspects.parquet"))
    assert "Most isolated" in (out / "index.html").read_text()
    assert not (out / "graph").exists()


# The gallery.


def test_a_gallery_is_a_folder_that_opens_anywhere(index: Index, tmp_path: Path) -> None:
    out = tmp_path / "gallery"
    figures = json.loads(run("gallery", index.path, "--out", out, "--shown", 10, "-k", 5, "--json"))
    assert figures["images"] == 96 and set(figures["shown"]) == set(SECTIONS)
    assert sorted(path.name for path in out.iterdir()) == [
        "found.json",
        "gallery.parquet",
        "index.html",
        "pictures",
    ]
    page = (out / "index.html").read_text()
    shown = set(re.findall(r'src="(.*?)"', page))
    assert shown == {f"pictures/{path.name}" for path in (out / "pictures").iterdir()}
    assert "http" not in page and "<script" not in page
    table = AnalysisResult.open(out).to_pandas()
    assert len(shown) == table.id.nunique()  # one picture an image, however often it is shown
    assert page.count("<li><figure") == len(table)
    for name, title in (("typical", "Most typical"), ("pairs", "Nearest pairs")):
        assert f'href="#{name}"' in page and title in page
    assert dict(table.groupby("section").line.nunique()) == {
        name: count for name, count in figures["shown"].items() if count
    }


def test_what_a_gallery_shows_is_so(index: Index, tmp_path: Path) -> None:
    table = index.gallery(tmp_path / "gallery", shown=8, k=5, spark=False).to_pandas()
    rows = Rows(index._table.segments)
    apart = np.linalg.norm(
        rows.vectors(np.arange(96))[:, None] - rows.vectors(np.arange(96)), axis=2
    )
    np.fill_diagonal(apart, np.inf)
    nearest = {int(rows.ids[row]): set(rows.ids[np.argsort(apart[row])[:5]]) for row in range(96)}
    typical = table[table.section == "typical"]
    place = {id_: row for row, id_ in enumerate(rows.ids.tolist())}
    named = [
        sum(
            one in others
            and len(others & nearest[one]) >= 2
            and apart[place[one], place[other]] > index.bands.limit("same photo")
            for other, others in nearest.items()
        )
        for one in typical.id
    ]
    assert typical.figure.tolist() == named == sorted(named, reverse=True)
    assert not any(one in nearest[other] for one in typical.id for other in typical.id)
    lines = table[table.section == "neighbors"]
    for _, line in lines.groupby("line"):
        assert set(line.id[1:]) == nearest[line.id.iloc[0]]
        assert line.figure.is_monotonic_increasing
    drawn = lines[lines.place == 0]
    assert drawn.label.nunique() == min(8, len(set(rows.labels.to_pylist())))
    pair = table[table.section == "pairs"]
    assert pair.figure.iloc[0] == pytest.approx(apart.min(), abs=1e-5)
    assert pair.id.is_unique
    other = index.gallery(tmp_path / "other", shown=8, k=5, spark=False, seed=1).to_pandas()
    assert set(other[other.section == "neighbors"].id) != set(lines.id)


def test_images_are_drawn_from_every_region(vectors: Any, tmp_path: Path) -> None:
    collection = collection_of(vectors, tmp_path / "index", [150, 250])
    rows = Rows(collection.segments)
    unlabelled = np.full(len(rows), -1)
    few = draw_by_kind(rows, unlabelled, 40, 0)
    heaps = hierarchy.fcluster(hierarchy.linkage(vectors, "single"), 0.5, "distance")
    by_chance = np.mean([len(set(heaps[draw(400, 40, seed)])) for seed in range(20)])
    assert len(set(few)) == 40 and len(set(heaps[few])) > by_chance + 2
    assert sorted(draw_by_kind(rows, unlabelled, 1000, 0)) == list(range(400))
    # Of a label with one image and one with all others each has its turn.
    assert 399 in draw_by_kind(rows, np.arange(400) // 399, 2, 0)


def test_copies_do_not_fill_a_gallery(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    some = normalize(rng.standard_normal((300, 32)).astype(np.float32))
    collection = collection_of(np.concatenate([some, some[[7] * 700]]), tmp_path / "index", [1000])
    table = Index(collection).gallery(tmp_path / "out", shown=20, spark=False).to_pandas()
    copies = {7, *range(300, 1000)}
    for section, most in (("typical", 1), ("pairs", 2)):
        ids = table[table.section == section].id
        assert len(ids) >= 20 and len(copies & set(ids)) <= most


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_gallery_of_little_or_nothing(count: int, vectors: Any, tmp_path: Path) -> None:
    index = Index(collection_of(vectors[:count], tmp_path / "index", [0, *[count] * (count > 0)]))
    with pytest.raises(LookalikeError, match="at least 1 image"):
        index.gallery(tmp_path / "out", shown=0, spark=False)
    assert not (tmp_path / "out").exists()
    figures = index.gallery(tmp_path / "out", spark=False).figures
    assert (figures["images"], figures["skipped"]) == (count, 1)
    assert [figures["shown"][name] for name in ("neighbors", "isolated", "pairs")] == [
        count,
        count,
        count // 2,
    ]
    page = (tmp_path / "out" / "index.html").read_text()
    assert ("There is nothing to show." in page) == (count == 0)
