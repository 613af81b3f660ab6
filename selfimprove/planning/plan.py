"""Estimate what a run will cost: operations and memory are counted from shapes, minutes from a timed pass, disk from the settings."""

import math
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from selfimprove.config import Settings
from selfimprove.data.latents import SHARD
from selfimprove.evaluation.watch import WATCHED
from selfimprove.models.lora import adapter_size
from selfimprove.models.pipeline import Diffuser
from selfimprove.planning.costs import Memory, Shapes, count_flops, evaluation_memory, sampling_memory, training_memory
from selfimprove.planning.timing import measure
from selfimprove.planning.work import COMPILED, Counts, Work, count, operations
from selfimprove.presets import Preset
from selfimprove.rollout import guided_at
from selfimprove.run import Run
from selfimprove.scorers import resident_memory
from selfimprove.stages import reached, wanted_latents
from selfimprove.train import CHECKPOINT

# (dense bf16 FLOP/s, GB of memory), from the makers' data sheets
PEAKS = {"an A100 (80 GB)": (312e12, 80), "an H100 or H200": (989e12, 80), "an RTX 4090": (165e12, 24)}
LARGE, HOURS = 1e11, 4  # FLOPs of a pass that takes seconds on a CPU; hours beyond which a trial is advised
TRIAL = "to see every stage in minutes first, stop this (Ctrl+C) and give preset own-trial: small images, two steps"
REACHED = 0.3  # share of the peak; a published training of Stable Diffusion 2 reached 28 %


class Plan(NamedTuple):
    """The estimated cost of a run. `lines`: one line of text per part of the run.

    `minutes`, `flops`: the work still to do. `disk`: bytes of the run folder at the end. `memory`: peak bytes of a process in the
    largest stage.
    """

    lines: list[str]
    minutes: float
    flops: float
    disk: float
    memory: int


class Left(NamedTuple):
    """A stage that is not finished.

    `work`: all of its work, done or not. `share`: the share still to do. `own`: the largest share of the whole that one process has
    still to do.
    """

    work: Work
    share: float
    own: float
    name: str = ""


