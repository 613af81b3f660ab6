"""DDIM rollouts with classifier-free guidance, every draw stateless."""

from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from selfimprove import draws
from selfimprove.models import Diffuser


@torch.inference_mode()
def rollout(
    diffuser: Diffuser,
    unet: UNet2DConditionModel,
    text: Float[Tensor, "b l d"],
    empty: Float[Tensor, "1 l d"],
    ids: Sequence[str],
    seed: int,
    stream: str,
    round_index: int,
    steps: int,
    guidance: float,
    eta: float = 0.0,
) -> Float[Tensor, "b c h w"]:
    """Sample x'_0 ~ p_theta(. | c), scaled latents in float32 on the CPU (SPIN-Diffusion eq. 3.2).

    The noise of an example depends on (seed, stream, round, its id) alone, so it can be redrawn in any batch: the noise bit
    by bit, the latents up to rounding. eps = eps_empty + guidance * (eps_text - eps_empty); guidance 1 skips the empty one.
    """
    schedule, device = diffuser.schedule, diffuser.device
    noisy = draws.normal(seed, stream, (round_index,), ids, diffuser.latent_shape).to(device)
    condition = text.to(device)
    guided = guidance != 1
    if guided:
        condition = torch.cat([empty.to(device).expand_as(condition), condition])
    for index, (t, t_next) in enumerate(schedule.timesteps(steps)):
        eps = unet(torch.cat([noisy, noisy]) if guided else noisy, t, condition).sample
        if guided:
            unconditional, conditional = eps.chunk(2)
            eps = unconditional + guidance * (conditional - unconditional)
        noisy, std = schedule.reverse(noisy, eps, t, t_next, eta)
        if std > 0:
            noise = draws.normal(seed, f"{stream}/step", (round_index, index), ids, diffuser.latent_shape)
            noisy = noisy + std * noise.to(device)
    return noisy.cpu().clone()


def sample_batches(
    diffuser: Diffuser,
    unet: UNet2DConditionModel,
    prompts: Sequence[str],
    ids: Sequence[str],
    batch_size: int,
    description: str,
    **settings: float | int | str,
) -> Float[Tensor, "n c h w"]:
    """Rollouts of any number of prompts, batch by batch with a progress bar; `settings` are those of `rollout`."""
    empty = diffuser.embed([""])
    parts = []
    for start in tqdm(range(0, len(prompts), batch_size), desc=description, leave=False):
        rows = slice(start, start + batch_size)
        text = diffuser.embed(list(prompts[rows]))
        parts.append(rollout(diffuser, unet, text, empty, ids[rows], **settings))  # type: ignore[arg-type]
    return torch.cat(parts)
