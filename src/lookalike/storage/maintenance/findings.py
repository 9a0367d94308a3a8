"""Problems of a table, counted by kind, with a few examples of each."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

MAX_EXAMPLES = 10
"""Examples of a kind that are kept: ten broken rows of a million say as much."""

MISSING = "missing file"
DAMAGED = "damaged file"
FIGURES = "wrong figures"
FOREIGN = "foreign file"
ORDER = "ids out of order"
ROW = "bad row"
VECTOR = "bad vector"
PATH = "path twice"
ID = "id twice"
MODEL = "model"  # the only kind that cannot be repaired
CACHE = "cache"
SIGNATURES = "signatures"
LEFT = "left over"


@dataclass(frozen=True)
class Finding:
    """One problem: its kind, the `name` of the file or image, and a `detail`."""

    kind: str
    name: str
    detail: str


@dataclass
class Findings:
    """Collects problems."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[Finding] = field(default_factory=list)

    def add(self, kind: str, name: str, detail: str, count: int = 1) -> None:
        """Count problems of a kind and keep one example; 0 where they are counted elsewhere."""
        if self.wanted(kind):
            self.examples.append(Finding(kind, name, detail))
        self.counts[kind] += count

    def wanted(self, kind: str) -> int:
        """Return how many more examples of a kind are kept."""
        return MAX_EXAMPLES - sum(one.kind == kind for one in self.examples)

    def extend(self, others: "Findings") -> None:
        """Add the problems of other findings."""
        for example in others.examples:
            self.add(example.kind, example.name, example.detail, 0)
        self.counts.update(others.counts)


@dataclass(frozen=True)
class Checked:
    """The result of a check: `counts` of problems by kind, and examples of each.

    `files` and `rows` count what was read of a `version`. `older` counts the versions in the log
    before the newest; of these, `openable` have all their files. The others lost some to a vacuum,
    or to damage.
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
