"""A collection made ready to be searched: what is kept of it, and that its recall is kept too."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.clusters import KINDS, addition, clustered, ids, near_copies
from helpers.segments import Floats, collection_of, grown, unit
from lookalike import Index, LookalikeError
from lookalike.search import searcher
from lookalike.search.cells import Cells
from lookalike.search.recall import (
    PROFILE_ERRORS,
    RECALLS,
    SAMPLE_QUERIES,
    OutdatedProfile,
    Part,
    RecallProfile,
    lowest_recall,
)
from lookalike.search.searcher import Searcher
from lookalike.search.signatures import Effort
from lookalike.storage import EmbeddingTable
from lookalike.storage.commits import compact
from lookalike.system.defaults import TARGET_RECALL

ROWS = 6000


@pytest.fixture(scope="module")
def vectors() -> Floats:
    return clustered(ROWS + 200)


@pytest.fixture
def stored(vectors: Floats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddingTable:
    """A collection that is large by a limit made low, with a cache of its own."""
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(searcher, "EXACT_UP_TO", 1000)
    return collection_of(vectors[:ROWS], tmp_path / "cars.index", [1500, 4500])


def test_recall_is_what_was_asked_for(stored: EmbeddingTable, vectors: Floats) -> None:
    ready = Searcher(stored)
    costs = []
    for recall in (0.9, 0.98, 0.999):
        shares, compared = [], 0
        for query in vectors[ROWS:]:
            wanted, engine, every = ready.nearest(query, 10, engine="exact")
            assert (engine, every) == ("exact", ROWS)
            found, engine, compared = ready.nearest(query, 10, recall=recall)
            assert engine == "approximate"
            shares.append(len(set(ids(found)) & set(ids(wanted))) / 10)
        assert np.mean(shares) >= recall - 0.01
        costs.append(compared)
    assert costs == sorted(costs) and costs[0] < costs[-1] < ROWS / 10


def test_small_collections_and_full_recall_are_exact(
    stored: EmbeddingTable, vectors: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = Searcher(stored)
    assert ready.nearest(vectors[0], 5, recall=1)[1] == "exact"
    few = np.arange(ROWS) < 900
    assert ready.nearest(vectors[0], 5, allowed=few)[1:] == ("exact", 900)
    assert not stored.signature_folder.exists(), "nothing was needed for that"
    assert ready.nearest(vectors[0], 5, allowed=~few)[1] == "approximate"
    monkeypatch.setattr(searcher, "EXACT_UP_TO", ROWS)
    assert ready.nearest(vectors[0], 5)[1] == "exact"
    assert ready.nearest(vectors[0], 5, engine="approximate")[1] == "approximate"


def test_what_is_made_is_made_once(stored: EmbeddingTable, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Searcher(stored)
    assert first.known_recall() is None
    first.get_ready()
    assert sorted(os.listdir(stored.signature_folder)) == ["0.json", "cells.npz"]
    kept = {
        file: file.stat().st_mtime_ns
        for folder in (stored.signature_folder, stored.segments[0].cache.parent)
        for file in folder.rglob("*")
    }
    assert sum("signatures-" in file.name for file in kept) == 2
    monkeypatch.setattr(Searcher, "_measure", None)
    again = Searcher(EmbeddingTable.open(stored.path))
    again.get_ready()
    assert again.profile == first.profile
    assert again.known_recall() == first.profile.recall[RECALLS.index(0.98)]
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())


@pytest.mark.parametrize("name", ["0.json", "cells.npz"])
@pytest.mark.parametrize("content", [b"", b"{}", b'{"rows": 1}', b"[1]"])
def test_what_is_damaged_is_made_again(
    stored: EmbeddingTable, vectors: Floats, name: str, content: bytes
) -> None:
    first = Searcher(stored)
    first.get_ready()
    wanted = first.nearest(vectors[3], 10)
    (stored.signature_folder / name).write_bytes(content)
    (cached,) = stored.segments[0].cache.glob("signatures-*")
    cached.write_bytes(content)
    again = Searcher(EmbeddingTable.open(stored.path))
    again.get_ready()
    assert again.nearest(vectors[3], 10) == wanted
    assert (stored.signature_folder / name).stat().st_size > 100


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ('"rows": 6000', '"rows": 1e999'),
        ('"stop": 6000', '"stop": NaN'),
        ('"queries": 100', '"queries": -1e999'),
        ('"cells": 7', '"cells": 1e999'),
        ('"cells": 7', '"cells": 0'),
        ('"cells": 7', '"cells": "many"'),
        ('"candidates": 30', '"candidates": NaN'),
        ('"late_cell": 0.5', '"late_cell": NaN'),
        ('"late_rank": 0.25', '"late_rank": 1e999'),
        ('"late_rank": 0.25', '"late_rank": 1' + 400 * "0"),
        ('"late_rank": 0.25', '"late": 0.25'),
        ('"reach": 0.75', '"reach": NaN'),
        ('"reach": 0.75', '"reach": -1e999'),
        ("0.96875", "NaN"),
        ("0.96875", "1.5"),
        ("0.96875", '"all"'),
    ],
)
def test_figures_that_are_none_are_damaged(tmp_path: Path, now: str, said: str) -> None:
    file = tmp_path / "0.json"
    shares = (0.96875,) * len(RECALLS)
    efforts = (Effort(7, 30, 0.5, 0.25), *[None] * (len(RECALLS) - 1))
    whole = RecallProfile("x", 100, efforts, shares, 0.75, ROWS, ROWS, (Part(9, 300, 291, shares),))
    whole.save(file)
    assert RecallProfile.load(file) == whole
    text = file.read_text()
    assert now in text
    file.write_text(text.replace(now, said))
    with pytest.raises(PROFILE_ERRORS):
        RecallProfile.load(file)


def test_measured_figures_hold_together(stored: EmbeddingTable) -> None:
    measured = Searcher(stored).profile
    assert measured.queries == SAMPLE_QUERIES // 2
    assert measured.cells == Cells.load(stored.signature_folder / "cells.npz").fingerprint
    efforts = [effort for effort in measured.efforts if effort is not None]
    assert [effort.cells for effort in efforts] == sorted(effort.cells for effort in efforts)
    assert 10 <= efforts[0].candidates < efforts[-1].candidates <= 0.02 * ROWS
    for recall, effort, reached in zip(RECALLS, measured.efforts, measured.recall, strict=True):
        if effort is not None:
            assert reached is not None and reached >= recall - 0.02
    assert measured.effort(0.97, 10) == measured.effort(0.98, 3) == measured.efforts[2]
    assert measured.effort(0.9, 100) == efforts[0].scaled(10)
    stored_figures = json.loads((stored.signature_folder / "0.json").read_text())
    assert stored_figures["efforts"][0] == asdict(efforts[0])


def test_a_recall_beyond_the_signatures_is_exact(stored: EmbeddingTable, vectors: Floats) -> None:
    ready = Searcher(stored)
    efforts = (Effort(5, 50), Effort(9, 60), *[None] * 4)
    ready.profile = RecallProfile(
        ready.cells.fingerprint, 100, efforts, (0.9, 0.95, *[None] * 4), 2.0, ROWS, ROWS
    )
    assert ready.nearest(vectors[0], 10, recall=0.95)[1:] == ("approximate", 60)
    assert ready.nearest(vectors[0], 10, recall=0.98)[1] == "exact"
    assert ready.nearest(vectors[0], 10, recall=0.98, engine="approximate")[1:] == (
        "approximate",
        120,
    )


def test_what_a_filter_leaves_is_searched_harder(stored: EmbeddingTable, vectors: Floats) -> None:
    """The neighbours of a row are all left out: those that are left lie far, and in other cells."""
    ready = Searcher(stored)
    shares = []
    for query in vectors[ROWS : ROWS + 100]:
        far = ready.rows.squared_distances(query)
        allowed = far > np.quantile(far, 0.3)
        wanted = ids(ready.nearest(query, 10, engine="exact", allowed=allowed)[0])
        found, *_ = ready.nearest(query, 10, allowed=allowed)
        assert len(found) == 10
        shares.append(len(set(ids(found)) & set(wanted)) / 10)
    assert np.mean(shares) > 0.97


def test_strangers_are_searched_harder(stored: EmbeddingTable, vectors: Floats) -> None:
    ready = Searcher(stored)
    shares, compared = [], []
    for query in unit((60, vectors.shape[1]), 9):
        wanted = ids(ready.nearest(query, 10, engine="exact")[0])
        found, _, count = ready.nearest(query, 10)
        shares.append(len(set(ids(found)) & set(wanted)) / 10)
        compared.append(count)
    assert np.mean(shares) > 0.95
    assert np.mean(compared) > 2 * ready.nearest(vectors[0], 10)[2]


# --- rows that are added --------------------------------------------------------------------------


def recall_of(
    ready: Searcher, first: int, vectors: Floats, k: int = 10, step: int = 1, **options: Any
) -> float:
    """What share of their true neighbours the rows with ids from `first` on find."""
    shares = []
    for own, query in zip(range(first, 10**9, step), vectors, strict=False):
        wanted = ids(ready.nearest(query, k, engine="exact", without=own, **options)[0])
        found = ids(
            ready.nearest(
                query, k, recall=TARGET_RECALL, engine="approximate", without=own, **options
            )[0]
        )
        assert len(found) == len(wanted)
        shares.append(len(set(found) & set(wanted)) / k)
    return float(np.mean(shares))


def wide(rows: int) -> Floats:
    """Vectors of so many numbers that their leading directions leave most out."""
    return clustered(rows, 0, 384)


@pytest.fixture(scope="module")
def wide_vectors() -> Floats:
    return wide(ROWS)


@pytest.fixture(scope="module")
def wide_folder(wide_vectors: Floats, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index that was searched before."""
    folder = tmp_path_factory.mktemp("wide")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOOKALIKE_CACHE", str(folder / "cache"))
        Searcher(collection_of(wide_vectors, folder / "wide.index", [ROWS])).get_ready()
    return folder


