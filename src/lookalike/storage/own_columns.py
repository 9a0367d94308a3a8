"""The columns of a user's table or DataFrame of images: how it is read, and what an index keeps."""

import os
from dataclasses import dataclass, replace
from typing import Any, Self

import pyarrow as pa

from lookalike.images.inputs.kept_columns import Kept
from lookalike.storage.schema import KeyType, schema_of, stored_kept

COLUMNS = "columns"
"""The key in the description for what is known of the user's columns."""


@dataclass(frozen=True)
class OwnColumns:
    """The columns that an index of images takes from a user's table or DataFrame.

    Attributes
    ----------
    image_column, path_column, id_column, label_column
        The columns of a DataFrame with images, paths, keys and labels. None for images of other
        places.
    key
        The type of the keys, None for rows that are named by their path.
    kept
        The other columns that the index keeps, with their types.

    """

    image_column: str | None = None
    path_column: str | None = None
    id_column: str | None = None
    label_column: str | None = None
    key: KeyType | None = None
    kept: Kept = ()

    @property
    def are_of_frame(self) -> bool:
        """Whether the images are rows of a DataFrame, which this process alone has."""
        return self.image_column is not None

    @property
    def named(self) -> "OwnColumns":
        """The same columns without the types of those that are kept."""
        return replace(self, kept=tuple((name, "") for name, _ in self.kept))

    @property
    def schema(self) -> pa.Schema:
        """The columns of the data files of the index."""
        return schema_of(self.key, self.kept)

    @classmethod
    def stored(cls, about: Any) -> Self:
        """Restore them from `asdict` by way of JSON.

        Raises `ValueError` or `TypeError` for anything else.
        """
        fields = dict(about)
        made = cls(**{**fields, "kept": stored_kept(fields.get("kept", ()))})
        texts = (made.image_column, made.path_column, made.id_column, made.label_column)
        for text in texts:
            if text is not None and (not isinstance(text, str) or b"\0" in os.fsencode(text)):
                raise ValueError(f"no name: {str(text)[:40]!r}")
        if made.key not in (None, "int64", "string"):
            raise ValueError(f"no type of keys: {str(made.key)[:40]!r}")
        return made


NO_COLUMNS = OwnColumns()
"""Of an index that keeps no columns of the user."""
