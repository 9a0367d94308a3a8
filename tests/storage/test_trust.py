"""Nothing that an index, a file of weights or a table brings along is trusted."""

import base64
import csv
import io
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

import lookalike
from helpers.clusters import clustered
from helpers.command import assert_fails, run
from helpers.segments import collection_of
from lookalike import Index, LookalikeError, lsh
from lookalike.analysis.result import AnalysisResult
from lookalike.cli import app
from lookalike.errors import ImageError
from lookalike.images import Source, encode_path, read
from lookalike.images.synthetic import DrawnCollection
from lookalike.ingest import Options
from lookalike.ingest.export import export_csv, write_embeddings
from lookalike.lsh.amplified import AmplifiedProjectionLSH, AmplifiedProjectionLSHModel
from lookalike.lsh.search import load_hasher
from lookalike.models import Model, engine, resolve
from lookalike.models.ir_validation import check_graph
from lookalike.models.networks import backbone, restore
from lookalike.models.quantization import quantize
from lookalike.rendering.tile import GONE
from lookalike.search.query import random_query
from lookalike.search.searcher import Searcher
from lookalike.server import create_app
from lookalike.spark import local_uri, session
from lookalike.storage import EmbeddingTable
from lookalike.storage.description import FORMAT
from lookalike.storage.schema import ROW
from lookalike.system.cache import seal
from lookalike.system.untrusted import foreign_types, map_array, read_arrays, read_json

OUTSIDE = r"^outside the folders of this index$"
SECRET = (250, 0, 250)
MODULE_OF_NONE = "a_module_that_only_an_attacker_has"


class Mark:
    """What a pickle can do to whoever loads it: make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A folder that is made if a pickle is loaded, which fails the test."""
    path = tmp_path / "loaded"
    pickle.loads(pickle.dumps(Mark(path)))
    path.rmdir()  # it would work
    yield path
    assert not path.exists(), "a pickle was loaded"


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def copy_with(index: Index, path: Path, change: Callable[[pa.Table], pa.Table]) -> Path:
    """Copy an index, with other rows in its data files. It needs a cache of its own."""
    shutil.copytree(index.path, path)
    for file in EmbeddingTable.open(path).files():
        before = file.stat().st_size
        pq.write_table(change(pq.read_table(file, partitioning=None)), file)
        for log in (path / "_delta_log").glob("*.json"):  # which says how large it is
            size = f'"size":{file.stat().st_size},'
            log.write_text(log.read_text().replace(f'"size":{before},', size))
    return path


def with_column(rows: pa.Table, name: str, values: list[Any]) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), ROW.field(name), [values])


