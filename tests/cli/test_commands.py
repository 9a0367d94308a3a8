"""The command line: what it prints, what it writes, and what it says when something is wrong."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import lookalike
from helpers.bad_inputs import write_odd_but_good
from helpers.command import COMMAND, Argument, Done, assert_fails, run, run_apart, run_in_turn, told
from lookalike import Index, LookalikeError
from lookalike.cli import app
from lookalike.images.synthetic import DrawnCollection
from lookalike.ingest import Options, build_index
from lookalike.storage import EmbeddingTable

COMMANDS = sorted(
    str(command.name or command.callback.__name__)  # type: ignore[union-attr]
    for command in app.registered_commands
)


@pytest.fixture(scope="module")
def photo(drawn: DrawnCollection) -> Path:
    return sorted(drawn.photos.rglob("*.jpg"))[3]


@dataclass(frozen=True)
class Odd:
    """A folder of pictures with odd names, and an index of it."""

    folder: Path
    paths: list[Path]
    index: Path


@pytest.fixture(scope="module")
def odd(drawn: DrawnCollection, tmp_path_factory: pytest.TempPathFactory) -> Odd:
    folder = tmp_path_factory.mktemp("odd") / "photos"
    write_odd_but_good(folder)
    shutil.copy(min(drawn.new.rglob("*.jpg")), folder / "Citroën 写真 [bold].jpg")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for name in ("bäd.jpg", "bad\udcff.jpg"):
        (folder / name).touch()
    labels = folder.with_name("labels.csv")
    labels.write_text("image,Class\none/same.jpg,Citroën [/red]\n", encoding="utf-8")
    out = folder.with_name("odd.index")
    build_index(folder, out, Options(labels=labels))
    return Odd(folder, paths, out)


# Searching.


def test_search_tells_what_was_agreed(index: Index, photo: Path) -> None:
    limits = index.bands.limits
    assert limits is not None
    answer = told("search", index.path, photo, "-k", "4")
    assert list(answer["bands"]["limits"].values()) == list(limits)
    assert list(answer) == ["query", "engine", "took_ms", "neighbors", "looked", "bands"]
    hits = index.search(photo, k=4)
    number = hits.query.id
    assert answer["query"] == {"path": str(photo), "label": hits.query.label, "id": number}
    assert answer["engine"] == "exact"
    assert answer["took_ms"] > 0
    fields = ["rank", "id", "path", "label", "distance", "band", "copies"]
    assert [list(hit) for hit in answer["neighbors"]] == [fields] * 4
    for found, hit in zip(answer["neighbors"], hits, strict=True):
        assert (found["rank"], found["id"]) == (hit.rank, hit.id)
        assert found["path"] == str(photo.parent / hit.path)
        assert found["label"] == hit.label
        assert found["distance"] == pytest.approx(hit.distance, abs=1e-6)


def test_bands_and_copies_on_the_command_line(index: Index, photo: Path) -> None:
    every = told("search", index.path, photo, "-k", "20", "--all-copies")
    assert "looked" not in every and "copies" not in every["neighbors"][0]
    assert told("search", index.path, photo, "-k", "20", "--all")["neighbors"] == every["neighbors"]
    near = told("search", index.path, photo, "-k", "20", "--all-copies", "--min-band", "similar")
    kept = [hit for hit in every["neighbors"] if hit["band"] != "weak"]
    assert near["neighbors"] == kept
    done = run("search", index.path, photo, "--min-band", "near")
    assert done.code == 2 and "min-band" in done.err
    shown = run("info", index.path).out
    assert re.search(
        r"bands  same photo up to [\d.]+, close [\d.]+, similar [\d.]+; measured", shown
    )


def test_five_neighbors_of_a_new_photo(index: Index, drawn: DrawnCollection) -> None:
    new = min(drawn.new.rglob("*.jpg"))
    answer = told("search", index.path, os.path.relpath(new))
    assert answer["query"] == {"path": str(new), "label": None}
    assert [hit["rank"] for hit in answer["neighbors"]] == [1, 2, 3, 4, 5]
    distances = [hit["distance"] for hit in answer["neighbors"]]
    assert distances == sorted(distances)
    assert 0 < distances[0] < distances[-1] < 2


def test_search_by_signatures_and_with_filters(index: Index, photo: Path) -> None:
    exact = told("search", index.path, photo, "-k", "4")["neighbors"]
    answer = told(
        "search", index.path, photo, "-k", "4", "--engine", "approximate", "--recall", "0.99"
    )
    assert answer["engine"] == "exact", "of 96 images all are compared, and it says so"
    assert answer["neighbors"] == exact
    label = exact[1]["label"]
    answer = told("search", index.path, photo, "-k", "50", "--label", label, "--path", "*.jpg")
    assert {hit["label"] for hit in answer["neighbors"]} == {label}
    near = told("search", index.path, photo, "--within", str(exact[2]["distance"]))
    assert near["neighbors"] == exact[:3]
    assert told("search", index.path, photo, "--within", "0")["neighbors"] == []
    done = run("search", index.path, photo, "--path", "nowhere/*", "--json")
    assert_fails(done, "no image has a path that matches 'nowhere/*'")


@pytest.mark.long
def test_neighbors_of_all(index: Index, tmp_path: Path) -> None:
    done = run("neighbors", index.path, "-k", "3", "--out", tmp_path / "out", "--paths")
    assert done.code == 0
    assert f"wrote {3 * len(index):,} pairs into" in done.err
    table = pq.read_table(tmp_path / "out").to_pylist()
    first = min((row for row in table if row["query_id"] == 0), key=lambda row: row["rank"])
    (hit,) = index.search(index._table.segments[0].vectors[0], k=2)[1:]
    assert (first["neighbor_id"], first["neighbor_path"]) == (hit.id, hit.path)


def test_a_table_for_people(index: Index, photo: Path) -> None:
    done = run_apart("search", index.path, photo)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    hits = index.search(photo)
    assert lines[0] == f"look-alikes of {photo} ({hits.query.label})"
    for line, hit in zip(lines[1:6], hits, strict=True):
        assert line.split()[:2] == [str(hit.rank), f"{hit.distance:.4f}"]
        assert str(hit.label) in line
        assert line.endswith(str(photo.parent / hit.path))
    assert lines[6].startswith("exact search over 96 images, ")
    assert "\x1b" not in done.out, "no colours where nobody sees them"


def test_random_queries_repeat_with_their_seed(index: Index) -> None:
    one, again, other = (
        told("search", index.path, "--random", "--seed", seed) for seed in ("7", "7", "8")
    )
    for answer in (one, again, other):
        del answer["took_ms"]
    assert one == again != other
    assert one["query"]["path"] not in {hit["path"] for hit in one["neighbors"]}
    assert one["query"]["label"]


@pytest.mark.parametrize("name", ["line\nbreak.jpg", "not-utf8-\udcff\udcfe.jpg", "100%41 pe"])
def test_paths_in_json_can_be_opened(odd: Odd, name: str) -> None:
    (path,) = (path for path in odd.paths if path.name.startswith(name))
    answer = told("search", odd.index, path, "-k", "100", "--all")
    assert answer["query"]["path"] == str(path)
    others = sorted(str(other) for other in odd.paths if other != path)
    assert sorted(hit["path"] for hit in answer["neighbors"]) == others


def test_search_starts_neither_torch_nor_spark(
    index: Index, drawn: DrawnCollection, photo: Path
) -> None:
    code = (
        "import sys\n"
        "from lookalike.cli import main\n"
        f"for query in {str(photo)!r}, {str(min(drawn.new.rglob('*.jpg')))!r}, '--random':\n"
        f"    sys.argv = ['lookalike', 'search', {str(index.path)!r}, query, '--json']\n"
        "    try:\n        main()\n"
        "    except SystemExit:\n        pass\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    answers = [json.loads(line)["neighbors"] for line in done.stdout.splitlines()]
    assert list(map(len, answers)) == [5, 5, 5]
    loaded = set(done.stderr.split())
    assert "lookalike" in loaded
    assert not loaded & {"torch", "torchvision", "pyspark", "py4j", "openvino_telemetry_backend"}


def test_pictures_and_pages_are_written(index: Index, photo: Path, tmp_path: Path) -> None:
    sheet, page = tmp_path / "new" / "found.png", tmp_path / "found[/b].html"
    done = run("search", index.path, photo, "--picture", sheet, "--html", page, "-k", "3")
    assert done.code == 0, done.err
    assert done.err == f"wrote {sheet}\nwrote {page}\n"
    with Image.open(sheet) as picture:
        picture.load()
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        assert picture.width > 1000
    html = page.read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>") and html.rstrip().endswith("</html>")
    assert html.count("<img") == 4
    assert "exact search over 96 images" in html


def test_info_for_programs_and_people(index: Index, odd: Odd) -> None:
    facts = told("info", odd.index)
    assert {"images", "skipped", "version", "model", "recall"} <= facts.keys()
    assert (facts["images"], facts["skipped"], facts["version"]) == (len(odd.paths), 2, 0)
    assert facts["model"]["backbone"] == "efficientnet-lite0"
    assert facts["recall"] == {"exact": 1.0, "approximate": None, "spark-lsh": None}
    done = run("info", odd.index)
    assert (done.code, done.err) == (0, "")
    assert f"     images  {len(odd.paths)}\n" in done.out
    assert "efficientnet-lite0, weights general, f32" in done.out
    assert facts["approximate"] is None
    assert "approximate  not measured yet: run `lookalike evaluate`\n" in done.out


# Odd names, and terminals that cannot show them.

ASCII = {"PYTHONIOENCODING": "ascii"}
PLAIN = {"LC_ALL": "C"}
OLD = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.mark.parametrize("environment", [{}, ASCII, PLAIN, OLD], ids=["", "ascii", "C", "old C"])
def test_odd_names_can_be_printed_anywhere(
    odd: Odd, tmp_path: Path, environment: dict[str, str]
) -> None:
    query = odd.folder / "one" / "same.jpg"
    page = tmp_path / "sïte" / "page.html"
    skipped = ("info", odd.index, "--skipped")
    done, listed, told = run_in_turn(
        ("search", odd.index, query, "-k", "100", "--all", "--html", page),
        skipped,
        (*skipped, "--json"),
        **environment,
    )
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == len(odd.paths) + 2
    assert done.out.endswith("no bands: 16 images are too few, 32 are enough\n")
    assert "[/red]" in done.out and "[bold]" in done.out
    assert page.read_text(encoding="utf-8").count("<img") == len(odd.paths)
    assert (listed.code, listed.err) == (0, "")
    assert [line.split("\t")[1] for line in listed.out.splitlines()] == ["empty file"] * 2
    assert [one["reason"] for one in json.loads(told.out)["skipped"]] == ["empty file"] * 2


# What is wrong with what was asked.


@pytest.fixture(scope="module")
def wrong(index: Index, photo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Things to be asked with, by name."""
    folder = tmp_path_factory.mktemp("wrong")
    contents = {
        "text": "no picture",
        "weights": "no weights",
        "columns": "name,Class\n00001.jpg,red\n",
        "empty": "",
    }
    for name, content in contents.items():
        (folder / name).write_text(content)
    (folder / "no images").mkdir()
    (folder / "taken").mkdir()
    (folder / "taken" / "notes.txt").touch()
    names = {name: str(folder / name) for name in (*contents, "no images", "taken")}
    return {
        **names,
        "index": str(index.path),
        "photo": str(photo),
        "photos": str(photo.parent),
        "out": str(folder / "out.index"),
        "nowhere": str(folder / "no [/where] [bold]é"),
    }


