import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import planted
from planted import COPIED, HALVES, KINDS, judge, plant, true_pairs


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    paths = [folder / f"photo{number}.png" for number in range(24)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(path)
    return paths


@pytest.fixture(scope="module")
def files(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return plant(photos, tmp_path_factory.mktemp("planted") / "files", seed=1, share=0.5)


def every_pair(files: pd.DataFrame) -> pd.DataFrame:
    """All pairs, with score 1 where they are duplicates and 0 where not."""
    base = dict(zip(files.name, files.base, strict=True))
    pairs = itertools.combinations(files.name, 2)
    return pd.DataFrame(
        [(b, a, float(base[a] == base[b])) for a, b in pairs], columns=["a", "b", "score"]
    )


def test_kinds_are_spread_evenly_and_no_base_has_one_twice(files: pd.DataFrame) -> None:
    changed = files[files.kind != ""]
    assert set(changed.kind) == set(KINDS)
    for half in HALVES:
        counts = changed[changed.half == half].kind.value_counts()
        assert counts.max() - counts.min() <= 1
    assert changed.groupby("base").kind.agg(lambda kinds: kinds.is_unique).all()
    assert changed.groupby("base").size().isin([1, 2, 3]).all()


def test_only_copies_are_equal_byte_by_byte(files: pd.DataFrame) -> None:
    equal = files[files.duplicated("sha", keep=False)]
    assert set(equal.kind) == {"", COPIED}
    assert equal.groupby("sha").base.nunique().eq(1).all()


def test_equal_seeds_give_equal_files(
    photos: list[Path], files: pd.DataFrame, tmp_path: Path
) -> None:
    assert plant(photos, tmp_path / "again", seed=1, share=0.5).equals(files)
    assert not plant(photos, tmp_path / "other", seed=2, share=0.5).equals(files)


def test_who_finds_just_the_planted_pairs_has_both_right(files: pd.DataFrame) -> None:
    figures = judge(every_pair(files), files)
    assert figures["threshold"] == 1
    assert figures["precision"] == figures["recall"] == figures["f1"] == 1
    assert set(figures["recall_by_kind"].values()) == {1}
    assert figures["largest_group"] == files[files.half == "test"].groupby("base").size().max()


def test_what_is_missed_and_what_is_wrong_counts(files: pd.DataFrame) -> None:
    found = every_pair(files)
    kind = files.set_index("name").kind
    copies = (found.a.map(kind) == COPIED) | (found.b.map(kind) == COPIED)
    figures = judge(found[~copies & (found.score == 1)], files)
    assert figures["recall_by_kind"][COPIED] == 0
    assert figures["precision"] == 1 > figures["recall"]
    wrong = found.assign(score=1.0)
    figures = judge(wrong, files)
    assert figures["recall"] == 1
    assert figures["precision"] < 0.2
    assert figures["largest_group"] == (files.half == "test").sum()
    truth = (true_pairs(files).half == "test").sum()
    in_half = (files.half == "test").sum()
    assert figures["false_pairs"] == in_half * (in_half - 1) // 2 - truth


def test_bases_that_are_one_picture_are_neither_right_nor_wrong(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planted, "SAME", (tuple(photo.name for photo in photos),))
    files = plant(photos, tmp_path / "files", seed=1, share=0.5)
    figures = judge(every_pair(files).assign(score=1.0), files)
    assert figures["precision"] == figures["recall"] == 1
    assert figures["false_pairs"] == 0


def test_nothing_right_is_no_threshold(files: pd.DataFrame) -> None:
    found = every_pair(files).query("score == 0")
    assert judge(found, files)["threshold"] is None
