"""Measure the embedded models and write their model card: `card.json` for code, `README.md` for people."""

import json
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from scipy.stats import spearmanr
from torch import Tensor

from selfimprove.data.images import shapes_prompts
from selfimprove.draws import EVALUATION_SEED, example_id, generator
from selfimprove.models.pipeline import load_diffuser
from selfimprove.rollout import sample_batches
from selfimprove.scorers import load_scorers
from selfimprove.shapes.captions import HELD_OUT, SCENES
from selfimprove.shapes.image_sets import BASE_QUALITY, HELD_IN_SCENES, winners
from selfimprove.shapes.oracle import Oracle
from selfimprove.shapes.render import Drawing, render
from selfimprove_lab.pretrain import generator as base_model
from selfimprove_lab.pretrain import oracle as oracle_training
from selfimprove_lab.pretrain import scorers as scorer_training
from selfimprove_lab.pretrain import vae as autoencoder
from selfimprove_lab.pretrain.fit import Workshop, random_drawing
from selfimprove_lab.pretrain.oracle import round_trip

COUNT = 1024  # images; fewer where the steps are scaled down
SAMPLER: dict[str, Any] = {"steps": 10, "guidance": 3.0}


def _count(workshop: Workshop) -> int:
    return max(16, workshop.steps(COUNT))


def _psnr(error: Tensor, weight: Tensor) -> float:
    """Return the mean over images of the peak signal-to-noise ratio in dB, for values in [0, 1]."""
    squared = (error**2 * weight).sum((1, 2, 3)) / (3 * weight.sum((1, 2, 3)))
    return float((-10 * squared.log10()).mean())


def _autoencoder(vae: AutoencoderKL, oracle: Oracle, drawn: Drawing) -> dict[str, float]:
    images, masks = render(drawn)
    trips = round_trip(vae, images).cpu()
    everything = random_drawing(len(images), generator(EVALUATION_SEED, "card/all qualities"))
    read = oracle.read(round_trip(vae, render(everything)[0])).quality.cpu()
    bias = oracle.read(trips.to(vae.device)).quality.cpu().mean() - drawn.quality.mean()
    return {
        "psnr_image_db": _psnr(trips - images, torch.ones_like(masks)),
        "psnr_shape_db": _psnr(trips - images, masks),
        "quality_spearman": float(spearmanr(read, everything.quality).statistic),
        "quality_bias_winners": float(bias),
    }


def _ceiling(vae: AutoencoderKL, oracle: Oracle, drawn: Drawing) -> dict[str, float]:
    reading = oracle.read(round_trip(vae, render(drawn)[0]))
    right = reading.all_right(drawn.attributes.to(vae.device), torch.ones_like(drawn.attributes, dtype=torch.bool).to(vae.device))
    return {
        "all_right": float(right.float().mean()),
        "quality_error": float((reading.quality.cpu() - drawn.quality).abs().mean()),
    }


def _base(workshop: Workshop, oracle: Oracle) -> dict[str, dict[str, float]]:
    diffuser = load_diffuser(workshop.folder / "pipeline", workshop.device)
    measured = {}
    for name, scenes in (("held_in", HELD_IN_SCENES), ("held_out", SCENES[HELD_OUT])):
        captions = shapes_prompts(_count(workshop), scenes, f"card/{name}")
        prompts = [c.text for c in captions]
        ids = [example_id(c.text, i) for i, c in enumerate(captions)]
        latents = sample_batches(
            diffuser, diffuser.denoiser, prompts, ids, 128, name, seed=EVALUATION_SEED, stream="card", round_index=0, **SAMPLER
        )
        reading = oracle.read(torch.cat([diffuser.decode(z) for z in latents.split(128)]).to(workshop.device))
        scenes_said = torch.tensor([c.scene for c in captions], device=workshop.device)
        right = reading.all_right(scenes_said, torch.ones_like(scenes_said, dtype=torch.bool))
        measured[name] = {"all_right": float(right.float().mean()), "quality": float(reading.quality.mean())}
    return measured


def _scorer_accuracy(workshop: Workshop) -> dict[str, dict[str, float]]:
    """Return how often each scorer prefers what its own labeller prefers, and what true quality prefers, on pairs of one prompt."""
    captions, first = winners(_count(workshop), EVALUATION_SEED)
    second = random_drawing(len(captions), generator(EVALUATION_SEED, "card/rivals"))._replace(attributes=first.attributes)
    sides = [render(side)[0] for side in (first, second)]
    prompts = [c.text for c in captions]
    measured = {}
    for name, scorer in load_scorers(("clip", *scorer_training.LABELLERS, "aesthetic"), workshop.device, workshop.folder).items():
        a, b = (scorer(images, prompts) for images in sides)
        row = {"agrees_with_quality": float(((a > b) == (first.quality > second.quality)).float().mean())}
        taste = scorer_training.LABELLERS.get(name)
        if taste:
            row["agrees_with_labeller"] = float(((a > b) == (taste(captions, first) > taste(captions, second))).float().mean())
        measured[name] = row
    return measured


