"""Bands of distance: limits from the images of an index, cut-offs, copies that are one result."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lookalike
from lookalike import Index, LookalikeError
from lookalike.images.perturbations import variant
from lookalike.images.synthetic import DrawnCollection
from lookalike.search.bands import calibration, kept, search
from lookalike.search.bands.copies import collapse
from lookalike.search.bands.kept import FILE, bands_of, saved_bands
from lookalike.search.bands.limits import Bands
from lookalike.search.bands.names import BANDS
from lookalike.search.regions.maintenance import check_derived
from lookalike.search.rows import Neighbor
from lookalike.search.searcher import Searcher
from lookalike.storage import EmbeddingTable

COPIES = {"recompressed": 3, "resized": 2, "cropped by 5 %": 1}
"""Copies of the first photo, by what was changed; the number is a seed."""


@pytest.fixture(scope="module")
def copied(drawn: DrawnCollection, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An index of 60 drawn cars and some copies of the first."""
    folder = tmp_path_factory.mktemp("copied") / "photos"
    folder.mkdir()
    photos = sorted(drawn.photos.iterdir())[:60]
    for photo in photos:
        shutil.copy(photo, folder)
    with Image.open(photos[0]) as picture:
        for change, seed in COPIES.items():
            (folder / f"copy-{seed}.jpg").write_bytes(variant(picture, change, seed))
    shutil.copy(photos[0], folder / "copy-4.jpg")
    return lookalike.create_index(folder, folder.parent / "x.index", spark=False)


def own_vectors(folder: Path, rows: int) -> Index:
    """Index drawn vectors; the first two are equal."""
    vectors = np.random.default_rng(1).normal(size=(rows, 8)).astype(np.float32)
    vectors[1] = vectors[0]
    return lookalike.create_index(vectors, folder / "own.index", spark=False)


def names(found: lookalike.SearchResult) -> list[str]:
    return [Path(one.path).name for one in found]


def first(index: Index) -> str:
    """Return the photo that has copies."""
    root = Path(index.info()["root"])
    return str(min(one for one in root.iterdir() if not one.name.startswith("copy")))


# --- limits -------------------------------------------------------------------------------------


def test_limits_rise_and_hold_copies(copied: Index) -> None:
    bands = copied.bands
    assert bands.limits is not None and bands and bands.copies == 4 * bands.images >= 32
    same, close, similar = bands.limits
    assert 0 < same <= close <= similar < 2
    found = copied.search(first(copied), k=4)
    assert sum(name.startswith("copy") for name in names(found)) >= 3
    assert found.band_names[0] == "same photo"
    assert found.band_names == sorted(found.band_names, key=BANDS.index)
    assert bands.name(2.0) == "weak" and bands.names([0.0, similar]) == ["same photo", "similar"]


