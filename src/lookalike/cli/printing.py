"""What commands print: answers to stdout, notes to stderr."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from lookalike import spark
from lookalike.errors import LookalikeError, full_disk, is_full_disk
from lookalike.evaluate import points
from lookalike.hashing import Parameters
from lookalike.hits import SearchResult
from lookalike.images import in_words
from lookalike.searcher import RECALL
from lookalike.storage import EmbeddingTable, is_index

notes = Console(stderr=True, highlight=False, soft_wrap=True)
answers = Console(highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """Replace what a terminal cannot show: bytes of a name that are not UTF-8, line breaks."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@contextmanager
def stopped_well(path: Path, before: str) -> Iterator[None]:
    """Say, where Ctrl-C ends the block, what is in the index at `path`, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        kept = before
        if is_index(path):
            images, skipped = EmbeddingTable.open(path).counts()
            kept = f"{images + skipped:,} inputs are in {path}"
        raise LookalikeError(f"stopped; {kept}: run the same command to go on") from None


def last_words(error: Exception) -> str:
    """Return one line for an error; of Spark's, the one that says what went wrong in the worker."""
    if isinstance(error, OSError):
        if is_full_disk(error):
            return str(full_disk(error.filename or "nothing more can be written"))
        return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    if spark.is_of_spark(error):
        return f"Spark gave up: {spark.last_words(error)}"
    return " ".join(str(error).split()) or type(error).__name__


def show_json(answer: Mapping[str, Any]) -> None:
    """Print an answer for programs."""
    print(json.dumps(answer), flush=True)  # noqa: T201 - plain text, to be piped


def show_left_out(counts: dict[str, int]) -> None:
    """Say which files are no images, and so were not looked at."""
    if counts:
        notes.print(f"[yellow]not looked at:[/] {escape(in_words(counts))}")


def show_labels(unused: int, loose: int, missing: int) -> None:
    """Say of labels what their owner would not expect."""
    if unused:
        are = "label is" if unused == 1 else "labels are"
        notes.print(f"[yellow]{unused:,} {are}[/] of no photo found here, or of several")
    if loose:
        fit = "label fits" if loose == 1 else "labels fit"
        notes.print(
            f"[yellow]{loose:,} {fit}[/] by a part of the name only, without extension or folders"
        )
    if missing:
        have = "row has" if missing == 1 else "rows have"
        notes.print(f"[yellow]{missing:,} {have} no label[/] (nan or the like)")


def note_of(hits: SearchResult, images: int) -> str:
    """Say how neighbours were found, and how quickly."""
    return f"{hits.engine} search over {images:,} images, {hits.took_ms:.1f} ms"


def show_hits(hits: SearchResult, images: int) -> None:
    """Print neighbours as a table, with what is worth knowing of the search."""
    shown = hits.to_dict()
    label = f" ({shown['query']['label']})" if shown["query"]["label"] else ""
    query = printable(shown["query"]["path"] or "a vector")
    answers.print(f"look-alikes of {query}{label}", markup=False)
    labels = [printable(hit["label"] or "-") for hit in shown["neighbors"]]
    width = max(map(len, labels), default=0)
    for hit, name in zip(shown["neighbors"], labels, strict=True):
        path = printable(hit["path"])
        tables = f"  tables {', '.join(map(str, hit['tables']))}" if "tables" in hit else ""
        line = f"{hit['rank']:>3}  {hit['distance']:.4f}  {name:{width}}  {path}{tables}"
        answers.print(line, markup=False)
    if not hits:
        answers.print("no neighbours" if images else "no neighbours: the index holds no image")
    answers.print(f"[dim]{note_of(hits, images)}[/]")
    if hits.candidates is not None:
        share = hits.candidates / max(images, 1)
        how = {
            "spark-lsh": "shared a bucket with the query",
            "approximate": "had a signature near that of the query",
        }[hits.engine]
        answers.print(f"[dim]{hits.candidates:,} rows, {share:.2%}, {how}[/]")


def show_history(versions: Sequence[Mapping[str, Any]]) -> None:
    """Print the versions of an index, newest first; say which of them cannot be opened any more."""
    heading = ("version", "time", "what", "added", "removed", "images", "skipped", "kept")
    lines: list[tuple[str, ...]] = [heading]
    for one in versions:
        when = datetime.fromtimestamp(one["time"] / 1000).strftime("%Y-%m-%d %H:%M:%S")
        counts = ("-" if one[name] is None else f"{one[name]:,}" for name in heading[3:7])
        kept = "yes" if one["kept"] else "no"
        lines.append((str(one["version"]), when, str(one["what"]), *counts, kept))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        answers.print("  ".join(cells), markup=False)


def note_of_signatures(known: dict[str, Any] | None) -> str:
    """Say what share of the nearest neighbours signatures find, and how that is known."""
    if known is None:
        return "not measured yet: `lookalike evaluate` does it"
    found = known["recall"][str(RECALL)]
    measured = f"measured with {known['queries']} of the images"
    if found is None:
        return f"leaves it to exact search to find {RECALL:.0%} ({measured})"
    return f"finds {found:.1%} of the {known['k']} nearest, asked for {RECALL:.0%} ({measured})"


