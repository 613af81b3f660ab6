"""What a run will cost, said beforehand: operations and memory counted from shapes, minutes from one timed pass, disk from the settings."""

import time
from collections.abc import Mapping
from typing import NamedTuple

import torch

from selfimprove.costs import Flops, count_flops, training_memory
from selfimprove.game import Game
from selfimprove.models import Diffuser
from selfimprove.scorers import Scorer

PEAKS = {"an A100": 312e12, "an H100 or H200": 989e12, "an RTX 4090": 165e12}  # FLOP/s in bf16, dense, by their makers' data sheets
REACHED = 0.3  # of the peak; trainings of this network that were published reach about as much


class Plan(NamedTuple):
    """One line a part of the run, for people; minutes and FLOPs of what is still to do; bytes on disk and in memory at its end."""

    lines: list[str]
    minutes: float
    flops: float
    disk: float
    memory: int


class _Round(NamedTuple):
    """What one round counts: latents sampled (with their steps and guidance: `forwards`), pairs or samples trained on, images made."""

    what: str
    forwards: int
    opponent: int
    trained: int
    images: int


def seconds_per_pass(diffuser: Diffuser, batch: int = 4) -> float:
    """Seconds of one UNet forward for one latent, timed on a small batch after a warm-up."""
    noisy = torch.zeros(batch, *diffuser.latent_shape, device=diffuser.device)
    text = diffuser.embed([""]).to(diffuser.device).expand(batch, -1, -1)
    with torch.inference_mode():
        diffuser.unet(noisy[:1], 500, text[:1])
        start = time.perf_counter()
        float(diffuser.unet(noisy, 500, text).sample.sum())  # the sum waits for the device
    return (time.perf_counter() - start) / batch


def seconds_per_image(diffuser: Diffuser, scorers: Mapping[str, Scorer], batch: int = 4) -> float:
    """Seconds to decode one image, encode it again and score it with every scorer at hand."""
    latents = torch.zeros(batch, *diffuser.latent_shape)
    start = time.perf_counter()
    images = diffuser.decode(latents)
    diffuser.encode(images)
    for scorer in scorers.values():
        scorer(images, ["warm"] * batch)
    return (time.perf_counter() - start) / batch


def plan(game: Game, last: int) -> Plan:
    """The cost of playing rounds up to `last`: images, steps, minutes on this device, FLOPs, memory and disk."""
    settings, run, diffuser = game.preset.settings, game.run, game.diffuser
    flops = count_flops(diffuser, settings)
    batch = max(1, min(16, int(1e12 / flops.forward)))  # so that timing a large network on a small machine takes no minutes
    per_pass, per_image = seconds_per_pass(diffuser, batch), seconds_per_image(diffuser, game.scorers, batch)
    lines = [f"run folder {run.path}"]
    if game.collection:
        lines.append(f"{len(game.collection.prompts)} different prompts collected, {len(game.collection.held_out)} kept out for evaluation")
    lines.append(f"{len(game.data.train)} real images with captions, {len(game.data.validation)} kept out of training")
    minutes = operations = 0.0
    for index in range(last + 1):
        if run.is_done(index, "evaluation"):
            lines.append(f"round {index}: finished already")
            continue
        counts = _count(game, index)
        passes = counts.forwards + counts.opponent + counts.trained * flops.step / flops.forward
        needed = (passes * per_pass + counts.images * per_image) / 60
        minutes, operations = minutes + needed, operations + _operations(counts, flops)
        lines.append(f"round {index}: {counts.what}: about {_duration(needed)}")
    live = settings.objective == "spin" and not game.opponent_cache and not (settings.lora_rank and settings.opponent == "previous")
    memory, disk = training_memory(diffuser, settings, live), float(_disk(game, last))
    cards = [f"{_duration(operations / peak / REACHED / 60)} on {card}" for card, peak in PEAKS.items()]
    lines += [
        f"operations: {_unit(operations)}FLOP; at {REACHED:.0%} of its peak, {', '.join(cards)}",
        f"memory in training: {_unit(float(memory.peak))}B, of it {_unit(float(memory.networks))}B for networks; disk: {_unit(disk)}B",
        f"in all about {_duration(minutes)} on {diffuser.device}",
    ]
    return Plan(lines, minutes, operations, disk, memory.peak)


def _count(game: Game, index: int) -> _Round:
    s, judged = game.preset.for_round(max(index, 1)), len(game.data.evaluation)
    what = f"evaluation on {judged} images"
    forwards = judged * s.evaluation_steps * (1 + (s.evaluation_guidance != 1))
    if index == 0:
        return _Round(what, forwards, 0, 0, judged)
    recursive = s.objective == "weighted"
    pool = s.samples if recursive else len(game.data.train)
    trained_on = (s.selected or pool) + s.real_samples if recursive else pool
    steps, batch = s.steps_for(trained_on), s.batch_size * s.accumulation
    rolled = pool * (recursive or (s.objective == "spin" and s.generated_source == "rollout"))
    forwards += rolled * s.rollout_steps * (1 + (s.guidance != 1))
    if recursive:
        what = f"{pool} rollouts, {s.selected or pool} kept ({s.strategy}), {steps} steps of {batch} (lr {s.lr:g}), {what}"
    elif s.objective == "sft":
        what = f"{steps} steps of {batch} images (lr {s.lr:g}), {what}"
    else:
        what = f"{rolled} rollouts, {steps} steps of {batch} pairs (lr {s.lr:g}, beta {s.beta:g}), {what}"
    sides = 2 if s.objective == "spin" else 1
    trained = sides * steps * batch
    return _Round(what, forwards, trained if sides == 2 else 0, trained, judged + rolled)


def _operations(counts: _Round, flops: Flops) -> float:
    """FLOPs of UNet and VAE; text encoder and scorers, below a hundredth, are left out."""
    network = (counts.forwards + counts.opponent) * flops.forward + counts.trained * flops.step
    return network + counts.images * (flops.decode + flops.encode)


def _disk(game: Game, last: int) -> int:
    """Bytes of the run folder at its end, and of the checkpoint while the last round trains."""
    s, diffuser = game.preset.settings, game.diffuser
    value = 4 if s.precision == "no" else 2
    latent = torch.Size(diffuser.latent_shape).numel()
    weights = 4 * sum(p.numel() for p in diffuser.unet.parameters())
    text = diffuser.tokenizer.model_max_length * diffuser.unet.config.cross_attention_dim * value
    sides = 4 if s.flip else 2  # mean and standard deviation, of the mirrored image too
    moments = 3 if s.ema else 2
    evaluations = (last + 1) * len(game.data.evaluation) * latent * 4
    rolled = (sides + (s.generated_latents == "reencoded")) * latent * value
    if s.objective == "weighted":
        each = s.samples * rolled + (s.selected or s.samples) * (text + sides * latent * value)
        return last * (weights + each) + evaluations + moments * weights
    examples = len(game.data.train)
    once = examples * (text + sides * latent * value)
    each = examples * rolled if s.objective == "spin" else 0
    return last * (weights + each) + once + evaluations + moments * weights


def _unit(value: float) -> str:
    """1.2e9 as '1.2 G'."""
    for prefix, scale in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if value >= scale:
            return f"{value / scale:.1f} {prefix}"
    return f"{value / 1e6:.0f} M"


def _duration(minutes: float) -> str:
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
