"""From the bytes of a file to pixels, or to the reason why there are none.

Step 1 of the workflow is `transform`, a torchvision transform. It is the definition of the
preprocessing. `pixels` is the same road without torch, and a test holds the two equal;
`decode_pixels` is the quick road for files, and a test holds it near.
"""

import contextlib
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base

from lookalike.images.formats import HEIC, load_plugin, sniff

try:
    import cykooz_resizer as resizing
except ImportError:  # there is none yet for ARM under Linux: Pillow does the same, slower
    resizing = None

if TYPE_CHECKING:
    from torchvision.transforms import v2

SIDE = 224
MEAN = (0.485, 0.456, 0.406)  # of ImageNet's red, green and blue, in 0..1
DEVIATION = (0.229, 0.224, 0.225)
ROOM = 280  # pixels a side that a scaled JPEG keeps: scaling is cruder than the resize after it
PREPROCESSING = "squash-224-bilinear-3"
"""Version of the preprocessing. Embeddings made with different versions do not mix."""

MAX_PIXELS = 178_956_970  # Pillow's own limit: a quarter of a gigabyte at 24 bits, doubled
LARGE = 32_000_000  # pixels: a whole photo that Pillow decodes, 100 megabytes and more
MAX_BYTES = 512 * 2**20
NO_IMAGE = "not an image that can be read (JPEG, PNG, WebP, AVIF, GIF, TIFF, BMP and others)"
MIN_SIDE = 8  # pixels; anything thinner is a spacer or a tracking pixel, not a picture


class BadImage(ValueError):
    """Why an input did not become pixels: one line, fit for a table of skipped inputs."""


def transform() -> "v2.Compose":
    """Step 1: resize to 224 x 224 and normalise, as torchvision transforms.

    Takes an RGB `PIL.Image`, gives a float32 tensor of shape (3, 224, 224), normalised with
    ImageNet's mean and deviation. The picture is squashed, not cropped: nothing is cut off.
    https://docs.pytorch.org/vision/stable/transforms.html
    """
    import torch
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.Resize((SIDE, SIDE), interpolation=v2.InterpolationMode.BILINEAR, antialias=True),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, DEVIATION),
        ]
    )


def pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Resize an RGB image as `transform` does: uint8, shape (224, 224, 3), not yet normalised."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def read(path: str | bytes | os.PathLike[str]) -> bytes:
    """Return the content of a regular file; `BadImage` where there is none to be had."""
    try:
        # Asked before opening: to open a named pipe would wait for ever.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("not a regular file")
        if status.st_size > MAX_BYTES:
            raise BadImage(f"file of {status.st_size:,} bytes, over the limit of {MAX_BYTES:,}")
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise BadImage("broken link" if os.path.islink(path) else "no such file") from None
    except OSError as error:
        raise BadImage(f"unreadable: {error.strerror or error}") from None


def decode(data: bytes) -> Image.Image:
    """Decode an image of one of `formats.ENDINGS` to an upright RGB image.

    Raises `BadImage` with the reason for anything else.
    """
    with _reasons():
        return upright(_open(data))


