"""Files that lack something or carry too much: what counts as whole, what is taken if asked for."""

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

import lookalike
from helpers import damage
from lookalike import LookalikeError
from lookalike.errors import ImageError
from lookalike.images import IsolatedDecoder, decode, decode_pixels
from lookalike.images.decoding.raster import thumbnail

PHOTO = damage.picture(7, (640, 480))
END = b"\xff\xd9"


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


JPEGS = {
    "baseline": encoded(PHOTO, "JPEG"),
    "progressive": encoded(PHOTO, "JPEG", progressive=True),
    "grey": encoded(PHOTO.convert("L"), "JPEG"),
    "cmyk": encoded(PHOTO.convert("CMYK"), "JPEG"),
    "restarts": encoded(PHOTO, "JPEG", restart_marker_rows=2),
    "small": encoded(PHOTO.resize((96, 64)), "JPEG"),
}


@pytest.mark.parametrize("whole", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("lacking", [1, 2])
def test_a_jpeg_that_lacks_only_its_end_is_whole(whole: bytes, lacking: int) -> None:
    assert whole.endswith(END)
    cut = whole[:-lacking]
    assert np.array_equal(decode_pixels(cut)[0], decode_pixels(whole)[0])
    assert decode(cut).tobytes() == decode(whole).tobytes()
    assert thumbnail(cut, 100) == thumbnail(whole, 100)


CUTS = {
    "jpeg": (JPEGS["baseline"], 0.9),
    "progressive": (JPEGS["progressive"], 0.9),
    "cmyk": (JPEGS["cmyk"], 0.9),
    "png": (encoded(PHOTO, "PNG"), 0.9),
    "gif": (encoded(PHOTO, "GIF"), 0.9),
    "bmp": (encoded(PHOTO, "BMP"), 0.9),
    "tga": (encoded(PHOTO, "TGA"), 0.9),
    "tiff": (encoded(PHOTO, "TIFF")[:8], 1.0),
}


@pytest.mark.parametrize("name", [name for name in CUTS if name != "tiff"])
def test_what_was_cut_short_is_taken_if_asked_for(name: str) -> None:
    whole, share = CUTS[name]
    cut = whole[: int(len(whole) * share)]
    for read in (decode, decode_pixels, lambda data: thumbnail(data, 100)):
        with pytest.raises(ImageError, match="truncated"):
            read(cut)
    wanted, got = decode_pixels(whole)[0].astype(int), decode_pixels(cut, truncated=True)[0]
    top = np.abs(wanted - got).mean(axis=2)[:150] if name != "bmp" else np.zeros(1)
    if name != "tga":  # those two are stored from the bottom up
        assert top.mean() < 8
    assert decode(cut, truncated=True).size == PHOTO.size
    assert len(thumbnail(cut, 100, truncated=True)) > 300
    with IsolatedDecoder(truncated=True) as decoder:
        assert np.array_equal(decoder.decode_pixels(cut)[0], got)
    with pytest.raises(ImageError, match="truncated"):  # and only then
        decode(cut)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_what_is_no_image_is_none_if_truncated_ones_are_asked_for_either() -> None:
    for data in (b"", b"I am no picture.", JPEGS["baseline"][:20], CUTS["tiff"][0]):
        with pytest.raises(ImageError):
            decode(data, truncated=True)


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "tEXt"])
def test_a_png_with_a_lot_of_text_is_read(kind: str) -> None:
    text = "All work and no play. " * 150_000
    about = PngInfo()
    if kind == "iTXt":
        about.add_itxt("Comment", text, zip=True)
    else:
        about.add_text("Comment", text, zip=kind == "zTXt")
    data = encoded(PHOTO, "PNG", pnginfo=about)
    assert decode(data).tobytes() == PHOTO.tobytes()
    behind = data.index(b"IEND") - 4  # the same after the pixels
    chunk = data[data.index(kind.encode()) - 4 : data.index(b"IDAT") - 4]
    moved = encoded(PHOTO, "PNG")
    moved = moved[: moved.index(b"IEND") - 4] + chunk + moved[moved.index(b"IEND") - 4 :]
    assert behind > 0 and decode(moved).tobytes() == PHOTO.tobytes()


def test_a_png_with_a_large_profile_is_read() -> None:
    profile = np.random.default_rng(0).bytes(3_000_000)  # which is none, and ignored
    data = encoded(PHOTO, "PNG", icc_profile=profile)
    assert len(zlib.compress(profile)) > 2_000_000
    assert decode(data).tobytes() == PHOTO.tobytes()


def test_an_index_remembers_that_truncated_images_count(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    whole = [encoded(damage.picture(seed, (320, 240)), "JPEG", quality=95) for seed in range(3)]
    (photos / "whole.jpg").write_bytes(whole[0])
    (photos / "cut.jpg").write_bytes(whole[1][:-800])
    usual = lookalike.create_index(photos, out=tmp_path / "usual.index", precision="f32")
    assert (len(usual), usual.info()["skipped"]) == (1, 1)
    index = lookalike.create_index(
        photos, out=tmp_path / "x.index", precision="f32", truncated=True
    )
    assert (len(index), index.info()["skipped"]) == (2, 0)
    (photos / "more.jpg").write_bytes(whole[2][:-800])
    index.sync()
    again = lookalike.open_index(tmp_path / "x.index")
    assert (len(again), again.info()["skipped"]) == (3, 0)
    query = tmp_path / "query.jpg"
    query.write_bytes(whole[2][:-900])
    assert again.search(query, k=1)[0].path == "more.jpg"
    with pytest.raises(ImageError, match="truncated"):
        usual.search(query, k=1)
    with pytest.raises(LookalikeError, match="with `truncated`"):
        lookalike.create_index(photos, out=tmp_path / "x.index", precision="f32")
