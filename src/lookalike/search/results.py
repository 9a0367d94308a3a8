"""Results of searches, and samples of images, with their pictures."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa

from lookalike import images, rendering
from lookalike.errors import ImageError, LookalikeError
from lookalike.images.decoding.raster import read_file
from lookalike.images.inputs.source import is_inside
from lookalike.search.bands.limits import Bands
from lookalike.search.bands.names import Band
from lookalike.search.engines import Engine
from lookalike.search.filters import Filter
from lookalike.search.rows import Neighbor, Rows, check_seed
from lookalike.system.arrays import Vectors
from lookalike.system.extras import require

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from PIL import Image


_MAX_SHOWN_RESULTS = 20
_MAX_SHOWN_IMAGES = 100


@dataclass(frozen=True, eq=False)
class Query:
    """A query: a vector, and the image it came from, if any.

    Attributes
    ----------
    vector : numpy.ndarray
        float32 (width,), of length 1.
    path : str or None
        Its file, encoded as `images.encode_path` does.
    label : str or None
        Its label, if the image is in the index.
    id : int, str or None
        Its id or key in the index. An image is not its own neighbour.
    content : bytes, PIL.Image or None
        The image itself, if it is not a file.
    number : int or None
        The number of its row in the index, if it is known.
    text : str or None
        The words, if it is no image.

    """

    vector: Vectors
    path: str | None = None
    label: str | None = None
    id: int | str | None = None
    content: "bytes | Image.Image | None" = field(default=None, repr=False)
    number: int | None = None
    text: str | None = None

    def picture(self) -> "Image.Image | None":
        """Return the image as RGB, None if there is none or it cannot be read."""
        if self.text is not None:
            return rendering.name_tile(self.text)
        try:
            if self.content is None:
                # The file of a query may be anywhere.
                return (
                    images.decode(read_file(images.decode_path(self.path)), truncated=True)
                    if self.path
                    else None
                )
            if isinstance(self.content, bytes):
                return images.decode(self.content, truncated=True)
            return images.to_upright_rgb(self.content)
        except ImageError:
            return None


@dataclass(frozen=True, eq=False)
class SearchResult(Sequence[Neighbor]):
    """The neighbours of one query, nearest first. A notebook shows them as pictures.

    Attributes
    ----------
    query : Query
        The query.
    neighbors : tuple of Neighbor
        The neighbours; `len`, iteration and indexing go over these.
    engine : str
        The engine that found them: "exact", "approximate" or "spark-lsh".
    took_ms : float
        Milliseconds of the search, without embedding the query.
    candidates : int or None
        Number of images whose vectors were compared, None for all.
    looked : int or None
        Number of the nearest rows among which copies were collapsed (`all_copies=False`); None
        where each copy is a result. Copies beyond them are not counted.
    bands : Bands
        The bands of the index; false without limits, and for words.

    Examples
    --------
    >>> result = index.search(photos[0], k=2)
    >>> result[0].rank, result[0].distance <= result[1].distance
    (1, True)
    >>> list(result.to_pandas().columns)
    ['rank', 'id', 'path', 'label', 'distance', 'band']
    >>> len(result.band_names)
    2

    """

    query: Query
    neighbors: tuple[Neighbor, ...]
    engine: Engine
    took_ms: float
    source: images.Source
    candidates: int | None = None
    looked: int | None = None
    find_bands: Callable[[], Bands] = field(default=Bands, repr=False)

    @cached_property
    def bands(self) -> Bands:  # noqa: D102 - among the attributes
        if self.query.text is not None:  # words lie far from all images
            return Bands(reason="the query is of words, the bands are of images")
        return self.find_bands()

    @property
    def band_names(self) -> "list[Band | None]":
        """The band of each neighbour, in order; None where the index has no bands."""
        return self.bands.names(one.distance for one in self.neighbors)

    def __len__(self) -> int:
        return len(self.neighbors)

    @overload
    def __getitem__(self, at: int) -> Neighbor: ...

    @overload
    def __getitem__(self, at: slice) -> tuple[Neighbor, ...]: ...

    def __getitem__(self, at: int | slice) -> Neighbor | tuple[Neighbor, ...]:
        return self.neighbors[at]

    def __repr__(self) -> str:
        of = f" of {os.path.basename(self.query.path)}" if self.query.path else ""
        of = of if self.query.text is None else f" of {self.query.text!r}"
        nearest = f", the nearest {self.neighbors[0].distance:.3f} away" if self.neighbors else ""
        return f"SearchResult({len(self)} neighbours{of}{nearest})"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `search --json` prints it."""
        path = self.query.path and images.decode_path(self.query.path)
        counted = {} if self.candidates is None else {"candidates": self.candidates}
        return {
            "query": {"path": path, "label": self.query.label}
            | ({} if self.query.id is None else {"id": self.query.id})
            | ({} if self.query.text is None else {"text": self.query.text}),
            "engine": self.engine,
            "took_ms": round(self.took_ms, 3),
            "neighbors": [
                {
                    "rank": n.rank,
                    "id": n.id,
                    "path": images.full_path(self.source, n.path),
                    "label": n.label,
                    "distance": n.distance,
                    "band": band,
                }
                | ({} if n.copies is None else {"copies": n.copies})
                | ({} if n.tables is None else {"tables": list(n.tables)})
                for n, band in zip(self.neighbors, self.band_names, strict=True)
            ],
            **counted,
            **({} if self.looked is None else {"looked": self.looked}),
            "bands": self.bands.to_dict(),
        }

    def to_arrow(self) -> pa.Table:
        """Return the neighbours as a table of Arrow.

        Returns
        -------
        pyarrow.Table
            `rank int32, id, path string, label string, distance double, band string`, and `copies
            int32` where copies were collapsed.

        Examples
        --------
        >>> index.search(photos[0], k=3).to_arrow().num_rows
        3

        """
        id_type = pa.string() if any(isinstance(one.id, str) for one in self) else pa.int64()
        fields = [("rank", pa.int32()), ("id", id_type), ("path", pa.string())]
        fields += [("label", pa.string()), ("distance", pa.float64()), ("band", pa.string())]
        if self.looked is not None:
            fields.append(("copies", pa.int32()))
        return pa.Table.from_pylist(self.to_dict()["neighbors"], pa.schema(fields))

    def to_pandas(self) -> "pd.DataFrame":
        """Return the neighbours as a pandas DataFrame with the columns of `to_arrow`."""
        require("to_pandas", "pandas")
        import pandas as pd

        columns = ["rank", "id", "path", "label", "distance", "band"]
        columns += [] if self.looked is None else ["copies"]
        return pd.DataFrame(self.to_dict()["neighbors"], columns=columns)

    def to_polars(self) -> "pl.DataFrame":
        """Return the neighbours as a Polars DataFrame with the columns of `to_arrow`."""
        require("to_polars", "polars")
        import polars as pl

        return pl.DataFrame(self.to_arrow())

    def picture(self) -> "Image.Image":
        """Step 12: return a contact sheet with the query and its neighbours in order."""
        return rendering.contact_sheet(*self._tiles())

    def html(self, note: str = "") -> str:
        """Return the contact sheet as one HTML page without other files."""
        return rendering.html_page(*self._tiles(), note=note)

    def _repr_html_(self) -> str:
        return rendering.html_row(*self._tiles())

    def _tiles(self) -> tuple[rendering.Tile, list[rendering.Tile]]:
        name = self.query.text or _name(self.source, self.query.path or "")
        first = rendering.Tile(self.query.picture(), self.query.label, name)
        rest = [
            rendering.Tile(
                _picture(self.source, n.path),
                n.label,
                _name(self.source, n.path),
                n.distance,
                band,
                n.copies or 0,
            )
            for n, band in zip(self.neighbors, self.band_names, strict=True)
        ]
        return first, rest


