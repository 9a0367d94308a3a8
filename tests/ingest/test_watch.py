"""An index that follows its folder: what comes, changes and goes; what must not upset it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lookalike import LookalikeError, images, ingest, models
from lookalike import ingest as build
from lookalike.cli.output import last_words
from lookalike.images.synthetic import DrawnCollection
from lookalike.ingest import Options, build_index, diff, watch
from lookalike.ingest import streaming as batches
from lookalike.ingest.watch import Scan, StabilityCheck
from lookalike.models.runtimes import _engine
from lookalike.spark import session
from lookalike.storage import EmbeddingTable

pytestmark = pytest.mark.long  # real processes, disks and signals: minutes

COMMAND = str(Path(sys.executable).with_name("lookalike"))
PATIENCE = 120.0  # seconds: other tests may run beside these
OLD = 1_500_000_000.0  # seconds since 1970

Argument = str | Path


@dataclass(frozen=True)
class Place:
    """A folder of photos with an index of it, and photos to put into it."""

    photos: Path
    index: Path
    others: Sequence[Path]

    def put(self, at: int, name: str | None = None, modified: float | None = None) -> Path:
        """Copy one of the other photos into the folder."""
        path = self.photos / (name or self.others[at].name)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(".part")
        shutil.copy(self.others[at], part)
        if modified is not None:
            os.utime(part, (modified, modified))
        part.rename(path)
        return path

    def stored(self) -> EmbeddingTable:
        return EmbeddingTable.open(self.index)

    def paths(self) -> dict[str, str]:
        """Return the status of each path in the index."""
        return statuses(self.stored())

    def assert_current(self) -> None:
        """Check that the index has what the folder has, each once, and nothing left behind."""
        found = (path.relative_to(self.photos) for path in self.photos.rglob("*.jpg"))
        names = sorted(images.encode_path(str(path)) for path in found)
        assert self.paths() == dict.fromkeys(names, "ok")
        assert sum(self.stored().counts()) == len(names)
        assert list(self.index.glob(".work-*")) == []


def statuses(stored: EmbeddingTable) -> dict[str, str]:
    found: dict[str, str] = {}
    for file in stored.files():
        for batch in ingest.rows_with_status([file], "ok", ["path"]):
            found |= dict.fromkeys(batch["path"].to_pylist(), "ok")
    return found | dict.fromkeys((path for path, _ in stored.skipped()), "skipped")


@pytest.fixture
def place(drawn: DrawnCollection, tmp_path: Path) -> Place:
    photos = tmp_path / "photos"
    photos.mkdir()
    first, *others = sorted(drawn.photos.rglob("*.jpg"))
    some, others = [first, *others[:5]], others[5:]
    for photo in some:
        shutil.copy2(photo, photos)
    index = tmp_path / "photos.index"
    build_index(photos, index, Options(spark=False))
    return Place(photos, index, others)


class Running:
    """`lookalike watch` in a process of its own."""

    def __init__(self, folder: Path, *arguments: Argument) -> None:
        self._said, self._noted = folder / "said", folder / "noted"
        with self._said.open("w") as out, self._noted.open("w") as err:
            self.process = subprocess.Popen(
                [COMMAND, "watch", *arguments, "--json"], stdout=out, stderr=err
            )

    def changes(self) -> list[dict[str, Any]]:
        """Return the changes it has told so far."""
        return [json.loads(line) for line in self._said.read_text().splitlines()]

    def notes(self) -> str:
        return self._noted.read_text()

    def until(self, holds: Callable[[], Any]) -> None:
        """Wait until something holds; fail where the process ends first, or it takes too long."""
        until = time.monotonic() + PATIENCE
        while not holds():
            assert self.process.poll() is None, self.notes()
            assert time.monotonic() < until, (self.changes(), self.notes())
            time.sleep(0.05)

    def told(self, count: int) -> dict[str, Any]:
        """Wait until it has told so many changes; return the last, by its counts over 0."""
        self.until(lambda: len(self.changes()) >= count)
        last = self.changes()[count - 1]
        return {key: last[key] for key in ("new", "changed", "removed", "skipped") if last[key]}

    def end(self, sign: int = signal.SIGINT) -> None:
        """End it as people do; check that it takes that well."""
        self.process.send_signal(sign)
        code = 130 if sign == signal.SIGINT else 0
        assert self.process.wait(PATIENCE) == code, self.notes()
        assert self.notes().splitlines()[-1].startswith("stopped: ")
        assert "Traceback" not in self.notes()


@contextlib.contextmanager
def running(place: Place, *arguments: Argument, every: float = 0.3) -> Iterator[Running]:
    one = Running(place.index.parent, place.index, "--every", str(every), *arguments)
    try:
        one.until(lambda: "watching " in one.notes())
        yield one
    finally:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def once(place: Place, *arguments: Argument) -> subprocess.CompletedProcess[str]:
    command: list[Argument] = [COMMAND, "watch", place.index, "--once", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)


# By scans, in processes of their own.


def test_photos_come_change_and_go(place: Place) -> None:
    with running(place) as one:
        new = place.put(0, "sub/new.jpg")
        assert one.told(1) == {"new": 1}
        command: list[Argument] = [
            COMMAND,
            "search",
            place.index,
            place.others[0],
            "-k",
            "1",
            "--json",
        ]
        found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        assert found["neighbors"][0]["path"] == str(new)
        place.put(1, "sub/new.jpg")
        assert one.told(2) == {"changed": 1}
        new.unlink()
        assert one.told(3) == {"removed": 1}
        one.end()
    place.assert_current()
    assert [change["version"] for change in one.changes()] == [1, 2, 3]
    last = one.notes().splitlines()[-1]
    assert last == f"stopped: {place.index} is at version 3, 6 inputs"


def test_a_file_that_is_written_slowly_is_indexed_once_and_whole(place: Place) -> None:
    content = place.others[0].read_bytes()
    fifth = len(content) // 5
    with running(place) as one, (place.photos / "slow.jpg").open("wb") as file:
        for at in range(5):
            file.write(content[at * fifth : (at + 1) * fifth if at < 4 else None])
            file.flush()
            time.sleep(2.5 if at == 2 else 0.5)  # stalls, too
            if at < 4:
                assert one.changes() == []
        assert one.told(1) == {"new": 1}
        time.sleep(1)
        one.end()
    assert len(one.changes()) == 1
    place.assert_current()


def test_a_folder_that_is_away_for_a_while_empties_nothing(place: Place) -> None:
    before = place.paths()
    away = place.photos.with_name("away")
    with running(place) as one:
        place.photos.rename(away)
        one.until(lambda: "no such file or folder" in one.notes())
        place.photos.mkdir()  # as a mount point is without what is mounted there
        one.until(lambda: "no images in" in one.notes())
        time.sleep(1.5)
        place.photos.rmdir()
        away.rename(place.photos)
        one.until(lambda: "continuing" in one.notes())
        assert one.changes() == []
        assert place.paths() == before
        place.put(0)
        assert one.told(1) == {"new": 1}
        one.end()
    assert one.notes().count("no such file or folder") <= 2, "once is enough"
    place.assert_current()


def test_a_signal_to_end_is_heard(place: Place) -> None:
    with running(place, every=60) as one:
        one.end(signal.SIGTERM)
    place.assert_current()


@pytest.mark.long
def test_after_a_kill_it_goes_on(place: Place, drawn: DrawnCollection) -> None:
    for at in range(60):
        place.put(at, modified=OLD)
    with running(place, "--wave", "16") as one:
        one.until(lambda: place.stored().version > 0)
        one.process.kill()
        one.process.wait()
    done = once(place)
    assert (done.returncode, done.stderr) == (0, "")
    place.assert_current()


@pytest.mark.long
def test_looking_once(place: Place) -> None:
    done = once(place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    place.put(0)  # just now
    min(place.photos.glob("0*.jpg")).unlink()
    done = once(place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 new, 1 removed: version 2\n", "")
    place.assert_current()
    (place.photos / "half.jpg").write_bytes(place.others[1].read_bytes()[:2000])
    done = once(place)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "1 still being written: left for later\n"
    place.photos.rename(place.photos.with_name("away"))
    done = once(place)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: no such file or folder: {place.photos}\n"


@pytest.mark.long
def test_what_is_gone_may_be_kept(place: Place) -> None:
    gone = min(place.photos.glob("*.jpg"))
    gone.unlink()
    place.put(0, modified=OLD)
    done = once(place, "--keep-gone")
    assert (done.returncode, done.stdout) == (0, "1 new: version 1\n")
    assert place.paths().keys() == {path.name for path in place.photos.iterdir()} | {gone.name}


def test_another_folder_may_be_watched(place: Place, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy2(place.others[0], other)
    done = once(place, other)
    assert (done.returncode, done.stdout) == (0, "1 new: version 1\n")
    assert str(other / place.others[0].name) in place.paths()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--every", "0"], "--every takes seconds"),
        (["--checkpoint", "x"], "--checkpoint needs --spark"),
    ],
)
def test_what_cannot_be_meant_is_refused(place: Place, arguments: list[str], words: str) -> None:
    done = once(place, *arguments)
    assert done.returncode == 2
    assert words in done.stderr


# What counts, and when.


def test_a_change_counts_when_two_looks_have_seen_the_same(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "STABLE_SECONDS", 0.0)
    source, now = place.stored().source, time.time_ns()
    path = place.put(0, "new.jpg")
    stability = StabilityCheck()

    def asked(sign: str, size: int | None, modified: int | None) -> bool:
        stability.begin(source)
        return stability(sign, "new.jpg", size, modified)

    monkeypatch.setattr(watch, "STABLE_SECONDS", 0.05)
    assert not asked("+", 100, now)
    time.sleep(0.1)
    assert not asked("+", 200, now), "it has grown"
    time.sleep(0.1)
    assert not asked("+", 200, now + 1), "it was written to"
    time.sleep(0.1)
    assert asked("+", 200, now + 1)
    assert not asked("+", 200, now + 1), "what was asked for once begins anew"
    assert len(stability) == 1
    assert asked("+", 200, now - 60 * 10**9), "nobody has touched it for a minute"
    assert not asked("+", 200, now + 3600 * 10**9), "a clock that is wrong"
    path.write_bytes(b"half")
    time.sleep(0.1)
    assert not asked("+", 200, now + 3600 * 10**9), "not whole"
    monkeypatch.setattr(watch, "UNTOUCHED_SECONDS", 0.1)
    time.sleep(0.1)
    assert asked("+", 200, now + 3600 * 10**9), "but nobody goes on with it"
    assert not asked("-", None, None)
    time.sleep(0.1)
    assert asked("-", None, None)


def scan_until(place: Place, until: Callable[[Scan], bool], **options: Any) -> list[Scan]:
    """Return the scans of an index up to the first one that is wanted."""
    seen: list[Scan] = []
    with contextlib.closing(
        watch.watch_folder(place.index, None, Options(), every=0.1, **options)
    ) as scans:
        for scan in scans:
            seen.append(scan)
            if until(scan):
                return seen
            assert len(seen) < 300
    raise AssertionError(seen)


def test_a_damaged_photo_gets_its_reason_after_a_while(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "UNTOUCHED_SECONDS", 2.0)
    (place.photos / "half.jpg").write_bytes(place.others[0].read_bytes()[:2000])
    *before, last = scan_until(place, lambda scan: scan.has_new_version)
    assert all(scan.unstable == 1 for scan in before)
    assert last.changed is not None and (last.changed.new, last.changed.skipped) == (1, 1)
    assert place.paths()["half.jpg"] == "skipped"


def test_a_root_that_vanishes_during_a_look_is_no_empty_folder(place: Place) -> None:
    source = images.locate(place.photos)
    shutil.rmtree(place.photos)
    with pytest.raises(LookalikeError, match=r"cannot read .*photos"):
        list(images.walk(source))


def test_files_that_vanish_during_a_listing_stay(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = place.paths()
    found, count = list(images.walk(images.locate(place.photos))), 0

    def cut_short(*_: Any) -> Iterator[Any]:
        nonlocal count
        count += 1
        return iter(found[:2] if count in (1, 3) else found)

    monkeypatch.setattr("lookalike.images.inputs.listing.walk", cut_short)
    monkeypatch.setattr(watch, "STABLE_SECONDS", 0.01)
    scans = scan_until(place, lambda _: count == 5)
    assert [scan.unstable for scan in scans] == [4, 0, 4, 0, 0]
    assert place.paths() == before


def test_trouble_is_told_and_over_when_it_is(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [OSError(5, "Input/output error"), LookalikeError("busy"), ValueError("odd")]
    sync = ingest.sync

    def fail(*arguments: Any, **options: Any) -> Any:
        if left:
            raise left.pop()
        return sync(*arguments, **options)

    monkeypatch.setattr(build, "sync", fail)
    place.put(0, modified=OLD)
    *troubles, last = scan_until(place, lambda scan: scan.has_new_version)
    assert [type(scan.error) for scan in troubles] == [ValueError, LookalikeError, OSError]
    assert last.changed is not None and last.changed.new == 1


def test_an_index_that_is_made_anew_is_found_again(place: Place) -> None:
    with contextlib.closing(watch.watch_folder(place.index, None, Options(), every=0.1)) as scans:
        assert next(scans).error is None
        for photo in list(place.photos.iterdir())[:2]:
            photo.unlink()
        build_index(place.photos, place.index, Options(spark=False), overwrite=True)
        seen = [next(scans) for _ in range(3)]
        assert seen[-1].changed is not None and seen[-1].changed.same == 4
        assert not any(scan.has_new_version for scan in seen)
    place.assert_current()


def test_the_network_is_loaded_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    loads, load = 0, models.Model.load

    def counted(folder: Path) -> models.Model:
        nonlocal loads
        loads += 1
        return load(folder)

    monkeypatch.setattr(models.Model, "load", counted)
    scan_until(place, lambda _: True)
    place.put(0, modified=OLD)
    scan_until(place, lambda scan: scan.has_new_version)
    made, loads = _engine.cache_info().misses, 0
    with contextlib.closing(watch.watch_folder(place.index, None, Options(), every=0.01)) as scans:
        for at in range(1, 5):
            place.put(at, modified=OLD)
            assert next(scans).has_new_version
            assert not next(scans).has_new_version
    assert loads == 1
    assert _engine.cache_info().misses == made
    place.assert_current()


MANY_SCANS = """
import os, sys
from pathlib import Path
from lookalike.ingest import watch
from lookalike.ingest import Options

