"""Render the shapes world: captioned scenes drawn by signed distance functions, with continuous quality.

A scene has four attributes (size, colour, shape, background). Five factors in [0, 1] say how well it is drawn; their mean is the
image's true **quality**. All randomness is passed as arguments, so a drawing is a pure function of numbers.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

SIZES = {"small": 0.36, "large": 0.54}  # radius of the shape, in half image widths
COLOURS = {  # RGB in [0, 1]
    "red": (0.86, 0.13, 0.16),
    "orange": (0.96, 0.50, 0.08),
    "yellow": (0.97, 0.86, 0.16),
    "green": (0.16, 0.60, 0.24),
    "cyan": (0.16, 0.74, 0.80),
    "blue": (0.13, 0.28, 0.82),
    "purple": (0.48, 0.17, 0.66),
    "pink": (0.97, 0.52, 0.72),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "moon")
BACKGROUNDS = {
    "white": (0.96, 0.96, 0.95),
    "black": (0.07, 0.07, 0.09),
    "grey": (0.55, 0.56, 0.58),
    "sand": (0.86, 0.77, 0.58),
}
ATTRIBUTES = {"size": tuple(SIZES), "colour": tuple(COLOURS), "shape": SHAPES, "background": tuple(BACKGROUNDS)}
FACTORS = ("centring", "rotation", "sharpness", "contrast", "shading")

IMAGE_SIZE = 64
FACTOR_JITTER = 0.12  # largest distance of a factor from the requested quality
MAX_OFFSET = 0.36  # half image widths, at centring 0
MAX_ANGLE = 0.6  # radians, at rotation 0
POSE_DIMENSIONS = 3  # direction of the offset, side of the rotation, size jitter


class Drawing(NamedTuple):
    """What to draw. `attributes` (B, 4) are indices into ATTRIBUTES. `factors` (B, 5) and `pose` (B, 3) lie in [0, 1]."""

    attributes: Int[Tensor, "b 4"]
    factors: Float[Tensor, "b 5"]
    pose: Float[Tensor, "b 3"]

    @property
    def quality(self) -> Float[Tensor, " b"]:
        """Return the truth about how well each image is drawn: the mean of its factors, in [0, 1]."""
        return self.factors.mean(1)


def drawing(attributes: Int[Tensor, "b 4"], quality: Float[Tensor, " b"], uniform: Float[Tensor, "b 8"]) -> Drawing:
    """Return a drawing of about the given quality. `uniform` holds draws in [0, 1): five for the factors and three for the pose."""
    factors = quality[:, None] + FACTOR_JITTER * (2 * uniform[:, :5] - 1)
    return Drawing(attributes, factors.clamp(0, 1), uniform[:, 5:])


def _polygon(x: Tensor, y: Tensor, sides: int, radius: float) -> Tensor:
    angle, sector = torch.atan2(x, y), 2 * math.pi / sides
    return torch.cos(torch.floor(0.5 + angle / sector) * sector - angle) * torch.hypot(x, y) - radius


def _star(x: Tensor, y: Tensor) -> Tensor:
    """Return the distance to the line from an outer tip (0, 1) to the next inner corner, with the plane folded into one of five sectors."""
    sector, inner = 2 * math.pi / 5, 0.45
    angle = ((torch.atan2(x, -y) + sector / 2) % sector - sector / 2).abs()
    px, py = torch.hypot(x, y) * torch.sin(angle), torch.hypot(x, y) * torch.cos(angle)
    cx, cy = inner * math.sin(sector / 2), inner * math.cos(sector / 2)
    return (px * (1 - cy) + (py - 1) * cx) / math.hypot(1 - cy, cx)


def signed_distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Return the distance to the outline of a shape of radius about 1, negative inside. y points down, as in an image."""
    r = torch.hypot(x, y)
    ax, ay = x.abs(), y.abs()
    match shape:
        case "circle":
            return r - 1
        case "square":
            return torch.maximum(ax, ay) - 0.84
        case "triangle":
            return _polygon(x, y - 0.18, 3, 0.58)
        case "star":
            return _star(x, y)
        case "heart":
            return 0.8 * (torch.hypot(x, -y + 0.22 - 0.75 * ax.clamp_min(1e-6).sqrt()) - 0.84)
        case "ring":
            return (r - 0.72).abs() - 0.26
        case "cross":
            return torch.minimum(torch.maximum(ax - 0.96, ay - 0.34), torch.maximum(ax - 0.34, ay - 0.96))
        case "moon":
            return torch.maximum(r - 1, 0.82 - torch.hypot(x - 0.52, y + 0.18))
    raise ValueError(f"shape={shape!r} is not one of {SHAPES}")


