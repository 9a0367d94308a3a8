"""Images of a store: indexed without Spark, kept current, searched; and what vanishes meanwhile."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from PIL import Image

import lookalike
from helpers.stores import BUCKET, S3, Answer, proxy
from lookalike import Index, LookalikeError, images
from lookalike.images.inputs import read_ahead as reading
from lookalike.images.inputs.listing import IMAGE
from lookalike.images.inputs.read_ahead import read_ahead
from lookalike.images.inputs.source import Source
from lookalike.images.inputs.store_listing import list_named, list_store
from lookalike.images.inputs.tables import shards
from lookalike.ingest import Options, build_index
from lookalike.search.query import query_of_id, random_query
from lookalike.search.searcher import Searcher
from lookalike.system.store import open_store

PLAIN = Options(precision="f32", spark=False)


def picture(seed: int, format_: str = "PNG") -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    Image.fromarray(pixels).save(content, format_)
    return content.getvalue()


def listed(root: str, folder: Path, ignored: images.IgnoredFiles | None = None) -> list[str]:
    """The paths that a URI lists, in order, without its own."""
    listing = folder / "listing.parquet"
    count = list_store(Source("uri", root, ()), listing, ignored)
    rows = pq.read_table(listing)
    assert rows["id"].to_pylist() == list(range(count))
    paths: list[str] = rows["path"].to_pylist()
    assert paths == sorted(paths)
    return paths


TREE = ["2012/a.jpg", "2012/b.PNG", "2013/a.jpg", "2013/x/c.jpg", "[odd]/d 100%.jpg", "z.jpg"]
LEFT_OUT = [".hidden.jpg", ".git/x.jpg", "t/_delta_log/0.jpg", "notes.txt", "2012/film.mp4"]


@pytest.fixture(scope="module")
def tree(s3: S3) -> str:
    for name in [*TREE, *LEFT_OUT]:
        s3.put(f"tree/{name}", b"x")
    s3.put("tree/2012/", b"")  # the mark of a folder
    s3.put("tree/2012_$folder$", b"")
    s3.put("tree/scan.q1", picture(1))
    s3.put("tree/no image", b"text")
    s3.put("tree/empty.q2", b"")
    s3.put("treehouse/x.jpg", b"x")
    return f"s3://{BUCKET}/tree"


@pytest.mark.parametrize(
    ("below", "wanted"),
    [
        ("", [*TREE, "scan.q1"]),
        ("/", [*TREE, "scan.q1"]),
        ("/2012", ["2012/a.jpg", "2012/b.PNG"]),
        ("/2012/a.jpg", ["2012/a.jpg"]),
        ("/201*", ["2012/a.jpg", "2012/b.PNG", "2013/a.jpg", "2013/x/c.jpg"]),
        ("/*/a.jpg", ["2012/a.jpg", "2013/a.jpg"]),
        ("/**/*.jpg", [name for name in TREE if name.endswith(".jpg")]),
        ("/201{2,4}/*", ["2012/a.jpg", "2012/b.PNG"]),
        ("/201[!2]/?.jpg", ["2013/a.jpg"]),
        ("/[odd]", ["[odd]/d 100%.jpg"]),
        ("/2013/*", ["2013/a.jpg", "2013/x/c.jpg"]),
    ],
)
def test_places_of_a_store(tree: str, tmp_path: Path, below: str, wanted: list[str]) -> None:
    for root in (tree, tree.replace("s3:", "s3a:")):
        found = listed(root + below, tmp_path)
        assert found == sorted(images.encode_path(f"{root}/{name}") for name in wanted)
        source = Source("uri", root + below, ())
        assert [images.read(source, path) for path in found if path.endswith(".jpg")] == [
            b"x" for path in found if path.endswith(".jpg")
        ]


def test_others_are_counted_by_ending(tree: str, tmp_path: Path) -> None:
    ignored = images.IgnoredFiles(f"{tree}/notes.txt")
    listed(tree, tmp_path, ignored)
    assert ignored.counts() == {".mp4": 1, ".q2": 1, "without ending": 1}
    ignored = images.IgnoredFiles()
    with pytest.raises(LookalikeError, match=r"no images in .*: not looked at: 1 \.mp4"):
        listed(f"{tree}/2012/*.mp4", tmp_path, ignored)
    for nothing in ("s3://photos/nowhere", f"{tree}/nothing*"):
        with pytest.raises(LookalikeError, match="no images in"):
            listed(nothing, tmp_path)


def fill(s3: S3, prefix: str, count: int) -> list[str]:
    names = [f"{prefix}/{at % 3}/{at:02} é%.png" for at in range(count)]
    for at, name in enumerate(names):
        s3.put(name, picture(at))
    return names


def vectors_of(index: Index) -> dict[str, np.ndarray]:
    return {
        path.rpartition("/")[2]: vector
        for segment in index._table.segments
        for path, vector in zip(segment.rows["path"].to_pylist(), segment.vectors, strict=True)
    }


def test_a_store_is_indexed_kept_current_and_searched(s3: S3, tmp_path: Path) -> None:
    """In this process, without Spark, under either name of S3; and equal to local files."""
    names = fill(s3, "cars", 12)
    for at, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(at))
    s3.put("cars/bad.jpg", b"no image")
    s3.put("cars/empty.jpg", b"")
    labels = "".join(f"{at:02} é%.png,{at % 2}\n" for at in range(12))
    s3.put("labels/cars.csv", f"image,Class\n{labels}".encode())
    options = replace(PLAIN, labels=f"s3://{BUCKET}/labels/cars.csv")
    stored, report = build_index(f"s3a://{BUCKET}/cars", tmp_path / "x.index", options)
    assert (report.images, report.skipped) == (12, 2)
    reasons = {path.rpartition("/")[2]: reason for path, reason in stored.skipped()}
    assert reasons.keys() == {"bad.jpg", "empty.jpg"}
    index = Index(stored)
    rows = {row["path"]: row for s in stored.segments for row in s.rows.to_pylist()}
    for at, name in enumerate(names):
        path = images.encode_path(f"s3a://{BUCKET}/{name}")
        assert rows[path]["label"] == str(at % 2)
        assert images.read(stored.source, path) == picture(at)
        query = query_of_id(Searcher(stored), rows[path]["id"])
        assert (query.path, query.content) == (path, picture(at))
    local = vectors_of(Index(build_index(tmp_path / "cars", tmp_path / "y.index", PLAIN)[0]))
    for name, vector in vectors_of(index).items():
        np.testing.assert_allclose(local[name], vector, atol=1e-5)
    assert random_query(stored, 1).content in [picture(at) for at in range(12)]
    # The other name of the same place continues the index.
    again = build_index(f"s3://{BUCKET}/cars/", tmp_path / "x.index", options)[1]
    assert (again.same, again.images) == (14, 0)
    s3.put("cars/new.png", picture(50))
    s3.put(names[0], picture(51) + b"longer")
    s3.client.delete_object(Bucket=BUCKET, Key=names[1])
    done = index.sync(spark=False)
    assert (done.new, done.changed, done.removed) == (1, 1, 1)
    assert index.add(f"s3://{BUCKET}/cars", spark=False).new == 0
    for one in (f"s3://{BUCKET}/cars/2/*", "2/*"):
        assert index.remove(one, dry_run=True).removed == 4
    assert index.remove([f"s3a://{BUCKET}/cars/2/*"]).removed == 4
    assert len(index) == 8
    with pytest.raises(LookalikeError, match="was made of s3a://photos/cars: give that URI"):
        index.add(f"s3://{BUCKET}/tree", spark=False)


def test_workers_read_a_store_as_this_process_does(s3: S3, workers: None, tmp_path: Path) -> None:
    fill(s3, "workers", 8)
    given = f"s3://{BUCKET}/workers"
    by_spark = Index(build_index(given, tmp_path / "x.index", replace(PLAIN, spark=True))[0])
    here = vectors_of(Index(build_index(given, tmp_path / "y.index", PLAIN)[0]))
    found = vectors_of(by_spark)
    assert found.keys() == here.keys()
    for name, vector in found.items():
        np.testing.assert_allclose(here[name], vector, atol=1e-5)


def xml(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()


def test_objects_that_vanish_or_are_shut_have_a_reason(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(s3, "vanish", 6)
    answers = {"/00": Answer(404, xml("NoSuchKey")), "/01": Answer(403, xml("AccessDenied"))}

    def fault(method: str, path: str) -> Answer | None:
        return next((one for name, one in answers.items() if name in path), None)

    with proxy(s3.port, fault) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        place = f"s3://{BUCKET}/vanish"
        stored, report = build_index(place, tmp_path / "x.index", PLAIN)
        assert (report.images, report.skipped) == (4, 2)
        reasons = {path.rpartition("/")[2][:2]: reason for path, reason in stored.skipped()}
        assert reasons == {"00": "no such file", "01": "unreadable: access denied"}
        answers.clear()
        done = Index(stored).sync(spark=False)  # both reasons may have passed
        assert (done.images, done.skipped, Index(stored).sync(spark=False).same) == (2, 0, 6)


def test_named_objects_that_are_shut_are_listed(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a stream names them: their reason comes when they are read."""
    names = fill(s3, "named", 4)
    s3.put("named/none.txt", b"x")
    answers = {"/00": Answer(404, b""), "/01": Answer(403, b"")}

    def fault(method: str, path: str) -> Answer | None:
        return next((one for name, one in answers.items() if name in path), None)

    root = f"s3a://{BUCKET}/named"
    with proxy(s3.port, fault) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        paths = [f"s3a://{BUCKET}/{name}" for name in [*names, "named/none.txt"]]
        ignored = images.IgnoredFiles()
        list_named(Source("uri", root, ()), paths, tmp_path / "x.parquet", ignored)
    rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert [row["path"] for row in rows] == sorted(map(images.encode_path, paths[1:4]))
    sizes = {row["path"].rpartition("/")[2][:2]: row["size"] for row in rows}
    assert sizes == {"01": None, "02": len(picture(2)), "03": len(picture(3))}
    assert ignored.counts() == {".txt": 1}


