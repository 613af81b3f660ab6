"""Make what a denoiser is trained on once: latents of the base images, and embeddings of their captions."""

from collections.abc import Callable

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from selfimprove.shapes.image_sets import base_set
from selfimprove.shapes.render import Drawing, render
from selfimprove_lab.pretrain.fit import Workshop


@torch.inference_mode()
def encode(vae: AutoencoderKL, images: Tensor, batch_size: int = 128) -> tuple[Tensor, Tensor]:
    """Return scaled posterior means and standard deviations of images in [0, 1], in half precision."""
    parts = [vae.encode(2 * x.to(vae.device) - 1).latent_dist for x in images.split(batch_size)]
    scale = vae.config.scaling_factor
    return torch.cat([(p.mean * scale).half() for p in parts]), torch.cat([(p.std * scale).half() for p in parts])


def base_cache(workshop: Workshop, vae: AutoencoderKL, images: int, embed: Callable[[list[str]], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return `mean` and `std` of the latents of `images` base images, `rows` (each image's caption), and what `embed` makes of captions.

    The embeddings have one row per different caption. Row 0 is the empty caption. All lie on the workshop's device, and in a file beside
    the checkpoints, which a continued run reads.
    """
    path = workshop.folder / "checkpoints" / "base.pt"
    if not path.exists():
        captions, drawn = base_set(workshop.steps(images), workshop.seed)
        parts = [encode(vae, render(Drawing(*part))[0]) for part in zip(*(x.split(1024) for x in drawn), strict=True)]
        mean, std = (torch.cat(side).cpu() for side in zip(*parts, strict=True))
        texts = list(dict.fromkeys(["", *(c.text for c in captions)]))
        number = {text: i for i, text in enumerate(texts)}
        rows = torch.tensor([number[c.text] for c in captions])
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"mean": mean, "std": std, "rows": rows} | {k: v.cpu() for k, v in embed(texts).items()}, path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)
    return {k: v.to(workshop.device) for k, v in torch.load(path, weights_only=True).items()}


def choose(cached: dict[str, Tensor], batch: int, dropout: float, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the numbers of `batch` images, and the rows of their captions' embeddings, both (B,).

    A share `dropout` of the captions is replaced by the empty one, for classifier-free guidance.
    """
    images = torch.randint(len(cached["mean"]), (batch,), generator=draws).to(cached["mean"].device)
    dropped = (torch.rand(batch, generator=draws) < dropout).to(images.device)
    return images, cached["rows"][images].masked_fill(dropped, 0)


def noise_and_latents(cached: dict[str, Tensor], images: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return noise, and latents drawn from the posteriors of the images, both (B, C, H, W)."""
    posterior, noise = torch.randn(2, len(images), *cached["mean"].shape[1:], generator=draws).to(images.device)
    return noise, cached["mean"][images].float() + cached["std"][images].float() * posterior
