"""Evaluate models: every model draws the same prompts from the same noise, and each image is scored. `aggregate` makes the tables."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from selfimprove import draws
from selfimprove.config import Settings
from selfimprove.data.images import ImageText
from selfimprove.data.latents import SHARD, Store, build_store
from selfimprove.draws import EVALUATION_SEED
from selfimprove.evaluation.protocol import SamplingProtocol, Scored, write_scores
from selfimprove.files import replacing
from selfimprove.losses import squared_error
from selfimprove.models.execution import autocast, in_parts
from selfimprove.models.network import denoise
from selfimprove.models.pipeline import Diffuser
from selfimprove.processes import tf32
from selfimprove.recursion.prompts import fingerprint
from selfimprove.rollout import sample_batches
from selfimprove.scorers import BlackImageWarning, Scorer, ScorerError, black_images, in_turn
from selfimprove.scorers.images import eight_bit
from selfimprove.shapes.oracle import load_oracle
from selfimprove.shapes.render import ATTRIBUTES, FACTORS

SHOWN = 24  # number of evaluation images kept as PNG files
HELD_OUT_TIMES = 8  # time steps per held-out image at which the denoising error is measured
HELD_OUT_BATCH = 64  # held-out images that go through a network at once, unless `rollout_batch` is smaller


class HeldOut(NamedTuple):
    """Latents and captions of real images that are kept out of training."""

    latents: Float[Tensor, "m c h w"]
    captions: list[str]


def evaluate(
    diffuser: Diffuser,
    denoiser: Any,
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
    prompts = [p for p, _ in data.evaluation]
    store = draw(diffuser, denoiser, data, settings, folder, weights)
    (folder / "images").mkdir(exist_ok=True)
    scores, black = _scored(diffuser, data, scorers, held_out, store, settings.rollout_batch, folder / "images")
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
            guidance=settings.evaluation_guidance, **drawn_by(diffuser, settings),
            scorers={name: getattr(score, "version", name) for name, score in scorers.items()}, black=black,
            negative_prompt=settings.negative_prompt,
        ),
    )  # fmt: skip
    write_scores(folder / "scores.parquet", scored)
    return scored


def draw(diffuser: Diffuser, denoiser: Any, data: ImageText, settings: Settings, folder: Path, weights: str) -> Store:
    """Return the latents of the evaluation's images, kept in `evaluation/` of the folder; the arguments are those of `evaluate`."""
    prompts, ids = [p for p, _ in data.evaluation], data.evaluation_ids()

    def make(rows: range) -> dict[str, Tensor]:
        part = slice(rows.start, rows.stop)
        latents = sample_batches(
            diffuser, denoiser, prompts[part], ids[part], settings.rollout_batch, "sampling", settings.precision,
            negative=settings.negative_prompt, seed=EVALUATION_SEED, stream="evaluation", round_index=0,
            steps=settings.evaluation_steps, guidance=settings.evaluation_guidance,
        )  # fmt: skip
        return {"latent": latents}

    drawn_from = {"player": weights, "guidance": settings.evaluation_guidance, **drawn_by(diffuser, settings)}
    return build_store(folder / "evaluation", len(prompts), make, "evaluation images", made_from=drawn_from, keys=ids, remake=True)


def drawn_by(diffuser: Diffuser, settings: Settings) -> dict[str, Any]:
    """Return the fields of a protocol that depend on a model's folder and on the machine: what draws its images, beside its networks."""
    steps, in_vae = diffuser.schedule.steps(settings.evaluation_steps), diffuser.vae_precision != "no"
    return {
        "precision": "float32" if settings.precision == "no" else f"{settings.precision} autocast" + ", VAE too" * in_vae,
        "timesteps": " ".join(str(step.t) for step in steps), "final_alpha": steps[-1].alpha_next,
        "image_size": "{}x{}".format(*diffuser.image_size), "tf32": tf32(),
    }  # fmt: skip


