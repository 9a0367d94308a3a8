"""A plot of recall against speed, by matplotlib, which is imported when a plot is drawn."""

import itertools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from lookalike.errors import LookalikeError
from lookalike.system.extras import require
from lookalike.system.files import new_file
from lookalike.system.paths import local_path

SUFFIXES = (".png", ".svg")
_COLORS = ("#2563eb", "#ea580c", "#16a34a", "#9333ea", "#0891b2", "#be123c", "#57534e")
_MARKERS = "osD^vPX"  # they tell series apart without colours
_MIN_RECALL = 0.9  # where the axis begins, unless a series goes lower

Points = Sequence[tuple[float, float]]


def check(file: Path) -> None:
    """Check before any work that a plot can be drawn into a file.

    Parameters
    ----------
    file
        A name that ends in .png or .svg.

    Raises
    ------
    LookalikeError
        The name ends in something else or is a URI, or matplotlib is not installed.

    """
    local_path(file)
    if file.suffix.lower() not in SUFFIXES:
        raise LookalikeError(f"{file.name}: a plot is a file that ends in {' or '.join(SUFFIXES)}")
    require("a plot", "matplotlib")


def draw(series: Mapping[str, Points], title: str, file: Path) -> None:
    """Draw recall against queries per second into a file.

    Parameters
    ----------
    series
        For each name its points (queries per second, recall), which a line joins in their order.
    title
        The title of the plot.
    file
        A name that ends in .png or .svg.

    Raises
    ------
    LookalikeError
        As in `check`.
    OSError
        The file cannot be written.

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
    axes.set_ylim(min(_MIN_RECALL, lowest - 0.02), 1.002)
    axes.margins(x=0.1)
    axes.grid(which="both", color="#e5e7eb", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", parse_math=False)  # a name may have a dollar sign
    for text in axes.legend(frameon=False).get_texts():
        text.set_parse_math(False)
    with new_file(file) as part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a letter that the font lacks becomes a box
        figure.savefig(part, format=file.suffix[1:].lower())