def test_a_token_that_expires_ends_the_run_and_loses_nothing(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(s3, "expires", 24)
    answered: list[str] = []

    def fault(method: str, path: str) -> Answer | None:
        if "list-type" in path:
            return None
        answered.append(path)
        return Answer(400, xml("ExpiredToken")) if len(answered) > 14 else None

    monkeypatch.setattr(reading, "_REQUESTS", 2)
    monkeypatch.setattr(reading, "_GROUP_ROWS", 4)
    monkeypatch.setattr(reading, "_AHEAD_BYTES", 2_000)
    options = replace(PLAIN, wave=4)
    place = f"s3://{BUCKET}/expires"
    with proxy(s3.port, fault) as address, monkeypatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(LookalikeError, match="have expired: renew them, and run the same"):
            build_index(place, tmp_path / "x.index", options)
    kept = lookalike.open_index(tmp_path / "x.index")
    assert 0 < len(kept) < 24
    assert list(kept._table.skipped()) == []
    stored, report = build_index(place, tmp_path / "x.index", options)
    assert (report.same, stored.counts()) == (len(kept), (24, 0))


def test_images_are_read_ahead_within_a_bound(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many at once, in the order of their rows, and no more bytes than allowed."""
    store = open_store("memory://tests/ahead")
    size = 10_000
    for at in range(100):
        store.put(f"{at:03}.jpg", bytes([at]) * size)
    monkeypatch.setattr(reading, "_GROUP_BYTES", 4 * size)
    monkeypatch.setattr(reading, "_AHEAD_BYTES", 12 * size)
    started: list[str] = []
    read = reading._read

    def count(source: Source, path: str) -> bytes:
        started.append(path)
        return read(source, path)

    monkeypatch.setattr(reading, "_read", count)
    rows = [
        {"id": at, "path": f"memory://tests/ahead/{at:03}.jpg", "size": size} for at in range(100)
    ]
    rows[7]["path"] = "memory://tests/ahead/gone.jpg"
    rows[8]["path"] = "memory://tests/other/008.jpg"
    rows[9]["reason"] = "file of 9,999,999,999 bytes, over the limit"
    batches = [
        pa.RecordBatch.from_pylist(rows[:70], IMAGE),
        pa.RecordBatch.from_pylist(rows[70:], IMAGE),
    ]
    seen = 0
    for batch in read_ahead(Source("uri", "memory://tests/ahead", ()), batches):
        assert batch.schema == IMAGE
        assert batch.num_rows <= 4
        seen += batch.num_rows
        assert len(started) <= seen + 16
        for row in batch.to_pylist():
            if row["id"] in (7, 8, 9):
                reason = {7: "no such file", 8: "outside the folders of this index"}
                assert row["reason"] == reason.get(row["id"], rows[9]["reason"])
            else:
                assert (row["reason"], row["content"]) == (None, bytes([row["id"]]) * size)
    assert seen == 100


def test_tiny_images_are_read_ahead_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_AHEAD_GROUPS", 3)
    monkeypatch.setattr(reading, "_GROUP_ROWS", 4)
    started: list[str] = []

    def read(_: Source, path: str) -> bytes:
        started.append(path)
        return b"x"

    monkeypatch.setattr(reading, "_read", read)
    rows = [{"id": at, "path": f"memory://tests/tiny/{at}.jpg", "size": 1} for at in range(200)]
    seen = 0
    for batch in read_ahead(
        Source("uri", "memory://tests/tiny", ()), [pa.RecordBatch.from_pylist(rows, IMAGE)]
    ):
        seen += batch.num_rows
        assert len(started) <= seen + 4 * 3
    assert seen == len(started) == 200


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("s3://nobucket/photos", "no such bucket: s3://nobucket: check its name"),
        ("s3://photos/nothing", "no images in s3://photos/nothing"),
        ("wasb://host/photos", "unknown store wasb://: choose file://, s3://"),
        ("file:///no/where", "no such file or folder: file:///no/where"),
        ("file://host/photos", "names a host: give file:///host/photos"),
    ],
)
def test_places_that_are_none(s3: S3, tmp_path: Path, given: str, words: str) -> None:
    with pytest.raises(LookalikeError, match=words) as caught:
        build_index(given, tmp_path / "x.index", PLAIN)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "x.index").exists()


def test_labels_of_a_store_that_are_not_there(s3: S3, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(picture(1))
    for given, words in {
        f"s3://{BUCKET}/no.csv": "cannot read the labels: s3://photos/no.csv: .*no such object",
        "s3:/photos/no.csv": "cannot read the labels: s3://photos/no.csv",  # as `Path` writes it
        "ftp://host/x.csv": "unknown store ftp://",
        "file:///x.csv": "is a URI: give the path, /x.csv",
    }.items():
        with pytest.raises(LookalikeError, match=words) as caught:
            build_index(tmp_path / "photos", tmp_path / "x.index", replace(PLAIN, labels=given))
        assert str(caught.value).isprintable()
    assert not (tmp_path / "x.index").exists()


def parquet(rows: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.table(rows), content)
    return content.getvalue()


def test_vectors_of_a_store(s3: S3, tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).normal(size=(40, 8)).astype(np.float32)

    def put(name: str, keys: range) -> None:
        rows = {"k": [f"k{at}" for at in keys], "v": [vectors[at].tolist() for at in keys]}
        s3.put(f"items/{name}", parquet(rows))

    put("0.parquet", range(20))
    put("part/1.parquet", range(20, 30))
    s3.put("items/_SUCCESS", b"")
    place = f"s3://{BUCKET}/items"
    index = lookalike.create_index(
        place, tmp_path / "x.index", embedding_column="v", id_column="k", spark=False
    )
    assert len(index) == 30
    (found,) = lookalike.open_index(tmp_path / "x.index").search(vectors[25], k=1)
    assert found.id == "k25"
    put("2.parquet", range(30, 40))
    s3.client.delete_object(Bucket=BUCKET, Key="items/part/1.parquet")
    done = index.sync(spark=False)
    assert (done.new, done.removed, len(index)) == (10, 10, 30)
    for given, words in {
        f"s3://{BUCKET}/nothing": "has no Parquet files",
        "s3://nobucket/items": "no such bucket: s3://nobucket",
    }.items():
        with pytest.raises(LookalikeError, match=words):
            lookalike.create_index(given, tmp_path / "y.index", embedding_column="v", id_column="k")
    s3.put("items/_delta_log/00000000000000000000.json", b"{}")
    with pytest.raises(LookalikeError, match=f"{place} cannot be read"):
        lookalike.create_index(place, tmp_path / "y.index", embedding_column="v", id_column="k")


def put_delta(s3: S3, key: str, folder: Path, versions: list[pa.Table]) -> None:
    """Put a Delta table into the store, of which each version replaces the one before."""
    for version in versions:
        write_deltalake(folder, version, mode="overwrite", partition_by=["kind"])
    for file in folder.rglob("*"):
        if file.is_file():
            s3.put(f"{key}/{file.relative_to(folder).as_posix()}", file.read_bytes())


def test_a_delta_table_of_a_store_has_its_newest_version(s3: S3, tmp_path: Path) -> None:
    vectors = np.eye(8, dtype=np.float32)

    def rows(first: int, last: int) -> pa.Table:
        keys, kinds = [f"k{row}" for row in range(first, last)], ["a b"] * (last - first)
        return pa.table({"k": keys, "kind": kinds, "v": list(vectors[first:last])})

    put_delta(s3, "lake", tmp_path / "lake", [rows(0, 8), rows(2, 6)])
    place = f"s3://{BUCKET}/lake"
    for number, given in enumerate((place, f"file://{tmp_path}/lake", tmp_path / "lake")):
        index = lookalike.create_index(
            given, tmp_path / f"{number}.index", embedding_column="v", id_column="k", spark=False
        )
        assert sorted(index.to_pandas()["id"]) == ["k2", "k3", "k4", "k5"]
    for root in (place, f"file://{tmp_path}/lake"):
        assert len(list(shards(Source("table", root, ())))) == 1


def test_a_table_of_a_store(s3: S3, workers: None, tmp_path: Path) -> None:
    photos = [picture(at) for at in range(4)]
    s3.put("table/a.parquet", parquet({"image": photos[:2], "kind": ["x", "y"]}))
    s3.put("table/cut.parquet", parquet({"image": photos})[:-9])
    s3.put("table/b/c.parquet", parquet({"image": photos[2:], "kind": ["x", "y"]}))
    options = Options(precision="f32", image_column="image", label_column="kind")
    stored, report = build_index(f"s3a://{BUCKET}/table", tmp_path / "x.index", options)
    assert (report.images, report.skipped) == (4, 1)
    rows = {row["path"]: row for s in stored.segments for row in s.rows.to_pylist()}
    names = [f"s3a://{BUCKET}/table/{name}" for name in ("a.parquet", "b/c.parquet")]
    paths = [f"{name}#{row}" for name in names for row in (0, 1)]
    assert [images.read(stored.source, path) for path in paths] == photos
    assert [rows[path]["label"] for path in paths] == ["x", "y", "x", "y"]


def uri_of(s3: S3, name: str, seed: int) -> str:
    """Put a picture into the store; return its URI."""
    s3.put(name, picture(seed))
    return f"s3://{BUCKET}/{name}"


def test_a_frame_of_uris(s3: S3, tmp_path: Path) -> None:
    uris = [uri_of(s3, f"rows/{name}", at) for at, name in enumerate(("a.png", "b/100%.png"))]
    frame = pa.table({"uri": [*uris, f"s3://{BUCKET}/rows/none.png"], "price": [1, 2, 3]})
    options: Any = {"precision": "f32", "spark": False, "keep_columns": ["price"]}
    made = lookalike.create_index(frame, tmp_path / "x.index", **options)
    assert made._table.counts() == (2, 1)
    assert dict(made._table.skipped()) == {f"s3://{BUCKET}/rows/none.png": "no such file"}
    found = made.search(made.sample(1, seed=0)[0], k=2)
    assert "file is gone" not in found.html()
    more = uri_of(s3, "elsewhere/c.png", 3)
    added = made.add(pa.table({"uri": [more], "price": [4]}), spark=False)
    assert (added.images, added.skipped) == (1, 0)
    assert len(made.search(picture(3), k=3, where="price > 1")) == 2
    with pytest.raises(LookalikeError, match="make another index for it"):
        made.add(pa.table({"uri": ["s3://another/c.png"], "price": [5]}))


@pytest.mark.long  # seconds of Spark
@pytest.mark.usefixtures("workers")
def test_a_frame_of_spark_with_uris(s3: S3, tmp_path: Path) -> None:
    from lookalike.spark import session

    uris = [uri_of(s3, f"tasks/{at}.png", at) for at in range(6)]
    frame = session().createDataFrame([(uri, None) for uri in uris], "path string, bytes binary")
    structs = frame.selectExpr("struct(bytes, path) as image")
    for number, given in enumerate((frame.select("path"), structs)):
        made = lookalike.create_index(given, tmp_path / f"{number}.index", precision="f32")
        assert made._table.counts() == (6, 0)
        assert made._table.source.root == f"s3://{BUCKET}"
        assert made.add(given).same == 6
        assert images.read(made._table.source, uris[0]) == picture(0)
