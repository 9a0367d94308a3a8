"""What commands print: results to stdout; notes and errors to stderr."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from lookalike.system.defaults import TARGET_RECALL

if TYPE_CHECKING:
    from lookalike.ingest import Report
    from lookalike.lsh import Parameters
    from lookalike.search.results import SearchResult


answers = Console(highlight=False, soft_wrap=True, emoji=False)
notes = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
"""Left out with `--quiet`."""
errors = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
"""Shown always."""


def printable(text: str) -> str:
    """Replace what a terminal cannot show: bytes of a name that are not UTF-8, line breaks."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@contextmanager
def stopped_well(path: str, before: str) -> Iterator[None]:
    """Where Ctrl-C ends the block, add to it what the index at `path` holds, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        from lookalike.storage import EmbeddingTable, index_path, is_index

        kept = before
        if is_index(index_path(path)):
            images, skipped = EmbeddingTable.open(path).counts()
            kept = f"{images + skipped:,} inputs are in {path}"
        raise KeyboardInterrupt(f"stopped; {kept}: run the same command to continue") from None


_BAND_WIDTH = len("same photo")
option_names: dict[str, tuple[str, str]] = {}
"""Options of the command line by the names of their Python parameters: to set, to unset."""
_PARAMETER = re.compile(r"`(\w+)(?:=([^`]*))?`")


def as_options(message: str) -> str:
    """Replace names of Python parameters in a message by options of the command line.

    The library names them in backquotes: `` `within` `` becomes `--within`, `` `overwrite=True` ``
    becomes `--overwrite`, and `` `engine="exact"` `` becomes `--engine exact`.
    """

    def replace(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        if name not in option_names:
            return found[0]
        on, off = option_names[name]
        if value in (None, "True"):
            return on
        return off if value == "False" else f"{on} {value.strip(chr(34))}"

    return _PARAMETER.sub(replace, message)


def last_words(error: Exception) -> str:
    """Return one line for an error; for one of Spark, the line of the worker that failed."""
    from lookalike import spark
    from lookalike.errors import full_disk, is_full_disk

    if isinstance(error, OSError):
        if is_full_disk(error):
            return str(full_disk(error.filename or "nothing more can be written"))
        return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    if spark.is_spark_error(error):
        return as_options(f"Spark failed: {spark.short_error(error)}")
    return as_options(" ".join(str(error).split())) or type(error).__name__


def show_json(answer: Mapping[str, Any]) -> None:
    """Print an answer for programs."""
    print(json.dumps(answer), flush=True)  # noqa: T201 - plain text, to be piped


def show_ignored(counts: dict[str, int]) -> None:
    """Print how many files were ignored, by type."""
    from lookalike.images import describe_ignored

    if counts:
        notes.print(f"[yellow]not looked at:[/] {escape(describe_ignored(counts))}")


def show_labels(unused: int, loose: int, missing: int) -> None:
    """Print which labels may not fit as expected."""
    if unused:
        are = "label is" if unused == 1 else "labels are"
        notes.print(f"[yellow]{unused:,} {are}[/] of no image found here, or of several")
    if loose:
        fit = "label fits" if loose == 1 else "labels fit"
        notes.print(
            f"[yellow]{loose:,} {fit}[/] by part of the name only, without extension or folders"
        )
    if missing:
        have = "row has" if missing == 1 else "rows have"
        notes.print(f"[yellow]{missing:,} {have} no label[/] (nan or the like)")


def show_report(report: "Report", path: str) -> None:
    """Print what was embedded or indexed, and what was not."""
    rate = report.images / max(report.seconds, 1e-9)
    model = report.model
    what, how = "images embedded", f"{model.backbone} in {model.precision}"
    if model.weights == "none":
        what, how = "vectors indexed", f"{model.width:,} numbers each"
    notes.print(
        f"{report.images:,} {what} into {printable(str(path))} ({rate:,.0f} a second, {how})",
        markup=False,
    )
    if model.agreement is not None:
        notes.print(
            f"{model.precision} was chosen in {report.choosing_seconds:.0f} s: on a sample of "
            f"these images {model.agreement:.0%} of the five nearest neighbours are those of f32"
        )
    elif report.choosing_seconds >= 1:
        notes.print(f"{model.precision} was prepared in {report.choosing_seconds:.0f} s")
    if report.same:
        notes.print(f"{report.same:,} more were there already, and have not changed")
    if report.skipped:
        notes.print(f"[yellow]{report.skipped:,} skipped[/], each with its reason")
    show_ignored(report.not_looked_at)
    show_labels(report.unused_labels, report.loose_labels, report.missing_labels)


def note_of(found: "SearchResult", images: int) -> str:
    """Return how neighbours were found, and how quickly."""
    return f"{found.engine} search over {images:,} images, {found.took_ms:.1f} ms"


def show_neighbors(found: "SearchResult", images: int) -> None:
    """Print neighbours as a table, and how they were found."""
    shown = found.to_dict()
    label = f" ({shown['query']['label']})" if shown["query"]["label"] else ""
    query = printable(shown["query"]["path"] or "a vector")
    answers.print(f"look-alikes of {query}{label}", markup=False)
    labels = [printable(neighbor["label"] or "-") for neighbor in shown["neighbors"]]
    width = max(map(len, labels), default=0)
    copies_width = max((len(_copies(one.copies)) for one in found), default=0)
    for neighbor, name in zip(shown["neighbors"], labels, strict=True):
        path = printable(neighbor["path"])
        tables = ", ".join(map(str, neighbor.get("tables", ())))
        band = f"{neighbor['band']:{_BAND_WIDTH}}  " if neighbor["band"] else ""
        more = f"{_copies(neighbor.get('copies')):{copies_width}}  " if copies_width else ""
        start = f"{neighbor['rank']:>3}  {neighbor['distance']:.4f}  {band}{more}"
        line = f"{start}{name:{width}}  {path}"
        answers.print(f"{line}  tables {tables}" if tables else line, markup=False)
    if not found:
        answers.print("no neighbours" if images else "no neighbours: the index holds no image")
    answers.print(f"[dim]{note_of(found, images)}[/]")
    for note in _notes_on_bands(found):
        answers.print(f"[dim]{escape(note)}[/]")
    if found.candidates is not None:
        share = found.candidates / max(images, 1)
        how = {
            "spark-lsh": "shared a bucket with the query",
            "approximate": "had a signature near that of the query",
        }[found.engine]
        answers.print(f"[dim]{found.candidates:,} rows, {share:.2%}, {how}[/]")


def _copies(count: int | None) -> str:
    return f"+ {count:,} {'copy' if count == 1 else 'copies'}" if count else ""


def _notes_on_bands(found: "SearchResult") -> list[str]:
    """Say how many copies were left out, and why distances have no bands."""
    lines = []
    copies = sum(one.copies or 0 for one in found)
    if copies and found.looked is not None:
        are = "copy is" if copies == 1 else "copies are"
        lines.append(
            f"{copies:,} {are} not shown, among the {found.looked:,} nearest: --all-copies"
        )
    if found and not found.bands and found.bands.reason:
        lines.append(f"no bands: {found.bands.reason}")
    return lines


def show_history(versions: Sequence[Mapping[str, Any]]) -> None:
    """Print the versions of an index, newest first, and whether each can still be opened."""
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
    """Return the recall of approximate search, and how it was measured."""
    if known is None:
        return "not measured yet: run `lookalike evaluate`"
    found = known["recall"][str(TARGET_RECALL)]
    measured = f"measured with {known['queries']} of the images"
    if found is None:
        return f"exact search is used for a recall of {TARGET_RECALL:.0%} ({measured})"
    return f"recall@{known['k']} {found:.1%} for a target of {TARGET_RECALL:.0%} ({measured})"


def show_figures(figures: Mapping[str, Any]) -> None:
    """Print the figures of an evaluation."""
    from lookalike.search.evaluation import points

    for name in ("images", "labelled_queries", "R@1", "P@5", "mAP@R"):
        if name in figures:
            answers.print(f"{name}: {figures[name]}", markup=False)
    found = figures["approximate"]
    answers.print(f"recall@{found['k']} of {found['queries']} query images, one at a time:")
    heading = ("engine", "target", "recall", "95 % interval", "compared", "p50", "p99", "per s")
    lines = [heading, *map(_cells, points(figures))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        answers.print("  ".join([first.ljust(widths[0]), *cells]), markup=False)
    if "text" in figures:
        words = figures["text"]
        answers.print(
            f"recall@{words['k']} of {words['queries']} queries in words: {words['recall']:.3f}, "
            f"{words['compared']:.2%} compared, {words['approximate_ms']['p50']:.2f} ms",
            markup=False,
        )
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
        return f"agreement with f32 is not known: {found['reason']}"
    low, high = found["overlap_95"]
    gone = f"; {found['left_out']} more cannot be read as they were" if found["left_out"] else ""
    return (
        f"of the {found['k']} nearest in f32, {found['overlap']:.1%} are found ({low:.1%} to "
        f"{high:.1%}; measured among {found['images']} images{gone})"
    )


def show_parameters(parameters: "Parameters") -> None:
    """Print the parameters of hash tables, and their recall."""
    answers.print(
        f"{parameters.tables} hash tables, bucket length {parameters.bucket_length:.4f}: "
        f"recall {parameters.measured_recall:.3f} (predicted {parameters.predicted_recall:.3f}), "
        f"a query is compared with {parameters.measured_candidates:.0%} of all rows"
    )


def lines_of_pairs(figures: dict[str, Any]) -> list[str]:
    """Sum up a join."""
    within = figures["within"]
    return [
        f"{figures['pairs']:,} pairs" + ("" if within is None else f" within {within:g}"),
        *([f"{figures['agreeing']:,} of them show the same"] if "agreeing" in figures else []),
        *_lines_of_unlike(figures),
        *_lines_of_missing(figures),
    ]


def _lines_of_missing(figures: dict[str, Any]) -> list[str]:
    """Tell which pairs may be missing."""
    lines = []
    if figures["cut"]:
        lines.append(
            f"{figures['cut']:,} of {figures['images']:,} images have more than {figures['cap']} "
            "others within that distance; only the nearest are used (set by --cap)"
        )
    if figures["recall"] is not None and figures["recall"] < 1:
        lines.append(
            f"{figures['recall']:.1%} of the true pairs were found (of {figures['recall_of']:,} "
            "checked)"
        )
    return lines


def lines_of_groups(figures: dict[str, Any]) -> list[str]:
    """Sum up a search for duplicates."""
    lines = [
        f"{figures['groups']:,} groups: {figures['drop']:,} images to drop, "
        f"{figures['same_bytes']:,} of them the same bytes, {figures['bytes'] / 1e6:,.1f} MB",
        f"{figures['pairs']:,} pairs within {figures['within']:g}"
        + (", kept if their pixels agree" if figures["verified"] else ""),
    ]
    if "copies_within" in figures:
        lines.append(
            f"this distance is suggested: {figures['copies_within']:.0%} of copies lie within it, "
            f"and {figures['images_with_another_within']:.0%} of images have another within it"
        )
    if not figures["verified"]:
        lines.append("pixels were not compared: images that are only alike may be among them")
    return lines + _lines_of_unlike(figures) + _lines_of_missing(figures)


def _lines_of_unlike(figures: dict[str, Any]) -> list[str]:
    """Count the near pairs whose pixels do not agree."""
    texts = {
        "alike_pairs": "pairs look alike, but are not the same",
        "unclear_pairs": "pairs are too blank to compare, and not equal to the pixel",
        "unreadable_pairs": "pairs could not be compared: their files are gone or unreadable",
    }
    return [f"{figures[name]:,} {text}" for name, text in texts.items() if figures.get(name)]


def lines_of_clusters(figures: dict[str, Any]) -> list[str]:
    """Sum up a clustering."""
    return [
        f"{figures['clusters']:,} clusters of {figures['in_clusters']:,} images, the largest of "
        f"{figures['largest']:,}, the median of {figures['median']:g}",
        f"{figures['alone']:,} images are in no cluster",
    ]


def lines_of_outliers(figures: dict[str, Any]) -> list[str]:
    """Sum up a search for outliers."""
    return [
        f"{figures['images']:,} images ranked, the most isolated first",
        f"{figures['suspects']:,} of {figures['labelled']:,} labels are suspect"
        if figures["labelled"]
        else "there are no labels to check",
    ]


def lines_of_gallery(figures: dict[str, Any]) -> list[str]:
    """Sum up a gallery."""
    shown = figures["shown"]
    return [
        f"of {figures['images']:,} images: {shown['typical']:,} typical, {shown['isolated']:,} "
        f"isolated, {shown['pairs']:,} pairs, {shown['neighbors']:,} with their neighbours, "
        f"{shown['suspects']:,} with suspect labels"
    ]
