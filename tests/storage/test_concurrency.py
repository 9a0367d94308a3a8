"""Processes that search, add and remove at the same time, and never disagree about an index."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lookalike
from helpers.small import picture, pictures, results, small_network
from helpers.worker import question
from lookalike import ingest
from lookalike.images.inputs.reader import content_hash
from lookalike.ingest import Options, build_index
from lookalike.storage import EmbeddingTable, commits, writing
from lookalike.system.arrays import Vectors

pytestmark = pytest.mark.long  # real processes, disks and signals: minutes

Rows = dict[int, tuple[str, str, Any]]
"""Path, hash of the content and vector of rows, by id."""


@dataclass(frozen=True)
class Small:
    """A folder of small pictures and an index of it."""

    photos: Path
    index: Path
    options: Options


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return small_network(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def made(network: Options, tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("made")
    photos = pictures(folder / "photos", 24, seed=0)
    build_index(photos, folder / "small.index", network)
    return Small(photos, folder / "small.index", network)


@pytest.fixture
def small(made: Small, tmp_path: Path) -> Small:
    """A copy of the pictures and their index."""
    shutil.copytree(made.photos, tmp_path / "photos")
    shutil.copytree(made.index, tmp_path / "small.index")
    lookalike.open_index(tmp_path / "small.index").relocate(tmp_path / "photos")
    return Small(tmp_path / "photos", tmp_path / "small.index", made.options)


def rows_of(stored: EmbeddingTable) -> Rows:
    """Read all rows of a version; no id and no path may be there twice."""
    rows: Rows = {}
    for file in stored.files():
        table = pq.read_table(file, partitioning=None)
        columns = (table[name].to_pylist() for name in ("path", "content_hash", "embedding"))
        for number, *row in zip(table["id"].to_pylist(), *columns, strict=True):
            assert number not in rows
            rows[number] = (row[0], row[1], row[2])
    paths = [path for path, *_ in rows.values()]
    assert len(paths) == len(set(paths)) == sum(stored.counts())
    return rows


def all_versions(index: Path) -> dict[int, Rows]:
    """Read all versions; in all of them an id has to be that of the same image."""
    versions: dict[int, Rows] = {}
    images: dict[int, tuple[str, str]] = {}
    given_up: set[int] = set()
    for version in range(EmbeddingTable.open(index).version + 1):
        stored = EmbeddingTable.open(index, version)
        rows = versions[version] = rows_of(stored)
        for number, (path, content, _) in rows.items():
            assert images.setdefault(number, (path, content)) == (path, content)
        assert not given_up & rows.keys()
        given_up = images.keys() - rows.keys()
        assert max(images) < stored.next_id
    return versions


def nearest(rows: Rows, query: Vectors, k: int) -> list[float]:
    """Return the distances of the k nearest rows, with nothing clever."""
    vectors = np.array([vector for *_, vector in rows.values()], np.float64)
    distances: list[float] = np.sort(np.linalg.norm(vectors - query, axis=1))[:k].tolist()
    return distances


def assert_is_answer(found: list[tuple[int, float]], rows: Rows, query: Vectors) -> None:
    """Every neighbour is a row, as far away as is said, and no other row is nearer."""
    assert len({number for number, _ in found}) == len(found)
    for number, distance in found:
        far = np.linalg.norm(np.array(rows[number][2], np.float64) - query)
        assert distance == pytest.approx(far, abs=1e-4)
    assert [distance for _, distance in found] == pytest.approx(nearest(rows, query, 5), abs=1e-4)


@pytest.mark.parametrize(
    ("seconds", "searching"), [(6, 2), pytest.param(60, 10, marks=pytest.mark.long)]
)
def test_some_search_while_others_write(small: Small, seconds: int, searching: int) -> None:
    index, new = small.index, small.photos / "new"
    tasks: list[tuple[object, ...]] = [("search", index, seconds, n) for n in range(searching)]
    tasks += [("add_more", index, seconds, new, n) for n in (1, 2)]
    tasks += [("remove_some", index, seconds, 0)]
    answers: list[tuple[int, int, list[tuple[int, float]]]] = []
    for code, said, complaint in results(tasks):
        assert code == 0 and not complaint, complaint
        answers += map(json.loads, said.splitlines())
    versions = all_versions(index)
    assert len(versions) > 3
    width = EmbeddingTable.open(index).about_model["width"]
    for version, number, found in answers:
        assert_is_answer(found, versions[version], question(number, width))
    assert len({version for version, *_ in answers}) > 1


def test_two_add_the_same_at_the_same_time(small: Small) -> None:
    new = pictures(small.photos / "new", 20, seed=500)
    task = ("command", "add", small.index, new, "--no-spark", "--wave", 8, "--json")
    done = results([task, task])
    assert [(code, complaint) for code, _, complaint in done] == [(0, "")] * 2
    rows = all_versions(small.index)[EmbeddingTable.open(small.index).version]
    wanted = {str(file.relative_to(small.photos)) for file in small.photos.rglob("*.png")}
    assert {path for path, *_ in rows.values()} == wanted


@pytest.mark.parametrize("removed", [False, True])
def test_waves_after_another_who_was_quicker(
    small: Small, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    new = pictures(small.photos / "new", 40, seed=500)

    def late(*arguments: Any) -> Any:
        monkeypatch.setattr("lookalike.ingest.waves.embed_all", ingest.embed_all)
        other, _ = ingest.add(EmbeddingTable.open(small.index), new, small.options)
        if removed:
            ingest.remove(other, ["new"])
        return ingest.embed_all(*arguments)

    monkeypatch.setattr("lookalike.ingest.waves.embed_all", late)
    waves = replace(small.options, wave=8)
    stored, _ = ingest.add(EmbeddingTable.open(small.index), new, waves)
    assert len(all_versions(small.index)[stored.version]) == 64


def paths_in(index: Path) -> set[str]:
    return {path for path, *_ in all_versions(index)[EmbeddingTable.open(index).version].values()}


@pytest.mark.long
def test_two_remove_others_of_the_same_segment(small: Small) -> None:
    before = paths_in(small.index)
    done = results([("command", "remove", small.index, f"00{n}.png") for n in range(4)])
    assert [code for code, *_ in done] == [0] * 4, done
    assert paths_in(small.index) == before - {f"00{n}.png" for n in range(4)}


@pytest.mark.long
def test_two_remove_the_same(small: Small) -> None:
    before = paths_in(small.index)
    done = results([("command", "remove", small.index, "00*")] * 2)
    for code, _, complaint in done:  # who comes second finds nothing to remove, and says so
        assert code == 0 or ("none was removed" in complaint and complaint.count("\n") == 1)
    assert 0 in [code for code, *_ in done]
    assert paths_in(small.index) == {path for path in before if not path.startswith("00")}


@pytest.mark.parametrize("also", ["remove", "compact"])
def test_a_change_beside_another_of_the_same_segment(small: Small, also: str) -> None:
    for number in (10, 11):  # more segments than one
        picture(small.photos / f"new-{number}.png", 600 + number)
        lookalike.open_index(small.index).add(small.photos, spark=False)
    for number in range(8):
        picture(small.photos / f"{number:03}.png", 700 + number)
    before = paths_in(small.index)
    other = {
        "remove": ("command", "remove", small.index, "01?.png"),
        "compact": ("compact", small.index),
    }
    adding = ("command", "add", small.index, small.photos / "0*.png", "--no-spark", "--wave", 4)
    done = results([adding, other[also]])
    assert [code for code, *_ in done] == [0, 0], done
    gone = {f"{n:03}.png" for n in range(10, 20)} if also == "remove" else set()
    assert paths_in(small.index) - gone == before - gone
    rows = rows_of(EmbeddingTable.open(small.index))
    contents = {path: content for path, content, _ in rows.values()}
    for number in range(8):
        name = f"{number:03}.png"
        assert contents[name] == content_hash((small.photos / name).read_bytes())


def test_two_make_the_same_index(small: Small, tmp_path: Path) -> None:
    out = tmp_path / "new.index"
    how = ("--model", small.options.model, "--weights", small.options.weights, "--no-spark")
    task = ("command", "index", small.photos, "--out", out, *how, "--wave", 8)
    done = sorted(results([task, task]))
    assert done[0][0] == 0, done
    code, _, complaint = done[1]
    # Who comes so late that there is something goes on with it.
    assert code == 0 or (complaint.startswith("error: ") and complaint.count("\n") == 1)
    assert code == 0 or "again" in complaint
    assert paths_in(out) == {file.name for file in small.photos.iterdir()}


@pytest.mark.long
def test_a_reader_stays_at_its_version(small: Small) -> None:
    held = lookalike.open_index(small.index)
    version, rows = held._table.version, rows_of(held._table)
    query = question(0, held._table.about_model["width"])
    before = held.search(query, 5)
    writer = lookalike.open_index(small.index)
    for number in range(50):
        if number % 2:
            writer.remove(f"{number // 2 % 20:03}.png")
        else:
            picture(small.photos / f"{number // 2 % 20:03}.png", 900 + number)
            writer.sync(spark=False)
    assert writer._table.version >= version + 50
    again = lookalike.open_index(small.index, version)
    for asked in (held, again):
        assert [*asked.search(query, 5)] == [*before]
        assert rows_of(asked._table) == rows
    assert held.refresh()
    assert rows_of(held._table) != rows


NAMES = ["a.png", "b.png", "c.png", "d/a.png", "d/b.png", "d/[1].png"]
Action = tuple[str, list[str]]
actions = st.tuples(
    st.sampled_from(["draw", "delete", "add", "remove", "sync", "compact"]),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True),
)


class Model:
    """What a collection has to hold, as a dict, and the collection itself."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.photos = folder / "photos"
        self.options = options
        self.seeds = iter(range(10_000, 20_000))
        for name in NAMES[:3]:
            picture(self.photos / name, next(self.seeds))
        self.index = build_index(self.photos, folder / "small.index", options)[0].path
        self.wanted = self.on_disk()
        self.versions = {0: dict(self.wanted)}

    def on_disk(self) -> dict[str, str]:
        return {
            str(file.relative_to(self.photos)): content_hash(file.read_bytes())
            for file in self.photos.rglob("*.png")
        }

    def stored(self, version: int | None = None) -> dict[str, str]:
        rows = rows_of(EmbeddingTable.open(self.index, version))
        return {path: content for path, content, _ in rows.values()}

    def draw(self, names: list[str]) -> None:
        for name in names:
            picture(self.photos / name, next(self.seeds))

    def delete(self, names: list[str]) -> None:
        for name in names:
            (self.photos / name).unlink(missing_ok=True)

    def add(self, names: list[str]) -> None:
        there = [name for name in names if (self.photos / name).exists()]
        if there:
            given = [self.photos / name for name in there]
            ingest.add(EmbeddingTable.open(self.index), given, self.options)
            self.wanted |= {name: self.on_disk()[name] for name in there}

    def remove(self, names: list[str]) -> None:
        there = [name for name in names if name in self.wanted]
        if there:
            ingest.remove(EmbeddingTable.open(self.index), there)
            for name in there:
                del self.wanted[name]

    def sync(self, names: list[str]) -> None:
        if self.on_disk():
            ingest.sync(EmbeddingTable.open(self.index), None, self.options)
            self.wanted = self.on_disk()

    def compact(self, names: list[str]) -> None:
        with writing(self.index):
            commits.compact(EmbeddingTable.open(self.index), few=2)

    def run(self, action: str, names: list[str]) -> None:
        getattr(self, action)(names)
        self.versions[EmbeddingTable.open(self.index).version] = dict(self.wanted)
        assert self.stored() == self.wanted


