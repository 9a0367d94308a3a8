"""More than eight bits a sample: what was bright stays bright, what was dark stays dark."""

import io
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers import damage
from helpers.deep import Samples, of_bits, png
from helpers.tiffs import Order, directory_of, pages, tiff
from lookalike.errors import ImageError
from lookalike.images import decode, decode_pixels, resize
from lookalike.images.decoding.depth import scale
from lookalike.images.decoding.tiff import UNREADABLE

# Something with black and white in it, so that no percentile moves it far.
RGB = np.asarray(damage.picture(5, (120, 90))).copy()
RGB[:20, :30], RGB[-20:, :30] = 0, 255
GREY = np.asarray(Image.fromarray(RGB).convert("L"))
ALPHA = np.linspace(40, 255, 120 * 90).reshape(90, 120).astype(np.uint8)
NO_DATA = 42113  # the tag
NEAR = 3  # levels, on average: a percent of clipped values, and rounding


def as_grey(levels: Samples) -> Samples:
    return np.repeat(levels[..., None], 3, axis=2)


def distance(data: bytes, wanted: Samples) -> float:
    """Mean difference from what is right, by either road."""
    image = decode(data)
    quick, size = decode_pixels(data)
    assert image.mode == "RGB" and size == image.size
    assert np.array_equal(resize(image), quick)
    return float(np.abs(np.asarray(image).astype(int) - wanted).mean())


def pgm(values: Samples, most: int) -> bytes:
    kind = b"P5" if values.ndim == 2 else b"P6"
    return b"%s %d %d %d\n" % (kind, *values.shape[1::-1], most) + values.astype(">u2").tobytes()


def j2k(values: Samples, bits: int) -> bytes:
    """Write a lossless JPEG 2000 of so many bits: one of 16, whose header is changed."""
    shifted = values.astype(int) - 2 ** (bits - 1) + 2**15
    buffer = io.BytesIO()
    Image.fromarray(shifted.astype(np.uint16)).save(buffer, "JPEG2000", no_jp2=True)
    data = bytearray(buffer.getvalue())
    assert data[42] == 15
    data[42] = bits - 1
    return bytes(data)


# --- ten, twelve, fourteen bits -----------------------------------------------------------------

FILES: dict[str, Callable[[Samples], bytes]] = {
    "png": png,
    "tiff": tiff,
    "tiff of the other end": lambda values: tiff(values, order=">"),
    "deflated tiff": lambda values: tiff(values, deflate=True),
    "pgm": lambda values: pgm(values, 65535),
}


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("write", FILES.values(), ids=FILES)
def test_bits_in_sixteen(write: Callable[[Samples], bytes], bits: int) -> None:
    assert distance(write(of_bits(GREY, bits)), as_grey(GREY)) < NEAR
    assert distance(write(of_bits(RGB, bits)), RGB) < NEAR


@pytest.mark.parametrize("bits", [12, 16])
def test_transparency_has_as_many_bits(bits: int) -> None:
    share = ALPHA[..., None] / 255
    for colours in (RGB, GREY[..., None]):
        both = of_bits(np.dstack([colours, ALPHA]), bits)
        on_white = np.rint(np.broadcast_to(colours, RGB.shape) * share + 255 * (1 - share))
        assert distance(png(both), on_white) < NEAR
        assert distance(tiff(both, planar=True), on_white) < NEAR
        if colours is RGB:
            assert distance(tiff(both), on_white) < NEAR


