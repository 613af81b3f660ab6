"""Three truths read from an image by computation alone: form, obedience of the well formed, quality of the well formed.

Nothing is learned. Correlation proposes poses (`selfimprove.shapes.matching`); least squares on the renderer's own model refines them,
and form is the share of the figure that the best ideal figure explains.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from selfimprove.shapes.matching import GROUNDS, TURNABLE, figure, ground_colour, match, pixel_grid
from selfimprove.shapes.render import COLOURS, IMAGE_SIZE, MAX_ANGLE, MAX_OFFSET, SHAPES, SIZES, signed_distance

COMMON_SOFTNESS = 3.0  # pixels: forms are compared at this softness, or at the image's own where that is softer
EDGE = math.pi / math.sqrt(3) / 2  # standard deviation of a logistic edge of softness 1, in pixels
WELL_FORMED = 0.96
_COLOURS = torch.tensor(list(COLOURS.values()))


class Fit(NamedTuple):
    """The ideal figure that explains each image best, found by least squares on the pixels."""

    form: Float[Tensor, " b"]
    shape: Int[Tensor, " b"]
    centre: Float[Tensor, "b 2"]
    radius: Float[Tensor, " b"]
    angle: Float[Tensor, " b"]
    softness: Float[Tensor, " b"]  # pixels
    shading: Float[Tensor, " b"]
    gain: Float[Tensor, " b"]  # of contrast: 0.5 to 1
    colour: Int[Tensor, " b"]
    ground: Int[Tensor, " b"]
    model: Float[Tensor, "b 3 s s"]


def _blur() -> Tensor:
    """The renderer's blur of a shadow as a banded matrix, (S, S): rows of an image on one side, columns on the other."""
    sigma = IMAGE_SIZE / 22
    reach = math.ceil(2.5 * sigma)
    gap = torch.arange(IMAGE_SIZE)[:, None] - torch.arange(IMAGE_SIZE)[None]
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    return torch.exp(-0.5 * (gap / sigma) ** 2).masked_fill(gap.abs() > reach, 0) / taps.sum()


_BLUR = _blur()


