"""An index gets another model: nothing but vectors changes, whatever happens meanwhile."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torchvision.models import shufflenet_v2_x0_5

from helpers import tiny_networks
from helpers.command import run, told
from helpers.small import picture, pictures
from lookalike import CallableModel, Index, LookalikeError, create_index, open_index
from lookalike.ingest import Options, add, build_index, embed_all, remove, upgrade
from lookalike.ingest.replacement import Replacement
from lookalike.storage import EmbeddingTable, is_index

Rows = dict[str, tuple[int, str | None, str, Any]]


def network(folder: Path, seed: int) -> Options:
    torch.manual_seed(seed)
    file = folder / f"weights-{seed}.pth"
    torch.save(shufflenet_v2_x0_5().state_dict(), file)
    return Options(
        model="shufflenet_v2_x0_5", weights=str(file), precision="f32", spark=False, wave=4
    )


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return network(tmp_path_factory.mktemp("old"), 0)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return network(tmp_path_factory.mktemp("new"), 1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return pictures(tmp_path / "photos", 24, seed=0)


@pytest.fixture
def stored(photos: Path, old: Options, tmp_path: Path) -> EmbeddingTable:
    """An index of 24 pictures, of which one was removed, and one that is none."""
    (photos / "broken.png").write_bytes(b"junk")
    made, _ = build_index(photos, tmp_path / "x.index", old)
    made, _ = remove(made, [str(photos / "007.png")])
    (photos / "007.png").unlink()
    return made


def rows_of(table: EmbeddingTable) -> Rows:
    names = ["path", "id", "label", "status", "embedding"]
    rows = pa.concat_tables([pq.read_table(file, columns=names) for file in table.files()])
    return {path: tuple(rest) for path, *rest in zip(*rows.to_pydict().values(), strict=True)}


def without_vectors(rows: Rows) -> dict[str, tuple[Any, ...]]:
    return {path: row[:3] for path, row in rows.items()}


def nearest(table: EmbeddingTable, photo: Path) -> str:
    """Return the path of the row nearest to the vector of a picture."""
    index = Index(table)
    return index.search(index.embedder(photo), 1).neighbors[0].path


def assert_upgraded(now: EmbeddingTable, before: Rows, photos: Path, new: Options | str) -> None:
    """It has the rows that were there, with the vectors of the new model, and is whole."""
    rows = rows_of(now)
    assert without_vectors(rows) == without_vectors(before)
    index = Index(now)
    for path, (number, _, status, vector) in rows.items():
        if status == "ok":
            wanted = index.embedder(photos / path)
            np.testing.assert_allclose(vector, wanted, rtol=0, atol=1e-5)
            was = before[path][3]
            assert len(was) != len(vector) or not np.allclose(vector, was, atol=1e-3)
            assert index.search(wanted, 1).neighbors[0].id == number
    assert index.check().ok
    assert not (now.path / "_upgrade").exists()
    weights = new if isinstance(new, str) else Path(new.weights).name
    assert now.model.weights == weights == index.info()["model"]["weights"]


def test_vectors_change_and_nothing_else(
    stored: EmbeddingTable, photos: Path, old: Options, new: Options
) -> None:
    before, model = rows_of(stored), stored.model
    now, done = upgrade(stored, new)
    assert_upgraded(now, before, photos, new)
    assert done.embedded == len(before) == 24
    assert (done.before["images"], done.before["skipped"]) == (23, 1)
    assert (done.after["images"], done.after["skipped"]) == (23, 1)
    assert done.before["weights"] != done.after["weights"]
    assert now.history()[0]["what"] == "upgrade"
    # The version before has its own model and vectors.
    earlier = open_index(now.path, stored.version)
    assert earlier._table.model == model
    assert rows_of(earlier._table) == before
    found = earlier.search(earlier.embedder(photos / "003.png"), 1).neighbors[0]
    assert found.path == "003.png" and found.distance < 1e-3
    # What comes later is of the new model.
    picture(photos / "later.png", 99)
    added, changed = add(now, None, Options(spark=False))
    assert (changed.new, changed.same) == (1, 24)
    assert rows_of(added)["later.png"][0] == max(row[0] for row in before.values()) + 1
    assert nearest(added, photos / "later.png") == "later.png"
    # And again, back to the first model.
    again, done = upgrade(added, old)
    assert again.model == model
    assert done.embedded == 25
    again_rows = rows_of(again)
    for path, row in before.items():
        if row[3] is not None:
            np.testing.assert_allclose(again_rows[path][3], row[3], rtol=0, atol=1e-5)


def test_the_same_model_changes_nothing(stored: EmbeddingTable, old: Options) -> None:
    same, done = upgrade(stored, old)
    assert (same.version, done.embedded) == (stored.version, 0)


def test_pictures_that_changed_or_are_gone(
    stored: EmbeddingTable, photos: Path, new: Options
) -> None:
    before = rows_of(stored)
    (photos / "001.png").unlink()
    picture(photos / "002.png", 555)  # as big as before, of another time
    now, done = upgrade(stored, new)
    assert without_vectors(rows_of(now)) == {
        path: (row[0], row[1], "skipped" if path == "001.png" else row[2])
        for path, row in before.items()
    }
    assert dict(now.skipped())["001.png"] == "no such file"
    assert (done.after["images"], done.after["skipped"]) == (22, 2)
    picture(photos / "001.png", 1)
    now, changed = add(now, None, Options(spark=False))
    assert (changed.changed, changed.images) == (2, 2)


@pytest.fixture
def halted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Make the commit of a version raise once a number of commits, `left[0]`, were made."""
    left = [0]
    real = EmbeddingTable.commit

    def commit(self: EmbeddingTable, *given: Any, **more: Any) -> EmbeddingTable:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(self, *given, **more)

    monkeypatch.setattr(EmbeddingTable, "commit", commit)
    yield left
    monkeypatch.setattr(EmbeddingTable, "commit", real)