def decode_pixels(data: bytes) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Decode and resize in one go: uint8 (224, 224, 3), and width and height of the upright image.

    What `pixels(decode(data))` gives, or nearly so, and several times quicker for large photos:
    where a JPEG is to be made smaller by two or more, libjpeg-turbo leaves that out of the
    inverse DCT (https://libjpeg-turbo.org). Raises `BadImage` as `decode` does.
    """
    with _reasons():
        image = _open(data)
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            with contextlib.suppress(ValueError):  # sloppy or damaged: Pillow has the last word
                return _scaled_jpeg(data, image)
        # Large ones take several times what their pixels do, here and there: one at a time.
        with large if image.width * image.height > LARGE else contextlib.nullcontext():
            image = upright(image)
            return pixels(image), image.size


def thumbnail(data: bytes, side: int) -> bytes:
    """Decode to an upright JPEG of at most `side` pixels a side, never enlarged.

    Nothing of the file comes along but its picture and, of an RGB one, its colour profile: no place
    where it was taken. Raises `BadImage` as `decode` does.
    """
    with _reasons():
        image = _open(data)
        image.draft("RGB", (2 * side, 2 * side))  # what libjpeg-turbo leaves out need not be scaled
        profile = image.info.get("icc_profile") if image.mode == "RGB" else None
        with large if image.width * image.height > LARGE else contextlib.nullcontext():
            image = upright(image)
            image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
        image.info = {}  # else the comment would be written again
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=85, icc_profile=profile)
        return jpeg.getvalue()


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BadImage("empty file")
    name = sniff(data)
    if name is None:
        raise BadImage(NO_IMAGE)
    if not load_plugin(name):
        raise BadImage(f"HEIC, which is not read here: {HEIC}")
    image = Image.open(io.BytesIO(data), formats=[name])
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImage(f"too many pixels: {width} x {height}")
    if min(width, height) < MIN_SIDE:
        raise BadImage(f"smaller than {MIN_SIDE} pixels on a side: {width} x {height}")
    return image


def _scaled_jpeg(data: bytes, header: Image.Image) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    # Only by 2, 4 and 8: other scalings take longer, and disagree with Pillow on damaged pictures.
    width, height = header.size
    factor = max(f for f in (1, 2, 4, 8) if f == 1 or min(width, height) >= f * ROOM)
    scaled = simplejpeg.decode_jpeg(
        data, "RGB", min_height=-(-height // factor), min_width=-(-width // factor)
    )
    squashed = _squash(scaled)
    orientation = _orientation(header)
    if orientation == 1:
        return squashed, header.size
    small = Image.fromarray(squashed)
    small.info = header.info  # has the orientation; a square may as well be turned when small
    lying = orientation in (5, 6, 7, 8)
    return np.asarray(_turned(small)), header.size[::-1] if lying else header.size


# Held while a large picture is decoded. A process of `decoding_process` asks its caller instead.
large: contextlib.AbstractContextManager[object] = threading.Lock()
_of_thread = threading.local()  # a resizer serves one caller at a time


def _squash(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Resize uint8 (height, width, 3) as `pixels` does, to within one level of 255.

    The same triangle filter, by the vector instructions of the processor.
    """
    if resizing is None:
        return pixels(Image.fromarray(picture))
    if not hasattr(_of_thread, "resizer"):
        triangle = resizing.ResizeAlg.convolution(resizing.FilterType.bilinear)
        _of_thread.options = resizing.ResizeOptions(triangle, use_alpha=False)
        _of_thread.resizer = resizing.Resizer()
    height, width, _ = picture.shape
    large = resizing.ImageData(width, height, resizing.PixelType.U8x3, picture.tobytes())
    small = resizing.ImageData(SIDE, SIDE, resizing.PixelType.U8x3)
    _of_thread.resizer.resize(large, small, _of_thread.options)
    return np.frombuffer(small.get_buffer(), np.uint8).reshape(SIDE, SIDE, 3)


def _orientation(image: Image.Image) -> int:
    with contextlib.suppress(Exception):  # a broken EXIF block leaves good pixels
        return int(image.getexif().get(Base.Orientation, 1))
    return 1


def _turned(image: Image.Image) -> Image.Image:
    if _orientation(image) != 1:
        with contextlib.suppress(Exception):
            return ImageOps.exif_transpose(image)
    return image


def upright(image: Image.Image) -> Image.Image:
    """Bring a Pillow image to RGB, turned as its EXIF orientation says.

    Greyscale, palette, CMYK and 16-bit become RGB; what is transparent becomes white. Raises
    `BadImage` if its pixels cannot be decoded or there are none.
    """
    with _reasons():
        if not all(image.size):
            raise BadImage(f"no pixels: {image.width} x {image.height}")
        image.load()
        return _to_rgb(_turned(image))


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Turn whatever a decoder raises into `BadImage`, and keep its warnings to itself."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large, odd or sloppy, but decodable: no noise
            yield
    except BadImage:
        raise
    except Image.DecompressionBombError:
        raise BadImage(f"too many pixels: over {MAX_PIXELS:,}") from None
    except UnidentifiedImageError:
        raise BadImage(NO_IMAGE) from None
    except MemoryError:
        raise BadImage("too large for the memory at hand") from None
    except Exception as error:  # decoders raise whatever they meet: SyntaxError, struct.error, ...
        message = " ".join(str(error).split()) or type(error).__name__
        raise BadImage(f"damaged image: {message[:200]}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        paper = Image.new("RGB", image.size, "white")
        paper.paste(image, mask=image)
        return paper
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits or floating point: Pillow would clip it at 255, so scale it."""
    values = np.asarray(image).astype(np.float32)
    top = float(np.nanmax(values))
    if image.mode == "F":
        white = max(top, 1.0)
    elif image.mode.startswith("I;16") or 255 < top < 2**16:
        white = 2**16 - 1
    else:
        white = 255 if top <= 255 else 2**31 - 1
    np.nan_to_num(values, copy=False)
    values *= 255 / white
    np.rint(values, out=values)  # in place, for it may be large
    grey = values.clip(0, 255, out=values).astype(np.uint8)
    del values
    return Image.fromarray(grey).convert("RGB")
