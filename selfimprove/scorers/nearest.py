"""How near generated images are to real ones: a check for copying that needs no learned scorer."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def nearest_real(
    latents: Float[Tensor, "n c h w"], prompts: Sequence[str], real: Float[Tensor, "m c h w"], captions: Sequence[str]
) -> Float[Tensor, " n"]:
    """Minus the distance to the nearest real image of the same caption (of any, where no real image has it).

    The distance is the root mean square over the latent's dimensions: 0 for a copy, about -1.4 for unrelated latents.
    """
    distance = torch.cdist(latents.flatten(1), real.flatten(1)) / latents[0].numel() ** 0.5
    same = torch.tensor([[p == c for c in captions] for p in prompts])
    allowed = same | ~same.any(1, keepdim=True)
    return -distance.masked_fill(~allowed, float("inf")).amin(1)
