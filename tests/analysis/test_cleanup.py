"""Images set aside and back again: nothing is lost, whatever they are called and whoever is killed.

Kills are real: a process forked here sends itself SIGKILL before its nth step, for each n there is.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.disks import fill, mounted, needs_mount
from helpers.rights import without_rights
from lookalike import LookalikeError, images
from lookalike.analysis.cleanup import file_moves
from lookalike.analysis.cleanup.aside import Aside, AsideAction, set_aside
from lookalike.analysis.cleanup.journal import JOURNAL
from lookalike.analysis.cleanup.undo import undo
from lookalike.images.synthetic import DrawnCollection

Tree = dict[bytes, tuple[str, int, int]]
NAMES = [
    b"a.jpg",
    b"a copy.jpg",
    b"sub/b 'quoted' \"twice\",.jpg",
    b"sub/<script>alert(1)</script.jpg",
    b"sub/deep/new\nline.jpg",
    b"\xff\xfe bytes.jpg",
    b"100%25.jpg",
    b"aside.csv",
    b"-rf.jpg",
]


def tree(folder: Path) -> Tree:
    """Say what is in a folder: content or where a link leads, mode, time in nanoseconds."""
    found: Tree = {}
    top = os.fsencode(folder)
    for place, folders, files in os.walk(top):
        for name in files + [f for f in folders if os.path.islink(os.path.join(place, f))]:
            path = os.path.join(place, name)
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                content = os.fsdecode(os.readlink(path))
            else:
                with open(path, "rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            found[os.path.relpath(path, top)] = content, status.st_mode, status.st_mtime_ns
    return found


def contents(folder: Path) -> set[str]:
    return {content for content, _, _ in tree(folder).values()}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photos_in(tmp_path / "photos")


def photos_in(folder: Path) -> Path:
    """Write some files, each with a content, a mode and a time of its own, and a link."""
    for at, name in enumerate([*NAMES, b"kept.jpg"]):
        path = os.path.join(os.fsencode(folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(name * (20_000 if at == 1 else 20))
        os.chmod(path, 0o640 if at % 2 else 0o444)
        os.utime(path, ns=(10**18 + at, 10**18 + at))
    os.symlink("../kept.jpg", folder / "sub" / "link.jpg")
    return folder


def source_of(photos: Path) -> images.Source:
    return images.Source("files", str(photos))


def drops(kept: str = "kept.jpg") -> list[tuple[str, str]]:
    return [(images.encode_path(name), kept) for name in NAMES]


@pytest.mark.parametrize("how", ["copy", "move", "link"])
def test_there_and_back(photos: Path, tmp_path: Path, how: AsideAction) -> None:
    before, folder = tree(photos), tmp_path / "new" / "aside"
    assert set_aside(how, source_of(photos), iter(drops()), folder) == Aside(done=len(NAMES))
    there = tree(folder)
    assert (before == tree(photos)) == (how != "move")
    for name in NAMES:
        place = b"aside-2.csv" if name == JOURNAL.encode() else name
        if how == "link":
            assert there[place][0] == os.fsdecode(os.fsencode(photos) + b"/" + name)
        else:
            assert there[place] == before[name]
    assert len(there) == len(NAMES) + 1
    assert set_aside(how, source_of(photos), drops(), folder).done == 0
    assert undo(folder) == len(NAMES)
    assert tree(photos) == before
    assert not folder.exists()


def test_a_list_is_one_image_a_line(photos: Path, tmp_path: Path) -> None:
    before, folder = tree(photos), tmp_path / "aside"
    assert set_aside("list", source_of(photos), drops(), folder).done == len(NAMES)
    lines = (folder / "drop.txt").read_text(encoding="utf-8").splitlines()
    assert [os.fsencode(images.decode_path(line)) for line in lines] == [
        os.fsencode(photos) + b"/" + name for name in NAMES
    ]
    assert tree(photos) == before
    with pytest.raises(LookalikeError, match="nothing to undo"):
        undo(folder)
    set_aside("list", source_of(photos), drops()[:1], folder)
    assert len((folder / "drop.txt").read_text().splitlines()) == 1
    assert os.listdir(folder) == ["drop.txt"]


def test_images_elsewhere_can_be_listed_only(tmp_path: Path) -> None:
    remote = images.Source("uri", "s3a://bucket/cars", ())
    for how in ("copy", "move", "link"):
        with pytest.raises(LookalikeError, match="use `list`"):
            set_aside(how, remote, [], tmp_path / "aside")
    assert not (tmp_path / "aside").exists()
    pair = ("s3a://bucket/cars/1.jpg", "s3a://bucket/cars/2.jpg")
    evil = ("s3a://other/1.jpg", "s3a://bucket/cars/2.jpg")
    assert set_aside("list", remote, [pair, evil], tmp_path / "aside") == Aside(1, outside=1)
    assert (tmp_path / "aside" / "drop.txt").read_text() == pair[0] + "\n"
    table = images.Source("table", str(tmp_path / "t"), ("",), "image")
    assert set_aside("list", table, [("a.parquet#3", "a.parquet#1")], tmp_path / "aside").done == 1


def test_images_that_a_walk_finds(drawn: DrawnCollection, tmp_path: Path) -> None:
    source = images.locate(drawn.photos)
    paths = [found.path for found in images.walk(source)]
    pairs = [(path, paths[0]) for path in paths[1::2]]
    assert set_aside("copy", source, pairs, tmp_path / "aside").done == len(pairs) > 10
    assert sorted(found.path for found in images.walk(images.locate(tmp_path / "aside"))) == sorted(
        path for path, _ in pairs
    )
    undo(tmp_path / "aside")
    assert [found.path for found in images.walk(source)] == paths


# What is left where it is.


@pytest.mark.parametrize("how", ["copy", "move", "link", "list"])
def test_never_the_last_of_its_kind(photos: Path, tmp_path: Path, how: AsideAction) -> None:
    os.link(photos / "a.jpg", photos / "hard.jpg")
    (photos / "again").symlink_to(photos / "sub")
    (photos / "loop.jpg").symlink_to("loop.jpg")
    (photos / "empty.jpg").touch()
    before = tree(photos)
    refused = [
        ("a.jpg", "never was.jpg", "alone"),
        ("a.jpg", "loop.jpg", "alone"),
        ("a.jpg", "sub", "alone"),
        ("a.jpg", "a.jpg", "same"),
        ("a.jpg", "hard.jpg", "same"),
        ("sub/link.jpg", "kept.jpg", "same"),
        ("kept.jpg", "sub/link.jpg", "same"),
        ("again/deep/new%0Aline.jpg", "sub/deep/new%0Aline.jpg", "same"),
        ("never was.jpg", "kept.jpg", "gone"),
        ("loop.jpg", "kept.jpg", "gone"),
        ("empty.jpg", "kept.jpg", "gone"),
        ("sub", "kept.jpg", "gone"),
        ("", "kept.jpg", "gone"),
    ]
    for at, (drop, kept, reason) in enumerate(refused):
        told = set_aside(how, source_of(photos), [(drop, kept)], tmp_path / str(at))
        assert told == Aside(**{reason: 1}), (drop, kept)
        assert tree(photos) == before


def test_two_that_stand_for_each_other_do_not_both_go(photos: Path, tmp_path: Path) -> None:
    pairs = [("a.jpg", "a copy.jpg"), ("a copy.jpg", "a.jpg")]
    told = set_aside("move", source_of(photos), pairs, tmp_path / "aside")
    assert told == Aside(done=1, alone=1)
    assert (photos / "a copy.jpg").exists()


@pytest.mark.parametrize("how", ["copy", "move", "link", "list"])
def test_paths_do_not_lead_out(photos: Path, tmp_path: Path, how: AsideAction) -> None:
    (tmp_path / "secret.jpg").write_text("secret")
    (tmp_path / "photos-too").mkdir()
    (tmp_path / "photos-too" / "a.jpg").write_text("secret")
    evil = ["../secret.jpg", "sub/../../secret.jpg", str(tmp_path / "secret.jpg")]
    evil += ["%2e%2e/secret.jpg", "../photos-too/a.jpg", "a.jpg%00", "/etc/passwd"]
    before = tree(tmp_path)
    pairs = [(path, "kept.jpg") for path in evil] + [("a.jpg", path) for path in evil]
    told = set_aside(how, source_of(photos), pairs, tmp_path / "aside")
    assert told == Aside(outside=len(pairs))
    after = tree(tmp_path)
    assert {path: after[path] for path in before} == before
    # Round about, but inside.
    pair = ("sub/../sub/./deep/../../a.jpg", "kept.jpg")
    assert set_aside(how, source_of(photos), [pair], tmp_path / "fine").done == 1
    assert how == "list" or os.path.lexists(tmp_path / "fine" / "a.jpg")


def test_images_outside_the_root_go_elsewhere(photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "x.jpg"
    other.parent.mkdir()
    other.write_text("x")
    source = images.Source("files", str(photos), also=(str(other.parent),))
    before = tree(tmp_path)
    set_aside("move", source, [(str(other), "kept.jpg")], tmp_path / "aside")
    assert (tmp_path / "aside" / "elsewhere" / str(other).lstrip("/")).read_text() == "x"
    assert not other.exists()
    undo(tmp_path / "aside")
    assert tree(tmp_path) == before


# Folders that will not do.


def test_a_folder_with_something_in_it_is_left_alone(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "aside"
    folder.mkdir()
    (folder / "a.jpg").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(LookalikeError, match="not empty"):
        set_aside("move", source_of(photos), drops(), folder)
    assert tree(tmp_path) == before


def test_not_where_it_would_be_found_again(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(photos)
    for folder in (photos, photos / "aside", tmp_path / "way" / "aside"):
        with pytest.raises(LookalikeError, match="would be indexed"):
            set_aside("move", source_of(photos), drops(), folder)
    assert set_aside("move", source_of(photos), drops()[:1], photos / ".aside").done == 1
    part = images.Source("files", str(photos), ("sub",))
    assert set_aside("copy", part, drops()[:1], photos / "beside").gone == 1


def test_one_folder_one_way_one_at_a_time(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "aside"
    set_aside("copy", source_of(photos), drops(), folder)
    with pytest.raises(LookalikeError, match="is of an earlier run"):
        set_aside("move", source_of(photos), drops(), folder)
    with (folder / JOURNAL).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for call in (
            lambda: undo(folder),
            lambda: set_aside("copy", source_of(photos), [], folder),
        ):
            with pytest.raises(LookalikeError, match="busy"):
                call()


def test_a_folder_that_is_read_only(folder_of_all: Path) -> None:
    photos = photos_in(folder_of_all / "photos")
    for name in [photos, *photos.rglob("*")]:
        if not name.is_symlink():
            name.chmod(0o755)
    before = tree(photos)
    with without_rights():
        with pytest.raises(LookalikeError, match="Permission denied") as told:
            set_aside("move", source_of(photos), drops(), folder_of_all / "aside")
        assert "\n" not in str(told.value)
    (folder_of_all / "aside").mkdir()
    (folder_of_all / "aside").chmod(0o777)
    with without_rights():  # there it may write, but may not take away
        with pytest.raises(LookalikeError, match="Permission denied"):
            set_aside("move", source_of(photos), drops(), folder_of_all / "aside")
        assert os.listdir(folder_of_all / "aside") == [JOURNAL]
        assert undo(folder_of_all / "aside") == 0
    assert tree(photos) == before


# Back again, when things have changed meanwhile.


def test_undo_leaves_what_has_changed(photos: Path, tmp_path: Path) -> None:
    for how in ("move", "copy", "link"):
        folder = tmp_path / how
        set_aside(how, source_of(photos), [("a.jpg", "kept.jpg")], folder)
        set_aside(how, source_of(photos), [("-rf.jpg", "kept.jpg")], folder)
        here, there = photos / "a.jpg", folder / "a.jpg"
        moved = there.read_bytes()
        if how == "link":
            there.unlink()
            there.write_text("mine")
            assert undo(folder) == 1
            assert there.read_text() == "mine"
            continue
        here.unlink(missing_ok=True)
        here.write_text("new")
        said: list[str] = []
        with pytest.raises(LookalikeError, match="1 images were not put back, 1 were"):
            undo(folder, said.append)
        assert len(said) == 1 and str(here) in said[0]
        assert here.read_text() == "new" and there.read_bytes() == moved
        assert (photos / "-rf.jpg").exists()
        here.unlink()
        if how == "copy":  # the last of it: it stays
            with pytest.raises(LookalikeError, match="not put back"):
                undo(folder)
            shutil.copy(there, here)
        assert undo(folder) == 1
        assert here.read_bytes() == moved and not folder.exists()


@pytest.mark.parametrize("how", ["move", "copy"])
def test_what_is_the_same_file_is_no_copy(photos: Path, tmp_path: Path, how: AsideAction) -> None:
    """Somebody has put links where the images were, to where they are now."""
    folder, pairs = (
        tmp_path / "aside",
        [("a.jpg", "kept.jpg"), ("sub/deep/new%0Aline.jpg", "kept.jpg")],
    )
    wanted = contents(photos)
    set_aside(how, source_of(photos), pairs, folder)
    (photos / "a.jpg").unlink(missing_ok=True)
    (photos / "a.jpg").symlink_to(folder / "a.jpg")
    shutil.rmtree(photos / "sub" / "deep")
    (photos / "sub" / "deep").symlink_to(folder / "sub" / "deep")
    for pair in pairs:  # to the first it is a link to move, to the second a file that it knows
        with contextlib.suppress(LookalikeError):
            set_aside(how, source_of(photos), [pair], folder)
    with contextlib.suppress(LookalikeError):
        undo(folder)
    assert contents(photos) | contents(folder) >= wanted


def test_undo_makes_folders_again_and_takes_out_none_but_its_own(
    photos: Path, tmp_path: Path
) -> None:
    before, folder = tree(photos), tmp_path / "aside"
    pair = ("sub/deep/new%0Aline.jpg", "kept.jpg")
    set_aside("move", source_of(photos), [pair], folder)
    (photos / "sub" / "deep").rmdir()
    (folder / "notes.txt").write_text("mine")
    moved = folder.rename(tmp_path / "renamed")
    assert undo(moved) == 1
    assert tree(photos) == before
    assert os.listdir(moved) == ["notes.txt"]


def test_what_came_back_and_goes_again_gets_a_number(photos: Path, tmp_path: Path) -> None:
    folder, pair = tmp_path / "aside", ("a.jpg", "kept.jpg")
    set_aside("move", source_of(photos), [pair], folder)
    (photos / "a.jpg").write_text("another")
    assert set_aside("move", source_of(photos), [pair], folder).done == 1
    assert (folder / "a.jpg").read_bytes() == b"a.jpg" * 20
    assert (folder / "a-2.jpg").read_text() == "another"


@pytest.mark.parametrize(
    "line",
    [
        b"move,/tmp/x.jpg,../x.jpg",
        b"move,/tmp/x.jpg,/etc/x.jpg",
        b"move,relative.jpg,x.jpg",
        b"delete,/tmp/x.jpg,x.jpg",
        b"move,/tmp/x%00.jpg,x.jpg",
        b"move,/tmp/x.jpg",
        b"\xff\x00,,",
    ],
)
def test_a_damaged_journal_is_one_line(photos: Path, tmp_path: Path, line: bytes) -> None:
    set_aside("move", source_of(photos), drops()[:1], tmp_path / "aside")
    with (tmp_path / "aside" / JOURNAL).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(LookalikeError, match=r"line 3 .*damaged"):
        undo(tmp_path / "aside")


@pytest.mark.parametrize("torn", [b"mo", b'move,"/tmp/x', b"move,/tmp/x.jpg,x.jp", b"\0\0\0"])
def test_a_torn_end_of_the_journal_is_cut_off(photos: Path, tmp_path: Path, torn: bytes) -> None:
    before, folder = tree(photos), tmp_path / "aside"
    set_aside("move", source_of(photos), drops()[:3], folder)
    with (folder / JOURNAL).open("ab") as file:
        file.write(torn)
    assert set_aside("move", source_of(photos), drops(), folder).already == 3
    with (folder / JOURNAL).open("ab") as file:
        file.write(torn)
    undo(folder)
    assert tree(photos) == before and not folder.exists()


# Disks.


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    needs_mount()
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=300k", "tmpfs") as folder:
        yield folder


@pytest.mark.parametrize("how", ["move", "copy"])
def test_a_disk_that_is_full(photos: Path, other_disk: Path, how: AsideAction) -> None:
    before, folder = tree(photos), other_disk / "aside"
    filler = fill(other_disk, 60_000)  # one of the files has 200,000 bytes
    with pytest.raises(LookalikeError, match="disk is full"):
        set_aside(how, source_of(photos), drops(), folder)
    assert contents(photos) | contents(folder) >= {content for content, _, _ in before.values()}
    assert file_moves.PART not in os.listdir(folder)
    filler.unlink()
    told = set_aside(how, source_of(photos), drops(), folder)
    assert told == Aside(done=len(NAMES) - 1, already=1)
    assert undo(folder) == len(NAMES)
    assert tree(photos) == before and not folder.exists()


@pytest.mark.parametrize("back", [False, True])
def test_a_move_to_another_disk_keeps_links_and_times(
    photos: Path, other_disk: Path, back: bool
) -> None:
    (photos / "sub" / "link.jpg").unlink()
    (photos / "sub" / "link.jpg").symlink_to("../a.jpg")
    before = tree(photos)
    pairs = [("sub/link.jpg", "kept.jpg"), ("a%20copy.jpg", "kept.jpg")]
    assert set_aside("move", source_of(photos), pairs, other_disk / "aside").done == 2
    there = tree(other_disk / "aside")
    assert there[b"sub/link.jpg"][0] == "../a.jpg"
    assert there[b"a copy.jpg"] == before[b"a copy.jpg"]
    undo(other_disk / "aside")
    assert {path: v[:2] for path, v in tree(photos).items()} == {
        path: v[:2] for path, v in before.items()
    }


# Kills.

kills = pytest.mark.parametrize(
    ("how", "disks"), [("move", False), ("move", True), ("copy", False), ("link", False)]
)


def killed_at(step: int, work: Callable[[], Any], disks: bool) -> bool:
    """Do some work in a process that kills itself before its nth step; say whether it came to it.

    `disks` has it find that each folder is a disk of its own.
    """
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            _count_down(step, disks)
            work()
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def _count_down(step: int, disks: bool) -> None:
    left = [step]

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return real(*arguments, **named)

        return call

    real_rename, real_copystat = os.rename, shutil.copystat

    def rename(origin: str, target: str) -> None:
        if disks and os.path.dirname(origin) != os.path.dirname(target):
            raise OSError(errno.EXDEV, "Invalid cross-device link", origin)
        real_rename(origin, target)

    os.rename = watched(rename)
    shutil.copystat = watched(real_copystat)  # the content is copied, the times are not
    for name in ("open", "unlink", "fsync", "symlink", "makedirs", "rmdir"):
        setattr(os, name, watched(getattr(os, name)))


@kills
def test_a_kill_at_any_instant_loses_nothing(tmp_path: Path, how: AsideAction, disks: bool) -> None:
    photos = photos_in(tmp_path / "photos")
    before, folder, source = tree(photos), tmp_path / "aside", source_of(photos)
    wanted = {content for content, _, _ in before.values()}
    pairs = [*drops()[:2], ("sub/link.jpg", "a.jpg"), ("sub/link.jpg", "-rf.jpg")]
    for step in range(500):
        killed = killed_at(step, lambda: set_aside(how, source, pairs, folder), disks)
        assert contents(photos) | contents(folder) >= wanted
        if step % 2 and killed:  # it goes on
            set_aside(how, source, pairs, folder)
            again = set_aside(how, source, pairs, folder)
            assert again.done == 0 and again.already >= 2
        if (folder / JOURNAL).exists():
            undo(folder)
        assert tree(photos) == before, step
        assert os.listdir(folder) == [] if folder.exists() else True
        if not killed:
            break
    assert 5 < step < 499


@kills
def test_an_undo_that_is_killed_goes_on(tmp_path: Path, how: AsideAction, disks: bool) -> None:
    photos = photos_in(tmp_path / "photos")
    before, folder, source = tree(photos), tmp_path / "aside", source_of(photos)
    wanted = {content for content, _, _ in before.values()}
    for step in range(500):
        set_aside(how, source, drops()[1:3], folder)
        killed = killed_at(step, lambda: undo(folder), disks)
        assert contents(photos) | (contents(folder) if folder.exists() else set()) >= wanted
        if (folder / JOURNAL).exists():
            undo(folder)
        assert tree(photos) == before, step
        if not killed:
            break
        shutil.rmtree(folder, ignore_errors=True)
    assert 4 < step < 499
