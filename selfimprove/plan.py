"""What a run will cost, said beforehand: counts from the settings, minutes from one timed pass of the network."""

import time
from collections.abc import Mapping
from typing import NamedTuple

import torch

from selfimprove.game import Game
from selfimprove.models import Diffuser
from selfimprove.scorers import Scorer

TRAINING_PASSES = 4  # forward and backward of the player (3) and forward of the opponent (1)


class Plan(NamedTuple):
    """One line a part of the run, for people, and the minutes of what is still to do."""

    lines: list[str]
    minutes: float


def seconds_per_pass(diffuser: Diffuser, batch: int = 16) -> float:
    """Seconds of one UNet forward for one latent, timed on a small batch after a warm-up."""
    noisy = torch.zeros(batch, *diffuser.latent_shape, device=diffuser.device)
    text = diffuser.embed([""]).to(diffuser.device).expand(batch, -1, -1)
    with torch.inference_mode():
        diffuser.unet(noisy, 500, text)
        start = time.perf_counter()
        float(diffuser.unet(noisy, 500, text).sample.sum())  # the sum waits for the device
    return (time.perf_counter() - start) / batch


def seconds_per_image(diffuser: Diffuser, scorers: Mapping[str, Scorer], batch: int = 16) -> float:
    """Seconds to decode one image, encode it again and score it with every scorer at hand."""
    latents = torch.zeros(batch, *diffuser.latent_shape)
    start = time.perf_counter()
    images = diffuser.decode(latents)
    diffuser.encode(images)
    for scorer in scorers.values():
        scorer(images, ["warm"] * batch)
    return (time.perf_counter() - start) / batch


def plan(game: Game, last: int) -> Plan:
    """The cost of playing rounds up to `last`: images, steps, minutes on this device, memory and disk."""
    settings, run = game.preset.settings, game.run
    recursive = settings.objective == "weighted"
    per_pass, per_image = seconds_per_pass(game.diffuser), seconds_per_image(game.diffuser, game.scorers)
    parameters = sum(p.numel() for p in game.diffuser.unet.parameters())
    latent = 4 * torch.Size(game.diffuser.latent_shape).numel()
    pool = settings.samples if recursive else len(game.data.train)
    lines = [f"run folder {run.path}"]
    if game.collection:
        lines.append(f"{len(game.collection.prompts)} different prompts collected, {len(game.collection.held_out)} kept out for evaluation")
    lines.append(f"{len(game.data.train)} real images with captions, {len(game.data.validation)} kept out of training")
    judged = len(game.data.evaluation)
    total = 0.0
    for index in range(last + 1):
        if run.is_done(index, "evaluation"):
            lines.append(f"round {index}: finished already")
            continue
        passes, images = judged * settings.evaluation_steps * (1 + (settings.evaluation_guidance != 1)), judged
        what = f"evaluation on {judged} images"
        if index > 0:
            s = game.preset.for_round(index)
            trained_on = (s.selected or pool) + s.real_samples if recursive else pool
            steps, batch = s.steps_for(trained_on), s.batch_size * s.accumulation
            rolled = pool * (recursive or (s.objective == "spin" and s.generated_source == "rollout"))
            sides, per_example = (2, TRAINING_PASSES) if s.objective == "spin" else (1, TRAINING_PASSES - 1)
            passes += rolled * s.rollout_steps * (1 + (s.guidance != 1)) + steps * batch * sides * per_example
            images += rolled
            if recursive:
                what = f"{pool} rollouts, {s.selected or pool} kept ({s.strategy}), {steps} steps of {batch} (lr {s.lr:g}), {what}"
            else:
                what = f"{pool} rollouts, {steps} steps of {batch} pairs (lr {s.lr:g}, beta {s.beta:g}), {what}"
        minutes = (passes * per_pass + images * per_image) / 60
        total += minutes
        lines.append(f"round {index}: {what}: about {minutes:.1f} min")
    weights = parameters * 4 * (5 if settings.objective == "spin" else 4) / 1e9  # player, gradient, two moments, opponent
    disk = last * (4 * parameters + 3 * latent * pool) / 1e9
    lines.append(f"memory: {weights:.2f} GB for weights and optimiser, activations besides; disk: about {disk:.2f} GB")
    return Plan([*lines, f"in all about {total:.1f} min on {game.diffuser.device}"], total)