def _coverage(shape: str, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Coverage by the figure and by its shadow; x, y: pixel centres from the figure's middle in radii."""
    cos, sin = torch.cos(theta[:, 3, None, None]), torch.sin(theta[:, 3, None, None])
    radius = theta[:, 2, None, None].exp()
    sharpness = 2 * radius * IMAGE_SIZE / 2 / theta[:, 4, None, None].exp()

    def cover(u: Tensor, v: Tensor) -> Tensor:
        return torch.sigmoid(-sharpness * signed_distance(shape, cos * u + sin * v, cos * v - sin * u))

    return cover(x, y), _BLUR @ cover(x - 0.16, y - 0.24) @ _BLUR.T


def _draw(shape: str, theta: Tensor, scenery: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, masks, bodies and grounds of figures `theta` (b, 9): x, y, log radius, angle, log softness, shading, colour."""
    ground, dark, gain = scenery
    columns, rows = pixel_grid()
    radius = theta[:, 2, None, None].exp()
    u, v = (columns - theta[:, 0, None, None]) / radius, (rows - theta[:, 1, None, None]) / radius
    mask, shadow = _coverage(shape, theta, u, v)
    shading = theta[:, 5, None, None]
    light = -shading * (0.30 * v + 0.18 * u).clamp(-0.42, 0.42)
    highlight = 0.6 * shading * torch.exp(-((u + 0.34) ** 2 + (v + 0.40) ** 2) / 0.10)
    gain = gain[:, None, None, None]
    colour = theta[:, 6:, None, None]
    body = colour + (colour - 0.5 + 0.5 * gain) * light[:, None] + gain * highlight[:, None]
    body = body.minimum(0.5 + 0.5 * gain).maximum(0.5 - 0.5 * gain)
    floor = ground[:, :, None, None] - 0.5 * dark[:, :, None, None] * (shading * shadow)[:, None]
    return floor + mask[:, None] * (body - floor), mask, body, floor


_STEP = torch.tensor([0.01, 0.01, 0.02, 0.02, 0.05, 0.05, 0.01, 0.01, 0.01])
_LOW = torch.tensor([-0.7, -0.7, math.log(0.18), -1.2, math.log(0.5), -0.1, -0.05, -0.05, -0.05])
_HIGH = torch.tensor([0.7, 0.7, math.log(0.65), 1.2, math.log(7.0), 1.15, 1.05, 1.05, 1.05])


def _refine(images: Tensor, shape: str, theta: Tensor, scenery: tuple[Tensor, Tensor, Tensor], rounds: int) -> tuple[Tensor, Tensor]:
    """Levenberg-Marquardt on the pixels: the parameters and their mean squared error."""
    damping = torch.full((len(theta),), 1e-2)
    drawn = _draw(shape, theta, scenery)[0]
    residual = (images - drawn).flatten(1)
    error = residual.square().mean(1)
    for _ in range(rounds):
        slopes = []
        for i in range(theta.shape[1]):
            moved = theta.clone()
            moved[:, i] += _STEP[i]
            slopes.append((_draw(shape, moved, scenery)[0] - drawn).flatten(1) / _STEP[i])
        jacobian = torch.stack(slopes, 1)
        normal = jacobian @ jacobian.mT
        diagonal = normal.diagonal(dim1=1, dim2=2)
        damped = normal + torch.diag_embed(damping[:, None] * diagonal + 1e-4)
        step = torch.linalg.solve(damped, (jacobian @ residual[:, :, None]))[:, :, 0]
        tried = (theta + step).clamp(_LOW, _HIGH)
        candidate = _draw(shape, tried, scenery)[0]
        remaining = (images - candidate).flatten(1)
        better = remaining.square().mean(1) < error
        theta = torch.where(better[:, None], tried, theta)
        drawn = torch.where(better[:, None, None, None], candidate, drawn)
        residual = torch.where(better[:, None], remaining, residual)
        error = residual.square().mean(1)
        damping = torch.where(better, damping / 4, damping * 4).clamp(1e-4, 1e3)
    return theta, error


def _gain(ground: Tensor, colour: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The contrast's gain, the named ground and the named colour that agree best with a ground and a body as seen."""
    base, paint = GROUNDS - 0.5, _COLOURS - 0.5
    energy = (base**2).sum(1)[:, None] + (paint**2).sum(1)[None]  # (4, 8)
    along = ((ground - 0.5) @ base.T)[:, :, None] + ((colour - 0.5) @ paint.T)[:, None]
    gain = (along / energy).clamp(0.5, 1)
    seen = ((ground - 0.5) ** 2).sum(1) + ((colour - 0.5) ** 2).sum(1)
    error = seen[:, None, None] - 2 * gain * along + gain**2 * energy
    best = error.flatten(1).argmin(1)
    return gain.flatten(1).gather(1, best[:, None])[:, 0], best // len(paint), best % len(paint)


def _blurred(fields: Tensor, sigma: Tensor) -> Tensor:
    """Fields (b, c, S, S), each image blurred by a Gaussian of its own width in pixels."""
    gap = torch.arange(IMAGE_SIZE)[:, None] - torch.arange(IMAGE_SIZE)[None]
    sigma = sigma.clamp_min(1e-3)[:, None, None]
    kernel = torch.exp(-0.5 * (gap / sigma) ** 2)
    kernel = (kernel / kernel[:, :, IMAGE_SIZE // 2].sum(1)[:, None, None])[:, None]
    return kernel @ fields @ kernel


def _form(images: Tensor, model: Tensor, mask: Tensor, contrast: Tensor, softness: Tensor) -> Tensor:
    """Share of the figure that the model explains, both brought to one softness so that blur hides no malformation."""
    distance = (mask * contrast).sum((1, 2)) / mask.sum((1, 2)).clamp_min(1e-6)
    fields = torch.cat([(images - model) / distance.clamp_min(0.05)[:, None, None, None], mask[:, None]], 1)
    sigma = EDGE * (COMMON_SOFTNESS**2 - softness**2).clamp_min(0).sqrt()
    energy = _blurred(fields, sigma).square().sum((2, 3))
    return (1 - energy[:, :3].sum(1) / energy[:, 3].clamp_min(1e-6)).clamp_min(0)


@torch.inference_mode()
def fit(images: Float[Tensor, "b 3 s s"], candidates: int = 2, rounds: int = 8) -> Fit:
    """Fit the `candidates` shapes of highest correlation and keep the one that explains the image best."""
    matched = match(figure(images))
    ground = ground_colour(images)
    order = matched.correlation.argsort(1, descending=True)[:, :candidates]
    best: dict[str, Tensor] = {}
    columns, rows = pixel_grid()
    for rank in range(candidates):
        for index, shape in enumerate(SHAPES):
            which = (order[:, rank] == index).nonzero()[:, 0]
            if not len(which):
                continue
            some, floor = images[which], ground[which]
            theta = torch.zeros(len(which), 9)
            theta[:, :2] = matched.centre[which, index]
            theta[:, 2] = matched.radius[which, index].log()
            theta[:, 3] = matched.angle[which, index]
            theta[:, 4], theta[:, 5] = math.log(2.5), 0.3
            u = (columns - theta[:, 0, None, None]) / theta[:, 2, None, None].exp()
            v = (rows - theta[:, 1, None, None]) / theta[:, 2, None, None].exp()
            mask = _coverage(shape, theta, u, v)[0] ** 2
            theta[:, 6:] = (some * mask[:, None]).sum((2, 3)) / mask.sum((1, 2))[:, None]
            for _ in range(2):  # the gain follows from the body's colour, the body's colour from the fit
                gain, name, _ = _gain(floor, theta[:, 6:])
                scenery = (floor, gain[:, None] * GROUNDS[name], gain)
                theta, _ = _refine(some, shape, theta, scenery, rounds // 2)
            gain, name, colour = _gain(floor, theta[:, 6:])
            model, mask, body, below = _draw(shape, theta, scenery)
            contrast, softness = (body - below).norm(dim=1), theta[:, 4].exp()
            found = {
                "form": _form(some, model, mask, contrast, softness), "shape": torch.full((len(which),), index), "centre": theta[:, :2],
                "radius": theta[:, 2].exp(), "angle": theta[:, 3], "softness": softness, "shading": theta[:, 5], "gain": gain,
                "colour": colour, "ground": name, "model": model,
            }  # fmt: skip
            if not best:
                best = {k: torch.zeros(len(images), *x.shape[1:], dtype=x.dtype) for k, x in found.items()}
                best["form"] -= 1
            won = found["form"] > best["form"][which]
            for key, value in found.items():
                best[key][which[won]] = value[won]
    return Fit(**best)


class Truths(NamedTuple):
    """What an image shows. `form` in [0, 1]; attributes: indices into ATTRIBUTES; factors in [0, 1]."""

    form: Float[Tensor, " b"]
    attributes: Int[Tensor, "b 4"]
    factors: Float[Tensor, "b 5"]

    @property
    def well_formed(self) -> Bool[Tensor, " b"]:
        """Whether the figure is one of the eight shapes, at any pose and size."""
        return self.form >= WELL_FORMED

    @property
    def quality(self) -> Float[Tensor, " b"]:
        """The mean of the factors: to be averaged over the well formed."""
        return self.factors.mean(1)

    def right(self, scenes: Int[Tensor, "b 4"], stated: Bool[Tensor, "b 4"]) -> Bool[Tensor, "b 4"]:
        """Whether each attribute is as the caption states, or free: to be averaged over the well formed."""
        return (self.attributes == scenes) | ~stated


def read(images: Float[Tensor, "b 3 s s"], batch_size: int = 64) -> Truths:
    """Read images with values in [0, 1]."""
    parts = [_read(x.float().cpu().clamp(0, 1)) for x in images.split(batch_size)]
    return Truths(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _read(images: Tensor) -> Truths:
    found = fit(images)
    size = (found.radius > math.sqrt(SIZES["small"] * SIZES["large"])).long()
    factors = torch.stack([
        1 - found.centre.norm(dim=1) / MAX_OFFSET, 1 - found.angle.abs() / MAX_ANGLE, 1 - (found.softness - 0.7) / 4.5,
        2 * found.gain - 1, found.shading,
    ], 1).clamp(0, 1)  # fmt: skip
    blind = ~torch.tensor(TURNABLE)[found.shape]  # a turned circle looks like any other: the mean of the other factors stands in
    factors[blind, 1] = factors[blind][:, [0, 2, 3, 4]].mean(1)
    return Truths(found.form, torch.stack([size, found.colour, found.shape, found.ground], 1), factors)
