"""What networks want done with an image: each kind as torchvision does it, by every path."""

import io

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from lookalike.images import IsolatedDecoder, Preprocessing, decode, decode_pixels
from lookalike.images.decoding.preprocessing import DEFAULT, FILTERS, MAX_SIDE

NAMES = {
    "squash-224-bilinear-4": DEFAULT,
    "squash-384x128-bicubic-4": Preprocessing("squash", (384, 128), "bicubic", (384, 128)),
    "shortest-256-bicubic-crop-224-4": Preprocessing("shortest", (256, 256), "bicubic", (224, 224)),
    "longest-96-lanczos-fill-7f7f00-3": Preprocessing(
        "longest", (96, 96), "lanczos", (96, 96), (127, 127, 0), 3
    ),
}
MODES = {
    "bilinear": v2.InterpolationMode.BILINEAR,
    "bicubic": v2.InterpolationMode.BICUBIC,
    "lanczos": v2.InterpolationMode.LANCZOS,
    "box": v2.InterpolationMode.BOX,
    "nearest": v2.InterpolationMode.NEAREST,
}


def scene(width: int, height: int) -> Image.Image:
    """Draw something smooth with a gradient, so that a shift by a pixel shows."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    planes = [x, y, np.sin(9 * x + 5 * y) / 2 + 0.5]
    return Image.fromarray((np.stack(planes, 2) * 255).astype(np.uint8))


def jpeg(image: Image.Image, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    image.save(data, "JPEG", quality=98, subsampling=0, exif=exif)
    return data.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_has_all_of_it(name: str) -> None:
    assert NAMES[name].name == name
    assert Preprocessing.parse(name) == NAMES[name]
    assert Preprocessing.parse(name).current().version == 4
    assert NAMES[name].shape == (*NAMES[name].crop, 3)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "squash",
        "squash-224-4",
        "squash-0-bilinear-4",
        f"squash-{MAX_SIDE + 1}-bilinear-4",
        "squash-224-sharp-4",
        "shortest-224-bicubic-crop-4000-4",
        "squash-224-bilinear-4\n",
    ],
)
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^(an input of|a resize by|the preprocessing) "):
        Preprocessing.parse(name)


@pytest.mark.parametrize("filter_", FILTERS)
@pytest.mark.parametrize("size", [(640, 480), (301, 777), (90, 60)], ids=str)
def test_the_crop_of_the_centre_is_that_of_torchvision(size: tuple[int, int], filter_: str) -> None:
    name = f"shortest-118-{filter_}-crop-96-4"
    reference = v2.Compose([v2.Resize(118, MODES[filter_]), v2.CenterCrop(96)])
    image = scene(*size)
    given = np.asarray(Preprocessing.parse(name).apply(image))
    assert np.array_equal(given, np.asarray(reference(image)))


def test_a_crop_beyond_the_image_is_padded() -> None:
    reference = v2.Compose([v2.Resize(50), v2.CenterCrop((97, 64))])
    image = scene(80, 60)
    given = Preprocessing.parse("shortest-50-bilinear-crop-97x64-4").apply(image)
    assert np.array_equal(np.asarray(given), np.asarray(reference(image)))


@pytest.mark.parametrize("size", [(640, 200), (200, 640)], ids=str)
def test_the_longest_side_fits_and_the_rest_is_filled(size: tuple[int, int]) -> None:
    pixels = np.asarray(Preprocessing.parse("longest-96-bicubic-fill-7f7f00-4").apply(scene(*size)))
    filled = (pixels == (127, 127, 0)).all(2)
    assert pixels.shape == (96, 96, 3)
    assert filled.all(int(size[0] > size[1])).sum() == 96 - 30


@pytest.mark.parametrize("filter_", FILTERS)
@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(
    "kind", ["shortest-100-{}-crop-88-4", "squash-120x60-{}-4", "longest-80-{}-4"]
)
def test_photos_come_out_the_same_by_every_path(kind: str, orientation: int, filter_: str) -> None:
    """The inverse DCT scales half of the photo's pixels away, and Pillow does not."""
    preprocessing = Preprocessing.parse(kind.format(filter_))
    data = jpeg(scene(641, 402), orientation)
    wanted = np.asarray(preprocessing.apply(decode(data)), int)
    given, size = decode_pixels(data, preprocessing=preprocessing)
    assert given.shape == preprocessing.shape
    assert size == ((402, 641) if orientation == 6 else (641, 402))
    # The inverse DCT makes 161 pixels of 641, so that the last ones lie up to three pixels further.
    assert np.abs(given - wanted).mean() < 2


def test_a_process_of_its_own_decodes_each_kind() -> None:
    data = jpeg(scene(500, 300))
    with IsolatedDecoder() as decoder:
        for preprocessing in (*NAMES.values(), Preprocessing("squash", (8, 8), "box", (8, 8))):
            given, size = decoder.decode_pixels(data, preprocessing)
            wanted, _ = decode_pixels(data, preprocessing=preprocessing)
            assert (size, given.shape) == ((500, 300), preprocessing.shape)
            assert np.array_equal(given, wanted)


@pytest.mark.parametrize("size", [(8, 60_000), (60_000, 8)], ids=str)
def test_a_long_image_costs_no_more_memory_than_its_crop(size: tuple[int, int]) -> None:
    """Resized as a whole, it would have five billion bytes."""
    preprocessing = Preprocessing.parse("shortest-512-bicubic-crop-448-4")
    image = scene(*size)
    pixels = np.asarray(preprocessing.apply(image), float)
    assert pixels.shape == (448, 448, 3)
    assert pixels[..., :2].mean((0, 1)) == pytest.approx([127.5, 127.5], abs=2)
    data = io.BytesIO()
    image.save(data, "JPEG")
    assert decode_pixels(data.getvalue(), preprocessing=preprocessing)[0].shape == (448, 448, 3)
