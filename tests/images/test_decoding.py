"""From bytes to pixels: every format and mode comes out right, everything else says why not."""

import io
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from PIL import Image

from helpers.rights import without_rights
from lookalike.errors import ImageError
from lookalike.images import SIDE, decode, decode_pixels, readable_endings, resize, sniff, transform
from lookalike.images.decoding.formats import FIRST_BYTES
from lookalike.images.decoding.raster import DEVIATION, MAX_BYTES, MEAN, read_file
from lookalike.images.decoding.reasons import MIN_SIDE
from lookalike.images.synthetic.designs import CLASSES
from lookalike.images.synthetic.photo import snapshot

Bytes = npt.NDArray[np.uint8]

# Red, green, blue and dark: four corners that no turn and no mirror leaves where they are.
PICTURE = np.zeros((32, 48, 3), np.uint8)
PICTURE[:16, :24], PICTURE[:16, 24:] = (200, 30, 40), (30, 180, 60)
PICTURE[16:, :24], PICTURE[16:, 24:] = (40, 50, 210), (20, 20, 20)
BLACK = np.zeros_like(PICTURE)
RAMP = np.linspace(0, 1, 32 * 32).reshape(32, 32)  # all greys
LOSSY = 14


def encoded(image: Image.Image | npt.NDArray[Any], kind: str, **options: Any) -> bytes:
    """Save to memory."""
    out = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(out, kind, **options)
    return out.getvalue()


def corners(image: Image.Image | Bytes) -> Bytes:
    """The middles of the four quarters: what lossy formats keep."""
    array = np.asarray(image)
    height, width = array.shape[:2]
    return array[height // 4 :: height // 2, width // 4 :: width // 2].astype(np.uint8)


def furthest(a: Image.Image | Bytes, b: Image.Image | Bytes) -> int:
    one, other = np.asarray(a).astype(int), np.asarray(b).astype(int)
    assert one.shape == other.shape
    return int(np.abs(one - other).max())


def reason_of(call: Callable[[], object]) -> str:
    """Call what must raise `ImageError`; its reason, one line that is the same on every run."""
    with pytest.raises(ImageError) as caught:
        call()
    reason = str(caught.value)
    assert reason and reason.isprintable()
    assert not re.search("0x[0-9a-f]{4}|object at", reason), reason
    return reason


# --- formats ------------------------------------------------------------------------------------

SECOND = {"save_all": True, "append_images": [Image.fromarray(BLACK)]}


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("PNG", SECOND, 0),
        ("BMP", {}, 0),
        ("GIF", {}, 0),
        ("GIF", SECOND, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 90}, LOSSY),
        ("WEBP", {"lossless": True, **SECOND}, 0),
        ("TIFF", {}, 0),
        ("TIFF", SECOND, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "tiff_adobe_deflate"}, 0),
        ("TIFF", {"compression": "jpeg", "quality": 95}, LOSSY),
        ("JPEG", {"quality": 95}, LOSSY),
        ("JPEG", {"quality": 95, "progressive": True}, LOSSY),
        ("MPO", {"quality": 95, **SECOND}, LOSSY),
        ("AVIF", {"quality": 95}, LOSSY),
        ("AVIF", {"quality": 95, **SECOND}, LOSSY),
        ("JPEG2000", {}, 0),
        ("JPEG2000", {"no_jp2": True}, 0),
        ("PPM", {}, 0),
        ("TGA", {}, 0),
        ("TGA", {"compression": "tga_rle"}, 0),
        ("ICO", {"sizes": [(48, 32), (16, 16)]}, 0),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else str(value),
)
def test_formats(kind: str, options: dict[str, Any], tolerance: int) -> None:
    data = encoded(PICTURE, kind, **options)
    with Image.open(io.BytesIO(data)) as stored:
        assert stored.format == kind
        assert getattr(stored, "n_frames", 1) == (2 if "save_all" in options else 1)
    image = decode(data)
    assert (image.mode, image.size) == ("RGB", (48, 32))
    if tolerance:
        assert furthest(corners(image), corners(PICTURE)) <= tolerance
    else:
        assert furthest(image, PICTURE) == 0


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P"])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "JPEG2000", "PPM", "TGA", "ICO"])
def test_a_format_is_known_by_its_first_bytes(kind: str, mode: str) -> None:
    wanted = {("JPEG2000", "P"): "RGB", ("JPEG2000", "1"): "L", ("PPM", "P"): "RGB"}
    data = encoded(Image.fromarray(PICTURE).convert(wanted.get((kind, mode), mode)), kind)
    assert sniff(data[:FIRST_BYTES]) == kind
    assert decode(data).size == ((32, 21) if kind == "ICO" else (48, 32))


