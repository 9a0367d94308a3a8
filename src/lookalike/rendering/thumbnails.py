"""Thumbnails in a folder, made by several processes while a page is written."""

import io
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lookalike import images
from lookalike.errors import ImageError, LookalikeError
from lookalike.images.decoding.sandbox import IsolatedDecoder
from lookalike.rendering.name_tile import SIDE, name_jpeg
from lookalike.system.resources import cores

THUMBNAILS = "pictures"
"""The name of the folder of thumbnails, beside the page."""
MAX_SIDE = 360
"""Pixels of the longer side; twice the width of a card, for screens of high resolution."""


@dataclass(frozen=True)
class Thumbnail:
    """A thumbnail in the folder, or why there is none."""

    path: str = ""
    """Relative to the page."""
    width: int = 0
    height: int = 0
    reason: str = ""
    """Why there is none; empty where there is one."""


RequestThumbnail = Callable[[images.Source, str], Future[Thumbnail]]


@contextmanager
def thumbnail_maker(folder: Path) -> Iterator[RequestThumbnail]:
    """Yield a function that requests a thumbnail of an image in `folder/pictures`.

    The function returns at once; the future that it returns has the thumbnail when it is ready.
    An image is made into one thumbnail however often it is requested. Images are decoded in
    sandboxed processes, so that an image that crashes a decoder costs only its own thumbnail.
    """
    (folder / THUMBNAILS).mkdir(parents=True, exist_ok=True)
    requested: dict[tuple[str, str], Future[Thumbnail]] = {}
    with IsolatedDecoder(truncated=True) as decoder:
        pool = ThreadPoolExecutor(cores() + 1)  # one reads while the others wait for decoders

        def request(source: images.Source, path: str) -> Future[Thumbnail]:
            key = (source.root, path)
            if key not in requested:
                file = folder / THUMBNAILS / f"{len(requested) + 1:06}.jpg"
                requested[key] = pool.submit(_make, decoder, source, path, file)
            return requested[key]

        try:
            yield request
        finally:
            pool.shutdown(cancel_futures=True)


def _make(decoder: IsolatedDecoder, source: images.Source, path: str, file: Path) -> Thumbnail:
    if not source.has_pictures:
        file.write_bytes(name_jpeg(images.decode_path(path)))
        return Thumbnail(f"{THUMBNAILS}/{file.name}", SIDE, SIDE)
    try:
        data = images.read(source, path)
    except LookalikeError as error:
        return Thumbnail(reason=str(error))
    try:
        jpeg = decoder.thumbnail(data, MAX_SIDE)  # its LookalikeError is not about this image
    except ImageError as error:
        return Thumbnail(reason=str(error))
    file.write_bytes(jpeg)
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as small:  # reads the header alone
        return Thumbnail(f"{THUMBNAILS}/{file.name}", *small.size)
