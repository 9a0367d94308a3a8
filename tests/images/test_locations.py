"""Where images are: what is found, in which order, under which name, and read again."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.rights import without_rights
from lookalike import LookalikeError
from lookalike.errors import ImageError
from lookalike.images import Source, decode_path, encode_path, locate, no_images_error, read, walk
from lookalike.images.inputs.file_types import readable

TREE = [
    *["A.jpg", "a.jpg", "b c/z.png", "b.jpg", "b/sub/1.jpeg", "b/x.jpg", "b/y.JPG"],
    *["b-/x.jpg", "c/same.jpg", "d/same.jpg"],
]
LEFT_OUT = [".hidden.jpg", ".hidden/x.jpg", "b/.x.jpg", "notes.txt", "b/jpg", "c/x.jpg.bak"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder of files, each of which holds its own path."""
    root = tmp_path / "photos"
    for name in TREE + LEFT_OUT:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def listed(images: str | Path | Sequence[str | Path]) -> list[str]:
    """The paths found; nothing among them is in trouble."""
    found = list(walk(locate(images)))
    assert [one.reason for one in found] == [None] * len(found)
    return [one.path for one in found]


def troubles(images: str | Path) -> dict[str, str]:
    return {one.path: one.reason for one in walk(locate(images)) if one.reason}


def refusal(call: Callable[[], object]) -> str:
    """Call what must raise `LookalikeError`; its message, which is one line."""
    with pytest.raises(LookalikeError) as caught:
        call()
    assert str(caught.value).isprintable()
    return str(caught.value)


# --- folders, files, globs ----------------------------------------------------------------------


@pytest.mark.parametrize("given", [Path, str, lambda path: [path], lambda path: f"{path}/"])
def test_a_folder_is_walked_in_order(tree: Path, given: Callable[[Path], Any]) -> None:
    assert listed(given(tree)) == sorted(TREE)


def test_a_relative_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree.parent)
    source = locate("photos")
    assert os.path.isabs(source.root)
    monkeypatch.chdir("/")
    assert [read(source, one.path).decode() for one in walk(source)] == sorted(TREE)


def test_every_extension_in_any_case(tmp_path: Path) -> None:
    names = sorted(f"{n}{e}" for e in readable() for n, e in [("a", e), ("b", e.upper())])
    for name in [*names, "a.txt", "jpg", "a.jpg~", "a.jpgx"]:
        (tmp_path / name).touch()
    assert listed(tmp_path) == names


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*.jpg", ["A.jpg", "a.jpg", "b.jpg"]),
        ("?.jpg", ["A.jpg", "a.jpg", "b.jpg"]),
        ("[ab].jpg", ["a.jpg", "b.jpg"]),
        ("*/same.jpg", ["c/same.jpg", "d/same.jpg"]),
        ("**/*.jpg", [name for name in TREE if name.endswith(".jpg")]),
        ("**/*.[jJ][pP]*", [name for name in TREE if name != "b c/z.png"]),
        ("[cd]", ["c/same.jpg", "d/same.jpg"]),
        ("*", TREE),
        ("**", TREE),
        ("**.jpg", ["A.jpg", "a.jpg", "b.jpg"]),
        ("**/*", TREE),
        ("**/sub", ["1.jpeg"]),
        ("c/../*.jpg", ["A.jpg", "a.jpg", "b.jpg"]),
        ("b*", [name for name in TREE if name.startswith("b")]),
        ("[b]", ["sub/1.jpeg", "x.jpg", "y.JPG"]),
    ],
)
def test_globs(tree: Path, pattern: str, wanted: list[str]) -> None:
    assert listed(f"{tree}/{pattern}") == sorted(wanted)