def show_figures(figures: Mapping[str, Any]) -> None:
    """Print what an evaluation measured."""
    for name in ("images", "labelled_queries", "R@1", "P@5", "mAP@R"):
        if name in figures:
            answers.print(f"{name}: {figures[name]}", markup=False)
    found = figures["approximate"]
    answers.print(f"recall@{found['k']} of {found['queries']} images that asked, one at a time:")
    heading = ("engine", "asked for", "recall", "95 % interval", "compared", "p50", "p99", "per s")
    lines = [heading, *map(_cells, points(figures))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        answers.print("  ".join([first.ljust(widths[0]), *cells]), markup=False)
    if "against_f32" in figures:
        answers.print(_note_of_f32(figures["against_f32"]), markup=False)


def _cells(point: dict[str, Any]) -> tuple[str, ...]:
    low, high = point["recall_95"]
    speed = point["queries_per_s"]
    return (
        point["engine"],
        str(point.get("asked", "")),
        f"{point['recall']:.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{point['compared']:.2%}",
        *(f"{point['ms'][name]:.2f} ms" for name in ("p50", "p99")),
        f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}",
    )


def _note_of_f32(found: dict[str, Any]) -> str:
    if found["overlap"] is None:
        return f"how near that comes to f32 is not known: {found['reason']}"
    low, high = found["overlap_95"]
    gone = f"; {found['left_out']} more cannot be read as they were" if found["left_out"] else ""
    return (
        f"of the {found['k']} nearest in f32, {found['overlap']:.1%} are found ({low:.1%} to "
        f"{high:.1%}; among {found['images']} of the images{gone})"
    )


def show_parameters(parameters: Parameters) -> None:
    """Print what the hash tables are and what they are worth, said plainly."""
    answers.print(
        f"{parameters.tables} hash tables, bucket length {parameters.bucket_length:.4f}: "
        f"recall {parameters.measured_recall:.3f} (predicted {parameters.predicted_recall:.3f}), "
        f"a query is compared with {parameters.measured_candidates:.0%} of all rows"
    )


def words_of_pairs(figures: dict[str, Any]) -> list[str]:
    """Say what a join found, a line each."""
    within = figures["within"]
    return [
        f"{figures['pairs']:,} pairs" + ("" if within is None else f" within {within:g}"),
        *([f"{figures['agreeing']:,} of them show the same"] if "agreeing" in figures else []),
        *_words_of_kept(figures),
        *_words_of_missing(figures),
    ]


def _words_of_missing(figures: dict[str, Any]) -> list[str]:
    """Say what may be missing among the pairs."""
    lines = []
    if figures["cut"]:
        lines.append(
            f"{figures['cut']:,} of {figures['images']:,} images have more than {figures['cap']} "
            "others so near, and the farther of them are left out: --cap"
        )
    if figures["recall"] is not None and figures["recall"] < 1:
        lines.append(
            f"{figures['recall']:.1%} of the true pairs were found (of {figures['recall_of']:,} "
            "that were checked)"
        )
    return lines


def words_of_groups(figures: dict[str, Any]) -> list[str]:
    """Say what is in a collection twice."""
    lines = [
        f"{figures['groups']:,} groups: {figures['drop']:,} images to drop, "
        f"{figures['same_bytes']:,} of them the same to the byte, {figures['bytes'] / 1e6:,.1f} MB",
        f"{figures['pairs']:,} pairs within {figures['within']:g}"
        + (", those kept whose pixels agree" if figures["verified"] else ""),
    ]
    if "copies_within" in figures:
        lines.append(
            f"that distance is suggested: {figures['copies_within']:.0%} of copies lie within it, "
            f"and {figures['images_with_another_within']:.0%} of images have another image there"
        )
    if not figures["verified"]:
        lines.append("pixels were not looked at: images that are only alike are among them")
    return lines + _words_of_kept(figures) + _words_of_missing(figures)


def _words_of_kept(figures: dict[str, Any]) -> list[str]:
    """Say of which pairs pixels do not say that they are the same, though they may seem so."""
    said = {
        "alike_pairs": "pairs are alike at first sight, but not the same",
        "unclear_pairs": "pairs are too blank to tell, and not equal to the pixel",
        "unreadable_pairs": "pairs could not be compared: their photos are gone or unreadable",
    }
    return [f"{figures[name]:,} {what}" for name, what in said.items() if figures.get(name)]


def words_of_clusters(figures: dict[str, Any]) -> list[str]:
    """Say what belongs together."""
    return [
        f"{figures['clusters']:,} clusters of {figures['in_clusters']:,} images, the largest of "
        f"{figures['largest']:,}, half of them of {figures['median']:g} or fewer",
        f"{figures['alone']:,} images are in none",
    ]


def words_of_outliers(figures: dict[str, Any]) -> list[str]:
    """Say what does not belong."""
    return [
        f"{figures['images']:,} images ranked, the most isolated first",
        f"{figures['suspects']:,} of {figures['labelled']:,} labels to look at"
        if figures["labelled"]
        else "no labels to look at",
    ]


def words_of_gallery(figures: dict[str, Any]) -> list[str]:
    """Say what there is to look at."""
    shown = figures["shown"]
    return [
        f"of {figures['images']:,} images: {shown['typical']:,} typical, {shown['isolated']:,} "
        f"isolated, {shown['pairs']:,} pairs, {shown['neighbors']:,} with their neighbours, "
        f"{shown['suspects']:,} with labels to look at"
    ]
