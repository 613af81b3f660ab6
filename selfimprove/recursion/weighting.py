"""Weights by distance to the base model's samples: RSIDiff eq. (5), with the distance that it leaves open as named conventions.

A convention is a norm of the difference of two latents and a way to reduce it over the references. Norms: `l2` of the flattened
scaled latents; `l2-unscaled`, before the VAE's scaling factor; `l2-scaled-twice`, after applying it again; `rms`, l2 over the root of
the number of dimensions; `per-channel`, the mean over channels of each channel's l2. Reductions: `mean` over the references (the
paper's words); `to-mean`, the distance to the references' mean; `nearest`, the mean over the k nearest; `two-sided`, the mean, but
too small a one counts as well.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selfimprove.config import Distance, Reference

BLOCK = 1024  # rows a block: two of them in float64, and one block of distances, are in memory at a time
NEGLIGIBLE = 0.01  # if no weight is above it, training would hardly move


class WeightingError(ValueError):
    """The weights cannot be computed, or would stop training; the message says why and what to do."""


class Edges(NamedTuple):
    """Where weights begin to fall, and how fast, above and below; `low` is -inf where too small a distance does not count."""

    beta: float
    sigma2: float
    low: float = float("-inf")
    low_sigma2: float = 1.0


class Weights(NamedTuple):
    """One weight in (0, 1] a sample, the distance that it was made of, and the edges in use."""

    weight: Float[Tensor, " n"]
    distance: Float[Tensor, " n"]
    edges: Edges


def _groups(latents: Float[Tensor, "n c h w"], distance: Distance, scaling_factor: float) -> Float[Tensor, "g n d"]:
    """Vectors whose l2 distance, averaged over the groups, is the convention's."""
    if distance == "per-channel":
        return latents.flatten(2).transpose(0, 1)
    unit = {"l2": 1.0, "l2-unscaled": 1 / scaling_factor, "l2-scaled-twice": scaling_factor, "rms": latents[0].numel() ** -0.5}[distance]
    return (unit * latents.flatten(1))[None]


def _check_shapes(a: Tensor, b: Tensor) -> None:
    if a.shape[1:] != b.shape[1:]:
        shapes = f"latents of shape {tuple(a.shape[1:])} cannot be compared with references of {tuple(b.shape[1:])}"
        raise WeightingError(f"{shapes}; take both from one model")


def pairwise(
    a: Float[Tensor, "n _ _ _"], b: Float[Tensor, "m _ _ _"], distance: Distance = "l2", scaling_factor: float = 1.0
) -> Float[Tensor, "n m"]:
    """Distances of every latent of `a` to every one of `b`, float32; identical latents are exactly 0 apart.

    One matrix product in float64 a block: in float32 the cancellation of `|a|^2 + |b|^2 - 2ab` would hide what lies near.

    Raises:
        WeightingError: latents of different shapes.
    """
    _check_shapes(a, b)
    centre = b[:BLOCK].double().mean(0, keepdim=True)
    result = torch.zeros(len(a), len(b))
    for rows in range(0, len(a), BLOCK):
        left = _groups(a[rows : rows + BLOCK].double() - centre, distance, scaling_factor)
        for columns in range(0, len(b), BLOCK):
            right = _groups(b[columns : columns + BLOCK].double() - centre, distance, scaling_factor)
            apart = torch.cdist(left, right, compute_mode="use_mm_for_euclid_dist")
            norms = torch.maximum(left.norm(dim=2)[:, :, None], right.norm(dim=2)[:, None])
            apart = torch.where(apart < 1e-6 * norms, 0.0, apart)  # rounding of identical rows
            result[rows : rows + BLOCK, columns : columns + BLOCK] = apart.mean(0).float()
    return result


def distances(
    latents: Float[Tensor, "n c h w"],
    ids: Sequence[str],
    references: Float[Tensor, "m _ _ _"],
    reference_ids: Sequence[str],
    distance: Distance = "l2",
    reference: Reference = "mean",
    neighbours: int = 5,
    scaling_factor: float = 1.0,
) -> Float[Tensor, " n"]:
    """d(s, D_0) of RSIDiff eq. (5); a sample whose id is among the references is left out of its own distance.

    Raises:
        WeightingError: fewer than two references, or latents of different shapes.
    """
    if len(references) < 2:
        raise WeightingError(f"references={len(references)}: at least two are needed, as a sample is left out of its own; sample more")
    if reference == "to-mean":
        _check_shapes(latents, references)
        return _to_mean(latents, ids, references, reference_ids, distance, scaling_factor)
    parts = []
    for start in range(0, len(latents), BLOCK):
        rows = slice(start, start + BLOCK)
        apart = pairwise(latents[rows], references, distance, scaling_factor)
        parts.append(reduce_distances(apart, _own(ids[rows], reference_ids), reference, neighbours))
    return torch.cat(parts)


