"""Propose poses for each shape: correlate an image's figure with a bank of ideal masks, at every offset by FFT.

The ground's colour comes from the border. The figure is what departs from the ground, and from the ground in shadow.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selfimprove.shapes.render import BACKGROUNDS, IMAGE_SIZE, SHAPES, signed_distance

RADII = tuple(0.26 * 1.11**i for i in range(8))  # half image widths: .26 to .54
ANGLES = tuple(0.15 * i for i in range(-4, 5))  # radians
SOFTNESSES = (1.4, 4.0)  # pixels
TURNABLE = [s not in ("circle", "ring") for s in SHAPES]
GROUNDS = torch.tensor(list(BACKGROUNDS.values()))


class Bank(NamedTuple):
    """Ideal masks: their spectra, zero mean and unit norm, with the shape, radius and angle of each."""

    spectra: Tensor  # (N, S, S // 2 + 1), complex
    shape: Int[Tensor, " n"]
    radius: Float[Tensor, " n"]
    angle: Float[Tensor, " n"]


def pixel_grid(size: int = IMAGE_SIZE) -> tuple[Tensor, Tensor]:
    """Return the places of the pixels' centres, columns (S, S) and rows (S, S), in half image widths."""
    line = (torch.arange(size) + 0.5) / size * 2 - 1
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    return columns, rows


@cache
def bank(size: int) -> Bank:
    """Return every shape at each radius, angle and softness, in the middle of images of a size."""
    x, y = pixel_grid(size)
    masks, rows = [], []
    for index, shape in enumerate(SHAPES):
        for radius in RADII:
            for angle in ANGLES if TURNABLE[index] else (0.0,):
                u, v = x / radius, y / radius
                cos, sin = math.cos(angle), math.sin(angle)
                distance = signed_distance(shape, cos * u + sin * v, cos * v - sin * u)
                for softness in SOFTNESSES:
                    masks.append(torch.sigmoid(-2 * distance * radius * IMAGE_SIZE / 2 / softness))
                    rows.append((index, radius, angle))
    stack = torch.stack(masks)
    stack = stack - stack.mean((1, 2), keepdim=True)
    stack = stack / stack.flatten(1).norm(dim=1)[:, None, None]
    spectra = torch.fft.rfft2(stack)
    columns = [torch.tensor(column) for column in zip(*rows, strict=True)]
    return Bank(spectra.conj(), *columns)


def ground_colour(images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3"]:
    """Return the median colour of each image's border, two pixels wide."""
    border = torch.ones(images.shape[-2:], dtype=torch.bool)
    border[2:-2, 2:-2] = False
    return images[:, :, border].median(2).values


def figure(images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b s s"]:
    """Return how far each pixel lies from the ground's colour and from the ground in shadow."""
    ground = ground_colour(images)
    base = GROUNDS - 0.5
    gain = (((ground - 0.5) @ base.T) / (base**2).sum(1)).clamp(0.5, 1)
    index = ((ground[:, None] - 0.5 - gain[:, :, None] * base) ** 2).sum(2).argmin(1)
    dark = gain.gather(1, index[:, None]) * GROUNDS[index]  # what a full shadow takes away
    offset = images - ground[:, :, None, None]
    shade = (-(offset * dark[:, :, None, None]).sum(1) / (dark**2).sum(1)[:, None, None]).clamp(0, 0.5)
    return (offset + shade[:, None] * dark[:, :, None, None]).norm(dim=1)


class Match(NamedTuple):
    """The best member of the bank for every shape: its correlation, radius, angle and centre (x, y)."""

    correlation: Float[Tensor, "b 8"]
    radius: Float[Tensor, "b 8"]
    angle: Float[Tensor, "b 8"]
    centre: Float[Tensor, "b 8 2"]


@torch.inference_mode()
def match(figures: Float[Tensor, "b s s"]) -> Match:
    """Return the best member of the bank for each shape, by correlation at every offset."""
    size = figures.shape[-1]
    members, parts = bank(size), []
    for one in figures:
        one = one - one.mean()
        one = one / one.norm().clamp_min(1e-6)
        scores = torch.fft.irfft2(torch.fft.rfft2(one) * members.spectra, s=one.shape).flatten(1)
        best, where = scores.max(1)
        rows = torch.stack([best.masked_fill(members.shape != i, -1).argmax() for i in range(len(SHAPES))])
        offset = torch.stack([where[rows] % size, where[rows] // size], 1)
        offset = torch.where(offset >= size // 2, offset - size, offset) * 2 / size
        parts.append((best[rows], members.radius[rows], members.angle[rows], offset))
    return Match(*(torch.stack(column) for column in zip(*parts, strict=True)))
