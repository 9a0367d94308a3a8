"""Photo-like drawings of cars, in the layout of the Stanford Cars data set.

Real photographs may not be shipped, so the demo draws its own. A car is a side view that is given
an extent across its width and seen through a perspective camera; its paint and glass mirror the
sky and the ground of the scene around it. Lengths are centimetres: x points to the front, y up
and z to the near side. A place on a car is a side-view point (x, y) with a share `across` of the
half width, from -1 on the far side to 1 on the near side. Cars are drawn at twice the size of the
photo, so that averaging smooths their edges.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

Array = npt.NDArray[np.floating]
Colour = tuple[int, ...]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class DrawnCollection:
    """Where `draw_collection` put things."""

    photos: Path
    labels: Path
    new: Path


def draw_collection(
    out: Path, *, images: int = 640, held_out: int = 16, seed: int = 0
) -> DrawnCollection:
    """Draw cars in the layout of the Stanford Cars data set.

    The classes take turns. Every photo has random numbers of its own, so that it stays the same
    whatever the number of photos. The pictures held out go unlabelled to a folder of their own.
    """
    drawn = DrawnCollection(out / "cars_train", out / "cardatasettrain.csv", out / "new")
    drawn.photos.mkdir(parents=True, exist_ok=True)
    drawn.new.mkdir(exist_ok=True)
    with drawn.labels.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("", "x1", "y1", "x2", "y2", "Class", "image"))
        for index in range(images):
            photo, box = _picture(seed, index, new=False)
            name = f"{index + 1:05}.jpg"
            photo.save(drawn.photos / name, quality=75 + 5 * index % 17)
            rows.writerow((index, *box, CLASSES[index % len(CLASSES)], name))
    for index in range(held_out):
        photo, _ = _picture(seed, index, new=True)
        photo.save(drawn.new / f"new-{index + 1:02}.jpg", quality=90)
    return drawn


def _picture(seed: int, index: int, new: bool) -> tuple[Image.Image, Box]:
    """One of the photos, or of the new pictures to search with, and the box around its car."""
    rng = np.random.default_rng((seed, int(new), index))
    if new or index < len(CLASSES) or rng.random() >= _DUPLICATES:
        return _snapshot(CLASSES[index % len(CLASSES)], rng)
    photo, (x1, y1, x2, y2) = _picture(seed, index - len(CLASSES), new)
    left, top = (int(side * rng.uniform(0, 0.05)) for side in photo.size)
    right, bottom = (int(side * rng.uniform(0.95, 1)) for side in photo.size)
    cropped = ImageEnhance.Brightness(photo.crop((left, top, right, bottom)))
    box = max(x1 - left, 0), max(y1 - top, 0), min(x2, right) - left, min(y2, bottom) - top
    return cropped.enhance(rng.uniform(0.85, 1.2)), box


@dataclass(frozen=True)
class Body:
    """A body style in side view; shapes are "x,y x,y | x,y ..."."""

    outline: str
    windows: str
    doors: tuple[int, ...]  # x of the joints
    wheels: tuple[int, int, int]  # x of the hubs, radius
    lamps: tuple[int, int]  # y range
    belt: int  # y from which the sides lean inwards
    screens: tuple[int, int, int, int]  # x ranges of the rear window and of the windscreen
    width: int = 90  # half of the whole
    lean: float = 0.24
    bend: int = 45  # radius of the corners of the outline
    cargo: int = 0  # x up to which the body is a plain white box


BODIES = {
    "sedan": Body(
        "8,30 2,62 8,97 86,105 158,142 256,146 344,104 420,93 455,78 462,48 452,26 20,26",
        "110,107 160,134 194,139 235,139 235,107 | 243,107 243,139 278,135 326,107",
        (122, 239, 332), (92, 366, 33), (64, 82), 103, (88, 156, 258, 340)),
    "hatchback": Body(
        "8,30 2,64 10,98 40,144 66,151 205,153 290,106 350,95 385,78 392,48 382,26 16,26",
        "44,112 62,138 96,142 162,142 162,109 | 170,109 170,142 208,141 270,109",
        (84, 166, 276), (72, 310, 32), (66, 90), 106, (0, 42, 207, 286)),
    "SUV": Body(
        "6,42 1,76 3,120 12,168 30,179 268,179 314,124 420,116 446,104 456,64 446,36 16,36",
        "28,128 34,165 108,165 108,128 | 116,128 116,165 192,165 192,128 |"
        " 200,128 200,165 256,165 290,128",
        (112, 196, 306), (90, 360, 40), (80, 104), 122, (0, 30, 268, 312), 95, 0.14, 26),
    "pickup": Body(
        "4,50 0,82 0,114 206,114 210,124 222,176 242,182 332,182 410,126 498,118 532,100 540,68"
        " 530,42 12,42", "226,130 234,166 272,168 272,130 | 280,130 280,168 328,167 380,130",
        (222, 276, 388), (112, 436, 41), (82, 106), 126, (208, 226, 334, 406), 98, bend=22),
    "van": Body(
        "4,40 0,110 8,196 26,210 372,210 452,128 494,110 510,84 512,52 502,30 12,30",
        "330,132 330,186 376,182 420,132",
        (196, 322, 432), (106, 408, 35), (78, 102), 128, (0, 8, 374, 446), 98, 0.1, 24),
    "coupe": Body(
        "10,34 2,62 8,90 40,95 120,116 178,126 232,126 322,91 410,78 452,60 458,40 446,22 20,24",
        "128,96 160,113 190,118 230,117 288,94",
        (162, 298), (88, 364, 35), (48, 62), 92, (66, 156, 236, 318), 94, 0.28, 60),
    "bus": Body(
        "4,60 0,150 4,288 20,304 920,304 952,290 960,140 956,56 940,42 20,42",
        "40,156 40,252 204,252 204,156 | 220,156 220,252 384,252 384,156 |"
        " 400,156 400,252 564,252 564,156 | 580,156 580,252 744,252 744,156 |"
        " 776,70 776,252 850,252 850,70 | 872,140 872,252 938,250 942,140",
        (), (210, 690, 50), (80, 106), 150, (0, 12, 930, 962), 125, 0.06, 22),
    "box truck": Body(
        "2,74 0,90 0,322 470,322 472,238 566,238 600,228 640,152 668,138 676,60 664,46 490,46"
        " 480,74", "520,152 520,214 568,214 606,152",
        (506, 624), (140, 576, 48), (82, 106), 150, (0, 0, 598, 642), 112, 0.08, 10, 471),
    "city car": Body(
        "10,32 4,66 8,104 34,148 84,164 150,160 206,114 246,98 268,76 272,48 262,28 16,28",
        "36,114 54,140 88,150 96,150 96,114 | 104,114 104,150 146,146 188,114",
        (100, 196), (50, 222, 30), (64, 84), 110, (0, 40, 152, 202), 80, bend=60),
}  # fmt: skip

PAINTS = {
    "red": (186, 22, 28), "blue": (28, 74, 168), "white": (212, 213, 211), "black": (24, 25, 28),
    "silver": (150, 155, 160), "yellow": (238, 182, 18), "green": (24, 96, 58),
    "orange": (228, 100, 20), "turquoise": (36, 150, 156), "brown": (104, 66, 40),
}  # fmt: skip

# Body styles take turns, so that few photos show many of them.
CLASSES = (
    "red sedan", "yellow hatchback", "black SUV", "orange pickup", "white van", "blue coupe",
    "yellow bus", "red box truck", "turquoise city car", "silver sedan", "blue hatchback",
    "green SUV", "white pickup", "brown van", "orange coupe", "blue bus", "yellow box truck",
    "white city car",
)  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """Surroundings of a car."""

    sky: tuple[Colour, Colour]  # at the zenith, at the horizon
    ground: tuple[Colour, Colour]  # far, near
    ridges: tuple[tuple[str, float, Colour], ...]  # kind, height as a share of the photo, colour
    sun: float = 1.0  # strength of direct light; the rest comes from the sky
    clouds: float = 0.6


SCENES = (
    Scene(((104, 152, 208), (216, 226, 232)), ((112, 112, 114), (84, 84, 88)),  # street
          (("blocks", 0.38, (154, 146, 138)), ("blocks", 0.24, (122, 104, 94)),
           ("trees", 0.10, (66, 84, 52)))),
    Scene(((58, 122, 196), (238, 220, 190)), ((214, 176, 122), (190, 148, 98)),  # desert
          (("peaks", 0.17, (190, 140, 114)), ("hills", 0.07, (204, 152, 102))), 1.25, 0.3),
    Scene(((150, 186, 214), (226, 232, 224)), ((112, 118, 78), (134, 124, 104)),  # forest
          (("trees", 0.42, (84, 108, 86)), ("trees", 0.32, (54, 82, 52)),
           ("trees", 0.15, (66, 96, 46))), 0.8),
    Scene(((52, 126, 210), (206, 230, 240)), ((196, 190, 174), (170, 164, 150)),  # sea
          (("hills", 0.13, (136, 162, 176)), ("sea", 0.08, (34, 104, 146))), 1.15),
    Scene(((188, 192, 198), (232, 233, 232)), ((186, 188, 192), (120, 122, 128)),  # showroom
          (("blocks", 0.5, (214, 216, 216)),), 0.7, 0.0),
    Scene(((72, 128, 200), (214, 228, 238)), ((110, 128, 80), (122, 118, 108)),  # mountains
          (("peaks", 0.4, (160, 174, 196)), ("peaks", 0.26, (118, 136, 156)),
           ("hills", 0.14, (84, 112, 84)), ("trees", 0.06, (54, 82, 50)))),
    Scene(((66, 70, 132), (250, 172, 104)), ((98, 84, 84), (66, 60, 68)),  # dusk
          (("hills", 0.16, (96, 74, 98)), ("blocks", 0.14, (62, 52, 70))), 0.6, 0.9),
    Scene(((12, 16, 40), (88, 78, 92)), ((52, 50, 58), (34, 34, 40)),  # night
          (("blocks", 0.34, (30, 32, 46)), ("blocks", 0.2, (22, 24, 34))), 0.7, 0.2),
)  # fmt: skip
# Ridges: knots across the photo, depth of the dips there, roughness.
_RIDGES = {
    "hills": (6, 0.7, 0.0), "peaks": (14, 0.8, 0.04), "trees": (34, 0.5, 0.1),
    "sea": (2, 0.0, 0.0), "blocks": (11, 0.6, 0.0),
}  # fmt: skip

# What is on the ends: y range in heights of a lamp above its lower edge, range across, colour.
# Ranges that leave out the middle are lamps, of which there are two.
_HEAD_LAMP, _TAIL_LAMP = (186, 198, 206), (176, 16, 22)
_FRONT = (
    (-2.2, -1.5, -0.94, 0.94, (30, 31, 34)), (-0.3, 1.0, -0.54, 0.54, (170, 174, 178)),
    (-0.24, 0.94, -0.52, 0.52, (20, 21, 24)), (0.3, 0.4, -0.5, 0.5, (110, 114, 120)),
    (-1.2, -0.55, -0.28, 0.28, (222, 222, 212)), (0.0, 1.0, 0.58, 0.97, (52, 56, 62)),
    (0.1, 0.9, 0.61, 0.94, _HEAD_LAMP), (0.2, 0.8, 0.66, 0.82, (252, 253, 250)),
)  # fmt: skip
_REAR = (
    (-2.2, -1.3, -0.94, 0.94, (30, 31, 34)), (0.1, 0.8, -0.28, 0.28, (222, 222, 212)),
    (0.0, 1.0, 0.62, 0.97, (72, 6, 10)), (0.1, 0.9, 0.64, 0.95, _TAIL_LAMP),
    (0.2, 0.6, 0.68, 0.82, (244, 74, 56)),
)  # fmt: skip
# Spokes: number, half angles at the hub and at the rim, and how far they are swept, in radians.
_RIMS = ((5, 0.6, 0.24, 0.0), (10, 0.3, 0.11, 0.0), (6, 0.5, 0.28, 0.4), (7, 0.3, 0.3, 0.0))
# Slopes of the sides at heights in shares of the belt line's: tucked in at the sill, creased half
# way up, with a shoulder at the belt line.
_SECTION = (0, 0.3, 0.6, 0.64, 0.93, 1, 1.08), (-0.55, -0.24, -0.06, 0.1, 0.17, 0.42, 0.3)
_HALF = np.array([0.2, 0.4, 0.6, 0.75, 0.88, 0.93, 0.965, 0.99, 1])
_LAYERS = np.concatenate([-_HALF[::-1], [0], _HALF])  # where `_sweep` cuts the car lengthwise
_EDGE = 13.0  # radius with which roof and ends turn into the sides
_GLASS, _CARGO = np.array([24.0, 30.0, 34.0]), np.array([204.0, 205.0, 202.0])  # colours
_PAINT_GLOSS, _GLASS_GLOSS = 0.14, 0.3  # shares of light mirrored when looked at squarely
_CIRCLE = np.linspace(0, 2 * np.pi, 40)
_DUPLICATES = 0.05  # share of photos that are altered copies of the one before in their class


@dataclass(frozen=True)
class _View:
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
def _extent(body: Body) -> tuple[float, float, float]:
    """Length, height and clearance."""
    outline = _shapes(body.outline)[0]
    return float(outline[:, 0].max()), float(outline[:, 1].max()), float(outline[:, 1].min())


def _rounded(polygon: Array, radius: float) -> Array:
    """A polygon (n, 2) with its corners turned into Bezier curves: (6 * n, 2)."""
    t = np.linspace(0, 1, 6)[:, None]
    curves = polygon[:, None]
    for neighbour, weight in ((1, (1 - t) ** 2), (-1, t**2)):
        side = np.roll(polygon, neighbour, 0) - polygon
        reach = np.minimum(radius / (np.linalg.norm(side, axis=1) + 1e-9), 0.49)
        curves = curves + weight * (reach[:, None] * side)[:, None]
    return curves.reshape(-1, 2)


def _circle(body: Body, hub: int, share: float, angles: Array = _CIRCLE) -> Array:
    """Points (n, 2) around a wheel's hub, at a share of its radius."""
    radius = body.wheels[2]
    return (hub, radius) + share * radius * np.column_stack([np.cos(angles), np.sin(angles)])


