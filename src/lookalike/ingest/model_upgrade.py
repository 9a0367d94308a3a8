"""Move an index to another model: embed all images beside it, then switch in one commit.

The new vectors grow wave by wave in an index of their own, in the folder `_upgrade` of the index.
A killed run continues there. Until the commit, every search answers from the old vectors.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lookalike.errors import LookalikeError
from lookalike.ingest.options import Options, prepare
from lookalike.ingest.replacement import Replacement
from lookalike.ingest.waves import compact_and_measure
from lookalike.models import quantization
from lookalike.search.evaluation import by_label
from lookalike.search.searcher import Searcher
from lookalike.storage import EmbeddingTable, forget_all, working, writing
from lookalike.storage.commits import MAX_COMMIT_ATTEMPTS
from lookalike.storage.errors import Busy, Conflict
from lookalike.system.files import delete_folder

_FOLDER = "_upgrade"  # of the new vectors, in the folder of the index
_LABELLED_QUERIES = 1000


@dataclass(frozen=True)
class Upgraded:
    """The result of an upgrade.

    Attributes
    ----------
    version : int
        The version of the index.
    embedded : int
        Number of inputs that this run read; 0 where the index had the model already.
    before, after : dict
        The model, the number of `images` and `skipped` inputs, the measured `recall`, and of
        labelled images `R@1`, `P@5` and `mAP@R`, with the old and the new model.

    """

    version: int
    embedded: int
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        return asdict(self)


def upgrade(stored: EmbeddingTable, options: Options) -> tuple[EmbeddingTable, Upgraded]:
    """Embed all images of an index with another model, and switch to it in one commit.

    Ids, paths and labels stay. Images that other processes add or remove meanwhile are followed.
    Older versions keep the old model.

    Parameters
    ----------
    stored
        The table of the index.
    options
        The model, and how to read and embed.

    Returns
    -------
    The newest table, and the figures that moved.

    Raises
    ------
    LookalikeError
        If the model cannot be loaded, another process upgrades the index, or no image can be read.
        The index is then as it was.

    """
    stored = stored.newest()
    if stored.own is not None:
        raise LookalikeError(
            f"{stored.path} holds vectors of your own, which no model here made: index the new "
            "ones into another `out`"
        )
    if not stored.has_pictures:
        raise LookalikeError(
            f"{stored.path} was made of a DataFrame, whose images cannot be read again: index it "
            "into another `out`"
        )
    with quantization.preload(options.precision == "int8"):
        job = prepare((), options, located=stored.source)
    beside = stored.path / _FOLDER
    same = options.precision in ("auto", stored.about_model["precision"])
    if same and job.full_model == stored.full_model:
        if beside.exists():
            with _upgrading(beside):
                pass
        return stored, Upgraded(stored.version, 0)
    before = _figures(stored)
    with working(stored.path) as staging, _upgrading(beside):
        new = Replacement(job, beside, staging)
        new.resume(options.precision)
        for _ in range(MAX_COMMIT_ATTEMPTS):
            stored = stored.newest()
            while new.follow(stored):
                stored = stored.newest()
            try:
                stored = new.switch(stored)
                break
            except Conflict:  # another process has added or removed images
                continue
        else:
            raise LookalikeError(f"others keep writing into {stored.path}: try again")
    stored = compact_and_measure(stored)
    return stored, Upgraded(stored.version, new.embedded, before, _figures(stored))


@contextmanager
def _upgrading(beside: Path) -> Iterator[None]:
    """Lock the folder of the new vectors; delete it in the end, unless an upgrade fails.

    Raises `LookalikeError` if another process upgrades the index.
    """
    beside.mkdir(exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(writing(beside, alone=True))
        except Busy:
            raise LookalikeError(
                f"another process is upgrading {beside.parent}: try again when that is done"
            ) from None
        yield
        forget_all(beside)
        delete_folder(beside)


def _figures(stored: EmbeddingTable) -> dict[str, Any]:
    """Return what an upgrade may change."""
    searcher = Searcher(stored)
    images, skipped = stored.counts()
    figures = by_label(searcher.rows, _LABELLED_QUERIES) if images > 1 else {}
    about = ("backbone", "weights", "precision", "width")
    return {
        **{name: stored.about_model[name] for name in about},
        "images": images,
        "skipped": skipped,
        "recall": searcher.known_recall(),
        **figures,
    }
