"""Train the autoencoder: 64-pixel images to 8x8 latents of 16 channels, with a larger weight on errors inside the shape.

With a plain pixel loss the background dominates: colours and small shapes are lost while the PSNR looks good. The renderer knows
where the shape is, so an error there counts nine times.
"""

import torch
from diffusers import AutoencoderKL

from selfimprove.draws import generator
from selfimprove.shapes.render import IMAGE_SIZE, render
from selfimprove_lab.pretrain.fit import Workshop, collage, fit, random_drawing

STEPS, BATCH, LR = 5200, 16, 2e-3
LATENT_CHANNELS = 16
MASK_WEIGHT = 8.0
KL_WEIGHT = 3e-4  # per latent dimension; keeps the latents smooth (posterior std about 0.05 of the latents' std)
COLLAGES = 3  # images per batch that are no scenes, so that other people's images survive the round trip


def train_vae(workshop: Workshop) -> AutoencoderKL:
    """Train on scenes of every quality, held-out scenes included, because the autoencoder sees no captions."""
    torch.manual_seed(workshop.seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
    ).to(workshop.device, memory_format=torch.channels_last)

    def loss(draws: torch.Generator) -> torch.Tensor:
        images, masks = render(random_drawing(BATCH, draws))
        images[:COLLAGES] = collage(images, masks, draws)[:COLLAGES]
        images, masks = images.to(workshop.device), masks.to(workshop.device)
        target = (2 * images - 1).contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(target).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=draws).to(workshop.device)
        error = vae.decode(posterior.mean + posterior.std * noise).sample.float() - target
        weight = 1 + MASK_WEIGHT * masks
        reconstruction = (weight * error.abs()).mean() + 3 * (weight * error**2).mean()
        return reconstruction + KL_WEIGHT * posterior.kl().float().mean() / posterior.mean[0].numel()

    fit(workshop, "vae", vae, loss, workshop.steps(STEPS), LR)
    images, _ = render(random_drawing(1024, generator(workshop.seed, "pretrain/vae/scale"), low=0.1, high=0.9))
    with torch.inference_mode():
        latents = [vae.encode((2 * x - 1).to(workshop.device)).latent_dist.mean for x in images.split(64)]
    vae.register_to_config(scaling_factor=1 / torch.cat(latents).std().item())
    return vae.to(memory_format=torch.contiguous_format)
