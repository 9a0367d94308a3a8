"""What is found in a collection as a whole, each in a folder with tables, figures and pictures."""

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lookalike import images
from lookalike.collection import Collection
from lookalike.galleries import Card, Group, Pairs, pair_sheet, write_gallery
from lookalike.groups import alignment, clusters, outliers, pairs, threshold
from lookalike.groups.aside import Aside, How, set_aside
from lookalike.groups.duplicates import TABLE, Keep, duplicates
from lookalike.groups.graph import Engine, write_graph
from lookalike.groups.results import Found, finding
from lookalike.groups.verifying import verify as looked_at
from lookalike.pictures import Tile
from lookalike.searcher import RECALL
from lookalike.sql import connect, quoted

SHOWN = 200  # groups in a gallery
_CARDS = 12  # of a group
_RANKED = 60  # outliers, and labels to look at
_VOTERS = 20  # neighbours that are asked for their labels
_AROUND = 6  # pairs of a kind on a sheet


class Groupings:
    """What an index can say of its images as a whole.

    Each answer is a folder of its own that comes whole or not at all: tables of Parquet, figures in
    `found.json`, and, unless `gallery` is false, pictures in `index.html`.
    """

    collection: Collection

    def join(
        self,
        out: str | Path,
        other: "Groupings | str | Path | None" = None,
        *,
        within: float | None = None,
        k: int | None = None,
        cap: int = pairs.CAP,
        verify: bool = False,
        engine: Engine | Literal["spark"] = "auto",
        recall: float = RECALL,
        spark: bool | None = None,
        gallery: bool = True,
        overwrite: bool = False,
    ) -> Found:
        """Find pairs of images within a distance: of this index, or of this one and another.

        The table has `a_id, b_id, a_path, b_path, distance`, nearest first, each pair once; `b` is
        of the other index, whose images ask. An image brings in its `cap` nearest at most, or its
        `k` nearest; the figures say how many had more (`cut`), and what share of the true pairs
        of some drawn images was found (`recall`). With neither `within` nor `k` a distance is
        suggested. With `verify` a column `agreement` says how well the pixels of both agree, from
        `groups.alignment.AGREES` on they show the same; `agreeing` in the figures counts those.
        It is Spark ML's `approxSimilarityJoin`, with the same meaning of distance; `engine="spark"`
        asks that itself, where what it shuffles fits on the disk.
        """
        opened = Collection.open(other) if isinstance(other, str | Path) else other
        second = opened.collection if isinstance(opened, Groupings) else opened
        asking = second or self.collection
        with self._finding(out, "pairs", overwrite) as (folder, figures):
            if within is None and k is None:
                within = threshold.suggest(self.collection, verify).within
            figures |= pairs.join(
                self.collection,
                folder,
                np.inf if within is None else within,
                cap if k is None else k,
                second,
                engine=engine,
                recall=recall,
                spark=spark,
            )
            if verify:
                looked_at(folder / "pairs", self.collection.source, asking.source, figures["spark"])
                figures["agreeing"] = _count_agreeing(folder)
            if gallery:
                _show_pairs(folder, self.collection, asking, figures)
        return Found.open(out)

    def duplicates(
        self,
        out: str | Path,
        *,
        within: float | None = None,
        keep: Keep = "largest",
        verify: bool = True,
        agrees: float = alignment.AGREES,
        cap: int = pairs.CAP,
        recall: float = RECALL,
        spark: bool | None = None,
        gallery: bool = True,
        overwrite: bool = False,
    ) -> Found:
        """Find what is there more than once: tight groups, with one image of each to keep.

        Every member is within the distance of the one to keep, and, with `verify`, its pixels agree
        with that one's by `agrees` or more once laid over it (`groups.alignment`): it shows the
        same, cropped, scaled, mirrored or compressed again. Without `within` a distance is
        suggested from the images. The table has `group, action` (keep or drop)`, id, path, label,
        agreement, distance, same_bytes, width, height, size, kept_path`. `keep` is `largest`,
        `oldest`, `sharpest` or `first` (by path). `threshold.png` shows pairs from around what
        decided. Nothing happens to the images: `set_aside` does that.
        """
        with self._finding(out, TABLE, overwrite) as (folder, figures):
            figures |= duplicates(
                self.collection,
                folder,
                within,
                keep=keep,
                verify=verify,
                agrees=agrees,
                cap=cap,
                recall=recall,
                spark=spark,
            )
            if gallery:
                _show_duplicates(folder, self.collection, figures)
                _sheet(folder, self.collection, figures["within"], agrees if verify else None)
        return Found.open(out)

    def set_aside(self, found: Found, how: How, to: str | Path) -> Aside:
        """Move, copy, link or list the images to drop; `groups.aside.undo(to)` takes that back.

        Images that have changed since they were indexed, or whose one to keep has, stay.
        """
        return _set_aside(self.collection, found, how, Path(to))

    def clusters(
        self,
        out: str | Path,
        *,
        resolution: float = 1.0,
        least: int = 2,
        k: int = 15,
        recall: float = RECALL,
        spark: bool | None = None,
        gallery: bool = True,
        overwrite: bool = False,
    ) -> Found:
        """Find images that belong together, by Leiden's algorithm on the graph of `k` neighbours.

        Unlike connected components clusters do not chain (`groups.clusters`). The table has
        `cluster` (0 the largest)`, id, path, label, representative, weight`; images in no cluster
        of `least` are not in it. A `resolution` above 1 makes more and smaller clusters.
        """
        with self._finding(out, clusters.TABLE, overwrite) as (folder, figures):
            with _graph(self.collection, folder, k, recall, spark) as graph:
                figures |= clusters.cluster(
                    self.collection, graph, folder, resolution=resolution, least=least
                )
            if gallery:
                _show_clusters(folder, self.collection, figures)
        return Found.open(out)

    def outliers(
        self,
        out: str | Path,
        *,
        k: int = 15,
        recall: float = RECALL,
        spark: bool | None = None,
        gallery: bool = True,
        overwrite: bool = False,
    ) -> Found:
        """Rank images by how unlike the rest of the collection they are (`groups.outliers`).

        The table has all of them, the most isolated first: `rank, id, path, label, distance` (to
        the k-th neighbour)`, density` (local)`, score`. `suspects.parquet` beside it has images
        whose neighbours carry another label: `rank, id, path, label, suggested, score`.
        """
        with self._finding(out, outliers.TABLE, overwrite) as (folder, figures):
            voters = max(k, _VOTERS)
            with _graph(self.collection, folder, voters, recall, spark) as graph:
                figures |= outliers.outliers(self.collection, graph, folder, k)
                figures |= outliers.suspects(self.collection, graph, folder, voters) | {"k": k}
            if gallery:
                _show_outliers(folder, self.collection, figures)
        return Found.open(out)

    def _finding(
        self, out: str | Path, table: str, overwrite: bool
    ) -> AbstractContextManager[tuple[Path, dict[str, Any]]]:
        return finding(Path(out), table, self.collection.source, overwrite)


