"""The designs of drawn cars and places as data: body styles, paints, scenes, lamps and rims.

Lengths are centimetres: x points to the front, y up.
"""

from dataclasses import dataclass

Colour = tuple[int, ...]


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

# Body styles take turns, so that a few photos show many of them.
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
RIDGES = {
    "hills": (6, 0.7, 0.0), "peaks": (14, 0.8, 0.04), "trees": (34, 0.5, 0.1),
    "sea": (2, 0.0, 0.0), "blocks": (11, 0.6, 0.0),
}  # fmt: skip

# Details of the front and the rear: y range in heights of a lamp above its lower edge, range
# across, colour. A range that does not include the middle is drawn on both sides: lamps.
HEAD_LAMP, TAIL_LAMP = (186, 198, 206), (176, 16, 22)
FRONT = (
    (-2.2, -1.5, -0.94, 0.94, (30, 31, 34)), (-0.3, 1.0, -0.54, 0.54, (170, 174, 178)),
    (-0.24, 0.94, -0.52, 0.52, (20, 21, 24)), (0.3, 0.4, -0.5, 0.5, (110, 114, 120)),
    (-1.2, -0.55, -0.28, 0.28, (222, 222, 212)), (0.0, 1.0, 0.58, 0.97, (52, 56, 62)),
    (0.1, 0.9, 0.61, 0.94, HEAD_LAMP), (0.2, 0.8, 0.66, 0.82, (252, 253, 250)),
)  # fmt: skip
REAR = (
    (-2.2, -1.3, -0.94, 0.94, (30, 31, 34)), (0.1, 0.8, -0.28, 0.28, (222, 222, 212)),
    (0.0, 1.0, 0.62, 0.97, (72, 6, 10)), (0.1, 0.9, 0.64, 0.95, TAIL_LAMP),
    (0.2, 0.6, 0.68, 0.82, (244, 74, 56)),
)  # fmt: skip
# Spokes: number, half angles at the hub and at the rim, and how far they are swept, in radians.
RIMS = ((5, 0.6, 0.24, 0.0), (10, 0.3, 0.11, 0.0), (6, 0.5, 0.28, 0.4), (7, 0.3, 0.3, 0.0))
