"""A photo of a car: backdrop, shadow, car, and the effects of a camera.

Cars are drawn at twice the size of the photo, so that averaging smooths their edges.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from lookalike.images.synthetic.car import (
    Array,
    View,
    aim,
    circle,
    draw_car,
    extent,
    place,
    project,
    sweep,
)
from lookalike.images.synthetic.designs import BODIES, PAINTS, RIDGES, SCENES, Scene

Box = tuple[int, int, int, int]


def _noise(rng: np.random.Generator, cells: int, width: int, height: int) -> Array:
    """Return smooth random values (height, width) in about [0, 1], in flat patches."""
    total = np.zeros((height, width), dtype=np.float32)
    for finer, weight in ((1, 0.6), (3, 0.4)):
        grid = Image.fromarray(rng.random((2 * finer * cells, finer * cells), dtype=np.float32))
        total += weight * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
    return total


def _draw_ridges(image: Image.Image, scene: Scene, tall: int, rng: np.random.Generator) -> None:
    """Draw hills, trees or houses on the lower edge of an image, for a photo `tall` pixels high."""
    width, horizon = image.size
    draw = ImageDraw.Draw(image)
    x = np.arange(0, width + 3, 3)
    for kind, share, colour in scene.ridges:
        knots, depth, rough = RIDGES[kind]
        dips = rng.random(knots)
        level = np.interp(x, np.linspace(0, width, knots), dips)
        if kind == "blocks":
            level = dips[x * knots // (width + 3)]
        top = horizon - share * tall * (1 - depth * level + rough * rng.standard_normal(len(x)))
        skyline = np.column_stack([x, top]).ravel().tolist()
        draw.polygon([0, horizon, *skyline, width, horizon], fill=colour)
        if kind == "blocks":  # with windows, some of them lit in the dark
            lit, floors = 0.35 if max(colour) < 100 else 0.0, np.arange(horizon - 16, 0, -15)
            for column, floor in np.argwhere(floors > top[::4, None] + 6):
                left, upper = 12 * int(column), int(floors[floor])
                glass = (252, 206, 130) if rng.random() < lit else tuple(c - 20 for c in colour)
                draw.rectangle((left, upper, left + 6, upper + 8), fill=glass)


def _draw_backdrop(
    scene: Scene, width: int, height: int, horizon: int, rng: np.random.Generator
) -> Image.Image:
    """Draw sky and ground, with a blurred skyline between them."""
    levels = np.array([*scene.sky, *scene.ground], dtype=np.float32)
    stops = (0, horizon - 1, horizon, height)
    ramp = np.stack([np.interp(np.arange(height), stops, c) for c in levels.T], axis=1)
    pixels = np.repeat(ramp[:, None].astype(np.float32), width, axis=1)
    clouds = scene.clouds * np.clip(2.6 * _noise(rng, 4, width, horizon) - 1.1, 0, 1)
    pixels[:horizon] += clouds[..., None] * (1.05 * levels[1] - pixels[:horizon])
    rough = _noise(rng, 10, width, height - horizon) - 1
    rough += rng.random(rough.shape, dtype=np.float32)
    rough *= np.linspace(0.05, 0.16, len(rough), dtype=np.float32)[:, None]
    pixels[horizon:] *= 1 + rough[..., None]
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    far = image.crop((0, 0, width, horizon))
    _draw_ridges(far, scene, height, rng)
    image.paste(far.filter(ImageFilter.BoxBlur(rng.uniform(0.8, 2))))
    return image


def _draw_shadow(image: Image.Image, view: View) -> None:
    """Darken the ground below and beside the car, on an image half the size of the canvas."""
    length, w = extent(view.body)[0], view.body.width
    foot = np.array([(0, 0, -w), (length, 0, -w), (length, 0, w), (0, 0, w)])
    mask = Image.new("L", (image.width // 2, image.height // 2))
    for drift, level in ((-70 * view.sun[0], 110), (0, 225)):
        pixels = project(view.camera, foot + np.array([drift, 0, 0])) / 4
        ImageDraw.Draw(mask).polygon(pixels.ravel().tolist(), fill=level)
    soft = mask.filter(ImageFilter.BoxBlur(2)).filter(ImageFilter.BoxBlur(2))
    image.paste((8, 8, 12), (0, 0), soft.resize(image.size, Image.Resampling.BILINEAR))


def _develop(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Add the effects of a camera: blur, vignetting, exposure, a colour cast and noise."""
    blurred = photo.filter(ImageFilter.BoxBlur(max(0, rng.uniform(-0.3, 0.5))))
    pixels = np.asarray(blurred).astype(np.float32)
    y, x = np.ogrid[-1 : 1 : photo.height * 1j, -1 : 1 : photo.width * 1j]
    pixels *= (1 - rng.uniform(0, 0.14) * (x**2 + y**2)).astype(np.float32)[..., None]
    cast = 1 + rng.normal(0, 0.04) * np.array([1, 0, -1])
    pixels *= (rng.uniform(0.88, 1.14) * cast).astype(np.float32)
    noise = rng.random((photo.height, photo.width, 1), dtype=np.float32) - np.float32(0.5)
    pixels += rng.uniform(4, 14) * noise
    return Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))


def snapshot(label: str, rng: np.random.Generator) -> tuple[Image.Image, Box]:
    """Draw a photo of a car.

    Parameters
    ----------
    label
        A class, such as "red sedan": a paint and a body style.
    rng
        Where the random numbers come from.

    Returns
    -------
    Image.Image
        The photo, in RGB, 440 to 540 pixels wide and 292 to 360 high.
    Box
        The box around the car in pixels: left, top, right, bottom.

    """
    paint, style = label.split(" ", 1)
    width, height = int(rng.integers(440, 541)), int(rng.integers(292, 361))
    body, scene = BODIES[style], SCENES[rng.integers(len(SCENES))]
    camera, eye, level = aim(body, 2 * width, 2 * height, rng)
    image = _draw_backdrop(scene, width, height, level // 2, rng)
    sun = np.array([rng.uniform(-0.6, 0.6), 0.8, 0.6])
    tone = np.array(PAINTS[paint]) * rng.normal(1, 0.08) * rng.normal(1, 0.02, 3)
    canvas = Image.new("RGB", (2 * width, 2 * height))
    draw = ImageDraw.Draw(canvas, "RGBA")
    view = View(body, tone, scene, camera, eye, sun / np.linalg.norm(sun), canvas, draw)
    _draw_shadow(image, view)
    canvas.paste(image.resize(canvas.size, Image.Resampling.NEAREST))
    draw_car(view, rng)
    photo = _develop(canvas.reduce(2), rng)
    wheels = [place(body, circle(body, hub, 1), 1.0) for hub in body.wheels[:2]]
    seen = project(camera, np.concatenate([*sweep(body), *wheels])) / 2
    x1, y1, x2, y2 = np.concatenate([seen.min(0), seen.max(0)]).astype(int).tolist()
    if rng.random() < 0.5:
        return ImageOps.mirror(photo), (width - x2, y1, width - x1, y2)
    return photo, (x1, y1, x2, y2)
