"""Compute what self-play with a million captions asks of many GPUs: operations, bytes, communication, and what a lost node costs."""

import math
from typing import NamedTuple

import pandas as pd
import torch

from selfimprove.config import Settings
from selfimprove.data.latents import SHARD
from selfimprove.planning.costs import Flops, Shapes, count_flops
from selfimprove.planning.plan import PEAKS, REACHED, disk_space, duration, unit
from selfimprove.planning.work import count, operations
from selfimprove.presets import PRESETS, Preset
from selfimprove_lab.results.true_sizes import true_size

CARD = "an H100 or H200"
LINK = 25e9  # bytes per second and card between machines that training is assumed to reach: half of a 400 Gbit/s port
DISK = 1e9  # bytes per second and process that a shared file system is assumed to give


class Stage(NamedTuple):
    """What a stage of a round asks for, in all processes together.

    `flops`: operations. `rows`: images that are made in shards, which any process may make; 0 for a training. `kept`: bytes that it leaves
    in the run folder. `read`: bytes that its processes read from the run folder. `reduced`: bytes of gradients that every process sends to
    add them up with the others', over all steps. `again`: operations that one process, or in a training all of them together, do again if
    a machine is lost at the worst moment.
    """

    flops: float
    rows: int
    kept: float = 0.0
    read: float = 0.0
    reduced: float = 0.0
    again: float = 0.0

    def longest(self, cards: int) -> float:
        """Return the operations of the process that has most to do: whole shards, or an equal part of a training."""
        shards = math.ceil(self.rows / SHARD)
        return min(math.ceil(shards / cards) * SHARD, self.rows) * self.flops / self.rows if self.rows else self.flops / cards


def preset_of(captions: int, name: str) -> Preset:
    """Return a preset with another number of captions."""
    return PRESETS[name].changed(samples=captions)


def stages(captions: int, name: str = "sd15-spin", cards: int = 8) -> dict[str, Stage]:
    """Return all stages of a run of a self-play preset, rounds 1, 2, ... of the preset, on so many cards."""
    preset, shapes = preset_of(captions, name), _shapes(name)
    flops, s, judged = count_flops(shapes, preset.settings), preset.settings, preset.settings.evaluation_prompts
    value = 4 if s.precision == "no" else 2
    latent, text = torch.Size(shapes.latent).numel() * value, sum(torch.Size(shape).numel() for shape in shapes.text.values()) * value
    weights, views = 4 * shapes.parameters, 1 + s.flip

    def sharded(flops: float, rows: int, kept: float | int, read: float | int = 0) -> Stage:
        return Stage(flops, rows, kept, read, again=min(SHARD, rows) * flops / rows)

    encoded = captions * views * flops.encode
    found = {"real latents and texts, once": sharded(encoded, captions, captions * (text + 2 * views * latent))}
    for index in range(len(preset.rounds) + 1):
        settings, counts = preset.for_round(max(index, 1)), count(preset, index, captions, judged)
        work = {part: operations(stage, flops) for part, stage in counts.stages.items()}
        if index:
            drawn, steps = counts.drawn, settings.steps_for(captions)
            kept = drawn * (2 * views + (s.generated_latents == "reencoded")) * latent
            found[f"round {index}: rollouts"] = sharded(work["rollout"], drawn, kept, cards * weights)
            found[f"round {index}: training"] = _training(settings, flops, steps, cards, weights, (text + 4 * latent), work)
        judging = sum(work[part] for part in ("evaluation", "scoring", "held-out error"))
        found[f"round {index}: evaluation"] = sharded(judging, judged, judged * torch.Size(shapes.latent).numel() * 4, cards * weights)
    return found


def _training(s: Settings, flops: Flops, steps: int, cards: int, weights: int, pair: int, work: dict[str, float]) -> Stage:
    """Return a training: gradients are added up once a step, and a lost process ends all, which go on from the last checkpoint."""
    whole = work["training"] + work["opponent"]
    reduced = steps * 2 * (cards - 1) / cards * weights  # a ring sends every byte there and back
    again = min(s.checkpoint_every, steps) / steps * whole
    return Stage(whole, 0, weights, steps * s.batch * pair, reduced, again)


def _shapes(name: str) -> Shapes:
    return true_size(name.partition("-")[0])


def disk_of(captions: int, name: str = "sd15-spin") -> float:
    """Return the bytes of the whole run folder, as the plan of a run states them."""
    preset = preset_of(captions, name)
    judged = preset.settings.evaluation_prompts
    return float(disk_space(_shapes(name), preset, len(preset.rounds), captions, judged))


def machines_table(captions: int, cards: int, name: str = "sd15-spin") -> pd.DataFrame:
    """Return the stages as a table for readers: operations, time, bytes, and what is done again after a node is lost.

    Times are at 30 % of the peak of `CARD`; of communication, at `LINK` bytes per second and card; of reading, at `DISK` per process.
    """
    rate, rows = PEAKS[CARD][0] * REACHED, []
    for stage, cost in stages(captions, name, cards).items():
        seconds = cost.longest(cards) / rate
        rows.append(
            {
                "stage": stage,
                "operations": f"{unit(float(cost.flops))}FLOP",
                "time": duration(seconds / 60),
                "kept": f"{unit(float(cost.kept))}B",
                "read": f"{unit(float(cost.read))}B in {duration(cost.read / DISK / cards / 60)}",
                "sent by each card": f"{unit(float(cost.reduced))}B in {duration(cost.reduced / LINK / 60)}" if cost.reduced else "nothing",
                "done again after a node is lost": duration(cost.again / rate / (1 if cost.rows else cards) / 60),
            }
        )
    return pd.DataFrame(rows).set_index("stage")


def machines_sentence(captions: int, cards: int, name: str = "sd15-spin") -> str:
    """Say what the whole run takes on so many cards, and what of it is communication."""
    rate, found = PEAKS[CARD][0] * REACHED, stages(captions, name, cards).values()
    hours = sum(stage.longest(cards) for stage in found) / rate / 3600
    sent = sum(stage.reduced for stage in found) / LINK / 3600
    return (
        f"On {cards} cards ({CARD} at {REACHED:.0%} of the peak) the rounds of `{name}` with {captions:,} captions take {hours:.1f} h of "
        f"computing; adding up gradients takes {60 * sent:.1f} min where none of it is hidden behind the backward passes; the run folder "
        f"holds {unit(disk_of(captions, name))}B."
    )
