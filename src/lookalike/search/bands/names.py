"""The names of the four bands of distance."""

from typing import Literal, get_args

from lookalike.errors import LookalikeError, either

Band = Literal["same photo", "close", "similar", "weak"]
"""The names of the bands, nearest first."""
BANDS: tuple[Band, ...] = get_args(Band)
NOT_MEASURED = "not measured yet: the next search shows them"


def check_band(band: str | None) -> None:
    """Raise `LookalikeError` for an unknown band."""
    if band is not None and band not in BANDS:
        raise LookalikeError(f"unknown band {band!r}: choose {either(BANDS)}")
