"""Recall against speed, drawn with matplotlib, which is imported where it is needed alone."""

import itertools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from lookalike.cache import new_file
from lookalike.errors import LookalikeError
from lookalike.extras import require
from lookalike.given import local_path

SUFFIXES = (".png", ".svg")
_COLORS = ("#2563eb", "#ea580c", "#16a34a", "#9333ea", "#0891b2", "#be123c", "#57534e")
_MARKERS = "osD^vPX"  # a series is known by its shape too
_LOWEST = 0.9  # recall: whatever there is to see lies above it, or the axis begins lower

Points = Sequence[tuple[float, float]]


def check(file: Path) -> None:
    """Raise `LookalikeError` where no plot can be drawn into such a file, before any work."""
    local_path(file)
    if file.suffix.lower() not in SUFFIXES:
        raise LookalikeError(f"{file.name}: a plot is a file that ends in {' or '.join(SUFFIXES)}")
    require("a plot", "matplotlib")


def draw(series: Mapping[str, Points], title: str, file: Path) -> None:
    """Draw recall against queries a second into a .png or .svg file.

    `series` gives each name its points, (queries a second, recall), which a line joins in their
    order. Raises `LookalikeError` as `check` does, `OSError` where the file cannot be written.
    """
    check(file)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xscale="log", xlabel="queries a second", ylabel="recall")
    styles = zip(itertools.cycle(_COLORS), itertools.cycle(_MARKERS), strict=False)
    for (name, points), (color, marker) in zip(series.items(), styles, strict=False):
        speeds, recalls = zip(*points, strict=True)
        axes.plot(speeds, recalls, color=color, marker=marker, label=name, clip_on=False, zorder=3)
    lowest = min((recall for points in series.values() for _, recall in points), default=1.0)
    axes.set_ylim(min(_LOWEST, lowest - 0.02), 1.002)
    axes.margins(x=0.1)
    axes.grid(which="both", color="#e5e7eb", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", parse_math=False)  # a name may hold a dollar sign
    for text in axes.legend(frameon=False).get_texts():
        text.set_parse_math(False)
    with new_file(file) as part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a box stands for what the font lacks
        figure.savefig(part, format=file.suffix[1:].lower())
