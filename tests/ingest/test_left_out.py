"""What is no image, or cannot be read, is said; of nothing no index is made."""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import lookalike
from helpers.command import assert_fails, run
from helpers.small import picture, pictures, small_network
from lookalike import LookalikeError, images, ingest
from lookalike.images import IgnoredFiles, describe_ignored, locate, walk
from lookalike.images.decoding import formats, raster
from lookalike.images.inputs import file_opening
from lookalike.images.inputs.file_types import MAX_TYPES, OTHER_ENDINGS, OTHER_TYPES, readable
from lookalike.ingest import Options, build_index
from lookalike.ingest.export import write_embeddings
from lookalike.storage import EmbeddingTable, is_index

FORMATS = ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "JPEG2000", "PPM", "ICO", "AVIF", "MPO"]


def image(format_: str) -> bytes:
    content = io.BytesIO()
    drawn = Image.linear_gradient("L").resize((32, 24)).convert("RGB")
    drawn.save(content, format_, append_images=[drawn], save_all=format_ == "MPO")
    return content.getvalue()


def found(
    given: Path | str, ignored: IgnoredFiles | None = None
) -> tuple[list[str], dict[str, int]]:
    """Return the names of what is taken for images, and what is not."""
    ignored = ignored or IgnoredFiles()
    source = locate(given, ignored=ignored)
    return [one.path for one in walk(source, ignored.accepts)], ignored.counts()


def write(folder: Path, **contents: bytes) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


# --- which files are looked at ------------------------------------------------------------------


@pytest.mark.parametrize("format_", FORMATS)
def test_a_format_is_known_by_its_first_bytes(tmp_path: Path, format_: str) -> None:
    content = image(format_)
    names = sorted(["photo", "photo.dat", "photo.jpg_large", "x.000123", "x.ÄÖ", f"x.{'e' * 40}"])
    for name in names:
        (tmp_path / name).write_bytes(content)
    assert found(tmp_path) == (names, {})
    assert found(f"{tmp_path}/*o*") == (["photo", "photo.dat", "photo.jpg_large"], {})
    images.decode(images.read(locate(tmp_path), "photo"))


