"""Train the base model: a text encoder and a UNet, trained together on the base images, mediocre and sometimes wrong by design."""

from functools import partial

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from selfimprove.shapes.image_sets import base_set
from selfimprove.shapes.render import IMAGE_SIZE, render
from selfimprove_lab.pretrain.fit import Workshop, fit
from selfimprove_lab.pretrain.text import WIDTH, text_config
from selfimprove_lab.pretrain.vae import LATENT_CHANNELS

BATCH = 64
# Name, optimiser steps, peak learning rate (each cycle ends at 0), share of time steps drawn near the middle. The first cycle learns
# colours, sizes and backgrounds. The second cycle learns the shapes, which are decided near the middle.
CYCLES = (("generator", 4800, 1.3e-3, 0.0), ("generator-2", 4400, 1.0e-3, 0.5))
STEPS = sum(cycle[1] for cycle in CYCLES)
IMAGES = 24_000
DROPOUT = 0.1  # share of captions replaced by the empty one, for classifier-free guidance


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=IMAGE_SIZE // 8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def scheduler() -> DDIMScheduler:
    """Return Stable Diffusion's schedule and conventions, but with more noise at the end.

    The background has one colour at all 64 positions of a latent. With Stable Diffusion's last alpha of 0.0047 the background shows
    through the noise. The network then reads it there and not in the caption, and samples come out grey.
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@torch.inference_mode()
def _encode(vae: AutoencoderKL, images: Tensor, batch_size: int = 128) -> tuple[Tensor, Tensor]:
    """Return scaled posterior means and standard deviations of images in [0, 1]."""
    parts = [vae.encode(2 * x.to(vae.device) - 1).latent_dist for x in images.split(batch_size)]
    scale = vae.config.scaling_factor
    return torch.cat([p.mean for p in parts]) * scale, torch.cat([p.std for p in parts]) * scale


def train_generator(workshop: Workshop, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """Train by noise prediction (SPIN-Diffusion eq. 3.3, constant gamma_t) on `base_set`."""
    torch.manual_seed(workshop.seed)
    noise_scheduler = scheduler()
    parts = nn.ModuleDict({"unet": build_unet(), "text": CLIPTextModel(text_config(tokenizer, layers=3))})
    parts = parts.to(workshop.device)
    captions, drawn = base_set(workshop.steps(IMAGES), workshop.seed)
    mean, std = _encode(vae, render(drawn)[0])
    tokens = tokenizer([c.text for c in captions] + [""], padding="max_length", return_tensors="pt").input_ids
    tokens = tokens.to(workshop.device)

    def loss(draws: torch.Generator, middle: float) -> Tensor:
        rows = torch.randint(len(mean), (BATCH,), generator=draws)
        dropped = torch.rand(BATCH, generator=draws) < DROPOUT
        times = noise_scheduler.config.num_train_timesteps
        steps = torch.randint(times, (BATCH,), generator=draws)
        if middle:
            near = (torch.randn(BATCH, generator=draws).sigmoid() * times).long()
            steps = torch.where(torch.rand(BATCH, generator=draws) < middle, near, steps)
        steps = steps.to(workshop.device)
        posterior, noise = torch.randn(2, BATCH, *mean.shape[1:], generator=draws).to(workshop.device)
        latents = mean[rows] + std[rows] * posterior
        noisy = noise_scheduler.add_noise(latents, noise, steps)
        text = parts["text"](tokens[torch.where(dropped, len(captions), rows)])[0]
        return F.mse_loss(parts["unet"](noisy, steps, text).sample.float(), noise)

    for name, steps, lr, middle in CYCLES:
        fit(workshop, name, parts, partial(loss, middle=middle), workshop.steps(steps), lr)
    return StableDiffusionPipeline(
        vae=vae, text_encoder=parts["text"], tokenizer=tokenizer, unet=parts["unet"], scheduler=noise_scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