def plan(run: Run, last: int) -> Plan:
    """Return the cost of playing the rounds up to `last`: images, steps, minutes on this device, FLOPs, memory and disk.

    Only what is still to do is counted: finished stages, shards of stores, and what an opponent cache holds are left out.
    """
    preset, settings, folder, diffuser = run.preset, run.preset.settings, run.folder, run.diffuser
    shapes, examples, judged = Shapes.of(diffuser), run.data.examples, len(run.data.evaluation)
    processes, held_out = PartialState().num_processes, len(run.data.validation)
    flops = count_flops(shapes, settings)
    # a smaller batch on a CPU, so that timing a large network does not take minutes
    batch = max(1, min(16, int(1e12 / flops.forward))) if shapes.device == "cpu" else 16
    if shapes.device == "cpu" and flops.forward > LARGE:
        tqdm.write("timing each network, for the plan: some minutes on a CPU")
    seconds, scorers = measure(diffuser, run.scorers, batch, settings.precision, settings.compile)
    lines = [f"run folder {folder.path}"]
    if run.collection:
        lines.append(f"{len(run.collection.prompts)} different prompts collected, {len(run.collection.held_out)} kept out for evaluation")
    lines.append(f"{examples} real images with captions, {held_out} kept out of training")
    if run.latent_cache:
        lines.append(f"latents of real images and embeddings of texts are shared by runs in {run.latent_cache}")
    several = not run.collection and examples < len(run.data.train)  # images have several captions, and each is drawn for
    minutes = total = compiling = 0.0
    for index in range(last + 1):
        if folder.is_done(index, "evaluation"):
            lines.append(f"round {index}: finished already")
            continue
        if had := folder.longer.get(index):
            state = (folder.round(index) / "training" / CHECKPOINT).exists()
            lines.append(f"round {index}: has had {had} steps, {'goes on from them' if state else 'begins again: their state is gone'}")
        drawn = len(reached(run, preset.for_round(index), index)) if index and several else None
        guided = guided_share(diffuser, preset.for_round(max(index, 1)))
        counts = count(preset, index, examples, judged, bool(run.opponent_cache), held_out, drawn, guided)
        selecting = [name for name, _ in preset.for_round(max(index, 1)).metrics]
        left = remaining(run, index, counts, processes)
        needed = sum(stage.own * seconds.of(stage.work, flops.step / flops.forward, selecting) for stage in left) / 60
        compiling += seconds.compiling * sum(COMPILED.get(stage.name, 0) for stage in left if stage.own) / 60
        minutes, total = minutes + needed, total + sum(stage.share * operations(stage.work, flops) for stage in left)
        lines.append(f"round {index}: {counts.what}: about {duration(needed)}")
    if minutes == 0:
        lines.append("nothing is left to compute")
        return Plan(lines, 0.0, 0.0, 0.0, 0)
    if compiling:
        minutes += compiling
        lines.append(f"compiling the networks, once per stage: about {duration(compiling)}")
    resident = resident_memory(run.scorers.values())
    sizes = [diffuser.image_size] if run.collection else [run.data.frames[row].size for row in run.data.train]
    trained = Shapes.of(diffuser.sized(max(sizes, key=math.prod)))  # evaluations are in the default size
    kept, drawn = resident if shapes.device == "cpu" else 0, settings.samples if run.collection else examples
    training = training_memory(trained, settings, second_network(settings) and not run.opponent_cache, processes)
    if settings.sample_every:  # images between steps are drawn beside the training's networks and moments
        few = sampling_memory(
            shapes, replace(settings, rollout_batch=min(settings.rollout_batch, WATCHED)), settings.evaluation_guidance, WATCHED
        )
        training = training._replace(activations=max(training.activations, few.activations))
    stages = {
        "training": training._replace(scorers=kept),
        "sampling": sampling_memory(trained, settings, settings.guidance, drawn)._replace(scorers=kept),
        "evaluation": evaluation_memory(shapes, settings, scorers, resident, judged),
    }
    largest = max(stages, key=lambda name: stages[name].peak)
    others = ", ".join(f"in {name} {_size(memory.peak)}" for name, memory in stages.items() if name != largest)
    copies = 1 + bool(run.latent_cache and _on_another_disk(run.latent_cache, folder.path))
    disk = float(disk_space(shapes, preset, last, examples, judged, bool(run.opponent_cache), copies))
    cards = [f"{duration(total / peak / REACHED / 60)} on {card}" for card, (peak, _) in PEAKS.items()]
    lines += [
        f"operations: {unit(total)}FLOP; at {REACHED:.0%} of the peak of one card, {', '.join(cards)}",
        f"memory, at most in {largest}: {_size(stages[largest].peak)} ({_parts(stages[largest])}), and what the device's libraries take "
        "beside, on a CPU up to as much again",
        f"memory {others}; disk: {_size(disk)}",
        f"in all about {duration(minutes)} on {diffuser.device}",
    ]
    lines += [TRIAL] * (minutes > 60 * HOURS and not run.collection and not run.data.scenes)
    return Plan(lines, minutes, total, disk, stages[largest].peak)


def remaining(run: Run, index: int, counts: Counts, processes: int) -> list[Left]:
    """Return what is left of each stage of an unfinished round, by what its run folder and the opponent cache hold."""
    folder, s = run.folder.round(index), run.preset.for_round(max(index, 1))
    opponent = run.folder.identity.get("model", "")
    if index > 1 and s.opponent == "previous":
        opponent = run.folder.manifest(index - 1)["stages"].get("evaluation", {}).get("player", "")
    cache = run.cache_of(index, opponent) if opponent else None
    trained = run.folder.is_done(index, "training")
    short = run.folder.manifest(index)["stages"].get("rollout", {}).get("images", counts.drawn) < counts.drawn  # before a longer training
    places = math.ceil(counts.total.opponent / 2)  # pairs whose errors the opponent computes
    stores: dict[str, tuple[Path | None, int]] = {
        "rollout": (cache / "rollout" if cache else folder / "rollout", counts.drawn),
        "scores": (folder / "pool", counts.drawn),
        "opponent": (cache or folder / "errors", places),
        "evaluation": (None if index and not trained else folder / "evaluation", len(run.data.evaluation)),
    }
    encoded, found = {"held-out latents": wanted_latents(run), "real": wanted_latents(run, s)}, []
    shown = ("real",) if s.objective == "weighted" else ("real", "rollout", "opponent", "training")  # stages in the sizes of real images
    area = mean_area(run)
    for name, whole in counts.stages.items():
        work = Work(*(area * number for number in whole)) if name in shown and area < 1 else whole
        made = name not in ("held-out latents", "evaluation", "scoring", "held-out error")
        if (run.folder.is_done(index, name) and not (name == "rollout" and short)) or (made and trained):
            continue
        if name == "training" or (name == "opponent" and not run.opponent_cache):
            share = 1 - _trained(folder / "training" / CHECKPOINT, counts, s)
            found.append(Left(work, share, share / processes, name))
        elif name in encoded:
            wanted = encoded[name]
            missing = [key not in shared for shared in [wanted.places(run.latent_cache)] for key in wanted.keys]
            found.append(Left(work, *absent(wanted.folder, len(missing), SHARD, processes, missing), name))
        elif name in stores:
            found.append(Left(work, *absent(*stores[name], SHARD, processes), name))
        else:
            found.append(Left(work, *absent(None, len(run.data.evaluation), s.rollout_batch, processes), name))
    return found