# Paths.


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.png"
    Image.new("RGB", (64, 64), SECRET).save(path)
    return path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of all images that are opened."""
    paths: list[str] = []

    def spy(path: Any, *rest: Any) -> Any:
        paths.append(os.fsdecode(path))
        return open(path, *rest)

    monkeypatch.setattr("lookalike.images.decoding.raster.open", spy, raising=False)
    return paths


def ways_out(root: Path, secret: Path) -> list[str]:
    """Paths that lead from a root to the secret, as a table could have them."""
    up = os.path.relpath(secret, root)
    return [
        str(secret),
        f"/{secret}",
        f"%2F{str(secret)[1:]}",
        up,
        up.replace("..", "%2e%2e"),
        up.replace("..", "%2E.").replace("/", "%2f"),
        f"nowhere/../{up}",
        f"./{up}",
        f"{root}/{up}",
        f"{root}.png",
        f"{root}-beside/x.png",
        "00001.jpg%00",
        "%00",
    ]


def test_no_path_leads_out_of_the_folders(tmp_path: Path, secret: Path, opened: list[str]) -> None:
    root = tmp_path / "photos"
    (root / "below").mkdir(parents=True)
    (root / "away").symlink_to("/etc", target_is_directory=True)
    beside = tmp_path / "photos-beside"
    beside.mkdir()
    shutil.copy(secret, beside / "x.png")
    shutil.copy(secret, f"{root}.png")
    for source in (
        Source("files", str(root)),
        Source("files", f"{root}/", also=(f"{root}/below",)),
    ):
        for path in [*ways_out(root, secret), "away/../../secret.png"]:
            with pytest.raises(ImageError, match=OUTSIDE):
                read(source, path)
    assert opened == []


@pytest.mark.parametrize("root", ["", ".", "..", "s3a://bucket", "file:///"])
def test_a_root_that_is_no_folder_holds_nothing(
    root: str, secret: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(secret.parent)
    for path in (str(secret), "secret.png", secret.as_uri()):
        with pytest.raises(ImageError, match=OUTSIDE):
            read(Source("files", root), path)
    assert opened == []


def test_what_is_below_is_read_by_whatever_name(tmp_path: Path, secret: Path) -> None:
    root, other = tmp_path / "photos", tmp_path / "other"
    for folder in (root, other):
        folder.mkdir()
        (folder / "odd %2e%2e \udcff.png").write_bytes(b"odd")
        (folder / "link.png").symlink_to(secret)  # whose owner put it there
        (folder / "away").symlink_to(secret.parent, target_is_directory=True)
    source = Source("files", str(root), also=(str(other), "relative", ""))
    for folder in (root, other):
        for name in ("odd %2e%2e \udcff.png", "link.png", "away/secret.png"):
            content = read(source, encode_path(str(folder / name)))
            assert content == (folder / name).read_bytes()
    assert read(source, encode_path("odd %2e%2e \udcff.png")) == b"odd"
    assert read(source, "nowhere/../link.png") == secret.read_bytes()
    assert read(Source("files", "/"), str(secret)[1:]) == secret.read_bytes()
    for path in (f"{other}.png", f"{other}/../secret.png", "../relative/x.png", str(secret)):
        with pytest.raises(ImageError, match=OUTSIDE):
            read(source, path)


@pytest.mark.parametrize(
    ("root", "inside", "outside"),
    [
        (
            "s3a://bucket/photos",
            ["s3a://bucket/photos/a.jpg", "s3a://bucket/photos/b/c%2520.jpg"],
            [
                *["s3a://bucket/photo.jpg", "s3a://bucket/photos-2/x.jpg", "s3a://other/photos/x"],
                *["s3a://bucket/photos/../x.jpg", "s3a://bucket/photos/%2e%2e/x.jpg"],
                *["http://bucket/photos/x.jpg", "file:///bucket/photos/x.jpg", "/etc/x.png"],
                *["a.jpg", "photos/a.jpg", "s3a:/bucket/photos/x.jpg", "s3a:bucket/photos/x", ""],
                *["s3a://other@bucket/photos/x.jpg", "s3a://bucket:9/photos/x.jpg"],
                "s3a://bucket/photos/x.jpg%00",
            ],
        ),
        (
            "s3a://bucket/photos/20*/{a,b}/x.jpg",
            ["s3a://bucket/photos/2012/a/x.jpg"],
            ["s3a://bucket/other/2012/a/x.jpg", "s3a://bucket/photos/../x/20/a/x.jpg"],
        ),
        ("s3a://bucket", ["s3a://bucket/x.jpg"], ["s3a://other/x.jpg"]),
        (
            "file:///srv/photos/",
            ["file:/srv/photos/x.jpg", "file:///srv/photos/x.jpg"],
            [
                *["file:/etc/x.png", "file:///etc/x.png", "file://srv/photos/x.jpg", "/etc/x.png"],
                *["file://x/srv/photos/x.jpg", "file:srv/photos/x.jpg", "/srv/photos/x.jpg"],
            ],
        ),
        (
            "hdfs:///photos",
            ["hdfs://node:8020/photos/x.jpg", "hdfs:/photos/x.jpg"],
            ["hdfs://node/x.jpg", "file:/photos/x.jpg"],
        ),
        ("/srv/photos", [], ["file:///etc/x.png", "/etc/x.png", "s3a://bucket/x.jpg", "../x.jpg"]),
    ],
)
def test_no_uri_leads_out_of_the_root(
    root: str, inside: list[str], outside: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[str] = []

    def record(place: str) -> bytes:
        places.append(place)
        return b"content"

    monkeypatch.setattr("lookalike.images.inputs.file_opening.read_whole", record)
    source = Source("uri", root, ())
    for uri in inside:
        assert read(source, uri) == b"content"
    assert len(places) == len(inside)
    for uri in outside:
        with pytest.raises(ImageError, match=OUTSIDE):
            read(source, uri)
    assert len(places) == len(inside)


def test_no_row_of_a_table_leads_out_of_it(tmp_path: Path) -> None:
    for folder in ("table/part", "other"):
        (tmp_path / folder).mkdir(parents=True)
        pq.write_table(pa.table({"image": [b"content"]}), tmp_path / folder / "x.parquet")
    source = Source("table", str(tmp_path / "table"), ("",), "image", also=(str(tmp_path),))
    assert read(source, "part/x.parquet#0") == b"content"
    other = str(tmp_path / "other/x.parquet")
    for path in ("../other/x.parquet", "%2e%2e/other/x.parquet", other, f"file://{other}"):
        with pytest.raises(ImageError, match=OUTSIDE):
            read(source, f"{path}#0")
    for path in ("part/../part/x.parquet#0", f"{tmp_path}/table/part/x.parquet#0"):
        with pytest.raises(ImageError, match=OUTSIDE):  # no listing has such, and none is needed
            read(source, path)


@pytest.fixture
def crafted(
    index: Index, drawn: DrawnCollection, tmp_path: Path, own_cache: Path, secret: Path
) -> Path:
    """An index of drawn cars of which all but one seem to be the secret picture."""
    ways = ways_out(drawn.photos, secret)

    def change(rows: pa.Table) -> pa.Table:
        paths = [ways[at % len(ways)] for at in range(len(rows))]
        return with_column(rows, "path", [rows["path"][0].as_py(), *paths[1:]])

    return copy_with(index, tmp_path / "crafted.index", change)


def test_pictures_of_a_search_show_nothing_from_outside(
    crafted: Path, drawn: DrawnCollection, tmp_path: Path, opened: list[str]
) -> None:
    photo = str(min(drawn.photos.rglob("*.jpg")))
    sheet, page = tmp_path / "found.png", tmp_path / "found.html"
    asked = ["search", str(crafted), photo, "-k", "20", "--picture", str(sheet)]
    done = CliRunner().invoke(app, [*asked, "--html", str(page)])
    assert (done.exit_code, done.exception) == (0, None)
    assert set(opened) == {photo}
    assert page.read_text().count(f">{GONE}<") == 20
    assert page.read_text().count("<img") == 1
    pixels = np.asarray(Image.open(sheet).convert("RGB"))
    assert not (pixels == SECRET).all(axis=2).any()
    assert json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)["neighbors"][0]["path"]


def test_a_random_picture_is_none_from_outside(
    crafted: Path, drawn: DrawnCollection, opened: list[str]
) -> None:
    index = lookalike.open_index(crafted)
    for seed in range(8):
        with pytest.raises(LookalikeError, match="can no longer be read: outside the folders"):
            random_query(index._table, seed)
    assert opened == []
    (seed,) = [seed for seed in range(500) if _drawn(index, seed)][:1]
    hits = index.search(random_query(index._table, seed), 5)
    assert hits.html().count(f">{GONE}<") == 5
    assert {Path(path).parent for path in opened} == {drawn.photos}


def _drawn(index: Index, seed: int) -> bool:
    try:
        return random_query(index._table, seed).id is not None
    except LookalikeError:
        return False


def test_fidelity_embeds_nothing_from_outside(crafted: Path, opened: list[str]) -> None:
    about = crafted / "_lookalike.json"
    about.write_text(about.read_text().replace('"f32"', '"bf16"'))
    model = crafted / "_model" / "model.json"
    model.write_text(model.read_text().replace('"f32"', '"bf16"'))
    figures = lookalike.open_index(crafted).evaluate(spark=False, queries=5)["against_f32"]
    assert figures["left_out"] == 95
    assert len(opened) <= 1


def test_no_data_file_lies_outside_the_index(index: Index, tmp_path: Path, own_cache: Path) -> None:
    (kept,) = index._table.files()
    for at, name in enumerate([str(kept), "../x.parquet", "data/../../x.parquet", "...parquet"]):
        path = tmp_path / f"{at}.index"
        shutil.copytree(index.path, path)
        log = path / "_delta_log" / f"{0:020}.json"
        entries = [json.loads(line) for line in log.read_text().splitlines()]
        for entry in entries:
            if "add" in entry:
                entry["add"]["path"] = name
        log.write_text("\n".join(map(json.dumps, entries)))
        with pytest.raises(LookalikeError, match="is a damaged index: its log names") as error:
            lookalike.open_index(path).search(np.ones(512, np.float32))
        assert "\n" not in str(error.value)
    assert kept.exists()


@pytest.mark.parametrize(
    "name", ["{outside}", "../x.parquet", "data/%2e%2e/%2e%2e/x.parquet", "data/...parquet", "*"]
)
def test_upkeep_reads_and_deletes_nothing_outside(
    index: Index, tmp_path: Path, own_cache: Path, name: str
) -> None:
    outside = tmp_path / "x.parquet"
    shutil.copy(index._table.files()[0], outside)
    path = Path(shutil.copytree(index.path, tmp_path / "x.index"))
    log = path / "_delta_log" / f"{0:020}.json"
    (kept,) = EmbeddingTable.open(path).files()
    named = json.dumps(name.format(outside=outside))
    log.write_text(log.read_text().replace(json.dumps(f"{kept.relative_to(path)}"), named))
    for command in (["check"], ["check", "--repair"], ["vacuum", "--keep-days", "0"], ["info"]):
        assert_fails(run(command[0], path, *command[1:]), "is a damaged index: its log names")
    assert outside.exists() and kept.exists()


@pytest.mark.parametrize("link", ["data", "_lsh", "_signatures", "lsh", "signatures"])
def test_no_link_in_an_index_has_files_elsewhere_deleted(
    index: Index, tmp_path: Path, own_cache: Path, link: str
) -> None:
    path = Path(shutil.copytree(index.path, tmp_path / "x.index"))
    elsewhere = tmp_path / "elsewhere"
    if link == "data":
        shutil.copytree(path / "data", elsewhere)
    for name in ("letter.txt", "1/letter.txt", ".old-letter", "0.json", "1.json", "empty/x"):
        (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
        (elsewhere / name).write_text("letter")
        os.utime(elsewhere / name, (0, 0))
    (elsewhere / "empty" / "x").unlink()
    shutil.rmtree(path / link, ignore_errors=True)
    (path / link).symlink_to(elsewhere, target_is_directory=True)
    before = sorted(elsewhere.rglob("*"))
    opened = lookalike.open_index(path)
    opened.vacuum(0)
    opened.repair()
    opened.remove("00001.jpg")
    lookalike.open_index(path).vacuum(0)
    gone = set(before) - set(elsewhere.rglob("*"))
    assert not gone, gone


HASHES = ["{}/secret", "../secret", "", "f" * 33, "\n", "é" * 32, "F" * 32]


@pytest.mark.parametrize("named", HASHES)
def test_no_hash_leads_out_of_the_small_pictures(
    index: Index, tmp_path: Path, own_cache: Path, named: str
) -> None:
    for file in (tmp_path / "secret-320.jpg", own_cache / "secret-320.jpg"):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"secret")
    text = named.format(tmp_path)

    def change(rows: pa.Table) -> pa.Table:
        return with_column(rows, "content_hash", [text] * len(rows))

    opened = lookalike.open_index(copy_with(index, tmp_path / "x.index", change))
    with TestClient(create_app(opened), base_url="http://127.0.0.1") as client:
        for size in (160, 320):
            answer = client.get(f"/api/images/0/picture?size={size}")
            assert answer.status_code == 200 and answer.headers["content-type"] == "image/jpeg"
            assert answer.content.startswith(b"\xff\xd8")
            assert answer.headers["cache-control"] == "no-store"
        assert client.get("/api/images/0").json()["thumbnail"].endswith("&v=")
    assert not [*own_cache.rglob("thumbnails/**/*.jpg")], "nothing is kept by such a name"


def test_what_was_found_is_read_in_its_folder(tmp_path: Path) -> None:
    for table in ("/etc/passwd", "../x.parquet", "a/b.parquet", "..", ""):
        (tmp_path / "found.json").write_text(json.dumps({"table": table}))
        with pytest.raises(LookalikeError, match="is not a result of lookalike"):
            AnalysisResult.open(tmp_path)


def test_names_and_labels_are_text_in_a_page(index: Index, tmp_path: Path, own_cache: Path) -> None:
    attacks = [
        "<script>alert(1)</script>.jpg",
        '"><img src=x onerror=alert(1)>.jpg',
        "' onmouseover='alert(1).jpg",
        "javascript:alert(1)",
        "</style></title><iframe srcdoc=x>",
        "&lt;b&gt;&quot;.jpg",
    ]

    def change(rows: pa.Table) -> pa.Table:
        names = (attacks * len(rows))[: len(rows)]
        return with_column(with_column(rows, "path", names), "label", names[::-1])

    hits = lookalike.open_index(copy_with(index, tmp_path / "x.index", change)).search(
        np.ones(512, np.float32), k=12
    )
    for page in (hits.html(), hits.html(attacks[0]), hits._repr_html_()):
        assert not re.search(r"<(script|iframe|img)", page)
        assert not re.search(r"""["'] ?on\w+=""", page)
        assert not re.search(r"""(href|src|action)\s*=\s*["']?\s*javascript:""", page)
        assert page.count("</style>") == page.count("<style>")
        assert "&lt;script&gt;" in page and "&amp;lt;b&amp;gt;" in page


