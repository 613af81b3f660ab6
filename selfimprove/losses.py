"""Objectives: pure functions of per-example squared errors, one value an example and named detached terms.

No model, no file, no reduction over the batch: that belongs to the caller. d below is C*H*W, the size of one latent.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from selfimprove.config import BetaConvention, Link

# (reduction of |.|^2 over C*H*W, factor before beta): logit = -factor * beta * bracket
CONVENTIONS: dict[BetaConvention, tuple[str, float]] = {
    "diffusion-dpo": ("mean", 0.5),  # released Diffusion-DPO code and its descendants; where beta 2000..5000 belongs
    "diffusers": ("mean", 1.0),
    "summed-half": ("sum", 0.5),
    "paper": ("sum", 1.0),  # SPIN-Diffusion's formulas: a squared norm, no factor
}


def convert_beta(beta: float, source: BetaConvention, target: BetaConvention, dimensions: int) -> float:
    """The beta that gives, in convention `target`, the logit that `beta` gives in `source`; `dimensions` is C*H*W."""

    def scale(name: BetaConvention) -> float:  # logit per unit of beta and of mean squared error
        reduction, factor = CONVENTIONS[name]
        return factor * (dimensions if reduction == "sum" else 1)

    return beta * scale(source) / scale(target)


def link(name: Link, x: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """l(x): decreasing and convex with l'(0) < 0 (SPIN-Diffusion, Assumption 5.1)."""
    match name:
        case "logistic":
            return F.softplus(-x)
        case "hinge":
            return F.relu(1 - x)
        case "correlation":
            return 1 - x
    raise ValueError(f"link={name!r} is not known; choose logistic, hinge or correlation")


def link_slope(name: Link, x: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """l'(x), never positive; at the hinge's corner, 0."""
    match name:
        case "logistic":
            return -torch.sigmoid(-x)
        case "hinge":
            return -(x < 1).to(x.dtype)
        case "correlation":
            return -torch.ones_like(x)
    raise ValueError(f"link={name!r} is not known; choose logistic, hinge or correlation")


def squared_error(prediction: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Squared error of each example in float32, the mean over C*H*W."""
    return (prediction.float() - target.float()).pow(2).mean((1, 2, 3))


class DenoisingTerms(NamedTuple):
    """Per example. `loss` carries the gradient; `player_real` is the same number, detached."""

    loss: Float[Tensor, " b"]
    player_real: Float[Tensor, " b"]


def denoising(player_real: Float[Tensor, " b"]) -> DenoisingTerms:
    """Denoising score matching, SPIN-Diffusion eq. (3.3) with gamma_t = 1: the SFT baseline."""
    return DenoisingTerms(player_real, player_real.detach())


class SpinTerms(NamedTuple):
    """Per example. `loss` carries the gradient, the others are detached.

    margin: the argument of the link, how much more the player improved on real images than on generated ones;
    implicit_accuracy: whether the margin is positive; reweighting: -beta * l'(margin), the weight of the example's gradient
    (eq. 5.1, in the convention's units); the four errors: mean squared, by side.
    """

    loss: Float[Tensor, " b"]
    margin: Float[Tensor, " b"]
    implicit_accuracy: Bool[Tensor, " b"]
    reweighting: Float[Tensor, " b"]
    player_real: Float[Tensor, " b"]
    player_generated: Float[Tensor, " b"]
    opponent_real: Float[Tensor, " b"]
    opponent_generated: Float[Tensor, " b"]


def spin(
    player_real: Float[Tensor, " b"],
    player_generated: Float[Tensor, " b"],
    opponent_real: Float[Tensor, " b"],
    opponent_generated: Float[Tensor, " b"],
    beta: float,
    convention: BetaConvention,
    dimensions: int,
    link_name: Link = "logistic",
) -> SpinTerms:
    """The practical SPIN-Diffusion objective (last display of its appendix C.3), beta_t h_t^2 one constant.

    l( -beta [ |e - eps_theta(x_t)|^2 - |e - eps_k(x_t)|^2 - |e' - eps_theta(x'_t)|^2 + |e' - eps_k(x'_t)|^2 ] ), the errors
    given as means over C*H*W = `dimensions`; `convention` says how beta is to be read.
    """
    scale = convert_beta(beta, convention, "diffusers", dimensions)
    margin = -scale * ((player_real - opponent_real) - (player_generated - opponent_generated))
    detached = margin.detach()
    return SpinTerms(
        link(link_name, margin),
        detached,
        detached > 0,
        -beta * link_slope(link_name, detached),
        player_real.detach(),
        player_generated.detach(),
        opponent_real.detach(),
        opponent_generated.detach(),
    )