def write_card(workshop: Workshop, pipeline: StableDiffusionPipeline, oracle: Oracle) -> None:
    """Measure the models and write the card. The oracle's own ceiling stands beside every number that the oracle gives."""
    count = _count(workshop)
    _, drawn = winners(count, EVALUATION_SEED)
    middle = random_drawing(count, generator(EVALUATION_SEED, "card/base qualities"), 0.3, 0.5)
    card: dict[str, Any] = {
        "seed": workshop.seed,
        "images": count,
        "sampler": SAMPLER,
        "steps": {
            "vae": autoencoder.STEPS, "oracle": oracle_training.STEPS, "generator": base_model.STEPS,
            "clip": scorer_training.CONTRASTIVE_STEPS, "preference": scorer_training.PREFERENCE_STEPS,
        },
        "vae": _autoencoder(pipeline.vae, oracle, drawn),
        "oracle": {"quality .3-.5": _ceiling(pipeline.vae, oracle, middle), "winners": _ceiling(pipeline.vae, oracle, drawn)},
        "winners_quality": float(drawn.quality.mean()),
        "base": _base(workshop, oracle),
        "scorers": _scorer_accuracy(workshop),
    }  # fmt: skip
    (workshop.folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    (workshop.folder / "README.md").write_text(_text(card))


def _text(card: dict[str, Any]) -> str:
    vae, base, oracle = card["vae"], card["base"], card["oracle"]
    ceilings = "\n".join(f"| {k} | {v['all_right']:.3f} | {v['quality_error']:.3f} |" for k, v in oracle.items())
    scorers = "\n".join(
        f"| {k} | {v['agrees_with_quality']:.3f} | {format(v['agrees_with_labeller'], '.3f') if 'agrees_with_labeller' in v else ''} |"
        for k, v in card["scorers"].items()
    )
    return f"""# The shapes models

Made by `python -m selfimprove_lab.pretrain --seed {card["seed"]}`; every figure below was measured by the same command,
on {card["images"]} images.

**Data.** Drawn by `selfimprove/shapes/render.py`; no photograph, no text of others. {int(HELD_OUT.sum())} of {len(SCENES)} scenes
were held out from the text encoder and the UNet. The autoencoder, the scorers and the oracle saw all scenes.

**Autoencoder** (64 px to 16x16x6, {card["steps"]["vae"]} steps of {autoencoder.BATCH}, error inside the shape weighted
{1 + autoencoder.MASK_WEIGHT:.0f} to 1). On winners: PSNR {vae["psnr_image_db"]:.1f} dB over the image,
{vae["psnr_shape_db"]:.1f} dB inside the shape's mask. Quality read after a round trip: Spearman {vae["quality_spearman"]:.3f} with the
truth over all qualities, bias {vae["quality_bias_winners"]:+.3f} at the winners' level ({card["winners_quality"]:.3f}).

**Oracle** on round trips, its own ceiling:

| quality | all four attributes right | mean absolute quality error |
|---|---|---|
{ceilings}

**Base model** ({card["steps"]["generator"]} steps of {base_model.BATCH}; quality {BASE_QUALITY[0]} to {BASE_QUALITY[1]}, a quarter of the
pairs of colour and shape always drawn as another one; mediocre on purpose), sampled with {card["sampler"]["steps"]} DDIM steps at
guidance {card["sampler"]["guidance"]:.0f}:

| captions | all four right | mean quality |
|---|---|---|
| held-in scenes | {base["held_in"]["all_right"]:.3f} | {base["held_in"]["quality"]:.3f} |
| held-out scenes | {base["held_out"]["all_right"]:.3f} | {base["held_out"]["quality"]:.3f} |

**Scorers**, share of pairs (a winner and a random drawing of the same scene) ordered as true quality orders them, and as their
own labeller does:

| scorer | as true quality | as its labeller |
|---|---|---|
{scorers}

They are learned, they disagree by design, and they can be fooled; so can the oracle beyond its ceiling. Use: this project's
experiments and tests. They know nothing but these scenes.
"""
