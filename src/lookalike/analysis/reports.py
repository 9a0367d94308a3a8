"""What was found, as a gallery to look through; what decided, as a sheet of pairs."""

import os
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from lookalike import images
from lookalike.analysis.clusters import TABLE as CLUSTERS
from lookalike.analysis.duplicates import TABLE as DUPLICATES
from lookalike.analysis.outliers import SUSPECTS
from lookalike.analysis.outliers import TABLE as OUTLIERS
from lookalike.analysis.overview import TABLE as OVERVIEW
from lookalike.analysis.threshold import pairs_around
from lookalike.errors import ImageError
from lookalike.rendering import (
    SAME_LABEL,
    Card,
    Group,
    Pairs,
    Part,
    Tile,
    pair_sheet,
    write_gallery,
    write_parts,
)
from lookalike.storage import EmbeddingTable
from lookalike.system.defaults import MIN_AGREEMENT
from lookalike.system.sql import connect, create_view

_CARDS = 12  # of a group
_AROUND = 6  # pairs of a kind on a sheet


def pairs(
    folder: Path, a: EmbeddingTable, b: EmbeddingTable, figures: dict[str, Any], shown: int
) -> None:
    """Show the nearest pairs of a join."""
    verified = "agreeing" in figures
    condition = "agreement >= $agrees::float" if verified else "true"
    values = {"shown": shown, **({"agrees": MIN_AGREEMENT} if verified else {})}
    with connect(folder) as sql:
        create_view(sql, "pairs", folder / "pairs")
        query = f"""
            select a_path, b_path, distance from pairs
            where {condition} order by distance, a_id, b_id limit $shown"""
        nearest = sql.execute(query, values).fetchall()
    groups = (
        Group(f"{distance:.3f}", "", (Card(one), Card(other, source=b.source)))
        for one, other, distance in nearest
    )
    count, what = figures.get("agreeing", figures["pairs"]), " that agree" if verified else ""
    note = f"{count:,} pairs{what}; the nearest {len(nearest)} are shown"
    write_gallery(folder, "Pairs", note, groups, a.source)


def duplicates(
    folder: Path, collection: EmbeddingTable, figures: dict[str, Any], shown: int
) -> None:
    """Show the largest groups, with what to keep and what to drop."""

    def group(number: int, rows: list[tuple[Any, ...]]) -> Group:
        cards = [
            Card(path, "" if action == "keep" else f"{distance:.3f}", action, label)
            for _, path, label, action, distance, _ in rows
        ]
        return Group(f"group {number + 1}", "", cards, rows[0][-1] - len(rows))

    note = (
        f"{figures['groups']:,} groups, {figures['drop']:,} images to drop "
        f"({figures['same_bytes']:,} the same to the byte) within {figures['within']:g} of the one "
        f"to keep{_cut(figures['groups'], shown)}"
    )
    rows = _first(
        folder,
        DUPLICATES,
        "group",
        "path, label, action, distance",
        "action desc, distance, id",
        shown,
    )
    write_gallery(folder, "Near-duplicates", note, (group(*one) for one in rows), collection.source)


def _first(
    folder: Path, table: str, column: str, columns: str, order: str, count: int
) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
    """Give the first rows of the first groups of a table, each with the size of its group last."""
    query = f"""
        select "{column}", {columns}, count(*) over (partition by "{column}") as members
        from found where "{column}" < $count
        qualify row_number() over (partition by "{column}" order by {order}) <= $cards
        order by "{column}", {order}"""
    with connect(folder) as sql:
        create_view(sql, "found", folder / table)
        rows = sql.execute(query, {"count": count, "cards": _CARDS}).fetchall()
    for number, some in groupby(rows, itemgetter(0)):
        yield number, list(some)


def clusters(folder: Path, collection: EmbeddingTable, figures: dict[str, Any], shown: int) -> None:
    """Show the largest clusters."""

    def group(number: int, rows: list[tuple[Any, ...]]) -> Group:
        cards = [
            Card(path, "", "typical" if first else "", label) for _, path, label, first, _ in rows
        ]
        return Group(
            f"cluster {number + 1}", f"{rows[0][-1]:,} images", cards, rows[0][-1] - len(rows)
        )

    note = (
        f"{figures['clusters']:,} clusters of {figures['in_clusters']:,} images, "
        f"{figures['alone']:,} in none{_cut(figures['clusters'], shown)}"
    )
    columns, order = "path, label, representative", "representative desc, weight desc, id"
    rows = _first(folder, CLUSTERS, "cluster", columns, order, shown)
    write_gallery(folder, "Clusters", note, (group(*one) for one in rows), collection.source)


def outliers(folder: Path, collection: EmbeddingTable, figures: dict[str, Any], shown: int) -> None:
    """Show the most isolated images, and labels to look at."""

    def first(table: str, columns: str) -> list[tuple[Any, ...]]:
        with connect(folder) as sql:
            create_view(sql, "found", folder / table)
            query = f"select {columns} from found order by rank limit $shown"
            return sql.execute(query, {"shown": shown}).fetchall()

    far = [
        Card(path, f"{score:.3f}", "", label)
        for path, label, score in first(OUTLIERS, "path, label, score")
    ]
    doubted = [
        Card(path, f"rather {suggested}?", "", label)
        for path, label, suggested in first(SUSPECTS, "path, label, suggested")
    ]
    note = f"{figures['suspects']:,} images whose neighbours carry another label"
    parts = [
        Part("isolated", "Unlike all others", "The most isolated first.", _heap(far), "heap"),
        Part("labels", "Labels to look at", note, _heap(doubted), "heap"),
    ]
    _write_parts(folder, "Outliers", f"{figures['images']:,} images", parts, collection)


