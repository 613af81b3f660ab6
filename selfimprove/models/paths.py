"""Read the Gaussian path of a model from its diffusers scheduler: variance-preserving diffusion, or flow matching."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from selfimprove.schedule import SMALLEST, Schedule, Time

# of a scheduler's configuration, what is the noise schedule
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type", "rescale_betas_zero_snr")


class DiffusionSchedule(Schedule):
    """The path of a diffusion model, whose times are the whole numbers 0..T-1: a_t^2 is `alphas_cumprod[t]`, and b_t^2 is 1 - a_t^2.

    Args:
        scheduler: any diffusers scheduler with `alphas_cumprod` whose `prediction_type` is epsilon or v_prediction.
        device: where `add_noise` computes.
        dtype: float32, or float64 for derivations.

    Raises:
        ValueError: there is no step; the alphas do not decrease, or lie outside (0, 1]; alpha_T is 0 without v_prediction; or the
            prediction type is another one.
    """

    def __init__(self, scheduler: Any, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        prediction_type = scheduler.config.get("prediction_type", "epsilon")
        if prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type={prediction_type!r} is not known; give a model of epsilon or v_prediction")
        super().__init__(scheduler, device, dtype, prediction_type)
        self._alphas: list[float] = scheduler.alphas_cumprod.double().tolist()
        _check_alphas(self._alphas, self.prediction_type)
        self.alphas_cumprod = scheduler.alphas_cumprod.to(device, dtype)
        # alpha at t = -1: 1, or alphas_cumprod[0] in Stable Diffusion's folders
        self.final_alpha = 1.0 if scheduler.config.get("set_alpha_to_one", True) else self._alphas[0]

    def __len__(self) -> int:
        return len(self._alphas)

    def alpha(self, t: int) -> float:
        """Return alpha_t in double precision; t = -1 is the image itself.

        Raises:
            ValueError: t is out of range.
        """
        if not -1 <= t < len(self):
            raise ValueError(f"t={t} lies outside the schedule; give -1 (the image) to {len(self) - 1}")
        return self._alphas[t] if t >= 0 else self.final_alpha

    def power(self, t: Time) -> tuple[float, float]:
        """Return a_t^2 and b_t^2; t = -1 is the image itself."""
        alpha = self.alpha(int(t))
        return alpha, 1 - alpha

    def powers(self, t: Int[Tensor, " b"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Return a_t^2 and b_t^2."""
        alpha = self.alphas_cumprod[t]
        return alpha, 1 - alpha

    def time(self, share: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Return the whole number t that covers each share of the way to noise."""
        return (share * len(self)).long().clamp(0, len(self) - 1)

    def log_snr_slope(self, t: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return T times the difference of log(a^2 / b^2) between t and the next noisier time (at the last t: the one before it)."""
        log_snr = torch.special.logit(self.alphas_cumprod.double())
        falls = (log_snr[:-1] - log_snr[1:]) * len(self)
        return torch.cat([falls, falls[-1:]])[t].to(self.dtype)

    def fingerprint(self) -> str:
        """Return a hash of the alphas and the prediction type."""
        return self._hashed(self._alphas)

    def solver_config(self) -> dict[str, Any]:
        """Return the model's own noise schedule, and nothing else of its configuration, with time steps that begin at the last one.

        Stable Diffusion's folders ask for "leading" steps, which start below the last step, where x_t must already hold some image; a
        solver would start there from pure noise.
        """
        own = {name: self.scheduler.config[name] for name in NOISE if name in self.scheduler.config}
        return own | {"timestep_spacing": "trailing"}

    def timesteps(self, steps: int | None = None) -> list[tuple[int, int]]:
        """Return pairs (t, t of the next state) from noise to image; the last pair ends at -1, the image.

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


class FlowSchedule(Schedule):
    """The path of a flow-matching model: a = 1 - sigma, b = sigma, and the network is given t = 1000 sigma.

    Args:
        scheduler: diffusers' FlowMatchEulerDiscreteScheduler, whose shift holds for sampling; training times are drawn by `Settings`.
        device: where `add_noise` computes.
        dtype: float32, or float64 for derivations.
        image_tokens: tokens of one image in the network, which a scheduler with dynamic shifting needs; 0 otherwise.
        even_sigmas: whether sampling asks the scheduler for the sigmas 1, 1 - 1/n, ..., 1/n, which it then shifts.

    Raises:
        ValueError: the scheduler shifts dynamically and `image_tokens` is 0.
    """

    def __init__(
        self, scheduler: Any, device: torch.device, dtype: torch.dtype = torch.float32, image_tokens: int = 0, even_sigmas: bool = False
    ) -> None:
        super().__init__(scheduler, device, dtype, "flow_prediction")
        self.scale, self.even_sigmas = scheduler.config.num_train_timesteps, even_sigmas
        self._options: dict[str, float] = {}
        if scheduler.config.get("use_dynamic_shifting", False):
            if not image_tokens:
                raise ValueError("the scheduler shifts by image size (use_dynamic_shifting), and image_tokens=0; give an image's tokens")
            c = scheduler.config
            slope = (c.max_shift - c.base_shift) / (c.max_image_seq_len - c.base_image_seq_len)
            self._options["mu"] = c.base_shift + slope * (image_tokens - c.base_image_seq_len)

    def __len__(self) -> int:
        return self.scale

    def power(self, t: Time) -> tuple[float, float]:
        """Return a_t^2 and b_t^2; t = 0 is the image itself."""
        if not 0 <= t <= self.scale:
            raise ValueError(f"t={t} lies outside the flow; give 0 (the image) to {self.scale} (noise)")
        sigma = t / self.scale
        return (1 - sigma) ** 2, sigma**2

    def powers(self, t: Shaped[Tensor, " b"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """Return a_t^2 and b_t^2."""
        sigma = t.to(self.device, self.dtype) / self.scale
        return (1 - sigma) ** 2, sigma**2

    def time(self, share: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return 1000 sigma, in float32, with sigma the share of the way to noise, from `SMALLEST` to just below 1."""
        return (share.clamp(SMALLEST, 1 - 1e-6) * self.scale).float()

    def log_snr_slope(self, t: Shaped[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return 2 / (s (1 - s)), with s at most 1 - 1e-6."""
        sigma = (t.to(self.device, torch.float64) / self.scale).clamp(1e-6, 1 - 1e-6)
        return (2 / (sigma * (1 - sigma))).to(self.dtype)

    def fingerprint(self) -> str:
        """Return a hash of the kind of path and the scale of time."""
        return self._hashed("flow", self.scale)

    def solver_config(self) -> dict[str, Any]:
        """Return what makes diffusers' solvers follow this flow, with its shift of sampling times."""
        shift = torch.tensor(self._options["mu"]).exp().item() if self._options else self.scheduler.config.shift
        return {"num_train_timesteps": self.scale, "prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}

    def timesteps(self, steps: int | None = None) -> list[tuple[float, float]]:
        """Return pairs (t, t of the next state) of the Euler sampler; the last pair ends at 0."""
        steps = len(self) if steps is None else steps
        if not 0 < steps <= len(self):
            raise ValueError(f"steps={steps} must lie between 1 and the schedule's {len(self)}; change the number of sampler steps")
        sigmas = np.linspace(1, 1 / steps, steps) if self.even_sigmas else None
        self.scheduler.set_timesteps(steps, sigmas=sigmas, **self._options)
        times = [sigma * self.scale for sigma in self.scheduler.sigmas.double().tolist()]
        return list(pairwise(times))


def path_of(
    scheduler: Any, device: torch.device, dtype: torch.dtype = torch.float32, image_tokens: int = 0, even_sigmas: bool = False
) -> Schedule:
    """Return the path of a diffusers scheduler: a flow if it has sigmas and no betas.

    Raises:
        ValueError: see the two classes.
    """
    if "beta_schedule" in scheduler.config or hasattr(scheduler, "alphas_cumprod"):
        return DiffusionSchedule(scheduler, device, dtype)
    return FlowSchedule(scheduler, device, dtype, image_tokens, even_sigmas)


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
