"""Databases in memory: they are used again, and nothing passes from one user to the next."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from lookalike import LookalikeError
from lookalike.system import sql as module
from lookalike.system.sql import connect, fetch_row, write_parquet


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_idle", [])


SETTINGS = "select " + ", ".join(
    f"current_setting('{name}')" for name in ("memory_limit", "threads", "temp_directory")
)


def use(folder: Path) -> None:
    with connect(folder) as sql:
        assert fetch_row(sql, "select count() from duckdb_tables()") == (0,)
        assert fetch_row(sql, "select count() from duckdb_views() where not internal") == (0,)
        assert str(folder) in fetch_row(sql, SETTINGS)
        sql.register("given", pa.table({"x": [1, 2]}))
        sql.execute("create table rows as from given")
        sql.execute("create temp table chosen as from rows")
        sql.execute("create view shown as from rows")
        sql.execute("create temp view also as from chosen")
        assert fetch_row(sql, "select sum(x) from shown join also using (x)") == (3,)
        sql.execute("set threads = 1; set memory_limit = '50MB'")


def test_a_database_is_used_again_and_is_empty(tmp_path: Path) -> None:
    use(tmp_path)
    (first,) = module._idle
    (tmp_path / "it's").mkdir()
    use(tmp_path / "it's")
    assert module._idle == [first]
    assert list((tmp_path / "it's").iterdir()) == []
    with connect(tmp_path) as one, connect(tmp_path) as other:
        one.execute("create table mine as select 1")
        assert fetch_row(
            other, "select count() from duckdb_tables() where table_name = 'mine'"
        ) == (0,)


def test_threads_have_databases_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, [tmp_path] * 12))
    assert 1 <= len(module._idle) <= module._MAX_IDLE


def test_an_error_ends_a_database(tmp_path: Path) -> None:
    with pytest.raises(LookalikeError, match="nonsense"), connect(tmp_path) as sql:
        sql.execute("select nonsense")
    with pytest.raises(KeyError), connect(tmp_path) as sql:
        raise KeyError
    assert module._idle == []


def test_memory_and_folder_are_given_back(tmp_path: Path) -> None:
    def fill(rows: int) -> None:
        with connect(tmp_path) as sql:
            sql.execute("set memory_limit = '30MB'; set threads = 1")
            sql.execute(f"create temp table many as select hash(range) as x from range({rows})")
            write_parquet(sql, "from many", tmp_path / "many.parquet")

    fill(1_000)
    (kept,) = module._idle
    limit, _, folder = fetch_row(kept, SETTINGS)
    assert (limit, folder) == ("4.7 MiB", "")
    fill(6_000_000)  # it spills
    assert module._idle == []
    assert [file.name for file in tmp_path.iterdir()] == ["many.parquet"]
    use(tmp_path)


def test_a_fork_has_none_of_them(tmp_path: Path) -> None:
    use(tmp_path)
    child = os.fork()
    if not child:
        os._exit(len(module._idle))
    assert os.waitpid(child, 0)[1] == 0
    use(tmp_path)
