"""Read three truths from an image by computation alone: form, obedience of the well formed, quality of the well formed.

Nothing is learned. Correlation proposes poses (`selfimprove.shapes.matching`). Least squares on the renderer's own model refines them,
first on halved images. Form is the share of the figure that the best ideal figure explains.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from selfimprove.shapes.matching import GROUNDS, TURNABLE, figure, ground_colour, match, pixel_grid
from selfimprove.shapes.oracle import refuse_if_hidden
from selfimprove.shapes.render import COLOURS, IMAGE_SIZE, MAX_ANGLE, MAX_OFFSET, SHAPES, SIZES, signed_distance

COMMON_SOFTNESS = 5.0  # pixels, nearly the softest edge of the renderer: forms are compared at this softness, or blur would hide faults
EDGE = math.pi / math.sqrt(3) / 2  # standard deviation of a logistic edge of softness 1, in pixels
WELL_FORMED = 0.985  # of ideal figures that went through the autoencoder of 16x16 latents, at least 99% lie above
VISIBLE = 0.05  # distance of the figure's colour from the ground's below which there is no figure: a third of the least in the world
CANDIDATES = 2  # shapes that are fitted to each image
COARSE_ROUNDS, ROUNDS = 6, 4  # of least squares, on halved and on whole images
RIVAL = 2.0  # a shape whose error on the halved image is larger than this many times the best one's is fitted no further
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


class _Scenery(NamedTuple):
    """What lies behind and around a figure: the ground's colour, the full shadow's share of the colour, the contrast's gain."""

    ground: Tensor  # (b, 3)
    dark: Tensor  # (b, 3)
    gain: Tensor  # (b,)

    def at(self, rows: Tensor) -> "_Scenery":
        return _Scenery(*(part[rows] for part in self))


@cache
def _blur(size: int) -> Tensor:
    """Return the renderer's blur of a shadow as a banded matrix, (S, S): rows of an image on one side, columns on the other."""
    sigma = size / 22
    reach = math.ceil(2.5 * sigma)
    gap = torch.arange(size)[:, None] - torch.arange(size)[None]
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    return torch.exp(-0.5 * (gap / sigma) ** 2).masked_fill(gap.abs() > reach, 0) / taps.sum()


