"""The map: what is alike is near, odd collections, what is kept of it, a process that may die."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from helpers.segments import Floats, collection_of, in_pieces, unit
from lookalike.analysis.map import (
    Job,
    Layout,
    lay_out,
    load_layout,
    load_older_layout,
    save_layout,
    tsne,
    with_changes,
)
from lookalike.analysis.map import tsne as placing
from lookalike.analysis.map.cache import METHOD_VERSION, pack
from lookalike.search.rows import Rows
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Numbers
from lookalike.system.resources import cores

KINDS = 12
WIDTH = 48


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few images are laid out as quickly by one thread, and others have the rest."""
    monkeypatch.setattr(placing, "cores", lambda: 1)


def heaps(count: int, seed: int = 0) -> Floats:
    """Unit vectors in heaps: row i is of kind i % KINDS."""
    rng = np.random.default_rng(seed)
    centres = unit((KINDS, WIDTH), seed=99)
    rows = centres[np.arange(count) % KINDS] + rng.normal(size=(count, WIDTH)) * 0.06
    scaled: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def rows_of(vectors: Floats) -> Rows:
    half = len(vectors) // 2
    return Rows(in_pieces(vectors, [half, len(vectors) - half]))


def quiet(share: float, doing: str) -> None:
    pass


def purity(layout: Layout, kinds: Numbers) -> float:
    near = faiss.knn(layout.points, layout.points, 6)[1]
    return float((kinds[near] == kinds[:, None]).mean())


def check(layout: Layout, rows: Rows) -> None:
    assert layout.ids.tolist() == rows.ids.tolist()
    assert layout.points.shape == (len(rows), 2)
    assert layout.ids.dtype == np.int64
    assert layout.points.dtype == np.float32
    assert (np.abs(layout.points) <= 1).all()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "layouts"


@pytest.fixture
def collection(tmp_path: Path, own_cache: Path) -> EmbeddingTable:
    return collection_of(heaps(200), tmp_path / "index", [150, 42, 8])


# --- where images go ------------------------------------------------------------------------------


def test_what_is_alike_is_near() -> None:
    rows = rows_of(heaps(300))
    told: list[tuple[float, str]] = []
    layout = lay_out(rows, lambda *one: told.append(one))
    check(layout, rows)
    assert purity(layout, np.arange(300) % KINDS) > 0.95
    assert np.ptp(layout.points, axis=0).max() > 1.5
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] == pytest.approx(1)
    assert list(dict.fromkeys(doing for _, doing in told)) == ["comparing images", "placing images"]
    again = lay_out(rows_of(heaps(300)), quiet)
    assert np.array_equal(layout.points, again.points)


def test_what_is_alike_is_near_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "_MIN_BOX_IMAGES", 100)
    monkeypatch.setattr(placing, "_STEPS", ((60, 12.0), (60, 1.0)))
    rows = rows_of(heaps(300))
    layout = lay_out(rows, quiet)
    check(layout, rows)
    assert purity(layout, np.arange(300) % KINDS) > 0.95


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, tsne.MAX_FLAT_IMAGES, tsne.MAX_FLAT_IMAGES + 1])
def test_few_images(count: int) -> None:
    rows = rows_of(heaps(count)) if count else Rows([])
    layout = lay_out(rows, quiet)
    check(layout, rows)
    assert len(np.unique(layout.points, axis=0)) == count


def test_copies_lie_around_each_other() -> None:
    vectors = heaps(240)
    vectors[:40] = vectors[0]
    rows = rows_of(vectors)
    layout = lay_out(rows, quiet)
    check(layout, rows)
    copies, others = layout.points[:40], layout.points[40:]
    assert len(np.unique(copies, axis=0)) == 40
    far = np.abs(copies - copies[0]).max()
    assert far < 0.3
    assert np.linalg.norm(others - copies[0], axis=1).max() > 3 * far


@pytest.mark.parametrize("noise", [0, 1e-7, 1e-4])
def test_nothing_but_copies_or_nearly(noise: float) -> None:
    rng = np.random.default_rng(0)
    vectors = np.tile(unit((1, WIDTH), 0), (400, 1)) + rng.normal(size=(400, WIDTH)) * noise
    rows = rows_of(vectors.astype(np.float32))
    layout = lay_out(rows, quiet)
    check(layout, rows)
    assert len(np.unique(layout.points, axis=0)) > 380
    assert np.ptp(layout.points, axis=0).min() > 0.5


