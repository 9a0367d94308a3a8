"""Decode the bytes of an image file to pixels, or raise the reason why that fails.

`transform`, step 1 of the workflow, is a torchvision transform and defines the preprocessing.
`resize` does the same without torch, bit for bit. `decode_pixels` is the fast path for files: its
result differs by a few levels. Tests hold both to it.
"""

import contextlib
import io
import os
import stat
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps
from PIL.ExifTags import Base

from lookalike.errors import ImageError, one_line
from lookalike.images.decoding import depth
from lookalike.images.decoding.animation import choose_frame
from lookalike.images.decoding.colour import needs_conversion, to_srgb
from lookalike.images.decoding.opening import END_OF_JPEG, Opened, open_image
from lookalike.images.decoding.preprocessing import DEFAULT, Filter, Preprocessing
from lookalike.images.decoding.reasons import PIXELS_LIMIT, reasons
from lookalike.images.decoding.transparency import add_background
from lookalike.system.extras import require

if TYPE_CHECKING:
    from torchvision.transforms import v2


try:
    import cykooz_resizer
except ImportError:  # not available for ARM under Linux: Pillow is slower and does the same
    cykooz_resizer = None

SIDE = DEFAULT.crop[0]
"""Pixels a side of the input of most networks: 224."""
MEAN = (0.485, 0.456, 0.406)
"""ImageNet's mean of red, green and blue, in 0..1."""
DEVIATION = (0.229, 0.224, 0.225)
"""ImageNet's standard deviation of red, green and blue, in 0..1."""
MIN_SCALED = 1.25
"""Pixels that a JPEG keeps when the inverse DCT scales it, for each pixel after the finer resize
that follows."""
PREPROCESSING = DEFAULT.name
"""The preprocessing of the bundled networks. Embeddings of different ones cannot be compared."""

MAX_PIXELS = PIXELS_LIMIT  # the sandbox may set a lower limit
LARGE_IMAGE_PIXELS = 32_000_000  # Pillow takes 100 megabytes and more for such an image
MAX_BYTES = 512 * 2**20
"""Larger files are not read."""

large_image_lock: contextlib.AbstractContextManager[object] = threading.Lock()
"""Held while a large image is decoded. The sandbox replaces it by its caller's lock."""
_thread_local = threading.local()  # a resizer serves one thread at a time


def transform() -> "v2.Compose":
    """Return step 1 of the workflow: resize to 224 x 224 and normalise, in torchvision.

    Returns
    -------
    A transform (https://docs.pytorch.org/vision/stable/transforms.html) from an RGB `PIL.Image` to
    a float32 tensor (3, 224, 224), normalised with ImageNet's mean and standard deviation. It
    squashes the image and crops nothing.

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


def resize(image: Image.Image, preprocessing: Preprocessing = DEFAULT) -> npt.NDArray[np.uint8]:
    """Resize and crop an RGB image for a network, by default as `transform` does.

    Returns
    -------
    uint8 (height, width, 3), by default (224, 224, 3), not normalised.

    """
    return np.asarray(preprocessing.apply(image))


def read_file(path: str | bytes | os.PathLike[str]) -> bytes:
    """Return the content of a regular file.

    Raises
    ------
    ImageError
        If there is no such file, or it is unreadable or larger than `MAX_BYTES`.

    """
    try:
        # Before opening: opening a named pipe blocks.
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
    """Decode an image file to an upright sRGB image.

    Parameters
    ----------
    data
        The bytes of a file in one of `formats.ENDINGS`.
    truncated
        Decode the readable part of a file that was cut short.

    Returns
    -------
    The largest page of a TIFF, the first frame of an animation that shows something, or the only
    image, in mode RGB.

    Raises
    ------
    ImageError
        If the file cannot be decoded. The message is the reason.

    """
    with reasons():
        return to_srgb(*_load_rgb(open_limited(data), truncated))


def decode_pixels(
    data: bytes, truncated: bool = False, preprocessing: Preprocessing = DEFAULT
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Decode and resize: nearly `resize(decode(data))`, several times as fast for large photos.

    libjpeg-turbo (https://libjpeg-turbo.org) scales large JPEGs within the inverse DCT, and colours
    are converted after the resize.

    Parameters
    ----------
    data, truncated
        As for `decode`.
    preprocessing
        That of the network.

    Returns
    -------
    pixels
        uint8 (height, width, 3), by default (224, 224, 3), not normalised.
    size
        Width and height of the upright image.

    Raises
    ------
    ImageError
        If the file cannot be decoded.

    """
    with reasons():
        opened = open_limited(data)
        if opened.is_plain_jpeg and not preprocessing.is_long(*opened.header.size):
            for missing in (b"", END_OF_JPEG):
                with contextlib.suppress(ValueError):  # damaged: Pillow may still decode it
                    return _decode_scaled_jpeg(data + missing, opened.header, preprocessing)
        with lock_if_large(opened):
            image, profile = _load_rgb(opened, truncated)
            small = preprocessing.apply(image)
        return np.asarray(to_srgb(small, profile)), image.size


def thumbnail(data: bytes, side: int, truncated: bool = False) -> bytes:
    """Decode to a small upright sRGB JPEG, without metadata such as the place of the photo.

    Parameters
    ----------
    data, truncated
        As for `decode`.
    side
        Most pixels a side. Smaller images are not enlarged.

    Raises
    ------
    ImageError
        If the file cannot be decoded.

    """
    with reasons():
        opened = open_limited(data)
        opened.draft(2 * side)
        with lock_if_large(opened):
            image, profile = _load_rgb(opened, truncated)
            image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
        image = to_srgb(image, profile)
        image.info = {}  # else the file's comment would be written too
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=85)
        return jpeg.getvalue()