def try_sequence(steps: list[Action], network: Options, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    model = Model(folder, network)
    for action, names in steps:
        model.run(action, names)
    all_versions(model.index)
    for version, wanted in model.versions.items():
        assert model.stored(version) == wanted


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode in this process: those apart take longer to start than all the rest."""
    from lookalike.images.decoding.sandbox import open_decoder

    monkeypatch.setattr(
        "lookalike.images.open_decoder", lambda *_, **__: open_decoder(isolated=False)
    )


same_folder = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@settings(same_folder, max_examples=12)
@given(steps=st.lists(actions, min_size=4, max_size=10))
def test_any_sequence_of_changes_is_that_of_a_dict(
    steps: list[Action], network: Options, tmp_path: Path, quick: None
) -> None:
    try_sequence(steps, network, tmp_path / "tried")


@pytest.mark.long
@settings(same_folder, max_examples=150)
@given(steps=st.lists(actions, min_size=10, max_size=40))
def test_any_long_sequence_of_changes_is_that_of_a_dict(
    steps: list[Action], network: Options, tmp_path: Path, quick: None
) -> None:
    try_sequence(steps, network, tmp_path / "tried")


def test_of_those_that_make_an_index_anew_one_does(small: Small) -> None:
    how = ["--model", small.options.model, "--weights", small.options.weights, "--no-spark"]
    making = ["index", small.photos, "--out", small.index, *how, "--overwrite", "--wave", 4]
    before = rows_of(EmbeddingTable.open(small.index))
    for _ in range(3):
        done = results([("command", *making)] * 3)
        assert 0 in {code for code, *_ in done}
        for code, _, complaint in done:
            lines = [line for line in complaint.splitlines() if "error" in line.lower()]
            assert len(lines) == code, complaint
            assert not code or f"{small.index}: try again" in lines[0]
        assert sorted(path.name for path in small.index.parent.iterdir()) == [
            "photos",
            "small.index",
        ]
        after = rows_of(EmbeddingTable.open(small.index))
        assert {row[:2] for row in after.values()} == {row[:2] for row in before.values()}
