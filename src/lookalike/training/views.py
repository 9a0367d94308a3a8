"""Views of photos: a part of each, maybe mirrored, in other colours; made where the training is.

A view is some numbers, drawn once; its pixels are made when they are needed, of any size. So a
teacher and its student look at the very same part of a photo (Beyer et al., "Knowledge
distillation: a good teacher is patient and consistent", 2022), and the teacher has to look once.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

GREY = (0.299, 0.587, 0.114)  # what red, green and blue add to how bright a pixel looks


@dataclass(frozen=True)
class Views:
    """n views: `photos` int64 (n,), `parts` float32 (n, 2, 3), `colours` float32 (n, 3, 4).

    `parts` maps places in the view to places in the photo, both from -1 to 1; `colours` maps red,
    green, blue and one, in 0..1, to red, green and blue.
    """

    photos: torch.Tensor
    parts: torch.Tensor
    colours: torch.Tensor

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, which: torch.Tensor | slice) -> "Views":
        """Take some of them."""
        return Views(self.photos[which], self.parts[which], self.colours[which])

    def to(self, device: torch.device) -> "Views":
        """Move the numbers, not the pixels, to a device."""
        return Views(self.photos.to(device), self.parts.to(device), self.colours.to(device))

    def in_colours(self, colours: torch.Tensor) -> "Views":
        """Return the same views, (n, 3, 4) of other colours laid over their own."""
        matrix = colours[:, :, :3] @ self.colours
        matrix[:, :, 3:] += colours[:, :, 3:]
        return Views(self.photos, self.parts, matrix)

    def render(self, pixels: torch.Tensor, side: int) -> torch.Tensor:
        """Return float32 (n, 3, side, side) in 0..255 of the views' own photos.

        `pixels` is uint8 (n, height, width, 3), row i the photo of view i. Views far smaller than
        the photo are made larger first: else fine patterns would leave moiré.
        """
        images = pixels.permute(0, 3, 1, 2).float()
        factor = max(1, round(images.shape[-1] / side))
        fine = side * factor
        grid = functional.affine_grid(self.parts, [len(self), 3, fine, fine], align_corners=False)
        images = functional.grid_sample(
            images, grid, padding_mode="reflection", align_corners=False
        )
        if factor > 1:
            images = functional.avg_pool2d(images, factor)
        flat = torch.baddbmm(
            255 * self.colours[:, :, 3:], self.colours[:, :, :3], images.flatten(2)
        )
        return flat.clamp_(0, 255).view(-1, 3, side, side)


@dataclass(frozen=True)
class Variety:
    """How much views differ from their photos.

    A view shows from `least` of a photo's area to all of it, in proportions up to `stretch` times
    other ones; a share of `whole` shows all of it, undistorted. `colour` is how far brightness,
    contrast, saturation and tint are drawn from 1; a share of `grey` has no colour, in one of
    `exchanged` red and blue have changed places, and in one of `turned` all hues are turned by one
    angle, drawn from the whole circle, and made one to two times as strong.
    """

    least: float = 0.3
    stretch: float = 1.35
    whole: float = 0.15
    colour: float = 0.3
    grey: float = 0.05
    exchanged: float = 0.0
    turned: float = 0.0


def draw(photos: torch.Tensor, variety: Variety, generator: torch.Generator) -> Views:
    """Draw a view of each of these photos, int64 (n,), on the CPU."""
    n = len(photos)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    area = uniform(variety.least, 1)
    stretch = torch.exp(math.log(variety.stretch) * uniform(-1, 1))
    whole = uniform(0, 1) < variety.whole
    sides = torch.stack([(area * stretch).sqrt(), (area / stretch).sqrt()], 1).clamp(max=1)
    sides[whole] = 1
    centres = (1 - sides) * torch.stack([uniform(-1, 1), uniform(-1, 1)], 1)
    parts = torch.zeros(n, 2, 3)
    mirrored = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    parts[:, 0, 0] = sides[:, 0] * mirrored
    parts[:, 1, 1] = sides[:, 1]
    parts[:, :, 2] = centres
    return Views(photos, parts, recoloured(n, variety, generator))


def recoloured(n: int, variety: Variety, generator: torch.Generator) -> torch.Tensor:
    """Draw colours for n views: float32 (n, 3, 4), on the CPU."""

    def near_one(*shape: int) -> torch.Tensor:
        return 1 + variety.colour * (2 * torch.rand(*shape, generator=generator) - 1)

    contrast, brightness = near_one(n, 1, 1), near_one(n, 1, 1)
    saturation, tint = near_one(n, 1, 1), 1 + (near_one(n, 3, 1) - 1) / 3
    saturation[torch.rand(n, generator=generator) < variety.grey] = 0
    grey = torch.tensor(GREY).expand(3, 3)
    mixed = saturation * torch.eye(3) + (1 - saturation) * grey
    matrix = contrast * brightness * tint * mixed
    exchanged = torch.rand(n, generator=generator) < variety.exchanged
    matrix[exchanged] = matrix[exchanged].flip(2)
    if variety.turned:
        which = torch.rand(n, generator=generator) < variety.turned
        angles = 2 * math.pi * torch.rand(n, generator=generator)
        strength = 1 + torch.rand(n, generator=generator)
        matrix[which] = (matrix @ turns(angles, strength)[:, :, :3])[which]
    return torch.cat([matrix, (0.5 - 0.5 * contrast).expand(n, 3, 1)], 2)


def turns(angles: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Return colours that turn all hues by angles (n,), in radians: float32 (n, 3, 4).

    Turned is about the grey axis (Rodrigues' rotation formula); what lies off it is `strength`
    times, (n,), as far from it.
    """
    grey = torch.full((3, 3), 1 / 3)
    across = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    cosine, sine = (part(angles).view(-1, 1, 1) for part in (torch.cos, torch.sin))
    turned = grey + strength.view(-1, 1, 1) * (cosine * (torch.eye(3) - grey) + sine * across)
    return functional.pad(turned, (0, 1))
