"""Real photos, where they are at hand."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("LOOKALIKE_PHOTOS", Path(__file__).parents[3] / "shared" / "data"))
UNSEEN = SHARED / "stanford-cars-unseen"

needs_photos = pytest.mark.skipif(
    not UNSEEN.exists(), reason="real photos are not at hand: set LOOKALIKE_PHOTOS"
)