@contextmanager
def _graph(
    collection: Collection, folder: Path, k: int, recall: float, spark: bool | None
) -> Iterator[Path]:
    graph = folder / "graph"
    write_graph(collection, graph, k, recall=recall, spark=spark)
    yield graph
    shutil.rmtree(graph)


def _count_agreeing(folder: Path) -> int:
    with connect(folder) as sql:
        query = f"SELECT count(*) FROM read_parquet({_glob(folder / 'pairs')})"
        ((count,),) = sql.execute(f"{query} WHERE agreement >= {alignment.AGREES}").fetchall()
    return int(count)


def _show_pairs(folder: Path, a: Collection, b: Collection, figures: dict[str, Any]) -> None:
    chosen = f"WHERE agreement >= {alignment.AGREES}" if "agreeing" in figures else ""
    with connect(folder) as sql:
        nearest = sql.execute(
            f"SELECT a_path, b_path, distance FROM read_parquet({_glob(folder / 'pairs')}) {chosen}"
            f" ORDER BY distance, a_id, b_id LIMIT {SHOWN}"
        ).fetchall()
    groups = (
        Group(f"{distance:.3f}", "", (Card(one), Card(other, source=b.source)))
        for one, other, distance in nearest
    )
    count, what = figures.get("agreeing", figures["pairs"]), " that agree" if chosen else ""
    note = f"{count:,} pairs{what}; the nearest {len(nearest)} are shown"
    write_gallery(folder, "Pairs", note, groups, a.source)


def _show_duplicates(folder: Path, collection: Collection, figures: dict[str, Any]) -> None:
    def group(number: int, rows: list[tuple[Any, ...]]) -> Group:
        cards = [
            Card(path, "" if action == "keep" else f"{distance:.3f}", action, label)
            for _, path, label, action, distance, _ in rows
        ]
        return Group(f"group {number + 1}", "", cards, rows[0][-1] - len(rows))

    note = (
        f"{figures['groups']:,} groups, {figures['drop']:,} images to drop "
        f"({figures['same_bytes']:,} the same to the byte) within {figures['within']:g} of the one "
        "to keep"
    )
    rows = _first(
        folder, TABLE, "group", "path, label, action, distance", "action DESC, distance, id"
    )
    write_gallery(folder, "Near-duplicates", note, (group(*one) for one in rows), collection.source)


def _first(
    folder: Path, table: str, column: str, shown: str, order: str
) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
    """Give the first rows of the first groups of a table, each with the size of its group last."""
    query = f"""
        SELECT "{column}", {shown}, members FROM (
            SELECT *, row_number() OVER (PARTITION BY "{column}" ORDER BY {order}) AS place,
                count(*) OVER (PARTITION BY "{column}") AS members
            FROM read_parquet({quoted(folder / table)}) WHERE "{column}" < {SHOWN})
        WHERE place <= {_CARDS} ORDER BY "{column}", place"""
    with connect(folder) as sql:
        rows = sql.execute(query).fetchall()
    for number, some in groupby(rows, itemgetter(0)):
        yield number, list(some)


