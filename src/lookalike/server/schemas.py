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


class ServedIndex(BaseModel):
    """An index of a server of several."""

    name: str
    address: str = Field(description="Of its page, relative to that of this response.")


class Info(VersionedResponse):
    """Counts, model and recall of the index."""

    name: str
    images: int
    skipped: int
    labels: int
    model: dict[str, str | int | float | None]
    has_words: bool = Field(description="Whether the model embeds words.")
    allows_changes: bool = Field(description="Whether images can be set aside.")
    has_network: bool = Field(description="Whether uploads and parts of pictures are embedded.")
    has_originals: bool = Field(description="Whether the files themselves are given out.")
    limits: Limits
    recall: Recall
    indexes: list[ServedIndex] = Field(
        description="All indexes of this server; none if it is the only one."
    )


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


class FileImage(Image):
    """An image of the index, with its file."""

    size: int | None = Field(description="Of the file in bytes; null where not known.")
    modified: str | None = Field(description="When the file was changed last, in UTC.")


class Duplicate(FileImage):
    """An image of a group of duplicates."""

    keep: bool = Field(description="Whether it is the one to keep.")
    keep_id: int = Field(description="The id of the one to keep.")
    distance: float = Field(description="To the one to keep.")
    agreement: float | None = Field(description="Of the pixels with those of it, 0 to 1.")
    same_bytes: bool = Field(description="Whether the files are equal.")
    aside: bool = Field(description="Whether it has been set aside.")


class DuplicateGroup(BaseModel):
    """A group of duplicates, the one to keep first."""

    group: int
    images: list[Duplicate]


class Duplicates(VersionedResponse):
    """A page of groups of duplicates; `next` is the `after` of the next page, if any."""

    keep: str = Field(description="The rule by which the images to keep are chosen.")
    drop: int = Field(description="Images that need not be kept, in all groups.")
    bytes: int = Field(description="The size of their files.")
    within: float = Field(description="The largest distance of a duplicate.")
    groups: list[DuplicateGroup]
    next: int | None
    total: int


class ClusterImage(FileImage):
    """An image of a cluster."""

    representative: bool


class Cluster(BaseModel):
    """A cluster: the number of its images, and the first of them, the most typical one first."""

    group: int
    count: int
    images: list[ClusterImage]


class Clusters(VersionedResponse):
    """A page of clusters, as of duplicates."""

    alone: int = Field(description="Images in no cluster.")
    groups: list[Cluster]
    next: int | None
    total: int


class Outlier(FileImage):
    """An image and how isolated it is."""

    distance: float | None = Field(description="To its k-th neighbour.")
    score: float
    suggested: str | None = Field(
        description="The label of its neighbours, where its own may be wrong."
    )


class Outliers(VersionedResponse):
    """A page of images, the most isolated first; `next` is the `after` of the next page."""

    images: list[Outlier]
    next: int | None
    total: int


class ChosenImage(BaseModel):
    """An image to set aside."""

    id: int = Field(ge=0, lt=2**63)
    keep: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="The image that is kept for it: without its file nothing is set aside.",
    )


class ChosenImages(BaseModel):
    """The body of a request to set images aside."""

    images: list[ChosenImage] = Field(min_length=1, max_length=10_000)


class AsideCounts(BaseModel):
    """How many images were set aside, under a name, and how many were not, by reason."""

    name: str | None
    done: int
    already: int
    gone: int
    alone: int
    same: int
    outside: int
    changed: int


class AsideEntry(BaseModel):
    """What was set aside at one time."""

    name: str
    images: int


class AsideList(BaseModel):
    """What was set aside, the newest first, and whether this server may change it."""

    allows_changes: bool
    aside: list[AsideEntry]


class Restored(BaseModel):
    """The number of images that were put back."""

    restored: int


class Health(BaseModel):
    """The state of the server."""

    status: str
    version: int


class CountedIndex(ServedIndex):
    """An index with the number of its images."""

    images: int


class Indexes(BaseModel):
    """The indexes of this server."""

    indexes: list[CountedIndex]


class HubHealth(BaseModel):
    """The state of a server of several indexes."""

    status: str


class ErrorResponse(BaseModel):
    """An error, in one line that says what to do."""

    error: str
