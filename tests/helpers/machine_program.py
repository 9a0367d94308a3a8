"""A machine that works on indexes of small vectors in a store, told so line by line.

It reads JSON objects: a `task`, its keywords, and the `cache` where that is another folder than
before. It answers each with an object: a `result`; or an `error`, that of a LookalikeError; or a
`crash`, the traceback of any other.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

import lookalike
from lookalike import Index, LookalikeError
from lookalike.ingest import update
from lookalike.system import store_backends

WIDTH = 4
MAX_RETRIES = 2
RETRY_SECONDS = 6
ANSWER_SECONDS = 2.0

Rows = dict[str, int]
"""What an index has to hold: of each key the number from which its vector is drawn."""

_held: dict[str, Index] = {}


def vector(key: str, number: int) -> list[float]:
    """Return the vector of a row."""
    drawn = np.random.default_rng([number, *key.encode()]).normal(size=WIDTH).astype(np.float32)
    return [float(value) for value in drawn]


def table(rows: Rows) -> pa.Table:
    """Return rows as users give them."""
    vectors = [vector(key, number) for key, number in rows.items()]
    return pa.table({"id": list(rows), "v": pa.array(vectors, pa.list_(pa.float32()))})


def create(uri: str, rows: Rows) -> int:
    """Make an index of rows, or continue it."""
    options: dict[str, Any] = {"embedding_column": "v", "id_column": "id", "metric": "l2"}
    _held[uri] = lookalike.create_index(table(rows), uri, spark=False, **options)
    return len(_held[uri])


def add(uri: str, rows: Rows, anew: bool) -> int:
    """Add rows."""
    changed = _opened(uri, anew).add(table(rows), spark=False)
    return changed.new + changed.changed


def sync(uri: str, rows: Rows, anew: bool) -> int:
    """Make the index have these rows alone."""
    return _opened(uri, anew).sync(table(rows), spark=False).removed


def remove(uri: str, keys: list[str], anew: bool) -> int:
    """Remove rows."""
    return _opened(uri, anew).remove(keys).removed


def vacuum(uri: str, anew: bool) -> int:
    """Delete what the newest version and the one before do not need."""
    return _opened(uri, anew).vacuum(0).files


def compare(uri: str, rows: Rows, versions: int) -> list[str]:
    """Return how an index differs from what it has to be, as opened for the first time.

    It has to have the rows, a good check, and its newest `versions`, if they are said to be kept.
    """
    index = lookalike.open_index(uri)
    wrong = _differences(index, rows)
    checked = index.check()
    if not checked.ok:
        wrong.append(f"check: {checked.counts} {checked.examples}")
    for one in index.versions()[:versions]:
        if not one["kept"]:
            continue
        older = lookalike.open_index(uri, version=one["version"])
        keys = older.to_arrow(["id"]).read_all()["id"].to_pylist()
        if len(keys) != len(set(keys)) or len(keys) != len(older):
            wrong.append(f"version {one['version']} has {len(keys)} rows of {len(set(keys))} keys")
        if one["images"] != len(keys):
            wrong.append(f"version {one['version']} has {len(keys)} rows, not {one['images']}")
    return wrong


def _differences(index: Index, rows: Rows) -> list[str]:
    found = index.to_arrow(["id", "embedding"]).read_all().to_pydict()
    vectors = dict(zip(found["id"], found["embedding"], strict=True))
    wrong = []
    if len(vectors) != len(found["id"]):
        wrong.append(f"doubled: {sorted(found['id'])}")
    if lost := sorted(rows.keys() - vectors.keys()):
        wrong.append(f"lost: {lost}")
    if back := sorted(vectors.keys() - rows.keys()):
        wrong.append(f"not removed: {back}")
    for key in rows.keys() & vectors.keys():
        if vectors[key] != vector(key, rows[key]):
            wrong.append(f"{key} has another vector")
    return wrong


def _opened(uri: str, anew: bool) -> Index:
    """Return the index as it was opened before, or `anew`."""
    if anew or uri not in _held:
        _held[uri] = lookalike.open_index(uri)
    return _held[uri]


TASKS: dict[str, Callable[..., Any]] = {
    each.__name__: each for each in (create, add, sync, remove, vacuum, compare)
}


def answer(task: str, cache: str | None = None, **given: Any) -> dict[str, Any]:
    """Do a task; return what is said of it."""
    if cache is not None:
        os.environ["LOOKALIKE_CACHE"] = cache
    try:
        return {"result": TASKS[task](**given)}
    except LookalikeError as error:
        return {"error": str(error)}
    except Exception:
        return {"crash": traceback.format_exc()}


if __name__ == "__main__":
    assert update  # it is loaded before the first task
    vars(store_backends).update(
        _MAX_RETRIES=MAX_RETRIES, _RETRY_SECONDS=RETRY_SECONDS, _ANSWER_SECONDS=ANSWER_SECONDS
    )
    print(json.dumps({"result": "ready"}), flush=True)  # noqa: T201
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)  # noqa: T201