def test_vectors_of_one_direction_and_strangers() -> None:
    vectors = np.zeros((80, WIDTH), np.float32)
    vectors[:, 0] = np.linspace(0.5, 1, 80)
    line = rows_of(vectors)
    check(lay_out(line, quiet), line)
    check(lay_out(rows_of(vectors[:, :1]), quiet), line)
    vectors = np.concatenate([heaps(30), -heaps(1) * 1e4]).astype(np.float32)
    rows = rows_of(vectors)
    layout = lay_out(rows, quiet)
    check(layout, rows)


def test_of_more_images_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "MAX_IMAGES", 200)
    rows = rows_of(heaps(1000))
    layout = lay_out(rows, quiet)
    assert len(layout.ids) == len(np.unique(layout.ids)) == 200
    assert np.isin(layout.ids, rows.ids).all()
    assert 60 < np.isin(layout.ids, rows.segments[0].ids).sum() < 140
    ids = np.arange(1100)
    before, after = tsne.draw_images(ids[:1000]), tsne.draw_images(ids)
    assert len(np.intersect1d(before, after)) > 160
    assert after.max() >= 1000


# --- after changes --------------------------------------------------------------------------------


def test_images_stay_where_they_are_when_few_come_and_go() -> None:
    vectors = heaps(300)
    whole = Rows(in_pieces(vectors, [290, 10]))
    without = Rows(whole.segments[:1])
    before = lay_out(without, quiet)
    after = with_changes(whole, before)
    assert after is not None
    check(after, whole)
    assert np.array_equal(after.points[:290], before.points)
    assert after.later == 10
    assert purity(after, np.arange(300) % KINDS) > 0.95
    gone = with_changes(without, after)
    assert gone is not None
    assert np.array_equal(gone.points, before.points)
    assert gone.later == 20
    assert with_changes(whole, replace(after, later=31)) is None


def test_a_tenth_of_others_lays_all_out_again() -> None:
    vectors = heaps(120)
    before = lay_out(rows_of(vectors), quiet)
    assert with_changes(Rows(in_pieces(heaps(140), [70, 70])), before) is None
    assert with_changes(Rows([]), before) is None
    assert with_changes(rows_of(vectors), Layout(before.ids[:0], before.points[:0])) is None


# --- kept -----------------------------------------------------------------------------------------


def some_layout(collection: EmbeddingTable) -> Layout:
    ids = Rows(collection.segments).ids
    points = np.random.default_rng(0).uniform(-1, 1, (len(ids), 2)).astype(np.float32)
    return Layout(ids, points, 3)


def test_a_layout_is_kept(collection: EmbeddingTable, own_cache: Path) -> None:
    assert load_layout(collection) is None
    assert load_older_layout(collection) is None
    layout = some_layout(collection)
    save_layout(collection, layout)
    found = load_layout(collection)
    assert found is not None
    assert found.later == 3
    check(found, Rows(collection.segments))
    assert np.array_equal(found.points, layout.points)
    assert load_older_layout(collection) is None
    assert len(list(own_cache.iterdir())) == 1

    fewer = collection.commit("remove", removed=collection.files()[2:], rows_removed=8)
    assert load_layout(fewer) is None
    assert load_older_layout(fewer) is not None
    save_layout(fewer, some_layout(fewer))
    assert load_layout(fewer) is not None
    assert load_layout(collection) is None
    assert len(list(own_cache.iterdir())) == 1


def test_a_damaged_layout_is_none(collection: EmbeddingTable, own_cache: Path) -> None:
    layout = some_layout(collection)
    save_layout(collection, layout)
    (file,) = own_cache.iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1000], whole[100:], b"\x80\x04N.", whole * 1000):
        file.write_bytes(damaged)
        assert load_layout(collection) is None, len(damaged)
    nan = layout.points.copy()
    nan[7, 1] = np.nan
    wrongs: list[dict[str, Any]] = [
        {"points": layout.points * 1.1 + 1},
        {"points": nan},
        {"points": layout.points[:-1]},
        {"points": layout.points.astype(np.float64)},
        {"ids": layout.ids + 1},
        {"ids": layout.ids.astype(np.float64)},
        {"ids": np.array([{}] * len(layout.ids))},
        {"later": np.array([], np.int64)},
    ]
    for wrong in wrongs:
        np.savez(file, **pack(layout) | wrong)
        assert load_layout(collection) is None, wrong
    file.rename(file.with_name(file.name.replace(f"-{METHOD_VERSION}-", "-0-")))
    file.with_name(file.name.replace(f"-{METHOD_VERSION}-", "-0-")).write_bytes(whole)
    assert load_layout(collection) is None
    assert load_older_layout(collection) is None


