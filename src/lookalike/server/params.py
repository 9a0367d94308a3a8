"""Parameters of requests, and their bounds."""

from typing import Annotated, Any

from fastapi import Depends, HTTPException, Path, Query

from lookalike.errors import LookalikeError
from lookalike.search.bands.names import Band
from lookalike.search.filters import MAX_CONDITION_CHARS, Filter
from lookalike.server import schemas
from lookalike.server.parts import PATTERN

MAX_RESULTS = 200
"""Largest number of neighbours or images in a response."""
MAX_TEXT_CHARS = 1000
"""Largest number of characters of a query in words."""
ALLOWED_SIDES = (160, 320, 640, 1280)
"""Allowed lengths of the longer side of a thumbnail, in pixels."""

_ID = {"ge": 0, "lt": 2**63}
Id = Annotated[int, Path(alias="id", description="The id of an image.", **_ID)]
K = Annotated[int, Query(ge=1, le=MAX_RESULTS, description="Number of neighbours.")]
Key = Annotated[
    str | None,
    Query(max_length=1000, description="The key of a row, where vectors have keys of the user."),
]
Words = Annotated[
    str | None,
    Query(max_length=MAX_TEXT_CHARS, description="Words, where the model embeds them."),
]
Seed = Annotated[int | None, Query(description="Random seed.", **_ID)]
ImageId = Annotated[int | None, Query(description="The id of an image of the index.", **_ID)]
UploadKey = Annotated[str | None, Query(max_length=64, description="The key of an upload.")]
BoxText = Annotated[
    str | None,
    Query(
        max_length=64,
        pattern=PATTERN,
        description="Search for a part of the picture: left,top,right,bottom as shares of its "
        "sides, from 0 to 1.",
    ),
]
After = Annotated[int | None, Query(description="The last id of the previous page.", **_ID)]
Size = Annotated[int, Query(description=f"Longer side in pixels: one of {ALLOWED_SIDES}.")]


def _filter_of(
    labels: Annotated[
        list[str],
        Query(alias="label", max_length=100, description="Only images with one of these labels."),
    ] = [],  # noqa: B006 - FastAPI copies it
    paths: Annotated[
        list[str],
        Query(
            alias="path",
            max_length=20,
            description="Only images whose path matches one of these globs.",
        ),
    ] = [],  # noqa: B006
    where: Annotated[
        str | None,
        Query(
            max_length=MAX_CONDITION_CHARS,
            description="Only images for which a condition in SQL holds, such as `width > 640`.",
        ),
    ] = None,
) -> Filter:
    try:
        return Filter.of(labels or None, paths or None, where)
    except LookalikeError as error:
        raise HTTPException(422, str(error)) from None


MinBand = Annotated[
    Band | None, Query(description="Leave out neighbours of a weaker band than this.")
]
AllCopies = Annotated[
    bool,
    Query(
        description="Whether each copy of a photo is a neighbour of its own. Else the copies of "
        "one photo are one neighbour, with their number."
    ),
]
ImageFilter = Annotated[Filter, Depends(_filter_of)]


def within_of(metric: str) -> Any:
    """Return the default of the largest distance, with its bounds: 0 to 2 for vectors of length 1.

    The bounds are in the description of the routes, so they are decided when these are made.
    """
    largest = {"le": 2} if metric == "cosine" else {"allow_inf_nan": False}
    return Query(None, ge=0, description="Largest distance.", **largest)


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error responses, for OpenAPI."""
    return {status: {"model": schemas.ErrorResponse} for status in (*statuses, 401, 403, 422)}