def open_limited(data: bytes) -> Opened:
    """Read the header of an image of at most `MAX_PIXELS`."""
    return open_image(data, MAX_PIXELS)


def lock_if_large(opened: Opened) -> contextlib.AbstractContextManager[object]:
    """Return `large_image_lock` for a large image: it takes several times its pixels in memory."""
    return large_image_lock if opened.pixels > LARGE_IMAGE_PIXELS else contextlib.nullcontext()


def _decode_scaled_jpeg(
    data: bytes, header: Any, preprocessing: Preprocessing
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    width, height = header.size
    orientation = _read_orientation(header)
    turn = -1 if orientation in (5, 6, 7, 8) else 1  # the sides change places
    upright = header.size[::turn]
    wide, high = preprocessing.resized(*upright)[::turn]
    # Only 2, 4 and 8: other factors take longer, and differ from Pillow on damaged images.
    factor = max(
        f
        for f in (1, 2, 4, 8)
        if f == 1 or (width >= f * MIN_SCALED * wide and height >= f * MIN_SCALED * high)
    )
    scaled = simplejpeg.decode_jpeg(
        data, "RGB", min_height=-(-height // factor), min_width=-(-width // factor)
    )
    small = _small_to_srgb(_resize_fast(scaled, wide, high, preprocessing.filter), header)
    if orientation == 1 and preprocessing.crop == (high, wide):
        return small, upright
    image = Image.fromarray(small)
    if orientation != 1:
        image.info = header.info  # holds the orientation
        image = apply_orientation(image)
    return np.asarray(preprocessing.centre(image)), upright


def _small_to_srgb(small: npt.NDArray[np.uint8], header: Any) -> npt.NDArray[np.uint8]:
    profile = header.info.get("icc_profile")
    if not needs_conversion(profile, header.mode):
        return small
    image = Image.fromarray(small)
    return np.asarray(to_srgb(image.getchannel(0) if header.mode == "L" else image, profile))


def _resize_fast(
    image: npt.NDArray[np.uint8], wide: int, high: int, filter_: Filter
) -> npt.NDArray[np.uint8]:
    """Resize uint8 (height, width, 3) as Pillow does, by SIMD, to within one level of 255."""
    if cykooz_resizer is None:
        resampling = Image.Resampling[filter_.upper()]
        return np.asarray(Image.fromarray(image).resize((wide, high), resampling))
    if not hasattr(_thread_local, "resizer"):
        _thread_local.resizer = cykooz_resizer.Resizer()
    height, width, _ = image.shape
    rgb = cykooz_resizer.PixelType.U8x3
    source = cykooz_resizer.ImageData(width, height, rgb, image.tobytes())
    small = cykooz_resizer.ImageData(wide, high, rgb)
    _thread_local.resizer.resize(source, small, _resize_options(filter_))
    return np.frombuffer(small.get_buffer(), np.uint8).reshape(high, wide, 3)


@cache
def _resize_options(filter_: Filter) -> Any:
    if filter_ == "nearest":
        algorithm = cykooz_resizer.ResizeAlg.nearest()
    else:
        other_names = {"bicubic": "catmull_rom", "lanczos": "lanczos3"}
        name = other_names.get(filter_, filter_)
        algorithm = cykooz_resizer.ResizeAlg.convolution(getattr(cykooz_resizer.FilterType, name))
    return cykooz_resizer.ResizeOptions(algorithm, use_alpha=False)


def _read_orientation(image: Image.Image) -> int:
    with contextlib.suppress(Exception):  # the pixels are good even if the EXIF block is broken
        return int(image.getexif().get(Base.Orientation, 1))
    return 1


def apply_orientation(image: Image.Image) -> Image.Image:
    """Rotate or mirror an image as its EXIF orientation says."""
    if _read_orientation(image) != 1:
        with contextlib.suppress(Exception):
            return ImageOps.exif_transpose(image)
    return image


def to_upright_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow image to upright sRGB in mode RGB.

    Greyscale, palette, CMYK, LAB and deep images become RGB with eight bits a sample. Transparent
    images get a white or black background (`transparency.add_background`).

    Raises
    ------
    ImageError
        If the pixels cannot be decoded, or there are none.

    """
    with reasons():
        if not all(image.size):
            raise ImageError(f"no pixels: {image.width} x {image.height}")
        image.load()
        return to_srgb(*to_rgb(apply_orientation(image)))


def _load_rgb(opened: Opened, truncated: bool) -> tuple[Image.Image, bytes | None]:
    """Load an upright RGB image, and the profile that its colours are still to be converted by."""
    image = choose_frame(opened.load(truncated), lambda frame: to_rgb(frame)[0])
    return to_rgb(apply_orientation(image))


def to_rgb(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """Convert to mode RGB; return also the profile that the colours are still to be converted by.

    Modes whose colours have to be converted at once come without a profile.
    """
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(depth.to_bytes(np.asarray(image))[0])
    elif image.has_transparency_data:
        if image.mode in ("LA", "La"):
            image = _grey_alpha_to_rgba(image.convert("LA"), profile)
        image = add_background(image.convert("RGBA"))
    if image.mode in ("L", "CMYK", "LAB"):
        return to_srgb(image, profile).convert("RGB"), None
    return image if image.mode == "RGB" else image.convert("RGB"), profile


def _grey_alpha_to_rgba(image: Image.Image, profile: bytes | None) -> Image.Image:
    grey, alpha = image.split()
    colours = to_srgb(grey, profile).convert("RGB")
    colours.putalpha(alpha)
    return colours