def guided_share(diffuser: Diffuser, settings: Settings) -> float:
    """Return the share of a rollout's steps that are guided."""
    steps = diffuser.schedule.steps(settings.rollout_steps)
    return sum(guided_at(step.alpha, step.variance, settings.guidance_interval) for step in steps) / len(steps)


def mean_area(run: Run) -> float:
    """Return the mean area of the training images divided by the area of the default size. Work per image grows with this ratio."""
    areas = [math.prod(run.data.frames[row].size) for row in run.data.train]
    return sum(areas) / len(areas) / math.prod(run.diffuser.image_size) if areas else 1.0


def absent(store: Path | None, rows: int, size: int, processes: int, missing: Sequence[bool] = ()) -> tuple[float, float]:
    """Return which share of the rows of a store has no shard yet, and the largest share that one process has to make.

    `missing`: for each row whether a cache lacks it; if empty, there is no cache.
    """
    own = [0] * processes
    for shard, start in enumerate(range(0, rows, size)):
        if not (store and (store / f"{shard:05d}.safetensors").exists()):
            own[shard % processes] += sum(missing[start : start + size]) if missing else min(size, rows - start)
    return sum(own) / max(rows, 1), max(own) / max(rows, 1)


def _trained(checkpoint: Path, counts: Counts, settings: Settings) -> float:
    """Return which share of a round's training a checkpoint holds; 0 for one that is absent or cannot be read."""
    if not checkpoint.exists():
        return 0.0
    try:  # mapped, so that only the numbers are read, not the weights
        step = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)["step"]
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError):
        return 0.0
    sides = 2 if settings.objective == "spin" else 1
    return min(1.0, step * sides * settings.batch / max(counts.total.trained, 1))


def _parts(memory: Memory) -> str:
    return ", ".join(f"{part} {_size(size)}" for part, size in memory._asdict().items() if size)


def second_network(settings: Settings) -> bool:
    """Return whether rounds need a second network in memory for the opponent.

    With adapters, the opponent is the player's network with another adapter, or with none.
    """
    return settings.objective == "spin" and not settings.lora_rank


def _on_another_disk(path: Path, other: Path) -> bool:
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    return there.stat().st_dev != other.stat().st_dev


def disk_space(shapes: Shapes, preset: Preset, last: int, examples: int, judged: int, cache: bool = False, copies: int = 1) -> int:
    """Return the bytes of a run folder after `last` rounds, with the checkpoint that exists while the last round trains.

    `cache`: see `count`. `copies`: how often latents of real images and texts are stored: twice if the shared cache
    is on another disk than the run folder.
    """
    s, weights = preset.settings, 4 * shapes.parameters
    value = 4 if s.precision == "no" else 2
    latent, text = torch.Size(shapes.latent).numel(), sum(torch.Size(shape).numel() for shape in shapes.text.values())
    sides = 4 if s.flip else 2  # mean and standard deviation; with `flip`, of the mirrored image too
    evaluations = (last + 1) * judged * latent * 4
    trained = (
        adapter_size(shapes.denoiser, s.lora_targets.split() or shapes.family.adapted, s.lora_rank) if s.lora_rank else shapes.parameters
    )
    # weights, two moments, average; once more while a new one is written beside the old one; each round keeps its adapter's
    checkpoint = (max(2, 1 + last) if s.lora_rank else 2) * (3 + bool(s.ema)) * 4 * trained
    rolled = (sides + (s.generated_latents == "reencoded")) * latent * value
    if s.objective == "weighted":
        each = s.samples * rolled + (s.selected or s.samples) * (text + sides * latent) * value
        return last * (weights + each) + evaluations + checkpoint
    once = copies * examples * (text + sides * latent) * value
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
