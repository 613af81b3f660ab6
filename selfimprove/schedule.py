"""Compute forward noising, its posterior and the reverse transition, from the `alphas_cumprod` of a diffusers scheduler.

alpha_t is the cumulative product. Here t counts from 0, as in diffusers, so the papers' alpha_t is `alphas_cumprod[t-1]`.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selfimprove.config import ErrorIn


class Transition(NamedTuple):
    """Mean (B, C, H, W) and standard deviation (a number) of a Gaussian over `x_{t-1}`."""

    mean: Float[Tensor, "b c h w"]
    std: float


@dataclass(frozen=True)
class Step:
    """One transition from time t to t_next (-1 is the image itself), with its constants in double precision.

    Raises:
        ValueError: sigma is negative, or sigma^2 is greater than 1 - alpha_next, which makes the root in eq. (3.1) imaginary.
    """

    t: int
    t_next: int
    alpha: float
    alpha_next: float
    sigma: float = 0.0

    def __post_init__(self) -> None:
        if self.sigma < 0 or self.sigma**2 > 1 - self.alpha_next + 1e-12:
            raise ValueError(
                f"sigma={self.sigma!r} at t={self.t} must lie between 0 and sqrt(1 - alpha_(t-1)) = {(1 - self.alpha_next) ** 0.5:.6g}; "
                "lower sigma or eta"
            )

    @property
    def direction(self) -> float:
        """Return `sqrt(1 - alpha_{t-1} - sigma_t^2)`, the factor of the noise direction in eqs. (3.1) and (3.2)."""
        return math.sqrt(max(1 - self.alpha_next - self.sigma**2, 0.0))

    @property
    def h(self) -> float:
        """Return h_t of SPIN-Diffusion's appendix C.2, where `|x_{t-1} - mu_theta|^2 = h_t^2 |eps_t - eps_theta + (sigma_t/h_t) e|^2`.

        h_t is never positive. It is 0 only if the step removes no noise, that is, if t_next has the same alpha as t.

        Raises:
            ValueError: alpha_t is 0, where the error cannot be written in terms of the noise.
        """
        if self.alpha == 0:
            raise ValueError(f"alpha=0 at t={self.t}: x_t holds no image there and h_t is infinite; use the v-prediction form")
        return self.direction - math.sqrt(self.alpha_next / self.alpha * (1 - self.alpha))


def ddpm_sigma(alpha: float, alpha_next: float) -> float:
    """Return sigma_t of DDPM, the value to which eta = 1 corresponds (SPIN-Diffusion, below eq. 3.1)."""
    if alpha == 1:  # no noise to remove
        return 0.0
    return math.sqrt((1 - alpha_next) / (1 - alpha) * max(1 - alpha / alpha_next, 0.0))


class Schedule:
    """The noise schedule of a model: alpha_t on a device, the sampler's time steps, and the transitions between them.

    Args:
        scheduler: any diffusers scheduler with `alphas_cumprod` whose `prediction_type` is epsilon or v_prediction.
        device: where `add_noise` computes.
        dtype: float32, or float64 for derivations.

    Raises:
        ValueError: there is no step; the alphas do not decrease, or lie outside (0, 1]; alpha_T is 0 without v_prediction; or the
            prediction type is another one.
    """

    def __init__(self, scheduler: Any, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.scheduler, self.device, self.dtype = scheduler, device, dtype
        self.prediction_type: str = scheduler.config.get("prediction_type", "epsilon")
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type={self.prediction_type!r} is not known; give a model of epsilon or v_prediction")
        self._alphas: list[float] = scheduler.alphas_cumprod.double().tolist()
        _check_alphas(self._alphas, self.prediction_type)
        self.alphas_cumprod = scheduler.alphas_cumprod.to(device, dtype)
        # alpha at t = -1: 1, or alphas_cumprod[0] in Stable Diffusion's folders
        self.final_alpha = 1.0 if scheduler.config.get("set_alpha_to_one", True) else self._alphas[0]

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def alpha(self, t: int) -> float:
        """Return alpha_t in double precision; t = -1 is the image itself.

        Raises:
            ValueError: t is out of range.
        """
        if not -1 <= t < len(self):
            raise ValueError(f"t={t} lies outside the schedule; give -1 (the image) to {len(self) - 1}")
        return self._alphas[t] if t >= 0 else self.final_alpha

    def add_noise(self, clean: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Int[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """Return x_t = sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) eps (SPIN-Diffusion, below eq. 3.1)."""
        alpha = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise

    def target(self, clean: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Int[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """Return what the model should predict from x_t: eps, or v = sqrt(alpha_t) eps - sqrt(1 - alpha_t) x_0 (Salimans and Ho 2022)."""
        if self.prediction_type == "epsilon":
            return noise
        alpha = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean

    def error_scale(self, alpha: Float[Tensor, " b"], error_in: ErrorIn) -> Float[Tensor, " b"]:
        """Return the factor from a squared error of the model's output to one in `error_in`: `|eps error|^2 = alpha_t |v error|^2`."""
        own = "v" if self.prediction_type == "v_prediction" else "epsilon"
        if own == error_in:
            return torch.ones_like(alpha)
        return alpha if own == "v" else 1 / alpha

    def fingerprint(self) -> str:
        """Return 12 hexadecimal digits of a hash of what training depends on: the alphas and the prediction type."""
        return hashlib.sha256(json.dumps([self.prediction_type, self._alphas]).encode()).hexdigest()[:12]

    def timesteps(self, steps: int | None = None) -> list[tuple[int, int]]:
        """Return pairs (t, t of the next state) from noise to image; the last pair ends at -1, the image. None: every step of the schedule.

        Each pair ends where the next one begins. diffusers' DDIM ends each at t - T // steps instead. This is the same for "leading" steps,
        and for "trailing" ones if `steps` divides T; its other steps leave gaps or overlap.

        Raises:
            ValueError: `steps` is below 1, or more than the schedule has, or the list of time steps does not begin with noise.
        """
        if steps is None:
            return [(t, t - 1) for t in range(len(self) - 1, -1, -1)]
        if not 0 < steps <= len(self):
            raise ValueError(f"steps={steps} must lie between 1 and the schedule's {len(self)}; change the number of sampler steps")
        self.scheduler.set_timesteps(steps)
        times = [int(t) for t in self.scheduler.timesteps]
        if times[0] == 0 and len(self) > 1:
            raise ValueError(f"steps={steps} with 'linspace' begins at the image, not at noise; give at least 2 steps")
        return list(zip(times, [*times[1:], -1], strict=True))

    def step(self, t: int, t_next: int, eta: float = 0.0) -> Step:
        """Return the transition t -> t_next with sigma_t = eta times that of DDPM: DDIM at 0, DDPM at 1 (SPIN-Diffusion, below eq. 3.1).

        Raises:
            ValueError: t or t_next is out of range, or t_next does not lie before t.
        """
        if t_next >= t:
            raise ValueError(f"t_next={t_next} must lie before t={t}; sampling goes from noise to image")
        alpha, alpha_next = self.alpha(t), self.alpha(t_next)
        return Step(t, t_next, alpha, alpha_next, eta * ddpm_sigma(alpha, alpha_next))

    def steps(self, count: int | None = None, eta: float = 0.0) -> tuple[Step, ...]:
        """Return the transitions, from noise to image, of a sampler with `count` steps; None means the whole schedule."""
        return tuple(self.step(t, t_next, eta) for t, t_next in self.timesteps(count))

    def clean_and_noise(
        self, noisy: Float[Tensor, "b c h w"], output: Float[Tensor, "b c h w"], alpha: float
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Return x_0 and eps of x_t according to the model's output, which is eps, or v = sqrt(alpha) eps - sqrt(1 - alpha) x_0."""
        if self.prediction_type == "v_prediction":
            return alpha**0.5 * noisy - (1 - alpha) ** 0.5 * output, alpha**0.5 * output + (1 - alpha) ** 0.5 * noisy
        return (noisy - (1 - alpha) ** 0.5 * output) / alpha**0.5, output

    def reverse(self, noisy: Float[Tensor, "b c h w"], output: Float[Tensor, "b c h w"], step: Step) -> Transition:
        """Return `p_theta(x_{t-1} | x_t, c)` of SPIN-Diffusion eq. (3.2), from the model's output at (x_t, t)."""
        clean, eps = self.clean_and_noise(noisy, output, step.alpha)
        return Transition(step.alpha_next**0.5 * clean + step.direction * eps, step.sigma)

    def posterior(self, noisy: Float[Tensor, "b c h w"], clean: Float[Tensor, "b c h w"], step: Step) -> Transition:
        """Return `q(x_{t-1} | x_t, x_0)` of SPIN-Diffusion eq. (3.1)."""
        eps = (noisy - step.alpha**0.5 * clean) / (1 - step.alpha) ** 0.5
        return Transition(step.alpha_next**0.5 * clean + step.direction * eps, step.sigma)


def _check_alphas(alphas: list[float], prediction_type: str) -> None:
    if not alphas:
        raise ValueError("alphas_cumprod is empty (T=0); give a schedule of at least one step")
    for t, (alpha, before) in enumerate(zip(alphas, [1.0, *alphas[:-1]], strict=True)):
        if not 0 <= alpha <= 1:  # also catches NaN
            raise ValueError(f"alphas_cumprod[{t}]={alpha!r} must lie in (0, 1]; check the scheduler's betas")
        if alpha == 0 and (t < len(alphas) - 1 or prediction_type != "v_prediction"):
            raise ValueError(f"alphas_cumprod[{t}]=0: zero terminal SNR needs v_prediction, and is allowed at the last step alone")
        if t and alpha >= before:
            raise ValueError(f"alphas_cumprod[{t}]={alpha!r} is not below the value before it, {before!r}; alphas must decrease")
