"""Show what distances to the base's images can and cannot see, on the embedded model's own latents, for notebooks 09 and 10."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, get_args

import matplotlib.pyplot as plt
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from selfimprove.config import Distance, Reference
from selfimprove.data.images import shapes_prompts
from selfimprove.draws import example_id
from selfimprove.models.pipeline import Diffuser, load_diffuser
from selfimprove.models.resolve import resolve_model
from selfimprove.presets import PRESETS
from selfimprove.recursion.weighting import pairwise, weigh
from selfimprove.rollout import sample_batches

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
REFERENCES: tuple[Reference, ...] = ("mean", "nearest", "two-sided")


@lru_cache(maxsize=1)
def base_latents(count: int) -> tuple[Diffuser, Float[Tensor, "n c h w"]]:
    """Return the embedded pipeline, and the latents of `count` of its images, one image per prompt."""
    settings = PRESETS["shapes-rsi"].settings
    diffuser = load_diffuser(resolve_model("shapes"), torch.device("cpu"))
    prompts = [c.text for c in shapes_prompts(count)]
    latents = sample_batches(
        diffuser, diffuser.denoiser, prompts, [example_id(p, i) for i, p in enumerate(prompts)], settings.rollout_batch, "sampling", seed=0,
        stream="shrinkage", round_index=0, steps=settings.rollout_steps, guidance=settings.guidance,
    )  # fmt: skip
    return diffuser, latents


def blindness(count: int, scales: Sequence[float] = SCALES) -> pd.DataFrame:
    """Return mean weight and distance of the base's scaled latents against its other images, one row per scale and reduction.

    The weight is RSIDiff's eq. (5) with l2, calibrated so that nine in ten of the references have weight 1.
    """
    _, latents = base_latents(count)
    samples, references = latents[: count // 4], latents[count // 4 :]
    names = [str(i) for i in range(count)]
    rows = []
    for reference in REFERENCES:
        # one call for all scales: a whole set of negligible weights would rightly be warned of
        scaled = torch.cat([c * samples for c in scales])
        result = weigh(scaled, [f"s{i}" for i in range(len(scaled))], references, names[count // 4 :], "l2", reference)
        for scale, weight, distance in zip(scales, result.weight.chunk(len(scales)), result.distance.chunk(len(scales)), strict=True):
            rows.append({"reference": reference, "scale": scale, "weight": float(weight.mean()), "distance": float(distance.mean())})
    return pd.DataFrame(rows)


def blindness_figure(table: pd.DataFrame) -> Figure:
    """Draw distance and weight against the scale of the latents."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), constrained_layout=True)
    styles: dict[str, dict[str, Any]] = {
        "mean": {"lw": 4, "alpha": 0.4},
        "nearest": {"marker": "s", "ms": 4},
        "two-sided": {"ls": "--", "color": "black"},
    }
    for reference, rows in table.groupby("reference", sort=False):
        for axis, column in zip(axes, ("distance", "weight"), strict=True):
            axis.plot(rows["scale"], rows[column], label=reference, **styles[str(reference)])
    axes[0].set(xlabel="scale of the latents (1: as drawn)", ylabel="distance to the base's images (l2)")
    axes[1].set(xlabel="scale of the latents (1: as drawn)", ylabel="mean weight", ylim=(-0.03, 1.05))
    axes[0].legend(frameon=False)
    return figure


def convention_table(count: int) -> pd.DataFrame:
    """Return by convention measured distances between the embedded model's images, and the rule for unrelated ones, sqrt(2 d variance)."""
    diffuser, latents = base_latents(count)
    variance = float(latents.flatten(1).var(0).mean())
    off = ~torch.eye(count, dtype=torch.bool)
    rows = {}
    for name in get_args(Distance):
        apart = pairwise(latents, latents, name, diffuser.scaling_factor)[off]
        rows[name] = {
            "measured, mean": float(apart.mean()),
            "5 %": float(apart.quantile(0.05)),
            "95 %": float(apart.quantile(0.95)),
            "rule": expected_distance(variance, diffuser.latent_shape, name, diffuser.scaling_factor),
        }
    return pd.DataFrame(rows).T.rename_axis("convention")


def expected_distance(variance: float, shape: tuple[int, int, int], distance: Distance, scaling_factor: float) -> float:
    """Return the distance of two unrelated latents whose dimensions have this variance: sqrt(2 d variance), in the convention's unit."""
    channels, height, width = shape
    one = torch.zeros(1, channels, height, width)
    return float(pairwise(one, one + (2 * variance) ** 0.5, distance, scaling_factor))


def expected_conventions(shape: tuple[int, int, int], scaling_factor: float) -> pd.DataFrame:
    """Return by convention the distance of two unrelated latents of unit variance, and the paper's beta of 35 in units of it."""
    rows = {}
    for name in get_args(Distance):
        apart = expected_distance(1.0, shape, name, scaling_factor)
        rows[name] = {"distance": apart, "35 in units of it": 35 / apart}
    return pd.DataFrame(rows).T.rename_axis("convention")