EMBED = ["index", "{photos}", "--out", "{out}"]


WRONG: list[tuple[list[str], list[str]]] = [
    (["search", "{photos}", "--random"], ["is not an index"]),
    (["search", "{nowhere}", "--random"], ["[/where] [bold]", "does not exist"]),
    (["info", "{no images}", "--json"], ["is not an index"]),
    (["search", "{index}", "{nowhere}"], ["no such file"]),
    (["search", "{index}", "{text}"], ["not an image"]),
    (["search", "{index}", "{photos}"], ["not a regular file"]),
    (["search", "{index}", "{photo}", "-k", "0"], ["k is 0"]),
    (["search", "{index}", "{photo}", "-k", "-3"], ["k is -3"]),
    (["search", "{index}", "{photo}", "--explain"], ["--engine spark-lsh"]),
    (["search", "{index}", "{photo}", "--recall", "2"], ["--recall is 2.0", "up to 1"]),
    (["search", "{index}", "{photo}", "--within", "-1"], ["--within", "0 to 2"]),
    (["neighbors", "{nowhere}", "--out", "{out}"], ["does not exist"]),
    (["neighbors", "{index}", "--out", "{taken}"], ["already exists"]),
    (["neighbors", "{index}", "--out", "{out}", "-k", "0"], ["k is 0"]),
    (["neighbors", "{index}", "--out", "{out}", "--queries", "{nowhere}"], ["does not exist"]),
    (["search", "{index}", "{photo}", "--picture", "{photo}/x.png"], ["00004.jpg"]),
    (["search", "{index}", "{photo}", "--html", "{taken}"], ["taken"]),
    (["index", "{no images}", "--out", "{out}"], ["no images in", ".jpg"]),
    (["index", "{nowhere}", "--out", "{out}"], ["nothing matches", "[/where]"]),
    (
        ["index", "{photos}", "--out", "{index}", "--precision", "bf16"],
        ["already exists, in f32", "--overwrite"],
    ),
    (["index", "{photos}", "--out", "{taken}", "--overwrite"], ["is not an index"]),
    (["embed", "{photos}", "--out", "{columns}"], ["already exists", "--overwrite"]),
    ([*EMBED, "--labels", "{columns}"], ["image", "Class", "name,Class"]),
    ([*EMBED, "--labels", "{empty}"], ["no CSV"]),
    ([*EMBED, "--labels", "{nowhere}"], ["cannot read the labels", "[/where]"]),
    ([*EMBED, "--label-column", "x"], ["--label-column is for tables"]),
    ([*EMBED, "--weights", "{weights}"], ["weights", "was not loaded"]),
    (["index", "{photos}/none", "--out", "{out}"], ["no such file or folder"]),
    (["evaluate", "{index}", "--plot", "{taken}.pdf"], ["taken.pdf", ".png or .svg"]),
    (["evaluate", "{index}", "--queries", "0"], ["queries is 0"]),
    (["hash", "{nowhere}", "--out", "{out}"], ["does not exist"]),
    (["hash", "{index}", "--out", "{taken}"], ["already exists"]),
]