def _place(body: Body, points: Array, across: float | Array) -> Array:
    """Points in space (..., 3) of side-view points (..., 2)."""
    length, height, _ = _extent(body)
    x, y = points[..., 0], points[..., 1]
    lean = body.lean * np.clip((y - body.belt) / (height - body.belt), 0, 1)
    bow = 16 * across**2 * (2 * x / length - 1) ** 3  # seen from above, both ends are curved
    z = across * body.width * (1 - lean)
    return np.stack(np.broadcast_arrays(x - bow, y, z), axis=-1)


def _project(camera: Array, points: Array) -> Array:
    """Pixels (..., 2) of points in space (..., 3)."""
    seen = points @ camera[:, :3].T + camera[:, 3]
    pixels: Array = seen[..., :2] / seen[..., 2:]
    return pixels


def _fill(view: _View, points: Array, across: float | Array, colour: Colour) -> None:
    """Fill a polygon of side-view points (n, 2)."""
    pixels = _project(view.camera, _place(view.body, points, across))
    view.draw.polygon(pixels.ravel().tolist(), fill=colour)


def _aim(body: Body, width: int, height: int, rng: np.random.Generator) -> tuple[Array, Array, int]:
    """Choose a viewpoint: the camera (3, 4), where it is (3,) and the row of the horizon."""
    length, tall, _ = _extent(body)
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
    seen = np.concatenate([_project(camera, _place(body, outline, side)) for side in (-1, 1)])
    low, high = seen.min(0), seen.max(0)
    zoom = ((width, height) * np.array([rng.uniform(0.7, 0.88), 0.76]) / (high - low)).min()
    shift = (width, height) * rng.normal((0.5, 0.55), 0.015) - zoom * (low + high) / 2
    lens = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]], [0, 0, 1]])
    _, down, ahead = lens @ axes @ (forward * (1, 0, 1))
    return lens @ camera, eye, int(np.clip(down / ahead, 0.2 * height, 0.8 * height))


