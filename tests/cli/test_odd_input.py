"""Odd but plausible input: an answer, or one line that says what to do; never a traceback."""

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import lookalike
from helpers.command import assert_fails, run
from helpers.segments import collection_of, unit
from helpers.small import small_network
from lookalike import ImageEmbedder, Index, LookalikeError, images, lsh
from lookalike.errors import ImageError
from lookalike.images.inputs.listing import IMAGE
from lookalike.images.synthetic import DrawnCollection
from lookalike.ingest.batches import embed_batches
from lookalike.models import resolve
from lookalike.models.embedder import NO_DIRECTION, normalize
from lookalike.search.results import Query
from lookalike.spark import session
from lookalike.system.arrays import Vectors
from lookalike.system.paths import local_path

BAD = os.fsdecode(b"b\xe4d")
"""A name in Latin-1, which is not UTF-8."""


@pytest.fixture(scope="module")
def photo(drawn: DrawnCollection) -> Path:
    return sorted(drawn.photos.rglob("*.jpg"))[3]


# Vectors.


def stored(index: Index) -> Vectors:
    return np.array(index._table.segments[0].vectors[3])


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v * np.float32(1e-30),
        lambda v: v * np.float32(1e20),
        lambda v: v * np.float32(1e38),
        lambda v: v.astype(float) * 1e-300,
        lambda v: v.astype(float) * 1e300,
        lambda v: v.astype(np.float16),
        lambda v: (v * 1e6).astype(np.int64),
        lambda v: v.tolist(),
        lambda v: tuple((v * 1e25).tolist()),
    ],
)
def test_a_vector_of_any_length_finds_the_same(index: Index, change: Callable[..., Any]) -> None:
    wanted = index.search(stored(index), 6)
    found = index.search(change(stored(index)), 6)
    assert [hit.id for hit in found] == [hit.id for hit in wanted]
    distances = [hit.distance for hit in wanted]
    np.testing.assert_allclose([hit.distance for hit in found], distances, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v * 0, "zeros"),
        (lambda v: v * np.float32(1e-42), "zeros, or near zero"),
        (lambda v: v.astype(float) * 1e-320, "zeros, or near zero"),
        (lambda v: np.where(v == v.max(), np.nan, v), "not finite"),
        (lambda v: np.where(v == v.max(), -np.inf, v), "not finite"),
        (lambda v: v > 0, "the type bool"),
        (lambda v: v.astype(complex), "complex128"),
        (lambda v: np.array(["x"] * len(v)), "give numbers"),
        (lambda v: np.array([None] * len(v)), "give numbers"),
        (lambda v: v[:3].tolist(), "3 numbers, but this index has 512"),
        (lambda v: np.stack([v, v * 0]), "zeros"),
        (lambda v: np.stack([v, v * np.nan]), "not finite"),
        (lambda v: np.full((2, len(v)), np.inf, np.float32), "not finite"),
    ],
)
def test_a_vector_without_a_direction_is_refused(
    index: Index, change: Callable[..., Any], words: str
) -> None:
    with pytest.raises(LookalikeError, match=words) as refused:
        index.search(change(stored(index)))
    assert "\n" not in str(refused.value)


def test_several_vectors_of_odd_lengths(index: Index) -> None:
    import torch

    vectors = index._table.segments[0].vectors[:3].astype(float)
    wanted = [[hit.id for hit in index.search(vector, 4)] for vector in vectors]
    for given in (vectors * 1e-30, vectors * 1e20, torch.tensor(vectors)):
        answers: Any = index.search(given, 4)
        assert [[hit.id for hit in hits] for hits in answers] == wanted


def test_rows_are_scaled_whatever_their_size() -> None:
    rows = unit((5, 40), 0)
    scales = np.array([[1e-30], [1.0], [1e20], [3.0], [1e37]], np.float32)
    np.testing.assert_allclose(normalize(rows * scales), rows, rtol=1e-5)
    np.testing.assert_array_equal(normalize(3 * rows), normalize(np.float32(3) * rows))
    odd = np.array([[0, 0], [np.inf, 1], [np.nan, 1], [1e-44, 0]], np.float32)
    assert np.isnan(normalize(odd)).all()