def _coverage(shape: str, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the figure's share of each pixel. x, y: the pixels' places from the figure's middle, in radii."""
    cos, sin = torch.cos(theta[:, 3, None, None]), torch.sin(theta[:, 3, None, None])
    sharpness = IMAGE_SIZE * (theta[:, 2] - theta[:, 4]).exp()[:, None, None]
    return torch.sigmoid(-sharpness * signed_distance(shape, cos * x + sin * y, cos * y - sin * x))


class _Drawn(NamedTuple):
    image: Tensor  # (b, 3, s, s)
    mask: Tensor  # (b, s, s)
    body: Tensor  # (b, 3, s, s)
    floor: Tensor  # (b, 3, s, s)
    tint: Tensor  # (b, s, s): the slope of each channel by the figure's colour


def _draw(shape: str, theta: Tensor, scenery: _Scenery, size: int = IMAGE_SIZE) -> _Drawn:
    """Draw figures `theta` (b, 9): x, y, log radius, angle, log softness, shading, colour."""
    columns, rows = pixel_grid(size)
    radius = theta[:, 2, None, None].exp()
    u, v = (columns - theta[:, 0, None, None]) / radius, (rows - theta[:, 1, None, None]) / radius
    mask, shadow = _coverage(shape, theta, u, v), _blur(size) @ _coverage(shape, theta, u - 0.16, v - 0.24) @ _blur(size).T
    shading = theta[:, 5, None, None]
    light = -shading * (0.30 * v + 0.18 * u).clamp(-0.42, 0.42)
    highlight = 0.6 * shading * torch.exp(-((u + 0.34) ** 2 + (v + 0.40) ** 2) / 0.10)
    gain = scenery.gain[:, None, None, None]
    colour = theta[:, 6:, None, None]
    body = colour + (colour - 0.5 + 0.5 * gain) * light[:, None] + gain * highlight[:, None]
    body = body.minimum(0.5 + 0.5 * gain).maximum(0.5 - 0.5 * gain)
    floor = scenery.ground[:, :, None, None] - 0.5 * scenery.dark[:, :, None, None] * (shading * shadow)[:, None]
    return _Drawn(floor + mask[:, None] * (body - floor), mask, body, floor, mask * (1 + light))


_STEP = torch.tensor([0.01, 0.01, 0.02, 0.02, 0.05, 0.05])
_LOW = torch.tensor([-0.7, -0.7, math.log(0.18), -1.2, math.log(0.5), -0.1, -0.05, -0.05, -0.05])
_HIGH = torch.tensor([0.7, 0.7, math.log(0.65), 1.2, math.log(7.0), 1.15, 1.05, 1.05, 1.05])


def _refine(images: Tensor, shape: str, theta: Tensor, scenery: _Scenery, rounds: int) -> tuple[Tensor, Tensor]:
    """Return the parameters and their mean squared error after some rounds of Levenberg and Marquardt's least squares."""
    size, damping = images.shape[-1], torch.full((len(theta),), 1e-2)
    drawn = _draw(shape, theta, scenery, size)
    residual = (images - drawn.image).flatten(1)
    error = residual.square().mean(1)
    for _ in range(rounds):
        slopes = []
        for i, step in enumerate(_STEP):
            moved = theta.clone()
            moved[:, i] += step
            slopes.append((_draw(shape, moved, scenery, size).image - drawn.image).flatten(1) / step)
        tint = torch.eye(3)[None, :, :, None, None] * drawn.tint[:, None, None]  # (b, 3, 3, s, s)
        jacobian = torch.cat([torch.stack(slopes, 1), tint.flatten(2)], 1)
        normal = jacobian @ jacobian.mT
        damped = normal + torch.diag_embed(damping[:, None] * normal.diagonal(dim1=1, dim2=2) + 1e-4)
        step = torch.linalg.solve(damped, (jacobian @ residual[:, :, None]))[:, :, 0]
        tried = (theta + step).clamp(_LOW, _HIGH)
        candidate = _draw(shape, tried, scenery, size)
        remaining = (images - candidate.image).flatten(1)
        better = remaining.square().mean(1) < error
        theta = torch.where(better[:, None], tried, theta)
        drawn = _Drawn(*(torch.where(better.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(candidate, drawn, strict=True)))
        residual = torch.where(better[:, None], remaining, residual)
        error = residual.square().mean(1)
        damping = torch.where(better, damping / 4, damping * 4).clamp(1e-4, 1e3)
    return theta, error


def _gain(ground: Tensor, colour: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the contrast's gain, the named ground and the named colour that agree best with a ground and a body as seen."""
    base, paint = GROUNDS - 0.5, _COLOURS - 0.5
    energy = (base**2).sum(1)[:, None] + (paint**2).sum(1)[None]  # (4, 8)
    along = ((ground - 0.5) @ base.T)[:, :, None] + ((colour - 0.5) @ paint.T)[:, None]
    gain = (along / energy).clamp(0.5, 1)
    seen = ((ground - 0.5) ** 2).sum(1) + ((colour - 0.5) ** 2).sum(1)
    error = seen[:, None, None] - 2 * gain * along + gain**2 * energy
    best = error.flatten(1).argmin(1)
    return gain.flatten(1).gather(1, best[:, None])[:, 0], best // len(paint), best % len(paint)


def _blurred(fields: Tensor, sigma: Tensor) -> Tensor:
    """Return fields (b, c, S, S), each image blurred by a Gaussian of its own width in pixels."""
    gap = torch.arange(IMAGE_SIZE)[:, None] - torch.arange(IMAGE_SIZE)[None]
    sigma = sigma.clamp_min(1e-3)[:, None, None]
    kernel = torch.exp(-0.5 * (gap / sigma) ** 2)
    kernel = (kernel / kernel[:, :, IMAGE_SIZE // 2].sum(1)[:, None, None])[:, None]
    return kernel @ fields @ kernel


def _form(images: Tensor, model: Tensor, mask: Tensor, contrast: Tensor, softness: Tensor) -> Tensor:
    """Return the share of the figure that the model explains, both brought to one softness so that blur hides no malformation."""
    distance = (mask * contrast).sum((1, 2)) / mask.sum((1, 2)).clamp_min(1e-6)
    fields = torch.cat([(images - model) / distance.clamp_min(VISIBLE)[:, None, None, None], mask[:, None]], 1)
    sigma = EDGE * (COMMON_SOFTNESS**2 - softness**2).clamp_min(0).sqrt()
    energy = _blurred(fields, sigma).square().sum((2, 3))
    explained = (1 - energy[:, :3].sum(1) / energy[:, 3].clamp_min(1e-6)).clamp_min(0)
    return torch.where(distance < VISIBLE, 0, explained)


def _scenery(floor: Tensor, theta: Tensor) -> tuple[_Scenery, Tensor, Tensor]:
    """Return the scenery that agrees with a ground and with the figure's colour, and the numbers of the ground and of the colour."""
    gain, ground, colour = _gain(floor, theta[:, 6:])
    return _Scenery(floor, gain[:, None] * GROUNDS[ground], gain), ground, colour


@torch.inference_mode()
def fit(images: Float[Tensor, "b 3 s s"]) -> Fit:
    """Fit the shapes of highest correlation, and keep the one that explains the image best."""
    halved = F.avg_pool2d(images, 2)
    matched, floor = match(figure(halved)), ground_colour(images)
    order = matched.correlation.argsort(1, descending=True)[:, :CANDIDATES]
    theta, error = torch.zeros(len(images), CANDIDATES, 9), torch.full((len(images), CANDIDATES), math.inf)
    columns, rows = pixel_grid(halved.shape[-1])
    for index, shape in enumerate(SHAPES):
        which, rank = (order == index).nonzero(as_tuple=True)
        if not len(which):
            continue
        some = torch.zeros(len(which), 9)
        some[:, :2] = matched.centre[which, index]
        some[:, 2], some[:, 3] = matched.radius[which, index].log(), matched.angle[which, index]
        some[:, 4], some[:, 5] = math.log(2.5), 0.3
        u, v = ((line - some[:, i, None, None]) / some[:, 2, None, None].exp() for i, line in enumerate((columns, rows)))
        mask = _coverage(shape, some, u, v) ** 2
        some[:, 6:] = (halved[which] * mask[:, None]).sum((2, 3)) / mask.sum((1, 2))[:, None]
        for _ in range(2):  # the gain follows from the body's colour, the body's colour from the fit
            some, left = _refine(halved[which], shape, some, _scenery(floor[which], some)[0], COARSE_ROUNDS // 2)
        theta[which, rank], error[which, rank] = some, left
    near = error <= RIVAL * error.min(1, keepdim=True).values
    best: dict[str, Tensor] = {}
    for index, shape in enumerate(SHAPES):
        which, rank = ((order == index) & near).nonzero(as_tuple=True)
        if not len(which):
            continue
        some, seen = theta[which, rank], images[which]
        for _ in range(2):
            some, _ = _refine(seen, shape, some, _scenery(floor[which], some)[0], ROUNDS // 2)
        scenery, ground, colour = _scenery(floor[which], some)
        drawn, softness = _draw(shape, some, scenery), some[:, 4].exp()
        found = {
            "form": _form(seen, drawn.image, drawn.mask, (drawn.body - drawn.floor).norm(dim=1), softness),
            "shape": torch.full((len(which),), index), "centre": some[:, :2], "radius": some[:, 2].exp(), "angle": some[:, 3],
            "softness": softness, "shading": some[:, 5], "gain": scenery.gain, "colour": colour, "ground": ground, "model": drawn.image,
        }  # fmt: skip
        if not best:
            best = {k: torch.zeros(len(images), *x.shape[1:], dtype=x.dtype) for k, x in found.items()}
            best["form"] -= 1
        won = found["form"] > best["form"][which]
        for key, value in found.items():
            best[key][which[won]] = value[won]
    return Fit(**best)


class Truths(NamedTuple):
    """What images show. `form` lies in [0, 1]. `attributes` are indices into ATTRIBUTES. `factors` lie in [0, 1]."""

    form: Float[Tensor, " b"]
    attributes: Int[Tensor, "b 4"]
    factors: Float[Tensor, "b 5"]

    @property
    def well_formed(self) -> Bool[Tensor, " b"]:
        """Return whether each figure is one of the eight shapes, at any pose and size."""
        return self.form >= WELL_FORMED

    @property
    def quality(self) -> Float[Tensor, " b"]:
        """Return the mean of the factors, to be averaged over the well formed."""
        return self.factors.mean(1)

    def right(self, scenes: Int[Tensor, "b 4"], stated: Bool[Tensor, "b 4"]) -> Bool[Tensor, "b 4"]:
        """Return whether each attribute is as the caption states, or free, to be averaged over the well formed."""
        return (self.attributes == scenes) | ~stated


def read(images: Float[Tensor, "b 3 s s"], batch_size: int = 64) -> Truths:
    """Read images with values in [0, 1].

    Raises:
        TruthError: called inside `truth_hidden`.
    """
    refuse_if_hidden("the truths are computed to judge, and must not select; choose among the learned scorers")
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