def _scored(
    diffuser: Diffuser,
    data: ImageText,
    scorers: Mapping[str, Scorer],
    held_out: HeldOut | None,
    store: Store,
    batch: int,
    pictures: Path,
) -> tuple[pd.DataFrame, int]:
    """Decode and score the images in `store`; return one row per image, and the number of black images.

    The processes share the images out, in parts of `batch`. Every scorer has its turn on as many parts as fit into a shard of the store, so
    that its network moves seldom. Every process returns the whole table.
    """
    state, oracle, prompts = PartialState(), load_oracle() if data.scenes else None, [p for p, _ in data.evaluation]
    ids, parts = data.evaluation_ids(), [range(start, min(start + batch, store.rows)) for start in range(0, store.rows, batch)]
    own, together = parts[state.process_index :: state.num_processes], max(1, SHARD // batch)
    tables, black = [], 0
    for first in tqdm(range(0, len(own), together), desc="scoring", leave=False):
        turn = own[first : first + together]
        images = [diffuser.decode(store.take("latent", rows)) for rows in turn]
        scored: dict[str, list[Tensor]] = {}
        for name, scorer in scorers.items():
            with in_turn(scorer):
                scored[name] = [scorer(x, [prompts[r] for r in rows]) for x, rows in zip(images, turn, strict=True)]
        for index, (rows, part) in enumerate(zip(turn, images, strict=True)):
            black += len(black_images(part))
            for row, image in zip(rows, part, strict=True):
                if row < SHOWN:
                    save_image(image, pictures / f"{row:03d}.png")
            texts = [prompts[r] for r in rows]
            columns: dict[str, Any] = {"id": [ids[r] for r in rows], "prompt": texts, "image": [data.evaluation[r][1] for r in rows]}
            columns |= {name: values[index].numpy() for name, values in scored.items()}
            if held_out:
                latents = store.take("latent", rows)
                columns["nearest_real"] = nearest_real(latents, texts, held_out.latents, held_out.captions).numpy()
            if oracle and data.scenes:
                columns |= _oracle_columns(oracle.read(part), [data.scenes[r] for r in rows])
            tables.append((rows.start, pd.DataFrame(columns)))
    everything = sorted(gather_object(tables), key=lambda pair: pair[0])
    return pd.concat([table for _, table in everything], ignore_index=True), sum(gather_object([black]))


def evaluation_latents(folder: Path, rows: Sequence[int] | None = None) -> Float[Tensor, "n c h w"]:
    """Return the latents that `evaluate` kept in `folder`, in the order of the evaluation's prompts; `rows`: only these."""
    store = Store(folder / "evaluation")
    return store.take("latent", range(store.rows) if rows is None else rows)


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
    diffuser: Diffuser,
    denoiser: Any,
    latents: Float[Tensor, "m c h w"],
    captions: Sequence[str],
    ids: Sequence[str],
    settings: Settings,
) -> Float[Tensor, " m"]:
    """Return the mean squared error in epsilon on each held-out real image. All models share the same fixed times and noise.

    The network computes in the `precision` of the run, on at most `rollout_batch` latents at once. The processes share the images out, and
    every process returns all errors.
    """
    state, device, schedule = PartialState(), diffuser.device, diffuser.schedule
    size = min(HELD_OUT_BATCH, settings.rollout_batch)
    parts = [slice(start, start + size) for start in range(0, len(ids), size)]

    def measured(part: slice) -> np.ndarray:
        real, text, errors = latents[part].to(device), diffuser.embed(list(captions[part])).to(device), []
        for index in tqdm(range(HELD_OUT_TIMES), desc="held-out error", leave=False):
            noise = draws.normal(EVALUATION_SEED, "held-out/noise", (index,), ids[part], diffuser.latent_shape).to(device)
            within = draws.uniform(EVALUATION_SEED, "held-out/timestep", (index,), ids[part])
            t = schedule.time((index + within) / HELD_OUT_TIMES).to(device)
            with autocast(device, settings.precision):
                prediction = denoise(denoiser, schedule.add_noise(real, noise, t), t, text)
            scale = schedule.error_scale(t, "epsilon")
            errors.append((scale * squared_error(prediction, schedule.target(real, noise, t))).cpu())
        return torch.stack(errors).mean(0).numpy()

    found = []
    for part in parts[state.process_index :: state.num_processes]:
        inside = lambda rows, part=part: measured(slice(part.start + rows.start, part.start + rows.stop))  # noqa: E731
        pieces = in_parts(len(ids[part]), size, "held-out error", diffuser.latent_shape, inside)
        found.append((part.start, np.concatenate([*pieces])))
    everything = sorted(gather_object(found), key=lambda pair: pair[0])
    return torch.from_numpy(np.concatenate([errors for _, errors in everything]))


def save_image(image: Float[Tensor, "3 h w"], path: Path) -> None:
    """Save an image in [0, 1] as an 8-bit PNG."""
    with replacing(path) as unfinished:
        eight_bit(image[None])[0].save(unfinished, "PNG")