@pytest.mark.parametrize("name", ["heic", "mif1", "not installed"])
def test_heic(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heif.from_pillow(Image.fromarray(PICTURE)).save(buffer, quality=95)
    data = buffer.getvalue()
    if name == "mif1":  # named by what it is compatible with
        data = data.replace(b"ftypheic", b"ftypmif1", 1)
    assert sniff(data) == "HEIF"
    if name == "not installed":
        monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        assert ".heic" not in readable_endings()
        assert "lookalike[heic]" in reason_of(lambda: decode(data))
        return
    assert ".heic" in readable_endings()
    assert furthest(corners(decode(data)), corners(PICTURE)) <= LOSSY


@pytest.mark.parametrize(
    "first",
    [
        *[b"", b"P", b"Python is no picture\n" * 4, b"<svg xmlns=", b"%PDF-1.7", b"8BPS\0\1"],
        *[b"\0\0\0\x18ftypmp42" + bytes(60), b"\0\0\0\x20ftypisom" + bytes(60), bytes(64)],
        *[b"\xff\x0a" + bytes(62), b"RIFF\x24\0\0\0WAVEfmt ", b"\0\1\0\0\0" + bytes(60)],
    ],
)
def test_what_is_of_no_format(first: bytes) -> None:
    assert sniff(first) is None


# Where the stored rows and columns belong, by the EXIF standard, not by Pillow.
UPRIGHT: dict[int, Callable[[Bytes], Bytes]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[::-1].transpose(1, 0, 2),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a[:, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {"quality": 95}
    image = decode(encoded(PICTURE, kind, exif=exif, **options))
    wanted = UPRIGHT[orientation](PICTURE)
    assert image.size == wanted.shape[1::-1]
    assert furthest(corners(image), corners(wanted)) <= (LOSSY if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\x00\x00" + b"\xff" * 40,
        b"Exif\x00\x00MM\x00*",
        b"Exif\x00\x00II*\x00\xff\xff\xff\x7f",
        b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x02\x00\x04\x00\x00\x00abc\x00",
        b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x63\x00\x00\x00",
    ],
    ids=["garbage", "cut", "points nowhere", "a word for a turn", "no such turn"],
)
def test_broken_exif_keeps_the_pixels(kind: str, exif: bytes) -> None:
    assert furthest(decode(encoded(PICTURE, kind, exif=exif)), decode(encoded(PICTURE, kind))) == 0


# --- modes --------------------------------------------------------------------------------------


def over_white(color: Bytes, alpha: npt.NDArray[Any]) -> Bytes:
    share = alpha[..., None] / 255
    return np.rint(color * share + 255 * (1 - share)).astype(np.uint8)


def grey(values: npt.NDArray[Any]) -> Bytes:
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


ALPHA = np.linspace(0, 255, 32 * 48).reshape(32, 48).astype(np.uint8)
GREYS = np.rint(RAMP * 255).astype(np.uint8)


def palette(transparent: int | bytes | None = None) -> Image.Image:
    image = Image.fromarray(PICTURE).quantize(4)
    if transparent is not None:
        image.info["transparency"] = transparent
    return image


def test_two_levels() -> None:
    image = Image.fromarray(PICTURE[..., 0] > 100)
    assert image.mode == "1"
    assert furthest(decode(encoded(image, "PNG")), grey((PICTURE[..., 0] > 100) * 255)) == 0


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_greys(kind: str) -> None:
    assert furthest(decode(encoded(GREYS, kind)), grey(GREYS)) == 0


def test_greys_of_a_jpeg() -> None:
    assert furthest(decode(encoded(GREYS, "JPEG", quality=98)), grey(GREYS)) <= LOSSY


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_with_alpha(kind: str) -> None:
    levels = PICTURE[..., 2]
    image = Image.merge("LA", [Image.fromarray(levels), Image.fromarray(ALPHA)])
    assert furthest(decode(encoded(image, kind)), over_white(grey(levels), ALPHA)) <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_becomes_white(kind: str) -> None:
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    image = Image.fromarray(np.dstack([PICTURE, ALPHA]))
    assert furthest(decode(encoded(image, kind, **options)), over_white(PICTURE, ALPHA)) <= 1


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        *[("PNG", "opaque"), ("PNG", "one entry"), ("PNG", "alpha an entry")],
        *[("GIF", "opaque"), ("GIF", "one entry"), ("BMP", "opaque"), ("TIFF", "opaque")],
    ],
)
def test_palette(kind: str, how: str) -> None:
    clear = int(np.asarray(palette())[0, 0])  # the entry of the red corner
    alphas = bytes(128 if entry == clear else 255 for entry in range(4))
    image = palette({"opaque": None, "one entry": clear, "alpha an entry": alphas}[how])
    options = {} if how == "opaque" else {"transparency": image.info["transparency"]}
    opacity = np.full(PICTURE.shape[:2], 255)
    opacity[:16, :24] = {"opaque": 255, "one entry": 0, "alpha an entry": 128}[how]
    assert furthest(decode(encoded(image, kind, **options)), over_white(PICTURE, opacity)) <= 1


