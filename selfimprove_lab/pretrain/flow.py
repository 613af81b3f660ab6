"""Train the base model of the world `shapes-flow`, a small Stable Diffusion 3, from nothing: python -m selfimprove_lab.pretrain.flow.

The autoencoder and the base images are those of `shapes`. Two CLIP text encoders are trained on captions alone, then kept. The
transformer is trained by flow matching, with averaged weights. A killed run continues from its last checkpoint.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from selfimprove.files import read_json, write_json
from selfimprove.models.sd3 import ABSENT as MARK
from selfimprove.shapes import FLOW
from selfimprove.shapes.render import IMAGE_SIZE
from selfimprove_lab.pretrain.cache import base_cache, choose, noise_and_latents
from selfimprove_lab.pretrain.fit import Hold, Workshop, fit
from selfimprove_lab.pretrain.stages import load_autoencoder, run_stages, save_pipeline
from selfimprove_lab.pretrain.text import PROJECTED, WIDTH, train_text_encoder
from selfimprove_lab.pretrain.tokenizer import train_tokenizer

STEPS, BATCH, LR = 40_000, 64, 1e-3
IMAGES = 48_000
DROPOUT = 0.1  # share of captions replaced by the empty one, for classifier-free guidance
LENGTH = 20  # tokens of a caption: those of the grammar have at most 15
TEXT_LAYERS = (3, 2)  # of the two text encoders
LAYERS, HEADS, HEAD = 6, 4, 32  # of the transformer; its width is HEADS * HEAD
PATCHES = 8  # along each side of a latent
SHIFT = 3.0  # of the times towards noise, as in Stable Diffusion 3: at the median time 0.75 shapes are decided
UNIFORM = 0.25  # share of times that are uniform, because the logit-normal law leaves both ends out
ABSENT = 256  # tokens of zeros with which the plain pipeline stands in for an absent T5


class Counted(TorchFunctionMode):
    """Attend to the last key of each image as if it were there `count` times.

    Equal tokens stay equal in every layer, because the caption's tokens have no positions. So one token of zeros, with the logarithm of
    their number added to its logits, is all of them, and costs a two-hundredth.
    """

    def __init__(self, count: Tensor) -> None:
        super().__init__()
        self.logs = count.log()[:, None, None]  # (B, 1, 1)

    def __torch_function__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if function is not F.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        query, key, value = args  # (B, heads, tokens, HEAD)
        logits = (query * query.shape[-1] ** -0.5) @ key.mT
        logits = torch.cat([logits[..., :-1], logits[..., -1:] + self.logs[..., None].to(logits.dtype)], -1)
        return logits.softmax(-1, dtype=logits.dtype) @ value


def build_transformer(vae: AutoencoderKL) -> SD3Transformer2DModel:
    """Return a fresh transformer for the latents of an autoencoder, of PATCHES x PATCHES tokens.

    Every block starts as the identity and the output as zero (adaLN-zero, as in DiT).
    """
    size, channels = IMAGE_SIZE // 2 ** (len(vae.config.block_out_channels) - 1), vae.config.latent_channels
    transformer = SD3Transformer2DModel(
        sample_size=size,
        patch_size=size // PATCHES,
        in_channels=channels,
        out_channels=channels,
        num_layers=LAYERS,
        attention_head_dim=HEAD,
        num_attention_heads=HEADS,
        joint_attention_dim=WIDTH * len(TEXT_LAYERS),
        caption_projection_dim=HEADS * HEAD,
        pooled_projection_dim=PROJECTED * len(TEXT_LAYERS),
        pos_embed_max_size=PATCHES,
    )
    modulations = [m.linear for m in transformer.modules() if isinstance(m, (AdaLayerNormZero, AdaLayerNormContinuous))]
    for linear in (*modulations, transformer.proj_out):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return transformer


def build_pipeline(workshop: Workshop, vae: AutoencoderKL) -> StableDiffusion3Pipeline:
    """Return a pipeline with trained text encoders and a fresh transformer."""
    tokenizers = [train_tokenizer() for _ in TEXT_LAYERS]
    for tokenizer in tokenizers:
        tokenizer.model_max_length = LENGTH
    names = ("flow-text", "flow-text-2")
    encoders = [
        train_text_encoder(workshop, tokenizer, name, layers, projected=True).eval()
        for tokenizer, name, layers in zip(tokenizers, names, TEXT_LAYERS, strict=True)
    ]
    vae.register_to_config(shift_factor=vae.config.shift_factor or 0.0)  # the pipeline subtracts it
    torch.manual_seed(workshop.seed)
    return StableDiffusion3Pipeline(
        transformer=build_transformer(vae).to(workshop.device), scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT), vae=vae,
        text_encoder=encoders[0], tokenizer=tokenizers[0], text_encoder_2=encoders[1], tokenizer_2=tokenizers[1],
        text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip


@torch.inference_mode()
def embed(pipeline: StableDiffusion3Pipeline, texts: list[str], batch_size: int = 256) -> dict[str, Tensor]:
    """Return what the transformer is given, in half precision: `text` (B, LENGTH + 1, width), the last token zeros, and `pooled`."""
    parts = []
    for start in range(0, len(texts), batch_size):
        some = texts[start : start + batch_size]
        text, _, pooled, _ = pipeline.encode_prompt(some, None, None, do_classifier_free_guidance=False, max_sequence_length=1)
        parts.append((text.half(), pooled.half()))
    return dict(zip(("text", "pooled"), map(torch.cat, zip(*parts, strict=True)), strict=True))


def draw_sigmas(draws: torch.Generator, count: int) -> Tensor:
    """Return shares of noise in (0, 1): logit-normal, shifted by SHIFT, and some uniform, (count,)."""
    shifted = (torch.randn(count, generator=draws) + math.log(SHIFT)).sigmoid()
    uniform = torch.rand(count, generator=draws)
    return torch.where(torch.rand(count, generator=draws) < UNIFORM, uniform, shifted)


def train_flow(workshop: Workshop, vae: AutoencoderKL) -> StableDiffusion3Pipeline:
    """Train by flow matching on `base_set`: the error of the velocity, noise minus latent (Stable Diffusion 3, eq. 13), unweighted.

    Half of each batch sees as many tokens of zeros as the plain pipeline gives, the other half a single one. Then users may ask for
    `max_sequence_length=1`, which draws the same law with a quarter of the tokens.
    """
    pipeline = build_pipeline(workshop, vae)
    transformer, device = pipeline.transformer, workshop.device
    cached = base_cache(workshop, vae, IMAGES, lambda texts: embed(pipeline, texts))
    count = torch.tensor([1.0, ABSENT], device=device).repeat(BATCH // 2)

    def loss(draws: torch.Generator) -> Tensor:
        images, captions = choose(cached, BATCH, DROPOUT, draws)
        sigmas = draw_sigmas(draws, BATCH).to(device)
        noise, latents = noise_and_latents(cached, images, draws)
        share = sigmas[:, None, None, None]
        with Counted(count):
            velocity = transformer(
                hidden_states=(1 - share) * latents + share * noise, timestep=1000 * sigmas,
                encoder_hidden_states=cached["text"][captions].float(), pooled_projections=cached["pooled"][captions].float(),
            ).sample  # fmt: skip
        return F.mse_loss(velocity.float(), noise - latents)

    fit(workshop, "flow", transformer, loss, workshop.steps(STEPS), LR, hold=Hold())
    return pipeline


def stages(workshop: Workshop) -> None:
    """Write the pipeline folder, unless it is there."""
    folder = workshop.folder / "pipeline"
    if not (folder / "model_index.json").exists():
        save_pipeline(train_flow(workshop, load_autoencoder(workshop)), folder)
    write_json(folder / "model_index.json", read_json(folder / "model_index.json") | {MARK: 1})  # see `train_flow`


if __name__ == "__main__":
    run_stages(stages, "selfimprove_lab.pretrain.flow", __doc__, FLOW)