# --- a process of its own -------------------------------------------------------------------------


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process takes its time before it begins: it finds another openTSNE."""
    folder = tmp_path / "slow" / "openTSNE"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("import time\ntime.sleep(100)\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    yield


def gone(pid: int) -> bool:
    """Wait until a process has ended, or is nothing but a number that nobody has asked for."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
            stat = Path(f"/proc/{pid}/stat")
            if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def wait_for(job: Job) -> None:
    job.wait(180)
    assert job.ended()


def test_a_process_lays_out_and_the_layout_is_kept(collection: EmbeddingTable) -> None:
    job = Job(collection)
    wait_for(job)
    assert job.failed() is None
    layout, found = job.result(), load_layout(collection)
    assert layout is not None
    assert found is not None
    rows = Rows(collection.segments)
    check(layout, rows)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(cores())  # as the process has: sums depend on it
    assert np.array_equal(layout.points, lay_out(rows, quiet).points)
    faiss.omp_set_num_threads(threads)
    assert np.array_equal(layout.points, found.points)
    assert job.progress() == (1, "placing images")
    assert gone(job.pid)
    job.stop()
    assert job.result() is layout


def test_a_process_starts_from_the_layout_before(
    collection: EmbeddingTable, own_cache: Path
) -> None:
    save_layout(collection, replace(some_layout(collection), later=0))
    before = load_layout(collection)
    fewer = collection.commit("remove", removed=collection.files()[2:], rows_removed=8)
    job = Job(fewer)
    wait_for(job)
    after = job.result()
    assert before is not None
    assert after is not None, job.failed()
    assert np.array_equal(after.points, before.points[:192])


def test_a_cache_that_cannot_be_written_costs_only_time(
    collection: EmbeddingTable, own_cache: Path
) -> None:
    own_cache.parent.mkdir(exist_ok=True)
    own_cache.write_text("in the way")
    job = Job(collection)
    wait_for(job)
    assert job.failed() is None
    assert job.result() is not None
    assert load_layout(collection) is None


def test_a_process_is_stopped(collection: EmbeddingTable, own_cache: Path, slow: None) -> None:
    job = Job(collection)
    assert job.progress()[1] == "comparing images"
    job.stop()
    assert job.ended()
    assert (job.result(), job.failed()) == (None, None)
    assert gone(job.pid)
    assert not own_cache.exists()


def test_a_process_that_dies_costs_the_map(collection: EmbeddingTable, slow: None) -> None:
    job = Job(collection)
    os.kill(job.pid, signal.SIGKILL)
    wait_for(job)
    assert job.result() is None
    assert "SIGKILL" in str(job.failed())


def test_a_process_says_in_a_line_why_there_is_no_map(collection: EmbeddingTable) -> None:
    for file in collection.files()[:1]:
        file.unlink()
    job = Job(collection)
    wait_for(job)
    assert job.result() is None
    failed = str(job.failed())
    assert failed.startswith("the data file ")
    assert "is missing: restore it" in failed
    assert "\n" not in failed


def test_a_process_that_fails_says_so(
    collection: EmbeddingTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openTSNE.py").write_text("print('hello')\nraise MemoryError('no room')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    job = Job(collection)
    wait_for(job)
    assert job.result() is None
    assert job.failed() == "no map (MemoryError: no room): try again"


def test_a_process_ends_with_who_started_it(collection: EmbeddingTable, slow: None) -> None:
    code = f"""if True:
        import sys
        sys.path[:] = {sys.path!r}
        from lookalike.storage import EmbeddingTable
        from lookalike.analysis.map import Job
        job = Job(EmbeddingTable.open({str(collection.path)!r}))
        print(job.pid, flush=True)
        input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)  # it is there
        parent.kill()
    assert gone(pid)