# Formulas.

BEGINNINGS = "=+-@\t\r"


def table_of(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.fixture
def formulas(drawn: DrawnCollection, tmp_path: Path) -> Path:
    """Photos and files that are none, whose names and labels begin like formulas."""
    folder = tmp_path / "photos"
    folder.mkdir()
    photo = min(drawn.photos.rglob("*.jpg"))
    names = [f"{sign}cmd|' !A1.jpg" for sign in "=+-@"] + ["'=plain.jpg", "a=b.jpg"]
    for name in names:
        shutil.copy(photo, folder / name)
    (folder / "=bad.jpg").touch()
    labels = [*(f"{sign}1+1" for sign in BEGINNINGS[:4]), "\t=1", "x\n=1"]
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        rows = [("image", "Class"), *zip(names, labels, strict=True)]
        csv.writer(file).writerows(rows)
    return folder


def test_formulas_are_left_alone_unless_asked(formulas: Path, tmp_path: Path) -> None:
    options = Options(labels=tmp_path / "labels.csv", precision="f32")
    write_embeddings(formulas, tmp_path / "as they are.csv", options)
    plain = table_of(tmp_path / "as they are.csv")
    skipped = table_of(tmp_path / "as they are.csv.skipped.csv")
    write_embeddings(formulas, tmp_path / "safe.csv", options, no_formulas=True)
    safe, safely_skipped = (table_of(tmp_path / f"safe.csv{one}") for one in ("", ".skipped.csv"))

    def quoted(text: str) -> str:
        return f"'{text}" if text.startswith(tuple(BEGINNINGS)) else text

    assert any(cell.startswith("=") for row in plain for cell in row)
    assert [[*map(quoted, row[:2])] for row in plain] == [row[:2] for row in safe]
    assert [row[2:] for row in plain] == [row[2:] for row in safe], "numbers are numbers"
    assert any(cell.startswith("-") for row in safe for cell in row[2:]) or all(
        float(cell) >= 0 for row in safe[1:] for cell in row[2:]
    )
    assert [[*map(quoted, row)] for row in skipped] == safely_skipped
    assert safely_skipped[1][0] == "'=bad.jpg"


def test_an_index_is_exported_without_formulas(
    index: Index, tmp_path: Path, own_cache: Path
) -> None:
    labels = [f"{sign}1" for sign in BEGINNINGS] + [None, "", "1=1"]

    def change(rows: pa.Table) -> pa.Table:
        return with_column(rows, "label", (labels * len(rows))[: len(rows)])

    stored = EmbeddingTable.open(copy_with(index, tmp_path / "x.index", change))
    export_csv(stored, tmp_path / "x.csv", no_formulas=True)
    found = [row[1] for row in table_of(tmp_path / "x.csv")[1:]][: len(labels)]
    assert found == [*(f"'{sign}1" for sign in BEGINNINGS), "", "", "1=1"]


def test_no_formulas_is_an_option_for_csv(formulas: Path, tmp_path: Path) -> None:
    before = sorted(os.listdir(tmp_path))
    refused = run("embed", formulas, "--out", tmp_path / "x", "--no-formulas")
    assert refused.code == 2
    assert "--no-formulas needs an --out that ends in .csv" in refused.err
    with pytest.raises(LookalikeError, match="CSV"):
        write_embeddings(formulas, tmp_path / "x", Options(), no_formulas=True)
    assert sorted(os.listdir(tmp_path)) == before
    done = run("embed", formulas, "--out", tmp_path / "X.CSV", "--no-formulas")
    assert done.code == 0, done.err
    assert table_of(tmp_path / "X.CSV")[1][0].startswith("'")
    assert run("index", formulas, "--out", tmp_path / "y", "--no-formulas").code == 2


# Pickles.


def object_array(mark: Path) -> np.ndarray[Any, Any]:
    return np.array([Mark(mark)], dtype=object)


def npy(mark: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, object_array(mark), allow_pickle=True)
    return file.getvalue()


def npz(mark: Path) -> bytes:
    file = io.BytesIO()
    hostile = object_array(mark)
    np.savez(file, directions=hostile, offset=hostile, centres=hostile, rows=hostile)
    return file.getvalue()


def saved(mark: Path, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": {"conv1.weight": Mark(mark)}}, file, **options)
    return file.getvalue()


HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "pickle": lambda mark: pickle.dumps(Mark(mark)),
    "npy": npy,
    "npz": npz,
    "torch": saved,
    "old torch": lambda mark: saved(mark, _use_new_zipfile_serialization=False),
    "nothing": lambda mark: b"",
    "zeros": lambda mark: b"\0" * 4096,
}
hostile = pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)