def reduce_distances(
    apart: Float[Tensor, "n m"], own: Bool[Tensor, "n m"], reference: Reference, neighbours: int = 5
) -> Float[Tensor, " n"]:
    """One distance a row, over the references that are not its `own`: the mean, or for "nearest" that of the k smallest."""
    if reference == "nearest":
        count = min(neighbours, apart.shape[1] - 1)
        return apart.masked_fill(own, float("inf")).topk(count, dim=1, largest=False).values.mean(1)
    return apart.masked_fill(own, 0).double().sum(1).div((~own).sum(1)).float()


def _own(ids: Sequence[str], reference_ids: Sequence[str]) -> Bool[Tensor, "n m"]:
    column = {name: i for i, name in enumerate(reference_ids)}
    own = torch.zeros(len(ids), len(reference_ids), dtype=torch.bool)
    for row, name in enumerate(ids):
        if name in column:
            own[row, column[name]] = True
    return own


def _to_mean(
    latents: Tensor, ids: Sequence[str], references: Tensor, reference_ids: Sequence[str], distance: Distance, scaling_factor: float
) -> Tensor:
    count, total = len(references), references.double().sum(0)
    column = {name: i for i, name in enumerate(reference_ids)}
    parts = []
    for row, name in enumerate(ids):
        mean = (total - references[column[name]]) / (count - 1) if name in column else total / count
        parts.append(_groups(latents[row : row + 1] - mean, distance, scaling_factor).norm(dim=2).mean(0))
    return torch.cat(parts).float()


def calibrate(own: Float[Tensor, " m"], reference: Reference, beta: float | None, sigma2: float | None, quantile: float = 0.9) -> Edges:
    """Edges from the references' own distances, each reference left out of its own; values that are given stay.

    beta: the quantile, so that this share of the base model's samples has weight 1; sigma^2: from there to the largest, so that the
    base's own farthest sample weighs exp(-1). `two-sided` has a lower edge at the other quantile, calibrated alike on the nearest.

    Raises:
        WeightingError: sigma^2 <= 0.
    """
    if sigma2 is not None and not sigma2 > 0:
        raise WeightingError(f"weight_sigma2={sigma2!r} must be greater than 0; leave it out to calibrate it")
    upper, lower = float(own.quantile(quantile)), float(own.quantile(1 - quantile))
    smallest = 1e-6 * abs(upper) + 1e-12  # references that are all alike leave no spread to calibrate on
    high = upper if beta is None else beta
    spread = max(float(own.max()) - upper, smallest) if sigma2 is None else sigma2
    if reference != "two-sided":
        return Edges(high, spread)
    return Edges(high, spread, lower, max(lower - float(own.min()), smallest) if sigma2 is None else sigma2)


def weights(distance: Float[Tensor, " n"], edges: Edges) -> Float[Tensor, " n"]:
    """The weight: 1 if d <= beta, else exp(-(d - beta) / sigma^2): RSIDiff eq. (5); below `low` the same with low - d.

    beta 35, sigma^2 2, by hand: 34 -> 1, 37 -> exp(-1):

    >>> weights(torch.tensor([34.0, 35.0, 37.0]), Edges(35.0, 2.0))
    tensor([1.0000, 1.0000, 0.3679])
    """
    above, below = (distance - edges.beta).clamp_min(0) / edges.sigma2, (edges.low - distance).clamp_min(0) / edges.low_sigma2
    return torch.exp(-(above + below))


def weigh(
    latents: Float[Tensor, "n c h w"],
    ids: Sequence[str],
    references: Float[Tensor, "m _ _ _"],
    reference_ids: Sequence[str],
    distance: Distance = "l2",
    reference: Reference = "mean",
    neighbours: int = 5,
    beta: float | None = None,
    sigma2: float | None = None,
    quantile: float = 0.9,
    scaling_factor: float = 1.0,
) -> Weights:
    """Distances, edges (calibrated on the references where not given) and weights of some samples.

    Warns if every weight is negligible.

    Raises:
        WeightingError: see `distances`, `calibrate`; also when every weight is zero, and nothing would be learned.
    """
    how = (distance, reference, neighbours, scaling_factor)
    apart = distances(latents, ids, references, reference_ids, *how)
    own = distances(references, reference_ids, references, reference_ids, *how)
    edges = calibrate(own, reference, beta, sigma2, quantile)
    result = weights(apart, edges)
    largest = float(result.max())
    span = f"{float(apart.min()):.4g} to {float(apart.max()):.4g}"
    numbers = f"beta={edges.beta:.4g}, sigma2={edges.sigma2:.4g}, distances {span} ({distance}, {reference})"
    if largest == 0:
        raise WeightingError(f"every weight is zero ({numbers}); raise weight_beta or weight_sigma2, or leave them out to calibrate them")
    if largest < NEGLIGIBLE:
        warnings.warn(f"every weight is below {NEGLIGIBLE}: training will hardly move ({numbers}); raise weight_beta", stacklevel=2)
    return Weights(result, apart, edges)
