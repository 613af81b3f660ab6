"""Train the base model: a UNet on the base images, under a text encoder that already reads, mediocre and sometimes wrong by design.

Four things make its hand good. The caption reaches every block (pooled into the time embedding, as `addition_embed_type="text"` does, so
an ordinary pipeline needs no further argument), and not only the attention at the bottom. Times are drawn where shapes are decided.
Latents have one scale in every channel. The weights are averaged. The fifth is precision at high noise. There the noise is almost all of
the input, and an error of 0.003 in it, which the plain loss hardly sees, is an error in the image larger than the image. So the UNet
starts as the copy of its input, and errors count as they do in the velocity.
"""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from selfimprove.shapes.render import IMAGE_SIZE
from selfimprove_lab.pretrain.cache import base_cache, choose, noise_and_latents
from selfimprove_lab.pretrain.fit import Hold, Workshop, fit
from selfimprove_lab.pretrain.text import WIDTH, text_states
from selfimprove_lab.pretrain.vae import DOWNSAMPLING, LATENT_CHANNELS

STEPS, BATCH, LR = 40_000, 64, 1e-3
IMAGES = 48_000
DROPOUT = 0.1  # share of captions replaced by the empty one, for classifier-free guidance
NEAR = 0.5  # share of times drawn near the middle, where shapes are decided; the others are uniform
MIDDLE, SPREAD = 0.3, 1.0  # of the logits of those times, as a share of all
MOST = 100.0  # an error in the noise counts 1 / alpha-bar, as in the velocity, and at most this


def build_unet() -> UNet2DConditionModel:
    """Return a UNet of three levels, with attention at the lowest and the caption in every block.

    The norms have few groups: a group of two channels takes the mean over the image out of both, and with it the ground's colour.
    """
    return UNet2DConditionModel(
        sample_size=IMAGE_SIZE // DOWNSAMPLING,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


@torch.no_grad()
def copying(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Make a fresh UNet copy its input, which is the best guess of the noise where there is little else, and return the UNet.

    Each latent channel and its negative go side by side through the first convolution, the outermost skip and the last norm. Their mean
    is zero, so the norm leaves them, and silu(x) - silu(-x) = x. Every other path to the output starts at zero.
    """
    last, width, channels = unet.up_blocks[-1].resnets[-1], unet.config.block_out_channels[0], unet.config.in_channels
    group = width // unet.config.norm_num_groups
    pairs = -(-channels // unet.config.norm_num_groups)  # of each group that holds any
    held = group * -(-channels // pairs)  # rows of those groups: beside the pairs they start at zero, and can grow
    last.conv2.weight.zero_()
    last.conv2.bias.zero_()
    last.conv_shortcut.weight[:held] = 0
    last.conv_shortcut.bias[:held] = 0
    unet.conv_out.weight[:, held:] = 0
    unet.conv_out.bias.zero_()
    for channel in range(channels):
        for side, sign in enumerate((1.0, -1.0)):
            row = channel // pairs * group + 2 * (channel % pairs) + side
            unet.conv_in.weight[row] = 0
            unet.conv_in.bias[row] = 0
            unet.conv_in.weight[row, channel, 1, 1] = sign
            last.conv_shortcut.weight[row, last.conv_shortcut.in_channels - width + row] = 1
            unet.conv_out.weight[:, row] = 0
            unet.conv_out.weight[channel, row, 1, 1] = sign * (2 * pairs / group) ** 0.5  # undoes the norm
    return unet


def scheduler() -> DDIMScheduler:
    """Return Stable Diffusion's schedule and conventions, but with more noise at the end.

    The background is one colour over all positions of a latent. With Stable Diffusion's last alpha of .0047 it shows through
    the noise, the network reads it there instead of in the caption, and samples come out grey.
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def draw_times(draws: torch.Generator, times: int) -> Tensor:
    """Return a batch of time steps: uniform, or logistic-normal about the middle."""
    near = (MIDDLE + SPREAD * torch.randn(BATCH, generator=draws)).sigmoid()
    uniform = torch.rand(BATCH, generator=draws)
    return (torch.where(torch.rand(BATCH, generator=draws) < NEAR, near, uniform) * times).long().clamp_max(times - 1)


def train_generator(workshop: Workshop, vae: AutoencoderKL, tokenizer: CLIPTokenizer, encoder: CLIPTextModel) -> StableDiffusionPipeline:
    """Train by noise prediction (SPIN-Diffusion eq. 3.3) on `base_set`, with errors weighted towards high noise."""
    noise_scheduler, device = scheduler(), workshop.device
    cached = base_cache(workshop, vae, IMAGES, lambda texts: {"texts": text_states(encoder, tokenizer, texts)})
    torch.manual_seed(workshop.seed)
    unet = copying(build_unet()).to(device)
    alphas = noise_scheduler.alphas_cumprod.to(device)

    def loss(draws: torch.Generator) -> Tensor:
        images, captions = choose(cached, BATCH, DROPOUT, draws)
        times = draw_times(draws, noise_scheduler.config.num_train_timesteps).to(device)
        noise, latents = noise_and_latents(cached, images, draws)
        noisy = noise_scheduler.add_noise(latents, noise, times)
        errors = (unet(noisy, times, cached["texts"][captions].float()).sample.float() - noise).square().mean((1, 2, 3))
        return (errors / alphas[times].clamp_min(1 / MOST)).mean()

    fit(workshop, "generator", unet, loss, workshop.steps(STEPS), LR, hold=Hold())
    return StableDiffusionPipeline(
        vae=vae, text_encoder=encoder, tokenizer=tokenizer, unet=unet, scheduler=noise_scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