def test_a_query_of_another_width_is_refused(index: Index) -> None:
    with pytest.raises(LookalikeError, match="3 numbers, but this index has 512"):
        index.search(Query(np.ones(3, np.float32)))


@pytest.mark.parametrize("k", [2.5, "3", True])
def test_k_is_a_whole_number(index: Index, k: Any) -> None:
    with pytest.raises(LookalikeError, match="give a whole number"):
        index.search(stored(index), k)
    assert len(index.search(stored(index), np.int64(3))) == 3  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "value", [0.0, *(pytest.param(v, marks=pytest.mark.long) for v in (float("nan"), 1e30))]
)
def test_a_network_that_gives_no_vectors(tmp_path: Path, value: float) -> None:
    """All-zero, not finite, and too large to be squared in float32: the last has a direction."""
    import torch

    options = small_network(tmp_path)
    weights = torch.load(options.weights)
    scale = weights["conv5.1.weight"]  # of the normalisation before the last rectifier
    weights["conv5.1.weight"] = scale * value if np.isfinite(value) else scale * torch.nan
    weights["conv5.1.bias"] *= 0
    torch.save(weights, options.weights)
    model = resolve(options.model, options.weights)
    embed = ImageEmbedder(model=model)
    picture = tmp_path / "photos" / "one.png"
    picture.parent.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(picture)
    row = {"id": 1, "path": "one.png"}
    source = images.locate(tmp_path / "photos")
    batches = [pa.RecordBatch.from_pylist([row], schema=IMAGE)]
    (made,) = (row for one in embed_batches(batches, source, model) for row in one.to_pylist())
    if value == 1e30:
        assert np.linalg.norm(embed(picture)) == pytest.approx(1)
        assert np.linalg.norm(made["embedding"]) == pytest.approx(1)
        return
    with pytest.raises(ImageError, match="not finite, or only zeros"):
        embed(picture)
    assert (made["status"], made["reason"], made["embedding"]) == ("skipped", NO_DIRECTION, None)


# Filters.


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        (["--label", "nope"], "the label 'nope'"),
        (["--label", "nope", "--label", BAD], "'nope' or 'b\\udce4d'"),
        (["--path", "nowhere/*"], "a path that matches 'nowhere/*'"),
        (["--path", f"{BAD}*"], "a path that matches"),
        (["--label", "red sedan", "--path", "x*"], "'red sedan' and has a path that matches 'x*'"),
    ],
)
@pytest.mark.parametrize("query", ["--random", "photo"])
def test_a_filter_that_leaves_nothing_is_an_error(
    index: Index, photo: Path, query: str, filters: list[str], words: str
) -> None:
    asked = "--random" if query == "--random" else photo
    assert_fails(run("search", index.path, asked, *filters), "no image has", words)


def test_nothing_within_a_distance_is_an_answer(index: Index, photo: Path) -> None:
    code, out, err = run("search", index.path, photo, "--within", "0")
    assert (code, err) == (0, "")
    assert "\nno neighbours\n" in out


# URIs, where only a disk will do.

URIS = ["s3a://bucket/x", "hdfs://host/x", "abfss://c@a.net/x", "S3://b/x", "file:///x/y"]
INDEX_COMMANDS = [
    "info {}",
    "check {}",
    "vacuum {}",
    "search {} --random",
    "sync {}",
    "watch {} --once",
    "remove {} x",
    "add {} {photos}",
    "root {} {photos}",
    "serve {}",
    "evaluate {}",
    "tune {}",
    "neighbors {index} --queries {} --out {out}",
    "join {index} {} --out {out}",
    "index {photos} --out {out} --like {}",
]
"""Commands that open an index at a URI."""
FILE_COMMANDS = [
    "root {index} {}",
    "undo {}",
    "embed {photos} --out {}",
    "embed {photos} --out {}.csv",
    "hash {index} --out {}",
    "neighbors {index} --out {}",
    "join {index} --out {}",
    "duplicates {index} --out {}",
    "duplicates {index} --out {out} --apply list --to {}",
    "clusters {index} --out {}",
    "outliers {index} --out {}",
    "gallery {index} --out {}",
    "search {index} --random --picture {}.png",
    "search {index} --random --html {}.html",
    "evaluate {index} --plot {}.png",
    "remove {index} --from {}",
    "demo --images {photos} --out {}",
    "train {photos} --labels {} --out {out}.safetensors",
    "train {photos} --labels {labels} --out {}.safetensors",
]
"""Commands for files and folders of a disk."""


