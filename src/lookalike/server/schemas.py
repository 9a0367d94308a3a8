"""What the server answers, as its OpenAPI description has it. Addresses are relative to the page's.

A page and its server may lie below a prefix of a proxy, which knows nothing of what is in answers.
"""

from typing import Annotated

from pydantic import BaseModel, Field


class Edition(BaseModel):
    """Which state of which collection an answer is of."""

    identity: str = Field(description="Another one if another index has taken its place.")
    version: int


class Image(BaseModel):
    """An image of the index."""

    id: int = Field(description="What no other image of this index has or had.")
    path: str = Field(description="Below the root of the index, percent-encoded where it must be.")
    name: str
    label: str | None
    thumbnail: str = Field(description="Address of a JPEG of at most 320 pixels a side.")
    picture: str = Field(description="Address of a JPEG of at most 1,280 pixels a side.")


class Upload(BaseModel):
    """A picture that was uploaded, which the server remembers for a while by its key."""

    upload: str
    name: None = None
    label: None = None
    thumbnail: str
    picture: str


class Neighbor(Image):
    """A look-alike."""

    rank: int
    distance: float = Field(description="Euclidean, between vectors of length 1: 0 to 2.")


class SearchResponse(Edition):
    """The look-alikes of a query, nearest first; the query itself is left out."""

    query: Image | Upload
    engine: str = Field(
        description="exact: compared with all; approximate: with those whose signature is near."
    )
    compared: int
    images: int
    took_ms: float = Field(description="Of the search itself.")
    recall: float | None = Field(
        description="Share of the true neighbours that such searches find, as it was measured."
    )
    neighbors: list[Neighbor]


class Page(BaseModel):
    """Images in the order of their ids, and the id after which the next ones come, if any do."""

    images: list[Image]
    next: int | None
    total: int


class Some(BaseModel):
    """Images drawn at random."""

    images: list[Image]


class Label(BaseModel):
    """A label, and how many images carry it."""

    label: str
    images: int


class Labels(BaseModel):
    """The most frequent labels, and how many there are."""

    labels: list[Label]
    total: int


class Limits(BaseModel):
    """What may be asked for."""

    k: int
    upload_bytes: int
    upload_pixels: int


class Recall(BaseModel):
    """What searches find of the k true nearest neighbours, measured on this index."""

    engine: str
    asked: float
    measured: float | None = Field(description="None until it is.")
    k: int
    queries: int = Field(description="Images of the index that asked when it was measured.")


class Info(Edition):
    """What the index holds."""

    name: str
    images: int
    skipped: int
    labels: int
    model: dict[str, str | int | float | None]
    limits: Limits
    recall: Recall


class Map(Edition):
    """The index in two dimensions, column by column; x and y lie within -1 and 1."""

    images: int
    ids: list[int]
    x: list[float]
    y: list[float]
    label: list[int] = Field(description="Which of `labels`, -1 for none.")
    labels: list[str]


class Underway(BaseModel):
    """How far the map is that will be there later."""

    progress: Annotated[float, Field(ge=0, le=1)]
    doing: str


class Health(BaseModel):
    """That the server answers."""

    status: str
    version: int


class Problem(BaseModel):
    """What went wrong, in one line that says what to do."""

    error: str