@pytest.fixture
def searched(wide_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddingTable:
    shutil.copytree(wide_folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(searcher, "EXACT_UP_TO", 1000)
    return EmbeddingTable.open(tmp_path / "wide.index")


@pytest.mark.parametrize("count", [40, 500])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_added_is_found_like_the_rest(
    searched: EmbeddingTable, wide_vectors: Floats, kind: str, count: int
) -> None:
    """A few are searched harder; for many, unlike the rest, cells are fitted again."""
    before = Searcher(searched)
    fingerprint, usual = before.cells.fingerprint, before.nearest(wide_vectors[1], 10)[2]
    added = addition(kind, wide_vectors, count)
    after = Searcher(grown(searched, added))
    assert recall_of(after, ROWS, added[::5], step=5) >= 0.97
    assert recall_of(after, 0, wide_vectors[:60]) >= 0.97
    told = after.known_recall()
    assert told is not None and told >= 0.97
    assert (after.cells.fingerprint != fingerprint) == (count == 500 and kind != "like the rest")
    if count == 500:  # nor does a query take more candidates than before
        compared = [after.nearest(query, 10)[2] for query in (*added[:50], *wide_vectors[:50])]
        assert np.median(compared) < 2 * usual


def test_small_additions_are_a_part_together(
    searched: EmbeddingTable, wide_vectors: Floats
) -> None:
    """Also when segments become others, and until the rows are gone."""
    added = addition("near copies", wide_vectors, 300)
    few = grown(searched, added[:100], [1] * 5 + [95])
    first = Searcher(few)
    first.get_ready()
    assert first.profile == Searcher(searched).profile, "too few to be measured"
    many = grown(few, added[100:], [50] * 4)
    second = Searcher(many)
    assert recall_of(second, ROWS, added[::6], step=6) >= 0.97
    (part,) = second.profile.parts
    assert part == Part(ROWS, ROWS + 300, 300, part.recall)
    assert second.profile.recall == lowest_recall(second.profile.recall, [part])
    merged = compact(many, 2)
    assert len(merged.files()) < len(many.files())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Searcher, "_measure", None)
        again = Searcher(merged)
        again.get_ready()
        assert again.profile == second.profile, "the same rows are not measured again"
    gone = [file for file, first, *_ in merged.id_ranges() if first >= ROWS]
    fewer = Searcher(merged.commit("remove", removed=gone, rows_removed=300))
    assert recall_of(fewer, 0, wide_vectors[:60]) >= 0.97
    assert fewer.profile.parts == ()


def with_skipped(vectors: Floats, skipped: int, first: int = 0) -> Floats:
    """The same with so many inputs that were skipped, spread among those from `first` on."""
    rows = np.full((len(vectors) + skipped, vectors.shape[1]), np.nan, np.float32)
    at = np.linspace(first, len(rows) - 1, len(rows) - first - skipped).round().astype(int)
    rows[np.concatenate([np.arange(first), at])] = vectors
    return rows


def measured_once(collection: EmbeddingTable) -> RecallProfile:
    """Measure what is to be measured, and see that the next process takes what was."""
    ready = Searcher(EmbeddingTable.open(collection.path))
    ready.get_ready()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Searcher, "_measure", None)
        again = Searcher(EmbeddingTable.open(collection.path))
        again.get_ready()
        assert again.profile == ready.profile
        assert again.known_recall() == ready.profile.recall[RECALLS.index(TARGET_RECALL)]
    return ready.profile


