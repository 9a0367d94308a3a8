"""Names for arrays by what they hold."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Vectors: TypeAlias = npt.NDArray[np.float32]

Numbers = npt.NDArray[np.int64]

Floats: TypeAlias = npt.NDArray[np.float64]

Pixels: TypeAlias = npt.NDArray[np.uint8]

Mask = npt.NDArray[np.bool_]
