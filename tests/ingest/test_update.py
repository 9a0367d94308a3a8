"""An index that lives: added to, synchronised, removed from, gone on with, moved."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from PIL import Image
from safetensors.torch import load, save_file

import lookalike
from helpers.command import run, told
from helpers.rights import without_rights
from helpers.segments import collection_of, unit
from lookalike import Index, LookalikeError, ingest, models
from lookalike.analysis.result import finding
from lookalike.images import PREPROCESSING, Source
from lookalike.images.decoding.sandbox import IsolatedDecoder
from lookalike.ingest import Options, build_index, watch
from lookalike.ingest.export import write_embeddings
from lookalike.models.weights import FILES
from lookalike.storage import EmbeddingTable, commits, rebuild_folder, rebuilding


def paint(file: Path, seed: int) -> Path:
    """Draw a small picture, another for every seed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    Image.fromarray(small).resize((48, 32), Image.Resampling.BICUBIC).save(file)
    return file


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Photos and an index of them, which tests copy."""
    folder = tmp_path_factory.mktemp("first")
    for number in range(12):
        paint(folder / "photos" / f"{number % 3}" / f"{number:02}.png", number)
    return lookalike.create_index(folder / "photos", folder / "x.index", spark=False)


@pytest.fixture
def photos(first: Index, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first.path.parent / "photos", tmp_path / "photos"))


@pytest.fixture
def living(first: Index, photos: Path, tmp_path: Path) -> Index:
    copied = shutil.copytree(first.path, tmp_path / "x.index")
    lookalike.open_index(copied).relocate(photos)
    return lookalike.open_index(copied)


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(IsolatedDecoder, "decode_pixels", fail)


def rows_of(index: Index) -> dict[str, dict[str, Any]]:
    """Return the rows by their paths, of which none is there twice."""
    rows = pa.concat_tables(map(pq.read_table, index._table.files())).to_pylist()
    by_path = {row["path"]: row for row in rows}
    assert len(by_path) == len(rows) == len({row["id"] for row in rows})
    assert sum(index._table.counts()) == len(rows)
    return by_path


def names_of(photos: Path) -> set[str]:
    return {str(file.relative_to(photos)) for file in photos.rglob("*.png")}


def test_what_is_new_is_found_at_once(living: Index, photos: Path) -> None:
    before = rows_of(living)
    new = paint(photos / "1" / "new.png", 100)
    done = living.add(photos)
    assert (done.new, done.changed, done.same, done.images, done.version) == (1, 0, 12, 1, 1)
    after = rows_of(living)
    assert {path: row for path, row in after.items() if path in before} == before
    assert after["1/new.png"]["id"] == 12
    assert living.search(Image.open(new), k=1)[0].path == "1/new.png"
    assert lookalike.open_index(living.path).search(Image.open(new), k=1)[0].distance < 1e-3
    assert living.add(photos).version == living.add([new]).version == 1, "nothing to do"


def test_what_has_changed_takes_the_place_of_what_was(living: Index, photos: Path) -> None:
    before = rows_of(living)
    paint(photos / "0" / "03.png", 200)
    done = living.add(photos / "0")
    assert (done.new, done.changed, done.same, done.version) == (0, 1, 3, 1)
    after = rows_of(living)
    assert after.keys() == before.keys()
    assert [path for path in after if after[path] != before[path]] == ["0/03.png"]
    assert after["0/03.png"]["id"] == 12, "another picture, another id"
    assert after["0/03.png"]["content_hash"] != before["0/03.png"]["content_hash"]
    assert not np.allclose(after["0/03.png"]["embedding"], before["0/03.png"]["embedding"])


def test_the_same_bytes_are_not_embedded_again(
    living: Index, photos: Path, no_decoder: None
) -> None:
    before = rows_of(living)
    (photos / "0").rename(photos / "moved")
    shutil.copyfile(photos / "1" / "01.png", photos / "copy.png")
    os.utime(photos / "2" / "02.png")
    done = living.sync()
    assert (done.new, done.changed, done.removed, done.images) == (5, 1, 4, 6)
    after = rows_of(living)
    assert after.keys() == names_of(photos)
    for path, row in after.items():
        old = before[{"copy.png": "1/01.png"}.get(path, path.replace("moved", "0"))]
        assert row["embedding"] == old["embedding"]
        assert [row[key] for key in ("width", "height", "status")] == [48, 32, "ok"]


def test_a_sync_makes_the_index_equal_to_the_folder(living: Index, photos: Path) -> None:
    paint(photos / "new.png", 100)
    paint(photos / "1" / "04.png", 101)
    (photos / "2" / "05.png").unlink()
    (photos / "0" / "text.png").write_text("no picture")
    said: list[tuple[str, str]] = []
    would = living.sync(dry_run=True, on_change=lambda sign, path: said.append((sign, path)))
    assert sorted(said) == [
        ("+", "0/text.png"), ("+", "new.png"), ("-", "2/05.png"), ("~", "1/04.png")
    ]  # fmt: skip
    assert (would.new, would.changed, would.removed, would.version) == (2, 1, 1, 0)
    assert lookalike.open_index(living.path)._table.version == 0
    done = living.sync()
    assert (done.new, done.changed, done.removed, done.images, done.skipped) == (2, 1, 1, 2, 1)
    assert rows_of(living).keys() == names_of(photos)
    assert living.sync().to_dict() == {**would.to_dict(), "new": 0, "changed": 0, "removed": 0,
                                       "same": 13, "version": done.version}  # fmt: skip


def test_a_sync_of_a_part_leaves_the_rest(living: Index, photos: Path) -> None:
    for name in ("0/00.png", "1/01.png"):
        (photos / name).unlink()
    assert living.sync(photos / "1").removed == 1
    assert "0/00.png" in rows_of(living)


def test_nothing_is_gone_that_cannot_be_looked_at(
    living: Index, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def closed(folder: Any) -> Any:
        if folder == str(photos / "1"):
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scan(folder)

    (photos / "0" / "00.png").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", closed)
        done = living.sync()
    assert (done.new, done.removed) == (1, 1)
    reason = "unreadable folder: Permission denied"
    assert list(living._table.skipped()) == [("1", reason)]
    assert len(living) == 11
    done = living.sync()
    assert (done.new, done.removed, len(living)) == (0, 1, 11)


def test_an_empty_folder_empties_nothing(living: Index, photos: Path) -> None:
    shutil.rmtree(photos)
    photos.mkdir()
    with pytest.raises(LookalikeError, match="no images in"):
        living.sync()
    assert len(lookalike.open_index(living.path)) == 12


def test_labels_come_change_and_stay(living: Index, photos: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("image,Class\n00.png,red\n01.png,blue\nnone.png,x\n")
    done = living.add(photos, labels=labels)
    assert (done.changed, done.same, done.unused_labels) == (2, 10, 1)
    labels.write_text("image,Class\n00.png,green\n")
    assert living.add(photos, labels=labels).changed == 1
    paint(photos / "1" / "01.png", 300)
    assert living.sync().changed == 1
    rows = rows_of(living)
    assert (rows["0/00.png"]["label"], rows["1/01.png"]["label"]) == ("green", "blue")


def test_images_outside_the_root(living: Index, tmp_path: Path) -> None:
    elsewhere = paint(tmp_path / "elsewhere" / "100% new.png", 100)
    done = living.add(tmp_path / "elsewhere")
    assert (done.new, len(living)) == (1, 13)
    assert living._table.source.also == (str(tmp_path / "elsewhere"),)
    hits = lookalike.open_index(living.path).search(elsewhere, k=12)
    assert hits.query.id == 12 and 12 not in [hit.id for hit in hits]
    found = living.search(Image.open(elsewhere), k=1)
    assert found.to_dict()["neighbors"][0]["path"] == str(elsewhere)
    assert found.picture()
    assert living.sync().removed == 0
    elsewhere.unlink()
    paint(tmp_path / "elsewhere" / "other.png", 101)
    assert living.sync(tmp_path / "elsewhere").removed == 1


@pytest.mark.parametrize(
    ("names", "gone"),
    [
        (["{photos}/0/03.png"], {"0/03.png"}),
        (["0/03.png", "1/01.png"], {"0/03.png", "1/01.png"}),
        (["{photos}/2"], {"2/02.png", "2/05.png", "2/08.png", "2/11.png"}),
        (["*/0?.png"], {f"{n % 3}/{n:02}.png" for n in range(10)}),
        (["1/*", "1/01.png"], {"1/01.png", "1/04.png", "1/07.png", "1/10.png"}),
        (["*"], {f"{n % 3}/{n:02}.png" for n in range(12)}),
        (["{photos}"], {f"{n % 3}/{n:02}.png" for n in range(12)}),
    ],
)
def test_removing(living: Index, photos: Path, names: list[str], gone: set[str]) -> None:
    given = [name.format(photos=photos) for name in names]
    before = rows_of(living)
    assert living.remove(given, dry_run=True).removed == len(gone)
    assert living.remove(given).removed == len(gone)
    after = {path: row for path, row in before.items() if path not in gone}
    assert (rows_of(living) if after else {}) == after
    assert len(living) == len(after)
    assert living._table.next_id == 12, "no id is given twice"
    assert len(list(photos.rglob("*.png"))) == 12, "the files stay"
    old = lookalike.open_index(living.path, version=0)
    assert len(old.search(photos / "0" / "00.png", k=20)) == 11


def test_nothing_is_removed_where_a_name_is_of_nothing(living: Index) -> None:
    with pytest.raises(LookalikeError, match=r"no image nothing.png, 9/\*; none was removed"):
        living.remove(["0/00.png", "nothing.png", "9/*"])
    assert len(living) == 12


def test_an_index_of_nothing_takes_new_images(living: Index, photos: Path) -> None:
    living.remove("*")
    assert (len(living), list(living._table.skipped())) == (0, [])
    assert living.search(photos / "0" / "00.png", k=3).neighbors == ()
    assert living.add(photos).images == 12
    assert sorted(row["id"] for row in rows_of(living).values()) == list(range(12, 24))


def test_versions(living: Index, photos: Path) -> None:
    paint(photos / "new.png", 100)
    living.sync()
    living.remove("new.png")
    assert [(one["version"], one["what"], one["images"]) for one in living.versions()] == [
        (2, "remove", 12), (1, "sync", 13), (0, "index", 12)
    ]  # fmt: skip
    old = lookalike.open_index(living.path, version=1)
    assert (len(old), old.refresh(), len(old), old.refresh()) == (13, True, 12, False)
    with pytest.raises(LookalikeError, match=r"no version 3: .*--history"):
        lookalike.open_index(living.path, version=3)
    assert told("search", living.path, photos / "new.png", "--version", "1", "-k", "20")[
        "neighbors"
    ]
    assert len(told("info", living.path, "--history")["versions"]) == 3


def test_small_segments_become_one(living: Index, photos: Path) -> None:
    before = rows_of(living)
    for number in range(commits.MIN_MERGED_SEGMENTS):
        paint(photos / f"new {number}.png", 100 + number)
        living.add(photos)
    assert len(living._table.files()) < commits.MIN_MERGED_SEGMENTS
    after = rows_of(living)
    assert len(after) == 12 + commits.MIN_MERGED_SEGMENTS
    assert {path: after[path] for path in before} == before
    assert [row["id"] for row in after.values()] == list(range(20))


# Going on.


class _Killed(Exception):
    pass


def stop_after(waves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run die when it has committed so many waves."""
    made = 0

    def counted(make: Callable[..., Any]) -> Callable[..., Any]:
        def commit(*given: Any, **options: Any) -> Any:
            nonlocal made
            if made == waves:
                raise _Killed
            made += 1
            return make(*given, **options)

        return commit

    monkeypatch.setattr(EmbeddingTable, "create", counted(EmbeddingTable.create))
    monkeypatch.setattr(commits, "grow", counted(commits.grow))


