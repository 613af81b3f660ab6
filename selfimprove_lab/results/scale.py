"""Estimate what the presets for Stable Diffusion cost, from their settings and the shapes of the network alone, for planning."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from selfimprove.planning.costs import Flops, Shapes, count_flops, evaluation_memory, sampling_memory, training_memory
from selfimprove.planning.plan import PEAKS, REACHED, disk_space, second_network, unit
from selfimprove.planning.work import count, operations
from selfimprove.presets import PRESETS, Preset
from selfimprove_lab.results.true_sizes import largest_scorer, true_size

CARDS = {"sd15-spin": 8, "sd15-dpo": 8, "sd15-sft": 8}  # as many as the papers had; the other presets are for one
SCALED: dict[str, Preset] = {name: preset for name, preset in PRESETS.items() if name.startswith("sd")}
ROUNDS = {"sd14-rsi": 8, "sd3-rsi": 3}  # of recursion, by its paper; self-play's are in the presets
SIZES = {"sd14": "sd15", "sd15": "sd15"}  # beginnings of presets' names -> names in `true_sizes`, where these differ


class Cost(NamedTuple):
    """The cost of one preset played to its last round.

    `flops` are those of the whole run and `training` those of its training steps. `memory` is in bytes per process, in the largest stage,
    and `disk` in bytes. `cards` is the number of processes.
    """

    rounds: int
    cards: int
    flops: float
    training: float
    memory: float
    disk: float


def shapes_of(name: str) -> Shapes:
    """Return the shapes of the pipeline that a row of the table is about."""
    kind = name.partition("-")[0]
    return true_size(SIZES.get(kind, kind))


def simulate(name: str) -> dict[str, Any]:
    """Count what takes seconds for one preset: FLOPs per latent or image, and bytes at the peak of every stage, part by part."""
    settings, shapes = SCALED[name].settings, shapes_of(name)
    flops = count_flops(shapes, settings)
    memory = training_memory(shapes, settings, second_network(settings), CARDS.get(name, 1))
    stages = {
        "sampling": sampling_memory(shapes, settings, settings.guidance),
        "evaluation": evaluation_memory(shapes, settings, [largest_scorer()], 0),
    }
    return {"flops": flops._asdict(), "memory": memory._asdict()} | {name: stage._asdict() for name, stage in stages.items()}


def _rounds(name: str) -> int:
    return ROUNDS.get(name, len(SCALED[name].rounds))


def costs_of(name: str, simulated: dict[str, Any], examples: int | None = None, judged: int | None = None) -> Cost:
    """Return the costs of a preset with `examples` real images and `judged` evaluation images; None means the preset's own numbers.

    `simulated` is the result of `simulate`.
    """
    preset = SCALED[name]
    s, flops, cards = preset.settings, Flops(**simulated["flops"]), CARDS.get(name, 1)
    real, evaluated = examples or s.samples, judged or s.evaluation_prompts * s.evaluation_images
    last = _rounds(name)
    counts = [count(preset, index, real, evaluated) for index in range(last + 1)]
    training = sum(c.total.opponent * flops.forward + c.total.trained * flops.step for c in counts)
    total = sum(operations(c, flops) for c in counts)
    disk = float(disk_space(shapes_of(name), preset, last, real, evaluated))
    memory = float(max(sum(simulated[stage].values()) for stage in ("memory", "sampling", "evaluation")))
    return Cost(last, cards, total, training, memory, disk)


def rough(minutes: float) -> str:
    """Return minutes as text with two digits, as many as an assumed speed can bear."""
    value, name = (minutes, "min") if minutes < 100 else (minutes / 60, "h")
    return f"{float(f'{value:.2g}'):g} {name}"


def scale_table(path: str | Path, examples: int | None = None) -> pd.DataFrame:
    """Return for every preset for Stable Diffusion: operations, time of its cards at 30 % of their peak, memory per process, disk.

    `path` is the file that `python -m benchmarks.scale` wrote. If `examples`, the number of the data's captions, is given, the table has
    only the presets that train on data and have more.
    """
    simulated, rows = json.loads(Path(path).read_text())["presets"], []
    for name, preset in SCALED.items():
        if examples and (preset.settings.objective == "weighted" or preset.settings.samples <= examples):
            continue
        cost = costs_of(name, simulated[name], examples)
        row = {"preset": name, "captions": f"{examples or preset.settings.samples:,}", "rounds": cost.rounds, "cards": cost.cards}
        row |= {"operations": f"{unit(cost.flops)}FLOP", "of it training": f"{cost.training / cost.flops:.0%}"}
        for card, (peak, gigabytes) in PEAKS.items():
            row[f"if {card}"] = rough(cost.flops / peak / REACHED / 60 / cost.cards) if cost.memory < gigabytes * 1e9 else "does not fit"
        rows.append(row | {"memory a process": f"{unit(cost.memory)}B", "disk": f"{unit(cost.disk)}B"})
    return pd.DataFrame(rows).set_index("preset")


def memory_table(path: str | Path) -> pd.DataFrame:
    """Return what a process holds at its peak in training, by part and in all, then in other stages; `path` as in `scale_table`."""
    simulated = json.loads(Path(path).read_text())["presets"]
    parts = pd.DataFrame({name: simulated[name]["memory"] for name in SCALED}).T
    parts = parts.loc[:, (parts > 0).any()]
    parts["in all"] = parts.sum(axis=1)
    for stage in ("sampling", "evaluation"):
        parts[f"in {stage}"] = [sum(simulated[name][stage].values()) for name in SCALED]
    return parts.map(lambda size: f"{unit(float(size))}B" if size else "").rename_axis("preset")


def scale_sentence(path: str | Path) -> str:
    """Say when, where and with what the simulated numbers were made; `path` as in `scale_table`."""
    made = json.loads(Path(path).read_text())["provenance"]
    versions = ", ".join(f"{k} {v}" for k, v in made["versions"].items())
    return f"Simulated {made['time']} on {made['machine']} (`python -m benchmarks.scale`); {versions}; git {made['git'][:10]}."
