"""What stands for a picture that is more than one, or that is partly nothing."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from helpers import damage
from lookalike.images import decode, decode_pixels, resize
from lookalike.images.decoding.animation import MAX_FRAMES
from lookalike.images.decoding.raster import thumbnail

SIZE = (96, 64)
SCENE = damage.picture(9, SIZE)
BLACK, WHITE = Image.new("RGB", SIZE), Image.new("RGB", SIZE, "white")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def faded(share: float, scene: Image.Image = SCENE, paper: Image.Image = BLACK) -> Image.Image:
    return Image.blend(paper, scene, share)


ANIMATED: dict[str, dict[str, Any]] = {
    "GIF": {},
    "PNG": {},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 95, "subsampling": "4:4:4", "speed": 10},
}


def animation(kind: str, *frames: Image.Image) -> bytes:
    options = {"save_all": True, "append_images": list(frames[1:]), "duration": 40}
    data = encoded(frames[0], kind, **options, **ANIMATED[kind])
    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) > 1
    return data


def distance(one: Any, other: Any) -> float:
    return float(np.abs(np.asarray(one).astype(int) - np.asarray(other)).mean())


def assert_shows(data: bytes, wanted: Image.Image, near: float = 6) -> None:
    """All roads lead to a picture."""
    image = decode(data)
    assert image.mode == "RGB" and distance(image, wanted) < near
    assert np.abs(decode_pixels(data)[0].astype(int) - resize(image)).max() <= 1
    with Image.open(io.BytesIO(thumbnail(data, 300))) as small:
        assert distance(small, wanted) < near + 4  # as a JPEG


# --- animations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("paper", [BLACK, WHITE], ids=["from black", "from white"])
@pytest.mark.parametrize("kind", ANIMATED)
def test_a_fade_in_is_what_it_fades_to(kind: str, paper: Image.Image) -> None:
    steps = [faded(share, paper=paper) for share in (0, 0.01, 0.02, 0.5, 1)]
    assert_shows(animation(kind, *steps), steps[3])


@pytest.mark.parametrize("kind", ANIMATED)
def test_the_first_frame_stands_for_most_animations(kind: str) -> None:
    others = [damage.picture(seed, SIZE) for seed in (10, 11)]
    assert_shows(animation(kind, SCENE, *others), SCENE, near=8)
    assert_shows(animation(kind, SCENE, BLACK, WHITE), SCENE, near=8)


def test_two_animations_that_begin_alike_are_not_alike() -> None:
    one, other = (
        animation("GIF", BLACK, faded(0.01, scene), scene)
        for scene in (SCENE, damage.picture(12, SIZE))
    )
    assert distance(decode(one), decode(other)) > 20


def test_of_frames_that_show_next_to_nothing_the_best_is_taken() -> None:
    dim = [faded(share) for share in (0, 0.01, 0.04, 0.02)]
    assert_shows(animation("PNG", *dim), dim[2], near=1)
    assert_shows(animation("PNG", BLACK, WHITE, BLACK), BLACK, near=1)  # no frame shows anything


def test_what_comes_late_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    blanks = [Image.new("RGB", SIZE, (n % 7, 0, 0)) for n in range(MAX_FRAMES)]
    assert_shows(animation("PNG", *blanks, SCENE), BLACK)
    assert_shows(animation("PNG", *blanks[:-1], SCENE), SCENE)
    monkeypatch.setattr("lookalike.images.decoding.animation.MAX_PIXELS", 10 * SIZE[0] * SIZE[1])
    assert_shows(animation("PNG", *blanks[:10], SCENE), BLACK)


def test_an_animation_that_breaks_off_shows_what_there_was() -> None:
    data = animation("GIF", BLACK, faded(0.02), SCENE, damage.picture(13, SIZE))
    image = decode(data[: len(data) * 2 // 5])
    assert image.size == SIZE


def test_pictures_behind_the_first_do_not_count() -> None:
    other = damage.picture(14, SIZE)
    both = {"save_all": True, "append_images": [other], "quality": 95}
    assert_shows(encoded(BLACK, "MPO", **both), BLACK)
    assert_shows(encoded(SCENE, "MPO", **both), SCENE, near=8)


def test_the_largest_of_an_icon_counts() -> None:
    large = damage.picture(15, (128, 128))
    data = encoded(large, "ICO", sizes=[(16, 16), (128, 128), (32, 32)])
    assert_shows(data, large, near=1)


# --- transparency -------------------------------------------------------------------------------

Bytes = npt.NDArray[np.uint8]


def sign(seed: int, colour: tuple[int, int, int]) -> Image.Image:
    """A drawing in one colour on nothing."""
    coarse = np.random.default_rng(seed).integers(0, 2, (4, 6), np.uint8) * 255
    shape = Image.fromarray(coarse).resize(SIZE, Image.Resampling.BILINEAR)
    image = Image.new("RGBA", SIZE, (*colour, 0))
    image.paste(colour, mask=shape)
    image.putalpha(shape)
    return image


def on(image: Image.Image, paper: str) -> Image.Image:
    laid = Image.new("RGB", image.size, paper)
    laid.paste(image, mask=image.convert("RGBA"))
    return laid


def as_palette(image: Image.Image) -> Image.Image:
    return image.quantize(16, Image.Quantize.FASTOCTREE)


def as_grey(image: Image.Image) -> Image.Image:
    return Image.merge("LA", (image.convert("L"), image.getchannel("A")))


FORMS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "RGBA": ("PNG", lambda image: image, {}),
    "palette": ("PNG", as_palette, {}),
    "grey": ("PNG", as_grey, {}),
    "WebP": ("WEBP", lambda image: image, {"lossless": True}),
    "TIFF": ("TIFF", lambda image: image, {}),
    "ICO": ("ICO", lambda image: image.resize((64, 64)), {"sizes": [(64, 64)]}),
    "TGA": ("TGA", lambda image: image, {}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("colour", "paper"),
    [
        ((255,) * 3, "black"),
        ((246,) * 3, "black"),
        ((239,) * 3, "black"),
        ((230,) * 3, "black"),
        ((225,) * 3, "white"),
        ((0,) * 3, "white"),
    ],
    ids=["white", "nearly white", "pale", "paler than light", "light", "black"],
)
def test_a_sign_can_be_seen(form: str, colour: tuple[int, int, int], paper: str) -> None:
    kind, change, options = FORMS[form]
    image = change(sign(1, colour))
    assert_shows(encoded(image, kind, **options), on(image.convert("RGBA"), paper), near=3)
    other = encoded(change(sign(2, colour)), kind, **options)
    assert distance(decode(other), on(image.convert("RGBA"), paper)) > 5


@pytest.mark.parametrize("opacity", [0.2, 0.5, 0.8])
@pytest.mark.parametrize(("level", "paper"), [(235, "black"), (200, "white"), (20, "white")])
def test_a_sign_that_can_be_seen_through(level: int, paper: str, opacity: float) -> None:
    image = sign(3, (level,) * 3)
    image.putalpha(image.getchannel("A").point(lambda value: int(value * opacity)))
    for kind in ("PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        assert_shows(encoded(image, kind, **options), on(image, paper), near=3)


@pytest.mark.parametrize(("level", "paper"), [(234, "black"), (60, "white")])
def test_soft_edges_do_not_choose_the_paper(level: int, paper: str) -> None:
    """Drawn four times as large and made smaller, over transparent black and white."""
    for behind in (0, 255):
        large = Image.new("RGBA", (SIZE[0] * 4, SIZE[1] * 4), (behind, behind, behind, 0))
        draw = ImageDraw.Draw(large)
        for at in range(20, 360, 40):
            draw.line((at, 10, at - 15, 240), fill=(level, level, level, 255), width=7)
        image = large.resize(SIZE, Image.Resampling.LANCZOS)
        assert_shows(encoded(image, "PNG"), on(image, paper), near=3)


def test_a_light_drawing_with_something_dark_in_it_is_on_white() -> None:
    image = sign(1, (236,) * 3)
    image.paste((30, 30, 30, 255), (30, 20, 50, 40))
    assert_shows(encoded(image, "PNG"), on(image, "white"), near=3)
    image = sign(1, (236,) * 3)
    image.paste((205, 205, 205, 255), (30, 20, 45, 30))  # which is as faint there
    assert_shows(encoded(image, "PNG"), on(image, "black"), near=3)


def test_one_transparent_colour() -> None:
    shown = np.zeros((64, 96), np.uint8)
    shown[:, :48] = 255
    for values in (shown, np.repeat(shown[..., None], 3, axis=2)):
        clear = (0,) * values.ndim if values.ndim == 3 else 0
        data = encoded(Image.fromarray(values), "PNG", transparency=clear)
        assert_shows(data, Image.fromarray(shown).convert("RGB"), near=1)


@pytest.mark.parametrize(
    ("image", "paper"),
    [
        (Image.new("RGBA", SIZE, (250, 250, 250, 255)), "white"),  # nothing is transparent
        (Image.new("RGBA", SIZE, (250, 250, 250, 0)), "white"),  # nothing is there
        (SCENE.convert("RGBA"), "white"),
    ],
    ids=["opaque", "empty", "photo"],
)
def test_what_needs_no_paper_of_its_own(image: Image.Image, paper: str) -> None:
    assert_shows(encoded(image, "PNG"), on(image, paper), near=1)