def held():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir("/proc/self/fd"))

for count, scan in enumerate(watch.watch_folder(Path(sys.argv[1]), None, Options(), every=0.01)):
    assert scan.error is None, scan
    if count == 20:
        before = held()
    if count == 220:
        print(*before, *held())
        break
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="nothing says what is held")
@pytest.mark.long
def test_two_hundred_looks_hold_no_more_than_twenty(place: Place) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MANY_SCANS, place.index],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    before, files_before, after, files_after = map(float, done.stdout.split())
    assert after < before + 15, "megabytes"
    assert files_after == files_before


# By a stream of Spark's.


def streamed(place: Place, **options: Any) -> list[Scan]:
    return list(watch.watch_stream(place.index, None, Options(), once=True, **options))


def added(scans: Sequence[Scan]) -> int:
    return sum(scan.changed.new for scan in scans if scan.changed)


def test_a_stream_adds_each_new_photo_once(place: Place) -> None:
    place.put(0, "sub [1]/{a}*.jpg", modified=OLD)
    place.put(1, "sub [1]/100%41 é.jpg", modified=OLD)
    content = place.others[2].read_bytes()

    def write_slowly() -> None:
        with (place.photos / "slow.jpg").open("wb") as file:
            for at in range(0, len(content), len(content) // 6):
                file.write(content[at : at + len(content) // 6])
                file.flush()
                time.sleep(0.5)

    writer = threading.Thread(target=write_slowly)
    session()
    writer.start()
    scans = streamed(place)
    writer.join()
    assert added(scans) == 3, scans
    place.assert_current()
    version = place.stored().version
    assert not any(scan.has_new_version for scan in streamed(place))

    # A file with an old date moved in, one that is gone again, and a batch that comes once more.
    place.put(3, "old.jpg", modified=OLD - 1e8)
    assert added(streamed(place)) == 1
    (place.photos / "old.jpg").unlink()
    commits = place.index / ".watch" / "commits"
    last = max(int(file.name) for file in commits.glob("[0-9]*"))
    for name in (f"{last}", f".{last}.crc"):
        (commits / name).unlink()
    scans = streamed(place)
    assert added(scans) == 0 and not any(scan.has_new_version for scan in scans)
    assert place.stored().version == version + 1
    assert place.paths()["old.jpg"] == "ok", "a sync finds what is gone"
    assert ingest.sync(place.stored(), None, Options())[1].removed == 1
    place.assert_current()


@pytest.mark.long
@pytest.mark.parametrize("uri", [False, True], ids=["folder", "uri"])
def test_a_stream_opens_what_has_no_ending(place: Place, tmp_path: Path, uri: bool) -> None:
    index = tmp_path / "new.index"
    build_index(place.photos.as_uri() if uri else place.photos, index, Options())
    place = Place(place.photos, index, place.others)
    place.put(0, "sub/none", modified=OLD)
    place.put(1, "odd [1].%41", modified=OLD)
    for name in ("film.mp4", "notes", "x.MP4"):
        (place.photos / name).write_text("no image")
    scans = streamed(place)
    assert added(scans) == 2, scans
    counts = [scan.changed.not_looked_at for scan in scans if scan.changed]
    assert {".mp4": 2, "without ending": 1} in counts
    assert place.stored().counts() == (8, 0)
    done = ingest.sync(place.stored(), None, Options(), dry_run=True)[1]
    assert (done.new, done.same, done.removed) == (0, 8, 0)
    assert done.not_looked_at == {".mp4": 2, "without ending": 1}


@pytest.mark.long
def test_watching_tells_of_a_type_once(place: Place) -> None:
    (place.photos / "film.mp4").touch()
    with running(place) as one:
        one.until(lambda: "not looked at: 1 .mp4" in one.notes())
        place.put(0, "new.jpg", modified=OLD)
        one.told(1)
        (place.photos / "b.mp4").touch()
        (place.photos / "c.svg").touch()
        one.until(lambda: "not looked at: 1 .svg" in one.notes())
        one.end()
    assert one.notes().count("not looked at") == 2
    assert one.changes()[0]["not_looked_at"] == {".mp4": 1}


@pytest.mark.long
def test_a_batch_that_fails_comes_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    left, add_batch = [LookalikeError("the disk is full")], ingest.add_batch

    def fail(*arguments: Any) -> Any:
        if left:
            raise left.pop()
        return add_batch(*arguments)

    monkeypatch.setattr(build, "add_batch", fail)
    place.put(0, modified=OLD)
    scans: list[Scan] = []
    with contextlib.closing(watch.watch_stream(place.index, None, Options(), every=0.2)) as stream:
        for scan in stream:
            scans.append(scan)
            if scan.has_new_version:
                break
    assert [str(scan.error) for scan in scans] == ["the disk is full", "None"]
    place.assert_current()
    assert not session().streams.active


@pytest.mark.long
def test_a_stream_over_a_uri(place: Place, tmp_path: Path) -> None:
    index = tmp_path / "uri.index"
    build_index(f"file://{place.photos}", index, Options())
    place = Place(place.photos, index, place.others)
    place.put(0, "sub/a [1]{2}*%41 é.jpg", modified=OLD)
    place.put(1)
    scans = streamed(place, checkpoint=str(tmp_path / "seen"))
    assert added(scans) == 2
    assert (tmp_path / "seen" / "commits").exists() and not (index / ".watch").exists()
    assert len(place.paths()) == 8
    assert place.stored().counts() == (8, 0)
    done = ingest.sync(place.stored(), None, Options(), dry_run=True)[1]
    assert (done.new, done.changed, done.same, done.removed) == (0, 0, 8, 0)
    for photo in place.photos.rglob("*.jpg"):
        photo.unlink()
    with pytest.raises(LookalikeError, match="no images in"):
        ingest.sync(place.stored(), None, Options())
    shutil.rmtree(place.photos)
    with pytest.raises(Exception, match="PATH_NOT_FOUND") as caught:
        streamed(place)
    assert str(place.photos) in last_words(caught.value)


@pytest.mark.long
def test_files_that_vanish_during_a_batch_are_left_out(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the stream has seen it, others in each step of the batch that is to read them."""
    index = tmp_path / "uri.index"
    build_index(f"file://{place.photos}", index, Options())
    place = Place(place.photos, index, place.others)
    there = place.paths().keys() | {f"file:{place.put(0, modified=OLD)}"}

    def lose(photo: Path, module: Any, name: str) -> None:
        step = getattr(module, name)

        def late(*arguments: Any, **named: Any) -> Any:
            photo.unlink(missing_ok=True)
            return step(*arguments, **named)

        monkeypatch.setattr(module, name, late)

    lose(place.put(1, modified=OLD), build, "add_batch")
    lose(place.put(2, modified=OLD), batches, "list_named")
    late = place.put(3, modified=OLD)  # listed already: it has a reason
    lose(late, diff, "plan")
    assert not any(scan.error for scan in streamed(place))
    assert place.paths() == dict.fromkeys(there, "ok") | {f"file:{late}": "skipped"}
    monkeypatch.undo()
    place.put(5, modified=OLD)
    assert added(streamed(place)) == 1, "the stream goes on"


def test_what_cannot_be_streamed_is_said(place: Place) -> None:
    two = [watch.watch_stream(place.index, str(place.photos / "*.jpg"), Options(), once=True)]
    two += [watch.watch_stream(place.index, str(place.photos / "none"), Options(), once=True)]
    for stream, words in zip(two, ("one folder", "no such file"), strict=True):
        with pytest.raises(LookalikeError, match=words):
            next(stream)


@pytest.mark.long
@pytest.mark.parametrize("uri", [False, True], ids=["folder", "uri"])
def test_a_stream_is_killed_and_started_again(place: Place, tmp_path: Path, uri: bool) -> None:
    if uri:
        index = tmp_path / "uri.index"
        build_index(f"file://{place.photos}", index, Options())
        place = Place(place.photos, index, place.others)
    for at in range(40):
        place.put(at, f"{at % 3}/{at}.jpg", modified=OLD)
    with running(place, "--spark", "--wave", "8", every=1) as one:
        one.until(lambda: list(place.index.glob("data/*/*.receipt")))
        one.process.kill()
        one.process.wait()
    with running(place, "--spark", every=1) as one:
        one.until(lambda: sum(place.stored().counts()) >= 46)
        place.put(40, "later.jpg")
        one.until(lambda: sum(place.stored().counts()) >= 47)
        one.end()
    assert sum(change["new"] for change in one.changes()) <= 41
    assert place.stored().counts() == (47, 0)
    assert len(place.paths()) == 47
    done = once(place)
    assert (done.returncode, done.stdout) == (0, ""), "a sync finds nothing to do"
