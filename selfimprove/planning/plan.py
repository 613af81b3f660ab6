"""Estimate what a run will cost: operations and memory are counted from shapes, minutes from a timed pass, disk from the settings."""

import time
from collections.abc import Mapping
from typing import NamedTuple

import torch
from accelerate import PartialState

from selfimprove.config import Precision, Preset, Settings
from selfimprove.models.lora import adapter_size
from selfimprove.models.network import Conditioning, denoise
from selfimprove.models.pipeline import AUTOCAST, Diffuser
from selfimprove.planning.costs import Flops, Shapes, count_flops, sampling_memory, training_memory
from selfimprove.run import Run
from selfimprove.samplers import SAMPLERS
from selfimprove.scorers import Scorer, resident_memory

# (dense bf16 FLOP/s, GB of memory), from the makers' data sheets
PEAKS = {"an A100 (80 GB)": (312e12, 80), "an H100 or H200": (989e12, 80), "an RTX 4090": (165e12, 24)}
REACHED = 0.3  # share of the peak; a published training of Stable Diffusion 2 reached 28 %


class Plan(NamedTuple):
    """The estimated cost of a run. `lines`: one line of text per part of the run.

    `minutes`, `flops`: the work still to do. `disk`: bytes of the run folder at the end. `memory`: peak bytes of a training process.
    """

    lines: list[str]
    minutes: float
    flops: float
    disk: float
    memory: int


class Counts(NamedTuple):
    """What one round computes, in words (`what`) and in numbers.

    `forwards`: forward passes of sampling, per latent. `opponent`: forward passes of the opponent in training. `trained`: latents that pass
    forward and backward through the player. `decoded`, `encoded`: images that the VAE decodes and encodes.
    """

    what: str
    forwards: int
    opponent: int
    trained: int
    decoded: int
    encoded: int


def seconds_per_pass(diffuser: Diffuser, batch: int = 4, precision: Precision = "no") -> float:
    """Return the seconds of one UNet forward pass per latent, timed on a small batch after a warm-up, in the `precision` of the run."""
    noisy = torch.zeros(batch, *diffuser.latent_shape, device=diffuser.device)
    empty = Conditioning(diffuser.embed([""]).to(diffuser.device).expand(batch, -1, -1))
    mixed = torch.autocast(diffuser.device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST)
    with torch.inference_mode(), mixed:
        denoise(diffuser.unet, noisy[:1], 500, empty.split(1)[0])
        start = time.perf_counter()
        float(denoise(diffuser.unet, noisy, 500, empty).float().sum())  # reading the sum waits for the device
    return (time.perf_counter() - start) / batch


def seconds_per_image(diffuser: Diffuser, scorers: Mapping[str, Scorer], batch: int = 4) -> float:
    """Return the seconds to decode one image, encode the image again and score it with every one of `scorers`."""
    latents = torch.zeros(batch, *diffuser.latent_shape)
    start = time.perf_counter()
    images = diffuser.decode(latents)
    diffuser.encode(images)
    for scorer in scorers.values():
        scorer(images, ["warm"] * batch)
    return (time.perf_counter() - start) / batch


