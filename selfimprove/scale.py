"""What the presets for Stable Diffusion cost, from their settings and the shapes of the network alone: a table for those who plan."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from selfimprove.config import PRESETS, Settings
from selfimprove.costs import Flops, count_flops, stable_diffusion, training_memory
from selfimprove.plan import PEAKS, REACHED, count, disk_space, duration, operations, second_network, unit

CARDS = {"sd15-spin": 8, "sd15-dpo": 8, "sd15-sft": 8}  # processes that give the papers' batches; the other presets are for one
SCALED = tuple(name for name in PRESETS if name.startswith("sd"))


class Cost(NamedTuple):
    """One preset played to its last round: FLOPs in all and of sampling, images made included; bytes of memory a process, and on disk."""

    rounds: int
    cards: int
    flops: float
    sampling: float
    memory: float
    disk: float


def simulate(name: str) -> dict[str, Any]:
    """What takes seconds to count, of one preset: FLOPs a latent or image, and bytes at the peak of a training step."""
    settings, shapes = PRESETS[name].settings, stable_diffusion()
    flops = count_flops(shapes, Settings(lora_rank=settings.lora_rank))
    memory = training_memory(shapes, settings, second_network(settings), CARDS.get(name, 1)).peak
    return {"flops": flops._asdict(), "memory": memory}


def costs_of(name: str, simulated: dict[str, Any], examples: int | None = None, judged: int | None = None) -> Cost:
    """Costs of a preset with so many real images and evaluation images; None: the preset's own numbers. `simulated`: see `simulate`."""
    preset = PRESETS[name]
    s, flops, cards = preset.settings, Flops(**simulated["flops"]), CARDS.get(name, 1)
    real, evaluated = examples or s.samples, judged or s.evaluation_prompts * s.evaluation_images
    last = len(preset.rounds) if s.objective == "spin" else 8 if s.objective == "weighted" else 1
    counts = [count(preset, index, real, evaluated, cards) for index in range(last + 1)]
    sampling = sum(c.forwards * flops.forward + c.images * (flops.decode + flops.encode) for c in counts)
    total = sum(operations(c, flops) for c in counts)
    disk = float(disk_space(stable_diffusion(), s, last, real, evaluated))
    return Cost(last, cards, total, sampling, float(simulated["memory"]), disk)


def scale_table(path: str | Path, examples: int | None = None) -> pd.DataFrame:
    """Every preset for Stable Diffusion: operations, time of its cards at 30 % of their peak, memory of a process, disk.

    `path`: what `python -m benchmarks.scale` wrote.
    """
    simulated, rows = json.loads(Path(path).read_text())["presets"], []
    for name in SCALED:
        cost = costs_of(name, simulated[name], examples)
        row = {"preset": name, "rounds": cost.rounds, "cards": cost.cards, "operations": f"{unit(cost.flops)}FLOP"}
        row |= {"of it sampling": f"{cost.sampling / cost.flops:.0%}"}
        for card, (peak, gigabytes) in PEAKS.items():
            row[f"if {card}"] = duration(cost.flops / peak / REACHED / 60 / cost.cards) if cost.memory < gigabytes * 1e9 else "does not fit"
        rows.append(row | {"memory a process": f"{unit(cost.memory)}B", "disk": f"{unit(cost.disk)}B"})
    return pd.DataFrame(rows).set_index("preset")