class SearchResults(list[SearchResult]):
    """The results of several queries. A notebook shows them as pictures."""

    def _repr_html_(self) -> str:
        shown = (result._tiles() for result in self[:_MAX_SHOWN_RESULTS])
        return rendering.html_rows(shown, more=max(0, len(self) - _MAX_SHOWN_RESULTS))


@dataclass(frozen=True, eq=False)
class ImageSample(Sequence[Query]):
    """Images drawn from an index, each as a `Query`. A notebook shows them as pictures.

    Examples
    --------
    >>> sample = index.sample(3, seed=0)
    >>> len(sample), len(index.search(sample[0], k=2))
    (3, 2)

    """

    queries: tuple[Query, ...]

    def __len__(self) -> int:
        return len(self.queries)

    @overload
    def __getitem__(self, at: int) -> Query: ...

    @overload
    def __getitem__(self, at: slice) -> tuple[Query, ...]: ...

    def __getitem__(self, at: int | slice) -> Query | tuple[Query, ...]:
        return self.queries[at]

    def __repr__(self) -> str:
        return f"ImageSample({', '.join(os.path.basename(query.path or '') for query in self)})"

    def picture(self) -> "Image.Image":
        """Return a contact sheet."""
        return rendering.tile_sheet(self._tiles())

    def _repr_html_(self) -> str:
        return rendering.html_tiles(
            self._tiles(_MAX_SHOWN_IMAGES), more=max(0, len(self) - _MAX_SHOWN_IMAGES)
        )

    def _tiles(self, limit: int | None = None) -> list[rendering.Tile]:
        return [
            rendering.Tile(query.picture(), query.label, os.path.basename(query.path or ""))
            for query in self.queries[:limit]
        ]


