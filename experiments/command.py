"""What `experiments.tuning` and `experiments.play` share: the command line, the worlds that are there, and what work costs on a device."""

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.jobs import Job, cost, play_jobs
from experiments.judging import DATA, Judging
from experiments.table import WORLDS
from selfimprove.models.pipeline import load_diffuser
from selfimprove.models.resolve import resolve_model
from selfimprove.models.weights import ModelError
from selfimprove.planning.costs import Flops, Shapes, count_flops
from selfimprove.planning.timing import Seconds, measure
from selfimprove.planning.work import Work, count
from selfimprove.presets import PRESETS, Preset
from selfimprove.processes import choose_device
from selfimprove.scorers import SHAPES_SCORERS, load_scorers
from selfimprove.shapes.truths import read


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the options that both commands have."""
    made = argparse.ArgumentParser(prog=f"python -m {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--jobs", type=int, default=1, help="processes of one thread each (default: 1)")
    made.add_argument("--device", default="cpu", help="default: cpu, where results repeat exactly")
    made.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    made.add_argument("--size", choices=["full", "smoke"], default="full", help="smoke: a few minutes, to check that all of it runs")
    made.add_argument("--plan", action="store_true", help="say what is left to play and what it costs, and play nothing")
    made.add_argument("--out", type=Path, help="default: book/results/experiments, or runs/experiments-smoke/results for --size smoke")
    made.add_argument("--runs", type=Path, help="default: runs/experiments, or runs/experiments-smoke for --size smoke")
    return made


def places(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Return where results and where run folders go."""
    runs = arguments.runs or Path("runs") / ("experiments" if arguments.size == "full" else "experiments-smoke")
    return arguments.out or (Path("book/results/experiments") if arguments.size == "full" else runs / "results"), runs


def there(worlds: Sequence[str]) -> list[str]:
    """Return the worlds whose weights are there, and say which are skipped."""
    found = []
    for world in worlds:
        try:
            resolve_model(world)
            found.append(world)
        except ModelError as error:
            print(f"skipped: {error}", flush=True)
    return found


@dataclass(frozen=True)
class Prices:
    """Seconds of a world's networks on a device, timed once; `truths`: seconds in which the truths of an image are read."""

    seconds: Seconds
    flops: Flops
    truths: float

    def minutes(self, preset: Preset, rounds: int, judgings: Iterable[Judging]) -> float:
        """Return the minutes that a process needs for the rounds of a preset, as `planning` counts them, and for judgings."""
        s, total, step = preset.settings, 0.0, self.flops.step / self.flops.forward
        for index in range(rounds + 1):
            each = preset.for_round(max(index, 1))
            work = count(preset, index, each.samples, s.evaluation_prompts * s.evaluation_images, held_out=s.validation).total
            total += self.seconds.of(work, step, [name for name, _ in each.metrics])
        for judging in judgings:
            real = judging.count if judging.part in DATA else 0
            total += self.seconds.of(Work(forwards=judging.passes(), decoded=judging.count, encoded=real, judged=judging.count))
            total += 0 if judging.part == "validation" else self.truths * judging.count
        return total / 60


def prices(world: str, device: str, batch: int = 16) -> Prices:
    """Time the networks of a world, the scorers and the truths."""
    chosen = choose_device(device)
    diffuser = load_diffuser(resolve_model(world), chosen)
    settings = PRESETS[f"{world}-spin"].settings
    flops = count_flops(Shapes.of(diffuser), settings)
    seconds, _ = measure(diffuser, load_scorers(SHAPES_SCORERS, chosen), batch)
    images = diffuser.decode(torch.randn(batch, *diffuser.latent_shape, generator=torch.Generator().manual_seed(0)))
    start = time.perf_counter()
    read(images)
    return Prices(seconds, flops, (time.perf_counter() - start) / batch)


def play_or_plan(jobs: Sequence[Job], arguments: argparse.Namespace) -> dict[str, str]:
    """Say what the jobs cost and, unless only a plan is wanted, play them; return the errors by job."""
    if jobs:
        print(f"{cost(jobs, arguments.jobs)} on {arguments.device}", flush=True)
    if arguments.plan:
        for job in sorted(jobs, key=lambda job: -job.minutes):
            print(f"{job.minutes:8.1f} min  {job.name}")
        return {}
    return play_jobs(jobs, arguments.jobs)


def said(failed: dict[str, str]) -> int:
    """Name the jobs that failed, and return the exit code."""
    for name, error in failed.items():
        print(f"failed: {name}: {error}")
    return int(bool(failed))