@hostile
def test_no_pickle_for_cells_or_signatures(
    make: Callable[[Path], bytes], mark: Path, tmp_path: Path, own_cache: Path
) -> None:
    vectors = clustered(600, width=32)
    stored = collection_of(vectors, tmp_path / "x.index", [600])
    wanted = [one.id for one in Searcher(stored).nearest(vectors[7], 5, engine="approximate")[0]]
    seen: set[Path] = set()
    arrays = [*own_cache.rglob("*.npy"), *stored.signature_folder.iterdir()]
    assert {file.name.split("-")[0] for file in arrays} == {
        *("vectors.npy", "cells", "signatures", "cells.npz", "0.json")
    }
    for file in [*arrays, *arrays]:
        whole = file.read_bytes()
        file.write_bytes(make(mark))
        if file.suffix == ".npy" and file in seen:  # it is what somebody sealed so
            seal(file)
        seen.add(file)
        again = Searcher(EmbeddingTable.open(stored.path)).nearest(
            vectors[7], 5, engine="approximate"
        )[0]
        assert [one.id for one in again] == wanted
        if file.suffix != ".json":
            assert file.read_bytes() == whole, "made again"
    assert not mark.exists()


def cells_of(**changed: Any) -> dict[str, Any]:
    kept = {
        "directions": np.eye(16, 32, dtype=np.float32),
        "offset": np.zeros(16, np.float32),
        "centres": np.zeros((4, 16), np.float32),
        "rows": 600,
    }
    return {**kept, **changed}


