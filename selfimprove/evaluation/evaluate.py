"""Evaluate models: every model draws the same prompts from the same noise, and each image is scored. `aggregate` makes the tables."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from selfimprove import draws
from selfimprove.config import Settings
from selfimprove.data.images import ImageText
from selfimprove.data.latents import Store, build_store
from selfimprove.draws import EVALUATION_SEED
from selfimprove.evaluation.protocol import SamplingProtocol, Scored, write_scores
from selfimprove.losses import squared_error
from selfimprove.models.network import Conditioning, denoise
from selfimprove.models.pipeline import Diffuser
from selfimprove.recursion.prompts import fingerprint
from selfimprove.rollout import sample_batches
from selfimprove.scorers import BlackImageWarning, Scorer, ScorerError, black_images
from selfimprove.scorers.images import eight_bit
from selfimprove.shapes.oracle import load_oracle
from selfimprove.shapes.render import ATTRIBUTES, FACTORS

SHOWN = 24  # number of evaluation images kept as PNG files
HELD_OUT_TIMES = 8  # time steps per held-out image at which the denoising error is measured


class HeldOut(NamedTuple):
    """Latents and captions of real images that are kept out of training."""

    latents: Float[Tensor, "m c h w"]
    captions: list[str]


def evaluate(
    diffuser: Diffuser,
    unet: UNet2DConditionModel,
    data: ImageText,
    scorers: Mapping[str, Scorer],
    held_out: HeldOut | None,
    settings: Settings,
    folder: Path,
    model: str,
    weights: str,
) -> Scored:
    """Sample the evaluation prompts, score every image, and write `scores.parquet`, with its protocol inside, to `folder`.

    The table has one row per image. Its columns are `id`, `prompt`, `image`, one per scorer, `nearest_real` if there are `held_out` images,
    and `oracle_...` where the truth is known. The latents (`evaluation/`) and the first images (`images/`) are kept. `model` is the name
    for readers, and `weights` is the hash of its weights. A warning and the protocol report the number of wholly black images.

    Raises:
        ScorerError: a score is not finite.
    """
    prompts, ids = [p for p, _ in data.evaluation], data.evaluation_ids()

    def make(rows: range) -> dict[str, Tensor]:
        part = slice(rows.start, rows.stop)
        latents = sample_batches(
            diffuser, unet, prompts[part], ids[part], settings.rollout_batch, "sampling", settings.precision,
            seed=EVALUATION_SEED, stream="evaluation", round_index=0,
            steps=settings.evaluation_steps, guidance=settings.evaluation_guidance,
        )  # fmt: skip
        return {"latent": latents}

    drawn_from = {"player": weights, **{n: getattr(settings, n) for n in ("evaluation_steps", "evaluation_guidance", "precision")}}
    store = build_store(folder / "evaluation", len(prompts), make, "evaluation images", made_from=drawn_from, keys=ids, remake=True)
    oracle = load_oracle() if data.scenes else None
    (folder / "images").mkdir(exist_ok=True)
    parts, black = [], 0
    for start in tqdm(range(0, len(prompts), settings.rollout_batch), desc="scoring", leave=False):
        rows = range(start, min(start + settings.rollout_batch, len(prompts)))
        latents = store.take("latent", rows)
        images, texts = diffuser.decode(latents), [prompts[r] for r in rows]
        black += len(black_images(images))
        for row, image in zip(rows, images, strict=True):
            if row < SHOWN:
                save_image(image, folder / "images" / f"{row:03d}.png")
        columns: dict[str, Any] = {"id": [ids[r] for r in rows], "prompt": texts, "image": [data.evaluation[r][1] for r in rows]}
        columns |= {name: score(images, texts).numpy() for name, score in scorers.items()}
        if held_out:
            columns["nearest_real"] = nearest_real(latents, texts, held_out.latents, held_out.captions).numpy()
        if oracle and data.scenes:
            columns |= _oracle_columns(oracle.read(images), [data.scenes[r] for r in rows])
        parts.append(pd.DataFrame(columns))
    scores = pd.concat(parts, ignore_index=True)
    for name in scorers:
        bad = scores[~np.isfinite(scores[name])]
        if len(bad):
            first = bad.iloc[0]
            raise ScorerError(f"{name} gave {first[name]} for image {first['image']} of {first['prompt']!r}; mend the scorer or the image")
    if black:
        message = f"{black} of {len(scores)} images of {model} are wholly black, and are scored as such"
        warnings.warn(message, BlackImageWarning, stacklevel=2)
    different = len(set(prompts))
    scored = Scored(
        scores,
        SamplingProtocol(
            model=model, model_hash=weights, prompts=data.name, prompts_hash=fingerprint(prompts)[:12], n_prompts=different,
            images=round(len(prompts) / different), noise_seed=EVALUATION_SEED, sampler="DDIM", steps=settings.evaluation_steps,
            guidance=settings.evaluation_guidance,
            precision="float32" if settings.precision == "no" else f"{settings.precision} autocast",
            scorers={name: getattr(score, "version", name) for name, score in scorers.items()}, black=black,
        ),
    )  # fmt: skip
    write_scores(folder / "scores.parquet", scored)
    return scored


def evaluation_latents(folder: Path) -> Float[Tensor, "n c h w"]:
    """Return the latents that `evaluate` kept in `folder`, in the order of the evaluation's prompts."""
    store = Store(folder / "evaluation")
    return store.take("latent", range(store.rows))


