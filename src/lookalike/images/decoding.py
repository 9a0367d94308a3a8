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
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps
from PIL.ExifTags import Base

from lookalike.errors import ImageError, one_line
from lookalike.extras import require
from lookalike.images import depth
from lookalike.images.colour import is_other, to_srgb
from lookalike.images.frames import show_structure
from lookalike.images.opening import END_OF_JPEG, Opened, open_image
from lookalike.images.paper import on_paper
from lookalike.images.reasons import PIXELS_LIMIT, reasons

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
PREPROCESSING = "squash-224-bilinear-4"
"""Version of the preprocessing. Embeddings made with different versions do not mix."""

MAX_PIXELS = PIXELS_LIMIT  # a process of `decoding_process` may be given less
LARGE = 32_000_000  # pixels: a whole photo that Pillow decodes, 100 megabytes and more
MAX_BYTES = 512 * 2**20


def transform() -> "v2.Compose":
    """Step 1: resize to 224 x 224 and normalise, as torchvision transforms.

    Takes an RGB `PIL.Image`, gives a float32 tensor of shape (3, 224, 224), normalised with
    ImageNet's mean and deviation. The picture is squashed, not cropped: nothing is cut off.
    https://docs.pytorch.org/vision/stable/transforms.html
    """
    require("images.transform", "torch")
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
    """Return the content of a regular file; `ImageError` where there is none to be had."""
    try:
        # Asked before opening: to open a named pipe would wait for ever.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not a regular file")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"file of {status.st_size:,} bytes, over the limit of {MAX_BYTES:,}")
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise ImageError("broken link" if os.path.islink(path) else "no such file") from None
    except OSError as error:
        raise ImageError(f"unreadable: {one_line(error)}") from None


def decode(data: bytes, truncated: bool = False) -> Image.Image:
    """Decode an image of one of `formats.ENDINGS` to an upright RGB image, in sRGB.

    Of several pages it is the largest, of an animation the first frame that shows something.
    `truncated` takes also what there is of a file that was cut short. Raises `ImageError` with the
    reason for anything else.
    """
    with reasons():
        return _converted(*_upright(_open(data), truncated))


def decode_pixels(
    data: bytes, truncated: bool = False
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Decode and resize in one go: uint8 (224, 224, 3), and width and height of the upright image.

    What `pixels(decode(data))` gives, or nearly so, and several times quicker for large photos:
    where a JPEG is to be made smaller by two or more, libjpeg-turbo leaves that out of the
    inverse DCT (https://libjpeg-turbo.org), and colours are converted last. Raises `ImageError` as
    `decode` does.
    """
    with reasons():
        opened = _open(data)
        if opened.is_plain_jpeg:
            for missing in (b"", END_OF_JPEG):
                with contextlib.suppress(ValueError):  # sloppy or damaged: Pillow has the last word
                    return _scaled_jpeg(data + missing, opened.header)
        # Large ones take several times what their pixels do, here and there: one at a time.
        with large if opened.pixels > LARGE else contextlib.nullcontext():
            image, profile = _upright(opened, truncated)
            small = Image.fromarray(pixels(image))
        return np.asarray(_converted(small, profile)), image.size


def thumbnail(data: bytes, side: int, truncated: bool = False) -> bytes:
    """Decode to an upright JPEG of at most `side` pixels a side, never enlarged, in sRGB.

    Nothing of the file comes along but its picture: no place where it was taken. Raises
    `ImageError` as `decode` does.
    """
    with reasons():
        opened = _open(data)
        opened.draft(2 * side)  # what libjpeg-turbo leaves out need not be scaled
        with large if opened.pixels > LARGE else contextlib.nullcontext():
            image, profile = _upright(opened, truncated)
            image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
        image = _converted(image, profile)
        image.info = {}  # else the comment would be written again
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=85)
        return jpeg.getvalue()


def _open(data: bytes) -> Opened:
    return open_image(data, MAX_PIXELS)


def _scaled_jpeg(data: bytes, header: Any) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    # Only by 2, 4 and 8: other scalings take longer, and disagree with Pillow on damaged pictures.
    width, height = header.size
    factor = max(f for f in (1, 2, 4, 8) if f == 1 or min(width, height) >= f * ROOM)
    scaled = simplejpeg.decode_jpeg(
        data, "RGB", min_height=-(-height // factor), min_width=-(-width // factor)
    )
    squashed = _in_srgb(_squash(scaled), header)
    orientation = _orientation(header)
    if orientation == 1:
        return squashed, header.size
    small = Image.fromarray(squashed)
    small.info = header.info  # has the orientation; a square may as well be turned when small
    lying = orientation in (5, 6, 7, 8)
    return np.asarray(_turned(small)), header.size[::-1] if lying else header.size


def _in_srgb(small: npt.NDArray[np.uint8], header: Any) -> npt.NDArray[np.uint8]:
    profile = header.info.get("icc_profile")
    if not profile or not is_other(profile, header.mode):
        return small
    picture = Image.fromarray(small)
    picture = picture.getchannel(0) if header.mode == "L" else picture
    return np.asarray(to_srgb(picture, profile))


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
    """Bring a Pillow image to RGB in sRGB, turned as its EXIF orientation says.

    Greyscale, palette, CMYK, LAB and more than eight bits become RGB; what is transparent is laid
    on paper (`paper.on_paper`). Raises `ImageError` if its pixels cannot be decoded or there are
    none.
    """
    with reasons():
        if not all(image.size):
            raise ImageError(f"no pixels: {image.width} x {image.height}")
        image.load()
        return _converted(*_to_rgb(_turned(image)))


def _upright(opened: Opened, truncated: bool) -> tuple[Image.Image, bytes | None]:
    """Load an image, upright and RGB, in its own colours; with the profile that they still need."""
    image = opened.load(truncated)
    image = show_structure(image, lambda frame: _to_rgb(frame)[0])
    return _to_rgb(_turned(image))


def _to_rgb(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """Bring an image to RGB; with its profile, where its colours are still those of that one."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(depth.to_bytes(np.asarray(image))[0])
    elif image.has_transparency_data:
        if image.mode in ("LA", "La"):
            image = _grey_with_alpha(image.convert("LA"), profile)
        image = on_paper(image.convert("RGBA"))
    if image.mode in ("L", "CMYK", "LAB"):
        return to_srgb(image, profile).convert("RGB"), None
    return image if image.mode == "RGB" else image.convert("RGB"), profile


def _grey_with_alpha(image: Image.Image, profile: bytes | None) -> Image.Image:
    grey, alpha = image.split()
    colours = to_srgb(grey, profile).convert("RGB")
    colours.putalpha(alpha)
    return colours


def _converted(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert RGB to sRGB, as its profile says."""
    return to_srgb(image, profile)
