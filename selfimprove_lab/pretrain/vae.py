"""Train the autoencoder: 64-pixel images to 16x16 latents of 6 channels, with a larger weight on errors in and around the shape.

With a plain pixel loss the background dominates: colours and small shapes are lost while the PSNR looks good. The renderer knows
where the shape is, so an error there counts nine times. An error around the shape counts as much: otherwise filling the gaps of a star
costs a ninth of what its arms cost, and small stars become discs. With 8x8 latents a small shape lies in four of them, which blurs it.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from selfimprove.draws import generator
from selfimprove.shapes.render import IMAGE_SIZE, render
from selfimprove_lab.pretrain.fit import Workshop, collage, fit, random_drawing

STEPS, BATCH, LR = 5200, 16, 2e-3
LATENT_CHANNELS = 6
DOWNSAMPLING = 4
MASK_WEIGHT = 8.0
AROUND = 3  # pixels around the shape that count as inside
KL_WEIGHT = 1e-3  # per latent dimension; keeps the latents smooth, and the decoder used to noise in them
COLLAGES = 3  # images per batch that are no scenes, so that other people's images survive the round trip


def train_vae(workshop: Workshop) -> AutoencoderKL:
    """Train on scenes of every quality, held-out scenes included, because the autoencoder sees no captions."""
    torch.manual_seed(workshop.seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
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
        near = F.avg_pool2d(F.max_pool2d(masks, 2 * AROUND + 1, 1, AROUND), 3, 1, 1)
        weight = 1 + MASK_WEIGHT * near
        slopes = (weight[..., 1:] * error.diff(dim=3).abs()).mean() + (weight[..., 1:, :] * error.diff(dim=2).abs()).mean()
        reconstruction = (weight * error.abs()).mean() + 3 * (weight * error**2).mean() + slopes
        return reconstruction + KL_WEIGHT * posterior.kl().float().mean() / posterior.mean[0].numel()

    fit(workshop, "vae", vae, loss, workshop.steps(STEPS), LR)
    images, _ = render(random_drawing(1024, generator(workshop.seed, "pretrain/vae/scale"), low=0.1, high=0.9))
    return standardise(vae, images).to(memory_format=torch.contiguous_format)


@torch.no_grad()
def standardise(vae: AutoencoderKL, images: torch.Tensor) -> AutoencoderKL:
    """Give every latent channel mean 0 and variance 1 over the images, by the 1x1 convolutions around it. The scaling is then 1."""
    posteriors = [vae.encode((2 * x - 1).to(vae.device)).latent_dist for x in images.split(64)]
    mean, variance = torch.cat([p.mean for p in posteriors]), torch.cat([p.var for p in posteriors])
    middle = mean.mean((0, 2, 3))
    spread = (mean.var((0, 2, 3)) + variance.mean((0, 2, 3))).sqrt()
    quant, post, channels = vae.quant_conv, vae.post_quant_conv, len(middle)
    post.bias += post.weight[:, :, 0, 0] @ middle
    post.weight *= spread[None, :, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - middle) / spread
    quant.weight[:channels] /= spread[:, None, None, None]
    quant.bias[channels:] -= 2 * spread.log()
    vae.register_to_config(scaling_factor=1.0)
    return vae