def _shade(view: _View, points: Array, normals: Array, base: Array, gloss: float | Array) -> Array:
    """Colours (..., 3) of a surface at points in space (..., 3), with normals (..., 3)."""
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
def _sweep(body: Body) -> Array:
    """The outline carried across the car, (19, n, 3), and drawn in at the sides to round edges."""
    outline = _rounded(_shapes(body.outline)[0], body.bend)
    along = np.roll(outline, -1, 0) - np.roll(outline, 1, 0)
    outward = along[:, ::-1] * (-1, 1) / np.linalg.norm(along, axis=1, keepdims=True)
    beyond = np.clip(_EDGE - (1 - np.abs(_LAYERS)) * body.width, 0, _EDGE)
    inset = _EDGE - np.sqrt(_EDGE**2 - beyond**2)
    return _place(body, outline - inset[:, None, None] * outward, _LAYERS[:, None])


def _draw_shell(view: _View) -> None:
    """Draw the ends, the roof and the bonnet as shaded quadrilaterals, the farthest first."""
    body, shell = view.body, _sweep(view.body)
    ahead = np.roll(shell, -1, 1)
    quads = np.stack([shell[:-1], shell[1:], ahead[1:], ahead[:-1]], axis=2)
    normals = np.cross(quads[:, :, 1] - quads[:, :, 3], quads[:, :, 2] - quads[:, :, 0])
    middles = quads.mean(2)
    # The outline in the middle of the car tells the screens: elsewhere it is bowed and drawn in.
    x, y = ((shell + ahead) / 2)[len(shell) // 2, :, :2].T
    rear, rear_end, front, front_end = body.screens
    screen = ((x > rear) & (x < rear_end)) | ((x > front) & (x < front_end))
    screen &= (y > body.belt + 4) & (y < _extent(body)[1] - 3)
    glass = (screen & (np.abs(_LAYERS[:-1] + _LAYERS[1:]) < 1.8)[:, None])[..., None]
    base = np.where(glass, _GLASS, np.where(x[:, None] < body.cargo, _CARGO, view.paint))
    colours = _shade(view, middles, normals, base, np.where(glass, _GLASS_GLOSS, _PAINT_GLOSS))
    toward = view.eye - middles
    shown = (toward * normals).sum(-1) > 0
    order = np.argsort(-np.linalg.norm(toward[shown], axis=-1))
    pixels = _project(view.camera, quads[shown][order]).reshape(-1, 8).tolist()
    for quad, colour in zip(pixels, colours[shown][order].astype(int).tolist(), strict=True):
        view.draw.polygon(quad, fill=tuple(colour))


def _fill_side(view: _View, polygons: list[Array], glass: bool, rng: np.random.Generator) -> None:
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
        turn = 0.5 * (2 * x / _extent(body)[0] - 1) ** 5
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
    """Heights (n,), rising, and how far the front or the rear reaches there (n,)."""
    outline = _shapes(body.outline)[0]
    share = outline[:, 0] / _extent(body)[0]
    end = outline[share > 0.85 if front else share < 0.15]
    x, y = end[np.argsort(end[:, 1])].T
    return y, x


def _draw_end(view: _View, front: bool) -> None:
    """Draw bumper, grille, number plate and lamps of the end that faces the camera."""
    low, high = view.body.lamps
    profile = _end_profile(view.body, front)
    for y0, y1, z0, z1, colour in _FRONT if front else _REAR:
        for side in (-1, 1) if z0 > 0 else (1,):
            z = side * np.linspace(z0, z1, 5) * view.body.width
            y = np.maximum(low + np.repeat([y0, y1], 5) * (high - low), profile[0][0])
            heights, depths = _rounded(np.column_stack([y, np.append(z, z[::-1])]), 2.5).T
            points = np.column_stack([np.interp(heights, *profile), heights])
            _fill(view, points, depths / view.body.width, colour)


def _draw_details(view: _View) -> None:
    """Draw the joints and handles of the doors, the ends of the lamps, and a mirror."""
    body = view.body
    low, high = body.lamps
    for front, inward, colour in ((False, 1, _TAIL_LAMP), (True, -1, _HEAD_LAMP)):
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


def _draw_wheel(view: _View, hub: int, rim: int, start: float) -> None:
    """Draw a wheel of the near side in its arch, with one of the _RIMS, turned by an angle."""
    body = view.body
    _fill(view, np.maximum(_circle(body, hub, 1.18), (0, _extent(body)[2])), 1.0, (13, 13, 15))
    for across in np.linspace(0.72, 0.98, 6):
        _fill(view, _circle(body, hub, 1), across, (20, 20, 22))
    parts = [(_circle(body, hub, 0.94), 40.0), (_circle(body, hub, 0.73), 205.0)]
    parts += [(_circle(body, hub, 0.67), 26.0), (_circle(body, hub, 0.4), 70.0)]
    count, inner, outer, swept = _RIMS[rim]
    for angle in np.linspace(start, start + 2 * np.pi, count, endpoint=False):
        foot = _circle(body, hub, 0.16, angle + np.array([-inner, inner]))
        tip = _circle(body, hub, 0.69, angle + swept + np.array([outer, -outer]))
        parts.append((np.concatenate([foot, tip]), 165 + 60 * np.sin(angle + 0.8)))
    parts += [(_circle(body, hub, 0.19), 225.0), (_circle(body, hub, 0.12), 130.0)]
    light = np.clip(np.mean(view.scene.sky[1]) / 230, 0.45, 1)
    for points, level in parts:
        _fill(view, points, 1.0, (int(light * level),) * 3)


def _draw_car(view: _View, rng: np.random.Generator) -> None:
    """Draw a car from the far wheels to the near ones."""
    body = view.body
    for hub in body.wheels[:2]:
        for across in (-0.95, -0.8, -0.65):
            _fill(view, _circle(body, hub, 1), across, (15, 15, 17))
    _draw_shell(view)
    _draw_end(view, bool(view.eye[0] > _extent(body)[0] / 2))
    _fill_side(view, [_project(view.camera, _sweep(body)[-1])], False, rng)
    windows = [_rounded(window, 8) for window in _shapes(body.windows)]
    for window in windows:
        _fill(view, window + 0.05 * (window - window.mean(0)), 1.0, (16, 17, 19))
    _fill_side(view, [_project(view.camera, _place(body, w, 1.0)) for w in windows], True, rng)
    _draw_details(view)
    rim, start = int(rng.integers(len(_RIMS))), rng.uniform(0, 6)
    for hub in body.wheels[:2]:
        _draw_wheel(view, hub, rim, start + hub)


def _noise(rng: np.random.Generator, cells: int, width: int, height: int) -> Array:
    """Smooth random values (height, width) in about [0, 1], of flat patches."""
    total = np.zeros((height, width), dtype=np.float32)
    for finer, weight in ((1, 0.6), (3, 0.4)):
        grid = Image.fromarray(rng.random((2 * finer * cells, finer * cells), dtype=np.float32))
        total += weight * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
    return total


def _draw_ridges(image: Image.Image, scene: Scene, tall: int, rng: np.random.Generator) -> None:
    """Draw what stands on the horizon, the lower edge of an image, for a photo of some height."""
    width, horizon = image.size
    draw = ImageDraw.Draw(image)
    x = np.arange(0, width + 3, 3)
    for kind, share, colour in scene.ridges:
        knots, depth, rough = _RIDGES[kind]
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
    """Draw sky and ground, and between them what is far and out of focus."""
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


def _draw_shadow(image: Image.Image, view: _View) -> None:
    """Darken the ground below and beside the car, on an image half the size of the canvas."""
    length, w = _extent(view.body)[0], view.body.width
    foot = np.array([(0, 0, -w), (length, 0, -w), (length, 0, w), (0, 0, w)])
    mask = Image.new("L", (image.width // 2, image.height // 2))
    for drift, level in ((-70 * view.sun[0], 110), (0, 225)):
        pixels = _project(view.camera, foot + np.array([drift, 0, 0])) / 4
        ImageDraw.Draw(mask).polygon(pixels.ravel().tolist(), fill=level)
    soft = mask.filter(ImageFilter.BoxBlur(2)).filter(ImageFilter.BoxBlur(2))
    image.paste((8, 8, 12), (0, 0), soft.resize(image.size, Image.Resampling.BILINEAR))


def _develop(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Add what a camera adds: blur, vignetting, exposure, a colour cast and noise."""
    blurred = photo.filter(ImageFilter.BoxBlur(max(0, rng.uniform(-0.3, 0.5))))
    pixels = np.asarray(blurred).astype(np.float32)
    y, x = np.ogrid[-1 : 1 : photo.height * 1j, -1 : 1 : photo.width * 1j]
    pixels *= (1 - rng.uniform(0, 0.14) * (x**2 + y**2)).astype(np.float32)[..., None]
    cast = 1 + rng.normal(0, 0.04) * np.array([1, 0, -1])
    pixels *= (rng.uniform(0.88, 1.14) * cast).astype(np.float32)
    noise = rng.random((photo.height, photo.width, 1), dtype=np.float32) - np.float32(0.5)
    pixels += rng.uniform(4, 14) * noise
    return Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))


def _snapshot(label: str, rng: np.random.Generator) -> tuple[Image.Image, Box]:
    """A photo of a car of a class, and the box around the car."""
    paint, style = label.split(" ", 1)
    width, height = int(rng.integers(440, 541)), int(rng.integers(292, 361))
    body, scene = BODIES[style], SCENES[rng.integers(len(SCENES))]
    camera, eye, level = _aim(body, 2 * width, 2 * height, rng)
    image = _draw_backdrop(scene, width, height, level // 2, rng)
    sun = np.array([rng.uniform(-0.6, 0.6), 0.8, 0.6])
    tone = np.array(PAINTS[paint]) * rng.normal(1, 0.08) * rng.normal(1, 0.02, 3)
    canvas = Image.new("RGB", (2 * width, 2 * height))
    draw = ImageDraw.Draw(canvas, "RGBA")
    view = _View(body, tone, scene, camera, eye, sun / np.linalg.norm(sun), canvas, draw)
    _draw_shadow(image, view)
    canvas.paste(image.resize(canvas.size, Image.Resampling.NEAREST))
    _draw_car(view, rng)
    photo = _develop(canvas.reduce(2), rng)
    wheels = [_place(body, _circle(body, hub, 1), 1.0) for hub in body.wheels[:2]]
    seen = _project(camera, np.concatenate([*_sweep(body), *wheels])) / 2
    x1, y1, x2, y2 = np.concatenate([seen.min(0), seen.max(0)]).astype(int).tolist()
    if rng.random() < 0.5:
        return ImageOps.mirror(photo), (width - x2, y1, width - x1, y2)
    return photo, (x1, y1, x2, y2)
