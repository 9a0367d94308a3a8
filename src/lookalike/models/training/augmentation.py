"""Augment photos: random crops, mirror images and colours, rendered on the training device.

A view is a few numbers, drawn once; its pixels are rendered on demand, at any resolution. So a
teacher and its student see the same crop (Beyer et al., "Knowledge distillation: a good teacher is
patient and consistent", 2022), and the teacher's features are computed once.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue in the brightness


@dataclass(frozen=True)
class Views:
    """n views.

    Attributes
    ----------
    photos
        Numbers of photos, int64 (n,).
    parts
        Affine maps from places in the view to places in the photo, both in -1..1, float32
        (n, 2, 3).
    colours
        Affine maps from RGB to RGB, both in 0..1, float32 (n, 3, 4).
    """

    photos: torch.Tensor
    parts: torch.Tensor
    colours: torch.Tensor

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, which: torch.Tensor | slice) -> "Views":
        """Select views."""
        return Views(self.photos[which], self.parts[which], self.colours[which])

    def to(self, device: torch.device) -> "Views":
        """Move the views to a device."""
        return Views(self.photos.to(device), self.parts.to(device), self.colours.to(device))

    def in_colours(self, colours: torch.Tensor) -> "Views":
        """Return the views with further colour maps (n, 3, 4) applied."""
        matrix = colours[:, :, :3] @ self.colours
        matrix[:, :, 3:] += colours[:, :, 3:]
        return Views(self.photos, self.parts, matrix)

    def render(self, pixels: torch.Tensor, side: int) -> torch.Tensor:
        """Render the views.

        Parameters
        ----------
        pixels
            uint8 (n, height, width, 3): row i is the photo of view i.
        side
            Resolution in pixels. Views far smaller than the photo are supersampled against moiré.

        Returns
        -------
        float32 (n, 3, side, side) in 0..255.
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
    """Ranges of augmentation.

    Attributes
    ----------
    least
        Smallest share of a photo's area in a view.
    stretch
        Largest change of the aspect ratio, as a factor.
    whole
        Share of views that show the whole photo, undistorted.
    colour
        Range around 1 of brightness, contrast and saturation, and three times that of tint.
    grey
        Share of views without colour.
    exchanged
        Share of views with red and blue exchanged.
    turned
        Share of views whose hues are rotated by a random angle and amplified once to twice.
    """

    least: float = 0.3
    stretch: float = 1.35
    whole: float = 0.15
    colour: float = 0.3
    grey: float = 0.05
    exchanged: float = 0.0
    turned: float = 0.0


def draw(photos: torch.Tensor, variety: Variety, generator: torch.Generator) -> Views:
    """Draw a view of each photo of int64 (n,), on the CPU."""
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
    """Draw colour maps for n views, float32 (n, 3, 4), on the CPU."""

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
    """Return colour maps that rotate hues, by Rodrigues' rotation formula about the grey axis.

    Parameters
    ----------
    angles
        In radians, (n,).
    strength
        Factors of the distance from the grey axis, (n,).

    Returns
    -------
    float32 (n, 3, 4).
    """
    grey = torch.full((3, 3), 1 / 3)
    across = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    cosine, sine = (part(angles).view(-1, 1, 1) for part in (torch.cos, torch.sin))
    turned = grey + strength.view(-1, 1, 1) * (cosine * (torch.eye(3) - grey) + sine * across)
    return functional.pad(turned, (0, 1))
