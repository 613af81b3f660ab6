"""What a run will cost, said beforehand: counts from the settings, minutes from one timed pass of the network."""

import time
from typing import NamedTuple

import torch

from selfimprove.rounds import Game

TRAINING_PASSES = 4  # forward and backward of the player (3) and forward of the opponent (1)


class Plan(NamedTuple):
    """One line a part of the run, for people, and the minutes of what is still to do."""

    lines: list[str]
    minutes: float


def seconds_per_pass(game: Game, batch: int = 16) -> float:
    """Seconds of one UNet forward for one latent, timed on a small batch after a warm-up."""
    diffuser = game.diffuser
    noisy = torch.zeros(batch, *diffuser.latent_shape, device=diffuser.device)
    text = diffuser.embed([""]).to(diffuser.device).expand(batch, -1, -1)
    with torch.inference_mode():
        diffuser.unet(noisy, 500, text)
        start = time.perf_counter()
        float(diffuser.unet(noisy, 500, text).sample.sum())  # the sum waits for the device
    return (time.perf_counter() - start) / batch


def plan(game: Game, last: int) -> Plan:
    """The cost of playing rounds up to `last`: images, steps, minutes on this device, memory and disk."""
    settings, run = game.preset.settings, game.run
    per_pass = seconds_per_pass(game)
    parameters = sum(p.numel() for p in game.diffuser.unet.parameters())
    latent = 4 * torch.Size(game.diffuser.latent_shape).numel()
    pairs = len(game.data.train)
    lines = [f"run folder {run.path}", f"{pairs} training images with captions, {len(game.data.validation)} kept out of training"]
    total = 0.0
    for index in range(last + 1):
        sampling = settings.evaluation_prompts * settings.evaluation_steps * (1 + (settings.evaluation_guidance != 1))
        passes, what = sampling, f"evaluation on {settings.evaluation_prompts} prompts"
        if index > 0:
            s = game.preset.for_round(index)
            examples = s.steps * s.batch_size * s.accumulation
            sides = 2 if s.objective == "spin" else 1
            rolled = pairs * s.rollout_steps * (1 + (s.guidance != 1)) * (s.objective == "spin" and s.generated_source == "rollout")
            passes += rolled + examples * sides * (TRAINING_PASSES if s.objective == "spin" else TRAINING_PASSES - 1)
            what = f"{pairs} rollouts, {s.steps} steps of {s.batch_size * s.accumulation} pairs (lr {s.lr:g}, beta {s.beta:g}), {what}"
        if run.is_done(index, "evaluation"):
            lines.append(f"round {index}: finished already")
            continue
        minutes = passes * per_pass / 60
        total += minutes
        lines.append(f"round {index}: {what}: about {minutes:.1f} min")
    weights = parameters * 4 * 5 / 1e9  # player, gradient, two moments, opponent
    disk = last * (4 * parameters + 2 * latent * pairs) / 1e9
    lines.append(f"memory: {weights:.2f} GB for weights and optimiser, activations besides; disk: about {disk:.2f} GB")
    return Plan([*lines, f"in all about {total:.1f} min on {game.diffuser.device}"], total)
