"""Weight samples by their distance to the base model's samples (RSIDiff eq. (5)). The paper leaves the distance open.

A distance convention is a norm of the difference of two latents, and a way to reduce the norm over the references. Norms: `l2` of the
flattened scaled latents; `l2-unscaled`, l2 before the VAE's scaling factor is applied; `l2-scaled-twice`, l2 after the factor is applied
again; `rms`, l2 divided by the square root of the number of dimensions; `per-channel`, the mean of the channels' l2. Reductions: `mean`
over the references (the paper's words); `to-mean`, the distance to the references' mean; `nearest`, the mean over the k nearest
references; `two-sided`, the mean, where a distance that is too small lowers the weight as well.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selfimprove.config import Distance, Reference
from selfimprove.errors import SelfImproveError

BLOCK = 1024  # rows per block: two blocks in float64 and one block of distances are in memory at a time
NEGLIGIBLE = 0.01  # if every weight is below it, training would hardly move


class WeightingError(SelfImproveError):
    """The weights cannot be computed, or would stop training; the message says why and what to do."""


class Edges(NamedTuple):
    """Where weights begin to fall, and how fast: above `beta` with scale `sigma2`, and below `low` with scale `low_sigma2`.

    If `low` is -inf, a small distance does not lower the weight.
    """

    beta: float
    sigma2: float
    low: float = float("-inf")
    low_sigma2: float = 1.0


class Weights(NamedTuple):
    """One weight in (0, 1] per sample, the distance that the weight was computed from, and the edges used."""

    weight: Float[Tensor, " n"]
    distance: Float[Tensor, " n"]
    edges: Edges


def _groups(latents: Float[Tensor, "n c h w"], distance: Distance, scaling_factor: float) -> Float[Tensor, "g n d"]:
    """Return vectors (groups, samples, dimensions) whose l2 distance, averaged over the groups, is the convention's distance."""
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
    """Return the float32 distance of every latent in `a` to every latent in `b`. Identical latents are exactly 0 apart.

    Each block is one matrix product in float64. In float32, cancellation in `|a|^2 + |b|^2 - 2ab` would hide small distances.

    Raises:
        WeightingError: the latents of `a` and `b` have different shapes.
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
            apart = torch.where(apart < 1e-6 * norms, 0.0, apart)  # identical rows differ by rounding only
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
    """Return d(s, D_0) of RSIDiff eq. (5) per sample. If a sample is also a reference (same id), it is left out of its own distance.

    Raises:
        WeightingError: there are fewer than two references, or the latents have different shapes.
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
    """Return one distance per row over the references not marked in `own`: their mean or, for "nearest", the mean of the k smallest."""
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
    """Return edges calibrated on the references' own distances, each without the reference itself. Edges that are given stay.

    `beta` becomes the `quantile` of the distances, so that this share of the base model's samples has weight 1. `sigma2` becomes the gap
    from that quantile to the largest distance, so that the base's farthest sample has weight exp(-1). `two-sided` adds a lower edge at
    1 - `quantile`, calibrated in the same way on the smallest distance.

    Raises:
        WeightingError: `sigma2` is not greater than 0.
    """
    if sigma2 is not None and not sigma2 > 0:
        raise WeightingError(f"weight_sigma2={sigma2!r} must be greater than 0; leave it out to calibrate it")
    upper, lower = float(own.quantile(quantile)), float(own.quantile(1 - quantile))
    smallest = 1e-6 * abs(upper) + 1e-12  # identical references leave no spread to calibrate on
    high = upper if beta is None else beta
    spread = max(float(own.max()) - upper, smallest) if sigma2 is None else sigma2
    if reference != "two-sided":
        return Edges(high, spread)
    return Edges(high, spread, lower, max(lower - float(own.min()), smallest) if sigma2 is None else sigma2)


def weights(distance: Float[Tensor, " n"], edges: Edges) -> Float[Tensor, " n"]:
    """Return the weight of RSIDiff eq. (5): 1 if d <= beta, else exp(-(d - beta) / sigma^2). Below `low`, low - d replaces d - beta.

    With beta = 35 and sigma^2 = 2, distances 34 and 35 give 1, and 37 gives exp(-1):

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
    """Return distances, edges and weights of some samples. Edges that are not given are calibrated on the references.

    Warns if every weight is below `NEGLIGIBLE`.

    Raises:
        WeightingError: see `distances` and `calibrate`; also if every weight is zero, so that nothing would be learned.
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