def test_limits_are_kept_with_the_index(
    copied: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(copied.path, tmp_path / "copy.index")
    table = EmbeddingTable.open(path)
    shutil.rmtree(table.signature_folder, ignore_errors=True)
    assert lookalike.open_index(path).info()["bands"] is None
    measured = bands_of(Searcher(table))
    assert measured == saved_bands(table) == copied.bands, "equal indexes give equal limits"
    monkeypatch.setattr(kept, "calibrate", None)  # not called again
    assert bands_of(Searcher(table)) == measured
    known = lookalike.open_index(path).info()["bands"]
    assert known is not None and known["limits"]["same photo"] == measured.limits[0]  # type: ignore[index]


def test_limits_of_another_model_or_size_do_not_hold(copied: Index, tmp_path: Path) -> None:
    table = EmbeddingTable.open(shutil.copytree(copied.path, tmp_path / "copy.index"))
    file = table.signature_folder / FILE
    bands_of(Searcher(table))
    about = json.loads(file.read_text())
    for change in ({"fingerprint": "other"}, {"rows": 1000}, {"rows": 3}):
        file.write_text(json.dumps(about | change))
        assert saved_bands(table) is None
    assert not list(check_derived(table))
    for damage in ("{", "{}", json.dumps(about | {"limits": [1, 0.5, 2]})):
        file.write_text(damage)
        assert saved_bands(table) is None
        assert [path for path, _ in check_derived(table)] == [file]
    assert bands_of(Searcher(table)) == copied.bands, "a damaged file is made again"


def test_few_rows_have_no_bands(drawn: DrawnCollection, tmp_path: Path) -> None:
    photos = sorted(drawn.photos.iterdir())[:5]
    index = lookalike.create_index(list(map(str, photos)), tmp_path / "x.index", spark=False)
    assert not index.bands and index.bands.reason == "5 images are too few, 32 are enough"
    found = index.search(photos[0], k=2, all_copies=False)
    assert found.band_names == [None, None] and found.looked is None
    assert found.to_dict()["bands"] == {"limits": None, "reason": index.bands.reason}
    with pytest.raises(LookalikeError, match=r"are too few, 32 are enough\): leave `min_band` out"):
        index.search(photos[0], min_band="close")


def test_own_vectors_are_the_same_only_where_they_are_equal(tmp_path: Path) -> None:
    index = own_vectors(tmp_path, 64)
    bands = index.bands
    assert bands.limits is not None and bands.copies == 0 and bands.limits[0] < 0.002
    found = index.search(id=0, k=3)
    assert [found.band_names[0], found[0].distance] == ["same photo", pytest.approx(0, abs=1e-6)]
    assert "same photo" not in found.band_names[1:]
    assert "no image could be changed" in str(bands)


def test_photos_that_are_gone_leave_neighbours_and_random_pairs(
    copied: Index, tmp_path: Path
) -> None:
    path = shutil.copytree(copied.path, tmp_path / "copy.index")
    index = lookalike.open_index(path)
    shutil.rmtree(EmbeddingTable.open(path).signature_folder, ignore_errors=True)
    root = Path(index.info()["root"])
    hidden = root.rename(root.with_name("hidden"))
    try:
        assert index.bands and index.bands.copies == 0
    finally:
        hidden.rename(root)


def test_a_search_goes_on_where_bands_cannot_be_measured(
    copied: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(searcher: Searcher) -> Bands:
        raise OSError("the disk is gone")

    monkeypatch.setattr(kept, "calibrate", fail)
    path = shutil.copytree(copied.path, tmp_path / "copy.index")
    shutil.rmtree(EmbeddingTable.open(path).signature_folder, ignore_errors=True)
    found = lookalike.open_index(path).search(first(copied), k=3)
    assert found.band_names == [None] * 3
    assert found.bands.reason == "they cannot be measured: the disk is gone"


def test_rows_of_a_large_index_are_read_in_groups(
    copied: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lookalike.search.bands import sample

    searcher = Searcher(EmbeddingTable.open(copied.path))
    mapped = sample.draw_rows(searcher)
    monkeypatch.setattr(sample, "EXACT_UP_TO", 10)
    large = Searcher(searcher.table)
    drawn = sample.draw_rows(large)
    assert "rows" not in large.__dict__, "no vectors are mapped"
    assert set(drawn.numbers.tolist()) <= set(mapped.numbers.tolist())
    near = sample.nearest_others(large, drawn, 2)
    assert all(len(one.distances) == 2 and one.distances[0] <= one.distances[1] for one in near)
    assert calibration.calibrate(large).limits is not None


# --- what they do -------------------------------------------------------------------------------


def test_copies_are_one_result_with_a_count(copied: Index) -> None:
    every = copied.search(first(copied), k=20)
    found = copied.search(first(copied), k=5, all_copies=False)
    assert [one.rank for one in found] == [1, 2, 3, 4, 5] and found.looked == 13
    limit = copied.bands.limit("same photo")
    assert found[0] == every[0] and (found[0].copies or 0) >= 2
    assert all(one.copies is None for one in every)
    left_out = [one for one in every[: found.looked] if one.distance not in found_distances(found)]
    assert all(one.distance <= found[-1].distance + limit for one in left_out)
    assert [n["copies"] for n in found.to_dict()["neighbors"]] == [one.copies for one in found]
    assert list(found.to_pandas().columns)[-1] == "copies"
    assert found.to_arrow().column_names == list(found.to_pandas().columns)


def found_distances(found: lookalike.SearchResult) -> list[float]:
    return [one.distance for one in found]


def test_search_looks_further_where_copies_fill_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.random.default_rng(1).normal(size=(200, 8)).astype(np.float32)
    vectors[:120] = vectors[0]
    index = lookalike.create_index(vectors, tmp_path / "own.index", spark=False)
    found = index.search(id=0, k=3, all_copies=False)
    assert [one.copies for one in found] == [118, 0, 0] and found.looked == 176
    assert found[0].id == 1
    within = index.search(id=0, within=0.5, all_copies=False)
    assert within[0].copies == 118 and within.looked is not None
    monkeypatch.setattr(search, "MAX_LOOKED", 50)
    found = index.search(id=0, k=3, all_copies=False)
    assert len(found) == 1 and (found[0].copies, found.looked) == (49, 50)
    within = index.search(id=0, within=0.01, all_copies=False)
    assert within.looked == 50 and len(within) == 1 + 119 - 50
    assert [one.rank for one in within] == list(range(1, len(within) + 1))


def test_copies_are_collapsed_greedily_from_the_nearest() -> None:
    places = np.array([[0.0], [0.9], [1.8], [5.0]], np.float32)
    found = [Neighbor(at + 1, at, str(at), None, at / 10) for at in range(4)]
    kept_ones = collapse(found, places, 1.0)
    assert [(one.id, one.rank, one.copies) for one in kept_ones] == [
        (0, 1, 1),
        (2, 2, 0),
        (3, 3, 0),
    ]
    assert [one.id for one in collapse(found, places, 1.0, 2)] == [0, 2]
    assert collapse([], places[:0], 1.0) == []


def test_a_band_cuts_off(copied: Index) -> None:
    every = copied.search(first(copied), k=60)
    for band in BANDS:
        found = copied.search(first(copied), k=60, min_band=band)
        assert list(found) == [one for one in every if one.distance <= copied.bands.limit(band)]
    with pytest.raises(LookalikeError, match="unknown band 'near': choose same photo, close, sim"):
        copied.search(first(copied), min_band="near")  # type: ignore[call-overload]


def test_bands_name_the_distances_of_other_answers() -> None:
    bands = Bands((0.25, 0.5, 1.0))
    assert bands.names([0.25, 0.26, 1.0, 1.01]) == ["same photo", "close", "similar", "weak"]
    assert bands.limit("weak") == float("inf")
    assert Bands(reason="none").names([1.0]) == [None]
