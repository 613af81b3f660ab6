"""Train low-rank adapters: each round trains a new adapter on the frozen weights of the last player, which is also its opponent.

The opponent is therefore the same network with the adapter switched off, and memory holds no second UNet. At the end of the round the
adapter is merged, and the round's pipeline is complete, like any other. Beside the pipeline, `lora/` holds the adapters of all rounds so
far in one file, which `StableDiffusionPipeline.load_lora_weights` loads onto the base model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from selfimprove.draws import generator
from selfimprove.models.weights import ModelError

ADAPTED = ("to_q", "to_k", "to_v", "to_out.0")  # the projections of the attention layers, as in diffusers' own scripts
FILE = "pytorch_lora_weights.safetensors"
NAME = "player"


def adapted_layers(network: nn.Module) -> dict[str, nn.Linear]:
    """Return the layers that get an adapter, by name."""
    return {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear) and n.endswith(ADAPTED)}


def adapter_size(network: nn.Module, rank: int) -> int:
    """Return the number of weights of an adapter of that rank."""
    return sum(rank * (layer.in_features + layer.out_features) for layer in adapted_layers(network).values())


def check_rank(unet: UNet2DConditionModel, rank: int) -> None:
    """Raise if a rank is too large for the adapted layers.

    Raises:
        ModelError: the rank is larger than the smallest side of an adapted layer, which is that layer's full rank.
    """
    layers = adapted_layers(unet)
    name, smallest = min(((n, min(m.in_features, m.out_features)) for n, m in layers.items()), key=lambda pair: pair[1])
    if rank > smallest:
        raise ModelError(f"lora_rank={rank} is more than the full rank {smallest} of {name}; give a smaller one, or None for all weights")


def add_adapter(unet: UNet2DConditionModel, rank: int, alpha: int, seed: int, round_index: int) -> None:
    """Add a new adapter, scaled by alpha / rank, whose output starts at zero, and freeze everything else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "lora", round_index).initial_seed())
        unet.requires_grad_(False)
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(ADAPTED), lora_dropout=0.0), adapter_name=NAME)


@contextmanager
def switched_off(unet: UNet2DConditionModel) -> Iterator[None]:
    """Switch the network's adapter off inside a `with` block."""
    unet.disable_adapters()
    try:
        yield
    finally:
        unet.enable_adapters()


class WithoutAdapter:
    """The opponent: the player's network with the adapter off, for forward passes without a gradient.

    Call the opponent before the player in each step, because a backward pass that recomputes activations must find the adapter on.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.unet = unet

    def __call__(self, *inputs: Any) -> Any:
        with switched_off(self.unet):
            return self.unet(*inputs)


def merge(unet: UNet2DConditionModel, rank: int, alpha: int, before: Path, folder: Path) -> None:
    """Merge the adapter into the weights, and write it to `folder` together with the adapters of earlier rounds in `before`.

    Adapters add up: B_1 A_1 + B_2 A_2 = [B_1 B_2] [A_1; A_2], so the rank in the file is the sum of the rounds' ranks. The factor
    alpha / rank is folded into B, so that readers need no alpha.
    """
    layers: dict[str, Tensor] = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet, adapter_name=NAME))
    own = {k: v.detach().cpu().contiguous() * (alpha / rank if ".lora.up" in k or ".lora_B" in k else 1) for k, v in layers.items()}
    if (before / FILE).exists():
        earlier = {k.removeprefix("unet."): v for k, v in load_file(before / FILE).items()}
        own = {k: torch.cat([earlier[k], v], dim=1 if ".lora.up" in k or ".lora_B" in k else 0) for k, v in own.items()}
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=own, safe_serialization=True)
    unet.fuse_lora(adapter_names=[NAME])
    unet.unload_lora()