def test_a_name_that_looks_like_a_glob_is_a_name(tmp_path: Path) -> None:
    for name in ["[1]/x.jpg", "1/y.jpg", "a*.jpg", "ab.jpg"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert listed(tmp_path / "[1]") == ["x.jpg"]
    assert listed(tmp_path / "a*.jpg") == ["a*.jpg"]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["b.jpg"], ["b.jpg"]),
        (["b.jpg", "a.jpg"], ["a.jpg", "b.jpg"]),
        (["b", "b.jpg", "b-"], ["b-/x.jpg", "b.jpg", "b/sub/1.jpeg", "b/x.jpg", "b/y.JPG"]),
        (["d/same.jpg", "c/same.jpg"], ["c/same.jpg", "d/same.jpg"]),
        (["a.jpg", "a.jpg", "b/../a.jpg"], ["a.jpg"]),
        (["b/x.jpg", "b", "b/sub"], ["b/sub/1.jpeg", "b/x.jpg", "b/y.JPG"]),
        (["*.jpg", "a.jpg"], ["A.jpg", "a.jpg", "b.jpg"]),
        (["c", "notes.txt"], ["c/same.jpg", "notes.txt"]),
    ],
)
def test_lists(tree: Path, names: list[str], wanted: list[str]) -> None:
    source = locate([tree / name for name in names])
    found = [os.path.relpath(os.path.join(source.root, one.path), tree) for one in walk(source)]
    assert found == wanted
    assert all(read(source, one.path) for one in walk(source))


@pytest.mark.parametrize("name", ["notes.txt", "b/jpg", "c/x.jpg.bak", ".hidden.jpg"])
def test_a_file_named_outright_is_taken(tree: Path, name: str) -> None:
    source = locate(tree / name)
    assert [(one.path, one.reason) for one in walk(source)] == [(os.path.basename(name), None)]
    assert read(source, os.path.basename(name)).decode() == name


def test_equal_names_in_two_folders(tree: Path) -> None:
    source = locate([tree / "c", tree / "d"])
    assert [read(source, one.path).decode() for one in walk(source)] == [
        "c/same.jpg",
        "d/same.jpg",
    ]


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ([], "name a folder, a file or a glob"),
        ("", "no such|name a folder"),
        ("nowhere", "no such file or folder: .*nowhere"),
        ("nowhere/x.jpg", "no such file or folder"),
        ("two\nlines.jpg", "no such file or folder: .*two%0Alines"),
        ("*.gif", "nothing matches .*gif.*: quote it"),
        (["a.jpg", "nowhere.jpg"], "no such file or folder: .*nowhere"),
        ("s3a://a/b", None),
        (["s3a://a/b", "s3a://a/c"], "one URI at a time"),
        ("nowhere.parquet", "no such table: .*nowhere"),
        ("two\nlines.parquet", "no such table: "),
        (["a.parquet", "b.parquet"], "no such table: .*a.parquet"),
        (["file:///a.parquet", "b.parquet"], "one URI at a time"),
    ],
    ids=str,
)
def test_what_is_not_there(
    tree: Path, monkeypatch: pytest.MonkeyPatch, given: str | list[str], advice: str | None
) -> None:
    monkeypatch.chdir(tree)
    if advice is None:
        assert locate(given) == Source("uri", str(given), ())
    else:
        with pytest.raises(LookalikeError, match=advice) as caught:
            locate(given)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["empty", "two\nlines"])
