"""How a network's input is made, as timm, open_clip and transformers describe it."""

from typing import Any

import numpy as np
import pytest

from helpers.refusals import refusal
from lookalike.models.libraries.descriptions import of_open_clip, of_processor, of_timm

COLOURS = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
TIMM = {"input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.9, **COLOURS}
PROCESSOR = {
    "do_resize": True,
    "size": {"height": 256, "width": 256},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.2, 0.2, 0.2],
}
DESCRIBED = {
    "shortest-248-bicubic-crop-224-4": of_timm(TIMM),
    "squash-224-bicubic-4": of_timm({**TIMM, "crop_pct": 1.0, "crop_mode": "squash"}),
    "longest-224-bicubic-fill-808080-4": of_timm({**TIMM, "crop_pct": 1, "crop_mode": "border"}),
    "shortest-196x98-bilinear-4": of_timm(
        {**TIMM, "input_size": (3, 196, 98), "crop_pct": None, "interpolation": "bilinear"}
    ),
    "longest-384-bicubic-fill-7f7f7f-4": of_open_clip(
        {
            **COLOURS,
            "size": (384, 384),
            "resize_mode": "longest",
            "interpolation": "bicubic",
            "fill_color": 127,
        }
    ),
    "squash-256-bilinear-4": of_processor(PROCESSOR),
    "squash-256-bilinear-crop-224-4": of_processor(
        {**PROCESSOR, "do_center_crop": True, "crop_size": 224}
    ),
    "shortest-256-bilinear-crop-224-4": of_processor(
        {**PROCESSOR, "size": {"shortest_edge": 224}, "crop_pct": 0.875}
        | {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
    ),
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_the_input_is_as_described(name: str) -> None:
    found = DESCRIBED[name]
    assert found.preprocessing.name == name
    assert np.allclose([found.mean, found.deviation], [[0.5] * 3, [0.2] * 3])


def test_other_scales_of_a_processor() -> None:
    plain = of_processor({**PROCESSOR, "do_normalize": False})
    assert np.allclose([plain.mean, plain.deviation], [[0] * 3, [1] * 3])
    raw = of_processor({**PROCESSOR, "do_rescale": False, "image_mean": [127.5] * 3})
    assert raw.mean == pytest.approx((0.5,) * 3)
    assert raw.deviation == pytest.approx((0.2 / 255,) * 3)


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"do_flip_channel_order": True}, "has the step do_flip_channel_order, which lookalike "),
        ({"rescale_offset": True}, "has the step rescale_offset, which lookalike does not know"),
        ({"size": {"shortest_edge": 480, "longest_edge": 640}}, "inputs of several sizes"),
        ({"image_mean": [0.5], "image_std": [0.1, 0.2]}, "images of 2 channels"),
        ({"resample": 5}, "it resizes by 5"),
        ({"do_resize": False}, "names no size"),
    ],
)
def test_what_cannot_be_done_is_said(change: dict[str, Any], pattern: str) -> None:
    refusal(lambda: of_processor({**PROCESSOR, **change}), pattern)


@pytest.mark.parametrize(
    ("processor", "size", "name"),
    [
        ("ConvNextImageProcessor", 224, "shortest-256-bicubic-crop-224-4"),
        ("ConvNextImageProcessor", 384, "squash-384-bicubic-4"),
        ("LevitImageProcessor", 224, "shortest-256-bicubic-crop-224-4"),
        ("CLIPImageProcessor", 224, "shortest-224-bicubic-4"),
    ],
)
def test_the_crop_of_a_processor_is_its_own(processor: str, size: int, name: str) -> None:
    """Some resize to more than the size that they name."""
    import transformers

    made = getattr(transformers, processor)(size={"shortest_edge": size}, resample=3)
    assert of_processor(made.to_dict()).preprocessing.name == name
    given = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    shape = made(given, return_tensors="np")["pixel_values"].shape
    assert shape == (1, 3, *of_processor(made.to_dict()).preprocessing.crop)


@pytest.mark.parametrize(
    ("processor", "about"),
    [
        ("ConvNext", {"crop_pct": 0.875}),
        ("ViT", {}),
        ("CLIP", {"do_center_crop": True, "crop_size": 224}),
        ("DeiT", {"size": 256, "do_center_crop": True, "crop_size": 224}),
        ("Beit", {"size": 256, "do_center_crop": True, "crop_size": 224}),
        ("Levit", {"do_center_crop": True, "crop_size": 224}),
    ],
)
def test_older_descriptions_mean_what_they_did(processor: str, about: dict[str, Any]) -> None:
    """Their size is one number, and their processors had another name."""
    import transformers

    older = {**PROCESSOR, "size": 224, "resample": 3, **about}
    made = getattr(transformers, f"{processor}ImageProcessor")(**older)
    described = of_processor({**older, "feature_extractor_type": f"{processor}FeatureExtractor"})
    assert described.preprocessing == of_processor(made.to_dict()).preprocessing


def test_a_network_whose_processor_divides_twice() -> None:
    import transformers

    made = transformers.EfficientNetImageProcessor(image_mean=[0.5] * 3, image_std=[0.2] * 3)
    found = of_processor(made.to_dict())
    pixels = np.full((1, 3, 8, 8), 200, np.uint8)
    wanted = made(pixels[0], do_resize=False, do_center_crop=False, return_tensors="np")
    given = (200 / 255 - np.array(found.mean)) / found.deviation
    assert np.allclose(np.asarray(wanted["pixel_values"])[0, :, 0, 0], given, atol=1e-4)
