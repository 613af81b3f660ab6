"""Check and load a pipeline folder in the style of Stable Diffusion 1.x, and write a player that plain diffusers can load."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from selfimprove.errors import SelfImproveError
from selfimprove.files import sha256
from selfimprove.models.paths import DiffusionSchedule
from selfimprove.schedule import Schedule
from selfimprove.shapes import PIPELINE

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
VAE_PIXELS = 4 * 512 * 512  # pixels that go through the VAE at once: four images of 512 x 512, about 3 GB of activations
AUTOCAST: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}  # precisions other than float32
LINKED = 64 * 2**20  # bytes from which weights of other parts are linked into a player's folder, not copied
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt")
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


class ModelError(SelfImproveError):
    """The model folder cannot be used; the message says why and what to do."""


def resolve_model(model: str | Path) -> Path:
    """Return the pipeline folder of "shapes", of a local folder, or of a hub id, whose safetensors are downloaded.

    Raises:
        ModelError: the folder does not exist, or the hub did not give it.
    """
    if str(model) == "shapes":
        return PIPELINE
    folder = Path(model).expanduser()
    if folder.exists():
        return folder
    if folder.is_absolute() or len(folder.parts) != 2:
        raise ModelError(f"model={str(model)!r}: there is no such folder; give 'shapes', a pipeline folder, or a hub id owner/name")
    from huggingface_hub import snapshot_download  # only here: everything else works without a hub

    try:
        patterns = ["*.json", "*.txt", *(f"{part}/{name}.safetensors" for part, name in WEIGHTS.items())]
        return Path(snapshot_download(str(model), allow_patterns=patterns))
    except Exception as error:  # the hub client raises many unrelated types
        raise ModelError(
            f"model={str(model)!r}: no such folder here, and the hub did not give it ({type(error).__name__}); "
            "check the name and the connection, or give a local folder"
        ) from error


def check_folder(folder: Path) -> None:
    """Raise if this package cannot train the model in a folder; no network is loaded.

    Raises:
        ModelError: this is not the folder of a StableDiffusionPipeline, a part is missing, weights are pickled or not finite, the model
            is an inpainting model, its scheduler has no `beta_schedule`, or the model predicts neither eps nor v.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        raise ModelError(f"model={str(folder)!r} is empty or no folder; give a diffusers pipeline folder")
    index_file = folder / "model_index.json"
    if not index_file.exists():
        raise ModelError(f"model={str(folder)!r} has no model_index.json; give a folder saved by pipeline.save_pretrained")
    kind = json.loads(index_file.read_text()).get("_class_name")
    if kind not in PIPELINES:
        raise ModelError(f"model={str(folder)!r} is a {kind}; pipelines that can be trained: {', '.join(PIPELINES)}")
    for part in PARTS:
        if not (folder / part).is_dir():
            raise ModelError(f"model={str(folder)!r} has no {part}/ folder; give a complete pipeline")
    for part, name in WEIGHTS.items():
        _check_weights(folder / part, name)
    unet, vae = (json.loads((folder / part / "config.json").read_text()) for part in ("unet", "vae"))
    if unet["in_channels"] != vae["latent_channels"]:
        raise ModelError(
            f"model={str(folder)!r}: its UNet takes {unet['in_channels']} channels, its VAE makes {vae['latent_channels']} "
            "(an inpainting or otherwise conditioned model); give a text-to-image model"
        )
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    if "beta_schedule" not in scheduler:  # DDIM would accept the file, with a schedule that the model never saw
        raise ModelError(
            f"model={str(folder)!r} has a scheduler without beta_schedule, {scheduler.get('_class_name')!r} (of a flow-matching model?); "
            "give a model that denoises by betas, as Stable Diffusion 1.x and 2.x do"
        )
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise ModelError(f"model={str(folder)!r} predicts {prediction!r}; only models of epsilon or v_prediction can be trained")


def _check_weights(folder: Path, name: str) -> None:
    path = folder / f"{name}.safetensors"
    if not path.exists():
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".ckpt"))
        if pickled:
            raise ModelError(
                f"model part {str(folder)!r} has only pickled weights ({pickled[0]}), which can run code when loaded; "
                "convert them: pipeline.save_pretrained(folder, safe_serialization=True)"
            )
        raise ModelError(f"model part {str(folder)!r} has no {path.name}; give a complete pipeline")
    with safe_open(path, "pt") as weights:
        for key in weights.keys():  # noqa: SIM118 - safe_open is no mapping
            if not bool(torch.isfinite(weights.get_tensor(key)).all()):
                raise ModelError(f"model part {str(folder)!r}: the weight {key!r} holds NaN or infinity; give an intact model")


def used_files(folder: Path) -> list[Path]:
    """Return the files of a pipeline folder that are loaded, in a fixed order: weights, configurations, tokenizer; nothing beside them."""
    wanted = [folder / part / f"{name}.safetensors" for part, name in WEIGHTS.items()]
    wanted += [folder / part / "config.json" for part in WEIGHTS]
    wanted += [folder / "scheduler" / "scheduler_config.json", *(folder / "tokenizer" / name for name in TOKENIZER_FILES)]
    return [path for path in wanted if path.exists()]


