"""What is wrong with a collection, counted, with a few examples of each kind."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

EXAMPLES = 10  # kept of each kind: ten broken rows of a million say as much

MISSING = "missing file"
DAMAGED = "damaged file"
FIGURES = "wrong figures"
FOREIGN = "foreign file"
ORDER = "ids out of order"
ROW = "bad row"
VECTOR = "bad vector"
PATH = "path twice"
ID = "id twice"
MODEL = "model"  # the one kind that nothing repairs
CACHE = "cache"
SIGNATURES = "signatures"
LEFT = "left over"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: of what kind, with which file or image, and how."""

    kind: str
    name: str
    detail: str


@dataclass
class Findings:
    """Findings as they come in."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[Finding] = field(default_factory=list)

    def add(self, kind: str, name: str, detail: str, count: int = 1) -> None:
        """Count so many of a kind, of which one is named; 0 where they are counted elsewhere."""
        if self.wanted(kind):
            self.examples.append(Finding(kind, name, detail))
        self.counts[kind] += count

    def wanted(self, kind: str) -> int:
        """Return how many more examples of a kind are kept."""
        return EXAMPLES - sum(one.kind == kind for one in self.examples)

    def extend(self, others: "Findings") -> None:
        """Take in those of another."""
        for one in others.examples:
            self.add(one.kind, one.name, one.detail, 0)
        self.counts.update(others.counts)


@dataclass(frozen=True)
class Checked:
    """What a check found: `counts` by kind, and examples of each.

    It read so many `files` and `rows` of a `version`. Of the versions `older` than the newest that
    the log can still tell of, `openable` have all their files: of others vacuum, or damage, has
    taken some.
    """

    version: int
    files: int
    rows: int
    older: int
    openable: int
    counts: dict[str, int]
    examples: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.counts

    def to_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {"ok": self.ok, **asdict(self)}
