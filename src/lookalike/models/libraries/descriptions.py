"""Read how a network's input is made from the description that comes with it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from lookalike.errors import LookalikeError
from lookalike.images import Preprocessing
from lookalike.images.decoding.preprocessing import FILTERS, Filter, Resize
from lookalike.models.libraries.loaded import Input

_RESAMPLE: dict[int, Filter] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
"""The filters of Pillow by number."""
_UNKNOWN_STEPS = ("do_flip_channel_order", "rescale_offset")
"""Steps of some image processors of transformers that `Input` has no place for."""
_SQUASHING = ("DeiT", "Beit", "Flava")
"""Processors that squash an image to a size that is one number, and crop it afterwards."""


def of_timm(about: Mapping[str, Any]) -> Input:
    """Read what timm resolves as the configuration of a network's data.

    https://huggingface.co/docs/timm/reference/data
    """
    channels, high, wide = about["input_size"]
    _check_channels(channels)
    share = about.get("crop_pct") or 1.0
    size = math.floor(high / share), math.floor(wide / share)
    modes: dict[str, Resize] = {"squash": "squash", "border": "longest", "center": "shortest"}
    mode = modes[about.get("crop_mode") or "center"]
    mean, deviation = _colours(about["mean"]), _colours(about["std"])
    fill = tuple(round(255 * part) for part in mean) if mode == "longest" else (0, 0, 0)
    return Input(
        Preprocessing(
            mode,
            size,
            _filter(about["interpolation"]),
            (high, wide),
            cast("tuple[int, int, int]", fill),
        ),
        mean,
        deviation,
    )


def of_open_clip(about: Mapping[str, Any]) -> Input:
    """Read `preprocess_cfg` of a network of open_clip."""
    size = _size(about["size"])
    level = int(about.get("fill_color") or 0)
    return Input(
        Preprocessing(
            cast("Resize", about["resize_mode"]),
            size,
            _filter(about["interpolation"]),
            size,
            (level, level, level),
        ),
        _colours(about["mean"]),
        _colours(about["std"]),
    )


def of_processor(about: Mapping[str, Any], side: int | None = None) -> Input:
    """Read an image processor of transformers, as its `to_dict` or `preprocessor_config.json` is.

    `side` is the side of the input where the processor does not resize.
    https://huggingface.co/docs/transformers/main_classes/image_processor
    """
    if step := next((step for step in _UNKNOWN_STEPS if about.get(step)), None):
        raise LookalikeError(
            f"the image processor has the step {step}, which lookalike does not know: give the "
            "network as lookalike.CallableModel"
        )
    crop = _size(about["crop_size"]) if about.get("do_center_crop") else None
    mode: Resize = "squash"
    if about.get("do_resize", True) and about.get("size"):
        mode, size, inner = _resize(about["size"], about)
        crop = crop or inner
    elif crop or side:
        size = crop or (side or 0, side or 0)
    else:
        raise LookalikeError("the image processor names no size: give a network with one")
    filter_ = about.get("resample", 2)
    scale = 255 * float(about.get("rescale_factor") or 1 / 255)
    if not about.get("do_rescale", True):
        scale = 255.0
    mean, deviation = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if about.get("do_normalize", True):
        mean, deviation = _colours(about["image_mean"]), _colours(about["image_std"])
    if about.get("include_top"):  # EfficientNet: divided by the deviation once more
        again = _colours(about["image_std"])
        deviation = deviation[0] * again[0], deviation[1] * again[1], deviation[2] * again[2]
    return Input(
        Preprocessing(mode, size, _filter(filter_), crop or size),
        cast("tuple[float, float, float]", tuple(part / scale for part in mean)),
        cast("tuple[float, float, float]", tuple(part / scale for part in deviation)),
    )


def _resize(
    size: Any, about: Mapping[str, Any]
) -> tuple[Resize, tuple[int, int], tuple[int, int] | None]:
    """Return the resize, its size, and the crop that belongs to it, None for none."""
    crops, share = bool(about.get("do_center_crop")), about.get("crop_pct")
    kind = str(about.get("image_processor_type") or about.get("feature_extractor_type"))
    if isinstance(size, int):  # of older processors: some squash, some keep the shape
        if not (crops or share) or kind.startswith(_SQUASHING):
            return "squash", (size, size), None
        size = {"shortest_edge": size}
    if size.get("height") and size.get("width"):
        return "squash", (int(size["height"]), int(size["width"])), None
    if not size.get("shortest_edge") or size.get("longest_edge"):
        raise LookalikeError(
            f"the image processor makes inputs of several sizes ({size}): give a network with one"
        )
    side = whole = int(size["shortest_edge"])
    if share:  # ConvNext and ResNet: the size after the crop, but large images are squashed
        if side >= 384 and not crops:
            return "squash", (side, side), None
        whole = int(side / float(share))
    elif kind.startswith("Levit"):
        whole = int(256 / 224 * side)
    return "shortest", (whole, whole), (side, side) if share else None


def _size(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping):
        side = size.get("shortest_edge") or 0
        return int(size.get("height") or side), int(size.get("width") or side)
    high, wide = size
    return int(high), int(wide)


def _colours(values: float | Sequence[float]) -> tuple[float, float, float]:
    if isinstance(values, int | float):
        values = [values]
    numbers = [float(value) for value in values] * (3 if len(values) == 1 else 1)
    _check_channels(len(numbers))
    return numbers[0], numbers[1], numbers[2]


def _check_channels(count: int) -> None:
    if count != 3:
        raise LookalikeError(f"it takes images of {count} channels: give one for red, green, blue")


def _filter(name: Any) -> Filter:
    """Return a filter by the name of torchvision, or the number of Pillow."""
    found = _RESAMPLE.get(name) if isinstance(name, int) else str(getattr(name, "value", name))
    if found == "random":
        found = "bilinear"
    if found not in FILTERS:
        raise LookalikeError(f"it resizes by {name}, which lookalike does not: choose another")
    return found