def _show_clusters(folder: Path, collection: Collection, figures: dict[str, Any]) -> None:
    def group(number: int, rows: list[tuple[Any, ...]]) -> Group:
        cards = [
            Card(path, "", "typical" if first else "", label) for _, path, label, first, _ in rows
        ]
        return Group(
            f"cluster {number + 1}", f"{rows[0][-1]:,} images", cards, rows[0][-1] - len(rows)
        )

    note = (
        f"{figures['clusters']:,} clusters of {figures['in_clusters']:,} images, "
        f"{figures['alone']:,} in none"
    )
    shown = "path, label, representative"
    rows = _first(folder, clusters.TABLE, "cluster", shown, "representative DESC, weight DESC, id")
    write_gallery(folder, "Clusters", note, (group(*one) for one in rows), collection.source)


def _show_outliers(folder: Path, collection: Collection, figures: dict[str, Any]) -> None:
    def first(table: str, columns: str) -> list[tuple[Any, ...]]:
        query = f"SELECT {columns} FROM read_parquet({quoted(folder / table)})"
        with connect(folder) as sql:
            return sql.execute(f"{query} ORDER BY rank LIMIT {_RANKED}").fetchall()

    far = [
        Card(path, f"{score:.3f}", "", label)
        for path, label, score in first(outliers.TABLE, "path, label, score")
    ]
    doubted = [
        Card(path, f"{suggested}?", "", label)
        for path, label, suggested in first(outliers.SUSPECTS, "path, label, suggested")
    ]
    groups = [Group("unlike all others", "the most isolated first", far)]
    if doubted:
        note = f"{figures['suspects']:,} images whose neighbours carry another label"
        groups.append(Group("labels to look at", note, doubted))
    write_gallery(folder, "Outliers", f"{figures['images']:,} images", groups, collection.source)


def _sheet(folder: Path, collection: Collection, within: float, agrees: float | None) -> None:
    """Draw pairs from around what decides: the distance, and how well pixels agree."""

    def row(title: str, some: list[tuple[str, str, float]], what: str = "") -> Pairs:
        tiles = [(_tile(collection, one), _tile(collection, two)) for one, two, _ in some]
        return Pairs(title, tiles, [f"{figure:.3f}{what}" for *_, figure in some])

    near, far = threshold.around(collection, within, _AROUND)
    rows = [row(f"just within {within:g}", near), row(f"just beyond {within:g}", far)]
    if agrees is not None:
        table = f"FROM read_parquet({_glob(folder / 'pairs')})"
        select = f"SELECT a_path, b_path, agreement {table}"
        with connect(folder) as sql:
            least = sql.execute(
                f"{select} WHERE agreement >= {agrees} ORDER BY agreement LIMIT {_AROUND}"
            ).fetchall()
            most = sql.execute(
                f"{select} WHERE agreement < {agrees} ORDER BY agreement DESC LIMIT {_AROUND}"
            ).fetchall()
        rows.append(row(f"pixels agree by {agrees:g} or little more: the same", least))
        rows.append(row("pixels agree by less: not the same", most))
    pair_sheet([one for one in rows if one.pairs]).save(folder / "threshold.png")


def _tile(collection: Collection, path: str) -> Tile:
    try:
        picture = images.decode(images.read(collection.source, path))
    except images.BadImage:
        picture = None
    return Tile(picture, None, os.path.basename(path))


def _set_aside(collection: Collection, found: Found, how: How, to: Path) -> Aside:
    def unchanged(path: str, size: int | None, modified: int | None) -> bool:
        if collection.source.kind != "files":
            return True
        try:
            status = os.stat(images.full_path(collection.source, path))
        except (OSError, ValueError):
            return True  # which setting aside tells of
        return (size, modified) == (status.st_size, status.st_mtime_ns)

    with collection.asked(found.folder) as sql:
        rows = sql.execute(
            f"""
            SELECT one.path, one.size, one.modified, kept.path, kept.size, kept.modified
            FROM read_parquet({quoted(found.folder / TABLE)}) AS found
                JOIN stored AS one USING (id) JOIN stored AS kept ON kept.path = kept_path
            WHERE action = 'drop' ORDER BY found."group", one.path"""
        )
        parts = iter(lambda: rows.fetchmany(1024), [])
        drops = (
            (row[0], row[3])
            for part in parts
            for row in part
            if unchanged(*row[:3]) and unchanged(*row[3:])
        )
        return set_aside(how, collection.source, drops, to)


def _glob(folder: Path) -> str:
    return quoted(folder / "*.parquet")
