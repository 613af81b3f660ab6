"""Call a denoiser: only this module knows how a network takes its conditioning."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from selfimprove.schedule import Time


@runtime_checkable
class Denoiser(Protocol):
    """The interface of a UNet2DConditionModel: (x_t, t, text) -> an object whose `sample` is the prediction, in the shape of x_t."""

    def __call__(self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor) -> Any: ...


class Conditioning(NamedTuple):
    """What a network receives beside x_t and t, one row per example. `text`: token embeddings, (B, tokens, width)."""

    text: Float[Tensor, "b l d"]

    def to(self, device: torch.device) -> "Conditioning":
        """Return the same conditioning on another device."""
        return Conditioning(*(part.to(device) for part in self))

    def like(self, other: "Conditioning") -> "Conditioning":
        """Return this single row, repeated once per row of `other`."""
        return Conditioning(*(part.expand_as(row) for part, row in zip(self, other, strict=True)))

    def beside(self, other: "Conditioning") -> "Conditioning":
        """Return these rows, followed by the rows of `other`."""
        return Conditioning(*(torch.cat([a, b]) for a, b in zip(self, other, strict=True)))

    def split(self, size: int) -> list["Conditioning"]:
        """Return parts of at most `size` rows."""
        return [Conditioning(*parts) for parts in zip(*(part.split(size) for part in self), strict=True)]


def denoise(
    network: Denoiser, noisy: Float[Tensor, "b c h w"], t: Time | Shaped[Tensor, " b"], conditioning: Conditioning
) -> Float[Tensor, "b c h w"]:
    """Return the network's output, eps, v or a velocity, at (x_t, t, c)."""
    return network(noisy, t, conditioning.text).sample


def guided(
    network: Denoiser,
    noisy: Float[Tensor, "b c h w"],
    t: Time | Shaped[Tensor, " b"],
    conditioning: Conditioning,
    empty: Conditioning | None = None,
    guidance: float = 1.0,
) -> Float[Tensor, "b c h w"]:
    """Return the output with classifier-free guidance, empty + guidance * (text - empty), in the precision of `noisy`.

    With guidance 1, or without `empty`, this is the conditional output alone. Otherwise both halves go through the network in one batch.
    """
    if guidance == 1 or empty is None:
        return denoise(network, noisy, t, conditioning).to(noisy.dtype)
    times = t.repeat(2) if isinstance(t, Tensor) else t
    both = denoise(network, torch.cat([noisy, noisy]), times, empty.like(conditioning).beside(conditioning))
    unconditional, conditional = both.to(noisy.dtype).chunk(2)  # converted before guidance multiplies the difference
    return unconditional + guidance * (conditional - unconditional)
