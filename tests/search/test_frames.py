"""An index as Arrow, pandas and Polars."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from helpers.own import crowds, table_of
from lookalike import Index, LookalikeError, create_index


def test_each_frame_has_all_rows(index: Index) -> None:
    table = index.to_arrow().read_all()
    assert table.column_names == index._table.schema.names
    assert sorted(table["id"].to_pylist()) == sorted(index._searcher.rows.ids.tolist())
    frame, other = index.to_pandas(), index.to_polars()
    for column in ("id", "path", "label", "size", "status"):
        assert frame[column].tolist() == other[column].to_list() == table[column].to_pylist()
    vectors = np.stack(frame["embedding"].to_list())
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, np.array(other["embedding"].to_list(), np.float32))
    assert np.array_equal(vectors, index._searcher.rows.vectors(np.arange(len(index))))


def test_columns_are_chosen(index: Index) -> None:
    names = ["label", "id"]
    assert index.to_arrow(names).schema.names == names
    assert list(index.to_pandas(names).columns) == index.to_polars(names).columns == names
    with pytest.raises(LookalikeError, match="no column 'colour': choose id, path, label"):
        index.to_arrow(["colour"])


def test_keys_and_skipped_rows(tmp_path: Path) -> None:
    options: dict[str, Any] = {"embedding_column": "v", "id_column": "sku"}
    vectors = [*crowds(20), None]
    made = create_index(table_of(vectors), tmp_path / "own.index", **options)
    assert len(made) == 20
    reader = made.to_arrow(["id", "status", "embedding"])  # noqa: F841 - DuckDB reads it
    query = "select status, count(), max(id) from reader group by all order by all"
    assert duckdb.execute(query).fetchall() == [("ok", 20, "sku-0019"), ("skipped", 1, "sku-0020")]


def test_a_stream_needs_the_data_files(tmp_path: Path) -> None:
    made = create_index(table_of(crowds(20)), tmp_path / "own.index", embedding_column="v")
    reader = made.to_arrow()
    made._table.files()[0].unlink()
    with pytest.raises(LookalikeError, match="is missing: restore it"):
        reader.read_all()
