"""Build Stable Diffusion's networks at their true sizes, without weights, for pages and benchmarks that count and time."""

from functools import cache
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPModel

from selfimprove.planning.costs import Held, ScorerMemory, Shapes
from selfimprove.scorers.openclip import VIT_H_14


class Shapes3(Shapes):
    """The shapes of Stable Diffusion 3, whose transformer reads text tokens beside the latent's patches, and a pooled embedding besides."""

    @property
    def text(self) -> tuple[int, int]:
        """Return (tokens, width) of a prompt's embedding."""
        return self.tokens, self.unet.config.joint_attention_dim

    def inputs(self, batch: int) -> tuple[Tensor, ...]:
        """Return (x_t, text, pooled text, t) for the transformer."""
        noisy, t, text = super().inputs(batch)
        return noisy, text, torch.zeros(batch, self.unet.config.pooled_projection_dim), t


_VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2,
    "block_out_channels": (128, 256, 512, 512),
}  # fmt: skip
CLIP_TEXT = 123_060_480  # weights of CLIP ViT-L/14's text encoder
SD3_TEXT = 123_650_304 + 694_659_840 + 4_762_310_656  # of the same and of ViT-bigG/14's, both with projections, and of T5 v1.1 XXL's


def stable_diffusion() -> Shapes:
    """Return the shapes of Stable Diffusion 1.x at 512 pixels, on a GPU; no weights are made or read."""
    with FakeTensorMode():
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        vae = AutoencoderKL(**_VAE)
    return Shapes(unet, vae, (4, 64, 64), (512, 512), 77, "cuda", _resident(CLIP_TEXT, vae))


def stable_diffusion_3() -> Shapes3:
    """Return the shapes of Stable Diffusion 3 medium at 1,024 pixels, on a GPU; it can be counted here, not run.

    The depth is 24, with 24 heads of 64 channels, as in its paper. The rest is as in diffusers' scripts/convert_sd3_to_diffusers.py, which
    writes the published folder, and the pipeline's 77 + 256 tokens.
    """
    with FakeTensorMode():
        transformer = SD3Transformer2DModel(num_layers=24, num_attention_heads=24, caption_projection_dim=24 * 64, pos_embed_max_size=192)
        vae = AutoencoderKL(**_VAE, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)
    return Shapes3(transformer, vae, (16, 128, 128), (1024, 1024), 77 + 256, "cuda", _resident(SD3_TEXT, vae))


def _resident(text_encoders: int, vae: nn.Module) -> int:
    return 4 * (text_encoders + sum(p.numel() for p in vae.parameters()))


@cache
def largest_scorer(batch: int = 16) -> ScorerMemory:
    """Return what the largest published scorer, a CLIP ViT-H/14 (PickScore, HPSv2), holds while it scores a batch; no weights are read."""
    with FakeTensorMode(), (held := Held()), torch.no_grad():
        network = CLIPModel(VIT_H_14).eval()
        weights = held.peak = held.now
        network.get_image_features(pixel_values=torch.zeros(batch, 3, 224, 224))
    return ScorerMemory(weights, (held.peak - weights) // batch, batch)
