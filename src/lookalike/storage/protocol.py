"""What functions that become methods of an index need of it."""

from typing import Protocol

from lookalike.storage.table import EmbeddingTable


class HasTable(Protocol):
    """An index: its table of embeddings, at one version."""

    _table: EmbeddingTable