def _heap(cards: list[Card]) -> list[Group]:
    return [Group("", "", cards)] if cards else []


def _write_parts(
    folder: Path, title: str, note: str, parts: list[Part], collection: EmbeddingTable
) -> None:
    write_parts(folder, title, note, [part for part in parts if part.groups], collection.source)


def gallery(folder: Path, collection: EmbeddingTable, figures: dict[str, Any]) -> None:
    """Show what there is to see of a collection first, in five parts."""
    with connect(folder) as sql:
        create_view(sql, "overview", folder / OVERVIEW)
        query = "select section, line, path, label, figure, suggested, same_bytes from overview"
        rows = sql.execute(query).fetchall()
    lines: dict[str, list[list[Any]]] = {name: [] for name in figures["shown"]}
    for (name, _), some in groupby(rows, itemgetter(0, 1)):
        lines[name].append([row[2:] for row in some])

    def heap(name: str, what: Callable[[float, str | None], str]) -> list[Group]:
        return _heap(
            [
                Card(path, what(figure, suggested), "", label)
                for ((path, label, figure, suggested, _),) in lines[name]
            ]
        )

    labelled = figures["labels"] > 1
    drawn = f"each {'label' if labelled else 'region'} once before any twice"
    parts = [
        Part(
            "typical",
            "Most typical",
            f"Images that are near the most others: among the {figures['k']} nearest of so many. "
            "One of each kind, for no two of these are so near each other.",
            heap("typical", lambda figure, _: f"near {figure:,.0f}"),
            "heap",
        ),
        Part(
            "neighbours",
            "Neighbours of some images",
            f"Images drawn at random, {drawn}, and the nearest of each with their "
            "distances, from 0 (the same) to 2.",
            [_alike(line) for line in lines["neighbors"]],
            "lines",
        ),
        Part(
            "isolated",
            "Most isolated",
            "What is farthest from the rest of the collection; the figure says how far.",
            heap("isolated", lambda figure, _: f"{figure:.3f}"),
            "heap",
        ),
        Part(
            "pairs",
            "Nearest pairs",
            "The two most alike first, with their distance; each image in one pair at most. "
            "lookalike duplicates finds all that is there more than once.",
            [_pair(*line) for line in lines["pairs"]],
        ),
        Part(
            "labels",
            "Labels to look at",
            f"{figures['suspects']:,} images of {figures['labelled']:,} have neighbours with "
            "another label than their own; the likeliest to be wrong first.",
            heap("suspects", lambda _, suggested: f"rather {suggested}?"),
            "heap",
        ),
    ]
    counts = [f"{figures['images']:,} images"]
    counts += [f"{figures['labels']:,} labels"] if figures["labels"] else []
    counts += [f"{figures['skipped']:,} inputs skipped"] if figures["skipped"] else []
    name = collection.path.absolute().name
    _write_parts(folder, name, ", ".join(counts), parts, collection)


def _alike(line: list[Any]) -> Group:
    """Make a line of an image and those nearest to it; a label is said where it is another."""
    (path, label, *_), *others = line
    same = [label is not None and its == label for _, its, *_ in others]
    cards = [
        Card(other, f"{distance:.3f}", SAME_LABEL if alike else "", None if alike else its)
        for (other, its, distance, *_), alike in zip(others, same, strict=True)
    ]
    note = f"{sum(same)} of {len(others)} nearest with this label · {path}"
    return Group(label or path, note if label else "", [Card(path), *cards])


def _pair(one: list[Any], other: list[Any]) -> Group:
    same_bytes, labels = other[-1], {one[1], other[1]}
    note = ", ".join(
        text
        for text, is_so in (
            ("the same bytes", same_bytes),
            ("different labels", len(labels - {None}) == 2),
        )
        if is_so
    )
    cards = [Card(path, "", "", label) for path, label, *_ in (one, other)]
    return Group(f"{other[2]:.3f}", note, cards)


def threshold_sheet(
    folder: Path, collection: EmbeddingTable, within: float, agrees: float | None
) -> None:
    """Draw pairs from around what decides: the distance, and how well pixels agree."""

    def row(title: str, some: list[tuple[str, str, float]], what: str = "") -> Pairs:
        tiles = [(_tile(collection, one), _tile(collection, two)) for one, two, _ in some]
        return Pairs(title, tiles, [f"{figure:.3f}{what}" for *_, figure in some])

    near, far = pairs_around(collection, within, _AROUND)
    rows = [row(f"just within {within:g}", near), row(f"just beyond {within:g}", far)]
    if agrees is not None:
        values = {"agrees": agrees, "around": _AROUND}
        with connect(folder) as sql:
            create_view(sql, "pairs", folder / "pairs")
            query = """
                select a_path, b_path, agreement from pairs
                where agreement >= $agrees::float order by agreement limit $around"""
            least = sql.execute(query, values).fetchall()
            query = """
                select a_path, b_path, agreement from pairs
                where agreement < $agrees::float order by agreement desc limit $around"""
            most = sql.execute(query, values).fetchall()
        rows.append(row(f"pixels agree by {agrees:g} or little more: the same", least))
        rows.append(row("pixels agree by less: not the same", most))
    pair_sheet([one for one in rows if one.pairs]).save(folder / "threshold.png")


def _tile(collection: EmbeddingTable, path: str) -> Tile:
    try:
        picture = images.decode(images.read(collection.source, path), truncated=True)
    except ImageError:
        picture = None
    return Tile(picture, None, os.path.basename(path))


def _cut(found: int, shown: int) -> str:
    return f"; the largest {shown:,} are shown" if found > shown else ""
