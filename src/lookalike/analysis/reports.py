"""Write the galleries of analyses, and a sheet of pairs near the threshold of duplicates."""

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
from lookalike.search.bands.kept import bands_of
from lookalike.search.bands.limits import Bands
from lookalike.search.searcher import Searcher
from lookalike.storage import EmbeddingTable
from lookalike.system.defaults import MIN_AGREEMENT
from lookalike.system.sql import connect, create_view

_MAX_GROUP_CARDS = 12
_PAIRS_PER_ROW = 6


def pairs(
    folder: Path, a: EmbeddingTable, b: EmbeddingTable, figures: dict[str, Any], shown: int
) -> None:
    """Write the gallery of the nearest pairs of a join."""
    verified = "agreeing" in figures
    condition = "agreement >= $agrees::float" if verified else "true"
    values = {"shown": shown, **({"agrees": MIN_AGREEMENT} if verified else {})}
    with connect(folder) as sql:
        create_view(sql, "pairs", folder / "pairs")
        query = f"""
            select a_path, b_path, distance from pairs
            where {condition} order by distance, a_id, b_id limit $shown"""
        nearest = sql.execute(query, values).fetchall()
    bands = bands_of(Searcher(a))
    groups = (
        Group(_meaning(distance, bands), "", (Card(one), Card(other, source=b.source)))
        for one, other, distance in nearest
    )
    count, what = figures.get("agreeing", figures["pairs"]), " that agree" if verified else ""
    note = f"{count:,} pairs{what}; the nearest {len(nearest)} are shown"
    write_gallery(folder, "Pairs", note, groups, a.source)


def _meaning(distance: float, bands: Bands) -> str:
    """Return a distance with its band before it, if the index has bands."""
    band = bands.name(distance)
    return f"{distance:.3f}" if band is None else f"{band} {distance:.3f}"


def _file_size(width: int, height: int, size: int) -> str:
    unit, name = (1e6, "MB") if size >= 1e6 else (1e3, "KB")
    return f"{width:,} x {height:,}, {size / unit:.{int(size / unit < 10)}f} {name}"


def duplicates(folder: Path, table: EmbeddingTable, figures: dict[str, Any], shown: int) -> None:
    """Write the gallery of the largest groups, with the images to keep and to drop."""
    bands = bands_of(Searcher(table))

    def group(number: int, rows: list[tuple[Any, ...]]) -> Group:
        cards = [
            Card(
                path,
                "" if action == "keep" else _meaning(distance, bands),
                action,
                label,
                detail=_file_size(*size) if all(size) else "",
            )
            for _, path, label, action, distance, *size, _ in rows
        ]
        return Group(f"group {number + 1}", "", cards, rows[0][-1] - len(rows))

    note = (
        f"{figures['groups']:,} groups, {figures['drop']:,} images to drop "
        f"({figures['same_bytes']:,} the same to the byte) within {figures['within']:g} of the one "
        f"to keep{_shown_note(figures['groups'], shown)}"
    )
    rows = _first_rows(
        folder,
        DUPLICATES,
        "group",
        "path, label, action, distance, width, height, size",
        "action desc, distance, id",
        shown,
    )
    write_gallery(folder, "Near-duplicates", note, (group(*one) for one in rows), table.source)


def _first_rows(
    folder: Path, name: str, column: str, columns: str, order: str, count: int
) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
    """Yield the first groups of a table, each with its first rows; the last column is its size."""
    query = f"""
        select "{column}", {columns}, count(*) over (partition by "{column}") as members
        from found where "{column}" < $count
        qualify row_number() over (partition by "{column}" order by {order}) <= $cards
        order by "{column}", {order}"""
    with connect(folder) as sql:
        create_view(sql, "found", folder / name)
        rows = sql.execute(query, {"count": count, "cards": _MAX_GROUP_CARDS}).fetchall()
    for number, some in groupby(rows, itemgetter(0)):
        yield number, list(some)


def clusters(folder: Path, table: EmbeddingTable, figures: dict[str, Any], shown: int) -> None:
    """Write the gallery of the largest clusters."""

    def group(number: int, rows: list[tuple[Any, ...]]) -> Group:
        cards = [
            Card(path, "", "typical" if first else "", label) for _, path, label, first, _ in rows
        ]
        return Group(
            f"cluster {number + 1}", f"{rows[0][-1]:,} images", cards, rows[0][-1] - len(rows)
        )

    note = (
        f"{figures['clusters']:,} clusters of {figures['in_clusters']:,} images, "
        f"{figures['alone']:,} in none{_shown_note(figures['clusters'], shown)}"
    )
    columns, order = "path, label, representative", "representative desc, weight desc, id"
    rows = _first_rows(folder, CLUSTERS, "cluster", columns, order, shown)
    write_gallery(folder, "Clusters", note, (group(*one) for one in rows), table.source)


def outliers(folder: Path, table: EmbeddingTable, figures: dict[str, Any], shown: int) -> None:
    """Write the gallery of the most isolated images, and of labels that may be wrong."""

    def first(name: str, columns: str) -> list[tuple[Any, ...]]:
        with connect(folder) as sql:
            create_view(sql, "found", folder / name)
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
    note = f"{figures['suspects']:,} images whose neighbours have another label"
    parts = [
        Part("isolated", "Most isolated", "The most isolated first.", _one_group(far), "heap"),
        Part("labels", "Labels to check", note, _one_group(doubted), "heap"),
    ]
    _write_parts(folder, "Outliers", f"{figures['images']:,} images", parts, table)


