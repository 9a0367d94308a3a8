"""Turn whatever a decoder raises into an `ImageError` with a one-line reason."""

import contextlib
import warnings
from collections.abc import Iterator

from PIL import Image, UnidentifiedImageError

from lookalike.errors import ImageError
from lookalike.system.extras import MissingExtra

PIXELS_LIMIT = 178_956_970  # twice Pillow's limit, a quarter of a gigabyte at 24 bits
MIN_SIDE = 8  # pixels; narrower images are spacers or tracking pixels
NO_IMAGE = "not an image that can be read (JPEG, PNG, WebP, AVIF, GIF, TIFF, BMP and others)"


@contextlib.contextmanager
def reasons() -> Iterator[None]:
    """Raise every error of the block as `ImageError`; hide warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the image is unusual and still decodable
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
    except Exception as error:  # decoders also raise SyntaxError, struct.error, ...
        message = " ".join(str(error).split()) or type(error).__name__
        if "nsufficient memory" in message:  # OpenCV's own error
            raise ImageError("too large for the memory at hand") from None
        raise ImageError(f"damaged image: {message[:200]}") from None