def plan(run: Run, last: int) -> Plan:
    """Return the cost of playing the rounds up to `last`: images, steps, minutes on this device, FLOPs, memory and disk."""
    preset, settings, folder, diffuser = run.preset, run.preset.settings, run.folder, run.diffuser
    shapes, examples, judged = Shapes.of(diffuser), len(run.data.train), len(run.data.evaluation)
    processes = PartialState().num_processes
    flops = count_flops(shapes, settings)
    # a smaller batch on a CPU, so that timing a large network does not take minutes
    batch = max(1, min(16, int(1e12 / flops.forward))) if shapes.device == "cpu" else 16
    per_pass, per_image = seconds_per_pass(diffuser, batch, settings.precision), seconds_per_image(diffuser, run.scorers, batch)
    lines = [f"run folder {folder.path}"]
    if run.collection:
        lines.append(f"{len(run.collection.prompts)} different prompts collected, {len(run.collection.held_out)} kept out for evaluation")
    lines.append(f"{examples} real images with captions, {len(run.data.validation)} kept out of training")
    minutes = total = 0.0
    for index in range(last + 1):
        if folder.is_done(index, "evaluation"):
            lines.append(f"round {index}: finished already")
            continue
        counts = count(preset, index, examples, judged, bool(run.opponent_cache))
        passes = counts.forwards + counts.opponent + counts.trained * flops.step / flops.forward
        needed = (passes * per_pass + max(counts.decoded, counts.encoded) * per_image) / 60 / processes
        minutes, total = minutes + needed, total + operations(counts, flops)
        lines.append(f"round {index}: {counts.what}: about {duration(needed)}")
    memory = training_memory(shapes, settings, second_network(settings, last) and not run.opponent_cache, processes)
    sampling = sampling_memory(shapes, settings)
    disk = float(disk_space(shapes, preset, last, examples, judged, bool(run.opponent_cache)))
    cards = [f"{duration(total / peak / REACHED / 60)} on {card}" for card, (peak, _) in PEAKS.items()]
    parts = ", ".join(f"{part} {_size(size)}" for part, size in memory._asdict().items() if size)
    scorers = resident_memory(run.scorers.values())
    if minutes == 0:
        lines.append("nothing is left to compute")
        return Plan(lines, 0.0, 0.0, 0.0, 0)
    lines += [
        f"operations: {unit(total)}FLOP; at {REACHED:.0%} of the peak of one card, {', '.join(cards)}",
        f"memory in training: {_size(memory.peak)} ({parts}), and what the device's libraries take beside, on a CPU up to as much again",
        f"memory in sampling: {_size(sampling)}; of scorers, in both: {_size(scorers)}; disk: {_size(disk)}",
        f"in all about {duration(minutes)} on {diffuser.device}",
    ]
    return Plan(lines, minutes, total, disk, memory.peak)


def second_network(settings: Settings, last: int) -> bool:
    """Return whether some round up to `last` needs a second network in memory for the opponent.

    With an adapter, the opponent is normally the player's network with the adapter switched off. This requires that the round starts from
    the opponent, which is not so from round 2 on if the opponent stays the base model.
    """
    own = settings.lora_rank and (settings.opponent == "previous" or last <= 1)
    return settings.objective == "spin" and not own


def count(preset: Preset, index: int, examples: int, judged: int, cache: bool = False) -> Counts:
    """Return what a round computes in all processes, from its settings and the numbers of real and evaluation images.

    `examples`: real images. `judged`: evaluation images. `cache`: whether the opponent's errors are kept for other runs; if so, the
    opponent draws an image for every example.
    """
    s = preset.for_round(max(index, 1))
    what = f"evaluation on {judged} images"
    forwards = judged * s.evaluation_steps * (1 + (s.evaluation_guidance != 1))
    if index == 0:
        return Counts(what, forwards, 0, 0, judged, 0)
    recursive = s.objective == "weighted"
    pool = s.samples if recursive else examples
    trained_on = (s.selected or pool) * (index if s.accumulate else 1) + s.real_samples if recursive else pool
    steps, batch = s.steps_for(trained_on), s.batch
    made = pool if recursive else s.drawn(examples, cache)
    rolled = made if recursive else made * (s.objective == "spin" and s.generated_source == "rollout")
    forwards += rolled * s.rollout_steps * (1 + (s.guidance != 1))
    if recursive:
        what = f"{pool} rollouts ({_sampler(s)}), {s.selected or pool} kept ({s.strategy}), {steps} steps of {batch} (lr {s.lr:g}), {what}"
    elif s.objective == "sft":
        what = f"{steps} steps of {batch} images (lr {s.lr:g}), {what}"
    else:
        others = f"{rolled} rollouts ({_sampler(s)})" if rolled else f"{made} images to play against ({s.generated_source})"
        what = f"{others}, {steps} steps of {batch} pairs (lr {s.lr:g}, beta {s.beta:g}), {what}"
    trained = (2 if s.objective == "spin" else 1) * steps * batch
    decoded, encoded = through_vae(s, index, examples, made)
    return Counts(what, forwards, trained if s.objective == "spin" else 0, trained, judged + decoded, encoded)