def test_nothing_found(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    source = locate(tmp_path / name)
    assert list(walk(source)) == []
    with pytest.raises(LookalikeError, match=r"no images in .*\.jpg") as caught:
        raise no_images_error(source)
    assert str(caught.value).isprintable()


# --- names --------------------------------------------------------------------------------------

NAMES = [
    *[b"plain.jpg", b"with space.jpg", b" leading.jpg", b"it's.jpg", b'a "b".jpg', b"a,b;c.jpg"],
    *[b"a\nb.jpg", b"a\tb\r.jpg", b"a\x7f.jpg", b"\x01.jpg", b"a\\b.jpg", b"a#1.jpg", b"a?b.jpg"],
    *[b"100%.jpg", b"%41.jpg", b"%2541.jpg", b"a+b.jpg", b"-n.jpg", b"~.jpg", b"*.jpg", b"[1].jpg"],
    *[n.encode() for n in ["é日本.jpg", "e\u0301.jpg", "a\u2028b.jpg", "\U0001f697.jpg"]],
    *[b"\xff.jpg", b"caf\xe9.jpg", b"\xc3\xa9\xff.jpg", b"\xed\xa0\x80.jpg", b"\xf0\x9f.jpg"],
]  # fmt: skip
_random = np.random.default_rng(4)
for _ in range(60):
    _name = _random.integers(1, 256, int(_random.integers(1, 60)), np.uint8).tobytes()
    NAMES.append(b"r" + _name.replace(b"/", b"") + b".jpg")


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_round_trip(name: bytes) -> None:
    text = encode_path(name)
    assert text == encode_path(os.fsdecode(name))
    assert os.fsencode(decode_path(text)) == name
    assert not [c for c in text if ord(c) < 32 or ord(c) == 127]
    text.encode()  # UTF-8, which Arrow takes
    assert encode_path(decode_path(text)) == text


def test_easy_names_stay_as_they_are() -> None:
    for name in ["a b/c.jpg", "it's.jpg", "日本.jpg", "a+b,c;d.jpg", "\U0001f697.jpg"]:
        assert encode_path(name) == name


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All those names in one folder, each file holding its own name."""
    folder = tmp_path_factory.mktemp("odd\n%41 \udcff")
    for name in NAMES:
        Path(folder, os.fsdecode(name)).write_bytes(name)
    return folder


def test_odd_names_are_found_and_read(odd_folder: Path) -> None:
    for source in [locate(odd_folder), locate(sorted(odd_folder.iterdir()))]:
        paths = [one.path for one in walk(source)]
        assert {read(source, path) for path in paths} == set(NAMES)
        assert len(paths) == len(set(NAMES))
        assert pa.array(paths, pa.string()).to_pylist() == paths


def test_odd_names_are_found_in_the_order_of_their_paths(odd_folder: Path) -> None:
    paths = listed(odd_folder)
    assert paths == sorted(paths)


# --- links and rights ---------------------------------------------------------------------------


def test_links(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "far.jpg").write_text("far")
    (tree / "b/up").symlink_to(tree, target_is_directory=True)
    (tree / "self.jpg").symlink_to("self.jpg")
    (tree / "ping.jpg").symlink_to("pong.jpg")
    (tree / "pong.jpg").symlink_to("ping.jpg")
    (tree / "dead.jpg").symlink_to("nowhere.jpg")
    (tree / "dead").symlink_to("nowhere")
    (tree / "near.jpg").symlink_to("a.jpg")
    (tree / "far").symlink_to(outside, target_is_directory=True)
    (tree / "again").symlink_to("c", target_is_directory=True)
    assert troubles(tree) == {
        "b/up": "link back to a folder above it",
        "dead": "broken link",
        "dead.jpg": "broken link",
        "ping.jpg": "link to itself",
        "pong.jpg": "link to itself",
        "self.jpg": "link to itself",
    }
    source = locate(tree)
    found = list(walk(source))
    assert [one.path for one in found] == sorted(one.path for one in found)
    good = [one.path for one in found if not one.reason]
    assert good == sorted([*TREE, "near.jpg", "far/far.jpg", "again/same.jpg"])
    texts = {path: read(source, path).decode() for path in good}
    assert (texts["near.jpg"], texts["far/far.jpg"]) == ("a.jpg", "far")
    for path in troubles(tree):
        with pytest.raises(ImageError):
            read(source, path)


@pytest.mark.parametrize("target", [".", "..", "../b", "../../photos"])
def test_links_back(tree: Path, target: str) -> None:
    (tree / "b" / "link").symlink_to(target, target_is_directory=True)
    assert troubles(tree) == {"b/link": "link back to a folder above it"}


def test_a_glob_does_not_go_round_in_circles(tree: Path) -> None:
    (tree / "b/up").symlink_to(tree, target_is_directory=True)
    found = walk(locate(f"{tree}/**/*.jpg"))
    names = [one.path for one in found if not one.reason]
    assert names == sorted(name for name in TREE if name.endswith(".jpg"))


def test_a_broken_link_named_outright(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").symlink_to("nowhere")
    source = locate(tmp_path / "x.jpg")
    assert [one.path for one in walk(source)] == ["x.jpg"]
    with pytest.raises(ImageError, match=r"^broken link$"):
        read(source, "x.jpg")


def test_a_folder_without_rights(folder_of_all: Path) -> None:
    for name in ["a.jpg", "closed/b.jpg", "open/c.jpg"]:
        (folder_of_all / name).parent.mkdir(exist_ok=True)
        (folder_of_all / name).touch()
    (folder_of_all / "closed").chmod(0)
    with without_rights():
        found = [(one.path, one.reason) for one in walk(locate(folder_of_all))]
        message = refusal(lambda: list(walk(locate(folder_of_all / "closed"))))
    (folder_of_all / "closed").chmod(0o755)
    assert found == [
        ("a.jpg", None),
        ("closed", "unreadable folder: Permission denied"),
        ("open/c.jpg", None),
    ]
    assert "closed" in message


def test_a_folder_that_may_be_listed_but_not_entered(folder_of_all: Path) -> None:
    (folder_of_all / "half").mkdir()
    (folder_of_all / "half" / "x.jpg").touch()
    (folder_of_all / "half").chmod(0o444)
    with without_rights():
        for given in (folder_of_all, f"{folder_of_all}/*", f"{folder_of_all}/*/*.jpg"):
            source = locate(given)
            (found,) = walk(source)
            with pytest.raises(ImageError, match=r"^unreadable: Permission denied$"):
                read(source, found.path)
    (folder_of_all / "half").chmod(0o755)


# --- tables and URIs ----------------------------------------------------------------------------

CELLS = [b"zero", b"", b"two\x00", b"three" * 1000, b"four", None, b"six"]


@pytest.fixture(params=["binary", "large binary", "struct"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a Parquet file of seven rows in three row groups, of an odd name."""
    kind = pa.large_binary() if request.param == "large binary" else pa.binary()
    column = pa.array(CELLS, kind)
    if request.param == "struct":  # as Hugging Face stores images
        names = pa.array([f"{row}.jpg" for row in range(len(CELLS))])
        column = pa.StructArray.from_arrays([column, names], ["bytes", "path"])
    folder = tmp_path / "a table"
    (folder / "part").mkdir(parents=True)
    rows = pa.table({"label": [str(row) for row in range(len(CELLS))], "photo": column})
    pq.write_table(rows, folder / "part/0%1 #.parquet", row_group_size=3)
    return folder


@pytest.mark.parametrize("outright", [True, False])
def test_cells_of_a_table(table: Path, outright: bool) -> None:
    name = "0%1 #.parquet" if outright else "part/0%1 #.parquet"
    source = locate(table / "part" / name if outright else table, image_column="photo")
    assert (source.kind, source.image_column) == ("table", "photo")
    for row, cell in enumerate(CELLS):
        if cell is not None:
            assert read(source, f"{encode_path(name)}#{row}") == cell
    with pytest.raises(ImageError, match=r"^(empty cell|no such file)$"):
        read(source, f"{encode_path(name)}#5")
    for wrong in [f"{encode_path(name)}#7", "gone.parquet#0", "x"]:
        with pytest.raises(ImageError, match=r"^unreadable: ") as caught:
            read(source, wrong)
        assert str(caught.value).isprintable()


def test_a_table_is_told_by_what_is_in_the_folder(table: Path, tree: Path) -> None:
    assert locate(table / "part").kind == "table"
    assert locate(table / "part" / "0%1 #.parquet").image_column == "image"
    assert locate(table / "part", label_column="label").label_column == "label"
    assert locate("s3a://bucket/x", image_column="image").kind == "table"
    shutil.copy(table / "part" / "0%1 #.parquet", tree / "x.parquet")
    assert locate(tree).kind == "files"  # photos beside it: a folder of photos
    refusal(lambda: locate(tree, label_column="label"))


def test_a_uri(tree: Path) -> None:
    source = locate(tree.as_uri())
    assert (source.kind, source.root) == ("uri", tree.as_uri())
    assert read(source, (tree / "b c/z.png").as_uri()) == b"b c/z.png"
    nowhere = Source("uri", "nosuch://host/", ())
    for one, wrong, words in [
        (source, (tree / "gone.jpg").as_uri(), "no such file"),
        (nowhere, "nosuch://host/x.jpg", "unreadable: unknown store nosuch://"),
    ]:
        with pytest.raises(ImageError, match=f"^{words}") as caught:
            read(one, wrong)
        assert str(caught.value).isprintable()
