"""Decide the limits of the bands of one index from its own images.

Three kinds of distances are measured:

- **copies**: images drawn from the index, changed as copies usually are
  (`images.perturbations`), to the vectors of their originals;
- **neighbours**: of drawn rows to their nearest others;
- **random pairs**: of drawn rows to each other, which says what a distance is worth by chance.

The limits follow from them:

- **same photo** holds at least 99 % of the copies, but is cut where more than 0.5 % of the drawn
  images would have a neighbour in it that is no copy by its pixels. This is the rule of Neyman and
  Pearson ("On the problem of the most efficient tests of statistical hypotheses", 1933): as many
  copies as possible at a bounded rate of false ones.
- **close** is nearer than all but one in 1,000, **similar** nearer than all but one in 100 of the
  random pairs of different photos: levels of significance against pairs drawn at random.
- **weak** is the rest.

The levels count pairs, not neighbours: in an index of a million images some 1,000 are close to any
image, if it is as usual as others.

Where the photos cannot be read, or the vectors were made elsewhere, there are no copies to measure.
"Same photo" is then only for vectors that are equal but for rounding.
"""

import io
import itertools
import logging
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from lookalike import images
from lookalike.errors import ImageError
from lookalike.images.perturbations import CHANGES, variant
from lookalike.models.embedder import ImageEmbedder
from lookalike.search.bands.limits import Bands
from lookalike.search.bands.pixels import may_be_copies, read_grids
from lookalike.search.bands.sample import Drawn, draw_rows, nearest_others, pair_distances
from lookalike.search.recall import quantile
from lookalike.search.rows import draw
from lookalike.search.searcher import Searcher
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Floats
from lookalike.system.progress import progress_line

logger = logging.getLogger(__name__)

MIN_ROWS = 32
"""With fewer rows there are no bands: no pair of a thousand can be told."""
MIN_IMAGES, MAX_IMAGES = 8, 48
"""Images that are changed and embedded again: one in 16, at least and at most."""
CHANGES_AN_IMAGE = 4
"""Of the changes, in turn: images differ more in what changes do to them than changes do."""
COPY_SHARE = 0.99
"""Share of the copies within "same photo", unless the next constant forbids it."""
MAX_FALSE_SHARE = 0.005
"""Largest share of images with a neighbour in "same photo" that is no copy by its pixels."""
CLOSE_SHARE, SIMILAR_SHARE = 0.001, 0.01
"""Shares of the random pairs within "close" and within "similar"."""
ROUNDING = 1e-3
"""Distance up to which vectors are equal, as a share of the median distance of random pairs."""
_ROWS_AN_IMAGE = 16
_COPY_SIDE = 640  # pixels of the longer side of a copy: photos are sent at such sizes
_NEIGHBORS = 4  # of an image, whose pixels are compared
_MAX_COMPARED = 64  # images with near neighbours, whose pixels are compared


class Copies(NamedTuple):
    """Distances of copies to their originals, float64 (n,), and the number of originals."""

    distances: Floats
    images: int


