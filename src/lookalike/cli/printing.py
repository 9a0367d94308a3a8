"""What commands print: answers to stdout, notes to stderr."""

import json
from typing import Any

from rich.console import Console

from lookalike.hashing import Parameters
from lookalike.hits import Hits

notes = Console(stderr=True, highlight=False, soft_wrap=True)
answers = Console(highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """Replace what a terminal cannot show: bytes of a name that are not UTF-8, line breaks."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def show_json(answer: dict[str, Any]) -> None:
    """Print an answer for programs."""
    print(json.dumps(answer))  # noqa: T201 - plain text, to be piped


def note_of(hits: Hits, images: int) -> str:
    """Say how neighbours were found, and how quickly."""
    return f"{hits.engine} search over {images:,} images, {hits.took_ms:.1f} ms"


def show_hits(hits: Hits, images: int) -> None:
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
    answers.print(f"[dim]{note_of(hits, images)}[/]")
    if hits.candidates is not None:
        share = hits.candidates / max(images, 1)
        how = {
            "spark": "shared a bucket with the query",
            "lsh": "had a signature near that of the query",
        }[hits.engine]
        answers.print(f"[dim]{hits.candidates:,} rows, {share:.2%}, {how}[/]")


def show_parameters(parameters: Parameters) -> None:
    """Print what the hash tables are and what they are worth, said plainly."""
    answers.print(
        f"{parameters.tables} hash tables, bucket length {parameters.bucket_length:.4f}: "
        f"recall {parameters.measured_recall:.3f} (predicted {parameters.predicted_recall:.3f}), "
        f"a query is compared with {parameters.measured_candidates:.0%} of all rows"
    )