def test_what_is_not_looked_at(tmp_path: Path) -> None:
    jpeg = image("JPEG")
    for name, content in {
        "a.jpg": jpeg,
        "b.MP4": b"",
        "c.mp4": jpeg,  # films are not opened
        "d.svg": b"<svg/>",
        "e.jxl": b"\xff\x0a",
        "raw.NEF": image("TIFF"),
        "half.jpg.part": jpeg,
        "sub/notes.txt": b"",
        "sub/Thumbs.db": b"",
        "sub/README": b"BM",
        "sub/Makefile": b"all:\n",
        "sub/empty": b"",
        "sub/tga": image("TGA"),
        ".DS_Store": b"",
        ".hidden/x.mp4": b"",
        "sub/._a.jpg": b"",
        "odd.m\nq": b"",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("c.mp4")
    (tmp_path / "no.image").symlink_to("sub/empty")
    names, counts = found(tmp_path)
    assert names == ["a.jpg", "link", "sub/README"]  # which begins as BMP does: it gets a reason
    assert counts == {
        "without ending": 5,
        ".mp4": 2,
        ".db": 1,
        ".image": 1,
        ".jxl": 1,
        ".nef": 1,
        ".part": 1,
        ".svg": 1,
        ".txt": 1,
    }
    assert found(f"{tmp_path}/*") == (names, counts)


def test_a_glob_that_matches_no_image_says_what_it_matches(tmp_path: Path) -> None:
    write(tmp_path, **{"a.mp4": b"", "b.mp4": b"", "c.svg": b"", "d.7z": b""})
    with pytest.raises(LookalikeError, match=r"no image matches .*not looked at: 2 \.mp4$"):
        locate(f"{tmp_path}/*.mp4")
    with pytest.raises(LookalikeError, match=r"1 \.7z \(unpack archives first"):
        locate(f"{tmp_path}/*.7z")
    with pytest.raises(LookalikeError, match=r"nothing matches .*quote it"):
        locate(f"{tmp_path}/*.gif")


def test_heic_needs_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
    write(tmp_path, **{"a.heic": heic, "b.HIF": heic, "c": heic, "d.jpg": b""})
    monkeypatch.setattr("lookalike.images.inputs.file_types.heic_is_installed", lambda: False)
    monkeypatch.setattr(
        "lookalike.images.inputs.file_types.readable",
        lambda: readable() - {*formats.ENDINGS["HEIF"]},
    )
    names, counts = found(tmp_path)
    assert (names, counts) == (["d.jpg"], {".heic": 2, ".hif": 1})
    assert describe_ignored(counts) == '2 .heic, 1 .hif (for HEIC pip install "lookalike[heic]")'
    monkeypatch.undo()
    monkeypatch.setattr("lookalike.images.inputs.file_types.heic_is_installed", lambda: True)
    monkeypatch.setattr(
        "lookalike.images.inputs.file_types.readable",
        lambda: readable() | {*formats.ENDINGS["HEIF"]},
    )
    assert found(tmp_path) == (["a.heic", "b.HIF", "c", "d.jpg"], {})


def test_endings_are_counted_in_bounded_memory() -> None:
    ignored = IgnoredFiles()
    for number in range(5 * MAX_TYPES):
        ignored.add(f".{number}", 2)
    ignored.add(".0")
    counts = ignored.counts()
    assert len(counts) == MAX_TYPES + 1
    assert next(iter(counts.items())) == (".0", 3)
    assert list(counts.items())[-1] == (OTHER_TYPES, 8 * MAX_TYPES)
    assert describe_ignored(counts).endswith(f"2 .15, {2 * (5 * MAX_TYPES - 8)} of other types")
    assert describe_ignored({}) == ""


def test_no_ending_is_of_images_and_of_others() -> None:
    read = {e for name, endings in formats.ENDINGS.items() if name != "HEIF" for e in endings}
    assert read.isdisjoint(OTHER_ENDINGS)
    assert all(
        ending == ending.lower() and ending.startswith(".") for ending in read | OTHER_ENDINGS
    )


def test_the_label_file_and_indexes_are_nothing_that_was_left_out(tmp_path: Path) -> None:
    write(tmp_path / "p", **{"a.jpg": b"", "labels.csv": b"", "other.csv": b""})
    for name in ("lookalike.json", "_lookalike.json"):
        write(tmp_path / "p" / f"x.{name}", **{name: b"{}", "m.bin": b"", "t.jpg": b""})
        (tmp_path / "p" / f"x.{name}" / "_delta_log").mkdir()
    (tmp_path / "link.csv").symlink_to("p/labels.csv")
    (tmp_path / "p" / "sub").mkdir()
    shutil.copy(tmp_path / "p" / "labels.csv", tmp_path / "p" / "sub" / "labels.csv")
    for labels in (tmp_path / "p" / "labels.csv", tmp_path / "p" / ".." / "p" / "labels.csv"):
        assert found(tmp_path / "p", IgnoredFiles(labels)) == (["a.jpg"], {".csv": 2})
    assert found(tmp_path / "p") == (["a.jpg"], {".csv": 3})


@pytest.mark.parametrize("name", ["k.tgz", "x.TAR.GZ", "pics.7z"])
def test_an_archive_is_to_be_unpacked(tmp_path: Path, name: str) -> None:
    write(tmp_path, **{name: b"PK", "a.jpg": b""})
    for given in (tmp_path / name, [tmp_path / name]):
        with pytest.raises(LookalikeError, match=rf"{name} is an archive: unpack it"):
            locate(given)
    ignored = IgnoredFiles()  # where a shell has expanded a glob
    source = locate([tmp_path / "a.jpg", tmp_path / name], ignored=ignored)
    assert source.names == ("a.jpg",)
    assert ignored.counts() == {Path(name).suffix.lower(): 1}
    write(tmp_path, **{f"other{name}": b"PK"})
    with pytest.raises(LookalikeError, match=r"not looked at: 2 \..* \(unpack archives first"):
        locate([tmp_path / name, tmp_path / f"other{name}"])
    (tmp_path / f"other{name}").unlink()
    assert found(tmp_path) == (["a.jpg"], {Path(name).suffix.lower(): 1})


# --- of nothing no index is made ----------------------------------------------------------------


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return small_network(tmp_path_factory.mktemp("network"))


def make_index(photos: Path, out: Path, options: Options) -> object:
    return build_index(photos, out, options)


def make_table(photos: Path, out: Path, options: Options) -> object:
    return write_embeddings(photos, out, options)


BAD: dict[str, tuple[dict[str, bytes], str]] = {
    "films": (
        {"a.mp4": b"", "b.MP4": b"x"},
        r"no images in .*: not looked at: 2 \.mp4; ",
    ),
    "archives": (
        {"a.zip": b"", "b.tar": b""},
        r"1 \.tar, 1 \.zip \(unpack archives first, or name",
    ),
    "an archive": ({"k.zip": b"PK\3\4"}, r"cannot read k\.zip: unreadable: not a whole archive"),
    "a film": ({"k.mp4": b"\0\0\0\x18ftypmp42"}, r"cannot read k\.mp4: not an image that can be"),
    "one broken": ({"x.jpg": image("JPEG")[:200]}, r"cannot read x\.jpg: damaged image"),
    "all broken": (
        {"a.jpg": b"", "b.png": b"no", "c.gif": image("GIF")[:40]},
        r"none of 3 inputs can be read, such as a\.jpg: empty file",
    ),
    "broken of no ending": (
        {"photo": image("JPEG")[:30], "b.txt": b""},
        r"cannot read photo: .*; not looked at: 1 \.txt; nothing is left to index$",
    ),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, network: Options) -> Path:
    """A folder with an index and a table, which tests copy."""
    folder = tmp_path_factory.mktemp("good")
    photos = pictures(folder / "photos", 2, 1)
    for make in (make_index, make_table):
        (folder / make.__name__).mkdir()
        make(photos, folder / make.__name__ / "out.index", network)
    return folder


@pytest.mark.parametrize("make", [make_index, make_table])
@pytest.mark.parametrize("kind", BAD)
def test_of_nothing_nothing_is_made(
    tmp_path: Path,
    network: Options,
    good: Path,
    kind: str,
    make: Callable[[Path, Path, Options], object],
) -> None:
    contents, message = BAD[kind]
    write(tmp_path / "p", **contents)
    given = tmp_path / "p" / next(iter(contents)) if kind.startswith("a") else tmp_path / "p"
    given = tmp_path / "p" if kind in ("archives", "all broken") else given
    out = tmp_path / "out.index"
    with pytest.raises(LookalikeError, match=message) as caught:
        make(given, out, network)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["p"]
    # What is there stays as it was.
    shutil.copytree(good / make.__name__, tmp_path, dirs_exist_ok=True)
    before = content(out)
    assert before
    with pytest.raises(LookalikeError):
        if make is make_index:
            build_index(given, out, network, overwrite=True)
        else:
            write_embeddings(given, out, network, overwrite=True)
    assert content(out) == before
    assert {*os.listdir(tmp_path)} - {"out.index.skipped.csv"} == {"p", "out.index"}


def content(out: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in out.rglob("*") if file.is_file()}


def test_an_index_of_nothing_that_was_emptied(tmp_path: Path, network: Options) -> None:
    photos, out = pictures(tmp_path / "p", 1, 1), tmp_path / "x.index"
    build_index(photos, out, network)
    write(photos, **{"bad.jpg": b"bad"})
    done = ingest.sync(EmbeddingTable.open(out), None, network)[1]
    assert (done.new, done.skipped, done.not_looked_at) == (1, 1, {})
    (photos / "000.png").unlink()
    assert ingest.sync(EmbeddingTable.open(out), None, network)[1].removed == 1
    before = content(out)
    with pytest.raises(LookalikeError, match=r"cannot read bad\.jpg: "):
        build_index(photos, out, network)
    assert content(out) == before
    assert EmbeddingTable.open(out).counts() == (0, 1)


def test_waves_that_hold_nothing_wait_for_one_that_does(
    tmp_path: Path, network: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = tmp_path / "p", tmp_path / "x.index"
    write(photos, **{f"{number:03}.jpg": b"bad" for number in range(40)})
    picture(photos / "z.png", 1)
    made = []
    create = EmbeddingTable.create.__func__  # type: ignore[attr-defined]

    def noted(cls: type[EmbeddingTable], *arguments: object) -> EmbeddingTable:
        made.append(sum(row["rows"] for row in arguments[3]))  # type: ignore[attr-defined]
        return create(cls, *arguments)  # type: ignore[no-any-return]

    monkeypatch.setattr(EmbeddingTable, "create", classmethod(noted))
    options = Options(**{**vars(network), "wave": 8})
    report = build_index(photos, out, options)[1]
    assert (report.images, report.skipped) == (1, 40)
    assert made == [41]
    assert len({path for path, _ in EmbeddingTable.open(out).skipped()}) == 40


def test_what_is_added_and_bad_is_kept_with_its_reason(tmp_path: Path, network: Options) -> None:
    photos, out = pictures(tmp_path / "p", 2, 1), tmp_path / "x.index"
    stored = build_index(photos, out, network)[0]
    write(tmp_path / "more", **{"bad.jpg": b"bad", "film.mp4": b""})
    stored, done = ingest.add(stored, tmp_path / "more", network)
    assert (done.new, done.images, done.skipped) == (1, 0, 1)
    assert done.not_looked_at == {".mp4": 1}
    assert [os.path.basename(path) for path, _ in stored.skipped()] == ["bad.jpg"]
    write(tmp_path / "films", **{"film.mp4": b""})
    with pytest.raises(LookalikeError, match=r"no images in .*films: not looked at: 1 \.mp4"):
        ingest.add(stored, tmp_path / "films", network)
    assert EmbeddingTable.open(out).version == stored.version


# --- who says it --------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    photos = pictures(tmp_path / "p", 3, 1)
    (photos / "000.png").rename(photos / "zero")
    write(photos, **{"a.mp4": b"", "b.mp4": b"", "c.svg": b"<svg/>"})
    (photos / "labels.csv").write_text("image,Class\n001,x\n")
    return photos


def test_commands_say_what_was_left_out(mixed: Path, tmp_path: Path, network: Options) -> None:
    model: list[object] = [
        "--model",
        network.model,
        "--weights",
        network.weights,
        "--precision",
        "f32",
    ]
    model += ["--labels", mixed / "labels.csv"]
    words = "not looked at: 2 .mp4, 1 .svg\n"
    counts = {".mp4": 2, ".svg": 1}
    out = tmp_path / "x.index"
    code, said, noted = run("index", mixed, "--out", out, *model)
    assert (code, said) == (0, "") and words in noted and "3 images embedded" in noted
    assert "1 label fits by part of the name only" in noted
    code, said, noted = run("index", mixed, "--out", out, *model)
    assert "nothing is new or changed: 3 inputs" in noted and words in noted
    code, said, noted = run("index", mixed, "--out", out, *model, "--json")
    assert json.loads(said)["not_looked_at"] == counts and json.loads(said)["same"] == 3
    code, said, noted = run("embed", mixed, "--out", tmp_path / "t.csv", *model, "--json")
    table = json.loads(said)
    assert (table["images"], table["skipped"], table["not_looked_at"]) == (3, 0, counts)
    assert (table["loose_labels"], table["unused_labels"]) == (1, 0)
    code, said, noted = run("embed", mixed, "--out", tmp_path / "u.csv", *model)
    assert code == 0 and words in noted
    code, said, noted = run("sync", out)
    assert code == 0 and "not looked at: 2 .mp4, 1 .csv, 1 .svg\n" in noted
    code, said, noted = run("add", out, f"{mixed}/*", "--json")
    assert json.loads(said)["not_looked_at"] == counts | {".csv": 1}
    code, said, noted = run("watch", out, "--once")
    assert (code, said, noted) == (0, "", "not looked at: 2 .mp4, 1 .csv, 1 .svg\n")


def test_a_command_that_finds_nothing_fails(tmp_path: Path) -> None:
    write(tmp_path, **{"k.7z": b"PK", "a.mp4": b""})
    for given in ("k.7z", "."):
        done = run("index", tmp_path / given, "--out", tmp_path / "x.index")
        assert_fails(done, "unpack")
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "k.7z"]


def test_python_says_what_was_left_out(mixed: Path, tmp_path: Path, network: Options) -> None:
    options: dict[str, Any] = {
        "model": network.model,
        "weights": network.weights,
        "precision": "f32",
    }
    index = lookalike.create_index(mixed, tmp_path / "x.index", **options)
    assert index.report is not None
    assert index.report.not_looked_at == {".mp4": 2, ".csv": 1, ".svg": 1}
    assert lookalike.open_index(index.path).report is None
    write(mixed, **{"d.svg": b""})
    assert index.sync().not_looked_at == {".mp4": 2, ".svg": 2, ".csv": 1}
    assert index.sync(dry_run=True).not_looked_at == {".mp4": 2, ".svg": 2, ".csv": 1}


def test_files_of_no_ending_below_a_uri(mixed: Path, tmp_path: Path, network: Options) -> None:
    write(
        mixed,
        **{
            "a.mp4": b"film",
            "b.mp4": b"film",
            "bad": b"no image",
            "odd.q1": image("AVIF"),
            ".hidden": b"",
        },
    )
    out = tmp_path / "x.index"
    options = Options(**{**vars(network), "spark": None, "labels": mixed / "labels.csv"})
    stored, report = build_index(mixed.as_uri(), out, options)
    assert (report.images, report.skipped, report.loose_labels) == (4, 0, 1)
    assert report.not_looked_at == {".mp4": 2, "without ending": 1, ".svg": 1}
    assert is_index(out)
    done = ingest.sync(stored, None, options, dry_run=True)[1]
    assert (done.new, done.same, done.removed) == (0, 4, 0)
    assert done.not_looked_at == report.not_looked_at
    write(tmp_path / "films", **{"a.mp4": b"film", "b": b"more"})
    with pytest.raises(LookalikeError, match=r"no images in .*: not looked at: 1 \.mp4, 1 wi"):
        build_index((tmp_path / "films").as_uri(), tmp_path / "y.index", options)
    assert not (tmp_path / "y.index").exists()


def test_a_listing_of_a_uri_reads_no_photo(
    tmp_path: Path, network: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 30 photos some are changed: the others are not read, however they are named."""
    names = ["{}.jpg", "{}.PNG", "{}", "{}.foo", "{}.a,b"]
    photos, size = tmp_path / "p", 100_000
    for number in range(30):
        name = names[number % len(names)].format(f"x [{number}]")
        write(photos, **{name: image("PNG") + bytes([number]) * size})
    write(photos, **{"b.mp4": b"film" * size, "c.jpg.part": b"half" * size})
    options = Options(**{**vars(network), "spark": False})
    sizes: list[int] = []
    read_file = raster.read_file

    def count(place: str) -> bytes:
        content = read_file(place)
        sizes.append(len(content))
        return content

    monkeypatch.setattr(file_opening, "read_file", count)

    def read(begin: int = 0) -> int:
        return sum(sizes) - begin

    begin = read()
    stored, report = build_index(photos.as_uri(), tmp_path / "x.index", options)
    assert (report.images, report.skipped) == (30, 0)
    assert report.not_looked_at == {".mp4": 1, ".part": 1}
    whole, begin = read(begin), read()
    done = ingest.sync(stored, None, options, dry_run=True)[1]
    assert (done.new, done.changed, done.same, done.removed) == (0, 0, 30, 0)
    unchanged, begin = read(begin), read()
    (photos / "x [1].PNG").write_bytes(image("PNG"))
    (photos / "x [2]").write_bytes(image("JPEG"))
    done = ingest.sync(stored, None, options)[1]
    assert (done.new, done.changed, done.same, done.skipped) == (0, 2, 28, 0)
    changed = read(begin)
    assert 30 * size < whole < 45 * size
    assert unchanged < size > changed


@pytest.mark.long  # 10 CPU seconds of Spark
def test_a_uri_of_more_endings_than_are_counted(tmp_path: Path, network: Options) -> None:
    photos = tmp_path / "p"
    names = [f"scan.{number:04}" for number in range(MAX_TYPES + 20)]
    write(photos, **{name: image("PNG") + name.encode() for name in names})
    options = Options(**{**vars(network), "spark": None})
    stored, report = build_index(photos.as_uri(), tmp_path / "x.index", options)
    assert (report.images, report.skipped, report.not_looked_at) == (MAX_TYPES + 20, 0, {})
    # Of some that are read by name, one is over the limit: each row has an id of its own.
    write(photos, **{name: image("PNG") + b"changed" + name.encode() for name in names[:30]})
    with (photos / "large.png").open("wb") as file:
        file.truncate(raster.MAX_BYTES + 1)
    done = ingest.sync(stored, None, options)[1]
    assert (done.new, done.changed, done.images, done.skipped) == (1, 30, 30, 1)
    newest = EmbeddingTable.open(stored.path)
    ids = [row for file in newest.files() for row in pq.read_table(file)["id"].to_pylist()]
    assert len(ids) == len(set(ids))


def test_a_folder_of_photos_stays_one(tmp_path: Path, network: Options) -> None:
    photos = pictures(tmp_path / "p", 3, 1)
    for number, file in enumerate(sorted(photos.iterdir())):
        file.rename(photos / f"photo{number}")
    out = photos / "idx"
    stored = build_index(photos, out, network)[0]
    write_embeddings(photos, photos / "t", network)
    pq.write_table(pa.table({"name": ["photo0"]}), photos / "meta.parquet")
    write(photos, LICENSE=b"words")
    assert locate(photos).kind == "files"
    assert build_index(photos, out, network)[1].same == 3
    assert ingest.sync(stored, None, network)[1].same == 3
    # Where a table of images comes to lie there, what was indexed stays what it was.
    content = [(photos / "photo0").read_bytes()]
    pq.write_table(pa.table({"image": content}), photos / "images.parquet")
    assert locate(photos).kind == "table"
    (photos / "photo0").rename(photos / "photo0.png")
    done = ingest.sync(stored, None, network)[1]
    assert (done.new, done.same, done.removed) == (1, 2, 1)
    for file in photos.glob("photo*"):
        file.unlink()
    with pytest.raises(LookalikeError, match=r"no images in .*not looked at: .*parquet"):
        ingest.sync(stored, None, network)
    for name in ("images.parquet", "meta.parquet", "LICENSE"):
        (photos / name).unlink()
    shutil.rmtree(photos / "t")
    with pytest.raises(LookalikeError, match="no images in "):
        build_index(photos, out, network)


def test_a_parquet_file_among_images_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, **{"a.jpg": b"", "b.jpg": b"", "bad.parquet": b"no table"})
    pq.write_table(pa.table({"name": ["a"]}), tmp_path / "meta.parquet")
    ignored = IgnoredFiles()
    source = locate(sorted(tmp_path.iterdir()), ignored=ignored)
    assert (source.kind, source.names) == ("files", ("a.jpg", "b.jpg"))
    assert ignored.counts() == {".parquet": 2}
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "photos.parquet")
    with pytest.raises(LookalikeError, match=r"images and tables are given \(.*photos\.parquet"):
        locate(sorted(tmp_path.iterdir()))
