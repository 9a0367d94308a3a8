"""What a search gives back: a query, its neighbours, and how to look at them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lookalike import images, pictures
from lookalike.embedding import Vectors
from lookalike.images.decoding import read as read_file
from lookalike.search import Neighbor

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image


@dataclass(frozen=True, eq=False)
class Query:
    """What was asked: a vector, and the picture it came from, if any.

    `path` is encoded as `images.encode_path` does. `id` is that of its own row in the index, which
    is left out of the answer. `content` is the picture itself where no file has it.
    """

    vector: Vectors
    path: str | None = None
    label: str | None = None
    id: int | None = None
    content: "bytes | Image.Image | None" = field(default=None, repr=False)

    def picture(self) -> "Image.Image | None":
        """Return the picture as RGB, None if there is none or it is gone."""
        try:
            if self.content is None:
                # Of whoever asks, not of the table: it may lie anywhere.
                return (
                    images.decode(read_file(images.decode_path(self.path))) if self.path else None
                )
            if isinstance(self.content, bytes):
                return images.decode(self.content)
            return images.upright(self.content)
        except images.BadImage:
            return None


@dataclass(frozen=True, eq=False)
class Hits(Sequence[Neighbor]):
    """The neighbours of one query, nearest first. Shows itself as pictures in a notebook.

    `candidates` counts the rows that shared a bucket with the query, where that was asked for.
    """

    query: Query
    neighbors: tuple[Neighbor, ...]
    engine: str
    took_ms: float
    source: images.Source
    candidates: int | None = None

    def __len__(self) -> int:
        return len(self.neighbors)

    def __getitem__(self, at: Any) -> Any:
        return self.neighbors[at]

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as `search --json` prints it."""
        path = self.query.path and images.decode_path(self.query.path)
        counted = {} if self.candidates is None else {"candidates": self.candidates}
        return {
            "query": {"path": path, "label": self.query.label},
            "engine": self.engine,
            "took_ms": round(self.took_ms, 3),
            "neighbors": [
                {
                    "rank": n.rank,
                    "path": images.full_path(self.source, n.path),
                    "label": n.label,
                    "distance": n.distance,
                }
                | ({} if n.tables is None else {"tables": list(n.tables)})
                for n in self.neighbors
            ],
            **counted,
        }

    def to_pandas(self) -> "pd.DataFrame":
        """Return the neighbours as a pandas DataFrame `rank, path, label, distance`."""
        import pandas as pd

        return pd.DataFrame(
            self.to_dict()["neighbors"], columns=["rank", "path", "label", "distance"]
        )

    def picture(self) -> "Image.Image":
        """Step 12: a contact sheet, the query left, its neighbours in order."""
        return pictures.contact_sheet(*self._tiles())

    def html(self, note: str = "") -> str:
        """Return the same as one HTML page that needs nothing else."""
        return pictures.html_page(*self._tiles(), note=note)

    def _repr_html_(self) -> str:
        return pictures.html_row(*self._tiles())

    def _tiles(self) -> tuple[pictures.Tile, list[pictures.Tile]]:
        name = os.path.basename(self.query.path or "")
        first = pictures.Tile(self.query.picture(), self.query.label, name)
        rest = [
            pictures.Tile(
                _picture(self.source, n.path), n.label, os.path.basename(n.path), n.distance
            )
            for n in self.neighbors
        ]
        return first, rest


def _picture(source: images.Source, path: str) -> "Image.Image | None":
    try:
        return images.decode(images.read(source, path))
    except images.BadImage:
        return None
