"""Types of arrays."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Vectors: TypeAlias = npt.NDArray[np.float32]
"""Embeddings, float32."""

Numbers = npt.NDArray[np.int64]
"""Ids, positions or counts, int64."""

Floats: TypeAlias = npt.NDArray[np.float64]
"""Measured values, float64."""

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""Images, uint8."""

Mask = npt.NDArray[np.bool_]
"""Which items to take, bool."""
