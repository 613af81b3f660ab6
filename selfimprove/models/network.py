"""Call a denoiser: only this module and the families know how a network takes its conditioning."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from selfimprove.models.execution import to_device
from selfimprove.schedule import Time

Denoiser = Callable[..., Any]
Call = Callable[[Denoiser, Tensor, Any, Mapping[str, Tensor]], Tensor]  # (network, x_t, t, tensors) -> output, in the shape of x_t


def call_with_text(network: Denoiser, noisy: Tensor, t: Any, tensors: Mapping[str, Tensor]) -> Tensor:
    """Call a network as a UNet2DConditionModel of Stable Diffusion 1.x and 2.x: network(x_t, t, embeddings).sample."""
    return network(noisy, t, tensors["text"]).sample


@dataclass(frozen=True)
class Conditioning:
    """What a network receives beside x_t and t: tensors by name, one row per example, and how the network takes them.

    "text" are the embeddings of tokens, (B, tokens, width). A family of models may have further tensors; see `models.families`.
    """

    tensors: Mapping[str, Tensor]
    call: Call = call_with_text

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def _each(self, change: Callable[[str, Tensor], Tensor]) -> "Conditioning":
        return Conditioning({name: change(name, tensor) for name, tensor in self.tensors.items()}, self.call)

    def to(self, device: torch.device) -> "Conditioning":
        """Return the same conditioning on another device."""
        return self._each(lambda _, tensor: to_device(tensor, device))

    def rows(self, which: slice | list[int]) -> "Conditioning":
        """Return the chosen rows."""
        return self._each(lambda _, tensor: tensor[which])

    def repeat(self, times: int) -> "Conditioning":
        """Return all rows, `times` times over."""
        return self._each(lambda _, tensor: tensor.repeat(times, *[1] * (tensor.ndim - 1)))

    def like(self, other: "Conditioning") -> "Conditioning":
        """Return this single row, repeated once per row of `other`."""
        return self._each(lambda _, tensor: tensor.expand(len(other), *tensor.shape[1:]))

    def beside(self, other: "Conditioning") -> "Conditioning":
        """Return these rows, followed by the rows of `other`."""
        return self._each(lambda name, tensor: torch.cat([tensor, other.tensors[name]]))


Text = Float[Tensor, "b l d"] | Conditioning
EmptyText = Float[Tensor, "1 l d"] | Conditioning


def conditioning(text: Text) -> Conditioning:
    """Return a conditioning as given, or that of plain text embeddings, (B, tokens, width)."""
    return text if isinstance(text, Conditioning) else Conditioning({"text": text})


def denoise(
    network: Denoiser, noisy: Float[Tensor, "b c h w"], t: Time | Shaped[Tensor, " b"], given: Conditioning
) -> Float[Tensor, "b c h w"]:
    """Return the network's output, eps, v or a velocity, at (x_t, t, c)."""
    if isinstance(network, nn.Module) and not isinstance(t, Tensor):
        precise = torch.promote_types(noisy.dtype, torch.float32) if isinstance(t, float) else None
        t = torch.as_tensor(t, dtype=precise, device=noisy.device)  # one that is compiled would be compiled again for every number
    return given.call(network, noisy, t, given.tensors)


def guided(
    network: Denoiser,
    noisy: Float[Tensor, "b c h w"],
    t: Time | Shaped[Tensor, " b"],
    given: Conditioning,
    empty: Conditioning | None = None,
    guidance: float = 1.0,
) -> Float[Tensor, "b c h w"]:
    """Return the output with classifier-free guidance, empty + guidance * (text - empty), in the precision of `noisy`.

    With guidance 1, or without `empty`, this is the conditional output alone. Otherwise both halves go through the network in one batch.
    """
    if guidance == 1 or empty is None:
        return denoise(network, noisy, t, given).to(noisy.dtype)
    times = t.repeat(2) if isinstance(t, Tensor) else t
    both = denoise(network, torch.cat([noisy, noisy]), times, empty.like(given).beside(given))
    unconditional, conditional = both.to(noisy.dtype).chunk(2)  # converted before guidance multiplies the difference
    return unconditional + guidance * (conditional - unconditional)
