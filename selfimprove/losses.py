"""Compute the objectives: pure functions that turn squared errors per example into one loss per example and named detached terms.

These functions use no model and no file. They do not reduce over the batch; the caller does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from selfimprove.config import BetaConvention, ErrorIn, TimeWeight

# per convention: the reduction of |.|^2 over C*H*W, and the factor in logit = -factor * beta * bracket
CONVENTIONS: dict[BetaConvention, tuple[str, float]] = {
    "diffusion-dpo": ("mean", 0.5),  # released Diffusion-DPO code and its descendants; betas of 2000 to 5000 are meant in this one
    "diffusers": ("mean", 1.0),
    "summed-half": ("sum", 0.5),
    "paper": ("sum", 1.0),  # SPIN-Diffusion's formulas: a squared norm, no factor
}


def convert_beta(beta: float, source: BetaConvention, target: BetaConvention, dimensions: int) -> float:
    """Return the beta that gives in convention `target` the logit that `beta` gives in `source`; `dimensions` is C*H*W."""

    def scale(name: BetaConvention) -> float:  # logit per unit of beta and of mean squared error
        reduction, factor = CONVENTIONS[name]
        return factor * (dimensions if reduction == "sum" else 1)

    return beta * scale(source) / scale(target)


@dataclass(frozen=True)
class LinkFunction:
    """A link l and its slope l', both elementwise (SPIN-Diffusion, Assumption 5.1: decreasing, convex, l'(0) < 0).

    The three properties are checked numerically, on [-20, 20]. `satisfies_assumption=False` admits a counterexample on purpose.

    Raises:
        ValueError: the link rises, is not convex, or has slope 0 at 0; names the link and, for the first two, the place.
    """

    name: str
    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    satisfies_assumption: bool = True

    def __post_init__(self) -> None:
        if not self.satisfies_assumption:
            return
        x = torch.linspace(-20, 20, 4001, dtype=torch.float64)
        y = self.value(x)
        first = torch.diff(y)
        tolerance = 1e-9 * float(y.abs().max())
        rising, concave = first > tolerance, torch.diff(first) < -tolerance
        if bool(rising.any()):
            raise ValueError(f"link={self.name!r} rises at {float(x[:-1][rising][0]):.2f}; a link must be decreasing")
        if bool(concave.any()):
            raise ValueError(f"link={self.name!r} is not convex at {float(x[1:-1][concave][0]):.2f}; a link must be convex")
        if not float(self.slope(torch.zeros(1, dtype=torch.float64))) < 0:
            raise ValueError(f"link={self.name!r} has slope 0 at 0, where every round starts: nothing would be learned")


LINKS = {  # to add a link, add a line here; `LinkFunction` checks what the theorems assume about links
    "logistic": LinkFunction("logistic", lambda x: F.softplus(-x), lambda x: -torch.sigmoid(-x)),
    "hinge": LinkFunction("hinge", lambda x: F.relu(1 - x), lambda x: -(x < 1).to(x.dtype)),  # slope 0 at the corner
    "correlation": LinkFunction("correlation", lambda x: 1 - x, lambda x: -torch.ones_like(x)),
}


def get_link(link: str | LinkFunction) -> LinkFunction:
    """Return the link of that name; return a `LinkFunction` as given.

    Raises:
        ValueError: no link has that name.
    """
    if isinstance(link, LinkFunction):
        return link
    if link not in LINKS:
        raise ValueError(f"link={link!r} is not known; choose one of {list(LINKS)}, or give a LinkFunction")
    return LINKS[link]


def squared_error(prediction: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Return the squared error of each example, the mean over C*H*W, in float32, or in float64 if an input is float64 (derivations)."""
    dtype = torch.promote_types(torch.float32, torch.promote_types(prediction.dtype, target.dtype))
    return (prediction.to(dtype) - target.to(dtype)).pow(2).mean((1, 2, 3))


class DenoisingTerms(NamedTuple):
    """Terms per example. `loss` carries the gradient; `player_real` is the same number, detached."""

    loss: Float[Tensor, " b"]
    player_real: Float[Tensor, " b"]


def denoising(player_real: Float[Tensor, " b"]) -> DenoisingTerms:
    """Return the loss of denoising score matching, SPIN-Diffusion eq. (3.3) with gamma_t = 1: the SFT baseline."""
    return DenoisingTerms(player_real, player_real.detach())


class WeightedTerms(NamedTuple):
    """Terms per example. `loss` carries the gradient; `player_real` (the plain error in eps) and `weight` are detached."""

    loss: Float[Tensor, " b"]
    player_real: Float[Tensor, " b"]
    weight: Float[Tensor, " b"]


