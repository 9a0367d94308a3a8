"""Upkeep of a collection: check all that must be true of it, repair it, delete what is old."""

from lookalike.upkeep.checking import check
from lookalike.upkeep.findings import MODEL, Checked, Finding
from lookalike.upkeep.repairing import Repaired, repair
from lookalike.upkeep.vacuuming import KEEP_DAYS, Vacuumed, vacuum

__all__ = [
    "KEEP_DAYS",
    "MODEL",
    "Checked",
    "Finding",
    "Repaired",
    "Vacuumed",
    "check",
    "repair",
    "vacuum",
]
