"""The responses of the server, for OpenAPI.

Addresses in responses are relative to the page: a proxy may serve it below a prefix.
"""

from typing import Annotated

from pydantic import BaseModel, Field

from lookalike.search.bands.names import Band


class VersionedResponse(BaseModel):
    """A response with the version of the index that it is from."""

    identity: str = Field(description="Changes if another index replaces this one.")
    version: int


class Image(BaseModel):
    """An image of the index."""

    id: int = Field(description="Unique in this index, and never reused.")
    key: int | str | None = Field(
        description="The key of the user, where the index is of vectors with keys."
    )
    path: str = Field(
        description="Relative to the root of the index, percent-encoded where necessary."
    )
    name: str
    label: str | None
    width: int | None = Field(description="Of the upright image in pixels; null where not known.")
    height: int | None
    thumbnail: str = Field(description="Address of a JPEG of at most 320 pixels a side.")
    picture: str = Field(description="Address of a JPEG of at most 1,280 pixels a side.")


class QueryImage(Image):
    """An image of the index as a query."""

    box: list[float] | None = Field(
        None, description="The part that was searched for: left, top, right, bottom, 0 to 1."
    )


class Upload(BaseModel):
    """An uploaded image, which the server keeps for a while under a key."""

    upload: str
    box: list[float] | None = Field(None, description="As of an image of the index.")
    name: None = None
    label: None = None
    thumbnail: str
    picture: str


class Text(BaseModel):
    """A query in words; its picture is a tile with the words."""

    text: str
    name: str
    label: None = None
    thumbnail: str
    picture: str


class TextQuery(BaseModel):
    """The body of a search with words."""

    text: str = Field(max_length=1000)


class Neighbor(Image):
    """A neighbour of the query."""

    rank: int
    band: Band | None = Field(description="What the distance means; null where it is not known.")
    copies: int | None = Field(
        description="Copies of this photo that are not listed; null with `all_copies`."
    )
    distance: float = Field(
        description="Euclidean: 0 to 2 between vectors of length 1, from 0 on with the metric l2."
    )


class Bands(BaseModel):
    """The limits of the bands of distance in this index."""

    measured: bool = Field(description="Whether they have been measured.")
    limits: dict[str, float] | None = Field(
        description="The largest distance of each band but the last; null without any."
    )
    reason: str = Field(description="Why there are none.")


class SearchResponse(VersionedResponse):
    """The neighbours of a query, nearest first, without the query itself."""

    query: QueryImage | Upload | Text
    engine: str = Field(
        description="exact compares all vectors, approximate those with near signatures."
    )
    compared: int
    images: int
    took_ms: float = Field(description="Milliseconds of the search itself.")
    recall: float | None = Field(
        description="Measured share of the true neighbours that this engine finds."
    )
    bands: Bands
    looked: int | None = Field(
        description="Nearest rows among which copies were collapsed; null with `all_copies`."
    )
    neighbors: list[Neighbor]


class ImagePage(BaseModel):
    """A page of images in the order of ids; `next` is the `after` of the next page, if any."""

    images: list[Image]
    next: int | None
    total: int


class RandomImages(BaseModel):
    """Images drawn at random."""

    images: list[Image]


class Label(BaseModel):
    """A label and its number of images."""

    label: str
    images: int


class Labels(BaseModel):
    """The most frequent labels, and the number of all labels."""

    labels: list[Label]
    total: int


class Limits(BaseModel):
    """The limits of a request."""

    k: int
    upload_bytes: int
    upload_pixels: int


class Recall(BaseModel):
    """The recall@k of searches, measured on this index."""

    engine: str
    asked: float
    measured: float | None = Field(description="None until it is measured.")
    k: int
    queries: int = Field(description="Number of queries of the measurement.")


class Info(VersionedResponse):
    """Counts, model and recall of the index."""

    name: str
    images: int
    skipped: int
    labels: int
    model: dict[str, str | int | float | None]
    has_words: bool = Field(description="Whether the model embeds words.")
    has_network: bool = Field(description="Whether uploads and parts of pictures are embedded.")
    has_originals: bool = Field(description="Whether the files themselves are given out.")
    limits: Limits
    recall: Recall


class Map(VersionedResponse):
    """The map in columns; x and y are from -1 to 1."""

    images: int
    ids: list[int]
    x: list[float]
    y: list[float]
    label: list[int] = Field(description="Positions in `labels`, -1 for none.")
    labels: list[str]


class MapProgress(BaseModel):
    """The progress of a map that is being computed."""

    progress: Annotated[float, Field(ge=0, le=1)]
    doing: str


class Health(BaseModel):
    """The state of the server."""

    status: str
    version: int


class ErrorResponse(BaseModel):
    """An error, in one line that says what to do."""

    error: str