def weighted_denoising(
    player_real: Float[Tensor, " b"],
    weight: Float[Tensor, " b"],
    alpha: Float[Tensor, " b"],
    time_weight: TimeWeight = "snr",
    variance: Float[Tensor, " b"] | None = None,
) -> WeightedTerms:
    """Return the loss of RSIDiff eq. (6), `w_s lambda_t |x0_hat - x_0|^2`, from errors in eps.

    `alpha` is a_t^2 of each example, the papers' cumulative a_t; `variance` is b_t^2, or 1 - alpha if it is not given.
    `x0_hat - x_0 = -(b / a) (eps_hat - eps)`, so `|x0_hat - x_0|^2 = (b^2 / a^2) |eps_hat - eps|^2`. The paper leaves lambda_t open.
    "snr", lambda_t = a^2 / b^2, gives the plain error in eps. "one" keeps the factor b^2 / a^2, which is 214 at the noisiest step of Stable
    Diffusion, and is what common trainers of Stable Diffusion 3 minimise. "inverse-variance", lambda_t = 1 / b^2, gives the plain error of
    the velocity on a flow (plain flow matching), and of v on a diffusion.

    Example by hand, a = 0.2, error in eps 3, weight 0.5: the error in x0 is 4 * 3, so the loss is 6; with lambda_t = SNR = 1/4 it is 1.5:

    >>> error, half, alpha = torch.tensor([3.0]), torch.tensor([0.5]), torch.tensor([0.2])
    >>> [round(float(weighted_denoising(error, half, alpha, name).loss), 4) for name in ("one", "snr")]
    [6.0, 1.5]
    """
    variance = 1 - alpha if variance is None else variance
    factor = {
        "snr": lambda: torch.ones_like(alpha),
        "one": lambda: variance / alpha,
        "inverse-variance": lambda: 1 / alpha,
    }[time_weight]().to(player_real.dtype)
    return WeightedTerms(weight * factor * player_real, player_real.detach(), weight.detach())


def min_snr_weight(alpha: Float[Tensor, " b"], gamma: float, error_in: ErrorIn = "epsilon") -> Float[Tensor, " b"]:
    """Return the min-SNR weight of each example's time step (Hang et al. 2023, arXiv 2303.09556), for errors in eps or in v.

    The paper weighs the squared error in x0 by min(SNR, gamma) with SNR = a / (1 - a); `alpha` is the cumulative a_t. The squared error in
    x0 is the one in eps over SNR, and the one in v over SNR + 1. So the weight is min(SNR, gamma) / SNR for an error in eps, and
    min(SNR, gamma) / (SNR + 1) for one in v. What the network predicts makes no difference: `error_in` says which error is weighed.

    Example by hand, a = 0.9 and 0.2, so SNR = 9 and 1/4, with gamma 5:

    >>> alpha = torch.tensor([0.9, 0.2])
    >>> [[round(float(w), 4) for w in min_snr_weight(alpha, 5.0, name)] for name in ("epsilon", "v")]
    [[0.5556, 1.0], [0.5, 0.2]]
    """
    least = torch.minimum(alpha, gamma * (1 - alpha))  # (1 - a) min(SNR, gamma); finite at a = 0 and a = 1
    return torch.where(alpha > gamma * (1 - alpha), least / alpha, 1.0) if error_in == "epsilon" else least


class SpinTerms(NamedTuple):
    """Terms per example. `loss` carries the gradient; the other terms are detached.

    `margin`: the argument of the link, that is, how much more the player improved on the real image than on the generated one.
    `implicit_accuracy`: whether the margin is positive. `reweighting`: -beta * l'(margin), the weight of the example's gradient (eq. 5.1,
    in the convention's units). The four errors are mean squared errors of player and opponent, on the real and the generated side.
    """

    loss: Float[Tensor, " b"]
    margin: Float[Tensor, " b"]
    implicit_accuracy: Bool[Tensor, " b"]
    reweighting: Float[Tensor, " b"]
    player_real: Float[Tensor, " b"]
    player_generated: Float[Tensor, " b"]
    opponent_real: Float[Tensor, " b"]
    opponent_generated: Float[Tensor, " b"]


class Errors(NamedTuple):
    """Squared errors of player and opponent on the real and the generated side, in the order of `spin`'s arguments."""

    player_real: Tensor
    player_generated: Tensor
    opponent_real: Tensor
    opponent_generated: Tensor