def test_a_color_that_means_transparent() -> None:
    data = encoded(PICTURE, "PNG", transparency=(200, 30, 40))
    wanted = PICTURE.copy()
    wanted[:16, :24] = 255
    assert furthest(decode(data), wanted) == 0


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    data = encoded(Image.fromarray(PICTURE).convert("CMYK"), kind)
    with Image.open(io.BytesIO(data)) as stored:
        assert stored.mode == "CMYK"
    assert furthest(corners(decode(data)), corners(PICTURE)) <= LOSSY


@pytest.mark.parametrize(
    ("kind", "values", "mode"),
    [
        ("PNG", np.rint(RAMP * 65535).astype(np.uint16), "I;16"),
        ("TIFF", np.rint(RAMP * 65535).astype(np.uint16), "I;16"),
        ("TIFF", np.rint(RAMP * 65535).astype(np.int32), "I"),
        ("TIFF", np.rint(RAMP * 255).astype(np.int32), "I"),
        ("TIFF", np.rint(RAMP * (2**31 - 1)).astype(np.int32), "I"),
        ("TIFF", RAMP.astype(np.float32), "F"),
        ("TIFF", (RAMP * 255).astype(np.float32), "F"),
        ("TIFF", (RAMP * 70000).astype(np.float32), "F"),
    ],
    ids=lambda value: f"to {value.max():g}" if isinstance(value, np.ndarray) else str(value),
)
def test_deep_greys_keep_their_brightness(kind: str, values: npt.NDArray[Any], mode: str) -> None:
    data = encoded(Image.fromarray(values), kind)
    with Image.open(io.BytesIO(data)) as stored:
        assert stored.mode == mode
    assert furthest(decode(data), grey(GREYS)) <= 1


def test_deep_greys_in_big_endian() -> None:
    # One strip of 32 x 32 greys of 16 bits, the highest byte first.
    values = np.rint(RAMP * 65535).astype(">u2").tobytes()
    tags = [(256, 32), (257, 32), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 32)]
    entries = [struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in tags]
    entries.append(struct.pack(">HHII", 279, 4, 1, len(values)))
    head = struct.pack(">2sHI", b"MM", 42, 8 + len(values))
    data = head + values + struct.pack(">H", len(entries)) + b"".join(entries) + bytes(4)
    assert furthest(decode(data), grey(GREYS)) <= 1


