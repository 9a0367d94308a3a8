"""A collection with copies, to be cleaned up."""

import shutil
from pathlib import Path

from PIL import Image

import lookalike
from lookalike import Index
from lookalike.images.synthetic import DrawnCollection

EQUAL, SMALLER = ("00003.jpg", "00010.jpg"), "00021.jpg"
"""Photos that are there twice, and one that is there in a smaller size as well."""


def with_copies(index: Index, drawn: DrawnCollection, folder: Path) -> Index:
    """Copy an index and its photos into a folder; add copies of three photos."""
    shutil.copytree(index.path, folder / "cars.index")
    shutil.copytree(drawn.photos, folder / "photos")
    (folder / "photos" / "copies").mkdir()
    for name in EQUAL:
        shutil.copy2(drawn.photos / name, folder / "photos" / "copies" / name)
    with Image.open(drawn.photos / SMALLER) as photo:
        small = photo.resize((photo.width * 3 // 4, photo.height * 3 // 4))
        small.save(folder / "photos" / "copies" / "smaller.jpg", quality=88)
    copied = lookalike.open_index(folder / "cars.index")
    copied.relocate(folder / "photos")
    copied.sync()
    return lookalike.open_index(folder / "cars.index")
