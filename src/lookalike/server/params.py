"""What requests may say, within which bounds."""

from typing import Annotated, Any

from fastapi import Path, Query

from lookalike.server import schemas

MOST = 200
"""Neighbours or images in one answer."""
SIZES = (160, 320, 640, 1280)
"""Pixels a side that small pictures have at most."""

_ID = {"ge": 0, "lt": 2**63}
Id = Annotated[int, Path(alias="id", description="The id of an image.", **_ID)]
K = Annotated[int, Query(ge=1, le=MOST, description="How many neighbours.")]
LabelFilter = Annotated[
    list[str], Query(alias="label", max_length=100, description="One of these.")
]
PathFilter = Annotated[
    list[str], Query(alias="path", max_length=20, description="Globs for paths, `*` as in a shell.")
]
Within = Annotated[float | None, Query(ge=0, le=2, description="The largest distance.")]
Seed = Annotated[int | None, Query(description="Makes the draw repeatable.", **_ID)]
ImageId = Annotated[int | None, Query(description="An image's id.", **_ID)]
UploadKey = Annotated[str | None, Query(max_length=64, description="An upload's key.")]
After = Annotated[int | None, Query(description="The last id seen.", **_ID)]
Size = Annotated[int, Query(description=f"Pixels a side at most: one of {SIZES}.")]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the answers to what cannot be done."""
    return {status: {"model": schemas.Problem} for status in (*statuses, 401, 403, 422)}