def _one_group(cards: list[Card]) -> list[Group]:
    return [Group("", "", cards)] if cards else []


def _write_parts(
    folder: Path, title: str, note: str, parts: list[Part], table: EmbeddingTable
) -> None:
    write_parts(folder, title, note, [part for part in parts if part.groups], table.source)


def gallery(folder: Path, table: EmbeddingTable, figures: dict[str, Any]) -> None:
    """Write the gallery of a whole index, in five parts."""
    with connect(folder) as sql:
        create_view(sql, "overview", folder / OVERVIEW)
        query = "select section, line, path, label, figure, suggested, same_bytes from overview"
        rows = sql.execute(query).fetchall()
    lines: dict[str, list[list[Any]]] = {name: [] for name in figures["shown"]}
    for (name, _), some in groupby(rows, itemgetter(0, 1)):
        lines[name].append([row[2:] for row in some])

    def heap(name: str, what: Callable[[float, str | None], str]) -> list[Group]:
        return _one_group(
            [
                Card(path, what(figure, suggested), "", label)
                for ((path, label, figure, suggested, _),) in lines[name]
            ]
        )

    labelled, bands = figures["labels"] > 1, bands_of(Searcher(table))
    drawn = f"each {'label' if labelled else 'region'} once before any twice"
    parts = [
        Part(
            "typical",
            "Most typical",
            f"Images that are among the {figures['k']} nearest neighbours of the most others that "
            "have neighbours in common with them; no two of them are near each other.",
            heap("typical", lambda figure, _: f"near {figure:,.0f}"),
            "heap",
        ),
        Part(
            "neighbours",
            "Neighbours of some images",
            f"Images drawn at random, {drawn}, and the nearest of each with their "
            "distances, from 0 (the same) to 2.",
            [_neighbour_line(line, bands) for line in lines["neighbors"]],
            "lines",
        ),
        Part(
            "isolated",
            "Most isolated",
            "The images farthest from the rest of the collection, with a score of how far.",
            heap("isolated", lambda figure, _: f"{figure:.3f}"),
            "heap",
        ),
        Part(
            "pairs",
            "Nearest pairs",
            "The most similar pair first, with distances; each image in one pair at most. "
            "lookalike duplicates finds all duplicates.",
            [_pair(one, other, bands) for one, other in lines["pairs"]],
        ),
        Part(
            "labels",
            "Labels to check",
            f"{figures['suspects']:,} images of {figures['labelled']:,} have neighbours with "
            "another label; the most likely to be wrong first.",
            heap("suspects", lambda _, suggested: f"rather {suggested}?"),
            "heap",
        ),
    ]
    counts = [f"{figures['images']:,} images"]
    counts += [f"{figures['labels']:,} labels"] if figures["labels"] else []
    counts += [f"{figures['skipped']:,} inputs skipped"] if figures["skipped"] else []
    name = table.path.absolute().name
    _write_parts(folder, name, ", ".join(counts), parts, table)


def _neighbour_line(line: list[Any], bands: Bands) -> Group:
    """Return an image and its nearest neighbours as a group, with the labels that differ."""
    (path, label, *_), *others = line
    same = [label is not None and its == label for _, its, *_ in others]
    cards = [
        Card(other, _meaning(distance, bands), SAME_LABEL if alike else "", None if alike else its)
        for (other, its, distance, *_), alike in zip(others, same, strict=True)
    ]
    note = f"{sum(same)} of {len(others)} nearest with this label · {path}"
    return Group(label or path, note if label else "", [Card(path), *cards])


def _pair(one: list[Any], other: list[Any], bands: Bands) -> Group:
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
    return Group(_meaning(other[2], bands), note, cards)


def threshold_sheet(
    folder: Path, table: EmbeddingTable, within: float, agrees: float | None
) -> None:
    """Draw pairs near the thresholds of distance and agreement of pixels."""

    def row(title: str, some: list[tuple[str, str, float]], what: str = "") -> Pairs:
        tiles = [(_tile(table, one), _tile(table, two)) for one, two, _ in some]
        return Pairs(title, tiles, [f"{figure:.3f}{what}" for *_, figure in some])

    near, far = pairs_around(table, within, _PAIRS_PER_ROW)
    rows = [row(f"just within {within:g}", near), row(f"just beyond {within:g}", far)]
    if agrees is not None:
        values = {"agrees": agrees, "around": _PAIRS_PER_ROW}
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
        rows.append(row(f"agreement of pixels from {agrees:g}: duplicates", least))
        rows.append(row(f"agreement of pixels below {agrees:g}: no duplicates", most))
    pair_sheet([one for one in rows if one.pairs]).save(folder / "threshold.png")


def _tile(table: EmbeddingTable, path: str) -> Tile:
    try:
        picture = images.decode(images.read(table.source, path), truncated=True)
    except ImageError:
        picture = None
    return Tile(picture, None, os.path.basename(path))


def _shown_note(found: int, shown: int) -> str:
    return f"; the largest {shown:,} are shown" if found > shown else ""
