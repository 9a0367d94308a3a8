"""Colours are those of sRGB, whatever space a picture was stored in, by whatever road it comes."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from helpers import damage, deep, profiles
from lookalike.images import decode, decode_pixels, resize, to_upright_rgb
from lookalike.images.decoding.colour import MAX_PROFILE_BYTES, to_srgb
from lookalike.images.decoding.raster import thumbnail

LARGE = damage.picture(4, (900, 640))
SMALL = LARGE.resize((300, 200))
SPACES: dict[str, tuple[profiles.Matrix, float]] = {
    "Display P3": (profiles.P3, 2.2),
    "Adobe RGB": (profiles.ADOBE, 2.2),
    "ProPhoto": (profiles.PROPHOTO, 1.8),
    "linear": (profiles.SRGB, 1.0),
    "channels exchanged": (profiles.SRGB[:, [2, 0, 1]], 2.2),
}
KINDS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 97, "subsampling": 0},
    "PNG": {},
    "TIFF": {},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 98, "subsampling": "4:4:4", "speed": 10},
}
NEAR = 6  # levels, on average: dark colours have few steps where light is stored as it is


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def distance(one: Any, other: Any) -> float:
    return float(np.abs(np.asarray(one).astype(int) - np.asarray(other)).mean())


def assert_shows(data: bytes, wanted: Image.Image, near: float = NEAR) -> None:
    """All roads lead to a picture."""
    image = decode(data)
    assert image.mode == "RGB" and distance(image, wanted) < near
    assert distance(decode_pixels(data)[0], resize(wanted)) < near
    with Image.open(io.BytesIO(thumbnail(data, 200))) as small:
        assert "icc_profile" not in small.info
        assert distance(small, wanted.resize(small.size, Image.Resampling.LANCZOS)) < near


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", ["large JPEG", *KINDS])
def test_a_picture_in_another_space_is_its_twin_in_srgb(kind: str, space: str) -> None:
    wanted, kind = (LARGE, "JPEG") if kind == "large JPEG" else (SMALL, kind)
    primaries, gamma = SPACES[space]
    stored = Image.fromarray(profiles.in_space(np.asarray(wanted), primaries, gamma))
    profile = profiles.of_primaries(primaries, gamma)
    data = encoded(stored, kind, icc_profile=profile, **KINDS[kind])
    assert_shows(data, wanted)
    if space != "Adobe RGB":  # which is the nearest to sRGB
        plain = encoded(stored, kind, **KINDS[kind])
        assert distance(decode(plain), wanted) > 2 * distance(decode(data), wanted)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("gamma", [1.0, 1.8])
def test_grey_has_profiles_too(kind: str, gamma: float) -> None:
    for grey in (SMALL.convert("L"), LARGE.convert("L")):
        light = profiles.light_of(np.asarray(grey))
        stored = Image.fromarray(profiles.encode(light, gamma))
        data = encoded(stored, kind, icc_profile=profiles.of_grey(gamma), **KINDS[kind])
        assert_shows(data, grey.convert("RGB"))


def test_transparency_stays_as_it_is() -> None:
    shown = np.asarray(SMALL)
    alpha = np.linspace(0, 255, shown.shape[0] * shown.shape[1]).reshape(shown.shape[:2])
    share = alpha[..., None] / 255
    wanted = Image.fromarray(np.rint(shown * share + 255 * (1 - share)).astype(np.uint8))
    stored = np.dstack([profiles.in_space(shown, profiles.P3, 2.2), alpha.astype(np.uint8)])
    profile = profiles.of_primaries(profiles.P3, 2.2)
    assert_shows(encoded(Image.fromarray(stored), "PNG", icc_profile=profile), wanted, NEAR + 6)


def test_a_palette_has_a_profile_too() -> None:
    few = SMALL.quantize(64).convert("RGB")
    stored = Image.fromarray(profiles.in_space(np.asarray(few), profiles.PROPHOTO, 1.8))
    profile = profiles.of_primaries(profiles.PROPHOTO, 1.8)
    data = encoded(stored.quantize(64), "PNG", icc_profile=profile)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "P"
    assert_shows(data, few)


def test_more_than_eight_bits_have_a_profile_too() -> None:
    stored = profiles.in_space(np.asarray(SMALL), profiles.PROPHOTO, 1.8)
    sixteen = deep.png(deep.of_bits(stored, 12))
    profile = encoded(
        Image.new("L", (8, 8)), "PNG", icc_profile=profiles.of_primaries(profiles.PROPHOTO, 1.8)
    )
    chunk = profile[33 : profile.index(b"IDAT") - 4]
    assert chunk[4:8] == b"iCCP"
    assert_shows(sixteen[:33] + chunk + sixteen[33:], SMALL)


def inks() -> bytes:
    """A press whose inks are exchanged: its cyan prints red, its magenta blue, its yellow green."""
    corners: dict[tuple[int, ...], tuple[float, float, float]] = {}
    for ink in np.ndindex(2, 2, 2, 2):
        red, blue, green, black = ink
        shown = np.array([red, green, blue]) if any(ink[:3]) else np.ones(3)
        shown = shown * (1 - black)
        lab = ImageCms.profileToProfile(
            Image.fromarray(np.uint8(shown * 255).reshape(1, 1, 3)),
            ImageCms.createProfile("sRGB"),
            ImageCms.createProfile("LAB"),
            outputMode="LAB",
        )
        assert lab is not None
        light, a, b = lab.tobytes()
        corners[ink] = (light / 2.55, (a ^ 128) - 128, (b ^ 128) - 128)
    return profiles.of_inks(corners)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_are_what_their_profile_says(kind: str) -> None:
    colours = np.zeros((64, 64, 4), np.uint8)
    colours[:32, :32, 0] = colours[:32, 32:, 1] = colours[32:, :32, 2] = 255
    image = Image.fromarray(colours, "CMYK")
    data = encoded(image, kind, icc_profile=inks(), **KINDS[kind])
    shown = np.asarray(decode(data)).astype(int)
    for (row, column), (more, less) in {
        (16, 16): (0, 1),
        (16, 48): (2, 0),
        (48, 16): (1, 0),
    }.items():
        assert shown[row, column, more] > shown[row, column, less] + 60
    plain = np.asarray(decode(encoded(image, kind, **KINDS[kind])))
    assert plain[16, 16, 0] < 20  # without the profile cyan is cyan
    assert distance(decode_pixels(data)[0], resize(decode(data))) == 0


def test_lab_is_read() -> None:
    lab = ImageCms.profileToProfile(
        SMALL, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    assert_shows(encoded(lab, "TIFF"), SMALL)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
USELESS: dict[str, bytes] = {
    "garbage": b"no profile at all",
    "nothing but a header": SRGB[:128],
    "cut": SRGB[:300],
    "of grey": profiles.of_grey(1.0),
    "of inks": inks(),
    "endless": profiles.of_primaries(profiles.PROPHOTO, 1.8) + bytes(MAX_PROFILE_BYTES),
    "tags beyond its end": SRGB[:132] + struct.pack(">4sII", b"rTRC", 2**31, 2**31) * 9,
}


@pytest.mark.parametrize("profile", USELESS.values(), ids=USELESS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_profile_that_is_of_no_use_is_ignored(kind: str, profile: bytes) -> None:
    for image in (SMALL, LARGE):
        plain = encoded(image, kind)
        data = encoded(image, kind, icc_profile=profile)
        assert decode(data).tobytes() == decode(plain).tobytes()
        assert np.array_equal(decode_pixels(data)[0], decode_pixels(plain)[0])
    grey = encoded(SMALL.convert("L"), "PNG", icc_profile=profiles.of_primaries(profiles.P3, 2.2))
    assert distance(decode(grey), SMALL.convert("L").convert("RGB")) == 0


@pytest.mark.parametrize(
    "profile", [SRGB, profiles.of_primaries(profiles.SRGB, 2.2)], ids=["own", "near"]
)
def test_the_profile_of_srgb_changes_nothing(profile: bytes) -> None:
    plain, data = encoded(LARGE, "JPEG"), encoded(LARGE, "JPEG", icc_profile=profile)
    moved = int(profile != SRGB) * 3  # a plain gamma is not quite sRGB's curve
    assert distance(decode_pixels(data)[0], decode_pixels(plain)[0]) <= moved
    assert distance(decode(data), decode(plain)) <= moved


def test_an_image_of_pillows_is_converted_once() -> None:
    stored = Image.fromarray(profiles.in_space(np.asarray(SMALL), profiles.P3, 2.2))
    stored.info["icc_profile"] = profiles.of_primaries(profiles.P3, 2.2)
    once = to_upright_rgb(stored)
    assert distance(once, SMALL) < NEAR
    assert distance(to_upright_rgb(once), once) <= 1
    assert to_srgb(SMALL, None) is SMALL
