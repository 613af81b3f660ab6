"""The base model: a UNet trained on the base images under a text encoder that already reads, mediocre and sometimes wrong by design.

What makes its hand: the caption reaches every block (pooled into the time embedding, as `addition_embed_type="text"` does, so an
ordinary pipeline needs no further argument) and not only the attention at the bottom; times are drawn where shapes are decided;
latents have one scale in every channel; the weights are averaged. And precision at high noise: there the noise is all but the
input, and an error of .003 in it, which the plain loss hardly sees, is an error in the image larger than the image. So the UNet
starts as the copy of its input, and errors count as they do in the velocity.
"""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from selfimprove.shapes.image_sets import base_set
from selfimprove.shapes.pretrain.fit import Hold, Workshop, fit
from selfimprove.shapes.pretrain.text import WIDTH, text_states
from selfimprove.shapes.pretrain.vae import DOWNSAMPLING, LATENT_CHANNELS
from selfimprove.shapes.render import IMAGE_SIZE, render

STEPS, BATCH, LR = 40_000, 64, 1e-3
IMAGES = 48_000
DROPOUT = 0.1  # share of captions replaced by the empty one, for classifier-free guidance
NEAR = 0.5  # share of times drawn near the middle, where shapes are decided; the others are uniform
MIDDLE, SPREAD = 0.3, 1.0  # of the logits of those times, as a share of all
MOST = 100.0  # an error in the noise counts 1 / alpha-bar, as in the velocity, and at most this


def build_unet() -> UNet2DConditionModel:
    """Three levels; attention at the lowest; the caption in every block.

    Few groups in the norms: a group of two channels takes the mean over the image out of both, and with it the ground's colour.
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
    """Make a fresh UNet the copy of its input, which is the best guess of the noise where there is little else.

    Each latent channel and its negative go through the first convolution, the outermost skip and the last norm side by side
    (so their mean is zero and the norm leaves them), and silu(x) - silu(-x) = x. Every other path to the output starts at zero.
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
    """Stable Diffusion's schedule and conventions, but with more noise at its end.

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


@torch.inference_mode()
def encode(vae: AutoencoderKL, images: Tensor, batch_size: int = 128) -> tuple[Tensor, Tensor]:
    """Scaled posterior means and standard deviations of images in [0, 1], in half precision."""
    parts = [vae.encode(2 * x.to(vae.device) - 1).latent_dist for x in images.split(batch_size)]
    scale = vae.config.scaling_factor
    return torch.cat([(p.mean * scale).half() for p in parts]), torch.cat([(p.std * scale).half() for p in parts])


def _cache(workshop: Workshop, vae: AutoencoderKL, tokenizer: CLIPTokenizer, encoder: CLIPTextModel) -> dict[str, Tensor]:
    """Latents of the base images and states of their captions, made once: a step is then the UNet alone."""
    path = workshop.folder / "checkpoints" / "base.pt"
    if not path.exists():
        captions, drawn = base_set(workshop.steps(IMAGES), workshop.seed)
        parts = [encode(vae, render(type(drawn)(*part))[0]) for part in zip(*(x.split(1024) for x in drawn), strict=True)]
        mean, std = (torch.cat(side).cpu() for side in zip(*parts, strict=True))
        texts = list(dict.fromkeys(["", *(c.text for c in captions)]))  # the empty caption is row 0
        number = {text: i for i, text in enumerate(texts)}
        rows = torch.tensor([number[c.text] for c in captions])
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"mean": mean, "std": std, "texts": text_states(encoder, tokenizer, texts).cpu(), "rows": rows}, path)
    return torch.load(path, weights_only=True)


def draw_times(draws: torch.Generator, times: int) -> Tensor:
    """A batch of time steps: uniform, or logistic-normal about the middle."""
    near = (MIDDLE + SPREAD * torch.randn(BATCH, generator=draws)).sigmoid()
    uniform = torch.rand(BATCH, generator=draws)
    return (torch.where(torch.rand(BATCH, generator=draws) < NEAR, near, uniform) * times).long().clamp_max(times - 1)


def train_generator(workshop: Workshop, vae: AutoencoderKL, tokenizer: CLIPTokenizer, encoder: CLIPTextModel) -> StableDiffusionPipeline:
    """Train by noise prediction on `base_set`, errors weighted towards high noise."""
    noise_scheduler, device = scheduler(), workshop.device
    cached = {k: v.to(device) for k, v in _cache(workshop, vae, tokenizer, encoder).items()}
    torch.manual_seed(workshop.seed)
    unet = copying(build_unet()).to(device)
    alphas = noise_scheduler.alphas_cumprod.to(device)

    def loss(draws: torch.Generator) -> Tensor:
        rows = torch.randint(len(cached["mean"]), (BATCH,), generator=draws).to(device)
        dropped = (torch.rand(BATCH, generator=draws) < DROPOUT).to(device)
        times = draw_times(draws, noise_scheduler.config.num_train_timesteps).to(device)
        posterior, noise = torch.randn(2, BATCH, *cached["mean"].shape[1:], generator=draws).to(device)
        latents = cached["mean"][rows].float() + cached["std"][rows].float() * posterior
        text = cached["texts"][cached["rows"][rows].masked_fill(dropped, 0)].float()
        noisy = noise_scheduler.add_noise(latents, noise, times)
        errors = (unet(noisy, times, text).sample.float() - noise).square().mean((1, 2, 3))
        return (errors / alphas[times].clamp_min(1 / MOST)).mean()

    fit(workshop, "generator", unet, loss, workshop.steps(STEPS), LR, hold=Hold())
    return StableDiffusionPipeline(
        vae=vae, text_encoder=encoder, tokenizer=tokenizer, unet=unet, scheduler=noise_scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