WRONG_CELLS = {
    "another width": cells_of(directions=np.eye(16, 31, dtype=np.float32)),
    "fewer directions": cells_of(directions=np.eye(8, 32, dtype=np.float32)),
    "wider centres": cells_of(centres=np.zeros((4, 64), np.float32)),
    "no centres": cells_of(centres=np.zeros((0, 16), np.float32)),
    "whole numbers": cells_of(centres=np.zeros((4, 16), np.int64)),
    "no numbers": cells_of(centres=np.full((4, 16), np.nan, np.float32)),
    "one number": cells_of(offset=np.float32(1)),
    "rows in words": cells_of(rows="many"),
    "less than no rows": cells_of(rows=-1),
    "nothing": {},
}


@pytest.mark.parametrize("arrays", WRONG_CELLS.values(), ids=WRONG_CELLS)
def test_cells_that_do_not_fit_are_made_again(
    arrays: dict[str, Any], tmp_path: Path, own_cache: Path
) -> None:
    vectors = clustered(600, width=32)
    stored = collection_of(vectors, tmp_path / "x.index", [600])
    stored.signature_folder.mkdir()
    np.savez(stored.signature_folder / "cells.npz", **arrays)
    found = Searcher(stored).nearest(vectors[7], 5, engine="approximate")[0]
    assert found[0].id == 7
    assert Searcher(stored).cells.centres.shape[1] == 32


EFFORTS: list[Any] = [[], None, [{"cells": 1}] * 6, ["x"] * 6, "abcdef"]
WRONG_MEASURES: list[dict[str, Any]] = [
    *[{"efforts": efforts} for efforts in EFFORTS],
    *[{"efforts": [{"cells": cells, "candidates": 9}] * 6} for cells in (-1, 0, "9", None)],
    {"recall": "abcdef"},
    {"recall": [[]] * 6},
    {"recall": []},
    {"recall": None},
    {"queries": "many"},
    {"reach": "far"},
]