def test_a_stopped_upgrade_goes_on(
    stored: EmbeddingTable, photos: Path, new: Options, halted: list[int]
) -> None:
    before = rows_of(stored)
    with pytest.raises(KeyboardInterrupt):
        upgrade(stored, new)
    assert rows_of(stored.newest()) == before
    assert nearest(stored.newest(), photos / "003.png") == "003.png"
    halted[0] = 100
    now, done = upgrade(stored, new)
    assert 0 < done.embedded < len(before)  # the rest was kept
    assert_upgraded(now, before, photos, new)


def test_what_could_not_be_read_is_read_again(
    stored: EmbeddingTable, photos: Path, new: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows_of(stored)
    away = (photos / "003.png").rename(photos.parent / "away.png")
    with monkeypatch.context() as patch:
        patch.setattr(Replacement, "switch", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            upgrade(stored, new)
    away.rename(photos / "003.png")
    now, done = upgrade(stored, new)
    assert done.embedded == 1
    assert_upgraded(now, before, photos, new)


def test_another_model_begins_anew(
    stored: EmbeddingTable, photos: Path, new: Options, tmp_path: Path, halted: list[int]
) -> None:
    before = rows_of(stored)
    with pytest.raises(KeyboardInterrupt):
        upgrade(stored, network(tmp_path, 2))
    halted[0] = 100
    now, done = upgrade(stored, new)
    assert done.embedded == len(before)
    assert_upgraded(now, before, photos, new)


def test_what_others_change_meanwhile_is_followed(
    stored: EmbeddingTable, photos: Path, new: Options, monkeypatch: pytest.MonkeyPatch
) -> None:

    real = Replacement.switch
    changed: list[Any] = []

    def switch(self: Any, table: EmbeddingTable) -> EmbeddingTable:
        if not changed:
            picture(photos / "more.png", 77)
            changed.append(add(table, photos / "more.png", Options(spark=False)))
            changed.append(remove(table, [str(photos / "005.png")]))
        return real(self, table)

    monkeypatch.setattr(Replacement, "switch", switch)
    now, _ = upgrade(stored, new)
    assert len(changed) == 2
    rows = rows_of(now)
    assert "more.png" in rows and "005.png" not in rows
    assert_upgraded(now, rows_of(changed[-1][0]), photos, new)


def test_vectors_of_the_old_model_are_not_added_later(
    stored: EmbeddingTable, photos: Path, new: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = embed_all

    def embed(*given: Any) -> Any:
        monkeypatch.setattr("lookalike.ingest.waves.embed_all", real)
        upgrade(stored, new)
        return real(*given)

    monkeypatch.setattr("lookalike.ingest.waves.embed_all", embed)
    picture(photos / "more.png", 77)
    with pytest.raises(LookalikeError, match="got another model meanwhile: run the same command"):
        add(stored, None, Options(spark=False))
    now, changed = add(stored, None, Options(spark=False))
    assert changed.new == 1 and Index(now).check().ok
    assert nearest(now, photos / "more.png") == "more.png"


def test_two_upgrades_at_once(stored: EmbeddingTable, old: Options, new: Options) -> None:
    from lookalike.storage import writing

    (stored.path / "_upgrade").mkdir()
    with writing(stored.path / "_upgrade", alone=True):
        for options in (new, old):  # the old model would end it, as there is nothing to do
            with pytest.raises(LookalikeError, match="another process is upgrading"):
                upgrade(stored, options)
    assert (stored.path / "_upgrade").exists()


def test_from_the_shell(stored: EmbeddingTable, old: Options, new: Options) -> None:
    def to(options: Options) -> list[str]:
        named = ["--model", str(options.model), "--weights", str(options.weights)]
        return ["upgrade", str(stored.path), *named, "--precision", "f32"]

    done = run(*to(new))
    assert (done.code, done.out) == (0, ""), done.err
    (line,) = done.err.splitlines()  # no figure moved
    names = [f"shufflenet_v2_x0_5, weights {Path(o.weights).name}, f32" for o in (new, old)]
    assert re.fullmatch(rf"version \d+ has {names[0]} in place of {names[1]}", line)
    assert run(*to(new)).err == "the index has this model already: nothing was changed\n"
    again = told(*to(old))
    assert (again["embedded"], again["before"]["weights"]) == (24, Path(new.weights).name)
    assert run("upgrade", stored.path).code == 2  # which model?


def test_no_picture_is_left(stored: EmbeddingTable, photos: Path, new: Options) -> None:
    before = rows_of(stored)
    shutil.rmtree(photos)
    with pytest.raises(LookalikeError, match="none of 24 inputs can be read"):
        upgrade(stored, new)
    assert rows_of(stored.newest()) == before


def test_older_versions_of_lookalike_refuse_it(stored: EmbeddingTable, new: Options) -> None:
    now, _ = upgrade(stored, new)
    assert json.loads((now.path / "_lookalike.json").read_text())["format"] == 4
    moved = now.move(str(now.path.parent))  # a description that changes stays of that format
    assert json.loads((moved.path / "_lookalike.json").read_text())["format"] == 4


@pytest.mark.long  # 12 CPU seconds; a table without Spark is tested above
def test_a_table_on_spark(photos: Path, old: Options, new: Options, tmp_path: Path) -> None:
    names = sorted(photos.glob("*.png"))
    table = pa.table(
        {"image": [file.read_bytes() for file in names], "label": [f.stem for f in names]}
    )
    (tmp_path / "table").mkdir()
    pq.write_table(table, tmp_path / "table" / "x.parquet", row_group_size=5)
    options = replace(old, spark=True, label_column="label")
    made, _ = build_index(tmp_path / "table", tmp_path / "x.index", options)
    made = remove(made, [next(iter(rows_of(made)))])[0]
    before = rows_of(made)
    now, done = upgrade(made, replace(new, spark=True))
    rows = rows_of(now)
    assert without_vectors(rows) == without_vectors(before)
    assert (done.embedded, Index(now).check().ok) == (23, True)
    embed = Index(now).embedder
    (tmp_path / "table" / "x.parquet").rename(tmp_path / "table" / "y.parquet")
    with pytest.raises(LookalikeError, match="no images"):  # all have other names
        upgrade(now, replace(old, spark=True))
    for path, (_, label, _, vector) in rows.items():
        wanted = embed(photos / f"{label}.png")
        np.testing.assert_allclose(vector, wanted, rtol=0, atol=1e-5, err_msg=path)


@pytest.mark.long  # eleven processes, each of which loads a network
def test_kills_at_random_instants(old: Options, new: Options, tmp_path: Path) -> None:
    photos = pictures(tmp_path / "photos", 400, seed=0)
    stored, _ = build_index(photos, tmp_path / "x.index", old)
    shutil.copytree(stored.path, tmp_path / "copy.index")
    before = rows_of(stored)
    command = [
        sys.executable,
        "-m",
        "lookalike",
        "upgrade",
        str(stored.path),
        "--wave",
        "16",
    ]
    command += ["--model", str(new.model), "--weights", str(new.weights), "--precision", "f32"]
    started = time.monotonic()
    copy = str(tmp_path / "copy.index")
    undisturbed = [copy if one == str(stored.path) else one for one in command]
    subprocess.run(undisturbed, capture_output=True, check=True)
    whole_seconds = time.monotonic() - started
    wanted = rows_of(EmbeddingTable.open(copy))
    rng = np.random.default_rng(0)
    kept, spaces = [], set()
    for tenth in range(10):
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(whole_seconds * (tenth + rng.random()) / 10)
        running.kill()
        running.wait()
        now = EmbeddingTable.open(stored.path)
        rows = rows_of(now)
        assert rows in (before, wanted)
        index = Index(now)
        for path in ("000.png", "399.png"):
            found = index.search(index.embedder(photos / path), 1).neighbors[0]
            assert found.path == path and found.distance < 1e-3
        spaces.add(now.generation)
        beside = stored.path / "_upgrade"
        kept.append(EmbeddingTable.open(beside).counts()[0] if is_index(beside) else 0)
    assert max(kept) > 0 or spaces == {0, 1}
    subprocess.run(command, check=True, capture_output=True)
    now = EmbeddingTable.open(stored.path)
    assert rows_of(now) == wanted
    assert Index(now).check().ok
    assert not (now.path / "_upgrade").exists()


def test_a_network_that_sees_other_pixels(
    stored: EmbeddingTable, photos: Path, tmp_path: Path
) -> None:
    before = rows_of(stored)
    clip = f"clip:{tiny_networks.clip_folder(tmp_path / 'clip')}"
    now, done = upgrade(stored, Options(model=clip, precision="f32", spark=False))
    assert_upgraded(now, before, photos, done.after["weights"])
    assert done.before["width"] != done.after["width"] == now.model.width
    assert now.about_model["preprocessing"] != stored.about_model["preprocessing"]
    assert len(Index(now).search(text="a white square", k=3)) == 3
    with pytest.raises(LookalikeError, match="embeds no words"):
        open_index(now.path, stored.version).search(text="a white square")
    # A function is not stored: who opens the index gives it.
    corners = CallableModel(top_left, name="corners", version="1", size=20)
    again, _ = upgrade(now, Options(model=corners, spark=False))
    assert without_vectors(rows_of(again)) == without_vectors(before)
    given = open_index(now.path, model=corners)
    found = given.search(given.embedder(photos / "003.png"), 1).neighbors[0]
    assert found.path == "003.png" and found.distance < 1e-3
    with pytest.raises(LookalikeError, match="corners"):
        open_index(now.path).search(picture(tmp_path / "other.png", 7))


def top_left(images: Any) -> Any:
    return images[:, :3, :3].reshape(len(images), -1).astype(np.float32) + 1


def test_vectors_of_ones_own_have_no_model(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
    index = create_index(vectors, tmp_path / "own.index")
    with pytest.raises(LookalikeError, match="holds vectors of your own"):
        index.upgrade("resnet18")
