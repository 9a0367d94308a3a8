"""What a job did: its model, its counts and its times."""

from dataclasses import asdict, dataclass, field
from typing import Any

from lookalike import images
from lookalike.images.inputs.label_matching import LabelCounts
from lookalike.models import Model


@dataclass(frozen=True)
class EmbedResult:
    """The model of a job, its counts and its times.

    Attributes
    ----------
    model
        The model, in the chosen precision.
    choosing_seconds
        Seconds for choosing the precision.
    seconds
        Seconds for embedding.
    images
        Number of images that were embedded, or whose embedding was known.
    skipped
        Number of inputs without an embedding, each with a reason.

    """

    model: Model
    choosing_seconds: float = 0.0
    seconds: float = 0.0
    images: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class Report(EmbedResult):
    """The result of `write_embeddings` or `build_index`.

    Attributes
    ----------
    unused_labels
        Number of labels that match no photo.
    loose_labels
        Number of labels that match a photo by a part of its path only.
    missing_labels
        Number of rows of the label file without a label, such as `nan`.
    same
        Number of inputs that were in the index and are unchanged.
    not_looked_at
        Number of ignored files that are no images, by file ending, most frequent first.

    """

    unused_labels: int = 0
    loose_labels: int = 0
    missing_labels: int = 0
    same: int = 0
    not_looked_at: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, done: EmbedResult, labelled: LabelCounts, ignored: images.IgnoredFiles, same: int = 0
    ) -> "Report":
        """Return the report of an embedding result and its counts of labels and ignored files."""
        return cls(
            **vars(done),
            unused_labels=labelled.unused,
            loose_labels=labelled.loose,
            missing_labels=labelled.missing,
            same=same,
            not_looked_at=ignored.counts(),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        counts = ("images", "skipped", "same", "unused_labels", "loose_labels", "missing_labels")
        known = {name: getattr(self, name) for name in (*counts, "not_looked_at")}
        model = {name: getattr(self.model, name) for name in ("backbone", "weights", "precision")}
        return known | model | {"seconds": round(self.seconds, 3)}


@dataclass(frozen=True)
class Changed:
    """The result of `add`, `sync` or `remove`, or of their dry run, as counts of inputs.

    Attributes
    ----------
    version
        The version of the index.
    new, changed, same, removed
        Number of inputs that are new, changed, unchanged, and removed from the index.
    images, skipped
        Number of new or changed inputs that were embedded, and of those without an embedding.
    unused_labels, loose_labels, missing_labels, not_looked_at
        As in `Report`.
    backbone
        The network of the index, empty for vectors made elsewhere.

    """

    version: int
    new: int = 0
    changed: int = 0
    same: int = 0
    removed: int = 0
    images: int = 0
    skipped: int = 0
    unused_labels: int = 0
    loose_labels: int = 0
    missing_labels: int = 0
    not_looked_at: dict[str, int] = field(default_factory=dict)
    backbone: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as `--json` prints them."""
        return asdict(self)