@pytest.fixture(scope="module")
def refused(wrong: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> list[Done]:
    """What all that is wrong comes to, in one process in which no Spark runs yet."""
    # Whatever starts a JVM asks this one for its version first.
    folder = tmp_path_factory.mktemp("java")
    java = folder / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f"#!/bin/sh\ntouch '{folder}/started'\nexit 1\n")
    java.chmod(0o755)
    commands = [[part.format_map(wrong) for part in arguments] for arguments, _ in WRONG]
    told = run_in_turn(*commands, JAVA_HOME=str(folder))
    assert not (folder / "started").exists(), "Spark was started in vain"
    return told


@pytest.mark.parametrize("at", range(len(WRONG)), ids=["_".join(one)[:60] for one, _ in WRONG])
def test_what_is_wrong_is_said_in_a_line(
    wrong: dict[str, str], refused: list[Done], at: int
) -> None:
    assert_fails(refused[at], *WRONG[at][1])
    assert not Path(wrong["out"]).exists()


@pytest.mark.long
def test_tuning(index: Index) -> None:
    arguments = ("tune", index.path, "--recall", "0.8")
    told = run(*arguments)
    assert told.code == 0 and "bucket length" in told.out and "Side by side" in told.out
    read = json.loads(run(*arguments, "--json").out)
    assert read["target_recall"] == 0.8
    assert 0 < read["parameters"]["measured_candidates"] <= 1
    refused = run("tune", index.path, "--recall", "1")
    assert refused.code == 1 and "not between 0 and 1" in refused.err


