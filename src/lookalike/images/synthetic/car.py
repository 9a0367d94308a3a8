"""A car as a camera sees it.

A car is a side view that is given an extent across its width and seen through a perspective
camera; its paint and glass mirror the sky and the ground of the scene around it. Lengths are
centimetres: x points to the front, y up and z to the near side. A place on a car is a side-view
point (x, y) with a share `across` of the half width, from -1 on the far side to 1 on the near side.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from lookalike.images.synthetic.designs import (
    FRONT,
    HEAD_LAMP,
    REAR,
    RIMS,
    TAIL_LAMP,
    Body,
    Colour,
    Scene,
)

Array = npt.NDArray[np.floating]

# Slopes of the sides at heights in shares of the belt line's: tucked in at the sill, creased half
# way up, with a shoulder at the belt line.
_SECTION = (0, 0.3, 0.6, 0.64, 0.93, 1, 1.08), (-0.55, -0.24, -0.06, 0.1, 0.17, 0.42, 0.3)
_HALF = np.array([0.2, 0.4, 0.6, 0.75, 0.88, 0.93, 0.965, 0.99, 1])
_LAYERS = np.concatenate([-_HALF[::-1], [0], _HALF])  # where `sweep` cuts the car lengthwise
_EDGE = 13.0  # radius with which roof and ends turn into the sides
_GLASS, _CARGO = np.array([24.0, 30.0, 34.0]), np.array([204.0, 205.0, 202.0])  # colours
_PAINT_GLOSS, _GLASS_GLOSS = 0.14, 0.3  # shares of light mirrored when looked at squarely
_CIRCLE = np.linspace(0, 2 * np.pi, 40)


@dataclass(frozen=True)
class View:
    """A car as one photo shows it, and the canvas that it is drawn on."""

    body: Body
    paint: Array  # (3,)
    scene: Scene
    camera: Array  # (3, 4), from centimetres to homogeneous pixels of the canvas
    eye: Array  # (3,), where the camera is
    sun: Array  # (3,), unit vector towards the light
    canvas: Image.Image
    draw: ImageDraw.ImageDraw


@cache
def _shapes(text: str) -> list[Array]:
    """Read "x,y x,y | x,y ..." as arrays of points (n, 2)."""
    return [np.array([p.split(",") for p in s.split()], dtype=float) for s in text.split("|")]


@cache
def extent(body: Body) -> tuple[float, float, float]:
    """Return length, height and clearance in centimetres."""
    outline = _shapes(body.outline)[0]
    return float(outline[:, 0].max()), float(outline[:, 1].max()), float(outline[:, 1].min())


def _rounded(polygon: Array, radius: float) -> Array:
    """Return a polygon (n, 2) with its corners turned into Bezier curves: (6 * n, 2)."""
    t = np.linspace(0, 1, 6)[:, None]
    curves = polygon[:, None]
    for neighbour, weight in ((1, (1 - t) ** 2), (-1, t**2)):
        side = np.roll(polygon, neighbour, 0) - polygon
        reach = np.minimum(radius / (np.linalg.norm(side, axis=1) + 1e-9), 0.49)
        curves = curves + weight * (reach[:, None] * side)[:, None]
    return curves.reshape(-1, 2)


def circle(body: Body, hub: int, share: float, angles: Array = _CIRCLE) -> Array:
    """Return points (n, 2) around the hub of a wheel, at a share of its radius."""
    radius = body.wheels[2]
    return (hub, radius) + share * radius * np.column_stack([np.cos(angles), np.sin(angles)])


def place(body: Body, points: Array, across: float | Array) -> Array:
    """Return points in space (..., 3) of side-view points (..., 2)."""
    length, height, _ = extent(body)
    x, y = points[..., 0], points[..., 1]
    lean = body.lean * np.clip((y - body.belt) / (height - body.belt), 0, 1)
    bow = 16 * across**2 * (2 * x / length - 1) ** 3  # seen from above, both ends are curved
    z = across * body.width * (1 - lean)
    return np.stack(np.broadcast_arrays(x - bow, y, z), axis=-1)


def project(camera: Array, points: Array) -> Array:
    """Return pixels (..., 2) of points in space (..., 3)."""
    seen = points @ camera[:, :3].T + camera[:, 3]
    pixels: Array = seen[..., :2] / seen[..., 2:]
    return pixels


def _fill(view: View, points: Array, across: float | Array, colour: Colour) -> None:
    """Fill a polygon of side-view points (n, 2)."""
    pixels = project(view.camera, place(view.body, points, across))
    view.draw.polygon(pixels.ravel().tolist(), fill=colour)


def aim(body: Body, width: int, height: int, rng: np.random.Generator) -> tuple[Array, Array, int]:
    """Choose a viewpoint: the camera (3, 4), its position (3,) and the row of the horizon."""
    length, tall, _ = extent(body)
    yaw = rng.choice((-1, 1), p=(0.35, 0.65)) * np.radians(rng.uniform(16, 36))
    distance = rng.uniform(1.7, 2.5) * length + 250
    offset = np.array([distance * np.sin(yaw), rng.uniform(20, 110), distance * np.cos(yaw)])
    eye = offset + np.array([length / 2, tall / 2, 0])
    forward = -offset / np.linalg.norm(offset)
    right = np.cross(forward, (rng.normal(0, 0.015), 1, 0))  # the camera is held a little askew
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(forward, right), forward])
    camera = np.column_stack([axes, -axes @ eye])
    # Zoom and shift such that the car, down to the ground, fills its share of the frame.
    outline = np.concatenate([_shapes(body.outline)[0] * (1, down) for down in (0, 1)])
    seen = np.concatenate([project(camera, place(body, outline, side)) for side in (-1, 1)])
    low, high = seen.min(0), seen.max(0)
    zoom = ((width, height) * np.array([rng.uniform(0.7, 0.88), 0.76]) / (high - low)).min()
    shift = (width, height) * rng.normal((0.5, 0.55), 0.015) - zoom * (low + high) / 2
    lens = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]], [0, 0, 1]])
    _, down, ahead = lens @ axes @ (forward * (1, 0, 1))
    return lens @ camera, eye, int(np.clip(down / ahead, 0.2 * height, 0.8 * height))


def _shade(view: View, points: Array, normals: Array, base: Array, gloss: float | Array) -> Array:
    """Return colours (..., 3) of a surface at points in space (..., 3), with normals (..., 3)."""
    normals = normals / (np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-9)
    gaze = view.eye - points
    gaze /= np.linalg.norm(gaze, axis=-1, keepdims=True)
    facing = np.clip((normals * gaze).sum(-1, keepdims=True), 0, 1)
    ray = 2 * facing * normals - gaze
    # Mirrored rays meet, from straight down to straight up: ground, dark horizon, haze and sky.
    zenith, haze, far, near = np.array([*view.scene.sky, *view.scene.ground], dtype=float)
    rim = (far + view.scene.ridges[-1][2]) / 5
    around = [0.35 * near, 0.8 * near, far, rim, 1.06 * haze, (haze + zenith) / 2, zenith]
    heights = (-1, -0.25, -0.05, 0.05, 0.14, 0.42, 1)
    mirrored = np.stack([np.interp(ray[..., 1], heights, c) for c in np.transpose(around)], axis=-1)
    share = gloss + (0.8 - gloss) * (1 - facing) ** 5  # Schlick's approximation of Fresnel
    sky = np.clip((haze + 2 * haze.mean()) / 645, 0.34, 1) * (0.62 + 0.28 * normals[..., 1:2])
    direct = 0.55 * view.scene.sun * np.clip(normals @ view.sun, 0, 1)[..., None]
    glint = 170 * view.scene.sun * np.clip(ray @ view.sun, 0, 1)[..., None] ** 60
    lit = base * (sky + direct) * (1 - share) + mirrored * share + glint * share**0.5
    colours: Array = np.clip(lit, 0, 255)
    return colours


@cache
def sweep(body: Body) -> Array:
    """Return the outline at 19 places across the car, (19, n, 3), rounded towards the sides."""
    outline = _rounded(_shapes(body.outline)[0], body.bend)
    along = np.roll(outline, -1, 0) - np.roll(outline, 1, 0)
    outward = along[:, ::-1] * (-1, 1) / np.linalg.norm(along, axis=1, keepdims=True)
    beyond = np.clip(_EDGE - (1 - np.abs(_LAYERS)) * body.width, 0, _EDGE)
    inset = _EDGE - np.sqrt(_EDGE**2 - beyond**2)
    return place(body, outline - inset[:, None, None] * outward, _LAYERS[:, None])


def _draw_shell(view: View) -> None:
    """Draw the ends, the roof and the bonnet as shaded quadrilaterals, the farthest first."""
    body, shell = view.body, sweep(view.body)
    ahead = np.roll(shell, -1, 1)
    quads = np.stack([shell[:-1], shell[1:], ahead[1:], ahead[:-1]], axis=2)
    normals = np.cross(quads[:, :, 1] - quads[:, :, 3], quads[:, :, 2] - quads[:, :, 0])
    middles = quads.mean(2)
    # The outline in the middle of the car tells the screens: elsewhere it is bowed and drawn in.
    x, y = ((shell + ahead) / 2)[len(shell) // 2, :, :2].T
    rear, rear_end, front, front_end = body.screens
    screen = ((x > rear) & (x < rear_end)) | ((x > front) & (x < front_end))
    screen &= (y > body.belt + 4) & (y < extent(body)[1] - 3)
    glass = (screen & (np.abs(_LAYERS[:-1] + _LAYERS[1:]) < 1.8)[:, None])[..., None]
    base = np.where(glass, _GLASS, np.where(x[:, None] < body.cargo, _CARGO, view.paint))
    colours = _shade(view, middles, normals, base, np.where(glass, _GLASS_GLOSS, _PAINT_GLOSS))
    toward = view.eye - middles
    shown = (toward * normals).sum(-1) > 0
    order = np.argsort(-np.linalg.norm(toward[shown], axis=-1))
    pixels = project(view.camera, quads[shown][order]).reshape(-1, 8).tolist()
    for quad, colour in zip(pixels, colours[shown][order].astype(int).tolist(), strict=True):
        view.draw.polygon(quad, fill=tuple(colour))


def _fill_side(view: View, polygons: list[Array], glass: bool, rng: np.random.Generator) -> None:
    """Fill polygons of pixels (n, 2) on the near side with its paint or its glass."""
    every = np.concatenate(polygons)
    left, top = every.min(0).astype(int).tolist()
    columns, rows = (every.max(0) - (left, top)).astype(int) // 4 + 1
    mask = Image.new("L", (4 * int(columns), 4 * int(rows)))
    for polygon in polygons:
        ImageDraw.Draw(mask).polygon((polygon - (left, top)).ravel().tolist(), fill=255)
    # Shading is smooth, so one in 4 by 4 pixels will do: find the places that those show.
    body = view.body
    plane = view.camera[:, [0, 1, 3]] + np.outer(view.camera[:, 2], (0, 0, body.width))
    v, u = 4 * np.mgrid[:rows, :columns] + np.array([top + 2, left + 2])[:, None, None]
    seen = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(plane).T
    x, y = seen[..., 0] / seen[..., 2], seen[..., 1] / seen[..., 2]
    wave = rng.normal(0, 0.03) * np.sin(x / rng.uniform(9, 40) + rng.uniform(0, 6))
    if glass:
        streak = np.sin((x + 0.7 * y) / rng.uniform(30, 60) + rng.uniform(0, 6)) > 0.5
        base, gloss = _GLASS, _GLASS_GLOSS + 0.1 * streak[..., None]
        turn, tilt = np.zeros_like(x), body.lean + 2 * wave
    else:
        base = np.where(x[..., None] < body.cargo, _CARGO, view.paint)
        gloss = np.array(_PAINT_GLOSS)
        turn = 0.5 * (2 * x / extent(body)[0] - 1) ** 5
        tilt = np.interp(y / body.belt, *_SECTION) + wave
        for hub in body.wheels[:2]:  # wheel arches flare
            out, up = x - hub, y - body.wheels[2]
            reach = np.hypot(out, up) + 1e-9
            flare = 0.5 * np.exp(-(((reach - 1.3 * body.wheels[2]) / 7) ** 2)) / reach
            turn, tilt = turn + flare * out, tilt + flare * up
    normals = np.stack([turn, tilt, np.ones_like(x)], axis=-1)
    points = np.stack([x, y, np.full_like(x, body.width)], axis=-1)
    colours = Image.fromarray(_shade(view, points, normals, base, gloss).astype(np.uint8))
    view.canvas.paste(colours.resize(mask.size, Image.Resampling.BILINEAR), (left, top), mask)


def _end_profile(body: Body, front: bool) -> tuple[Array, Array]:
    """Return heights (n,), rising, and the x of the front or the rear at each (n,)."""
    outline = _shapes(body.outline)[0]
    share = outline[:, 0] / extent(body)[0]
    end = outline[share > 0.85 if front else share < 0.15]
    x, y = end[np.argsort(end[:, 1])].T
    return y, x


def _draw_end(view: View, front: bool) -> None:
    """Draw bumper, grille, number plate and lamps of the end that faces the camera."""
    low, high = view.body.lamps
    profile = _end_profile(view.body, front)
    for y0, y1, z0, z1, colour in FRONT if front else REAR:
        for side in (-1, 1) if z0 > 0 else (1,):
            z = side * np.linspace(z0, z1, 5) * view.body.width
            y = np.maximum(low + np.repeat([y0, y1], 5) * (high - low), profile[0][0])
            heights, depths = _rounded(np.column_stack([y, np.append(z, z[::-1])]), 2.5).T
            points = np.column_stack([np.interp(heights, *profile), heights])
            _fill(view, points, depths / view.body.width, colour)


def _draw_details(view: View) -> None:
    """Draw the joints and handles of the doors, the ends of the lamps, and a mirror."""
    body = view.body
    low, high = body.lamps
    for front, inward, colour in ((False, 1, TAIL_LAMP), (True, -1, HEAD_LAMP)):
        top, bottom = np.interp((high, low), *_end_profile(body, front)) + 6 * inward
        x = np.array([top, bottom, bottom + 10 * inward, top + 20 * inward])
        _fill(view, _rounded(np.column_stack([x, (high, low, low, high)]), 5), 1.0, colour)
    joint = np.array([(0, 1), (2, 0.6), (-3, 0.32), (-4.2, 0.32), (0.8, 0.6), (-1.2, 1)])
    for door in body.doors:
        _fill(view, joint * np.array([1, body.belt]) + np.array([door, 2]), 1.0, (0, 0, 0, 150))
    grip = _rounded(np.array([(9, -14), (24, -13.5), (24, -10.4), (9, -10.4)]), 2)
    for door in body.doors[:-1]:
        _fill(view, grip + np.array([door, body.belt]), 1.0, (208, 210, 213))
    mirror = np.array([(-38, 3), (-22, 2), (-20, 9), (-25, 14), (-36, 14)])
    mirror = _rounded(mirror + np.array([body.screens[3], body.belt]), 5)
    for across in np.linspace(1.02, 1.16, 6):
        _fill(view, mirror, across, (22, 23, 25))
    _fill(view, mirror, 1.18, tuple((0.8 * view.paint).astype(int).tolist()))


def _draw_wheel(view: View, hub: int, rim: int, start: float) -> None:
    """Draw a wheel of the near side in its arch, with one of the RIMS, turned by an angle."""
    body = view.body
    _fill(view, np.maximum(circle(body, hub, 1.18), (0, extent(body)[2])), 1.0, (13, 13, 15))
    for across in np.linspace(0.72, 0.98, 6):
        _fill(view, circle(body, hub, 1), across, (20, 20, 22))
    parts = [(circle(body, hub, 0.94), 40.0), (circle(body, hub, 0.73), 205.0)]
    parts += [(circle(body, hub, 0.67), 26.0), (circle(body, hub, 0.4), 70.0)]
    count, inner, outer, swept = RIMS[rim]
    for angle in np.linspace(start, start + 2 * np.pi, count, endpoint=False):
        foot = circle(body, hub, 0.16, angle + np.array([-inner, inner]))
        tip = circle(body, hub, 0.69, angle + swept + np.array([outer, -outer]))
        parts.append((np.concatenate([foot, tip]), 165 + 60 * np.sin(angle + 0.8)))
    parts += [(circle(body, hub, 0.19), 225.0), (circle(body, hub, 0.12), 130.0)]
    light = np.clip(np.mean(view.scene.sky[1]) / 230, 0.45, 1)
    for points, level in parts:
        _fill(view, points, 1.0, (int(light * level),) * 3)


def draw_car(view: View, rng: np.random.Generator) -> None:
    """Draw a car from the far wheels to the near ones."""
    body = view.body
    for hub in body.wheels[:2]:
        for across in (-0.95, -0.8, -0.65):
            _fill(view, circle(body, hub, 1), across, (15, 15, 17))
    _draw_shell(view)
    _draw_end(view, bool(view.eye[0] > extent(body)[0] / 2))
    _fill_side(view, [project(view.camera, sweep(body)[-1])], False, rng)
    windows = [_rounded(window, 8) for window in _shapes(body.windows)]
    for window in windows:
        _fill(view, window + 0.05 * (window - window.mean(0)), 1.0, (16, 17, 19))
    _fill_side(view, [project(view.camera, place(body, w, 1.0)) for w in windows], True, rng)
    _draw_details(view)
    rim, start = int(rng.integers(len(RIMS))), rng.uniform(0, 6)
    for hub in body.wheels[:2]:
        _draw_wheel(view, hub, rim, start + hub)
