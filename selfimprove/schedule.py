"""Compute forward noising, its posterior and the reverse transition on a Gaussian path, x_t = a_t x_0 + b_t eps.

Two kinds of path are known. Diffusion models preserve the variance: a_t^2 + b_t^2 = 1, with the `alphas_cumprod` of a diffusers scheduler
as a_t^2, and t counts from 0, so the papers' alpha_t is `alphas_cumprod[t-1]`. Flow matching interpolates: a = 1 - sigma and b = sigma,
and t = 1000 sigma, which is what its networks are given (Lipman et al. 2023; Esser et al. 2024). Everything else is the same for both.
"""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from selfimprove.config import ErrorIn, Settings

OWN_ERROR = {"epsilon": "epsilon", "v_prediction": "v", "flow_prediction": "velocity"}  # what a network's own squared error is in
Time = int | float  # whole numbers on a diffusion
SMALLEST = 1e-3  # sigma nearest to the image at which a flow is trained: the last of 1,000 levels


class Transition(NamedTuple):
    """Mean (B, C, H, W) and standard deviation (a number) of a Gaussian over `x_{t-1}`."""

    mean: Float[Tensor, "b c h w"]
    std: float


@dataclass(frozen=True)
class Step:
    """One transition from time t to t_next, with its constants in double precision.

    `alpha` is a_t^2 and `variance` is b_t^2; a variance that is not given is 1 - alpha, as for diffusion models.

    Raises:
        ValueError: sigma is negative, or sigma^2 is greater than the variance at t_next, which makes the root in eq. (3.1) imaginary.
    """

    t: Time
    t_next: Time
    alpha: float
    alpha_next: float
    sigma: float = 0.0
    variance: float = -1.0
    variance_next: float = -1.0

    def __post_init__(self) -> None:
        for name, alpha in (("variance", self.alpha), ("variance_next", self.alpha_next)):
            if getattr(self, name) < 0:
                object.__setattr__(self, name, 1 - alpha)
        if self.sigma < 0 or self.sigma**2 > self.variance_next + 1e-12:
            raise ValueError(
                f"sigma={self.sigma!r} at t={self.t} must lie between 0 and sqrt(1 - alpha_(t-1)) = {self.variance_next**0.5:.6g}; "
                "lower sigma or eta"
            )

    @property
    def direction(self) -> float:
        """Return `sqrt(b_{t-1}^2 - sigma_t^2)`, the factor of the noise direction in eqs. (3.1) and (3.2)."""
        return math.sqrt(max(self.variance_next - self.sigma**2, 0.0))

    @property
    def h(self) -> float:
        """Return h_t of SPIN-Diffusion's appendix C.2, where `|x_{t-1} - mu_theta|^2 = h_t^2 |eps_t - eps_theta + (sigma_t/h_t) e|^2`.

        h_t is never positive. It is 0 only if the step removes no noise, that is, if t_next has the same noise as t.

        Raises:
            ValueError: a_t is 0, where the error cannot be written in terms of the noise.
        """
        if self.alpha == 0:
            raise ValueError(f"alpha=0 at t={self.t}: x_t holds no image there and h_t is infinite; use the v-prediction form")
        return self.direction - math.sqrt(self.alpha_next / self.alpha * self.variance)


def ddpm_sigma(alpha: float, alpha_next: float, variance: float | None = None, variance_next: float | None = None) -> float:
    """Return sigma_t of DDPM, the value to which eta = 1 corresponds (SPIN-Diffusion, below eq. 3.1).

    sigma_t^2 is the variance of x_{t-1} given x_t and x_0 on the Markov path with these marginals.
    """
    variance = 1 - alpha if variance is None else variance
    variance_next = 1 - alpha_next if variance_next is None else variance_next
    if variance == 0:  # no noise to remove
        return 0.0
    added = (alpha + variance) - alpha / alpha_next * (alpha_next + variance_next)  # b_t^2 - (a_t / a_{t-1})^2 b_{t-1}^2
    return math.sqrt(variance_next / variance * max(added, 0.0))


