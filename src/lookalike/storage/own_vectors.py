"""What an index of a user's own vectors was made of: its table, columns, keys and metric."""

import os
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, TypeAlias, get_args

import pyarrow as pa

from lookalike.images import Source
from lookalike.images.inputs.kept_columns import Kept
from lookalike.spark.columns import ddl
from lookalike.storage.own_columns import COLUMNS, NO_COLUMNS, OwnColumns
from lookalike.storage.schema import KeyType, schema_of, stored_kept

Metric = Literal["cosine", "l2"]
"""`cosine`: vectors are scaled to length 1; `l2`: they are kept as given."""

METRICS: tuple[str, ...] = get_args(Metric)
MAX_WIDTH = 8_192
"""Numbers in a vector at most."""
OWN = "vectors"
"""The key in the description for what is known of the user's own vectors."""
NO_NETWORK = "none"
"""The preprocessing of a model without a network: its vectors were made elsewhere."""


@dataclass(frozen=True)
class OwnVectors:
    """A table of vectors that an index was made of.

    Attributes
    ----------
    place
        The absolute path of the table, or of its folder or glob; None for rows of this process.
    embedding_column
        The column of vectors, "" for an array without columns.
    id_column, path_column, label_column
        The columns of keys, of paths of pictures and of labels.
    key
        The type of the keys, None for rows that are named by their path.
    metric
        "cosine" or "l2".
    kept
        The other columns that the index keeps, with their types.

    """

    place: str | None
    embedding_column: str
    id_column: str | None = None
    path_column: str | None = None
    label_column: str | None = None
    key: KeyType | None = None
    metric: Metric = "cosine"
    kept: Kept = ()

    @property
    def schema(self) -> pa.Schema:
        """The columns of the data files of the index."""
        return schema_of(self.key, self.kept)

    @property
    def columns(self) -> list[str]:
        """The columns to read, each once."""
        named = (self.id_column, self.path_column, self.label_column, self.embedding_column)
        kept = (name for name, _ in self.kept)
        return list(dict.fromkeys(name for name in (*named, *kept) if name is not None))

    @classmethod
    def stored(cls, about: Any) -> Self | None:
        """Restore it from `asdict` by way of JSON, None from None.

        Raises `ValueError` or `TypeError` for anything else.
        """
        if about is None:
            return None
        fields = dict(about)
        made = cls(**{**fields, "kept": stored_kept(fields.get("kept", ()))})
        texts = (made.place, made.id_column, made.path_column, made.label_column)
        for text in (made.embedding_column, *filter(None, texts)):
            if not isinstance(text, str) or b"\0" in os.fsencode(text):
                raise ValueError(f"no name: {str(text)[:40]!r}")
        if made.metric not in METRICS or made.key not in (None, "int64", "string"):
            raise ValueError(f"no metric or type of keys: {str(about)[:80]!r}")
        return made


Own: TypeAlias = OwnVectors | OwnColumns
"""What an index takes from the user: vectors, or columns beside images."""


def stored_own(description: dict[str, Any]) -> Own | None:
    """Return what the description of an index says of the user's vectors or columns, if anything.

    Raises `ValueError` or `TypeError` for anything else.
    """
    if COLUMNS in description:
        return OwnColumns.stored(description[COLUMNS])
    return OwnVectors.stored(description.get(OWN))


def described(own: Own | None) -> dict[str, Any]:
    """Return what the description of an index says of the user's vectors or columns."""
    if own is None:
        return {}
    return {OWN if isinstance(own, OwnVectors) else COLUMNS: asdict(own)}


class Described:
    """What the description of an index says of its rows: their source, model, keys and metric."""

    def __init__(self, source: Source, about_model: dict[str, Any], own: Own | None = None) -> None:
        self.source = source
        self.about_model = about_model  # the model in words, known without loading it
        self.own = own if isinstance(own, OwnVectors) else None  # None for images
        self.columns = own if isinstance(own, OwnColumns) else NO_COLUMNS  # of images

    @property
    def metric(self) -> Metric:
        """`cosine`: all vectors have length 1; `l2`: they have any length."""
        return "cosine" if self.own is None else self.own.metric

    @property
    def row_name(self) -> str:
        """What its rows are, for messages: "images" or "vectors"."""
        return "images" if self.own is None else "vectors"

    @property
    def key(self) -> KeyType | None:
        """The type of the user's keys, None for rows without keys."""
        return self.columns.key if self.own is None else self.own.key

    @property
    def has_keys(self) -> bool:
        """Whether its rows have keys of the user, in the column `key`."""
        return self.key is not None

    @property
    def has_network(self) -> bool:
        """Whether its model can embed images; false for vectors made elsewhere."""
        return bool(self.about_model["preprocessing"] != NO_NETWORK)

    @property
    def has_pictures(self) -> bool:
        """Whether its rows name pictures."""
        return self.source.has_pictures and (self.own is None or self.own.path_column is not None)

    @property
    def schema(self) -> pa.Schema:
        """The columns of its data files."""
        return self.columns.schema if self.own is None else self.own.schema

    @property
    def name_column(self) -> str:
        """The column that tells its inputs apart: `key`, or `path`."""
        return "key" if self.has_keys else "path"

    @property
    def schema_ddl(self) -> str:
        """The columns of its data files, as Spark writes schemas."""
        return ddl(self.schema)