def test_a_dim_deep_grey_stays_dim() -> None:
    dim = np.rint(RAMP * 20000).astype(np.uint16)
    assert furthest(decode(encoded(dim, "PNG")), grey(np.rint(dim / 257))) <= 1


def test_floats_that_are_no_numbers() -> None:
    values = RAMP.astype(np.float32)
    values[0, :5] = np.nan
    assert furthest(decode(encoded(Image.fromarray(values), "TIFF")), grey(GREYS)) <= 1
    nothing = np.full((32, 32), np.nan, np.float32)
    assert furthest(decode(encoded(Image.fromarray(nothing), "TIFF")), grey(GREYS * 0)) == 0


# --- one preprocessing, written twice -----------------------------------------------------------


@pytest.mark.parametrize(
    "size",
    [
        *[(8, 8), (9, 13), (223, 225), (224, 224), (225, 223), (448, 448), (640, 480)],
        *[(8, 3000), (3000, 8), (1000, 17), (1, 1), (2, 500), (1023, 769), (2000, 1500)],
    ],
    ids=str,
)
def test_pixels_are_what_transform_gives(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(noise)
    mine, tensor = resize(image), transform()(image)
    assert (*mine.shape, mine.dtype.name) == (SIDE, SIDE, 3, "uint8")
    assert (*tensor.shape, str(tensor.dtype)) == (3, SIDE, SIDE, "torch.float32")
    theirs = tensor.numpy().transpose(1, 2, 0).astype(np.float64)
    undone = (theirs * DEVIATION + MEAN) * 255
    assert np.array_equal(np.rint(undone), mine)
    assert np.abs(undone - mine).max() < 1e-3
    assert np.abs(theirs - (mine / 255 - MEAN) / DEVIATION).max() < 1e-6


# --- the quick road -----------------------------------------------------------------------------

NEAR = 1.5  # levels of 255, on average over a picture
TURNED = (5, 6, 7, 8)


def car(number: int, size: tuple[int, int] | None = None) -> Image.Image:
    photo = snapshot(CLASSES[number], np.random.default_rng((7, number)))[0]
    return photo.resize(size, Image.Resampling.BICUBIC) if size else photo


SMALL = car(0)  # less than twice 224 on its shorter side
LARGE = car(1, (1200, 900))


def exif_of(orientation: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x112] = orientation
    return {"exif": exif}


def xmp_of(orientation: int) -> dict[str, Any]:
    space = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    about = f'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"'
    inner = f'<rdf:RDF xmlns:rdf="{space}"><rdf:Description {about}/></rdf:RDF>'
    return {"xmp": f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{inner}</x:xmpmeta>'.encode()}


def ycck(image: Image.Image) -> bytes:
    """A JPEG of four colors that says of itself that three are luma and chroma."""
    data = bytearray(encoded(image.convert("CMYK"), "JPEG"))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def by_turbo(image: Image.Image, subsampling: str) -> bytes:
    packed: bytes = simplejpeg.encode_jpeg(np.array(image), colorsubsampling=subsampling)
    return packed


def both_roads(data: bytes) -> tuple[Bytes, Bytes]:
    """The pixels by the quick road and by the other; the sizes they report must be equal."""
    image = decode(data)
    given, size = decode_pixels(data)
    assert (*given.shape, given.dtype.name) == (SIDE, SIDE, 3, "uint8")
    assert size == image.size
    return given, resize(image)


def distance(data: bytes) -> float:
    """Mean difference between the two roads."""
    one, other = both_roads(data)
    return float(np.abs(one.astype(int) - other).mean())


JPEGS: dict[str, Callable[[Image.Image], bytes]] = {
    "4:4:4": lambda image: encoded(image, "JPEG", subsampling="4:4:4", quality=95),
    "4:2:2": lambda image: encoded(image, "JPEG", subsampling="4:2:2", quality=85),
    "4:2:0": lambda image: encoded(image, "JPEG", subsampling="4:2:0", quality=75),
    "4:4:0": lambda image: by_turbo(image, "440"),
    "4:1:1": lambda image: by_turbo(image, "411"),
    "progressive": lambda image: encoded(image, "JPEG", progressive=True),
    "progressive 4:4:4": lambda image: encoded(image, "JPEG", progressive=True, subsampling=0),
    "restarts": lambda image: encoded(image, "JPEG", restart_marker_rows=2),
    "optimized": lambda image: encoded(image, "JPEG", optimize=True, quality=50),
    "RGB": lambda image: encoded(image, "JPEG", keep_rgb=True),
    "grey": lambda image: encoded(image.convert("L"), "JPEG"),
    "two frames": lambda image: encoded(image, "MPO", save_all=True, append_images=[image]),
    "more after its end": lambda image: encoded(image, "JPEG") + bytes(1000),
}


@pytest.mark.parametrize("make", JPEGS.values(), ids=JPEGS)
def test_a_small_jpeg_gives_the_same_pixels(make: Callable[[Image.Image], bytes]) -> None:
    for size in (SMALL.size, (9, 13), (224, 224), (1000, 17), (300, 2000)):
        assert furthest(*both_roads(make(SMALL.resize(size)))) <= 1  # each rounds by itself


@pytest.mark.parametrize("make", JPEGS.values(), ids=JPEGS)
def test_a_large_jpeg_gives_nearly_the_same_pixels(make: Callable[[Image.Image], bytes]) -> None:
    for image in (LARGE, car(2, (1024, 768)), car(3, (600, 2400))):
        assert 0 < distance(make(image)) < NEAR


@pytest.mark.parametrize("side", [447, 448, 560, 896, 1120, 1792])
def test_a_jpeg_that_could_be_scaled_to_the_very_size_is_near(side: int) -> None:
    # The inverse DCT averages squares; were nothing left to resize, details would look different.
    assert 0 <= distance(encoded(SMALL.resize((side, side)), "JPEG")) < NEAR


@pytest.mark.parametrize("make", JPEGS.values(), ids=JPEGS)
def test_pillow_resizes_where_nothing_else_does(
    make: Callable[[Image.Image], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.images.decoding.raster.cykooz_resizer", None)
    assert distance(make(SMALL)) == 0
    assert 0 < distance(make(LARGE)) < NEAR


@pytest.mark.parametrize("size", [SMALL.size, LARGE.size], ids=["small", "large"])
@pytest.mark.parametrize(
    "make",
    [
        *[partial(encoded, kind=kind) for kind in ("PNG", "BMP", "TIFF", "GIF")],
        lambda image: encoded(image, "WEBP", quality=80),
        lambda image: encoded(image.convert("RGBA").rotate(20), "PNG"),
        lambda image: encoded(image, "TIFF", compression="jpeg"),
        lambda image: encoded(image.convert("CMYK"), "JPEG"),
        ycck,
    ],
    ids=["png", "bmp", "tiff", "gif", "webp", "alpha", "jpeg in tiff", "cmyk", "ycck"],
)
def test_all_but_plain_jpegs_give_the_same_pixels(
    make: Callable[[Image.Image], bytes], size: tuple[int, int]
) -> None:
    assert distance(make(SMALL.resize(size))) == 0


@pytest.mark.parametrize("say", [exif_of, xmp_of], ids=["exif", "xmp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_large_jpeg_is_turned(orientation: int, say: Callable[[int], dict[str, Any]]) -> None:
    data = encoded(LARGE, "JPEG", **say(orientation))
    size = decode_pixels(data)[1]
    assert size == ((900, 1200) if orientation in TURNED else (1200, 900))
    assert distance(data) < NEAR
    small = encoded(SMALL, "JPEG", **say(orientation))
    assert furthest(*both_roads(small)) <= 1


def test_two_orientations_and_broken_ones_do_not_part_the_roads() -> None:
    for options in (
        {**exif_of(6), **xmp_of(3)},
        {**exif_of(99), **xmp_of(8)},
        {**exif_of(0), **xmp_of(1)},
        {"exif": b"Exif\x00\x00" + b"\xff" * 40, **xmp_of(5)},
        {"exif": b"Exif\x00\x00MM\x00*"},
        {"xmp": b"<tiff:Orientation>6</tiff:Orientation>"},
        {"xmp": b'tiff:Orientation="9"'},
    ):
        assert distance(encoded(LARGE, "JPEG", **options)) < NEAR


def outcome(data: bytes) -> tuple[str, float]:
    """What decoding by both roads came to: the reason, or `pixels` and how far apart they are."""
    try:
        image = decode(data)
    except ImageError as error:
        assert outcome_of_pixels(data)[0] == str(error)
        return str(error), 0.0
    said, pixels, size = outcome_of_pixels(data)
    assert (said, size) == ("pixels", image.size)
    assert (*pixels.shape, pixels.dtype.name) == (SIDE, SIDE, 3, "uint8")
    return said, float(np.abs(pixels.astype(int) - resize(image)).mean())


def outcome_of_pixels(data: bytes) -> tuple[str, Bytes, tuple[int, int]]:
    try:
        return "pixels", *decode_pixels(data)
    except ImageError as error:
        return str(error), np.empty(0, np.uint8), (0, 0)


MEDIUM = car(1, (640, 480))  # still more than twice 224
DAMAGED: dict[str, bytes] = {
    "baseline": encoded(MEDIUM, "JPEG", quality=85),
    "progressive": encoded(MEDIUM, "JPEG", progressive=True),
    "restarts": encoded(MEDIUM, "JPEG", restart_marker_rows=4),
    "turned": encoded(MEDIUM, "JPEG", **exif_of(6)),
    "grey": encoded(MEDIUM.convert("L"), "JPEG"),
}


@pytest.mark.parametrize("good", DAMAGED.values(), ids=DAMAGED)
def test_a_cut_jpeg_comes_to_the_same(good: bytes) -> None:
    inner = np.linspace(0, len(good), 40, dtype=int)
    lengths = [*range(0, 700, 23), *inner, *range(len(good) - 20, len(good))]
    seen = set()
    for length in lengths:
        said, apart = outcome(good[:length])
        seen.add(said)
        assert apart < NEAR, length
    assert {"pixels", "empty file"} < seen and any("truncated" in reason for reason in seen)


@pytest.mark.parametrize("good", DAMAGED.values(), ids=DAMAGED)
def test_a_jpeg_with_a_wrong_byte_comes_to_the_same(good: bytes) -> None:
    rng = np.random.default_rng(3)
    outcomes = set()
    for at in (*rng.integers(0, 700, 50), *rng.integers(700, len(good), 50)):
        changed = bytearray(good)
        changed[at] ^= int(rng.integers(1, 256))
        said, apart = outcome(bytes(changed))
        outcomes.add(said)
        # Of what the header tells, a factor can be so large that most is clipped.
        assert apart < (NEAR if at > 700 else 30), at
    assert {"pixels"} < outcomes


@pytest.mark.parametrize("good", DAMAGED.values(), ids=DAMAGED)
def test_a_jpeg_with_a_hole_comes_to_the_same(good: bytes) -> None:
    rng = np.random.default_rng(4)
    for at, length in zip(rng.integers(2, len(good), 30), rng.integers(1, 3000, 30), strict=True):
        outcome(good[:at] + good[at + length :])


MEASURED = """
import resource, sys
from pathlib import Path
from lookalike.errors import ImageError
from lookalike.images import decode
from lookalike.images import decode_pixels
small, data = (Path(path).read_bytes() for path in sys.argv[2:])
decode_pixels(small)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    {"decode": decode, "decode_pixels": decode_pixels}[sys.argv[1]](data)
    print("pixels")
except ImageError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 // 10**6)
"""


def measured(function: str, data: bytes, folder: Path) -> tuple[str, int]:
    """Decode in a fresh process; what came of it, and by how many MB the memory grew."""
    small, large = folder / "small.jpg", folder / "large"
    SMALL.save(small)
    large.write_bytes(data)
    # The shell between: a process begins with the peak of the one that started it.
    command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", MEASURED]
    done = subprocess.run(
        [*command, function, str(small), str(large)], capture_output=True, text=True, check=True
    )
    came, grown = done.stdout.splitlines()
    return came, int(grown)


def test_a_large_photo_is_never_whole_in_memory(tmp_path: Path) -> None:
    photo = encoded(car(1, (6000, 4000)), "JPEG")
    came, grown = measured("decode", photo, tmp_path)
    assert (came, grown > 90) == ("pixels", True)
    came, grown = measured("decode_pixels", photo, tmp_path)
    assert (came, grown < 60) == ("pixels", True)


# --- what is no picture -------------------------------------------------------------------------

NOISE = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)


def cut(kind: str, share: float = 0.6, **options: Any) -> bytes:
    data = encoded(NOISE, kind, **options)
    return data[: int(len(data) * share)]


def scratched(kind: str, **options: Any) -> bytes:
    """Overwrite a stretch of the compressed pixels."""
    data = bytearray(encoded(NOISE, kind, **options))
    data[len(data) // 2 : len(data) // 2 + 40] = b"\xff" * 40
    return bytes(data)


def sized(width: int, height: int) -> bytes:
    return encoded(Image.new("RGB", (width, height)), "PNG")


def png_of_zeros(width: int, height: int) -> bytes:
    """A whole PNG of one bit a pixel, all black, made row by row."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    packer, row = zlib.compressobj(1), bytes(1 + (width + 7) // 8)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


REASONS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "^empty file$"),
    "text": (b"I am no picture.\n" * 20, "^not an image .*JPEG, PNG, WebP"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "^not an image"),
    "pdf": (b"%PDF-1.7\n", "^not an image"),
    "psd": (b"8BPS\0\1" + bytes(60), "^not an image"),
    "1 x 1": (sized(1, 1), "^smaller than 8 pixels on a side: 1 x 1$"),
    "1 x 5000": (sized(1, 5000), "^smaller than 8 pixels on a side: 1 x 5000$"),
    "8 x 7": (sized(MIN_SIDE, MIN_SIDE - 1), "^smaller than 8 pixels on a side: 8 x 7$"),
    "cut jpeg": (cut("JPEG"), "^damaged image: .*truncated"),
    "cut progressive jpeg": (cut("JPEG", progressive=True), "^damaged image: .*truncated"),
    "cut png": (cut("PNG"), "^damaged image: .*truncated"),
    "cut webp": (cut("WEBP"), "^damaged image"),
    "cut bmp": (cut("BMP"), "^damaged image: .*truncated"),
    "cut gif": (cut("GIF"), "^damaged image: .*truncated"),
    "cut tiff": (cut("TIFF"), "^(damaged image|not an image)"),
    "cut lzw": (cut("TIFF", compression="tiff_lzw"), "^(damaged image|not an image)"),
    "scratched png": (scratched("PNG"), "^damaged image: broken data stream"),
    "scratched gif": (scratched("GIF"), "^damaged image: broken data stream"),
    "scratched lzw": (scratched("TIFF", compression="tiff_lzw"), "^damaged image"),
}


@pytest.mark.parametrize(("data", "reason"), REASONS.values(), ids=REASONS)
def test_reasons(data: bytes, reason: str) -> None:
    said = reason_of(lambda: decode(data))
    assert re.search(reason, said)
    assert reason_of(lambda: decode_pixels(data)) == said


def test_the_smallest_picture() -> None:
    assert decode(sized(MIN_SIDE, MIN_SIDE)).size == (MIN_SIDE, MIN_SIDE)


BOMBS = {
    "png": lambda: png_of_zeros(20_000, 10_500),
    "gif": lambda: b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(3)
    + b"," + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + bytes(9),
    "bmp": lambda: b"BM" + struct.pack("<IIIIiiHH", 54, 0, 54, 40, 30_000, 30_000, 1, 24)
    + bytes(24),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_costs_no_memory(kind: str, tmp_path: Path) -> None:
    data = BOMBS[kind]()
    assert len(data) < 200_000
    said = reason_of(lambda: decode(data))
    assert "too many pixels" in said
    assert reason_of(lambda: decode_pixels(data)) == said
    if kind != "png":
        return
    for function in ("decode", "decode_pixels"):
        came, grown = measured(function, data, tmp_path)
        assert "too many pixels" in came
        assert grown < 30


MAGIC = {
    "jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    "jpeg frame": b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x40\x00\x40\x03",
    "png": b"\x89PNG\r\n\x1a\n",
    "png header": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x40\x00\x00\x00\x40",
    "webp": b"RIFF\x24\x00\x00\x00WEBPVP8 ",
    "webp lossless": b"RIFF\x24\x00\x00\x00WEBPVP8L",
    "bmp": b"BM\x00\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00\x00\x00",
    "gif": b"GIF89a\x40\x00\x40\x00",
    "tiff": b"II*\x00\x08\x00\x00\x00",
    "tiff of the other end": b"MM\x00*\x00\x00\x00\x08",
    "large tiff": b"II+\x00\x08\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00",
}


@pytest.mark.parametrize("magic", MAGIC.values(), ids=MAGIC)
def test_garbage_after_the_right_first_bytes(magic: bytes) -> None:
    rng = np.random.default_rng(1)
    reason_of(lambda: decode(magic))
    for size in [3, 20, *rng.integers(30, 600, 20)]:
        try:
            image = decode(magic + rng.bytes(int(size)))
        except ImageError as error:
            text = str(error)
            assert text.isprintable() and "0x" not in text and "'MPO'" not in text
        else:  # noise can be a picture: of a GIF, nearly all is
            assert image.mode == "RGB"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_one_wrong_byte_is_a_picture_or_a_reason(kind: str) -> None:
    good, rng = encoded(PICTURE, kind), np.random.default_rng(2)
    for at in rng.integers(0, len(good), 60):
        data = bytearray(good)
        data[at] ^= int(rng.integers(1, 256))
        try:
            assert decode(bytes(data)).mode == "RGB"
        except ImageError as error:
            assert str(error).isprintable() and "0x" not in str(error)


# --- what cannot be read ------------------------------------------------------------------------


def test_read_gives_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"abc\x00def")
    (tmp_path / "link.jpg").symlink_to("x.jpg")
    assert read_file(tmp_path / "x.jpg") == read_file(str(tmp_path / "link.jpg")) == b"abc\x00def"
    assert read_file(os.fsencode(tmp_path / "x.jpg")) == b"abc\x00def"


def make_large(path: Path) -> None:
    path.touch()
    os.truncate(path, MAX_BYTES + 1)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: p.mkdir(), "not a regular file"),
        (lambda p: os.mkfifo(p), "not a regular file"),
        (lambda p: p.symlink_to("/dev/zero"), "not a regular file"),
        (lambda p: p.symlink_to("nowhere.jpg"), "broken link"),
        (lambda p: p.symlink_to(p.name), "unreadable: Too many levels of symbolic links"),
        (lambda p: None, "no such file"),
        (make_large, "file of 536,870,913 bytes, over the limit of 536,870,912"),
    ],
    ids=["folder", "pipe", "device", "broken link", "link to itself", "gone", "large"],
)
def test_what_is_no_file(
    make: Callable[[Path], object], reason: str, tmp_path: Path, deadline: None
) -> None:
    path = tmp_path / "x.jpg"
    make(path)
    assert reason_of(lambda: read_file(path)) == reason


@pytest.mark.parametrize(
    "name", ["x.jpg/y.jpg", "n" * 300 + ".jpg"], ids=["file for a folder", "long"]
)
def test_paths_that_cannot_be(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").touch()
    assert reason_of(lambda: read_file(tmp_path / name)).startswith("unreadable: ")


def test_no_right_to_read(folder_of_all: Path) -> None:
    path = folder_of_all / "x.jpg"
    path.write_bytes(b"secret")
    path.chmod(0)
    with without_rights():
        assert reason_of(lambda: read_file(path)) == "unreadable: Permission denied"
    assert path.stat().st_size == 6


def test_a_file_whose_read_fails(tmp_path: Path) -> None:
    memory = Path("/proc/self/mem")
    if not os.access(memory, os.R_OK):
        pytest.skip("no file here that opens and then fails")
    (tmp_path / "x.jpg").symlink_to(memory)
    assert reason_of(lambda: read_file(tmp_path / "x.jpg")) == "unreadable: Input/output error"