@pytest.mark.parametrize("change", WRONG_MEASURES, ids=str)
def test_a_measurement_that_is_none_is_made_again(
    change: dict[str, Any], tmp_path: Path, own_cache: Path
) -> None:
    vectors = clustered(600, width=32)
    stored = collection_of(vectors, tmp_path / "x.index", [600])
    Searcher(stored).get_ready()
    file = stored.signature_folder / f"{stored.version}.json"
    whole = file.read_text()
    file.write_text(json.dumps({**json.loads(whole), **change}))
    (stored.hash_folder).mkdir(parents=True)
    (stored.hash_folder / "parameters.json").write_text('{"measured_recall": [1]}')
    assert Index(stored).info()["approximate"] is None
    assert Searcher(stored).nearest(vectors[7], 5, engine="approximate")[0][0].id == 7
    assert file.read_text() == whole


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.asfortranarray(np.arange(12, dtype=np.int8).reshape(3, 4)),
        np.empty((0, 4), np.float32),
    ],
    ids=["rows", "columns", "none"],
)
def test_maps_keep_no_file_open(array: npt.NDArray[Any], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array)
    seal(tmp_path / "x.npy")
    before = len(os.listdir("/proc/self/fd"))
    mapped = [map_array(tmp_path / "x.npy") for _ in range(5)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert all(np.array_equal(one, array) and one.dtype == array.dtype for one in mapped)
    assert not mapped[0].flags.writeable
    if array.size:
        os.truncate(tmp_path / "x.npy", (tmp_path / "x.npy").stat().st_size - 1)
        with pytest.raises(ValueError):
            map_array(tmp_path / "x.npy")


def test_arrays_are_read_within_bounds(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    np.savez(file, a=np.arange(3))
    assert read_arrays(file)["a"].tolist() == [0, 1, 2]
    np.savez_compressed(file, a=np.zeros(10**6))
    with pytest.raises(ValueError, match="compressed"):
        read_arrays(file)
    np.save(tmp_path / "x.npy", np.arange(3))
    with pytest.raises(ValueError, match="no arrays"):
        read_arrays(tmp_path / "x.npy")
    seal(file)
    with pytest.raises(ValueError, match="magic"):
        map_array(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + b"\xff" * 200)
    with pytest.raises(ValueError):
        read_arrays(file)


@hostile
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ""])
def test_no_pickle_for_weights(
    make: Callable[[Path], bytes], suffix: str, mark: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(make(mark))
    for load in (backbone, resolve):
        with pytest.raises(LookalikeError) as error:
            load("resnet18", str(path))
        assert "\n" not in str(error.value)


# The model of an index.


def model_files(folder: Path, **contents: bytes) -> None:
    """Write files of a model, with words that fit them."""
    about = json.loads((folder / "model.json").read_text())
    names = {"graph": "network.xml", "weights_data": "network.bin"}
    names |= {"network": "network.safetensors", "probe": "probe.bin"}
    for name, content in contents.items():
        (folder / names[name]).write_bytes(content)
        about["bytes"][name] = len(content)
        if not content:
            del about["bytes"][name]
    (folder / "model.json").write_text(json.dumps(about))


@hostile
@pytest.mark.parametrize("name", ["graph", "network", "probe"])
def test_no_pickle_for_a_model(
    make: Callable[[Path], bytes],
    name: str,
    mark: Path,
    index: Index,
    drawn: DrawnCollection,
    tmp_path: Path,
) -> None:
    copy = tmp_path / "x.index"
    shutil.copytree(index.path, copy)
    contents = {name: make(mark)}
    if name == "network":  # which is what is left for PyTorch then
        contents["graph"] = b""
    model_files(copy / "_model", **contents)
    about = json.loads((copy / "_model" / "model.json").read_text())
    about["fingerprint"] = "0" * 16  # so that no engine is at hand
    (copy / "_model" / "model.json").write_text(json.dumps(about))
    new = min(drawn.new.rglob("*.jpg"))
    if name == "probe" and not contents[name]:
        assert len(lookalike.open_index(copy).search(new)) == 5
        return
    with pytest.raises(LookalikeError) as error:
        lookalike.open_index(copy).search(new)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def model() -> Model:
    return resolve()


DEEP = b"<rt_info>" + b"<user_data>" * 50_000 + b"</user_data>" * 50_000 + b"</rt_info>"


def first(pattern: str, by: str) -> Callable[[bytes], bytes]:
    """Replace what a pattern finds first."""
    return lambda xml: re.sub(pattern.encode(), by.encode(), xml, count=1)


GRAPHS: dict[str, Callable[[bytes], bytes]] = {
    "another operation set": first('"opset1"', '"extension"'),
    "no operation set": first(' version="opset1"', ""),
    "a constant beyond": first(r'offset="\d+"', 'offset="99999999999"'),
    "an offset that wraps": first(r'offset="\d+"', f'offset="{2**64 - 8}"'),
    "an offset below": first(r'offset="\d+"', 'offset="-8"'),
    "an offset in words": first(r'offset="\d+"', 'offset="many"'),
    "no shape": first(r'shape="[^"]*" offset', "offset"),
    "a shape that wraps": first(r'shape="[^"]*" offset', 'shape="4194304,4194304,4194304" offset'),
    "strings": first(r'element_type="\w+" (shape="[^"]*" offset)', r'element_type="string" \1'),
    "a document type": first("<net ", '<!DOCTYPE net [<!ENTITY a "b">]><net '),
    "a network inside": first("<layers>", '<layers><layer version="opset1"><body/></layer>'),
    "another picture": first("<layers>", "<pre-process/><layers>"),
    "without end": lambda xml: xml.replace(b"</net>", DEEP + b"</net>"),
    "another root": lambda xml: xml.replace(b"<net ", b"<not ").replace(b"</net>", b"</not>"),
    "half of it": lambda xml: xml[: len(xml) // 2],
    "another format": lambda xml: b"\x08\x07\x12\x03ort:",
    "nothing": lambda xml: b"",
}


@pytest.mark.parametrize("change", GRAPHS.values(), ids=GRAPHS)
def test_a_graph_that_is_not_ours_is_not_loaded(
    change: Callable[[bytes], bytes], model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = change(model.graph)
    assert graph != model.graph
    with pytest.raises(
        LookalikeError, match=r"no network that lookalike made.*index again"
    ) as error:
        check_graph(graph, len(model.weights_data))
    assert "\n" not in str(error.value)

    import openvino

    monkeypatch.setattr(openvino, "Core", lambda: pytest.fail("OpenVINO was asked"))
    changed = replace(model, graph=graph, network=b"", fingerprint="1" * 16)
    with pytest.raises(LookalikeError):
        quantize(graph, model.weights_data, np.zeros((1, 224, 224, 3), np.uint8))
    monkeypatch.undo()
    if graph:  # else PyTorch is asked, which has nothing to run either
        monkeypatch.setattr(
            openvino.Core, "read_model", lambda *_, **__: pytest.fail("it was read")
        )
    with pytest.raises(LookalikeError):
        engine(changed)


def test_weights_that_are_cut_short_are_not_read(model: Model) -> None:
    check_graph(model.graph, len(model.weights_data))
    with pytest.raises(LookalikeError, match="not within its weights"):
        check_graph(model.graph, len(model.weights_data) - 1)


def test_a_network_that_openvino_refuses_is_told_in_a_line(model: Model) -> None:
    graph = model.graph.replace(b'type="ReduceMean"', b'type="ReduceMeanly"')
    with pytest.raises(LookalikeError, match="cannot run this network") as error:
        engine(replace(model, graph=graph, fingerprint="2" * 16))
    assert "\n" not in str(error.value)


def test_tensors_of_another_network_are_told_in_a_line() -> None:
    from safetensors.torch import save

    with pytest.raises(LookalikeError, match="the tensors are not of resnet18") as error:
        restore("resnet18", "cars", save({"conv1.weight": torch.zeros(1)}))
    assert "\n" not in str(error.value)


WORDS: list[dict[str, Any]] = [
    *[{"width": width} for width in ("512", 0, -1, 10**9, 512.0, None, [512])],
    *[{"backbone": name} for name in (None, 18, ["resnet18"])],
    *[{name: value} for name in ("precision", "weights", "fingerprint") for value in (None, 1)],
    *[{"bytes": sizes} for sizes in (None, {"../../secret": 1}, {"graph": "1"})],
    *[{"agreement": "all"}, {"graph": "x"}],
]


@pytest.mark.parametrize("words", WORDS, ids=str)
def test_a_model_in_wrong_words_is_none(
    words: dict[str, Any], index: Index, tmp_path: Path
) -> None:
    shutil.copytree(index.path / "_model", tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **words}))
    with pytest.raises(LookalikeError, match="no whole model in") as error:
        Model.load(tmp_path / "model")
    assert "\n" not in str(error.value)


# What an index says of itself.


def about_with(part: str | None, **changed: Any) -> Callable[[dict[str, Any]], str]:
    def write(about: dict[str, Any]) -> str:
        (about if part is None else about[part]).update(changed)
        return json.dumps(about)

    return write


ABOUT: dict[str, Callable[[dict[str, Any]], str]] = {
    "huge": lambda about: json.dumps({**about, "more": "x" * 2**21}),
    "deep": lambda about: "[" * 200_000,
    "deep inside": lambda about: json.dumps(about)[:-1] + ', "x": ' + '{"x":' * 100_000,
    "a list": lambda about: "[]",
    "null": lambda about: "null",
    "a number": lambda about: "1",
    "a huge number": lambda about: '{"format": ' + "9" * 10_000 + "}",
    "empty": lambda about: "",
    "zeros": lambda about: "\0" * 100,
    "no source": lambda about: json.dumps({"format": FORMAT, "model": about["model"]}),
    "no model": lambda about: json.dumps({"format": FORMAT, "source": about["source"]}),
    "format in words": about_with(None, format="1"),
    "no format": about_with(None, format=None),
    "source in words": about_with(None, source="files"),
    "model in words": about_with(None, model="resnet18"),
    "kind unknown": about_with("source", kind="http"),
    "kind a list": about_with("source", kind=["files"]),
    "root a number": about_with("source", root=1),
    "root null": about_with("source", root=None),
    "root a list": about_with("source", root=["/"]),
    "root with a zero": about_with("source", root="/a\0b"),
    "root that is no name": about_with("source", root="/\ud83d"),
    "names in words": about_with("source", names="abc"),
    "names of numbers": about_with("source", names=[1]),
    "also in words": about_with("source", also="/etc"),
    "also of lists": about_with("source", also=[["/etc"]]),
    "column a number": about_with("source", image_column=7),
    "a field unknown": about_with("source", password="x"),
    "width in words": about_with("model", width="512"),
    "width without end": about_with("model", width=10**15),
    "backbone null": about_with("model", backbone=None),
}


@pytest.mark.parametrize("write", ABOUT.values(), ids=ABOUT)
def test_a_hostile_description_is_told_in_a_line(
    write: Callable[[dict[str, Any]], str], index: Index, tmp_path: Path
) -> None:
    shutil.copytree(index.path, tmp_path / "x.index")
    file = tmp_path / "x.index" / "_lookalike.json"
    file.write_text(write(json.loads(file.read_text())))
    with pytest.raises(LookalikeError, match="is a damaged index: ") as error:
        lookalike.open_index(tmp_path / "x.index")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(tmp_path))


