"""Photos of drawn cars, as a network gets them."""

import numpy as np
from PIL import Image, ImageEnhance

from lookalike.images import resize
from lookalike.images.synthetic.designs import CLASSES
from lookalike.images.synthetic.photo import snapshot
from lookalike.system.arrays import Pixels

CARS, FEW = 16, 16


def variation(car: Image.Image, seed: int) -> Pixels:
    """Crop and light a photo in another way, as the camera after the next would."""
    rng = np.random.default_rng(seed)
    width, height = car.size
    left, top = int(rng.uniform(0, 0.2) * width), int(rng.uniform(0, 0.2) * height)
    right, bottom = int(rng.uniform(0.8, 1) * width), int(rng.uniform(0.8, 1) * height)
    cut = car.crop((left, top, right, bottom))
    return resize(ImageEnhance.Brightness(cut).enhance(rng.uniform(0.7, 1.3)))


def photographed(photos: int) -> Pixels:
    """Return photos of drawn cars."""
    cars = [snapshot(CLASSES[i], np.random.default_rng((5, i)))[0] for i in range(CARS)]
    return np.array([variation(cars[i % CARS], i) for i in range(photos)])
