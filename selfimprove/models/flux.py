"""FLUX.1: a transformer of a flow on latents folded 2 x 2, a CLIP for the pooled text, and a T5 for its tokens.

FLUX.1-dev was distilled to draw guided images in one pass, and is given the guidance as a number. That number is part of its conditioning
("guidance" in `embed`, 3.5 as in the plain pipeline), and is no classifier-free guidance: two passes would guide twice.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from selfimprove.models.family import T5, Encoder, Family, times_for
from selfimprove.models.network import Denoiser

T5_TOKENS = 512  # the plain pipeline's default
EMBEDDED_GUIDANCE = 3.5


def embed(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
    """Return the embeddings of T5 tokens, (B, tokens, width), the pooled CLIP output, and the guidance of a distilled model."""
    text, pooled, _ = pipeline.encode_prompt(prompts, None, device=pipeline.text_encoder.device, max_sequence_length=T5_TOKENS)
    tensors = {"text": text, "pooled": pooled}
    if pipeline.transformer.config.guidance_embeds:
        tensors["guidance"] = torch.full((len(prompts),), EMBEDDED_GUIDANCE, dtype=torch.float32, device=text.device)
    return tensors


def fold(latents: Tensor) -> Tensor:
    """Return (B, C, H, W) as tokens, (B, H/2 * W/2, 4 C), each a square of 2 x 2 latents."""
    batch, channels, height, width = latents.shape
    squares = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(batch, (height // 2) * (width // 2), 4 * channels)


def unfold(tokens: Tensor, height: int, width: int) -> Tensor:
    """Undo `fold`."""
    batch, _, folded = tokens.shape
    squares = tokens.view(batch, height // 2, width // 2, folded // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(batch, folded // 4, height, width)


def positions(height: int, width: int, like: Tensor) -> Tensor:
    """Return (0, row, column) of each token, (H/2 * W/2, 3)."""
    rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], 2).view(-1, 3).to(like.device, like.dtype)


def call(network: Denoiser, noisy: Tensor, t: Any, tensors: Mapping[str, Tensor]) -> Tensor:
    """Call the transformer, which takes sigma itself for its time."""
    height, width = noisy.shape[2:]
    tokens = network(
        hidden_states=fold(noisy),
        timestep=times_for(t, noisy).to(noisy.dtype) / 1000,
        guidance=tensors.get("guidance"),
        pooled_projections=tensors["pooled"],
        encoder_hidden_states=tensors["text"],
        txt_ids=torch.zeros(tensors["text"].shape[1], 3, device=noisy.device, dtype=noisy.dtype),
        img_ids=positions(height, width, noisy),
    ).sample
    return unfold(tokens, height, width)


FAMILY = Family(
    "FluxPipeline",
    "transformer",
    "FluxTransformer2DModel",
    embed,
    call,
    encoders=(Encoder(), Encoder("text_encoder_2", "tokenizer_2", "T5EncoderModel", T5, T5_TOKENS)),
    flow=True,
    optional=("image_encoder", "feature_extractor"),
    adapted=("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    patch=2,
    folded=4,
    even_sigmas=True,
    guidance_input="guidance_embeds",
)
