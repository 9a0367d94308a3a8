"""Conditions in SQL on the columns of an index."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from helpers.command import assert_fails, run, told
from helpers.own import crowds, table_of
from lookalike import Index, LookalikeError, create_index
from lookalike.search.filters import Filter
from lookalike.search.rows import Rows
from lookalike.server import create_app

CONDITIONS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "id < 10": lambda row: row["id"] < 10,
    'ID in (3, 5) or "id" = 7': lambda row: row["id"] in (3, 5, 7),
    "label like 'red%'": lambda row: row["label"].startswith("red"),
    "label ilike 'RED %' -- in any case": lambda row: row["label"].startswith("red "),
    "contains(upper(label), 'COUPE') and not id % 2 = 0": lambda row: (
        "coupe" in row["label"] and row["id"] % 2 == 1
    ),
    "path ~ '^0000[1-4]'": lambda row: "00001" <= row["path"] < "00005",
    "width > height and modified between '2020-01-01' and '2100-01-01'": lambda row: (
        row["width"] > row["height"]
    ),
    "year(modified) < 2000": lambda row: False,
    "label is null or label > null": lambda row: row["label"] is None,
    "(" * 900 + "id = 4" + ")" * 900: lambda row: row["id"] == 4,
}


@pytest.fixture(scope="module")
def stored(index: Index) -> list[dict[str, Any]]:
    """The embedded rows, as any reader of Parquet sees them."""
    rows = [row for file in index._table.files() for row in pq.read_table(file).to_pylist()]
    return [row for row in rows if row["status"] == "ok"]


@pytest.mark.parametrize("where", CONDITIONS, ids=lambda where: where[:30])
def test_rows_that_meet_a_condition(where: str, index: Index, stored: list[dict[str, Any]]) -> None:
    rows = index._searcher.rows
    wanted = sorted(row["id"] for row in stored if CONDITIONS[where](row))
    mask = rows.chosen(Filter.of(where=where))
    assert mask is not None and sorted(rows.ids[mask].tolist()) == wanted


BAD = {
    " ": "is empty",
    "id <": "is no SQL: syntax error",
    "id = 1) union (select 1": "takes one condition",
    "true) group by (id": "takes one condition",
    "true limit 1": "is no SQL",
    "id = 1; drop view rows": "is no SQL",
    "id in (select 1)": "cannot have a subquery",
    "exists(from read_text('/etc/passwd'))": "cannot have a subquery",
    "row_number() over () = 1": "cannot have a window",
    "columns('i.*') = 1": "cannot have a star",
    "id = $wanted": "cannot have a parameter",
    "getenv('HOME') = ''": "cannot call 'getenv'",
    "repeat('x', 1000000000) = label": "cannot call 'repeat'",
    "colour = 'red'": "unknown column 'colour': choose id, path, label, width",
    'label = "red"': "put text in single quotes",
    "_number = 1": "unknown column '_number'",
    "stored.id = 1": "unknown column 'stored.id'",
    "id = 'red'": "cannot be evaluated: Conversion Error",
    "label ~ '('": "cannot be evaluated: Invalid Input Error",
    "'\udc00' = label": "is no SQL",
    "id = 1 " + "or id = 1" * 300: "is over 2,000 characters long",
    "id < 0": r"no image meets id < 0: check",
}


@pytest.mark.parametrize("where", BAD, ids=lambda where: where[:30].strip() or "blank")
def test_what_is_no_condition_is_refused(where: str, index: Index) -> None:
    with pytest.raises(LookalikeError, match=BAD[where]) as refused:
        index.search(id=0, where=where)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


def test_the_rows_of_the_newest_version(index: Index, tmp_path: Path) -> None:
    """Deleted rows, skipped rows and several segments."""
    options: dict[str, Any] = {"embedding_column": "v", "id_column": "n"}
    table = table_of(crowds(70), n=range(70))
    made = create_index(table[:60], tmp_path / "own.index", **options)
    made.add(table, **options)
    made.remove(["3", "64"])
    rows = Rows(made._table.segments)
    mask = rows.chosen(Filter.of(where="id between 2 and 5 or id >= 63"))
    assert mask is not None
    assert rows.ids[mask].tolist() == [2, 4, 5, 63, 65, 66, 67, 68, 69]


def test_the_id_of_own_vectors_is_their_key(tmp_path: Path) -> None:
    options: dict[str, Any] = {"embedding_column": "v", "id_column": "sku", "label_column": "kind"}
    made = create_index(table_of(crowds(60)), tmp_path / "own.index", **options)
    found = made.search(id="sku-0003", k=60, where="id < 'sku-0010' and label <> 'kind 1'")
    assert sorted(one.id for one in found) == [
        f"sku-{number:04}" for number in range(10) if number % 5 != 1 and number != 3
    ]


def test_filters_are_combined_in_each_engine(index: Index) -> None:
    for engine in ("exact", "approximate"):
        found = index.search(
            id=0, k=96, label=["red coupe", "blue coupe"], where="id > 10", engine=engine
        )
        assert {one.label for one in found} <= {"red coupe", "blue coupe"}
        assert all(one.number > 10 for one in found) and len(found)
    with pytest.raises(LookalikeError, match="supports neither filters"):
        index.search(id=0, where="id > 10", engine="spark-lsh")


def test_on_the_command_line(index: Index) -> None:
    found = told("search", index.path, "--id", 0, "-k", 96, "--where", "id < 10")["neighbors"]
    assert sorted(one["id"] for one in found) == [*range(1, 10)]
    assert_fails(run("search", index.path, "--id", 0, "--where", "idd < 10"), "unknown column")


def test_over_http(index: Index) -> None:
    with TestClient(create_app(index), base_url="http://localhost") as client:
        found = client.get("/api/search?image=0&k=96&where=id<10").json()
        assert sorted(one["id"] for one in found["neighbors"]) == [*range(1, 10)]
        assert found["compared"] == 10
        page = client.get("/api/images?where=id<10&label=nobody").json()
        assert (page["total"], page["images"]) == (0, [])
        assert len(client.get("/api/random?where=id<10").json()["images"]) == 10
        for wrong in ("idd < 10", "id = 'red'", "id in (select 1)"):
            refused = client.get("/api/images", params={"where": wrong})
            assert refused.status_code == 422 and "`where`" in refused.json()["error"]