def draw_sample(
    rows: Rows, source: images.Source, count: int, seed: int | None, chosen: Filter
) -> ImageSample:
    """Draw up to `count` different images at random, of those that a filter chooses.

    Raises `LookalikeError` for a count below 1, or if it chooses none.
    """
    if count < 1:
        raise LookalikeError(f"`n` is {count}: draw at least 1 image")
    check_seed(seed)
    matching = rows.left(rows.chosen(chosen))
    if not len(matching):
        raise chosen.no_match_error() if len(rows) else LookalikeError("no images to show")
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(matching, min(count, len(matching)), replace=False))
    queries = []
    for row, vector in zip(drawn.tolist(), rows.vectors(drawn), strict=True):
        path = rows.paths[row].as_py()
        full_path = images.encode_path(images.full_path(source, path))
        content = None if _is_file(source, path) else read_content(source, path)
        queries.append(
            Query(
                vector,
                full_path,
                rows.labels[row].as_py(),
                rows.id_of(row),
                content,
                int(rows.ids[row]),
            )
        )
    return ImageSample(tuple(rng.permutation(np.array(queries, object)).tolist()))


def _name(source: images.Source, path: str) -> str:
    """Return what to call a row: the name of its file, or its whole key."""
    return os.path.basename(path) if source.has_pictures else path


def _is_file(source: images.Source, path: str) -> bool:
    """Tell whether an image is a local file below the root."""
    return source.kind == "files" and is_inside(source, path)


def read_content(source: images.Source, path: str) -> bytes:
    """Return the bytes of a picture to show, without a picture a tile with the name of the row."""
    if not source.has_pictures:
        return rendering.name_jpeg(images.decode_path(path))
    try:
        return images.read(source, path)
    except ImageError:
        return b""  # shown without a picture


def _picture(source: images.Source, path: str) -> "Image.Image | None":
    if not source.has_pictures:
        return rendering.name_tile(images.decode_path(path))
    try:
        return images.decode(images.read(source, path), truncated=True)
    except ImageError:
        return None