def calibrate(searcher: Searcher) -> Bands:
    """Measure the limits of the bands of one version of an index.

    At most 512 rows are read, 48 images embedded with four changes each, and 320
    thumbnails compared, however large the index is. Equal indexes give equal limits.

    Parameters
    ----------
    searcher : Searcher

    Returns
    -------
    Bands
        Without limits below `MIN_ROWS` rows.

    Raises
    ------
    LookalikeError
        Where the rows cannot be read.

    """
    table = searcher.table
    rows = table.counts()[0]
    drawn = draw_rows(searcher) if rows >= MIN_ROWS else None
    if drawn is None or len(drawn.paths) < MIN_ROWS:
        reason = f"{rows:,} {table.row_name} are too few, {MIN_ROWS} are enough"
        return Bands(reason=reason, rows=rows)
    square = pair_distances(drawn.vectors)
    pairs = square[np.triu_indices(len(square), 1)]
    same = ROUNDING * float(np.median(pairs))
    copies = Copies(np.empty(0), 0)
    if table.has_network and table.has_pictures:
        with (
            progress_line("measuring what distances mean"),
            images.IsolatedDecoder(truncated=table.source.truncated) as decoder,
        ):
            copies = _measure_copies(table, drawn, rows, decoder)
            if copies.images:
                same = _same_limit(searcher, drawn, copies.distances, decoder)
    same = _rounded_down(same)
    others = pairs[pairs > same]
    close, similar = (
        (_rounded_down(float(np.quantile(others, share, method="inverted_cdf"))))
        if len(others)
        else same
        for share in (CLOSE_SHARE, SIMILAR_SHARE)
    )
    limits = (same, max(close, same), max(similar, close, same))
    fingerprint = str(table.about_model["fingerprint"])
    return Bands(limits, "", fingerprint, rows, copies.images, len(copies.distances), len(pairs))


def _rounded_down(distance: float) -> float:
    """Return a distance with four digits, never a larger one."""
    if distance <= 0:
        return 0.0
    digits = 3 - int(np.floor(np.log10(distance)))
    return float(np.floor(distance * 10.0**digits) / 10.0**digits)


def _measure_copies(
    table: EmbeddingTable, drawn: Drawn, rows: int, decoder: images.IsolatedDecoder
) -> Copies:
    """Change some of the drawn images and embed them; without enough of them return none."""
    embed = ImageEmbedder(model=table.model)
    wanted = min(max(rows // _ROWS_AN_IMAGE, MIN_IMAGES), MAX_IMAGES, len(drawn.paths))
    distances: list[npt.NDArray[np.float32]] = []
    order = np.random.default_rng(0).permutation(len(drawn.paths))
    names = itertools.cycle(CHANGES)
    for number, at in enumerate(order[: 2 * wanted].tolist()):
        if len(distances) == wanted or (number == MIN_IMAGES and not distances):
            break  # enough; or the photos are gone
        try:
            small = decoder.thumbnail(images.read(table.source, drawn.paths[at]), _COPY_SIDE)
            picture = Image.open(io.BytesIO(small))
            some = itertools.islice(names, CHANGES_AN_IMAGE)
            changed = embed([variant(picture, one, number) for one in some])
        except ImageError:
            continue
        distances.append(np.linalg.norm(changed - drawn.vectors[at], axis=1))
    if len(distances) < MIN_IMAGES:
        logger.info("too few photos can be read to measure the distances of copies")
        return Copies(np.empty(0), 0)
    return Copies(np.concatenate(distances).astype(np.float64), len(distances))


def _same_limit(
    searcher: Searcher, drawn: Drawn, copies: Floats, decoder: images.IsolatedDecoder
) -> float:
    """Return the largest distance of a copy that the neighbours of drawn images allow."""
    most = quantile(copies, COPY_SHARE)
    near = nearest_others(searcher, drawn, _NEIGHBORS)
    is_near = [bool(one.distances) and one.distances[0] <= most for one in near]
    suspects = np.flatnonzero(is_near)
    if not len(suspects):
        return most
    compared = suspects[draw(len(suspects), _MAX_COMPARED)]
    looked, others = 0, []
    for at in compared.tolist():
        own = read_grids(searcher.table, drawn.paths[at], decoder)
        if own is None:
            continue
        looked += 1
        for far, path in zip(*near[at], strict=True):
            if far > most:
                break
            other = read_grids(searcher.table, path, decoder)
            if other is not None and not may_be_copies(own, other):
                others.append(far)
                break
    # Each stands for as many of the drawn images as were not looked at.
    share = len(suspects) / max(looked, 1) / len(near)
    allowed = int(MAX_FALSE_SHARE / share)
    others.sort()
    return most if len(others) <= allowed else float(np.nextafter(others[allowed], 0))