def spin(
    player_real: Float[Tensor, " b"],
    player_generated: Float[Tensor, " b"],
    opponent_real: Float[Tensor, " b"],
    opponent_generated: Float[Tensor, " b"],
    beta: float | Float[Tensor, " b"],
    convention: BetaConvention,
    dimensions: int,
    link: str | LinkFunction = "logistic",
) -> SpinTerms:
    """Return the SPIN-Diffusion objective at one time step per example: l of -beta times the bracket of four squared errors.

    `l( -beta [ |e - eps_theta(x_t)|^2 - |e - eps_k(x_t)|^2 - |e' - eps_theta(x'_t)|^2 + |e' - eps_k(x'_t)|^2 ] )`.
    The errors are means over C*H*W = `dimensions`, and `convention` says how beta is to be read. `beta` is one number (the practical
    objective, last display of appendix C.3, with beta_t h_t^2 constant) or one number per example (beta_t h_t^2 at each example's t).
    The same function computes eq. (4.9) if the errors are those of the means mu, and eq. (C.5) if e' is eps_k(x'_t), which makes
    `opponent_generated` 0.

    Example by hand, two dimensions, convention "paper": e - eps_theta = (1, 1), e - eps_k = (2, 0), e' - eps_theta = (2, 2) and
    e' - eps_k = (0, 2) have mean squares 1, 2, 4 and 2; with beta 0.5 the margin is -0.5 * 2 * ((1 - 2) - (4 - 2)) = 3:

    >>> terms = spin(*torch.tensor([[1.0], [4.0], [2.0], [2.0]]), beta=0.5, convention="paper", dimensions=2)
    >>> float(terms.margin), round(float(terms.loss), 4), round(float(terms.reweighting), 4)  # log(1 + e^-3), 0.5 / (1 + e^3)
    (3.0, 0.0486, 0.0237)
    """
    one_step = Errors(player_real[None], player_generated[None], opponent_real[None], opponent_generated[None])
    return _linked(one_step, beta, convention, dimensions, link)


def spin_exact(
    player_real: Float[Tensor, "steps b"],
    player_generated: Float[Tensor, "steps b"],
    opponent_real: Float[Tensor, "steps b"],
    opponent_generated: Float[Tensor, "steps b"],
    beta: float | Float[Tensor, " b"] | Float[Tensor, "steps #b"],  # noqa: F821 (an axis, not a name)
    convention: BetaConvention,
    dimensions: int,
    link: str | LinkFunction = "logistic",
) -> SpinTerms:
    """Return the exact SPIN-Diffusion objective, eq. (4.8): the brackets of all T steps inside one link, each with weight beta_t / T.

    Errors are means over C*H*W = `dimensions`; row i holds the errors of step i. `beta` is one number, one number per example, or one per
    step and example, (T, B) or (T, 1). The terms are those of `spin`; errors and reweighting are means over the steps.

    Example by hand: two steps with brackets -1 and -3, and beta 1, give the margin (1 + 3) / 2 = 2 and the loss log(1 + e^-2):

    >>> real, zero = torch.tensor([[1.0], [0.0]]), torch.zeros(2, 1)
    >>> terms = spin_exact(real, torch.tensor([[2.0], [3.0]]), zero, zero, 1.0, "diffusers", 4)
    >>> float(terms.margin), round(float(terms.loss), 4)
    (2.0, 0.1269)
    """
    return _linked(Errors(player_real, player_generated, opponent_real, opponent_generated), beta, convention, dimensions, link)


def _linked(errors: Errors, beta: float | Tensor, convention: BetaConvention, dimensions: int, link: str | LinkFunction) -> SpinTerms:
    """Return the link of the bracket's mean over the steps, the rows of `errors`; with one step this is the practical objective."""
    check_errors(**errors._asdict())
    player_real, player_generated, opponent_real, opponent_generated = errors
    function = get_link(link)
    betas = torch.as_tensor(beta, dtype=player_real.dtype, device=player_real.device).expand(player_real.shape)
    bracket = (player_real - opponent_real) - (player_generated - opponent_generated)
    margin = -convert_beta(1.0, convention, "diffusers", dimensions) * (betas * bracket).mean(0)
    detached = margin.detach()
    return SpinTerms(
        function.value(margin),
        detached,
        detached > 0,
        -betas.mean(0) * function.slope(detached),
        player_real.detach().mean(0),
        player_generated.detach().mean(0),
        opponent_real.detach().mean(0),
        opponent_generated.detach().mean(0),
    )


def check_errors(player_generated: Tensor, **others: Tensor) -> None:
    """Raise if the errors differ in shape: broadcasting would turn them into numbers that look like a loss.

    Raises:
        ValueError: two shapes differ; names the argument and both shapes.
    """
    for name, value in others.items():
        if value.shape != player_generated.shape:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}, player_generated {tuple(player_generated.shape)}; "
                "give one error an example on each side, from player and opponent"
            )
