"""Small copies of pictures in a folder, made by several processes while a page is written."""

import io
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lookalike import images
from lookalike.errors import ImageError, LookalikeError
from lookalike.images.isolated import IsolatedDecoder
from lookalike.spark import cores

THUMBNAILS = "pictures"
SIDE = 360
"""Pixels that the longer side has at most; twice what a card shows, for fine screens."""


@dataclass(frozen=True)
class Thumbnail:
    """A small picture in the folder, or why there is none."""

    name: str = ""
    width: int = 0
    height: int = 0
    reason: str = ""


Ask = Callable[[images.Source, str], Future[Thumbnail]]


@contextmanager
def thumbnails(folder: Path) -> Iterator[Ask]:
    """Give a function that has `folder/pictures` get a small copy of an image, once an image.

    It returns at once; what it returns has the answer when it is ready. Images are decoded in
    processes apart: one that was made to crash a decoder costs its own picture.
    """
    (folder / THUMBNAILS).mkdir(parents=True, exist_ok=True)
    asked: dict[tuple[str, str], Future[Thumbnail]] = {}
    with IsolatedDecoder(truncated=True) as decoder:
        pool = ThreadPoolExecutor(cores() + 1)  # one reads while the others wait for decoders

        def ask(source: images.Source, path: str) -> Future[Thumbnail]:
            key = (source.root, path)
            if key not in asked:
                file = folder / THUMBNAILS / f"{len(asked) + 1:06}.jpg"
                asked[key] = pool.submit(_make, decoder, source, path, file)
            return asked[key]

        try:
            yield ask
        finally:
            pool.shutdown(cancel_futures=True)


def _make(decoder: IsolatedDecoder, source: images.Source, path: str, file: Path) -> Thumbnail:
    try:
        data = images.read(source, path)
    except LookalikeError as error:
        return Thumbnail(reason=str(error))
    try:
        jpeg = decoder.thumbnail(data, SIDE)
    except ImageError as error:
        return Thumbnail(reason=str(error))
    file.write_bytes(jpeg)
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as small:  # its header alone
        return Thumbnail(file.name, *small.size)
