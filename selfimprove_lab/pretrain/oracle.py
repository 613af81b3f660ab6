"""Train the oracle on renders and on their round trips through the autoencoder, debris included."""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from selfimprove.draws import generator
from selfimprove.shapes.oracle import Oracle
from selfimprove.shapes.render import render
from selfimprove_lab.pretrain.fit import Workshop, collage, fit, random_drawing

STEPS, BATCH, LR = 3000, 64, 3e-3
POOL = 14_000  # round trips, made once; they are half of each batch, and the other half is drawn afresh
NEGATIVES = 8  # images per half batch that are no scenes


@torch.inference_mode()
def round_trip(vae: AutoencoderKL, images: Tensor, batch_size: int = 128) -> Tensor:
    """Encode images in [0, 1] to the posterior mean and decode them again, clamped to [0, 1]."""
    device = vae.device
    parts = [vae.decode(vae.encode(2 * x.to(device) - 1).latent_dist.mean).sample.clamp(-1, 1) for x in images.split(batch_size)]
    return torch.cat(parts) / 2 + 0.5


def debris(images: Tensor, masks: Tensor, draws: torch.Generator) -> Tensor:
    """Return images that are no scenes: two shapes, scrambled patches, noise, or the bare background."""
    batch, _, size, _ = images.shape
    half = size // 2
    patches = images.unfold(2, half // 2, half // 2).unfold(3, half // 2, half // 2).flatten(2, 3)  # (B, 3, 16, 16, 16)
    patches = patches[:, :, torch.randperm(16, generator=draws)].unflatten(2, (4, 4))
    scrambled = patches.permute(0, 1, 2, 4, 3, 5).reshape(images.shape)
    coarse = torch.rand(batch, 3, 8, 8, generator=draws)
    noise = F.interpolate(coarse, size=(size, size), mode="bilinear")
    blank = images[:, :, :1, :1].expand_as(images)
    kinds = torch.stack([collage(images, masks, draws), scrambled, noise, blank])
    return kinds[torch.randint(4, (batch,), generator=draws), torch.arange(batch)]


def train_oracle(workshop: Workshop, vae: AutoencoderKL) -> Oracle:
    """Train attributes by cross entropy, scene or not by binary cross entropy, and factors by squared error (scenes only)."""
    torch.manual_seed(workshop.seed)
    oracle = Oracle().to(workshop.device, memory_format=torch.channels_last)
    draws = generator(workshop.seed, "pretrain/oracle/pool")
    pool = random_drawing(workshop.steps(POOL), draws)
    rendered, masks = render(pool)
    trips = round_trip(vae, rendered).cpu()
    wrecks = round_trip(vae, debris(rendered[: POOL // 7], masks[: POOL // 7], draws)).cpu()
    del rendered, masks

    def loss(draws: torch.Generator) -> Tensor:
        half = BATCH // 2
        fresh = random_drawing(half, draws)
        images, masks = render(fresh)
        rows = torch.randint(len(trips), (half,), generator=draws)
        junk = wrecks[torch.randint(len(wrecks), (NEGATIVES,), generator=draws)]
        batch = torch.cat([images, trips[rows], debris(images, masks, draws)[:NEGATIVES], junk]).to(workshop.device)
        attributes = torch.cat([fresh.attributes, pool.attributes[rows]]).to(workshop.device)
        factors = torch.cat([fresh.factors, pool.factors[rows]]).to(workshop.device)
        logits, scene, seen = oracle(batch.contiguous(memory_format=torch.channels_last))
        is_scene = (torch.arange(len(batch), device=batch.device) < BATCH).float()
        return (
            sum(F.cross_entropy(part[:BATCH].float(), attributes[:, i]) for i, part in enumerate(logits))
            + F.binary_cross_entropy_with_logits(scene.float(), is_scene)
            + 20 * F.mse_loss(seen[:BATCH].float(), factors)
        )

    fit(workshop, "oracle", oracle, loss, workshop.steps(STEPS), LR)
    return oracle.to(memory_format=torch.contiguous_format)
