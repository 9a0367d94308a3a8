"""Why an input did not become pixels: one line for a table of skipped inputs."""

import contextlib
import warnings
from collections.abc import Iterator

from PIL import Image, UnidentifiedImageError

from lookalike.errors import ImageError
from lookalike.extras import MissingExtra

PIXELS_LIMIT = 178_956_970  # Pillow's own limit: a quarter of a gigabyte at 24 bits, doubled
MIN_SIDE = 8  # pixels; anything thinner is a spacer or a tracking pixel, not a picture
NO_IMAGE = "not an image that can be read (JPEG, PNG, WebP, AVIF, GIF, TIFF, BMP and others)"


@contextlib.contextmanager
def reasons() -> Iterator[None]:
    """Turn whatever a decoder raises into `ImageError`, and keep its warnings to itself."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large, odd or sloppy, but decodable: no noise
            yield
    except ImageError:
        raise
    except MissingExtra as error:
        raise ImageError(str(error)) from None
    except Image.DecompressionBombError:
        raise ImageError(f"too many pixels: over {PIXELS_LIMIT:,}") from None
    except UnidentifiedImageError:
        raise ImageError(NO_IMAGE) from None
    except MemoryError:
        raise ImageError("too large for the memory at hand") from None
    except Exception as error:  # decoders raise whatever they meet: SyntaxError, struct.error, ...
        message = " ".join(str(error).split()) or type(error).__name__
        if "nsufficient memory" in message:  # OpenCV has an error of its own
            raise ImageError("too large for the memory at hand") from None
        raise ImageError(f"damaged image: {message[:200]}") from None