def _sampler(settings: Settings) -> str:
    """Return the sampler and its number of steps, with a note if the papers do not use this sampler."""
    other = "" if settings.sampler == "ddim" else ", not the papers' DDIM"
    other += ": another opponent" if other and settings.objective == "spin" else ""
    return f"{SAMPLERS[settings.sampler].label} in {settings.rollout_steps} steps{other}"


def through_vae(settings: Settings, index: int, examples: int, pool: int) -> tuple[int, int]:
    """Return how many images a round decodes and encodes beside its evaluation, for its own `pool` of images and for the real images."""
    s, views = settings, 1 + settings.flip
    if s.objective == "weighted":
        again = pool * (s.generated_latents == "reencoded")
        return again + pool * bool(s.metrics), again * views + s.real_samples * views  # scoring decodes each image once more
    decoded, encoded = 0, examples * views * (index == 1)
    if s.objective == "spin" and s.generated_source == "rollout":
        decoded, encoded = (pool, encoded + pool * views) if s.generated_latents == "reencoded" else (0, encoded)
    elif s.objective == "spin":
        twice = pool * (s.generated_source == "real-reencoded")
        decoded, encoded = twice, encoded + pool * views + twice
    return decoded, encoded


def operations(counts: Counts, flops: Flops) -> float:
    """Return the FLOPs of UNet and VAE. Text encoder and scorers are left out, as they take less than a hundredth."""
    network = (counts.forwards + counts.opponent) * flops.forward + counts.trained * flops.step
    return network + counts.decoded * flops.decode + counts.encoded * flops.encode


def disk_space(shapes: Shapes, preset: Preset, last: int, examples: int, judged: int, cache: bool = False) -> int:
    """Return the bytes of a run folder after `last` rounds, with the checkpoint that exists while the last round trains."""
    s, weights = preset.settings, 4 * shapes.parameters
    value = 4 if s.precision == "no" else 2
    latent, text = (torch.Size(shape).numel() for shape in (shapes.latent, shapes.text))
    sides = 4 if s.flip else 2  # mean and standard deviation; with `flip`, of the mirrored image too
    evaluations = (last + 1) * judged * latent * 4
    trained = adapter_size(shapes.unet, s.lora_rank) if s.lora_rank else shapes.parameters
    checkpoint = 2 * (3 + bool(s.ema)) * 4 * trained  # weights, two moments, average; twice, as a new one is written beside the old one
    rolled = (sides + (s.generated_latents == "reencoded")) * latent * value
    if s.objective == "weighted":
        each = s.samples * rolled + (s.selected or s.samples) * (text + sides * latent) * value
        return last * (weights + each) + evaluations + checkpoint
    once = examples * (text + sides * latent) * value
    each_round = (preset.for_round(k).drawn(examples, cache) for k in range(1, last + 1))
    kept = sum(each_round) if s.objective == "spin" else 0
    return last * weights + kept * rolled + once + evaluations + checkpoint


def _size(size: float | int) -> str:
    return f"{unit(float(size))}B"


def unit(value: float) -> str:
    """Return a number with the prefix of its unit: 1.2e9 as '1.2 G'."""
    for prefix, scale in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if value >= scale:
            return f"{value / scale:.1f} {prefix}"
    return f"{value / 1e6:.0f} M"


def duration(minutes: float) -> str:
    """Return minutes as text, in seconds, minutes or hours."""
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