@pytest.mark.parametrize("overwrite", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.long
def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path, living: Index, overwrite: bool) -> None:
    photos = tmp_path / "many"
    for number in range(70):
        paint(photos / f"{number:02}.png", number)
    (photos / "07.png").write_text("no picture")
    out = living.path if overwrite else tmp_path / "y.index"
    options = Options(spark=False, wave=16)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Killed):
        stop_after(2, patch)
        build_index(photos, out, options, overwrite)
    if overwrite:
        assert len(lookalike.open_index(out)) == 12, "the old one, until the new one is complete"
    else:
        assert lookalike.open_index(out)._table.counts() == (15, 1)  # half of 16 a commit
    stored, report = build_index(photos, out, options, overwrite)
    assert (report.images, report.skipped, report.same) == (54, 0, 16)
    assert stored.counts() == (69, 1)
    again = build_index(photos, out, options)[1]
    assert (again.images, again.same) == (0, 70)
    assert rows_of(Index(stored)).keys() == names_of(photos)
    whole, _ = build_index(photos, tmp_path / "whole.index", options)
    assert list(rows_of(Index(stored)).values()) == list(rows_of(Index(whole)).values())
    left = {entry.name for entry in (*tmp_path.iterdir(), *out.iterdir())}
    assert not any(name.startswith(".") and name != ".writers" for name in left)