def model_hash(folder: Path) -> str:
    """Return the identity of a model wherever it lies: the SHA-256 of the names and hashes of `used_files`.

    Raises:
        ModelError: there is no such folder, or no UNet in it.
    """
    files = used_files(folder)
    if folder / "unet" / f"{WEIGHTS['unet']}.safetensors" not in files:
        raise ModelError(f"model={str(folder)!r} has no UNet weights; restore the folder, or have its round played again")
    lines = [f"{path.relative_to(folder).as_posix()} {sha256(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Diffuser:
    """A loaded pipeline: VAE and text encoder, frozen, in float32 and in eval mode; its UNet is loaded at first use.

    `shape`: the UNet on the meta device, which has configuration and shapes but no weights. A round loads the networks that it needs by
    itself, so that the base's own UNet takes no memory beside them.
    """

    folder: Path
    shape: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    schedule: Schedule
    device: torch.device

    @cached_property
    def unet(self) -> UNet2DConditionModel:
        """Return the base's own UNet, frozen; it stays in memory until `without_unet`."""
        return self.load_unet(self.folder).requires_grad_(False)

    def without_unet(self) -> None:
        """Forget the base's own UNet, which frees its memory."""
        self.__dict__.pop("unet", None)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of one latent."""
        size = self.shape.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.shape.config.in_channels, height, width

    @property
    def image_size(self) -> tuple[int, int]:
        """Return (height, width) of the images, in pixels."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.latent_shape[1] * factor, self.latent_shape[2] * factor

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
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return self.text_encoder(tokens.to(self.device))

    def embed(self, prompts: list[str]) -> Float[Tensor, "b l d"]:
        """Return text embeddings, (B, tokens, width), on the CPU; prompts beyond the tokenizer's limit are cut."""
        return self._encoded_text(prompts).last_hidden_state.cpu()

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


def load_unet(folder: Path) -> UNet2DConditionModel:
    """Load the UNet of a pipeline folder, in float32 and eval mode."""
    return UNet2DConditionModel.from_pretrained(folder / "unet", use_safetensors=True).float().eval()


def load_diffuser(folder: Path, device: torch.device) -> Diffuser:
    """Check a pipeline folder and load it in float32, frozen.

    Raises:
        ModelError: see `check_folder`.
    """
    check_folder(folder)
    return PIPELINES[json.loads((folder / "model_index.json").read_text())["_class_name"]](folder, device)


def load_stable_diffusion(folder: Path, device: torch.device) -> Diffuser:
    """Load Stable Diffusion 1.x or 2.x from a checked folder."""
    vae = AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True)
    vae.to(memory_format=torch.channels_last)  # a third faster, on CPUs too
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", use_safetensors=True, dtype=torch.float32)
    for network in (vae, text_encoder):
        network.float().to(device).eval().requires_grad_(False)
    with torch.device("meta"):
        shape = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet"))
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    return Diffuser(folder, shape, vae, text_encoder, tokenizer, _load_schedule(folder, device), device)


PIPELINES: dict[str, Callable[[Path, torch.device], Diffuser]] = {"StableDiffusionPipeline": load_stable_diffusion}


def _load_schedule(folder: Path, device: torch.device) -> Schedule:
    try:
        return DiffusionSchedule(DDIMScheduler.from_pretrained(folder / "scheduler", clip_sample=False), device)
    except (ValueError, NotImplementedError) as error:  # NotImplementedError: a beta_schedule that diffusers does not know
        raise ModelError(f"model={str(folder)!r}: its scheduler cannot be used: {error}") from error


def write_pipeline(folder: Path, unet: UNet2DConditionModel, base: Path) -> None:
    """Write a complete pipeline folder: the player's UNet, and the parts that the base's `model_index.json` names beside it.

    Everything is copied but weights of `LINKED` bytes or more, which are hard links where that is possible: nothing that programs write in
    place is shared with the base. A part whose weights are absent (the hub's safety checker is not downloaded) becomes null in the index,
    as diffusers expects of an omitted part.
    """
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    config = json.loads((folder / "unet" / "config.json").read_text())
    config.pop("_name_or_path", None)  # where the base lay: no part of what the player is
    (folder / "unet" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    index = json.loads((base / "model_index.json").read_text())
    parts = [part for part in index if (base / part).is_dir() and part != "unet"]
    absent = [part for part in parts if (base / part / "config.json").exists() and not _has_weights(base / part)]
    (folder / "model_index.json").write_text(json.dumps(index | {part: [None, None] for part in absent}, indent=2) + "\n")
    for path in sorted(path for part in parts if part not in absent for path in (base / part).rglob("*") if path.is_file()):
        target, source = folder / path.relative_to(base), path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if source.suffix != ".safetensors" or source.stat().st_size < LINKED:
                raise OSError("copied")
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)


def _has_weights(part: Path) -> bool:
    return any(path.suffix in (".safetensors", ".bin") for path in part.iterdir())