def _gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    radius = math.ceil(2.5 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    taps = taps / taps.sum()
    image = F.conv2d(image, taps.view(1, 1, 1, -1), padding=(0, radius))
    return F.conv2d(image, taps.view(1, 1, -1, 1), padding=(radius, 0))


def _outline(drawing: Drawing, x: Tensor, y: Tensor, distance_to: Callable[[str, Tensor, Tensor], Tensor]) -> Tensor:
    """Return the signed distance of every pixel to the shape of its own image, (B, S, S)."""
    distance = torch.empty_like(x)
    for index, shape in enumerate(SHAPES):
        rows = (drawing.attributes[:, 2] == index).nonzero()[:, 0]
        if len(rows):
            distance[rows] = distance_to(shape, x[rows], y[rows])
    return distance


def render(
    drawing: Drawing, size: int = IMAGE_SIZE, distance_to: Callable[[str, Tensor, Tensor], Tensor] = signed_distance
) -> tuple[Float[Tensor, "b 3 {size} {size}"], Float[Tensor, "b 1 {size} {size}"]]:
    """Return images with values in [0, 1], and the share of each pixel that the shape covers, in [0, 1].

    Another `distance_to` draws other outlines under the same names.
    """
    batch = len(drawing.attributes)
    centring, rotation, sharpness, contrast, shading = (f.view(batch, 1, 1) for f in drawing.factors.unbind(1))
    direction, side, jitter = (p.view(batch, 1, 1) for p in drawing.pose.unbind(1))
    line = (torch.arange(size) + 0.5) / size * 2 - 1
    rows, columns = (g.expand(batch, size, size) for g in torch.meshgrid(line, line, indexing="ij"))

    radius = torch.tensor(list(SIZES.values()))[drawing.attributes[:, 0]].view(batch, 1, 1) * (0.94 + 0.12 * jitter)
    offset, heading = MAX_OFFSET * (1 - centring), 2 * math.pi * direction
    u = (columns - offset * torch.cos(heading)) / radius  # image -> shape coordinates, before rotation
    v = (rows - offset * torch.sin(heading)) / radius
    angle = torch.where(side < 0.5, -MAX_ANGLE, MAX_ANGLE) * (1 - rotation)
    cos, sin = torch.cos(angle), torch.sin(angle)

    def coverage(u: Tensor, v: Tensor) -> Tensor:
        pixel = 2 / size / radius
        softness = pixel * (0.7 + 4.5 * (1 - sharpness))
        return torch.sigmoid(-2 * _outline(drawing, cos * u + sin * v, cos * v - sin * u, distance_to) / softness)

    mask = coverage(u, v)
    shadow = _gaussian_blur(coverage(u - 0.16, v - 0.24)[:, None], sigma=size / 22)
    colour = torch.tensor(list(COLOURS.values()))[drawing.attributes[:, 1]].view(batch, 3, 1, 1)
    background = torch.tensor(list(BACKGROUNDS.values()))[drawing.attributes[:, 3]].view(batch, 3, 1, 1)

    light = 1 - shading * (0.30 * v + 0.18 * u).clamp(-0.42, 0.42)  # lit from the upper left
    highlight = 0.6 * shading * torch.exp(-((u + 0.34) ** 2 + (v + 0.40) ** 2) / 0.10)
    body = (colour * light[:, None] + highlight[:, None]).clamp(0, 1)
    ground = background * (1 - 0.5 * shading[:, None] * shadow)
    image = ground + mask[:, None] * (body - ground)
    return (0.5 + (image - 0.5) * (0.5 + 0.5 * contrast[:, None])).clamp(0, 1), mask[:, None]