@pytest.mark.parametrize("command", FILE_COMMANDS)
def test_a_uri_is_refused_where_a_path_is_needed(
    index: Index,
    drawn: DrawnCollection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"index": index.path, "photos": drawn.photos, "labels": drawn.labels, "out": "out"}
    for uri in URIS[:1] if "train" in command else URIS:
        said = run(*(one.format(uri, **places) for one in command.split()))
        assert_fails(said, "is a URI", uri.partition("://")[0] + "://")
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("command", INDEX_COMMANDS)
def test_a_uri_without_an_index_is_an_error(
    index: Index,
    drawn: DrawnCollection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"index": index.path, "photos": drawn.photos, "out": "out"}
    for uri, words in (
        ("memory://box/x.index", ["memory://box/x.index does not exist"]),
        ("ftp://host/x", ["unknown store ftp://"]),
        ("s3://bucket", ["s3://bucket is a whole bucket: give a folder in it"]),
        ("file:///x/y", ["file:///x/y is a URI: give the path, /x/y"]),
    ):
        said = run(*(one.format(uri, **places) for one in command.split()))
        assert_fails(said, *words)
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("uri", ["s3a://b/x", "s3a:/b/x", Path("s3a://b/x"), b"s3a://b/x"])
def test_a_uri_that_has_lost_a_slash_is_one_too(uri: Any) -> None:
    with pytest.raises(LookalikeError, match="s3a://b/x is a URI"):
        local_path(uri)


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_what_no_file_is_called(name: str) -> None:
    with pytest.raises(LookalikeError):
        local_path(name)
    for plain in ("c:", "a:b/c", "./s3a://x", "/x/s3a://y", "name with: colon"):
        assert str(local_path(plain)) == str(Path(plain))


# Names that are not UTF-8.


@pytest.fixture
def changed(index: Index, drawn: DrawnCollection, tmp_path: Path) -> Index:
    """A copy of the index whose photos lie in a folder of their own."""
    shutil.copytree(index.path, tmp_path / "copy.index")
    return lookalike.open_index(tmp_path / "copy.index")


@pytest.mark.parametrize("command", ["info {}", "search {} --random", "check {}", "join {i} {}"])
def test_an_index_in_a_folder_whose_name_is_not_utf8(changed: Index, command: str) -> None:
    moved = changed.path.with_name(f"{BAD}.index")
    shutil.copytree(changed.path, moved)
    given = [one.format(moved, i=changed.path) for one in command.split()]
    out = ["--out", changed.path.with_name("out")] if "join" in command else []
    assert_fails(run(*given, *out), "not UTF-8", "rename")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("how", ["name", "glob", "file", "stdin"])
