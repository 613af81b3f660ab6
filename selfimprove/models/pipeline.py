"""Load a pipeline folder of a known family."""

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selfimprove.config import Precision
from selfimprove.models import checks
from selfimprove.models.execution import autocast, in_parts, out_of_memory, rounded, vae_precision
from selfimprove.models.family import Family
from selfimprove.models.network import Conditioning
from selfimprove.models.paths import path_of
from selfimprove.models.weights import ModelError, brief, needed_weights, read_config, shapes
from selfimprove.schedule import Schedule

VAE_PIXELS = 4 * 512 * 512  # pixels that go through the VAE at once: four images of 512 x 512, about 3 GB of activations
TEXTS = 64  # prompts that are encoded at once
LARGE = 10**9  # weights from which a text encoder is held in bfloat16, such as T5-XXL: 10 GB in place of 19

T = TypeVar("T")


@dataclass(frozen=True)
class Diffuser:
    """A loaded pipeline: VAE and text encoders, frozen and in eval mode; its denoiser is loaded at first use.

    `shape`: the denoiser, a UNet or a transformer, on the meta device, which has configuration and shapes but no weights. `pipeline`:
    diffusers' own pipeline of the same parts, which encodes texts; its text encoders lie on the CPU, and are on the device for their turn
    only. `given_size`: (height, width) of the images in pixels; None for the size that the folder names. `vae_precision`: what the VAE
    computes in. A round loads the denoisers that it needs by itself, so that the base's own takes no memory beside them.
    """

    folder: Path
    family: Family
    shape: Any
    vae: Any
    pipeline: Any
    schedule: Schedule
    device: torch.device
    given_size: tuple[int, int] | None = None
    vae_precision: Precision = "no"
    _embedded: dict[str, Conditioning] = field(default_factory=dict, repr=False, compare=False)  # shared by all sizes

    @cached_property
    def denoiser(self) -> Any:
        """Return the base's own denoiser, frozen; it stays in memory until `without_denoiser`."""
        return self.load_denoiser(self.folder).requires_grad_(False)

    def without_denoiser(self) -> None:
        """Forget the base's own denoiser, which frees its memory."""
        self.__dict__.pop("denoiser", None)

    def sized(self, size: tuple[int, int]) -> "Diffuser":
        """Return the same pipeline for images of (height, width) pixels."""
        if size == self.image_size:
            return self
        sized = replace(self, given_size=size)
        return replace(sized, schedule=_schedule(self.folder, self.family, sized.latent_shape[1:], self.device))  # some shift by size

    def in_precision(self, precision: Precision) -> "Diffuser":
        """Return the same pipeline with its VAE in a run's precision where that is safe; its weights are rounded in place."""
        safe = vae_precision(precision, self.vae.config)
        rounded(self.vae, safe)
        return replace(self, vae_precision=safe)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of one latent."""
        given = self.given_size
        height, width = (side // self.vae_factor for side in given) if given else self.family.latent_size(self.shape.config)
        return self.family.channels(self.shape.config), height, width

    @property
    def image_size(self) -> tuple[int, int]:
        """Return (height, width) of the images, in pixels."""
        return self.latent_shape[1] * self.vae_factor, self.latent_shape[2] * self.vae_factor

    @property
    def vae_factor(self) -> int:
        """Return how many pixels of a side the VAE turns into one."""
        return checks.vae_factor(self.vae)

    @property
    def vae_batch(self) -> int:
        """Return the number of images that go through the VAE at once."""
        return images_at_once(self.image_size)

    @property
    def vae_identity(self) -> dict[str, str]:
        """Return what stores of latents name of the VAE's precision: nothing in float32, as before there was another."""
        return {} if self.vae_precision == "no" else {"vae_precision": self.vae_precision}

    @property
    def scaling_factor(self) -> float:
        """Return the factor by which the VAE's latents are multiplied."""
        return self.vae.config.scaling_factor

    @property
    def _latent_law(self) -> tuple[Any, Any]:
        """Return what is subtracted from the VAE's latents, and by what they are multiplied then: numbers, or one for each channel."""
        config = self.vae.config
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if self.family.latent_statistics and mean is not None and std is not None:
            return torch.tensor(mean).view(-1, 1, 1), self.scaling_factor / torch.tensor(std).view(-1, 1, 1)
        return config.get("shift_factor") or 0.0, self.scaling_factor

    @property
    def texts(self) -> list[tuple[Any, Any, int]]:
        """Return each text encoder with its tokenizer, and the number of tokens that it is given."""
        there = [e for e in self.family.encoders if getattr(self.pipeline, e.part, None) is not None]
        found = [(getattr(self.pipeline, e.part), getattr(self.pipeline, e.tokenizer), e.limit) for e in there]
        return [(network, tokenizer, limit or tokenizer.model_max_length) for network, tokenizer, limit in found]

    def truncated(self, prompts: list[str]) -> list[str]:
        """Return the prompts that every tokenizer cuts at its limit, each once."""
        unique = sorted(set(prompts))
        lengths = [[len(ids) - limit for ids in tokenizer(unique, verbose=False).input_ids] for _, tokenizer, limit in self.texts]
        return [prompt for prompt, *over in zip(unique, *lengths, strict=True) if min(over) > 0]

    @contextmanager
    def _encoding(self) -> Iterator[Any]:
        networks = [network for network, _, _ in self.texts]
        try:
            with torch.no_grad():
                for network in networks:
                    network.to(self.device)
                yield self.pipeline
        finally:
            for network in networks:
                network.to("cpu")

    def embed(self, prompts: list[str]) -> Conditioning:
        """Return what the denoiser is given for prompts, on the CPU, one row each; prompts beyond the tokenizers' limits are cut."""
        with self._encoding() as pipeline:
            parts = [self.family.embed(pipeline, prompts[i : i + TEXTS]) for i in range(0, len(prompts), TEXTS)]
        return Conditioning({name: torch.cat([part[name].float().cpu() for part in parts]) for name in parts[0]}, self.family.call)

    def embed_one(self, prompt: str) -> Conditioning:
        """Return what the denoiser is given for one prompt, such as the empty caption; it is embedded once."""
        if prompt not in self._embedded:
            self._embedded[prompt] = self.embed([prompt])
        return self._embedded[prompt]

    def embed_pooled(self, prompts: list[str]) -> Float[np.ndarray, "b d"]:
        """Return one vector per prompt: a text encoder's pooled output."""
        with self._encoding() as pipeline:
            return self.family.pooled(pipeline, prompts, self.family.embed).float().cpu().numpy()

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "b 3 height width"]) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Return mean and standard deviation of the scaled latent posterior of images in [0, 1], on the CPU; encode a few at a time."""

        def encoded(rows: slice) -> tuple[Tensor, Tensor]:
            with autocast(self.device, self.vae_precision):
                posterior = self.vae.encode(2 * images[rows].to(self.device) - 1).latent_dist
            return posterior.mean.float().cpu(), posterior.std.float().cpu()

        mean, std = (torch.cat(found) for found in zip(*self._through_vae(len(images), "encoding", encoded), strict=True))
        shift, factor = self._latent_law
        return (mean - shift) * factor, std * factor

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
        """Return the images, in [0, 1], of scaled latents, on the CPU; decode a few at a time."""
        shift, factor = self._latent_law

        def decoded(rows: slice) -> Tensor:
            with autocast(self.device, self.vae_precision):
                return self.vae.decode((latents[rows] / factor + shift).to(self.device)).sample.float().cpu()

        return (torch.cat(self._through_vae(len(latents), "decoding", decoded)) / 2 + 0.5).clamp(0, 1)

    def _through_vae(self, count: int, what: str, work: Callable[[slice], T]) -> list[T]:
        """Return `work(rows)` for a few images at a time. If memory does not hold one, the VAE goes over it in tiles from then on."""
        try:
            return [*in_parts(count, self.vae_batch, what, self.image_size, work)]
        except RuntimeError as error:
            if self.vae.use_tiling or not out_of_memory(error):
                raise
        self.vae.enable_tiling()
        warnings.warn(f"{what}: one image of {self.image_size} does not fit, and goes in tiles, whose seams are blended", stacklevel=3)
        return [*in_parts(count, 1, what, self.image_size, work)]

    def load_denoiser(self, folder: Path) -> Any:
        """Load another denoiser from a pipeline folder, in float32 and eval mode, on this device."""
        return load_denoiser(folder).to(self.device)

    def load_frozen(self, folder: Path, precision: Precision = "no") -> Any:
        """Load a denoiser that is not trained, for calls inside `autocast` of this precision; see `execution.rounded`."""
        return rounded(load_denoiser(folder).requires_grad_(False), precision).to(self.device)


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


def load_denoiser(folder: Path) -> Any:
    """Load the UNet or transformer of a pipeline folder, in float32 and eval mode; for errors see `load_part`."""
    import diffusers  # see `samplers`

    family, _ = checks.family_of(folder)
    network = load_part(getattr(diffusers, family.network), folder / family.part).float().eval()
    return checks.as_diffusers_reads(network, read_config(folder / family.part / "config.json"))


def load_diffuser(folder: Path, device: torch.device) -> Diffuser:
    """Check a pipeline folder and load it, frozen: in float32, but text encoders of `LARGE` size in bfloat16.

    Raises:
        ModelError: this package cannot train the model, or a file of it cannot be read; see `models.checks`.
    """
    import diffusers  # see `samplers`
    import transformers

    family, index = checks.check_files(folder), read_config(folder / "model_index.json")
    shape, vae_shape = (
        checks.on_meta(k, folder / p) for k, p in ((getattr(diffusers, family.network), family.part), (diffusers.AutoencoderKL, "vae"))
    )
    checks.as_diffusers_reads(shape, read_config(folder / family.part / "config.json"))
    tokenizers = {e.tokenizer: checks.load_tokenizer(folder / e.tokenizer, e.tokenizers[0]) for e in family.given(index)}
    checks.check_sizes(folder, family, shape, vae_shape)
    schedule = _schedule(folder, family, family.latent_size(shape.config), device)
    encoders = {}
    for encoder in family.given(index):
        network = load_part(getattr(transformers, encoder.kind), folder / encoder.part, dtype=torch.float32)
        checks.check_text(folder, encoder, network, tokenizers[encoder.tokenizer])
        large = sum(p.numel() for p in network.parameters()) >= LARGE
        encoders[encoder.part] = network.to(torch.bfloat16 if large else torch.float32).eval().requires_grad_(False)
    pipeline = _assembled(family, index, {family.part: shape, "vae": vae_shape, "scheduler": schedule.scheduler, **tokenizers, **encoders})
    found = Diffuser(folder, family, shape, vae_shape, pipeline, schedule, device)
    checks.check_networks(folder, family, shape, vae_shape, found.embed_one(""))
    for network, part in ((shape, family.part), (vae_shape, "vae")):
        checks.check_weights(f"model part {str(folder / part)!r}", network, shapes(needed_weights(folder / part).files))
    vae = load_part(diffusers.AutoencoderKL, folder / "vae").float().eval().requires_grad_(False)
    return replace(found, vae=vae.to(device, memory_format=torch.channels_last))  # a third faster, on CPUs too


def _schedule(folder: Path, family: Family, latent: tuple[int, int], device: torch.device) -> Schedule:
    scheduler = checks.load_scheduler(folder, family)
    try:
        return path_of(scheduler, device, image_tokens=family.tokens(latent), even_sigmas=family.even_sigmas)
    except ValueError as error:
        raise ModelError(f"model={str(folder)!r}: its scheduler cannot be used: {error}") from error


def _assembled(family: Family, index: dict[str, Any], parts: dict[str, Any]) -> Any:
    """Return diffusers' pipeline of the parts; other parts are absent, and other settings as the index has them."""
    import diffusers  # see `samplers`

    kind = getattr(diffusers, family.pipeline)
    wanted = {name: p.default for name, p in inspect.signature(kind.__init__).parameters.items() if name != "self"}
    settings = {name: index[name] for name in wanted if name in index and not isinstance(index[name], list)}
    absent = {name: None for name, default in wanted.items() if default in (inspect.Parameter.empty, None)}
    made = kind(**absent | settings | ({"requires_safety_checker": False} if "requires_safety_checker" in wanted else {}) | parts)
    made.register_to_config(**{name: value for name, value in index.items() if name.startswith("_absent_")})
    return made
