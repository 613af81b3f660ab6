"""Build Stable Diffusion's networks at their true sizes, without weights, for pages and benchmarks that count and time."""

from functools import cache
from typing import Any, NamedTuple

import diffusers
import torch
from diffusers import AutoencoderKL
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPModel

from selfimprove.models.families import FAMILIES
from selfimprove.planning.costs import Held, ScorerMemory, Shapes
from selfimprove.scorers.openclip import VIT_H_14

CLIP_TEXT = 123_060_480  # weights of CLIP ViT-L/14's text encoder
CLIP_L, CLIP_G, T5_XXL = 123_650_304, 694_659_840, 4_762_310_656  # of the same and of ViT-bigG/14's with projections, and of T5 v1.1 XXL's
_BLOCKS: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2,
    "block_out_channels": (128, 256, 512, 512),
}  # fmt: skip
_VAE_16 = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
_SD3_TEXT = {"text": (77 + 256, 4096), "pooled": (2048,)}


class TrueSize(NamedTuple):
    """A published model: its family, its denoiser's configuration, what its VAE differs in, its conditioning, and its text encoders' bytes.

    `side`: of an image, in latents.
    """

    pipeline: str
    denoiser: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, tuple[int, ...]]
    encoders: int
    side: int


# The depth of SD3 medium is 24, with 24 heads of 64 channels, as in its paper; 3.5's are those of its published configurations. The rest is
# as in diffusers' scripts/convert_sd3_to_diffusers.py, which writes the folders, and the pipeline's 77 + 256 tokens.
_SD3 = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 24 * 64, "pos_embed_max_size": 192}
TRUE_SIZES = {
    "sd15": TrueSize(
        "StableDiffusionPipeline", {"sample_size": 64, "cross_attention_dim": 768}, {}, {"text": (77, 768)}, 4 * CLIP_TEXT, 64
    ),
    "sdxl": TrueSize(
        "StableDiffusionXLPipeline",
        {
            "sample_size": 128, "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), "cross_attention_dim": 2048,
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": (5, 10, 20),
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
            "use_linear_projection": True,
        },
        {}, {"text": (77, 2048), "pooled": (1280,), "pixels": (1,)}, 4 * (CLIP_TEXT + CLIP_G), 128,
    ),
    "sd3": TrueSize("StableDiffusion3Pipeline", _SD3, _VAE_16, _SD3_TEXT, 4 * (CLIP_L + CLIP_G) + 2 * T5_XXL, 128),
    "sd35": TrueSize(
        "StableDiffusion3Pipeline",
        _SD3 | {"pos_embed_max_size": 384, "qk_norm": "rms_norm", "dual_attention_layers": tuple(range(13))},
        _VAE_16, _SD3_TEXT, 4 * (CLIP_L + CLIP_G) + 2 * T5_XXL, 128,
    ),
    "sd35-large": TrueSize(
        "StableDiffusion3Pipeline",
        {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 38 * 64, "pos_embed_max_size": 192, "qk_norm": "rms_norm"},
        _VAE_16, _SD3_TEXT, 4 * (CLIP_L + CLIP_G) + 2 * T5_XXL, 128,
    ),
    "flux": TrueSize(
        "FluxPipeline", {"guidance_embeds": True}, _VAE_16, {"text": (512, 4096), "pooled": (768,), "guidance": ()},
        4 * CLIP_TEXT + 2 * T5_XXL, 128,
    ),
}  # fmt: skip


def true_size(name: str) -> Shapes:
    """Return the shapes of a published model on a GPU; no weights are made or read, so it can be counted here, not run."""
    size, family = TRUE_SIZES[name], FAMILIES[TRUE_SIZES[name].pipeline]
    with FakeTensorMode():
        denoiser = getattr(diffusers, family.network)(**size.denoiser)
        vae = AutoencoderKL(**_BLOCKS | size.vae)
    latent = (family.channels(denoiser.config), size.side, size.side)
    return Shapes(family, denoiser, vae, latent, (8 * size.side, 8 * size.side), size.text, "cuda", size.encoders)


@cache
def largest_scorer(batch: int = 16) -> ScorerMemory:
    """Return what the largest published scorer, a CLIP ViT-H/14 (PickScore, HPSv2), holds while it scores a batch; no weights are read."""
    with FakeTensorMode(), (held := Held()), torch.no_grad():
        network = CLIPModel(VIT_H_14).eval()
        weights = held.peak = held.now
        network.get_image_features(pixel_values=torch.zeros(batch, 3, 224, 224))
    return ScorerMemory(weights, (held.peak - weights) // batch, batch)