def test_removing_names_that_are_not_utf8(
    tmp_path: Path, how: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of no image: a line. Of one: it goes."""
    path = tmp_path / "k.index"
    collection_of(unit((3, 8), 0), path, [3])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names").write_bytes(os.fsencode(BAD) + b".jpg\n")
    asked: dict[str, tuple[list[str], bytes]] = {
        "name": ([f"{BAD}.jpg"], b""),
        "glob": ([f"{BAD}*"], b""),
        "file": (["--from", "names"], b""),
        "stdin": (["--from", "-"], os.fsencode(BAD) + b".jpg\n"),
    }
    arguments, stdin = asked[how]
    said = run("remove", path, *arguments, "--dry-run", stdin=stdin, encoding=encoding)
    assert_fails(said, "has no image b%E4d")


def test_names_in_a_file_as_windows_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "k.index"
    collection_of(unit((3, 8), 0), path, [3])
    code, out, _ = run("remove", path, "--from", "-", stdin=b"\xef\xbb\xbf1.jpg\r\n\r\n2.jpg")
    assert (code, out) == (0, "")
    assert [hit.path for hit in lookalike.open_index(path).search(unit((1, 8), 1)[0])] == ["0.jpg"]


@pytest.mark.parametrize("given", [[""], ["1.jpg", ""]])
def test_an_empty_name_removes_nothing(
    tmp_path: Path, given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a variable leaves that was never set, in the folder of the photos."""
    path = tmp_path / "k.index"
    collection_of(unit((3, 8), 0), path, [3])
    monkeypatch.chdir("/")
    assert_fails(run("remove", path, *given), "an empty name")
    assert len(lookalike.open_index(path)) == 3


def test_a_host_that_is_no_name(index: Index) -> None:
    assert_fails(run("serve", index.path, "--host", BAD), "cannot listen on")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("evaluate {} --no-spark --seed -1", "seed is -1"),
        ("gallery {} --out out --no-spark --seed -1", "seed is -1"),
        ("tune {} --seed -1", "seed is -1"),
        ("join {} --out out --no-spark --shown -1", "shown is -1"),
        ("duplicates {} --out out --no-spark --shown -1", "shown is -1"),
        ("clusters {} --out out --no-spark --recall nan", "--recall is nan"),
        ("outliers {} --out out --no-spark --recall 2", "--recall is 2.0"),
        ("root {} {}/lookalike.json", "is not a folder"),
    ],
)
def test_numbers_out_of_range(
    index: Index,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_fails(run(*command.replace("{}", str(index.path)).split()), words)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("every", ["nan", "inf", "0", "-1"])
def test_seconds_that_are_none(index: Index, every: str) -> None:
    code, out, err = run("watch", index.path, "--once", "--every", every)
    assert (code, out) == (2, "") and "0.01 to" in err


# Indexes of next to nothing.


@pytest.fixture(
    scope="module",
    params=["skipped", "nothing", *(pytest.param(n, marks=pytest.mark.long) for n in (1, 2))],
)
def few(
    request: pytest.FixtureRequest, drawn: DrawnCollection, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int]:
    """An index, and how many images it has."""
    folder = tmp_path_factory.mktemp("few")
    count = request.param if isinstance(request.param, int) else 0
    photos = sorted(drawn.photos.rglob("*.jpg"))[: max(count, 1)]
    (folder / "photos").mkdir()
    for photo in photos:
        shutil.copy(photo, folder / "photos")
    if request.param == "skipped":
        (folder / "photos" / "x.jpg").touch()
    made = lookalike.create_index(folder / "photos", folder / "few.index", spark=False)
    if not count:
        made.remove(photos[0].name)
    return folder / "few.index", count


WHOLE = ["join", "duplicates", "clusters", "outliers", "gallery"]


@pytest.mark.parametrize("command", [*WHOLE, "join --within 0.4", "duplicates --json"])
def test_looking_at_next_to_nothing(few: tuple[Path, int], tmp_path: Path, command: str) -> None:
    name, *own = command.split()
    said = run(name, few[0], "--out", tmp_path / "out", "--no-spark", *own)
    assert said[0] == 0 and said[1], said
    assert (tmp_path / "out" / "index.html").is_file()


@pytest.mark.parametrize(
    "command", ["info {}", "check {}", "search {} {photo}", "search {} --random", "evaluate {}"]
)
def test_asking_next_to_nothing(few: tuple[Path, int], photo: Path, command: str) -> None:
    path, count = few
    own = ["--no-spark"] if "evaluate" in command else []
    said = run(*(one.format(path, photo=photo) for one in command.split()), *own)
    needed = 2 if "evaluate" in command else 1 if "random" in command else 0
    if count < needed:
        assert_fails(said, "index")
    else:
        assert said[0] == 0 and said[2] == "", said


# What a run that was killed left behind.


@pytest.mark.parametrize("where", ["relative", "inside", "absolute"])
def test_a_check_finds_what_was_left_wherever_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "k.index"
    collection_of(unit((3, 8), 0), path, [3])
    left = path / ".work-abcdefgh"
    left.mkdir()
    (left / ".owner").touch()
    monkeypatch.chdir(path if where == "inside" else tmp_path)
    given = {"relative": "k.index", "inside": ".", "absolute": str(path)}[where]
    code, out, err = run("check", given)
    assert (code, "left over: .work-abcdefgh" in out) == (1, True), err
    assert err.count("\n") == 1
    run("check", given, "--repair")
    assert not left.exists()


# Paths in Python: a string, or whatever has a path.


class Named(os.PathLike[str]):
    """A path that is no `Path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


KINDS = (str, Named)


@pytest.mark.parametrize("first", [0, pytest.param(1, marks=pytest.mark.long)])
def test_paths_are_given_as_strings_too(drawn: DrawnCollection, tmp_path: Path, first: int) -> None:
    from lookalike.analysis.cleanup.undo import undo
    from lookalike.analysis.result import AnalysisResult
    from lookalike.ingest import Options, build_index
    from lookalike.ingest.export import export_csv, write_embeddings

    kinds = itertools.cycle((*KINDS[first:], *KINDS[:first]))

    def named(path: Path) -> Any:
        return next(kinds)(path)

    photos = tmp_path / "photos"
    photos.mkdir()
    for photo in sorted(drawn.photos.rglob("*.jpg"))[:3]:
        shutil.copy(photo, photos)
    options = Options(labels=named(drawn.labels), spark=False)
    assert write_embeddings(named(photos), named(tmp_path / "t.csv"), options).images == 3
    assert write_embeddings([named(photos)], named(tmp_path / "u"), options).images == 3
    stored, report = build_index(named(photos), named(tmp_path / "k.index"), options)
    assert report.images == 3
    export_csv(stored, named(tmp_path / "again.csv"))
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "t.csv").read_text()
    lookalike.create_index(
        named(photos), named(tmp_path / "l.index"), like=named(tmp_path / "k.index")
    )
    index = lookalike.open_index(named(tmp_path / "k.index"))
    index.relocate(named(photos))
    assert len(index.search(named(photos / "00001.jpg"), 2)) == 2
    assert ImageEmbedder(model=stored.model)(named(photos / "00001.jpg")).shape == (512,)
    index.pairs(named(tmp_path / "p"), named(tmp_path / "l.index"), within=0.1, spark=False)
    found = index.duplicates(named(tmp_path / "d"), within=0.5, spark=False)
    found.to_csv(named(tmp_path / "d.csv"))
    assert AnalysisResult.open(named(tmp_path / "d")).figures == found.figures
    index.set_aside(found, "copy", named(tmp_path / "aside"))
    undo(named(tmp_path / "aside"))
    for find in (index.clusters, index.outliers, index.gallery):
        assert find(named(tmp_path / find.__name__), spark=False).figures["images"] == 3
    assert index.add(named(photos)).same == index.sync(named(photos)).same == 3


# Queries in a DataFrame of Spark's.


@pytest.fixture(scope="module")
def rows() -> Vectors:
    return unit((40, 16), 3)


@pytest.fixture(scope="module")
def spark_index(rows: Vectors, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index(collection_of(rows, tmp_path_factory.mktemp("spark") / "k.index", [40]))


def test_queries_of_a_frame_of_any_length(spark_index: Index, rows: Vectors) -> None:
    """Names stay names."""
    scales = {"as they are": 1.0, "small": 1e-30, "large": 1e20, "beyond float32": 1e300}
    given = [(name, (rows[5].astype(float) * scale).tolist()) for name, scale in scales.items()]
    frame = session().createDataFrame(given, "name string, `v.x` array<double>")
    found = spark_index.kneighbors(frame, 3, id_column="name", column="v.x").to_spark()
    assert found.columns == ["query_id", "rank", "neighbor_id", "distance"]
    wanted = [hit.id for hit in spark_index.search(rows[5], 3)]
    answers: dict[str, list[int]] = {name: [] for name in scales}
    for row in found.orderBy("query_id", "rank").collect():
        answers[row["query_id"]].append(row["neighbor_id"])
    assert answers == dict.fromkeys(scales, wanted)


@pytest.mark.parametrize(
    ("schema", "row", "words"),
    [
        ("id int, embedding array<float>", (1, [0.5] * 3), "another width than 16 .3 numbers"),
        ("id string, embedding array<double>", ("x", [0.5] * 17), "than 16 .17 numbers"),
        ("id int, embedding array<double>", (1, [float("nan")] * 16), "not finite"),
        pytest.param(
            "id int, embedding array<float>", (1, [None] * 16), "not finite", marks=pytest.mark.long
        ),
        pytest.param(
            "id int, embedding array<double>", (1, [0.0] * 16), "zeros", marks=pytest.mark.long
        ),
        pytest.param(
            "id int, embedding array<double>",
            (None, [0.5] * 16),
            "without an id",
            marks=pytest.mark.long,
        ),
        ("id string, embedding array<double>", (None, [0.5] * 16), "without an id"),
        ("id int, embedding array<string>", (1, ["x"] * 16), "is array<string>: give vectors"),
        pytest.param(
            "id int, embedding double", (1, 0.5), "is double: give vectors", marks=pytest.mark.long
        ),
        ("number int, embedding array<double>", (1, [0.5] * 16), "no column 'id', but number"),
        pytest.param(
            "id int, v array<double>",
            (1, [0.5] * 16),
            "no column 'embedding', but id, v",
            marks=pytest.mark.long,
        ),
    ],
)
def test_queries_of_a_frame_that_are_refused(
    spark_index: Index, schema: str, row: Any, words: str
) -> None:
    frame = session().createDataFrame([row], schema)
    with pytest.raises(LookalikeError, match=words) as refused:
        spark_index.kneighbors(frame)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("stage", ["spark", "amplified"])
def test_hashing_another_width_is_told_in_a_line(stage: str) -> None:
    from pyspark.errors import PySparkException

    def frame(width: int) -> Any:
        given = [(n, v.tolist()) for n, v in enumerate(unit((50, width), 1).astype(float))]
        return assemble_arrays(session().createDataFrame(given, "id bigint, v array<double>"))

    if stage == "spark":
        hasher: Any = lsh.fit(frame(16))
        with pytest.raises(LookalikeError, match="3 numbers, but the hash tables are for 16"):
            hasher.nearest(frame(16), np.ones(3, np.float32), 2)
    else:
        hasher = lsh.AmplifiedProjectionLSH(bucketLength=1.0, numHashTables=2).fit(frame(16))
    assert hasher.transform(frame(16)).count() == 50
    with pytest.raises(PySparkException) as refused:
        hasher.transform(frame(5)).select("hashes").collect()
    assert "5 numbers in the column 'features', but the hash tables are for 16" in str(
        refused.value
    )
    assert "Traceback" not in str(refused.value)


def assemble_arrays(frame: Any) -> Any:
    from pyspark.ml.functions import array_to_vector

    return frame.select("id", array_to_vector(frame["v"]).alias("features"))


def test_a_join_by_hashes_counts_pairs_once() -> None:
    vectors = unit((60, 16), 1).astype(float)
    given = [(number, vector.tolist()) for number, vector in enumerate(vectors)]
    table = assemble_arrays(session().createDataFrame(given, "id bigint, v array<double>"))
    one_bucket = lsh.fit(table, bucket_length=0.2, tables=7)
    found = lsh.candidates(one_bucket, table)
    hashes = np.floor(vectors @ lsh.directions(one_bucket.model).T / 0.2)
    shared = hashes[:, None] == hashes[None]
    true = int(np.triu(shared.any(axis=2), 1).sum())
    assert found.rows == shared.sum(), "what Spark ML makes rows of"
    assert true <= found.pairs <= 60 * 59 // 2 < found.rows
    between = lsh.candidates(one_bucket, table, table.limit(10))
    assert between.pairs <= 600
    with pytest.raises(
        LookalikeError, match=rf"{found.pairs:,} pairs or fewer.*{found.rows:,} rows"
    ):
        lsh.similarity_join(one_bucket, table, 0.5, room=0)
