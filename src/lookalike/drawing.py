"""Photo-like drawings of cars, laid out like the Stanford Cars data set.

Real photographs may not be shipped, so the demo draws its own.  A car is a side view given an
extent across its width and seen through a perspective camera; its paint and glass reflect the sky
and the ground of the scene around it.  Cars are measured in centimetres: x points to the front, y
up and z to the near side.  Pictures are drawn at twice their size and averaged down, so that
edges come out smooth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]

DUPLICATES = 0.05  # share of pictures that are altered copies of an earlier one
NEAR = 1.0  # the side facing the camera, as a share of the half width


@dataclass(frozen=True)
class Body:
    """A body style, front to the right: shapes are "x,y x,y ..." in centimetres."""

    outline: str
    windows: tuple[str, ...]
    wheels: tuple[int, int]  # x of the hubs
    radius: int  # of a tyre
    lines: tuple[str, ...]  # door joints and mouldings
    handles: str
    lamps: tuple[int, int]  # y range
    belt: int  # y from which the sides lean inwards
    screens: tuple[int, int, int, int]  # x range of the rear window and of the windscreen
    width: int = 90  # half of the whole
    lean: float = 0.24
    bend: int = 45  # radius of the corners of the outline
    cargo: int = 0  # x up to which the body is a plain white box
    open_top: bool = False


BODIES = {
    "sedan": Body(
        "8,30 2,62 8,97 86,105 158,142 256,146 344,104 420,93 455,78 462,48 452,26 20,26",
        ("110,107 160,134 194,139 235,139 235,107", "243,107 243,139 278,135 326,107"),
        (92, 366), 33,
        ("239,140 240,60 236,30", "330,106 334,70 326,30", "112,107 124,84 138,60 140,30"),
        "130,92 252,92", (66, 84), 103, (88, 156, 258, 340),
    ),
    "hatchback": Body(
        "8,30 2,64 10,98 40,144 66,151 205,153 290,106 350,95 385,78 392,48 382,26 16,26",
        ("44,112 62,138 96,142 162,142 162,109", "170,109 170,142 208,141 270,109"),
        (72, 310), 32,
        ("166,142 168,60 165,30", "276,108 278,70 270,30", "74,110 80,80 106,60 108,30"),
        "94,97 180,97", (70, 98), 106, (0, 42, 207, 286),
    ),
    "SUV": Body(
        "6,42 1,76 6,118 36,165 60,173 255,173 334,122 418,112 450,95 456,62 446,36 16,36",
        ("44,124 62,156 112,160 112,124", "118,124 118,160 196,160 196,124",
         "204,124 204,160 254,160 310,124"),
        (90, 360), 39,
        ("200,160 202,70 198,42", "318,122 320,80 312,42", "114,122 116,90 132,70 134,42"),
        "128,110 214,110", (84, 104), 120, (0, 40, 256, 330), width=95, lean=0.2,
    ),
    "pickup": Body(
        "4,50 0,82 0,114 206,114 210,124 222,176 242,182 332,182 410,126 498,118 532,100 540,68"
        " 530,42 12,42",
        ("226,130 234,166 272,168 272,130", "280,130 280,168 328,167 380,130"),
        (112, 436), 41,
        ("276,168 278,80 274,50", "390,126 392,80 384,50", "214,122 214,50", "4,112 204,112"),
        "232,116 290,116", (86, 110), 126, (208, 226, 334, 406), width=98, bend=22,
    ),
    "van": Body(
        "4,40 0,110 8,196 26,210 372,210 452,128 494,110 510,84 512,52 502,30 12,30",
        ("330,132 330,186 376,182 420,132",),
        (106, 408), 35,
        ("322,196 322,36", "430,128 434,80 424,36", "210,196 210,36", "60,120 322,120"),
        "306,112 338,112", (80, 108), 128, (0, 1, 374, 446), width=98, lean=0.1, bend=24,
    ),
    "coupe": Body(
        "10,34 2,62 8,90 40,95 120,116 178,126 232,126 322,91 410,78 452,60 458,40 446,22 20,24",
        ("128,96 160,113 190,118 230,117 288,94",),
        (88, 364), 35,
        ("168,96 158,60 164,30", "296,91 300,60 292,28", "170,52 290,44"),
        "184,82", (48, 62), 92, (66, 156, 236, 318), width=94, lean=0.28, bend=60,
    ),
    "convertible": Body(
        "8,32 2,62 10,90 120,97 300,97 384,87 424,72 432,46 424,26 18,26",
        (), (86, 344), 33,
        ("164,96 160,60 168,30", "298,96 302,66 294,30", "40,62 400,58"),
        "180,84", (56, 74), 97, (0, 0, 0, 0), open_top=True,
    ),
    "bus": Body(
        "4,60 0,150 4,288 20,304 920,304 952,290 960,140 956,56 940,42 20,42",
        ("40,156 40,252 150,252 150,156", "162,156 162,252 272,252 272,156",
         "284,156 284,252 394,252 394,156", "406,156 406,252 516,252 516,156",
         "528,156 528,252 638,252 638,156", "650,156 650,252 760,252 760,156",
         "782,70 782,252 856,252 856,70", "876,140 876,252 940,250 942,140"),
        (210, 700), 50,
        ("10,140 770,140", "10,100 770,100", "778,262 778,60", "860,262 860,60", "10,274 950,274"),
        "", (74, 104), 150, (0, 12, 948, 962), width=125, lean=0.06, bend=22,
    ),
    "box truck": Body(
        "2,74 0,90 0,322 470,322 472,238 566,238 600,228 640,152 668,138 676,60 664,46 490,46"
        " 480,74",
        ("520,152 520,214 568,214 606,152",),
        (140, 576), 48,
        ("506,222 506,60", "626,148 630,100 618,60", "0,100 470,100", "0,312 470,312"),
        "522,136", (76, 104), 150, (0, 0, 600, 640), width=112, lean=0.08, bend=10, cargo=471,
    ),
    "city car": Body(
        "10,32 4,66 8,104 34,148 84,164 150,160 206,114 246,98 268,76 272,48 262,28 16,28",
        ("36,114 54,140 88,150 96,150 96,114", "104,114 104,150 146,146 188,114"),
        (50, 222), 30,
        ("100,152 98,60 104,34", "196,112 200,70 190,34"),
        "112,100", (72, 98), 110, (0, 40, 152, 202), width=80, bend=60,
    ),
}  # fmt: skip

PAINTS: dict[str, Colour] = {
    "red": (186, 22, 28), "blue": (28, 74, 168), "white": (232, 233, 230), "black": (24, 25, 28),
    "silver": (158, 163, 168), "yellow": (244, 190, 20), "green": (24, 96, 58),
    "orange": (232, 104, 20), "turquoise": (40, 160, 164), "brown": (104, 66, 40),
}  # fmt: skip

# Body styles take turns, so that any stretch of pictures holds as many styles as it can.
CLASSES = tuple(
    f"{colour} {style}"
    for colours in (
        "red yellow black orange white blue turquoise yellow red green",
        "silver blue green white brown orange red blue yellow white",
    )
    for colour, style in zip(colours.split(), BODIES, strict=True)
)


@dataclass(frozen=True)
class Scene:
    """Surroundings: colours from the top of the sky down to the ground before the camera."""

    sky: tuple[Colour, Colour]  # zenith, horizon
    ground: tuple[Colour, Colour]  # far, near
    ridges: tuple[tuple[str, float, Colour], ...]  # kind, height as a share of the picture, colour
    clouds: float = 0.5
    sun: float = 1.0  # strength of direct light; the rest comes from the sky
    grain: float = 9.0  # contrast of the ground
    mirror: float = 0.0  # how much of the car the ground reflects
    road: bool = False
    dark: bool = False  # lamps are lit


SCENES = {
    "street": Scene(
        ((104, 152, 208), (216, 226, 232)), ((112, 112, 114), (84, 84, 88)),
        (("blocks", 0.38, (150, 142, 134)), ("blocks", 0.26, (122, 104, 94)),
         ("trees", 0.10, (66, 84, 52))), road=True,
    ),
    "desert": Scene(
        ((58, 122, 196), (238, 220, 190)), ((214, 176, 122), (190, 148, 98)),
        (("peaks", 0.16, (186, 132, 104)), ("hills", 0.06, (204, 152, 102))), 0.2, 1.25, 12.0,
    ),
    "forest": Scene(
        ((150, 186, 214), (226, 232, 224)), ((120, 122, 84), (134, 124, 104)),
        (("trees", 0.42, (66, 92, 66)), ("trees", 0.32, (44, 72, 42)),
         ("trees", 0.16, (58, 92, 40))), 0.6, 0.8, 14.0,
    ),
    "sea": Scene(
        ((52, 126, 210), (206, 230, 240)), ((196, 190, 174), (170, 164, 150)),
        (("hills", 0.05, (112, 140, 150)), ("sea", 0.09, (34, 104, 146))), 0.6, 1.15, 7.0, road=True,
    ),
    "showroom": Scene(
        ((206, 208, 212), (238, 238, 236)), ((176, 178, 182), (122, 124, 130)),
        (("panels", 0.5, (250, 250, 248)),), 0.0, 0.7, 1.5, 0.5,
    ),
    "night": Scene(
        ((10, 14, 34), (58, 48, 66)), ((40, 38, 46), (24, 24, 30)),
        (("blocks", 0.36, (26, 28, 40)), ("bokeh", 0.3, (255, 196, 120))),
        0.2, 0.35, 5.0, 0.45, True, True,
    ),
    "mountains": Scene(
        ((72, 128, 200), (214, 228, 238)), ((116, 132, 84), (122, 118, 108)),
        (("peaks", 0.36, (150, 164, 186)), ("hills", 0.15, (84, 112, 84)),
         ("trees", 0.07, (50, 80, 46))), 0.7, 1.0, 12.0,
    ),
    "dusk": Scene(
        ((66, 70, 132), (250, 172, 104)), ((98, 84, 84), (66, 60, 68)),
        (("hills", 0.14, (96, 74, 98)), ("blocks", 0.12, (62, 52, 70))), 0.9, 0.6, 8.0, 0.15, True,
        True,
    ),
}  # fmt: skip
