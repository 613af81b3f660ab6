"""Models in the forms in which people have them, for tests: plain diffusers' images beside ours, and the names of the original code."""

import gzip
import json
import re
from itertools import product
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

from selfimprove import draws
from selfimprove.models.known import MERGES, VOCABULARY
from selfimprove.models.pipeline import load_diffuser
from selfimprove.rollout import rollout

IDS, PROMPTS = ["a", "b"], ["a star", "a large red moon on a blue background"]


def here(folder: Path, steps: int = 3, guidance: float = 3.0) -> Tensor:
    """Images in [0, 1], as a round draws them."""
    diffuser = load_diffuser(folder, torch.device("cpu"))
    text, empty = diffuser.embed(PROMPTS), diffuser.embed([""])
    return diffuser.decode(rollout(diffuser, diffuser.denoiser, text, empty, IDS, 0, "test", 1, steps, guidance))


def plainly(pipeline: StableDiffusionPipeline, steps: int = 3, guidance: float = 3.0) -> Tensor:
    """Images in [0, 1] of the same noise, as plain diffusers draws them with the DDIM of the model's folder."""
    size = pipeline.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    noise = draws.normal(0, "test", (1,), IDS, (pipeline.unet.config.in_channels, height, width))
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline.to(torch.float32)(PROMPTS, latents=noise, num_inference_steps=steps, guidance_scale=guidance, output_type="pt")
    return made.images


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def unet_names(name: str, layers: int = 1) -> str:
    for new, old in (
        (r"^conv_in", "input_blocks.0.0"), (r"^time_embedding.linear_1", "time_embed.0"), (r"^time_embedding.linear_2", "time_embed.2"),
        (r"^conv_norm_out", "out.0"), (r"^conv_out", "out.2"), (r"^mid_block.resnets.0", "middle_block.0"),
        (r"^mid_block.attentions.0", "middle_block.1"), (r"^mid_block.resnets.1", "middle_block.2"),
    ):  # fmt: skip
        name = re.sub(new, old, name)

    def place(found: re.Match[str]) -> str:
        way, block, kind, index = found[1], int(found[2]), found[3], int(found[4])
        if way == "down":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.op" if kind == "downsamplers" else (
                f"input_blocks.{1 + block * (layers + 1) + index}.{int(kind == 'attentions')}")  # fmt: skip
        if kind == "upsamplers":  # after the attention, which the first block up of four has not
            return f"output_blocks.{block * (layers + 1) + layers}.{1 if layers == 2 and block == 0 else 2}.conv"
        return f"output_blocks.{block * (layers + 1) + index}.{int(kind == 'attentions')}"

    name = re.sub(r"^(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)(?:\.conv(?=\.))?", place, name)
    inside = {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0", "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }  # fmt: skip
    if "transformer_blocks" in name:
        return name
    return re.sub(r"\b(" + "|".join(inside) + r")\b", lambda m: inside[m[1]], name)


def vae_names(name: str, blocks: int = 2) -> str:
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{blocks - 1 - int(m[1])}.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    for new, old in (("conv_shortcut", "nin_shortcut"), ("conv_norm_out", "norm_out"), ("mid_block.attentions.0", "mid.attn_1"),
                     ("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):  # fmt: skip
        name = name.replace(new, old)
    return name


def checkpoint(pipeline: StableDiffusionPipeline) -> dict[str, Tensor]:
    """The tensors of a pipeline under the names of the original code, in which the VAE's attention layers are convolutions."""
    found = {f"model.diffusion_model.{unet_names(name)}": w for name, w in pipeline.unet.state_dict().items()}
    for name, w in pipeline.vae.state_dict().items():
        flat = re.search(r"to_(q|k|v|out\.0)\.weight", name)
        found[f"first_stage_model.{vae_names(name)}"] = w[..., None, None] if flat else w
    found |= {f"cond_stage_model.transformer.text_model.{n}": w for n, w in pipeline.text_encoder.state_dict().items()}
    return {name: w.contiguous() for name, w in found.items()}


def write_checkpoint(file: Path, tensors: dict[str, Tensor], **metadata: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, metadata={"format": "pt", **metadata})
    return file


def write_merges(cache: Path) -> Path:
    """Write a stand-in for CLIP's vocabulary, of its size, into the folder of a cache."""
    letters = [chr(n) for n in range(ord("a"), ord("z") + 1)]
    words = ["".join(w) for n in (2, 3, 4) for w in product(letters, repeat=n)][:MERGES]
    merges = [f"{word[:-1]} {word[-1]}" for word in words]
    cache.mkdir()
    (cache / VOCABULARY).write_bytes(gzip.compress("\n".join(["version", *merges, "not a merge"]).encode()))
    return cache