@pytest.mark.parametrize(
    ("asked", "labels", "words"),
    [
        ("{photos} --weights {taken}.safetensors", None, ["holds no weights", "taken"]),
        ("{photos} --weights {junk}", None, ["junk.parquet"]),
        ("{photos} --weights nowhere.pt", None, ["unknown weights 'nowhere.pt'"]),
        ("{photos} --model resnet17", None, ["no classification network 'resnet17'"]),
        ("{photos} --model resnet50", None, ["no weights of resnet50", "--weights to imagenet"]),
        ("{photos}", "image,Class\n00001.jpg,red\n00001.jpg,blue\n", ["00001.jpg", "one label"]),
        ("{both}", "image,Class\n00004.jpg,red\n", ["00004.jpg", "several photos"]),
        ("file:///no/where", None, ["/no/where"]),
        ("{junk}", None, ["junk.parquet"]),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_what_is_found_wrong_later_is_said_in_a_line(
    photo: Path,
    tmp_path: Path,
    asked: str,
    labels: str | None,
    words: list[str],
) -> None:
    for folder in ("both/one", "both/two"):
        (tmp_path / folder).mkdir(parents=True)
        shutil.copy(photo, tmp_path / folder)
    (tmp_path / "junk.parquet").write_text("no table")
    (tmp_path / "taken.safetensors").write_text("no weights")
    (tmp_path / "labels.csv").write_text(labels or "")
    places = {"both": tmp_path / "both", "junk": tmp_path / "junk.parquet"}
    given = asked.format(photos=photo.parent, taken=tmp_path / "taken", **places).split()
    given += ["--labels", str(tmp_path / "labels.csv")] if labels else []
    before = sorted(os.listdir(tmp_path))
    command: list[Argument] = ["index", "--out", tmp_path / "x.index", *given]
    assert_fails(run(*command), *words)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["search", "{index}"],
        ["search", "{index}", "{photo}", "--random"],
        ["search", "{index}", "{photo}", "-k", "many"],
        ["search", "{index}", "{photo}", "--engine", "fast"],
        ["neighbors", "{index}", "--out", "{out}", "--engine", "spark-lsh"],
        ["index", "{photos}"],
        [*EMBED, "--precision", "f8"],
        ["hash", "{index}", "-o", "{out}", "--family", "x"],
        ["demo", "--labels", "{columns}"],
    ],
    ids="_".join,
)
def test_wrong_usage_is_exit_code_2(wrong: dict[str, str], arguments: list[str]) -> None:
    done = run(*(part.format_map(wrong) for part in arguments))
    assert done.code == 2
    assert "Traceback" not in done.err
    assert "Usage" in done.err + done.out
    assert arguments == [] or done.out == ""