def shifted(share: Tensor, shift: float) -> Tensor:
    """Return times in [0, 1], 1 being noise, moved towards noise: k s / (1 + (k - 1) s) (Esser et al. 2024, eq. 23; SD3: k = 3)."""
    return shift * share / (1 + (shift - 1) * share)


def density(uniform: Float[Tensor, " b"], settings: Settings) -> Float[Tensor, " b"]:
    """Return times in [0, 1], 1 being noise, of the density that `settings` name, from uniform draws; see `Settings.time_density`.

    "logit-normal": the logit is normal with `time_mean` and `time_std`. "mode": `time_std` is the scale of Esser et al. 2024, eq. 20.
    """
    if settings.time_density == "logit-normal":
        logit = settings.time_mean + settings.time_std * torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12))
        uniform = torch.sigmoid(logit)
    elif settings.time_density == "mode":
        uniform = 1 - uniform - settings.time_std * (torch.cos(math.pi / 2 * uniform) ** 2 - 1 + uniform)
    return uniform if settings.time_shift == 1 else shifted(uniform, settings.time_shift)


class Schedule(ABC):
    """A Gaussian path on a device: its noise levels, the sampler's time steps, and the transitions between them.

    Args:
        scheduler: the diffusers scheduler of the model.
        device: where `add_noise` computes.
        dtype: float32, or float64 for derivations.
        prediction_type: what the network predicts: "epsilon", "v_prediction" (a eps - b x_0) or "flow_prediction" (eps - x_0).
    """

    def __init__(self, scheduler: Any, device: torch.device, dtype: torch.dtype, prediction_type: str) -> None:
        self.scheduler, self.device, self.dtype, self.prediction_type = scheduler, device, dtype, prediction_type

    @abstractmethod
    def __len__(self) -> int:
        """Return the largest number of sampler steps."""

    @abstractmethod
    def powers(self, t: Shaped[Tensor, " b"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Return a_t^2 and b_t^2 at times t, in the schedule's precision."""

    @abstractmethod
    def power(self, t: Time) -> tuple[float, float]:
        """Return a_t^2 and b_t^2 at one time in double precision.

        Raises:
            ValueError: t is out of range.
        """

    @abstractmethod
    def time(self, share: Float[Tensor, " b"]) -> Shaped[Tensor, " b"]:
        """Return the times at which networks are trained, as they are given to networks, at shares in [0, 1] of the way to noise."""

    @abstractmethod
    def timesteps(self, steps: int | None = None) -> list[tuple[Any, Any]]:
        """Return pairs (t, t of the next state) from noise to image. None: every step of the schedule.

        Raises:
            ValueError: `steps` is below 1, or more than the schedule has, or the list of time steps does not begin with noise.
        """

    @abstractmethod
    def log_snr_slope(self, t: Shaped[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return -d log(a^2 / b^2) / du, where u is the share of the way to noise."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return 12 hexadecimal digits of a hash of what training depends on: noise levels and prediction type."""

    @abstractmethod
    def solver_config(self) -> dict[str, Any]:
        """Return the configuration from which diffusers builds a multistep solver on this path."""

    def add_noise(
        self, clean: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Shaped[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """Return x_t = a_t x_0 + b_t eps (SPIN-Diffusion, below eq. 3.1)."""
        alpha, variance = (part.view(-1, 1, 1, 1) for part in self.powers(t))
        return alpha.sqrt() * clean + variance.sqrt() * noise

    def target(self, clean: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Shaped[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """Return what the model should predict from x_t: eps, v = a_t eps - b_t x_0 (Salimans and Ho 2022), or the velocity eps - x_0."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "flow_prediction":
            return noise - clean
        alpha, variance = (part.view(-1, 1, 1, 1) for part in self.powers(t))
        return alpha.sqrt() * noise - variance.sqrt() * clean

    def error_scale(self, t: Shaped[Tensor, " b"], error_in: ErrorIn) -> Float[Tensor, " b"]:
        """Return the factor from a squared error of the model's output to one in `error_in`.

        At one x_t all errors are multiples of each other: the squared error in x_0 is (b/a)^2 times that in eps, the one in v is
        ((a^2 + b^2)/a)^2 times it, and the one in the velocity is ((a + b)/a)^2 times it. "likelihood" is the weight of the bound on log p,
        half the slope of the log signal-to-noise ratio times the error in eps (Kingma et al. 2021, eq. 17), which is (1 - s)/s on a flow's
        velocity.
        """
        alpha, variance = self.powers(t)

        def in_epsilon(name: str) -> Tensor:  # |eps error|^2 per unit of the error called `name`
            return {
                "epsilon": lambda: torch.ones_like(alpha),
                "v": lambda: alpha / (alpha + variance) ** 2,
                "velocity": lambda: alpha / (alpha.sqrt() + variance.sqrt()) ** 2,
                "x0": lambda: alpha / variance,
            }[name]()

        own = OWN_ERROR[self.prediction_type]
        if error_in == own:
            return torch.ones_like(alpha)
        if error_in == "likelihood":
            return in_epsilon(own) * self.log_snr_slope(t) / 2
        return in_epsilon(own) / in_epsilon(error_in)

    def step(self, t: Time, t_next: Time, eta: float = 0.0) -> Step:
        """Return the transition t -> t_next with sigma_t = eta times that of DDPM: DDIM at 0, DDPM at 1 (SPIN-Diffusion, below eq. 3.1).

        On a flow, eta = 0 is the Euler step: a' x_0 + b' eps = x_t + (sigma' - sigma) (eps - x_0).

        Raises:
            ValueError: t or t_next is out of range, or t_next does not lie before t.
        """
        if t_next >= t:
            raise ValueError(f"t_next={t_next} must lie before t={t}; sampling goes from noise to image")
        (alpha, variance), (alpha_next, variance_next) = self.power(t), self.power(t_next)
        sigma = eta * ddpm_sigma(alpha, alpha_next, variance, variance_next)
        return Step(t, t_next, alpha, alpha_next, sigma, variance, variance_next)

    def steps(self, count: int | None = None, eta: float = 0.0) -> tuple[Step, ...]:
        """Return the transitions, from noise to image, of a sampler with `count` steps; None means the whole schedule."""
        return tuple(self.step(t, t_next, eta) for t, t_next in self.timesteps(count))

    def clean_and_noise(
        self, noisy: Float[Tensor, "b c h w"], output: Float[Tensor, "b c h w"], alpha: float, variance: float | None = None
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Return x_0 and eps of x_t according to the model's output; `alpha` is a_t^2, `variance` b_t^2 or 1 - alpha."""
        variance = 1 - alpha if variance is None else variance
        a, b = alpha**0.5, variance**0.5
        if self.prediction_type == "v_prediction":
            return (a * noisy - b * output) / (alpha + variance), (a * output + b * noisy) / (alpha + variance)
        if self.prediction_type == "flow_prediction":
            return (noisy - b * output) / (a + b), (noisy + a * output) / (a + b)
        return (noisy - b * output) / a, output

    def reverse(self, noisy: Float[Tensor, "b c h w"], output: Float[Tensor, "b c h w"], step: Step) -> Transition:
        """Return `p_theta(x_{t-1} | x_t, c)` of SPIN-Diffusion eq. (3.2), from the model's output at (x_t, t)."""
        clean, eps = self.clean_and_noise(noisy, output, step.alpha, step.variance)
        return Transition(step.alpha_next**0.5 * clean + step.direction * eps, step.sigma)

    def posterior(self, noisy: Float[Tensor, "b c h w"], clean: Float[Tensor, "b c h w"], step: Step) -> Transition:
        """Return `q(x_{t-1} | x_t, x_0)` of SPIN-Diffusion eq. (3.1)."""
        eps = (noisy - step.alpha**0.5 * clean) / step.variance**0.5
        return Transition(step.alpha_next**0.5 * clean + step.direction * eps, step.sigma)

    def _hashed(self, *levels: Any) -> str:
        return hashlib.sha256(json.dumps([self.prediction_type, *levels]).encode()).hexdigest()[:12]
