"""Measure signs of collapse on latents drawn with the base model's prompts and noise, and warn about them in a round.

Training a model on its own samples can reduce diversity, let the samples drift away, or shrink them towards an average image. No single
distance detects all three. Several signs are therefore measured, each as a ratio to the base model's own value: 1 means no change.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selfimprove.config import OnCollapse
from selfimprove.draws import key_hash
from selfimprove.errors import SelfImproveError
from selfimprove.recursion.weighting import pairwise, reduce_distances

NEIGHBOURS = 5
SAMPLED = 2048  # images on which the signs are measured: time grows with the cube of their number, memory with its square


class CollapseError(SelfImproveError):
    """Raised if a round shows signs of collapse and `on_collapse` is "stop". Everything computed so far is kept."""


@dataclass(frozen=True)
class Limits:
    """Usual range of a sign, as a ratio to the base model's value. A value below `low` or above `high` is a warning."""

    low: float
    high: float


# Chosen on one seed of two experiments on shapes: recursion without any safeguard, and eight rounds of the default. See notebook 09.
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
    """Return the Vendi score, an effective number of different samples: exp of the entropy of the similarity matrix's eigenvalues.

    Two samples at distance d have similarity exp(-d^2 / (2 bandwidth^2)). The score lies between 1 (all alike) and n (all far apart).
    """
    similarity = torch.exp(-((apart.double() / bandwidth) ** 2) / 2) / len(apart)
    values = torch.linalg.eigvalsh((similarity + similarity.T) / 2).clamp_min(1e-12)
    return float(torch.exp(-(values * values.log()).sum()))


def within_prompt_distance(apart: Float[Tensor, "n n"], prompts: Sequence[str]) -> float:
    """Return the mean distance between different samples of the same prompt, or NaN if every prompt has only one sample."""
    _, group = np.unique(np.array(prompts), return_inverse=True)
    same = torch.from_numpy(group[:, None] == group[None]) & ~torch.eye(len(prompts), dtype=torch.bool)
    return float(apart[same].mean()) if bool(same.any()) else float("nan")


def _radii(apart: Float[Tensor, "n n"]) -> Float[Tensor, " n"]:
    """Return the distance from each sample to its NEIGHBOURS-th nearest other sample."""
    count = min(NEIGHBOURS, len(apart) - 1)
    without_self = apart + torch.diag(torch.full((len(apart),), float("inf")))
    return without_self.topk(count, dim=1, largest=False).values[:, -1]


@dataclass(frozen=True)
class Measures:
    """The signs that `drift` defines, before they are divided by the base model's."""

    variance: float
    distance: float
    nearest: float
    within_prompt: float
    modes: float
    recall: float
    precision: float

    def relative_to(self, base: "Measures") -> dict[str, float]:
        """Return each sign divided by the base model's value.

        Signs without a finite ratio are left out: `within_prompt` if there is one image per prompt, and any sign whose base value is 0.
        """
        ratios = {name: value / other for name, value in vars(self).items() if (other := getattr(base, name))}
        return {name: ratio for name, ratio in ratios.items() if math.isfinite(ratio)}


def sampled_rows(ids: Sequence[str], most: int = SAMPLED) -> list[int]:
    """Return, in ascending order, the rows of at most `most` images: those whose ids have the lowest hashes, the same in every round."""
    chosen = sorted(range(len(ids)), key=lambda row: key_hash("signs of collapse", ids[row]))[:most]
    return sorted(chosen)


def drift(latents: Float[Tensor, "n c h w"], base: Float[Tensor, "n c h w"], prompts: Sequence[str]) -> dict[str, float]:
    """Return the signs of collapse of `latents` as a ratio to the base model's own value. Row i of both has the same prompt and noise.

    - `variance` is the variance over samples, averaged over the latent's dimensions.
    - `distance` is the mean l2 distance from a sample's scaled latent to all base samples, `nearest` to its five nearest base samples.
    - `within_prompt` is the mean distance between samples of the same prompt.
    - `modes` is the effective number of samples (see `effective_modes`), with the base samples' median distance as bandwidth.
    - `recall` is the share of base samples that lie in the five-neighbour ball of at least one sample (Kynkaanniemi et al. 2019).
    - `precision` is the share of samples that lie in the five-neighbour ball of at least one base sample.

    No sample is compared with the base sample of its own row. Of a single sample nothing can be said: then the result is empty.
    """
    if len(base) < 2:
        return {}
    base_own = pairwise(base, base)
    now = _measure(latents, pairwise(latents, latents), pairwise(latents, base), base_own, prompts)
    return now.relative_to(_measure(base, base_own, base_own, base_own, prompts))


def _measure(latents: Tensor, own: Tensor, to_base: Tensor, base_own: Tensor, prompts: Sequence[str]) -> Measures:
    """Compute the signs from the distances among the samples, from the samples to the base samples, and among the base samples."""
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
    """Return one sentence per sign that lies outside its limits."""
    said = []
    for name, bounds in limits.items():
        value = drift.get(name, float("nan"))
        if value < bounds.low or value > bounds.high:
            said.append(f"{name.replace('_', ' ')} is {value:.2f} of the base model's (usual: {bounds.low:g} to {bounds.high:g})")
    return said


def warn_of_collapse(index: int, drift: Mapping[str, float], action: OnCollapse, limits: Mapping[str, Limits] = LIMITS) -> list[str]:
    """Return one sentence per sign of collapse in a round. Unless `action` is "ignore", also warn or raise if there are any.

    Raises:
        CollapseError: there are signs of collapse, and `action` is "stop".
    """
    said = signs(drift, limits)
    if said and action != "ignore":
        message = f"round {index} shows signs of collapse: {'; '.join(said)}"
        if action == "stop":
            raise CollapseError(f"{message}; on_collapse='stop' ends the run here: choose an earlier round, or gentler settings")
        warnings.warn(message, stacklevel=2)
    return said
