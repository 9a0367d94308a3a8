"""What Spark tasks need where they arrive: the core, the model in a file, and no torch."""

import pickle
import subprocess
import sys
import zipfile
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from pyspark import cloudpickle

import lookalike
from lookalike import models
from lookalike.errors import LookalikeError
from lookalike.images.inputs.listing import IMAGE
from lookalike.images.synthetic import DrawnCollection
from lookalike.ingest import spark_job
from lookalike.ingest.options import Options, prepare
from lookalike.ingest.shared_model import SharedModel

SOURCES = Path(lookalike.__file__).parent
OTHERS = {"cv2", "fastapi", "matplotlib", "networkit", "nncf", "torch", "typer"}

# A worker: it has the function of a task and its rows, and says what it made and imported.
WORKER = """
import pickle, sys
import pyarrow as pa
task, content = pickle.load(open(sys.argv[1], "rb"))
rows = pa.Table.from_batches(task(iter(pa.ipc.open_stream(content))))
print(rows["status"].to_pylist(), len(rows["embedding"][0]))
print(sys.modules["lookalike"].__file__)
print(*sorted(name for name in sys.modules if "." not in name))
"""


def task_of(drawn: DrawnCollection, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the function of the tasks that embed photos, as Spark gets it."""
    taken: list[Any] = []
    monkeypatch.setattr(
        spark_job, "write_on_spark", lambda _, rows, *rest, **options: taken.append(rows)
    )
    stack, sharing = ExitStack(), SharedModel.sharing

    def shared_to_the_end(*given: Any) -> Any:
        return nullcontext(stack.enter_context(sharing(*given)))

    monkeypatch.setattr(SharedModel, "sharing", shared_to_the_end)
    job = prepare(drawn.photos, Options(model="resnet18", precision="f32"))
    frame: Any = SimpleNamespace(sparkSession=SimpleNamespace(conf={"spark.master": "local[1,4]"}))
    spark_job.embed_on_spark(job, job.full, frame, iter, None, folder, print, count=3, wave=3)
    return taken[0]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_worker_needs_no_torch(
    drawn: DrawnCollection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    task = task_of(drawn, tmp_path, monkeypatch)
    photos = sorted(photo.name for photo in drawn.photos.iterdir())[:3]
    nothing = dict.fromkeys(IMAGE.names)
    rows = [nothing | {"id": number, "path": photo} for number, photo in enumerate(photos)]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, IMAGE) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(rows, IMAGE))
    function = cloudpickle.dumps((task, sink.getvalue().to_pybytes()))  # type: ignore[no-untyped-call]
    assert len(function) < 50_000, "the model is in a file"
    (tmp_path / "task").write_bytes(function)
    place = SOURCES.parent
    if zipped:  # as `--py-files` sends it
        place = tmp_path / "lookalike.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for file in SOURCES.rglob("*.py"):
                archive.write(file, file.relative_to(SOURCES.parent))
    done = subprocess.run(
        [sys.executable, "-c", WORKER, tmp_path / "task"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    said, module, imported = done.stdout.splitlines()
    assert said == "['ok', 'ok', 'ok'] 512"
    assert Path(module).is_relative_to(place)
    assert set(imported.split()) & OTHERS == set()


def test_a_process_reads_the_model_of_its_tasks_once(tmp_path: Path) -> None:
    model = models.resolve("resnet18")
    with SharedModel.sharing(model, tmp_path) as written:
        shared = pickle.loads(pickle.dumps(written))
        found = shared.load()
        assert (found, found.graph, found.weights_data) == (model, model.graph, model.weights_data)
    assert not any(tmp_path.iterdir())
    assert shared.load() is found


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_model_that_is_not_as_written_is_refused(tmp_path: Path, damage: str) -> None:
    model = models.resolve("resnet18")
    said = "a disk that all workers share" if damage == "gone" else "changed by another program"
    with SharedModel.sharing(model, tmp_path) as shared:
        if damage == "gone":
            shared.file.file.unlink()
        else:
            shared.file.file.write_bytes(pickle.dumps(print))
        with pytest.raises(LookalikeError, match=said):
            shared.load()
