"""Make a denoiser with twice the residual blocks that computes the same as before: more capacity, the same distance from the data.

The new blocks add nothing at first, because their last layer is zero (the idea is Net2Net's, Chen et al. 2016). A round that starts from
the deeper network can therefore be compared with a round that starts from the original network.
"""

import re
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from selfimprove.models.players import write_pipeline
from selfimprove.models.resolve import resolve_model

_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)")


def write_deeper(folder: Path, model: str = "shapes") -> None:
    """Write the pipeline of `model` (name or folder), with a deeper denoiser, into `folder`."""
    source = resolve_model(model)
    write_pipeline(folder, deepen(UNet2DConditionModel.from_pretrained(source / "unet", torch_dtype=torch.float32)), source)


def deepen(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Return a denoiser of the same function with twice `layers_per_block`, in all its blocks on the way down and up."""
    layers = int(unet.config.layers_per_block)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = UNet2DConditionModel.from_config({**unet.config, "layers_per_block": 2 * layers})
    state = dict(made.state_dict())
    old = {_new_name(name, layers): value for name, value in unet.state_dict().items()}
    for name in state.keys() - old.keys():
        if name.endswith(("conv2.weight", "conv2.bias", "proj_out.weight", "proj_out.bias", "conv_shortcut.bias")):
            state[name] = torch.zeros_like(state[name])
        elif name.endswith("conv_shortcut.weight"):  # the input from below passes, that of the skip connection does not
            state[name] = _first_part(state[name])
    made.load_state_dict(state | old)
    return made.eval()


def _new_name(name: str, layers: int) -> str:
    """Return a weight's new name. On the way up the last block stays the last, because its skip connection has another width."""
    found = _BLOCK.fullmatch(name)
    if not found:
        return name
    way, block, kind, index, rest = found.groups()
    last = way == "up" and int(index) == layers
    return f"{way}_blocks.{block}.{kind}.{2 * layers if last else index}.{rest}"


def _first_part(weight: Tensor) -> Tensor:
    made = torch.zeros_like(weight)
    nn.init.dirac_(made)
    return made
