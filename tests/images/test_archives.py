"""Archives of images: shards as img2dataset writes them, zip files, damaged and hostile ones."""

import io
import json
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import lookalike
from helpers.stores import BUCKET, S3
from lookalike import Index, LookalikeError, images
from lookalike.errors import ImageError
from lookalike.images.inputs import archives
from lookalike.images.inputs.archive_listing import list_archives
from lookalike.images.inputs.archives import split_member
from lookalike.images.inputs.location import locate
from lookalike.images.inputs.source import Source
from lookalike.ingest import Options, build_index

PLAIN = Options(precision="f32", spark=False)


def picture(seed: int) -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def tar(file: Path, members: dict[str, bytes], format_: int = tarfile.PAX_FORMAT) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=format_) as made:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            made.addfile(about, io.BytesIO(content))
    return file


def zipped(file: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(file, "w", method) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return file


def sample(keys: int, first: int = 0) -> dict[str, bytes]:
    """Members as img2dataset writes them: an image, its text, its facts."""
    found: dict[str, bytes] = {}
    for at in range(first, first + keys):
        found[f"{at:05}.png"] = picture(at)
        found[f"{at:05}.json"] = json.dumps({"caption": f"text {at}", "of": {"n": at}}).encode()
        found[f"{at:05}.txt"] = f" text {at}\n".encode()
        found[f"{at:05}.cls"] = str(at % 2).encode()
    return found


def rows_of(
    source: Source, folder: Path, ignored: images.IgnoredFiles | None = None
) -> dict[str, dict[str, Any]]:
    listing = folder / "listing.parquet"
    count = list_archives(source, listing, ignored)
    rows = pq.read_table(listing).to_pylist()
    assert [row["id"] for row in rows] == list(range(count))
    assert len({row["path"] for row in rows}) == count
    return {row["path"]: row for row in rows}


@pytest.mark.parametrize(
    ("column", "label"),
    [
        (None, None),
        ("cls", "1"),
        ("txt", "text 3"),
        ("json.caption", "text 3"),
        ("json.of.n", "3"),
        ("json.of", None),
        ("json.none", None),
    ],
)
def test_labels_of_members(tmp_path: Path, column: str | None, label: str | None) -> None:
    tar(tmp_path / "a.tar", sample(2))
    zipped(tmp_path / "b.zip", sample(2, 2))
    source = locate([tmp_path / "a.tar", tmp_path / "b.zip"], label_column=column)
    assert source.kind == "archive"
    rows = rows_of(source, tmp_path)
    assert list(rows) == [
        *["a.tar#00000.png", "a.tar#00001.png", "b.zip#00002.png", "b.zip#00003.png"]
    ]
    assert rows["b.zip#00003.png"]["label"] == label
    for at, path in enumerate(rows):
        assert images.read(source, path) == picture(at)
        assert rows[path]["size"] == (tmp_path / path.partition("#")[0]).stat().st_size


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_odd_names_are_names(tmp_path: Path, format_: int) -> None:
    names = ["../../x.png", "/etc/y.png", "a#b 100%.png", "é\n.png", "d/" + "n" * 90 + ".png"]
    names += ["C:\\z.png", "./dot.png"]
    hidden = [".hidden.png", "__MACOSX/a.png", "d/._a.png"]
    members = {name: name.encode() for name in [*names, *hidden]}
    tar(tmp_path / "odd #1%.tar", members | {"read.me": b"x"}, format_)
    source = locate(tmp_path / "odd #1%.tar")
    ignored = images.IgnoredFiles()
    rows = rows_of(source, tmp_path, ignored)
    assert sorted(split_member(path)[1] for path in rows) == sorted(
        name.removeprefix("./") for name in names
    )
    for path in rows:
        name = split_member(path)[1]
        assert images.read(source, path) in (name.encode(), f"./{name}".encode())
        assert path.count("#") == 1 and path.isprintable()
    assert ignored.counts() == {".me": 1}
    for path in ("odd %231%25.tar#none.png", "odd %231%25.tar#.hidden.png"):
        with pytest.raises(ImageError, match="the archive has no such member"):
            images.read(source, path)
    for path in ("../odd.tar#a.png", "/etc/passwd#x", "file:///etc/passwd#x", "gone.tar"):
        with pytest.raises(ImageError, match=r"outside the folders|no such"):
            images.read(source, path)


def test_an_archive_is_read_once_and_kept_within_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{at}.tar" for at in range(6)]
    for name in names:
        tar(tmp_path / name, {f"{at}.png": picture(at) for at in range(30)})
    source = locate([tmp_path / name for name in names])
    read: list[str] = []
    actual = archives.read_directory

    def count(place: str, label_column: str | None = None) -> archives.Directory:
        read.append(Path(place).name)
        return actual(place, label_column)

    monkeypatch.setattr(archives, "read_directory", count)
    monkeypatch.setattr(archives, "_MAX_KEPT_MEMBERS", 130)  # of three archives
    kept = archives._Directories()
    monkeypatch.setattr(archives, "_directories", kept)
    with ThreadPoolExecutor(8) as pool:
        for name in names:
            paths = [f"{name}#{at}.png" for at in range(30)]
            assert list(pool.map(partial(images.read, source), paths)) == [
                picture(at) for at in range(30)
            ]
    assert read == names
    assert [Path(place).name for place, *_ in kept._kept] == names[-3:]
    images.read(source, "5.tar#0.png")
    images.read(source, "0.tar#0.png")
    assert read == [*names, "0.tar"]


def test_an_archive_that_could_not_be_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar(tmp_path / "a.tar", sample(1))
    source = locate(tmp_path / "a.tar")
    with monkeypatch.context() as patched:
        patched.setattr(archives, "open_file", refuse)
        with pytest.raises(ImageError, match=r"unreadable: .*not now"):
            images.read(source, "a.tar#00000.png")
    assert images.read(source, "a.tar#00000.png") == picture(0)


def refuse(place: str) -> None:
    raise PermissionError("not now")


def test_links_and_devices_in_a_tar_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    with tarfile.open(tmp_path / "x.tar", "w") as made:
        for name, kind in {"s.png": tarfile.SYMTYPE, "h.png": tarfile.LNKTYPE}.items():
            about = tarfile.TarInfo(name)
            about.type, about.linkname = kind, str(tmp_path / "secret.png")
            made.addfile(about)
        about = tarfile.TarInfo("p.png")
        about.type = tarfile.FIFOTYPE
        made.addfile(about)
        about = tarfile.TarInfo("a.png")
        about.size = 1
        made.addfile(about, io.BytesIO(b"a"))
    assert list(rows_of(locate(tmp_path / "x.tar"), tmp_path)) == ["x.tar#a.png"]


def damaged(kind: str, whole: bytes) -> bytes:
    return {
        "empty": b"",
        "text": b"no archive" * 100,
        "cut in a member": whole[: len(whole) // 2],
        "cut after the last member": whole[: len(whole) - len(whole) % 512].rstrip(b"\0"),
        "overwritten": whole[:600] + b"\xff" * 600 + whole[1200:],
    }[kind]


@pytest.mark.parametrize("ending", [".tar", ".zip"])
@pytest.mark.parametrize(
    "kind", ["empty", "text", "cut in a member", "cut after the last member", "overwritten"]
)
def test_a_damaged_archive_has_a_reason_and_keeps_what_is_whole(
    tmp_path: Path, ending: str, kind: str
) -> None:
    members = {f"{at}.png": picture(at) for at in range(6)}
    file = tmp_path / f"x{ending}"
    whole = (tar if ending == ".tar" else zipped)(file, members).read_bytes()
    file.write_bytes(damaged(kind, whole))
    (tar if ending == ".tar" else zipped)(tmp_path / f"y{ending}", members)
    source = locate([file, tmp_path / f"y{ending}"])
    rows = rows_of(source, tmp_path)
    assert sum(path.startswith(f"y{ending}#") for path in rows) == 6
    reason = rows.get(file.name, {}).get("reason")
    read: dict[str, bytes] = {}
    reasons = [reason] if reason else []
    for path in (one for one in rows if one.startswith(f"x{ending}#")):
        try:
            read[split_member(path)[1]] = images.read(source, path)
        except ImageError as error:
            reasons.append(str(error))
    if (ending, kind) != (".tar", "overwritten"):  # which has no checksums of contents
        assert all(content == members[name] for name, content in read.items())
        assert reasons, "it is told"
        assert all(one.isprintable() and "unreadable" in one for one in reasons)


def test_members_that_cannot_be_unpacked(tmp_path: Path) -> None:
    zipped(tmp_path / "bomb.zip", {"a.png": b"\0" * 5_000_000, "b.png": picture(1)})
    zipped(tmp_path / "lzma.zip", {"a.png": picture(1)}, zipfile.ZIP_LZMA)
    zipped(tmp_path / "plain.zip", {"a.png": picture(1)}, zipfile.ZIP_STORED)
    content = bytearray((tmp_path / "plain.zip").read_bytes())
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + place] |= 1
    (tmp_path / "secret.zip").write_bytes(content)
    source = locate([tmp_path / f"{name}.zip" for name in ("bomb", "lzma", "plain", "secret")])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lookalike.images.inputs.archives.MAX_BYTES", 1_000_000)
        with pytest.raises(ImageError, match="over the limit"):
            images.read(source, "bomb.zip#a.png")
    assert images.read(source, "bomb.zip#b.png") == picture(1)
    assert images.read(source, "plain.zip#a.png") == picture(1)
    with pytest.raises(ImageError, match="packed by method 14 in the archive: unpack it"):
        images.read(source, "lzma.zip#a.png")
    with pytest.raises(ImageError, match="encrypted in the archive: unpack it"):
        images.read(source, "secret.zip#a.png")


def test_archives_are_indexed_and_kept_current(tmp_path: Path) -> None:
    tar(tmp_path / "s/0.tar", sample(4))
    tar(tmp_path / "s/1.tar", sample(4, 4))
    out = tmp_path / "x.index"
    options = replace(PLAIN, label_column="cls")
    stored, report = build_index(str(tmp_path / "s/*.tar"), out, options)
    assert (report.images, report.skipped, report.not_looked_at) == (8, 0, {})
    index = lookalike.open_index(out)
    found = {row["path"]: row for s in stored.segments for row in s.rows.to_pylist()}
    assert found["1.tar#00005.png"]["label"] == "1"
    (hit,) = index.search(io_file(tmp_path, picture(5)), 1).to_dict()["neighbors"]
    assert hit["path"].endswith("1.tar#00005.png")
    # A shard that is cut short keeps its rows, until it is whole again.
    whole = (tmp_path / "s/1.tar").read_bytes()
    (tmp_path / "s/1.tar").write_bytes(whole[:100])
    done = index.sync(spark=False)
    assert (done.removed, done.new, index._table.counts()) == (0, 1, (8, 1))
    tar(tmp_path / "s/1.tar", sample(3, 4) | {"9.png": picture(9)})
    tar(tmp_path / "s/2.tar", {"a.png": picture(20)})
    done = index.sync(spark=False)
    assert (done.new, done.removed, index._table.counts()) == (2, 1, (9, 0))
    (tmp_path / "s/0.tar").unlink()
    assert index.sync(spark=False).removed == 4
    assert len(Index(index._table)) == 5


def io_file(folder: Path, content: bytes) -> Path:
    (folder / "query.png").write_bytes(content)
    return folder / "query.png"


def test_archives_of_a_store(s3: S3, tmp_path: Path) -> None:
    for name, first in {"0.tar": 0, "1.tar": 6}.items():
        s3.put(f"shards/{name}", tar(tmp_path / name, sample(6, first)).read_bytes())
    s3.put("shards/2.zip", zipped(tmp_path / "2.zip", sample(2, 12)).read_bytes())
    s3.put("shards/3.tar", b"cut")
    options = replace(PLAIN, label_column="json.caption")
    given = f"s3://{BUCKET}/shards/*.tar"
    stored, report = build_index(given, tmp_path / "x.index", options)
    assert (report.images, report.skipped) == (12, 1)
    rows = {row["path"]: row for s in stored.segments for row in s.rows.to_pylist()}
    assert rows[f"s3://{BUCKET}/shards/1.tar#00007.png"]["label"] == "text 7"
    for path in rows:
        at = int(split_member(path)[1].partition(".")[0])
        assert images.read(stored.source, path) == picture(at)
    other = Source("archive", f"s3://{BUCKET}/other/*.tar", ("",))
    with pytest.raises(ImageError, match="outside the folders"):
        images.read(other, f"s3://{BUCKET}/shards/1.tar#00007.png")
    source = locate(f"s3a://{BUCKET}/shards/2.zip")
    assert [images.read(source, path) for path in rows_of(source, tmp_path)] == [
        picture(12),
        picture(13),
    ]


@pytest.mark.parametrize("column", ["class", "json", "json.", "jpg"])
def test_labels_that_archives_do_not_have(tmp_path: Path, column: str) -> None:
    tar(tmp_path / "a.tar", sample(1))
    with pytest.raises(LookalikeError, match=r"set `label_column` to cls, txt or json\.FIELD"):
        locate(tmp_path / "a.tar", label_column=column)


def test_archives_that_are_not_there(tmp_path: Path) -> None:
    for given in (tmp_path / "a.tar", str(tmp_path / "*.zip")):
        with pytest.raises(LookalikeError, match="no such archive"):
            locate(given)
    tar(tmp_path / "none.tar", {"a.txt": b"x"})
    with pytest.raises(LookalikeError, match="no images in"):
        build_index(tmp_path / "none.tar", tmp_path / "x.index", PLAIN)