def test_a_run_that_fails_before_its_first_wave_leaves_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(0, monkeypatch)
    with pytest.raises(_Killed):
        build_index(photos, tmp_path / "y.index", Options(spark=False))
    assert not (tmp_path / "y.index").exists()


def test_what_a_killed_run_has_left_is_cleared(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "y.index"
    (out / "data" / "folder").mkdir(parents=True)
    (out / "data" / "folder" / ".writing").touch()
    (out / "_model").mkdir()
    (out / ".writers").touch()
    with pytest.raises(LookalikeError, match="was never finished"):
        lookalike.open_index(out)
    assert len(lookalike.create_index(photos, out, spark=False)) == 12
    assert not (out / "data" / "folder").exists()


def test_an_index_of_other_images_is_not_gone_on_with(
    living: Index, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(LookalikeError, match="already exists, made of"):
        lookalike.create_index(tmp_path, living.path)
    with pytest.raises(LookalikeError, match="already exists, in f32"):
        lookalike.create_index(photos, living.path, precision="bf16")
    assert living._table.newest().version == 0


@pytest.mark.parametrize("kind", [pytest.param("uri", marks=pytest.mark.long), "table"])
def test_what_spark_reads_is_gone_on_with_too(photos: Path, tmp_path: Path, kind: str) -> None:
    table = tmp_path / "table"
    table.mkdir()

    def write(name: str, files: list[Path]) -> None:
        content = pa.array([file.read_bytes() for file in files], pa.binary())
        pq.write_table(pa.table({"image": content}), table / name)

    write("a.parquet", sorted(photos.rglob("*.png")))
    given = photos.as_uri() if kind == "uri" else str(table)
    out = tmp_path / "y.index"
    index = lookalike.create_index(given, out, precision="f32")
    assert len(index) == 12
    assert build_index(given, out, Options())[1].same == 12
    new = [paint(photos / "new" / f"{number}.png", 50 + number) for number in range(2)]
    write("b.parquet", new)
    done = index.sync()
    assert (done.new, done.same, done.images, len(index)) == (2, 12, 2, 14)
    shutil.rmtree(photos / "0")
    (table / "b.parquet").unlink()
    assert index.sync().removed == (4 if kind == "uri" else 2)
    rows_of(index)


# Moving.


def test_an_index_and_its_photos_may_move(living: Index, photos: Path, tmp_path: Path) -> None:
    copied = tmp_path / "usb" / "x.index"
    shutil.copytree(living.path, copied)
    photos.rename(tmp_path / "usb" / "photos")
    index = lookalike.open_index(copied)
    with pytest.raises(LookalikeError, match="and others are missing"):
        index.relocate(tmp_path / "nowhere")
    index.relocate(tmp_path / "usb" / "photos")
    assert index.search(tmp_path / "usb" / "photos" / "0" / "00.png").query.id == 0
    assert lookalike.open_index(copied).sync().same == 12
    assert lookalike.open_index(copied)._table.version == 0


def test_other_readers_follow(living: Index, photos: Path) -> None:
    paint(photos / "new.png", 100)
    living.sync()
    living.remove("0/*")
    paths = DeltaTable(living.path).to_pyarrow_table()["path"].to_pylist()
    assert sorted(paths) == sorted(rows_of(living))


@pytest.mark.parametrize("shut", ["all", "folder"])
def test_a_dry_run_needs_no_more_than_reading(
    photos: Path, folder_of_all: Path, monkeypatch: pytest.MonkeyPatch, shut: str
) -> None:
    shutil.copytree(photos, folder_of_all / "photos")
    photos, temporary = folder_of_all / "photos", folder_of_all / "temporary"
    living = lookalike.create_index(photos, folder_of_all / "x.index", spark=False)
    temporary.mkdir()
    temporary.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    if shut == "folder":
        (living.path / ".writers").chmod(0o666)
    paint(photos / "new.png", 100)
    (photos / "0" / "00.png").unlink()
    before = {file: file.stat().st_mtime_ns for file in living.path.rglob("*")}
    with without_rights():
        opened = lookalike.open_index(living.path)
        done = opened.sync(dry_run=True)
        assert (done.new, done.removed, done.same) == (1, 1, 11)
        assert opened.add(photos, dry_run=True).new == 1
        assert opened.remove("1", dry_run=True).removed == 4
        with pytest.raises((LookalikeError, PermissionError)):
            opened.sync()
    assert {file: file.stat().st_mtime_ns for file in living.path.rglob("*")} == before
    assert list(temporary.iterdir()) == []


# The command line.


def test_commands(living: Index, photos: Path, tmp_path: Path) -> None:
    new = paint(tmp_path / "new" / "new.png", 100)
    done = told("add", living.path, new)
    assert (done["new"], done["images"], done["version"]) == (1, 1, 1)
    names = tmp_path / "names.txt"
    names.write_text(f"{new}\n0/00.png\n")
    listed = run("remove", living.path, "--from", names, "--dry-run")
    assert listed.out.splitlines() == [f"- {new}", "- 0/00.png"]
    assert "would be: 2 removed" in listed.err
    assert told("remove", living.path, "--from", names)["removed"] == 2
    said = run("sync", living.path).err
    assert "1 new: " in said and "is at version 3, embedded with efficientnet-lite0" in said
    assert "nothing to do: 12 inputs" in run("sync", living.path).err
    again = run("index", photos, "--out", living.path, "--no-spark")
    assert (again.code, again.out) == (0, "")
    assert "nothing is new or changed: 12 inputs" in again.err
    assert len(json.loads(run("info", living.path, "--history", "--json").out)["versions"]) == 4
    assert ingest.Changed(3).to_dict()["version"] == 3


def test_only_what_lies_in_the_named_places_may_be_gone(photos: Path, tmp_path: Path) -> None:
    paint(photos / "1" / "sub" / "a.png", 20)
    paint(photos / "10" / "b.png", 21)
    index = lookalike.create_index(photos, tmp_path / "x.index", spark=False)
    gone = {"1/sub/a.png", "10/b.png", "0/00.png", "2/02.png"}
    for name in gone:
        (photos / name).unlink()
    told: list[str] = []

    def would_go(*places: Path | str) -> set[str]:
        told.clear()
        index.sync(
            list(map(str, places)), dry_run=True, on_change=lambda _, path: told.append(path)
        )
        return set(told)

    assert would_go(photos / "1") == {"1/sub/a.png"}
    assert would_go(photos / "0", photos / "1" / "sub") == {"0/00.png", "1/sub/a.png"}
    assert would_go(photos / "0" / "03.png") == set()
    assert would_go(photos) == gone
    many = [photos / f"{name}.png" for name in range(40)]  # as of a glob
    for number, file in enumerate(many):
        paint(file, 30 + number)
    assert {"1/sub/a.png", "2/02.png"}.isdisjoint(would_go(photos / "0", *many))
    assert would_go(photos / "0", *many) - {file.name for file in many} == {"0/00.png"}
    for file in many:
        file.unlink()
    assert index.sync().removed == 4


@pytest.mark.parametrize("left", ["a broken link", "a file"])
def test_a_root_that_is_no_folder_now_empties_nothing(
    photos: Path, tmp_path: Path, left: str
) -> None:
    root = tmp_path / "root"
    root.symlink_to(photos)
    index = lookalike.create_index(root, tmp_path / "x.index", spark=False)
    photos.rename(tmp_path / "away")  # as a disk is that was mounted there
    if left == "a file":
        root.unlink()
        root.write_text("not mounted")
    for change in (index.sync, index.add):
        with pytest.raises(LookalikeError, match=r"root is missing: .* `lookalike root`"):
            change(str(root))
    with pytest.raises(LookalikeError, match="is missing: check"):
        index.sync()
    index.refresh()
    assert (len(index), index._table.version) == (12, 0)


def test_a_time_that_no_table_holds(photos: Path, tmp_path: Path) -> None:
    far = photos / "0" / "00.png"
    os.utime(far, ns=(2**63 + 10**18,) * 2)  # some file systems take less
    index = lookalike.create_index(photos, tmp_path / "x.index", spark=False)
    assert (len(index), index.sync().same) == (12, 12)
    (times,) = (row["modified"] for path, row in rows_of(index).items() if path == "0/00.png")
    assert times == min(far.stat().st_mtime_ns, 2**63 - 1)


def test_weights_of_the_same_name_are_told_apart(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for photo in sorted(photos.rglob("*.png"))[3:]:
        photo.unlink()
    earlier = load(FILES["cars"].read_bytes())
    earlier["conv1.weight"] *= 1.01
    save_file(earlier, tmp_path / "earlier.safetensors")
    with monkeypatch.context() as before:
        before.setitem(FILES, "cars", tmp_path / "earlier.safetensors")
        old = lookalike.create_index(photos, tmp_path / "x.index", model="resnet18", spark=False)
    assert not models.is_bundled(old._table.model)

    with pytest.raises(
        LookalikeError, match="resnet18 and other weights named cars: choose another"
    ):
        lookalike.create_index(photos, tmp_path / "x.index", weights="cars")
    shutil.copy(next(photos.rglob("*.png")), photos / "again.png")
    assert old.sync().images == 1  # it goes on with the weights that it has
    # Where no weights are asked for, and the very network, or none.
    for number, model in enumerate(("auto", "resnet18")):
        shutil.copy(photos / "again.png", photos / f"later{number}.png")
        again = lookalike.create_index(photos, tmp_path / "x.index", model=model, spark=False)
        assert again.report is not None and again.report.images + again.report.same == 5 + number
    assert not models.is_bundled(lookalike.open_index(tmp_path / "x.index")._table.model)
    anew = lookalike.create_index(photos, tmp_path / "x.index", overwrite=True, spark=False)
    assert models.is_bundled(anew._table.model)
    assert models.is_bundled(models.at_precision(models.resolve(), "bf16"))


def test_a_successor_of_another_network_is_not_gone_on_with(photos: Path, tmp_path: Path) -> None:
    for photo in sorted(photos.rglob("*.png"))[3:]:
        photo.unlink()
    out = tmp_path / "x.index"
    lookalike.create_index(photos, out, model="resnet18", spark=False)
    lookalike.create_index(
        photos, rebuild_folder(out), model="resnet18", spark=False
    )  # as one that was killed leaves it
    anew = lookalike.create_index(photos, out, overwrite=True, spark=False)
    assert anew._table.model.backbone == "efficientnet-lite0"


# Nothing of others goes.


def test_what_is_skipped_stands_in_a_file_of_its_own(photos: Path, tmp_path: Path) -> None:
    for photo in sorted(photos.rglob("*.png"))[3:]:
        photo.unlink()
    mine = tmp_path / "skipped.csv"
    mine.write_text("mine")
    (photos / "0" / "text.png").write_text("no picture")
    for out in (tmp_path / "x.csv", tmp_path / "x"):  # each has its own
        own = tmp_path / f"{out.name}.skipped.csv"
        assert write_embeddings(photos, out, Options(spark=False)).skipped == 1
        assert own.read_text().splitlines()[1].startswith('"0/text.png",')
        with pytest.raises(LookalikeError, match=f"{out.name} already exists"):
            write_embeddings(photos, out, Options(spark=False))
        assert write_embeddings(photos, out, Options(spark=False), overwrite=True).skipped == 1
        # Of a table that is gone it tells nothing any longer.
        shutil.rmtree(out) if out.is_dir() else out.unlink()
        assert write_embeddings(photos, out, Options(spark=False)).skipped == 1
        told = own.read_text()
        own.write_text("mine")
        with pytest.raises(LookalikeError, match="was not written by lookalike"):
            write_embeddings(photos, out, Options(spark=False), overwrite=True)
        assert own.read_text() == "mine"
        own.write_text(told)
    assert mine.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == [
        "photos", "skipped.csv", "x", "x.csv", "x.csv.skipped.csv", "x.skipped.csv"
    ]  # fmt: skip


def test_of_two_that_make_the_same_file_one_does(photos: Path, tmp_path: Path) -> None:
    def make(_: int) -> object:
        try:
            return write_embeddings(photos, tmp_path / "x.csv", Options(spark=False))
        except LookalikeError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(make, range(2)))
    (refused,) = (one for one in done if isinstance(one, str))
    assert "which stays" in refused or "already exists" in refused
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 13


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_comes_meanwhile_stays(tmp_path: Path, overwrite: bool) -> None:
    out = tmp_path / "found"
    with (
        nullcontext() if overwrite else pytest.raises(LookalikeError, match="which stays"),
        finding(out, "pairs", Source("files", "/photos"), overwrite),
    ):
        out.mkdir()
        (out / "mine").touch()
    assert (out / "mine").exists() != overwrite


def test_one_at_a_time_makes_an_index_anew(living: Index, photos: Path) -> None:
    with rebuilding(living.path):
        with pytest.raises(LookalikeError, match=f"rebuilding {living.path}: try again") as error:
            lookalike.create_index(photos, living.path, overwrite=True, spark=False)
        assert "\n" not in str(error.value)
    before = rows_of(living)
    assert len(lookalike.create_index(photos, living.path, overwrite=True, spark=False)) == 12
    assert rows_of(lookalike.open_index(living.path)).keys() == before.keys()
    assert [one.name for one in living.path.parent.iterdir() if "next" in one.name] == []


# Wherever a process goes.


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


CALLS: dict[str, Callable[[Index], object]] = {
    "remove": lambda index: index.remove("0.jpg"),
    "remove all": lambda index: index.remove("*"),
    "vacuum": lambda index: index.vacuum(0),
    "repair": lambda index: index.repair(),
    "root": lambda index: index._table.move("/elsewhere"),
    "also": lambda index: index._table.add_folders(["/elsewhere"]),
    "compact": lambda index: commits.compact(index._table, few=2),
    "signatures": lambda index: index._searcher.get_ready(),
    "check": lambda index: index.check(),
    "refresh": lambda index: index.refresh(),
    "versions": lambda index: index.versions(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_index_stays_the_one_that_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[Index], object]
) -> None:
    for seed, name in enumerate(("here", "there")):
        collection_of(unit((40, 16), seed), tmp_path / name / "x.index", [20, 20])
    here, there = tmp_path / "here", tmp_path / "there"
    monkeypatch.chdir(here)
    opened = lookalike.open_index("x.index")
    before = everything(there)
    undisturbed = Path(shutil.copytree(here / "x.index", tmp_path / "undisturbed" / "x.index"))
    monkeypatch.chdir(there)
    call(opened)
    assert everything(there) == before
    call(lookalike.open_index(undisturbed))
    one, other = (EmbeddingTable.open(path) for path in (here / "x.index", undisturbed))
    assert (one.version, one.counts(), one.source) == (other.version, other.counts(), other.source)
    assert opened.path == here / "x.index"


def test_additions_go_to_the_index_that_was_opened(
    living: Index, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    shutil.copytree(living.path, there / "x.index")
    shutil.copytree(photos, there / "photos")
    monkeypatch.chdir(tmp_path)
    opened = lookalike.open_index("x.index")
    scans = watch.watch_folder(Path("x.index"), "photos", Options(spark=False), every=0)
    next(scans)
    before = everything(there)
    paint(photos / "new.png", 100)
    os.utime(photos / "new.png", (1, 1))  # it counts at once
    monkeypatch.chdir(there)
    assert opened.add(photos).new == 1
    (photos / "new.png").unlink()
    assert opened.sync().removed == 1
    paint(photos / "newer.png", 101)
    os.utime(photos / "newer.png", (1, 1))
    scan = next(scans)
    assert scan.error is None and scan.changed is not None and scan.changed.new == 1
    assert everything(there) == before
    assert "newer.png" in rows_of(lookalike.open_index(living.path))


def test_a_mix_of_two_preprocessings_is_said_once(
    living: Index, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (rest := tmp_path / "more").mkdir()
    shutil.copy(next(photos.glob("*/*.png")), rest / "new.png")
    about = living.path / "_lookalike.json"
    living.add(photos)
    assert "older preprocessing" not in caplog.text
    about.write_text(about.read_text().replace(PREPROCESSING, "squash-224-bilinear-3"))
    older = lookalike.open_index(living.path)
    for _ in range(2):
        older.add(photos)
    lookalike.create_index(rest, tmp_path / "y.index", like=living.path, spark=False)
    said = f"{living.path} was made with an older preprocessing: "
    assert "\n".join(caplog.messages).count(said) == 1


@pytest.mark.parametrize("what", ["add", "sync"])
def test_what_an_older_preprocessing_skipped_is_tried_once(
    photos: Path, tmp_path: Path, what: str
) -> None:
    whole = paint(odd := photos / "0" / "odd.png", 90).read_bytes()
    odd.write_bytes(bytes(8) + whole[8:])  # read as an older release might have
    (photos / "0" / "text.png").write_text("no picture")
    index = lookalike.create_index(photos, tmp_path / "x.index", spark=False)
    then = odd.stat().st_mtime_ns
    odd.write_bytes(whole)
    os.utime(odd, ns=(then, then))
    assert (getattr(index, what)(photos).changed, index._table.counts()) == (0, (12, 2))
    about = index.path / "_lookalike.json"
    said = json.loads(about.read_text().replace(PREPROCESSING, "squash-224-bilinear-3"))
    del said["tried"]  # as older releases leave it
    about.write_text(json.dumps(said))
    before = rows_of(index)
    older = lookalike.open_index(index.path)
    assert older.sync(dry_run=True).changed == older.add(photos, dry_run=True).changed == 2
    assert json.loads(about.read_text()) == said
    done = getattr(older, what)(photos)
    assert (done.changed, done.images, done.skipped, done.same) == (2, 1, 1, 12)
    after = rows_of(older)
    assert after["0/odd.png"]["status"] == "ok"
    assert after["0/text.png"]["reason"] == before["0/text.png"]["reason"]
    assert after["0/text.png"]["id"] > max(row["id"] for row in before.values())
    for again in (older, lookalike.open_index(index.path)):
        assert getattr(again, what)(photos).version == done.version, "it was tried"
    (photos / "0" / "text.png").write_text("no picture either")
    assert (older.sync().changed, older.sync().changed) == (1, 0)


def test_a_table_does_not_go_into_an_index_of_a_folder(living: Index, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"x"]}), table := tmp_path / "t.parquet")
    with pytest.raises(LookalikeError) as error:
        living.add(table)
    assert str(error.value) == (
        f"{living.path} holds images of a folder, but the input is of a Parquet table: "
        "make another index for it"
    )
