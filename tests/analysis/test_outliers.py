"""Strangers come first, wrong labels are named, and who has few neighbours or no label is there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers.photos import UNSEEN, needs_photos
from lookalike import Index
from lookalike.analysis.outliers import outliers, suspects
from lookalike.errors import LookalikeError
from lookalike.ingest import Options, build_index
from lookalike.search.knn.graph import write_graph
from lookalike.storage import EmbeddingTable
from lookalike.storage.schema import ROW
from lookalike.storage.segments import read_rows
from strangers import found_errors, made

Planted = tuple[EmbeddingTable, Path, Path]


def all_rows(collection: EmbeddingTable) -> pa.Table:
    return pa.concat_tables([read_rows(file, ROW.names) for file in collection.files()])


def relabelled(rows: pa.Table, change: Callable[[list[str | None]], None]) -> pa.Table:
    labels = rows["label"].to_pylist()
    change(labels)
    return rows.set_column(2, "label", pa.array(labels, pa.string()))


@pytest.fixture(scope="module")
def planted(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """96 drawn cars, and after them six pictures of noise; its graph, a folder for tables."""
    folder = tmp_path_factory.mktemp("noise")
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (96 + number, 128, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    options = Options(precision="f32", spark=False)
    noise_index = build_index(folder, folder / "noise.index", options)[0]
    assert noise_index.model.fingerprint == index._table.model.fingerprint
    rows = pa.concat_tables([all_rows(index._table), all_rows(noise_index)])
    return made(index._table, rows, folder, 10)


def test_strangers_are_the_most_isolated(planted: Planted) -> None:
    collection, graph, out = planted
    figures = outliers(collection, graph, out, 10)
    table = pq.read_table(out / "outliers.parquet")
    assert figures == {"images": 102, "k": 10, "fewer_neighbors": 0}
    assert set(table["id"].to_pylist()[:6]) == set(range(96, 102))
    assert sorted(path.name for path in out.iterdir()) == ["outliers.parquet"]


def test_every_image_has_a_rank_and_what_it_comes_from(planted: Planted) -> None:
    collection, graph, out = planted
    outliers(collection, graph, out, 5)
    table = pq.read_table(out / "outliers.parquet")
    names = ["rank", "id", "path", "label", "distance", "density", "score"]
    assert table.schema.names == names
    assert table["rank"].to_pylist() == list(range(1, 103))
    assert sorted(table["id"].to_pylist()) == list(range(102))
    scores = table["score"].to_pylist()
    assert scores == sorted(scores, reverse=True)
    pairs = pq.read_table(graph).to_pandas()
    fifth = pairs[pairs["rank"] == 5].set_index("query_id")["distance"]
    means = pairs[pairs["rank"] <= 5].groupby("query_id")["distance"].mean()
    for row in table.to_pylist()[::20]:
        near = pairs[(pairs["query_id"] == row["id"]) & (pairs["rank"] <= 5)]["neighbor_id"]
        assert row["distance"] == fifth[row["id"]]
        expected = means[row["id"]] / means[near].mean()
        assert row["density"] == pytest.approx(expected, rel=1e-4)


def test_who_has_few_neighbors_or_none_is_isolated(planted: Planted, tmp_path: Path) -> None:
    """In a graph that ends at a distance, some have fewer than k."""
    collection, _, _ = planted
    write_graph(collection, tmp_path / "whole", 10, spark=False)
    whole = pq.read_table(tmp_path / "whole").to_pandas().groupby("rank")["distance"]
    within = float(whole.min()[10])  # one image at least has all ten
    write_graph(collection, tmp_path / "graph", 10, within=within, spark=False)
    found = pq.read_table(tmp_path / "graph")["query_id"].to_numpy()
    counts = np.bincount(found, minlength=102)
    assert 0 in counts and 10 in counts
    figures = outliers(collection, tmp_path / "graph", tmp_path, 10)
    table = pq.read_table(tmp_path / "outliers.parquet")
    assert figures["images"] == len(table) == 102
    assert figures["fewer_neighbors"] == table["distance"].null_count == (counts < 10).sum()
    assert set(table.filter(pa.compute.is_null(table["density"]))["id"].to_pylist()) == set(
        np.flatnonzero(counts == 0).tolist()
    )
    assert table["score"].null_count == 0


def test_a_collection_may_be_smaller_than_k(index: Index, tmp_path: Path) -> None:
    rows = all_rows(index._table)
    for count in (1, 3):
        collection, graph, out = made(index._table, rows.slice(0, count), tmp_path, 10)
        assert outliers(collection, graph, out, 10)["images"] == count
        assert suspects(collection, graph, out, 10)["labelled"] == count
        assert len(pq.read_table(out / "outliers.parquet")) == count


def test_swapped_labels_are_suspect(index: Index, tmp_path: Path) -> None:
    """Each car three times: one of the copies has a label of another."""

    def change(labels: list[str | None]) -> None:
        labels[10], labels[21] = labels[21], labels[10]

    rows = all_rows(index._table).slice(0, 24)  # one of each kind
    right = rows["label"].to_pylist()
    copies = relabelled(pa.concat_tables([rows, rows, rows]), change)
    collection, graph, out = made(index._table, copies, tmp_path, 2)
    figures = suspects(collection, graph, out, 2)
    table = pq.read_table(out / "suspects.parquet")
    assert table.schema.names == ["rank", "id", "path", "label", "suggested", "score"]
    assert figures == {"labelled": 72, "suspects": len(table), "k": 2}
    first = table.slice(0, 2).to_pylist()
    assert [row["rank"] for row in first] == [1, 2]
    assert {row["id"] for row in first} == {10, 21}
    assert {row["id"]: row["suggested"] for row in first} == {10: right[10], 21: right[21]}
    assert {row["id"]: row["label"] for row in first} == {10: right[21], 21: right[10]}


def test_who_has_no_label_neither_votes_nor_is_asked(index: Index, tmp_path: Path) -> None:
    def change(labels: list[str | None]) -> None:
        labels[::2] = [None] * len(labels[::2])

    rows = relabelled(all_rows(index._table), change)
    collection, graph, out = made(index._table, rows, tmp_path, 10)
    figures = suspects(collection, graph, out, 10)
    table = pq.read_table(out / "suspects.parquet")
    assert figures["labelled"] == 48
    assert len(table) > 0 and all(number % 2 for number in table["id"].to_pylist())
    assert table["suggested"].null_count == table["label"].null_count == 0
    assert all(row["label"] != row["suggested"] for row in table.to_pylist())

    def clear(labels: list[str | None]) -> None:
        labels[:] = [None] * len(labels)

    none = made(index._table, relabelled(rows, clear), tmp_path, 10)
    assert suspects(*none, 10) == {"labelled": 0, "suspects": 0, "k": 10}


def test_what_cannot_be_done_is_said_in_a_line(planted: Planted, tmp_path: Path) -> None:
    collection, graph, out = planted
    for look in (outliers, suspects):
        with pytest.raises(LookalikeError, match="at least 1 neighbour"):
            look(collection, graph, out, 0)
        with pytest.raises(LookalikeError, match="not a neighbour graph"):
            look(collection, tmp_path, out, 5)
    (tmp_path / "moved").mkdir()
    for name in ("query_id", "neighbor_id"):
        table = pq.read_table(graph)
        moved = table.set_column(
            table.schema.get_field_index(name), name, pa.compute.add(table[name], 1000)
        )
        pq.write_table(moved, tmp_path / "moved" / "part-0.parquet")
        for look in (outliers, suspects):
            with pytest.raises(LookalikeError, match="another version"):
                look(collection, tmp_path / "moved", out, 5)


@pytest.mark.long
@needs_photos
def test_label_errors_of_real_photos_are_found(tmp_path: Path) -> None:
    options = Options(labels=UNSEEN / "cardatasettrain.csv", precision="f32", spark=False)
    made_of = build_index(UNSEEN / "cars_train", tmp_path / "cars.index", options)[0]
    found = [found_errors(made_of, all_rows(made_of), seed, tmp_path) for seed in range(2)]
    assert np.mean(found) > 0.6
