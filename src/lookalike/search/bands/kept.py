"""Keep the limits of the bands with the index, beside its measured recall."""

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

from lookalike.errors import Unreadable, one_line, says_nothing
from lookalike.search.bands.calibration import MIN_ROWS, calibrate
from lookalike.search.bands.limits import Bands
from lookalike.search.recall import PROFILE_ERRORS
from lookalike.search.searcher import Searcher
from lookalike.storage import EmbeddingTable

logger = logging.getLogger(__name__)

FILE = "bands.json"
MIN_CHEAP_ROWS = 1024
"""Rows from which on a change measures the limits: the copies are at most a fifth of them."""
_MAX_GROWTH = 2  # of an index, or shrinking, before the limits are measured again

_known: WeakKeyDictionary[Searcher, Bands] = WeakKeyDictionary()


def bands_of(searcher: Searcher) -> Bands:
    """Return the bands of one version of an index: saved, or measured on first use and saved.

    An index that cannot be written is measured by each process. Where measuring fails, there are no
    limits, and their `reason` says why.

    Examples
    --------
    >>> bands = index.bands
    >>> bands.name(0.0)
    'same photo'
    """
    known = _known.get(searcher)
    if known is None:
        known = saved_bands(searcher.table) or _measured(searcher)
        _known[searcher] = known
    return known


def saved_bands(table: EmbeddingTable) -> Bands | None:
    """Return saved limits that hold for a version: of its model, and of nearly as many rows."""
    try:
        saved = Bands.load(_file(table))
    except PROFILE_ERRORS:  # none yet, or a damaged one
        return None
    rows = table.counts()[0]
    fits = saved.rows <= _MAX_GROWTH * rows and rows <= _MAX_GROWTH * saved.rows
    same_model = saved.fingerprint == table.about_model["fingerprint"]
    return saved if fits and same_model and rows >= MIN_ROWS else None


def _measured(searcher: Searcher) -> Bands:
    try:
        bands = calibrate(searcher)
    except Exception as error:  # a search goes on without them
        reason = f"they cannot be measured: {one_line(error)}"
        logger.info("the bands of distance: %s", reason)
        return Bands(reason=reason)
    if bands and searcher.table.is_newest():
        searcher._save(partial(bands.save, _file(searcher.table)))
    return bands


def _file(table: EmbeddingTable) -> Path:
    return table.signature_folder / FILE


def measure_if_cheap(table: EmbeddingTable) -> None:
    """Measure the limits after a change where that is little beside it; do nothing if they hold."""
    if table.counts()[0] >= MIN_CHEAP_ROWS and saved_bands(table) is None:
        bands_of(Searcher(table))


def check_bands(table: EmbeddingTable) -> Iterator[tuple[Path, str]]:
    """Yield the file of the limits where it is damaged, with the reason.

    Raises `Unreadable` for a file that cannot be read and so may be intact.
    """
    file = _file(table)
    if table.signature_folder.is_symlink() or not file.exists():
        return
    try:
        Bands.load(file)
    except PROFILE_ERRORS as error:
        if says_nothing(error):
            raise Unreadable(file, error) from None
        yield file, f"is damaged ({error})"