def nearest_real(
    latents: Float[Tensor, "n c h w"], prompts: Sequence[str], real: Float[Tensor, "m c h w"], captions: Sequence[str]
) -> Float[Tensor, " n"]:
    """Return minus the distance to the nearest real image of the same caption, or of any caption if no real image has this one.

    The distance is the root mean square over the latent's dimensions. The result is 0 for a copy and about -1.4 for unrelated latents.
    """
    distance = torch.cdist(latents.flatten(1), real.flatten(1)) / latents[0].numel() ** 0.5
    same = torch.tensor([[p == c for c in captions] for p in prompts])
    allowed = same | ~same.any(1, keepdim=True)
    return -distance.masked_fill(~allowed, float("inf")).amin(1)


def _oracle_columns(reading: Any, captions: Sequence[Any]) -> dict[str, Any]:
    scenes, stated = torch.tensor([c.scene for c in captions]), torch.tensor([c.stated for c in captions])
    columns = {"oracle_quality": reading.quality.numpy(), "oracle_all_right": reading.all_right(scenes, stated).float().numpy()}
    right = ((reading.attributes == scenes) & reading.is_scene[:, None]).float()
    columns |= {f"oracle_{name}_right": right[:, i].numpy() for i, name in enumerate(ATTRIBUTES)}
    return columns | {f"oracle_{name}": reading.factors[:, i].numpy() for i, name in enumerate(FACTORS)}


@torch.inference_mode()
def held_out_error(
    diffuser: Diffuser, unet: UNet2DConditionModel, latents: Float[Tensor, "m c h w"], text: Float[Tensor, "m l d"], ids: Sequence[str]
) -> Float[Tensor, " m"]:
    """Return the mean squared error in epsilon on each held-out real image. All models share the same fixed times and noise."""
    errors = []
    for index in range(HELD_OUT_TIMES):
        noise = draws.normal(EVALUATION_SEED, "held-out/noise", (index,), ids, diffuser.latent_shape).to(diffuser.device)
        within = draws.uniform(EVALUATION_SEED, "held-out/timestep", (index,), ids)
        t = ((index + within) / HELD_OUT_TIMES * len(diffuser.schedule)).long().to(diffuser.device)
        noisy = diffuser.schedule.add_noise(latents.to(diffuser.device), noise, t)
        target = diffuser.schedule.target(latents.to(diffuser.device), noise, t)
        parts = [
            squared_error(denoise(unet, x, s, c.to(diffuser.device)), e)
            for x, s, c, e in zip(noisy.split(64), t.split(64), Conditioning(text).split(64), target.split(64), strict=True)
        ]
        scale = diffuser.schedule.error_scale(diffuser.schedule.alphas_cumprod[t], "epsilon")
        errors.append((scale * torch.cat(parts)).cpu())
    return torch.stack(errors).mean(0).clone()


def save_image(image: Float[Tensor, "3 h w"], path: Path) -> None:
    """Save an image in [0, 1] as an 8-bit PNG."""
    eight_bit(image[None])[0].save(path)