def test_the_help_lists_every_command() -> None:
    done = run("--help")
    assert (done.code, done.err) == (0, "")
    assert all(f" {command} " in done.out for command in COMMANDS)
    assert {"demo", "embed", "hash", "index", "info", "neighbors", "search"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_has_an_example(command: str) -> None:
    told = CliRunner().invoke(app, [command, "--help"])
    assert told.exit_code == 0
    assert f"Example: lookalike {command} " in " ".join(told.output.replace("│", " ").split())


def test_add_and_sync_take_the_same_options_and_images_of_their_own() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    one, other = ({p.name: p for p in commands[name].params} for name in ("add", "sync"))
    assert list(one) == list(other)
    assert one["images"].required and not other["images"].required
    del one["images"], other["images"]
    assert [(p.opts, p.help, p.default) for p in one.values()] == [
        (p.opts, p.help, p.default) for p in other.values()
    ]


# Precisions.


@pytest.fixture(scope="module")
def rough(drawn: DrawnCollection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the drawn cars in int8, made by the command."""
    out = tmp_path_factory.mktemp("rough") / "int8.index"
    given = (drawn.photos, "--labels", drawn.labels, "--out", out)
    done = run("index", *given, "--precision", "int8", "--no-spark")
    assert (done.code, done.out) == (0, ""), done.err
    line, *more = done.err.splitlines()
    assert all(re.fullmatch(r"int8 was prepared in \d+ s", one) for one in more)
    assert line.startswith(f"96 images embedded into {out} (")
    assert line.endswith(" a second, efficientnet-lite0 in int8)")
    return out


def test_an_index_in_int8_is_one(rough: Path, index: Index) -> None:
    facts, exact = (told("info", path)["model"] for path in (rough, index.path))
    assert (facts.pop("precision"), exact.pop("precision")) == ("int8", "f32")
    assert facts.pop("fingerprint") != exact.pop("fingerprint")
    assert facts == exact
    assert "efficientnet-lite0, weights general, int8\n" in run("info", rough).out


def test_searching_in_int8(rough: Path, index: Index, photo: Path, tmp_path: Path) -> None:
    answer, exact = (told("search", path, photo) for path in (rough, index.path))
    assert answer["query"] == exact["query"]
    found, wanted = ({hit["path"] for hit in one["neighbors"]} for one in (answer, exact))
    assert str(photo) not in found
    assert len(found) == 5
    assert len(found & wanted) >= 4
    for hit, other in zip(answer["neighbors"], exact["neighbors"], strict=True):
        assert hit["distance"] == pytest.approx(other["distance"], abs=0.1)
    shutil.copy(photo, tmp_path / "copy.jpg")  # of which the index has only the vector
    first = told("search", rough, tmp_path / "copy.jpg")["neighbors"][0]
    assert (first["path"], first["distance"]) == (str(photo), pytest.approx(0, abs=1e-3))


def test_random_queries_in_int8(rough: Path) -> None:
    answer = told("search", rough, "--random", "--seed", "3", "-k", "95", "--all")
    distances = [hit["distance"] for hit in answer["neighbors"]]
    assert distances == sorted(distances)
    assert 0 < distances[0] < distances[-1] < 2
    paths = {hit["path"] for hit in answer["neighbors"]}
    assert len(paths) == 95
    assert answer["query"]["path"] not in paths


def test_an_index_like_another_can_be_joined_with_it(
    rough: Path, index: Index, photo: Path, tmp_path: Path
) -> None:
    few, out = tmp_path / "few", tmp_path / "few.index"
    few.mkdir()
    shutil.copy(photo, few / "copy.jpg")
    first, like = (
        Index(EmbeddingTable.open(rough)),
        partial(lookalike.create_index, few, out, spark=False),
    )
    apart = lookalike.create_index(few, tmp_path / "apart.index", spark=False)
    with pytest.raises(LookalikeError, match=f"another model than .* `like={rough}`"):
        first.pairs(tmp_path / "pairs", apart)
    assert not (tmp_path / "pairs").exists()
    with pytest.raises(LookalikeError, match=r"`like` sets the whole model: leave .*`precision`"):
        like(like=rough, precision="bf16")
    with pytest.raises(LookalikeError, match="does not exist"):
        like(like=tmp_path / "nowhere")
    assert not out.exists()

    done = run("index", few, "--out", out, "--no-spark", "--like", rough)
    assert "1 images embedded" in done.err
    second = Index(EmbeddingTable.open(out))
    assert second.info()["model"] == first.info()["model"]
    assert first.pairs(tmp_path / "pairs", second, within=0.01).figures["pairs"] == 1

    assert like(like=rough)._table.version == 0
    assert like()._table.version == 0, "it keeps the model that it has"
    with pytest.raises(LookalikeError, match="already exists, made with another model than"):
        like(like=index.path)


def test_queries_are_embedded_by_the_stored_model(rough: Path, drawn: DrawnCollection) -> None:
    opened = Index(EmbeddingTable.open(rough))
    prints = {opened.embedder.model.fingerprint, opened._table.about_model["fingerprint"]}
    assert prints == {told("info", rough)["model"]["fingerprint"]}
    new = min(drawn.new.rglob("*.jpg"))
    (first,) = told("search", rough, new, "-k", "1")["neighbors"]
    (stored,) = (
        vector
        for segment in opened._table.segments
        for path, vector in zip(segment.rows["path"].to_pylist(), segment.vectors, strict=True)
        if path == Path(first["path"]).name
    )
    between = np.linalg.norm(opened.embedder(new) - stored)
    assert first["distance"] == pytest.approx(between, abs=1e-6)


@pytest.mark.long  # calibrates: 10 CPU seconds
def test_what_was_chosen_is_said(
    drawn: DrawnCollection,
    tmp_path: Path,
    soon: None,
) -> None:
    out = tmp_path / "x.index"
    done = run("index", drawn.photos, "--out", out, "--no-spark", "--model", "resnet18")
    assert (done.code, done.out) == (0, ""), done.err
    embedded, chosen = done.err.splitlines()
    assert embedded.endswith(" a second, resnet18 in int8)")
    agreement = told("info", out)["model"]["agreement"]
    assert 0.5 <= agreement <= 1
    assert re.fullmatch(
        rf"int8 was chosen in \d+ s: on a sample of these images {agreement:.0%} of the five "
        "nearest neighbours are those of f32",
        chosen,
    )
    line = f"resnet18, weights cars, int8, {agreement:.0%} of its neighbours as in f32\n"
    assert line in run("info", out).out


# With Spark.


def test_embedding_with_a_label_file_from_windows(
    drawn: DrawnCollection, photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for one in sorted(photo.parent.glob("*.jpg"))[:4]:
        shutil.copy(one, tmp_path / "photos")
    labels = tmp_path / "labels.csv"
    labels.write_text(f"\ufeffimage,Class\r\n{photo.name},Citroën 2CV\r\n", encoding="utf-8")
    out = tmp_path / "cars.csv"
    done = run_apart("embed", tmp_path / "photos", "--out", out, "--labels", labels, **ASCII)
    assert (done.code, done.out) == (0, ""), done.err
    assert f"4 images embedded into {out} (" in done.err
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["image"]: row["label"] for row in rows if row["label"]} == {
        photo.name: "Citroën 2CV"
    }
    assert len(rows) == 4 and len(rows[0]) == 514
    assert sorted(os.listdir(tmp_path)) == [
        "cars.csv",
        "cars.csv.skipped.csv",
        "labels.csv",
        "photos",
    ]


def test_hashing_and_searching_by_it(
    index: Index,
    photo: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "hashes"
    done = run("hash", index.path, "--out", out)
    assert done.code == 0
    assert done.err == f"wrote {out}/hashes and {out}/model\n"
    assert "hash tables, bucket length" in done.out
    assert_fails(run("hash", index.path, "--out", out), "--overwrite")
    minhash = ("--family", "minhash", "--overwrite")
    assert run("hash", index.path, "--out", out, *minhash).code == 0

    asked = ("search", index.path, photo, "--engine", "spark-lsh", "--explain")
    answer = json.loads(run(*asked, "--json").out)
    assert list(answer) == ["query", "engine", "took_ms", "neighbors", "candidates", "bands"]
    assert answer["engine"] == "spark-lsh"
    assert all(hit["tables"] for hit in answer["neighbors"])
    done = run(*asked)
    assert (done.code, done.err) == (0, "")
    shown = ", ".join(map(str, answer["neighbors"][0]["tables"]))
    assert done.out.splitlines()[1].endswith(f"  tables {shown}")
    assert f"{answer['candidates']} rows" in done.out


def interrupted(tmp_path: Path, photos: Path, seen: str) -> Done:
    """Index photos, 16 at a time, and press Ctrl-C when there is a file like `seen`."""
    out = tmp_path / "cars.index"
    process = subprocess.Popen(
        [COMMAND, "index", photos, "--out", out, "--no-spark", "--wave", "16"],
        stdout=subprocess.DEVNULL,
        stderr=(tmp_path / "said").open("w"),
    )
    deadline = time.monotonic() + 120
    while not list(out.glob(seen)):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    return Done(process.wait(120), "", (tmp_path / "said").read_text())


def test_a_run_interrupted_early_says_so_and_leaves_nothing(
    drawn: DrawnCollection, tmp_path: Path
) -> None:
    done = interrupted(tmp_path, drawn.photos, ".work-*/listing.parquet")
    said = "stopped; nothing was changed: run the same command to continue\n"
    assert (done.code, done.err) == (130, said)
    assert os.listdir(tmp_path) == ["said"]


def test_an_interrupted_run_says_what_it_has_done(drawn: DrawnCollection, tmp_path: Path) -> None:
    done = interrupted(tmp_path, drawn.photos, "_delta_log/*3.json")
    said = re.fullmatch(
        r"stopped; (\d+) inputs are in \S+: run the same command to continue\n", done.err
    )
    assert done.code == 130
    assert said is not None and 32 <= int(said[1]) < 96
    again = run("index", drawn.photos, "--out", tmp_path / "cars.index", "--no-spark")
    assert again.code == 0
    assert f"{96 - int(said[1])} images embedded into" in again.err
    assert f"{said[1]} more were there already" in again.err
