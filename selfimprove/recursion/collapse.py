"""Signs of collapse, from latents of the same prompts and the same noise as the base model's, and the warning that a round gives.

Recursion on one's own samples can lose diversity, drift away, or shrink towards an average image. No single distance sees all
three, so several signs are measured, each as a ratio to the base model's own value: 1 is no change.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selfimprove.config import OnCollapse
from selfimprove.recursion.weighting import pairwise, reduce_distances

NEIGHBOURS = 5


class CollapseError(RuntimeError):
    """A round shows signs of collapse and `on_collapse` is "stop"; everything computed so far is kept."""


@dataclass(frozen=True)
class Limits:
    """Where a sign becomes a warning: below `low` or above `high`, as a ratio to the base model."""

    low: float
    high: float


# Chosen on one seed of two experiments on shapes (recursion without care, and the default's eight rounds): see notebook 09.
LIMITS: dict[str, Limits] = {
    "variance": Limits(0.90, 1.25),
    "distance": Limits(0.93, 1.08),
    "nearest": Limits(0.85, 1.15),
    "within_prompt": Limits(0.80, 1.25),
    "modes": Limits(0.90, 1.40),
    "recall": Limits(0.85, 1.50),
    "precision": Limits(0.85, 1.50),
}


def effective_modes(apart: Float[Tensor, "n n"], bandwidth: float) -> float:
    """Exp of the entropy of the eigenvalues of the similarity matrix (the Vendi score): how many different samples there seem to be.

    The similarity of two samples at distance d is exp(-d^2 / (2 bandwidth^2)). Between 1 (all alike) and n (all apart).
    """
    similarity = torch.exp(-((apart.double() / bandwidth) ** 2) / 2) / len(apart)
    values = torch.linalg.eigvalsh((similarity + similarity.T) / 2).clamp_min(1e-12)
    return float(torch.exp(-(values * values.log()).sum()))


def within_prompt_distance(apart: Float[Tensor, "n n"], prompts: Sequence[str]) -> float:
    """Mean distance between different samples of one prompt; nan where every prompt has one sample."""
    _, group = np.unique(np.array(prompts), return_inverse=True)
    same = torch.from_numpy(group[:, None] == group[None]) & ~torch.eye(len(prompts), dtype=torch.bool)
    return float(apart[same].mean()) if bool(same.any()) else float("nan")


def _radii(apart: Float[Tensor, "n n"]) -> Float[Tensor, " n"]:
    """Distance of each sample to its NEIGHBOURS-th other."""
    count = min(NEIGHBOURS, len(apart) - 1)
    without_self = apart + torch.diag(torch.full((len(apart),), float("inf")))
    return without_self.topk(count, dim=1, largest=False).values[:, -1]


@dataclass(frozen=True)
class Measures:
    """Absolute values; see `drift`."""

    variance: float
    distance: float
    nearest: float
    within_prompt: float
    modes: float
    recall: float
    precision: float

    def relative_to(self, base: "Measures") -> dict[str, float]:
        """Each sign as a ratio to the base model's."""
        return {name: value / other if (other := getattr(base, name)) else float("nan") for name, value in vars(self).items()}


def drift(latents: Float[Tensor, "n c h w"], base: Float[Tensor, "n c h w"], prompts: Sequence[str]) -> dict[str, float]:
    """Every sign of some samples as a ratio to the base model's own; row i of both has one prompt and one noise.

    variance: mean over dimensions of the variance over samples; distance and nearest: mean distance to the base's samples, to all
    and to the five nearest (l2 of scaled latents); within_prompt: mean distance between samples of one prompt; modes: effective
    number, at the base's median distance as bandwidth; recall (precision): share of the base's (of these) samples that lie within
    the five-neighbour ball of one of these (of the base's), other noise and prompt only (Kynkaanniemi et al. 2019).
    """
    base_own = pairwise(base, base)
    now = _measure(latents, pairwise(latents, latents), pairwise(latents, base), base_own, prompts)
    return now.relative_to(_measure(base, base_own, base_own, base_own, prompts))


def _measure(latents: Tensor, own: Tensor, to_base: Tensor, base_own: Tensor, prompts: Sequence[str]) -> Measures:
    """The signs from the distances among the samples, from them to the base's, and among the base's."""
    same = torch.eye(len(base_own), dtype=torch.bool)
    return Measures(
        variance=float(latents.flatten(1).var(0).mean()),
        distance=float(reduce_distances(to_base, same, "mean").mean()),
        nearest=float(reduce_distances(to_base, same, "nearest", NEIGHBOURS).mean()),
        within_prompt=within_prompt_distance(own, prompts),
        modes=effective_modes(own, float(base_own[~same].median())),
        recall=float(((_radii(own)[None] >= to_base.T) & ~same).any(1).double().mean()),
        precision=float(((to_base <= _radii(base_own)[None]) & ~same).any(1).double().mean()),
    )


def signs(drift: Mapping[str, float], limits: Mapping[str, Limits] = LIMITS) -> list[str]:
    """A sentence for every sign that is outside its limits."""
    said = []
    for name, bounds in limits.items():
        value = drift.get(name, float("nan"))
        if value < bounds.low or value > bounds.high:
            said.append(f"{name.replace('_', ' ')} is {value:.2f} of the base model's (usual: {bounds.low:g} to {bounds.high:g})")
    return said


def warn_of_collapse(index: int, drift: Mapping[str, float], action: OnCollapse, limits: Mapping[str, Limits] = LIMITS) -> list[str]:
    """What a round calls after its evaluation: the signs, with a warning, or an error, as configured.

    Raises:
        CollapseError: there are signs, and `action` is "stop".
    """
    said = signs(drift, limits)
    if said and action != "ignore":
        message = f"round {index} shows signs of collapse: {'; '.join(said)}"
        if action == "stop":
            raise CollapseError(f"{message}; on_collapse='stop' ends the run here: choose an earlier round, or gentler settings")
        warnings.warn(message, stacklevel=2)
    return said
