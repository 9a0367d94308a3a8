"""Maintenance of a table of embeddings: check, repair, vacuum."""

from lookalike.storage.maintenance.check import check
from lookalike.storage.maintenance.findings import MODEL, Checked, Finding
from lookalike.storage.maintenance.repair import Repaired, repair
from lookalike.storage.maintenance.vacuum import Vacuumed, vacuum

__all__ = [
    "MODEL",
    "Checked",
    "Finding",
    "Repaired",
    "Vacuumed",
    "check",
    "repair",
    "vacuum",
]