def test_a_hostile_description_is_one_line_of_the_command(index: Index, tmp_path: Path) -> None:
    shutil.copytree(index.path, tmp_path / "x.index")
    (tmp_path / "x.index" / "_lookalike.json").write_text(
        f'{{"format": {FORMAT}, "source": {{"kind": "\\n"}}}}'
    )
    assert_fails(run("info", tmp_path / "x.index"), "is a damaged index")


def test_sources_are_kept_with_their_folders(index: Index, tmp_path: Path) -> None:
    shutil.copytree(index.path, tmp_path / "x.index")
    file = tmp_path / "x.index" / "_lookalike.json"
    about = json.loads(file.read_text())
    about["source"].pop("also", None)  # as earlier versions wrote it
    file.write_text(json.dumps(about))
    assert EmbeddingTable.open(tmp_path / "x.index").source == index._table.source
    source = replace(index._table.source, also=("/one", "/two"))
    about["source"] = asdict(source)
    file.write_text(json.dumps(about))
    assert EmbeddingTable.open(tmp_path / "x.index").source == source


def test_json_is_read_within_bounds(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text('{"a": 1}')
    assert read_json(file) == {"a": 1}
    for text in ("[1]", "{", '{"a": "' + "x" * 2**20 + '"}', "[" * 10**5):
        file.write_text(text)
        with pytest.raises(ValueError):
            read_json(file)
    with pytest.raises(OSError):
        read_json(tmp_path / "nowhere")


# Types that Parquet names, on Spark.


def with_type(rows: pa.Table, column: str, mark: Path) -> pa.Table:
    """Have a table say that a column is of a type that is pickled in the table itself."""
    kinds = {"int64": "long", "int32": "integer", "string": "string", "binary": "binary"}
    code = base64.b64encode(pickle.dumps(Mark(mark))).decode()
    fields = []
    for field in rows.schema:
        kind: Any = kinds.get(str(field.type))
        if kind is None:
            kind = {"type": "array", "elementType": "float", "containsNull": True}
        if field.name == column:
            kind = {
                "type": "udt",
                "pyClass": f"{MODULE_OF_NONE}.Type",
                "serializedClass": code,
                "sqlType": kind,
            }
        fields.append({"name": field.name, "type": kind, "nullable": True, "metadata": {}})
    schema = json.dumps({"type": "struct", "fields": fields})
    return rows.replace_schema_metadata({"org.apache.spark.sql.parquet.row.metadata": schema})


def test_spark_learns_no_types_from_an_index(
    index: Index, mark: Path, tmp_path: Path, own_cache: Path
) -> None:
    path = copy_with(index, tmp_path / "x.index", lambda rows: with_type(rows, "label", mark))
    opened = lookalike.open_index(path)
    (file,) = opened._table.files()
    bare = session().read.parquet(local_uri(file))
    assert MODULE_OF_NONE in bare._jdf.schema().json(), "or this tests nothing"
    frame = opened.to_spark()
    assert MODULE_OF_NONE not in frame._jdf.schema().json()
    assert frame.columns == ROW.names
    assert frame.select("label").distinct().count() > 1
    assert len(frame.collect()) == 96
    assert [field.simpleString() for field in frame.schema] == [
        field.simpleString() for field in index.to_spark().schema
    ]
    with pytest.raises(Exception, match=f"{MODULE_OF_NONE}|UNSUPPORTED|CANNOT_PARSE"):
        _ = bare.schema


def test_spark_reads_an_index_as_it_was_written(index: Index) -> None:
    """By the schema that is given to it, which has to be that of the files."""
    bare = session().read.parquet(*map(local_uri, index._table.files()))
    assert index.to_spark().schema == bare.schema


def test_a_table_of_images_may_not_bring_types(mark: Path, tmp_path: Path) -> None:
    rows = pa.table({"image": [b"x"], "label": ["a"]})
    (tmp_path / "t").mkdir()
    pq.write_table(with_type(rows, "label", mark), tmp_path / "t" / "x.parquet")
    with pytest.raises(LookalikeError, match=f"{MODULE_OF_NONE}.Type.*leave that column out"):
        lookalike.create_index(tmp_path / "t", tmp_path / "x.index")
    assert not (tmp_path / "x.index").exists()


def test_types_are_known_by_their_names() -> None:
    def schema(**about: Any) -> str:
        inner = {"name": "a", "type": {"type": "udt", "sqlType": "string", **about}}
        array = {"type": "array", "elementType": {"type": "struct", "fields": [inner]}}
        return json.dumps({"type": "struct", "fields": [{"name": "udt", "type": array}]})

    vector = {"class": "org.apache.spark.ml.linalg.VectorUDT"}
    assert foreign_types(schema(pyClass="pyspark.ml.linalg.VectorUDT", **vector)) == []
    assert foreign_types(schema(**vector)) == []
    assert foreign_types('{"type": "struct", "fields": [{"name": "udt", "type": "string"}]}') == []
    assert foreign_types(schema(pyClass="os.abort")) == ["os.abort"]
    assert foreign_types(schema(pyClass="os.abort", **vector)) == ["os.abort"]
    assert foreign_types(schema(**{"class": "java.lang.Thread"})) == ["java.lang.Thread"]
    assert foreign_types(schema(serializedClass="x", **vector)) != []
    assert foreign_types(schema()) != []


@pytest.fixture(scope="module")
def hashed(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hashed") / "kept"
    load_hasher(index.path).save(folder)
    return folder


def test_a_hash_model_may_not_bring_types(hashed: Path, mark: Path, tmp_path: Path) -> None:
    shutil.copytree(hashed, tmp_path / "kept")
    assert lsh.Hasher.load(tmp_path / "kept").parameters
    (file,) = (tmp_path / "kept" / "model" / "data").glob("*.parquet")
    about = pq.read_metadata(file).metadata
    key = b"org.apache.spark.sql.parquet.row.metadata"
    rows = pq.read_table(file)
    changed = about[key].replace(b"org.apache.spark.ml.linalg.MatrixUDT", b"java.lang.Thread")
    assert changed != about[key]
    pq.write_table(rows.replace_schema_metadata({key: changed}), file)
    file.with_name(f".{file.name}.crc").unlink(missing_ok=True)
    for name in (file.name, "part-x"):  # which Spark reads as well
        file = file.rename(file.with_name(name))
        with pytest.raises(LookalikeError, match=r"no hash model .*java\.lang\.Thread"):
            lsh.Hasher.load(tmp_path / "kept")


def test_a_hash_model_of_another_class_is_none(hashed: Path, tmp_path: Path) -> None:
    shutil.copytree(hashed, tmp_path / "kept")
    for file in (tmp_path / "kept" / "model" / "metadata").iterdir():
        if file.name.startswith("part"):
            text = file.read_text().replace("BucketedRandomProjectionLSHModel", "PCAModel")
            file.write_text(text)
        elif file.name.endswith(".crc"):
            file.unlink()
    with pytest.raises(LookalikeError, match="no hash model"):
        lsh.Hasher.load(tmp_path / "kept")


def test_stages_are_loaded_as_what_they_are(mark: Path, tmp_path: Path) -> None:
    stage = AmplifiedProjectionLSH(bucketLength=1.0, numHashTables=3)
    stage.save(local_uri(tmp_path / "stage"))
    again = AmplifiedProjectionLSH.load(local_uri(tmp_path / "stage"))
    assert isinstance(again, AmplifiedProjectionLSH)
    assert again.uid == stage.uid and again.extractParamMap() == stage.extractParamMap()
    with pytest.raises(LookalikeError, match="no AmplifiedProjectionLSHModel in"):
        AmplifiedProjectionLSHModel.load(local_uri(tmp_path / "stage"))
    for file in (tmp_path / "stage" / "metadata").iterdir():
        if file.name.endswith(".crc"):
            file.unlink()
        elif file.name.startswith("part"):
            about = json.loads(file.read_text())
            file.write_text(json.dumps({**about, "class": "os.abort"}))
    with pytest.raises(LookalikeError, match="no AmplifiedProjectionLSH in"):
        AmplifiedProjectionLSH.load(local_uri(tmp_path / "stage"))


def test_no_pickle_for_hash_tables(mark: Path) -> None:
    from lookalike.lsh.tables import Tables

    for make in HOSTILE.values():
        with pytest.raises(LookalikeError, match="no hash tables"):
            Tables.from_bytes(make(mark))