def test_skipped_inputs_are_measured_once(
    vectors: Floats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are, and among what is added as well."""
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    first = collection_of(with_skipped(vectors[:3000], 1000), tmp_path / "odd.index", [1500, 2500])
    assert len(Searcher(first).rows) == 3000
    measured_once(first)
    added = with_skipped(near_copies(vectors[0], 300), 200)
    (part,) = measured_once(grown(first, added)).parts
    assert part.range == (4000, 4500)
    third = grown(EmbeddingTable.open(first.path), np.full_like(added, np.nan))
    assert measured_once(third).parts == (part,), "nothing was added to measure"


def test_gaps_that_merging_leaves_are_measured_once(
    vectors: Floats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of a merged file are taken to be spread evenly over its ids, and are not."""
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    old = collection_of(vectors[:2000], tmp_path / "old.index", [500, 500, 1000])
    Searcher(old).get_ready()
    both = grown(old, near_copies(vectors[0], 300))
    (part,) = measured_once(both).parts
    file = both.files()[1]
    fewer = both.commit("remove", removed=[file], rows_removed=500)
    assert measured_once(fewer).parts[0].range == part.range
    whole = compact(fewer, 2)
    assert len(whole.files()) == 1
    assert measured_once(whole).parts[0].range == part.range


def test_cells_are_fitted_again_when_the_others_are_gone(
    searched: EmbeddingTable, wide_vectors: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part was too small a share of all to fit cells for it, and is not any more."""
    monkeypatch.setattr(searcher, "_MAX_UNLIKE_SHARE", 0.0485)
    before = grown(searched, near_copies(wide_vectors[0], 300))
    first = Searcher(before)
    first.get_ready()
    (part,) = first.profile.parts
    fingerprint = first.cells.fingerprint
    # Less than a part, though the log counts those that were skipped too.
    few = grown(before, with_skipped(wide_vectors[:200], 100))
    monkeypatch.setattr(searcher, "_MAX_UNLIKE_SHARE", 1 / 128)
    measured = measured_once(few)
    assert measured.cells != fingerprint
    assert measured.parts[0].range == part.range


def test_a_filter_that_leaves_in_what_was_added(
    searched: EmbeddingTable, wide_vectors: Floats
) -> None:
    added = addition("near copies", wide_vectors, 200)
    after = Searcher(grown(searched, added))
    rng = np.random.default_rng(1)
    for share in (0.5, 0.9):
        allowed = (after.rows.ids >= ROWS) | (rng.random(len(after.rows)) < share)
        assert recall_of(after, ROWS, added[::8], step=8, allowed=allowed) >= 0.97


def test_what_an_older_program_measured_is_measured_again(searched: EmbeddingTable) -> None:
    file = searched.signature_folder / "0.json"
    now = json.loads(file.read_text())
    efforts = [{name: one[name] for name in ("cells", "candidates")} for one in now["efforts"]]
    older = {name: now[name] for name in ("cells", "queries", "recall", "reach")}
    file.write_text(json.dumps(older | {"efforts": efforts, "segments": {"0" * 12: ROWS}}))
    with pytest.raises(OutdatedProfile):
        RecallProfile.load(file)
    ready = Searcher(searched)
    assert ready.known_recall() is None
    ready.get_ready()
    assert json.loads(file.read_text()) == now


def test_cells_are_found_again_when_the_collection_has_grown(
    stored: EmbeddingTable, vectors: Floats, tmp_path: Path
) -> None:
    kept = Searcher(stored).cells
    assert kept.rows == ROWS
    for rows, same in ((ROWS // 2, True), (ROWS // 2 - 1, False)):
        file = stored.signature_folder / "cells.npz"
        Cells(kept.rotation, kept.centres[:-1], rows).save(file)
        found = Searcher(stored).cells
        assert (len(found) == len(kept) - 1) == same
        assert Cells.load(file).fingerprint == found.fingerprint


def test_an_index_that_cannot_be_written(stored: EmbeddingTable, vectors: Floats) -> None:
    wanted = Searcher(stored).nearest(vectors[0], 10)
    shutil.rmtree(stored.signature_folder)
    stored.signature_folder.write_text("no folder")
    assert Searcher(EmbeddingTable.open(stored.path)).nearest(vectors[0], 10) == wanted
    assert stored.signature_folder.read_text() == "no folder"


def test_segments_without_an_embedding(vectors: Floats, tmp_path: Path) -> None:
    odd = collection_of(vectors[:500], tmp_path / "odd.index", [0, 200, 0, 300, 0])
    ready = Searcher(odd)
    assert ready.nearest(vectors[7], 3, engine="approximate")[0] == ready.nearest(vectors[7], 3)[0]


@pytest.mark.parametrize("count", [0, 1, 2, 5, 21, 22])
def test_hardly_a_row(vectors: Floats, tmp_path: Path, count: int) -> None:
    few = collection_of(vectors[:count], tmp_path / "few.index", [count] if count else [])
    found, engine, _ = Searcher(few).nearest(vectors[0], 5, engine="approximate")
    assert len(found) == min(5, count)
    assert engine == "exact"


# --- through the index ----------------------------------------------------------------------------


def test_the_index_says_how_it_searched(stored: EmbeddingTable, vectors: Floats) -> None:
    index = Index(stored)
    assert index.info()["recall"] == {"exact": 1.0, "approximate": None, "spark-lsh": None}
    hits = index.search(vectors[5], k=3)
    assert (hits.engine, len(hits)) == ("approximate", 3)
    assert hits[0].id == 5 and hits[0].distance < 1e-6
    assert hits.candidates is not None and hits.to_dict()["candidates"] == hits.candidates
    assert index.search(vectors[5], k=3, engine="exact").engine == "exact"
    found = index.info()["recall"]["approximate"]
    assert found is not None and found > 0.96
    assert len(index.search(vectors[5])) == 5


def test_filters_of_the_index(stored: EmbeddingTable, vectors: Floats) -> None:
    index = Index(stored)
    for engine in ("exact", "approximate"):
        hits = index.search(vectors[5], k=20, label=["make 3", "make 7"], engine=engine)
        assert {hit.label for hit in hits} == {"make 3", "make 7"} and len(hits) == 20
        hits = index.search(vectors[5], k=20, path="*4.jpg", engine=engine)
        assert all(hit.path.endswith("4.jpg") for hit in hits) and len(hits) == 20
        hits = index.search(vectors[5], k=20, path=["1?.jpg"], label="make 3", engine=engine)
        assert [hit.path for hit in hits] == ["13.jpg"]
    near = index.search(vectors[5], within=0.4)
    assert near.engine == "exact" and max(hit.distance for hit in near) <= 0.4
    wanted = [hit for hit in index.search(vectors[5], k=ROWS, recall=1) if hit.distance <= 0.4]
    assert list(near) == wanted
    assert list(index.search(vectors[5], k=2, within=0.4)) == wanted[:2]
    with pytest.raises(LookalikeError, match="no image has the label 'nobody'"):
        index.search(vectors[5], k=4, label="nobody")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"engine": "fast"}, "unknown engine 'fast': choose auto, exact, approximate or spark-lsh"),
        ({"recall": 0}, "`recall` is 0: give a share above 0"),
        ({"recall": 1.5}, "`recall` is 1.5"),
        ({"within": -1}, "a distance from 0 to 2"),
        ({"within": 1, "engine": "approximate"}, "needs exact search"),
        ({"within": 1, "engine": "spark-lsh"}, '`engine="spark-lsh"` supports neither'),
        ({"label": "a", "engine": "spark-lsh"}, '`engine="spark-lsh"` supports neither'),
        ({"explain": True}, 'set `engine="spark-lsh"`'),
    ],
)
def test_wrong_options(
    stored: EmbeddingTable, vectors: Floats, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(LookalikeError, match=message):
        Index(stored).search(vectors[0], **options)


def test_evaluation(stored: EmbeddingTable) -> None:
    figures = Index(stored).evaluate(k=10, queries=40, spark=False)
    assert figures["images"] == ROWS and "spark-lsh" not in figures
    found = figures["approximate"]
    assert found["recall_95"][0] <= found["recall"] <= found["recall_95"][1]
    assert found["recall"] > 0.95
    assert 0 < found["compared"] < 0.1
    assert 0 < found["approximate_ms"]["p50"] <= found["approximate_ms"]["p99"]
    assert figures["labelled_queries"] > 500
    assert 0 <= figures["mAP@R"] <= figures["P@5"] <= 1
