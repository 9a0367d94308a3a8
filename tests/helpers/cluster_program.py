"""What test_cluster.py runs as the driver of a cluster: `python cluster_program.py FOLDER`.

It indexes photos and finds the neighbours of vectors; then it does so again, once for each place
where the executor that comes there first is killed, with all processes that it has.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import lookalike
from lookalike.ingest import spark_job
from lookalike.search.knn import IndexRows, join
from lookalike.spark import session

ROWS, WIDTH, CENTRES = 6_000, 32, 60
PLACES: dict[str, tuple[Any, str]] = {
    "index": (spark_job, "embed_batches"),
    "inspect": (IndexRows, "read"),
    "survey": (IndexRows, "read"),
    "route": (join, "route_task"),
    "region": (join, "region_task"),
    "merge": (join, "merge_task"),
}
"""Where an executor may be killed: within tasks that these make."""
READS = {"inspect": 0, "survey": 1}
"""Which time that the rows are read a place means."""
Batches = Iterator[Any]


def vectors() -> pa.Table:
    """Return vectors that form clusters."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CENTRES, WIDTH))
    drawn = centres[rng.integers(CENTRES, size=ROWS)] + 0.3 * rng.normal(size=(ROWS, WIDTH))
    return pa.table({"v": pa.array(list(drawn.astype(np.float32)), pa.list_(pa.float32()))})


def kill_once(mark: Path) -> Callable[[Batches], Batches]:
    """Return a function of the batches of a task that kills the first executor, half-way."""

    def watched(batches: Batches) -> Batches:
        for batch in batches:
            yield batch
            try:
                os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            parent = os.getppid()  # which forks the workers of an executor
            with open(f"/proc/{parent}/stat") as stat:
                executor = int(stat.read().rpartition(")")[2].split()[1])
            os.kill(executor, signal.SIGKILL)
            time.sleep(60)  # not reached: this process goes with its executor

    return watched


@contextmanager
def killing(place: str, mark: Path) -> Iterator[None]:
    """Let the tasks of a place kill an executor, while the block runs."""
    module, name = PLACES[place]
    original: Any = getattr(module, name)
    watched = kill_once(mark)
    times = count()

    def read(source: IndexRows, task: Any, schema: str) -> Any:
        def killed(batches: Batches) -> Batches:
            return watched(task(batches))

        return original(source, killed if next(times) == READS[place] else task, schema)

    def made(*arguments: Any, **options: Any) -> Any:
        found = original(*arguments, **options)
        if name == "embed_batches":
            return watched(found)

        def task(batches: Batches) -> Batches:
            return watched(found(batches))

        return task

    setattr(module, name, read if place in READS else made)
    try:
        yield
    finally:
        setattr(module, name, original)
    assert mark.exists(), f"nothing was killed in {place}"


def index_photos(here: Path, out: Path) -> None:
    lookalike.create_index(here / "photos", out, model="resnet18", precision="f32", spark=True)


def neighbors(index: lookalike.Index, out: Path) -> None:
    """Find neighbours with a plan of their own."""
    found = index.kneighbors(k=5, recall=0.9, engine="approximate")
    assert found.plan.routing is not None, "they were compared exactly"
    found.write(out)


def run(here: Path) -> None:
    """Index and find neighbours, undisturbed and with kills, into folders of their own."""
    spark = session()
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "16")
    index_photos(here, here / "nothing.index")
    own = lookalike.create_index(vectors(), here / "own.index", embedding_column="v")
    neighbors(own, here / "nothing.near")
    for place in PLACES:
        with killing(place, here / f"{place}.killed"):
            if place == "index":
                index_photos(here, here / "index.index")
            else:
                neighbors(own, here / f"{place}.near")


if __name__ == "__main__":
    run(Path(sys.argv[1]))