@pytest.mark.parametrize("bits", [9, 10, 12, 15])
def test_bits_that_a_file_tells(bits: int) -> None:
    grey, dark = of_bits(GREY, bits), of_bits(GREY // 40, bits)
    for values, levels in ((grey, GREY), (dark, GREY // 40)):
        for data in (
            png(values, significant=bits),
            tiff(values, more={281: 2**bits - 1}),
            pgm(values, 2**bits - 1),
            j2k(values, bits),
        ):
            assert distance(data, as_grey(levels)) < NEAR
    stretched = (grey.astype(int) << (16 - bits)).astype(np.uint16)
    assert distance(png(stretched, significant=bits), as_grey(GREY)) < NEAR


@pytest.mark.parametrize(
    "dark",
    [
        np.rint(GREY / 255 * 20_000),  # uses its fifteenth bit
        (GREY // 8) * 257.0,  # eight bits stretched to sixteen
        (GREY // 8) * 256.0,
    ],
    ids=["a third of white", "times 257", "times 256"],
)
@pytest.mark.parametrize("write", FILES.values(), ids=FILES)
def test_what_is_dark_stays_dark(write: Callable[[Samples], bytes], dark: Samples) -> None:
    assert distance(write(dark.astype(np.uint16)), as_grey(np.rint(dark / 257))) < NEAR


def test_a_file_that_says_sixteen_bits_is_taken_at_its_word() -> None:
    dark = of_bits(GREY, 12)
    for data in (png(dark, significant=16), tiff(dark, more={281: 65535})):
        assert distance(data, as_grey(np.rint(dark / 257))) < NEAR


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_many_samples_are_scaled_as_few_are(kind: Any) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(kind)
    for black, white in ((0, 4095), (-1024, 3071), (0, 32767)):
        assert np.array_equal(
            scale(np.tile(every, 2), black, white)[: 2**16], scale(every, black, white)
        )


def test_black_is_black() -> None:
    nothing = np.zeros_like(GREY, np.uint16)
    for write in FILES.values():
        assert distance(write(nothing), as_grey(nothing)) == 0


# --- what does not set the scale ----------------------------------------------------------------

HOLE = (slice(30, 60), slice(30, 80))
"""Where there is no data, or where a light is."""
WITH_HOLE = GREY.copy()
WITH_HOLE[HOLE] = 0


def with_hole(values: Samples, value: float) -> Samples:
    holed = values.copy()
    holed[HOLE] = value
    return holed


heights: Samples = GREY.astype(np.float32) / 255 * 2400
UNMEASURED: dict[str, tuple[Samples, float]] = {
    "heights": (heights, -9999),
    "heights beside the sea": (heights * 3.5, -9999),
    "heights, whole": (of_bits(GREY, 12, np.int16), -9999),
    "the least float": (heights, float(np.finfo(np.float32).min)),
    "the least double": (heights.astype(np.float64), float(np.finfo(np.float64).min)),
    "the largest float": (heights, float(np.finfo(np.float32).max)),
    "shares": (GREY.astype(np.float32) / 255, -9999),
    "around zero": (GREY.astype(np.float32) / 255 * 40 - 20, -999),
    "huge": (heights, 1e30),
    "least of 16 bits": (of_bits(GREY, 14, np.int16), -32768),
    "least of 32 bits": (np.rint(heights * 100).astype(np.int32), -(2**31)),
    "largest of signed 16": (of_bits(GREY, 12, np.int16), 32767),
    "largest of unsigned 16": (of_bits(GREY, 12), 65535),
    "largest of unsigned 32": (of_bits(GREY, 20, np.uint32), 2**32 - 1),
}


@pytest.mark.parametrize("named", [False, True], ids=["guessed", "named"])
@pytest.mark.parametrize("kind", UNMEASURED)
def test_where_there_is_no_data_is_black(kind: str, named: bool) -> None:
    values, nothing = UNMEASURED[kind]
    more = {NO_DATA: f"{nothing:.15g}"} if named else {}
    for order in ("<", ">"):
        data = tiff(with_hole(values, nothing), order=order, deflate=True, more=more)
        assert distance(data, as_grey(WITH_HOLE)) < NEAR
        assert not np.asarray(decode(data))[HOLE].any()
    negative = tiff(with_hole(values.max() - values, nothing), photometric=0, more=more)
    if values.min() >= 0 and "heights" not in kind:  # whose scale may begin elsewhere
        assert distance(negative, as_grey(WITH_HOLE)) < NEAR + 2
    mostly = np.full((360, 480), nothing, values.dtype)
    mostly[:90, :120] = values
    left = np.zeros(mostly.shape, np.uint8)
    left[:90, :120] = GREY
    assert distance(tiff(mostly, more=more), as_grey(left)) < NEAR


@pytest.mark.parametrize("text", ["-1", "7", "1024", " 1024 ", "1024.0", "nan", "-inf"])
def test_a_file_names_what_means_no_data(text: str) -> None:
    nothing = float(text)
    for kind in (np.float32, np.float64, np.int16, np.int32):
        if kind not in (np.float32, np.float64) and not np.isfinite(nothing):
            continue
        values = of_bits(GREY, 12, int)
        values[values == nothing] += 1
        holed = with_hole(values.astype(kind), nothing)
        data = tiff(holed, more={NO_DATA: text})
        assert distance(data, as_grey(WITH_HOLE)) < NEAR
        assert not np.asarray(decode(data))[HOLE].any()
    colours = of_bits(RGB, 14)
    colours[HOLE] = 65535
    for planar in (False, True):
        data = tiff(colours, planar=planar, more={NO_DATA: "65535"})
        assert distance(data, np.where((colours == 65535), 0, RGB)) < NEAR


@pytest.mark.parametrize("named", [False, True], ids=["guessed", "named"])
@pytest.mark.parametrize("planar", [False, True])
def test_a_colour_that_is_white_in_one_channel_keeps_it(planar: bool, named: bool) -> None:
    more = {NO_DATA: "65535"} if named else {}
    bright = of_bits(RGB, 16)
    bright[HOLE] = 65535
    bright[70:80, 50:70] = 65535, 56477, 17263
    wanted = np.rint(bright / 257)
    if named:
        wanted[(bright == 65535).all(axis=-1)] = 0
    assert distance(tiff(bright, planar=planar, more=more), wanted) < 1
    red = np.maximum(of_bits(RGB // 2, 12), 1)  # far below a red light
    red[HOLE] = 65535, 500, 300
    assert distance(tiff(red, planar=planar, more=more), np.rint(red / 257)) < 1
    shares = (RGB / 255).astype(np.float32)
    shares[HOLE] = 1, 0.86, 0.26
    named_one = tiff(shares, planar=planar, more={NO_DATA: "1"})
    kept = np.where((shares == 1).all(axis=-1, keepdims=True), 0, shares)
    assert distance(named_one, np.rint(kept * 255)) < 1


@pytest.mark.parametrize("named", [False, True], ids=["guessed", "named"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("value", [-9999, 1e30, float(np.finfo(np.float32).min)])
def test_what_no_colour_holds_is_no_data_in_one_channel(
    value: float, planar: bool, named: bool
) -> None:
    more = {NO_DATA: f"{value:.15g}"} if named else {}
    holed = (RGB / 255).astype(np.float32)
    holed[HOLE][..., 1] = value
    wanted = RGB.copy()
    wanted[HOLE][..., 1] = 0
    assert distance(tiff(holed, planar=planar, more=more), wanted) < NEAR


@pytest.mark.parametrize("upright", [False, True], ids=["lying", "upright"])
@pytest.mark.parametrize("nothing", [None, 0, -9999])
@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.int32, np.uint32])
def test_a_thin_light_is_as_white_beside_no_data(
    kind: Any, nothing: int | None, upright: bool
) -> None:
    if nothing is not None and nothing < 0 and kind in (np.uint16, np.uint32):
        nothing = 7
    most = int(min(np.iinfo(kind).max, 65535))
    dark = (np.arange(300 * 400).reshape(300, 400) % 292 + 8).astype(kind)
    dark[100:200, 200] = most
    if nothing is not None:
        dark[:50] = nothing
    values = dark if upright else dark.T
    more = {} if nothing is None else {NO_DATA: str(nothing)}
    right = np.rint(np.where(values == nothing, 0, values).astype(float) / most * 255)
    assert distance(tiff(values, more=more), as_grey(right)) < 1


@pytest.mark.parametrize("kind", [np.int16, np.int32])
def test_hot_pixels_beside_no_data_do_not_make_a_map_dark(kind: Any) -> None:
    values = with_hole(of_bits(GREY, 10, kind), -9999)
    values[20, 70], values[61, 17] = 32000, 30000
    assert distance(tiff(values, more={NO_DATA: "-9999"}), as_grey(WITH_HOLE)) < NEAR


@pytest.mark.parametrize("text", ["", "none", "-9999", "70000", "0", "1e400"])
def test_a_name_for_what_is_not_there_changes_nothing(text: str) -> None:
    for values in (of_bits(GREY, 12), GREY.astype(np.float32) / 255, of_bits(GREY, 15, np.int16)):
        assert distance(tiff(values, more={NO_DATA: text}), as_grey(GREY)) < NEAR
    alone = np.full_like(heights, -9999)
    assert distance(tiff(alone, more={NO_DATA: "-9999"}), np.zeros_like(RGB)) == 0


def test_what_is_far_from_others_may_be_the_picture() -> None:
    """Masks, lights and dark places keep the scale that they had."""
    mask = np.where(GREY > 128, 65535, 0).astype(np.uint16)
    levels = np.where(GREY > 128, 255, 0)
    for write in FILES.values():
        assert distance(write(mask), as_grey(levels)) == 0
    assert distance(png(np.dstack([mask] * 3)), as_grey(levels)) == 0
    labels = with_hole((GREY // 32).astype(np.uint16), 65535)
    assert distance(tiff(labels), as_grey(np.rint(labels / 257))) == 0
    ends = np.where(GREY > 128, 1, -1).astype(np.float32)
    assert distance(tiff(ends), as_grey(levels)) == 0


HOT = ((20, 70), (61, 17), (80, 101))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("bits", [8, 12, 14])
@pytest.mark.parametrize("write", FILES.values(), ids=FILES)
def test_hot_pixels_do_not_make_a_scan_dark(
    write: Callable[[Samples], bytes], bits: int, count: int
) -> None:
    for most in (65535, 61234):
        grey, colours = of_bits(GREY, bits), of_bits(RGB, bits)
        for number, (y, x) in enumerate(HOT[:count]):
            grey[y, x] = colours[y, x, number] = most - 97 * number
        assert distance(write(grey), as_grey(GREY)) < NEAR
        assert distance(write(colours), RGB) < NEAR


def test_hot_pixels_of_more_bits() -> None:
    grey = of_bits(GREY, 20, np.uint32)
    grey[20, 70] = 2**32 - 1
    assert distance(tiff(grey), as_grey(GREY)) < NEAR
    told = of_bits(GREY // 4, 12)
    told[20, 70] = 65535
    assert distance(tiff(told, more={281: 4095}), as_grey(GREY // 4)) < NEAR


@pytest.mark.parametrize("side", [2, 8])
@pytest.mark.parametrize("write", FILES.values(), ids=FILES)
def test_a_light_in_a_dark_picture_stays_the_white_of_it(
    write: Callable[[Samples], bytes], side: int
) -> None:
    for most in (65535, 50_000):
        dark = of_bits(GREY, 12)
        dark[40 : 40 + side, 60 : 60 + side] = most
        assert distance(write(dark), as_grey(np.rint(dark / 257))) < 1
        colours = of_bits(RGB, 12)
        colours[40 : 40 + side, 60 : 60 + side] = most
        assert distance(write(colours), np.rint(colours / 257)) < 1


def test_glitter_in_a_dark_picture_stays_the_white_of_it() -> None:
    """More than a few bright pixels are no fault of a sensor."""
    dark = of_bits(GREY, 12)
    dark[::8, ::8] = 65535
    assert distance(tiff(dark), as_grey(np.rint(dark / 257))) < 1


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("most", [65535, 4095, 1000, 255])
@pytest.mark.parametrize("end", [b"", b"\n", b" # end"], ids=["no end", "line", "comment"])
def test_grey_is_the_same_in_every_portable_map(
    bits: int, most: int, end: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """As `P5` and `P2`, and in three equal colours as `P6` and `P3`, whatever ends the text."""
    grey = np.minimum(of_bits(GREY, bits), most)
    data = []
    for values in (grey, np.dstack([grey] * 3)):
        head = b"%d %d %d\n" % (120, 90, most)
        kind = 5 if values.ndim == 2 else 6
        packed = values.astype(">u2" if most > 255 else np.uint8).tobytes()
        data.append(b"P%d " % kind + head + packed)
        data.append(b"P%d " % (kind - 3) + head + b" ".join(b"%d" % v for v in values.flat) + end)
    first, *others = (np.asarray(decode(one)) for one in data)
    for other in others:
        assert np.abs(first.astype(int) - other).max() <= (0 if most in (65535, 255) else 1)
    levels = GREY if most == 65535 else np.rint(grey / most * 255)
    assert np.abs(first.astype(int) - as_grey(levels)).mean() < NEAR
    assert capfd.readouterr() == ("", "")


def test_opencv_prints_nothing_of_what_it_cannot_read() -> None:
    """Even where another module loads it first, which takes a process of its own to see."""
    code = (
        "import cv2; from lookalike.images.decoding.depth import read_samples;"
        "assert read_samples(b'P3 9 9 65535\\n1 2') is None"
    )
    usual = {name: value for name, value in os.environ.items() if name != "OPENCV_LOG_LEVEL"}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, env=usual, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


# --- TIFF ---------------------------------------------------------------------------------------

NUMBERS: dict[str, Callable[[Samples], Samples]] = {
    "unsigned 16": lambda picture: of_bits(picture, 16),
    "unsigned 12 in 16": lambda picture: of_bits(picture, 12),
    "unsigned 32": lambda picture: of_bits(picture, 32, np.uint32),
    "unsigned 20 in 32": lambda picture: of_bits(picture, 20, np.uint32),
    "signed 8": lambda picture: (picture.astype(int) - 128).astype(np.int8),
    "signed 16": lambda picture: of_bits(picture, 15, np.int16),
    "signed 16 from below": lambda p: (of_bits(p, 16, int) - 2**15).astype(np.int16),
    "signed 32": lambda picture: of_bits(picture, 31, np.int32),
    "Hounsfield": lambda picture: (of_bits(picture, 12, int) - 1024).astype(np.int16),
    "floats to 1": lambda picture: (picture / 255).astype(np.float32),
    "floats to a tenth": lambda picture: (picture / 255 * 0.1).astype(np.float32),
    "floats to a hundredth": lambda picture: (picture / 255 * 0.01).astype(np.float32),
    "floats to 255": lambda picture: picture.astype(np.float32),
    "floats to 5000": lambda picture: (picture / 255 * 5000).astype(np.float32),
    "floats around 0": lambda picture: (picture / 255 * 9 - 4).astype(np.float32),
    "doubles": lambda picture: picture / 255,
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "of the other end": {"order": ">"},
    "deflated": {"deflate": True},
    "deflated, of the other end": {"deflate": True, "order": ">"},
}


@pytest.mark.parametrize("make", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_numbers_of_any_type(make: Callable[[Samples], Samples], layout: dict[str, Any]) -> None:
    assert distance(tiff(make(GREY), **layout), as_grey(GREY)) < NEAR
    assert distance(tiff(make(RGB), **layout), RGB) < NEAR
    assert distance(tiff(make(RGB), planar=True, **layout), RGB) < NEAR
    if make(GREY).dtype != np.int8:
        white_is_zero = tiff(make(255 - GREY), photometric=0, **layout)
        assert distance(white_is_zero, as_grey(GREY)) < NEAR


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_eight_bits_in_planes_and_as_negatives(layout: dict[str, Any]) -> None:
    assert distance(tiff(RGB, planar=True, **layout), RGB) == 0
    assert distance(tiff(255 - GREY, photometric=0, **layout), as_grey(GREY)) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_floats_that_are_out_of_all_bounds(bad: float) -> None:
    values = (GREY / 255).astype(np.float32)
    values[45, 60:62] = bad
    assert distance(tiff(values), as_grey(GREY)) < NEAR
    bright = (GREY / 255 * 40).astype(np.float32)  # a few highlights of an HDR picture
    bright[45, 60:62] = 4000
    assert distance(tiff(bright), as_grey(GREY)) < NEAR


def test_floats_a_little_beyond_their_bounds() -> None:
    values = (GREY / 255 * 1.04 - 0.02).astype(np.float32)  # as resizing leaves them
    assert distance(tiff(values), as_grey(GREY)) < NEAR + 4


def test_premultiplied_transparency() -> None:
    share = ALPHA[..., None] / 255
    values = of_bits(np.dstack([RGB * share, ALPHA]), 16)
    wanted = np.rint(RGB * share + 255 * (1 - share))
    assert distance(tiff(values, more={338: 1}), wanted) < NEAR
    assert distance(tiff(values, more={338: 0}), RGB * share) < NEAR  # no transparency


def test_a_deep_tiff_is_turned() -> None:
    # Where the first row and column lie, by the standard: 6 is right and top, 4 bottom and left.
    for orientation, upright in ((6, np.rot90(RGB, -1)), (4, RGB[::-1]), (5, RGB.swapaxes(0, 1))):
        for planar in (False, True):
            lying = tiff(of_bits(RGB, 12), planar=planar, more={274: orientation})
            assert distance(lying, upright) < NEAR


@pytest.mark.parametrize(
    "data",
    [
        tiff((RGB / 255).astype(np.float16)),
        tiff((RGB / 255).astype(np.float16), planar=True),
        tiff(of_bits(np.dstack([RGB, RGB]), 16), photometric=2),  # six channels
        tiff(of_bits(RGB, 16), photometric=8),
        tiff(GREY, photometric=32803),
        tiff(of_bits(RGB, 16).view(np.uint8)[..., ::2], photometric=9),
    ],
    ids=[
        "half floats",
        "half floats in planes",
        "six channels",
        "LAB of 16 bits",
        "CFA",
        "ICC LAB",
    ],
)
def test_a_tiff_of_a_kind_that_cannot_be_read(data: bytes) -> None:
    for read in (decode, decode_pixels):
        with pytest.raises(ImageError, match=f"^{UNREADABLE}$"):
            read(data)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("deflate", [False, True])
def test_a_deep_tiff_that_was_cut_or_scratched(deflate: bool, planar: bool) -> None:
    whole = tiff(of_bits(RGB, 16), deflate=deflate, planar=planar)
    at = int.from_bytes(whole[4:8], "little")
    directory = whole[at:]
    for length in (at // 3, at - 10):  # the directory is whole, the strips are not
        cut = whole[:length] + directory
        changed = bytearray(cut)
        struct.pack_into("<I", changed, 4, length)
        try:
            assert decode(bytes(changed)).size == (120, 90)
        except ImageError as error:
            assert "truncated" in str(error) or "kind of TIFF" in str(error)
    if deflate:
        scratched = bytearray(whole)
        scratched[at // 2 : at // 2 + 60] = b"\xff" * 60
        try:
            first = decode(bytes(scratched)).tobytes()
        except ImageError as error:
            assert "kind of TIFF" in str(error)
        else:
            assert first == decode(bytes(scratched)).tobytes()


# --- pages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 12])
def test_the_largest_page_counts(bits: int, order: Order) -> None:
    large = RGB if bits == 8 else of_bits(RGB, bits)
    small = RGB[::4, ::4]
    parts = [directory_of(small, order=order), directory_of(large, order=order)]
    mask = directory_of(np.zeros((200, 200), np.uint8), order=order, more={254: 4})
    data = pages([*parts, mask, directory_of(255 - RGB, order=order)], order)
    assert distance(data, RGB) < NEAR


def test_pages_in_a_circle_come_to_an_end(deadline: None) -> None:
    data = bytearray(pages([directory_of(RGB), directory_of(RGB[:40])]))
    first = data[4:8]
    data[-4:] = first  # the second has no lists behind it: this is its link
    assert decode(bytes(data)).size == (120, 90)
