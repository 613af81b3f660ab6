"""The noise schedule: forward noising and the reverse transition, from a diffusers scheduler's `alphas_cumprod`.

alpha_t is the cumulative product: the papers' alpha_t is `alphas_cumprod[t-1]`; here t counts from 0 as in diffusers.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Transition(NamedTuple):
    """Mean (B, C, H, W) and standard deviation (a number) of p_theta(x_{t-1} | x_t, c)."""

    mean: Float[Tensor, "b c h w"]
    std: float


class Schedule:
    """alpha_t on a device, the sampler's time steps, and the transitions between them."""

    def __init__(self, scheduler: Any, device: torch.device) -> None:
        self.scheduler = scheduler
        self.alphas_cumprod = scheduler.alphas_cumprod.to(device, torch.float32)
        # alpha before the first step: 1, or alphas_cumprod[0] in Stable Diffusion's folders
        self.final_alpha = 1.0 if scheduler.config.set_alpha_to_one else float(scheduler.alphas_cumprod[0])

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def add_noise(self, clean: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Int[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """x_t = sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) eps (SPIN-Diffusion, below eq. 3.1)."""
        alpha = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise

    def timesteps(self, steps: int) -> list[tuple[int, int]]:
        """(t, t of the next state) from noise to image; the last one ends before step 0.

        Raises:
            ValueError: more sampler steps than the schedule has.
        """
        if steps > len(self):
            raise ValueError(f"steps={steps} is more than the schedule's {len(self)}; use fewer sampler steps")
        self.scheduler.set_timesteps(steps)
        stride = len(self) // steps
        return [(int(t), int(t) - stride) for t in self.scheduler.timesteps]

    def reverse(self, noisy: Float[Tensor, "b c h w"], eps: Float[Tensor, "b c h w"], t: int, t_next: int, eta: float = 0.0) -> Transition:
        """p_theta(x_{t-1} | x_t, c) of SPIN-Diffusion eq. (3.2): DDIM at eta 0, DDPM at eta 1."""
        alpha = float(self.alphas_cumprod[t])
        alpha_next = float(self.alphas_cumprod[t_next]) if t_next >= 0 else self.final_alpha
        sigma = eta * ((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)) ** 0.5
        clean = (noisy - (1 - alpha) ** 0.5 * eps) / alpha**0.5
        mean = alpha_next**0.5 * clean + max(1 - alpha_next - sigma**2, 0.0) ** 0.5 * eps
        return Transition(mean, sigma)
