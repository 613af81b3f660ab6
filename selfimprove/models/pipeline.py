"""Load a pipeline folder in the style of Stable Diffusion 1.x, and write a player that plain diffusers can load."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from selfimprove.models import checks
from selfimprove.models.network import Conditioning
from selfimprove.models.paths import DiffusionSchedule
from selfimprove.models.weights import PARTS, TOKENIZER_FILES, WEIGHTS, ModelError, brief, find_weights, needed_weights, read_config, shapes
from selfimprove.schedule import Schedule

VAE_PIXELS = 4 * 512 * 512  # pixels that go through the VAE at once: four images of 512 x 512, about 3 GB of activations
AUTOCAST: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}  # precisions other than float32
ENDINGS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
LINKED = 64 * 2**20  # bytes from which weights of other parts are linked into a player's folder, not copied


@dataclass(frozen=True)
class Diffuser:
    """A loaded pipeline: VAE and text encoder, frozen, in float32 and in eval mode; its UNet is loaded at first use.

    `given_size`: (height, width) of the images in pixels; None for the size that the folder names. `shape`: the UNet on the meta device,
    which has configuration and shapes but no weights. A round loads the networks that it needs by itself, so that the base's own UNet takes
    no memory beside them.
    """

    folder: Path
    shape: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    schedule: Schedule
    device: torch.device
    given_size: tuple[int, int] | None = None

    @cached_property
    def unet(self) -> UNet2DConditionModel:
        """Return the base's own UNet, frozen; it stays in memory until `without_unet`."""
        return self.load_unet(self.folder).requires_grad_(False)

    def without_unet(self) -> None:
        """Forget the base's own UNet, which frees its memory."""
        self.__dict__.pop("unet", None)

    def sized(self, size: tuple[int, int]) -> "Diffuser":
        """Return the same pipeline for images of (height, width) pixels."""
        return self if size == self.image_size else replace(self, given_size=size)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of one latent."""
        size = self.shape.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        if self.given_size:
            height, width = (side // self.vae_factor for side in self.given_size)
        return self.shape.config.in_channels, height, width

    @property
    def image_size(self) -> tuple[int, int]:
        """Return (height, width) of the images, in pixels."""
        return self.latent_shape[1] * self.vae_factor, self.latent_shape[2] * self.vae_factor

    @property
    def vae_factor(self) -> int:
        """Return how many pixels of a side the VAE turns into one."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def vae_batch(self) -> int:
        """Return the number of images that go through the VAE at once."""
        return images_at_once(self.image_size)

    @property
    def scaling_factor(self) -> float:
        """Return the factor by which the VAE's latents are multiplied."""
        return self.vae.config.scaling_factor

    def truncated(self, prompts: list[str]) -> list[str]:
        """Return the prompts that the tokenizer cuts at its limit, each once."""
        unique = sorted(set(prompts))
        tokens = self.tokenizer(unique, verbose=False).input_ids
        return [p for p, ids in zip(unique, tokens, strict=True) if len(ids) > self.tokenizer.model_max_length]

    @torch.no_grad()
    def _encoded_text(self, prompts: list[str]) -> BaseModelOutputWithPooling:
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").to(self.device)
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)  # as StableDiffusionPipeline asks
        return self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask if masked else None)

    def embed(self, prompts: list[str]) -> Conditioning:
        """Return what the UNet is given for prompts, on the CPU, one row each; prompts beyond the tokenizer's limit are cut."""
        return Conditioning({"text": self._encoded_text(prompts).last_hidden_state.cpu()})

    def embed_pooled(self, prompts: list[str]) -> Float[np.ndarray, "b d"]:
        """Return one vector per prompt: the text encoder's pooled output, at the end-of-text token."""
        return self._encoded_text(prompts).pooler_output.cpu().numpy()

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "b 3 height width"]) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Return mean and standard deviation of the scaled latent posterior of images in [0, 1], on the CPU; encode a few at a time."""
        posteriors = [self.vae.encode(2 * part.to(self.device) - 1).latent_dist for part in images.split(self.vae_batch)]
        mean, std = (torch.cat([getattr(p, name).cpu() for p in posteriors]) for name in ("mean", "std"))
        return mean * self.scaling_factor, std * self.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
        """Return the images, in [0, 1], of scaled latents, on the CPU; decode a few at a time."""
        parts = [self.vae.decode(part.to(self.device) / self.scaling_factor).sample.cpu() for part in latents.split(self.vae_batch)]
        return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)

    def load_unet(self, folder: Path) -> UNet2DConditionModel:
        """Load another UNet from a pipeline folder, in float32 and eval mode, on this device."""
        return load_unet(folder).to(self.device)


def images_at_once(size: tuple[int, int]) -> int:
    """Return how many images of (height, width) pixels go through a VAE at once."""
    return max(1, VAE_PIXELS // (size[0] * size[1]))


def load_part(kind: Any, folder: Path, **how: Any) -> Any:
    """Load one network of a pipeline folder, from plain files, a variant or shards; ModelError if they are not whole or not its own."""
    weights = needed_weights(folder)
    try:
        network, said = kind.from_pretrained(folder, use_safetensors=True, variant=weights.variant, output_loading_info=True, **how)
    except Exception as error:  # the loaders raise many unrelated types
        raise ModelError(f"model part {str(folder)!r} cannot be loaded ({brief(error)})") from error
    known = [n for n in said["unexpected_keys"] if not n.startswith(checks.UNUSED) and not n.endswith("position_ids")]
    checks.check_names(f"model part {str(folder)!r}", said["missing_keys"], known, said["mismatched_keys"])
    return network


def load_unet(folder: Path) -> UNet2DConditionModel:
    """Load the UNet of a pipeline folder, in float32 and eval mode; for errors see `load_part`."""
    unet = load_part(UNet2DConditionModel, folder / "unet").float().eval()
    return checks.as_diffusers_reads(unet, read_config(folder / "unet" / "config.json"))


def load_diffuser(folder: Path, device: torch.device) -> Diffuser:
    """Check a pipeline folder and load it in float32, frozen.

    Raises:
        ModelError: this package cannot train the model, or a file of it cannot be read; see `models.checks`.
    """
    kind = read_config(folder / "model_index.json").get("_class_name") if (folder / "model_index.json").exists() else None
    if kind and str(kind) not in PIPELINES:
        raise ModelError(f"model={str(folder)!r} is a {kind}; pipelines that can be trained: {', '.join(PIPELINES)}")
    checks.check_files(folder)
    return PIPELINES[kind or "StableDiffusionPipeline"](folder, device)


def load_stable_diffusion(folder: Path, device: torch.device) -> Diffuser:
    """Load Stable Diffusion 1.x or 2.x from a folder whose files are checked."""
    shape, vae_shape = (checks.on_meta(kind, folder / part) for kind, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")))
    checks.as_diffusers_reads(shape, read_config(folder / "unet" / "config.json"))
    tokenizer, scheduler = checks.load_tokenizer(folder), checks.load_scheduler(folder)
    try:
        schedule = DiffusionSchedule(scheduler, device)
    except ValueError as error:
        raise ModelError(f"model={str(folder)!r}: its scheduler cannot be used: {error}") from error
    text_encoder = load_part(CLIPTextModel, folder / "text_encoder", dtype=torch.float32)
    checks.check_networks(folder, shape, vae_shape, text_encoder, tokenizer)
    for network, part in ((shape, "unet"), (vae_shape, "vae")):
        checks.check_weights(f"model part {str(folder / part)!r}", network, shapes(needed_weights(folder / part).files))
    vae = load_part(AutoencoderKL, folder / "vae")
    vae.to(memory_format=torch.channels_last)  # a third faster, on CPUs too
    for network in (vae, text_encoder):
        network.float().to(device).eval().requires_grad_(False)
    return Diffuser(folder, shape, vae, text_encoder, tokenizer, schedule, device)


PIPELINES: dict[str, Callable[[Path, torch.device], Diffuser]] = {"StableDiffusionPipeline": load_stable_diffusion}


def write_pipeline(folder: Path, unet: UNet2DConditionModel, base: Path) -> None:
    """Write a complete pipeline folder: the player's UNet, and the parts that the base's `model_index.json` names beside it.

    Of the parts that are loaded here only the files that are loaded travel; a variant such as fp16 gets the plain names, by which plain
    diffusers finds it. Everything is copied but weights of `LINKED` bytes or more, which are hard links where that is possible: nothing
    that programs write in place is shared with the base. A part whose weights are absent (the hub's safety checker is not downloaded)
    becomes null in the index, as diffusers expects of an omitted part.
    """
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    config = json.loads((folder / "unet" / "config.json").read_text())
    config.pop("_name_or_path", None)  # where the base lay: no part of what the player is
    (folder / "unet" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    index = read_config(base / "model_index.json")
    parts = [part for part in index if (base / part).is_dir() and part != "unet"]
    absent = [part for part in parts if part not in PARTS and (base / part / "config.json").exists() and not _has_weights(base / part)]
    (folder / "model_index.json").write_text(json.dumps(index | {part: [None, None] for part in absent}, indent=2) + "\n")
    for part in (part for part in parts if part not in absent):
        for path, name in _travelling(base / part).items():
            target, source = folder / part / name, path.resolve()
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                if source.suffix != ".safetensors" or source.stat().st_size < LINKED:
                    raise OSError("copied")
                os.link(source, target)
            except OSError:
                shutil.copyfile(source, target)


def _travelling(part: Path) -> dict[Path, Path | str]:
    """Return the files of a part that a player gets, with their names there."""
    if part.name not in PARTS:
        return {path: path.relative_to(part) for path in sorted(part.rglob("*")) if path.is_file()}
    names = ("config.json", "scheduler_config.json", *TOKENIZER_FILES)
    found: dict[Path, Path | str] = {part / name: name for name in names if (part / name).exists()}
    if part.name in WEIGHTS and (weights := find_weights(part)):
        single = f"{WEIGHTS[part.name]}.safetensors"
        found |= {path: path.name if weights.index_file else single for path in weights.files}
        if weights.index_file:
            found[weights.index_file] = f"{single}.index.json"
    return found


def _has_weights(part: Path) -> bool:
    """Return whether plain diffusers, which is asked for no variant, finds the weights of a part."""
    return any((part / f"{stem}{ending}").exists() for stem in ("model", "pytorch_model", "diffusion_pytorch_model") for ending in ENDINGS)
