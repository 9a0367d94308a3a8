"""What the analyses need of an index."""

from typing import Protocol

from lookalike.storage import EmbeddingTable


class HasTable(Protocol):
    """An index: its table of embeddings, at one version."""

    _table: EmbeddingTable
