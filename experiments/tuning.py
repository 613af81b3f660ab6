"""python -m experiments.tuning: give every method and adapter size the same budget of tuning, and write what won and what lost.

Every method of `experiments.table.methods` is trained at each rate of one small grid, with a seed that no experiment uses. Its end is drawn
on the validation captions at a few guidances. The learned scorers choose, by the mean of their z scores: the truths are hidden from them.
If a rate at the edge of the grid wins, the next one beyond is tried too, twice at most. The base's best guidance is the common one.
The file book/results/experiments/tuning.json has the winners, from which arms take their rates, and all losers.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.arms import Arm, set_up_arm
from experiments.command import parser, places, play_or_plan, prices, said, there
from experiments.jobs import Job
from experiments.judging import Judging, judged
from experiments.play import TUNING, tuned_of
from experiments.table import SEEDS, methods
from selfimprove.config import Settings
from selfimprove.files import read_json, write_json
from selfimprove.presets import PRESETS, Preset
from selfimprove.rounds import play
from selfimprove.run_folder import provenance
from selfimprove.scorers import SHAPES_SCORERS

SEED = 1009
assert SEED not in SEEDS
STEP = 10**0.5  # between the rates of a grid
BASE = "base"  # no method: what the untrained model scores, by guidance
FIRST = {False: 1.5e-6, True: 1.5e-4}  # the lowest rate for all weights, and for an adapter
RATES, BEYOND = 4, 2  # of the grid; of further ones beyond an edge that wins
GUIDANCES = (1.0, 1.5, 3.0, 4.5)
COUNT = 256  # validation captions


def rate(settings: Settings, place: int) -> float:
    """Return the rate at a place of the grid, to two digits; places below 0 and from RATES on lie beyond its edges."""
    return float(f"{FIRST[bool(settings.lora_rank)] * STEP**place:.1e}")


def places_of(size: str) -> range:
    """Return the places of the grid that every method is tried at."""
    return range(RATES if size == "full" else 2)


def drawn(world: str, size: str) -> list[Judging]:
    """Return how a candidate is drawn, at every guidance."""
    steps = PRESETS[f"{world}-spin"].settings.evaluation_steps
    count, steps, guidances = (COUNT, steps, GUIDANCES) if size == "full" else (8, 2, GUIDANCES[1:3])
    return [Judging("validation", count, guidance, steps) for guidance in guidances]


def candidate_file(runs: Path, world: str, method: str, place: int) -> Path:
    """Return where the scores of a candidate are kept."""
    return runs / world / f"tuning-{method}-{place}-{SEED}" / "scores.json"


def try_candidate(world: str, method: str, preset: Preset, rounds: int, place: int, size: str, runs: Path, device: str) -> None:
    """Train a method at one rate, and keep the mean of every learned scorer on the validation captions, by guidance."""
    path = candidate_file(runs, world, method, place)
    run = set_up_arm(Arm(preset, rounds), f"tuning-{method}-{place}", SEED, runs / world, device)
    play(run, rounds)
    folder = run.folder.round(rounds)
    player = folder / "pipeline" if rounds else run.diffuser.folder
    scores = []
    for judging in drawn(world, size):
        table = judged(folder / "judged", run.diffuser, player, judging, run.scorers, {})[list(SHAPES_SCORERS)]
        scores.append({"guidance": judging.guidance, "mean": table.mean().to_dict(), "std": table.std().to_dict()})
    write_json(path, {"lr": preset.settings.lr, "rounds": rounds, "steps": preset.settings.steps, "scores": scores})


def standardised(scores: Mapping[str, Any], scale: Mapping[str, Any]) -> float:
    """Return the mean over the scorers of how many deviations of the base's images a model's mean lies above the base's."""
    z = [(scores["mean"][name] - scale["mean"][name]) / scale["std"][name] for name in SHAPES_SCORERS]
    return float(pd.Series(z).mean())


def table_of(world: str, method: str, runs: Path, scale: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each rate and guidance of a method that has been tried."""
    rows = []
    for path in sorted((runs / world).glob(f"tuning-{method}-*-{SEED}/scores.json")):
        place = path.parent.name.removeprefix(f"tuning-{method}-").removesuffix(f"-{SEED}")
        if not place.lstrip("-").isdigit():  # another method, whose name begins alike
            continue
        found = read_json(path)
        for scores in found["scores"]:
            score = round(standardised(scores, scale), 4)
            rows.append({"place": int(place), "lr": found["lr"], "guidance": scores["guidance"], "score": score})
    return rows


def best(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the row of the highest score; of equal ones the gentler, with the lower rate and guidance."""
    return max(rows, key=lambda row: (row["score"], -row["place"], -row["guidance"]))


def wanted_places(rows: Sequence[Mapping[str, Any]], size: str) -> list[int]:
    """Return the places that must be tried: the grid and, once that is done, the next one beyond an edge that wins."""
    tried, grid = {row["place"] for row in rows}, places_of(size)
    if missing := [place for place in grid if place not in tried]:
        return missing
    place = best(rows)["place"]
    beyond = [place + step for step in (-1, 1) if place + step not in tried and size == "full"]
    return beyond if len(tried) < len(grid) + BEYOND else []


def candidates(world: str, size: str, runs: Path, device: str) -> list[Job]:
    """Return the candidates that are still to be tried, with their prices."""
    found: list[tuple[str, Preset, int, int]] = []
    spin = methods(world, size)["spin"][0]
    base = candidate_file(runs, world, BASE, 0)
    if not base.exists():
        found.append((BASE, spin, 0, 0))
    scale = _scale(world, base) if base.exists() else None
    for method, (preset, rounds) in methods(world, size).items():
        rows = table_of(world, method, runs, scale) if scale else []
        tried = [p for p in places_of(size) if candidate_file(runs, world, method, p).exists()]
        places = wanted_places(rows, size) if scale else [p for p in places_of(size) if p not in tried]
        found += [(method, preset.changed(lr=rate(preset.settings, p)), rounds, p) for p in places]
    if not found:
        return []
    priced = prices(world, device)
    return [
        Job(
            f"{world}: {method} at {preset.settings.lr:g}" if method != BASE else f"{world}: {BASE}",
            priced.minutes(preset, rounds, drawn(world, size)),
            partial(try_candidate, world, method, preset, rounds, place, size, runs, device),
        )
        for method, preset, rounds, place in found
    ]


def _scale(world: str, base: Path) -> Mapping[str, Any]:
    """Return the base's means and deviations at the preset's guidance."""
    usual = PRESETS[f"{world}-spin"].settings.evaluation_guidance
    return next(scores for scores in read_json(base)["scores"] if scores["guidance"] == usual)


def tuned(world: str, size: str, runs: Path) -> dict[str, Any]:
    """Return each method's winner with all that was tried, and the common guidance."""
    base = candidate_file(runs, world, BASE, 0)
    scale = _scale(world, base)
    untrained = table_of(world, BASE, runs, scale)
    found: dict[str, Any] = {"common": {"guidance": best(untrained)["guidance"], "tried": untrained}}
    for method, (preset, rounds) in methods(world, size).items():
        rows = table_of(world, method, runs, scale)
        won = best(rows)
        edge = won["place"] in (min(row["place"] for row in rows), max(row["place"] for row in rows))
        about = {"lr": won["lr"], "guidance": won["guidance"], "score": won["score"], "at_edge": edge, "rounds": rounds}
        found[method] = {**about, "steps": preset.settings.steps, "tried": rows}
    return found


def main(given: Sequence[str] | None = None) -> int:
    arguments = parser("experiments.tuning", __doc__).parse_args(given)
    out, runs = places(arguments)
    worlds, failed = [world for world in there(arguments.worlds)], dict[str, str]()
    for _ in range(2 + BEYOND):  # the base and the grid, then what lies beyond the edges
        jobs = [job for world in worlds for job in candidates(world, arguments.size, runs, arguments.device) if job.name not in failed]
        if not jobs:
            break
        failed |= play_or_plan(jobs, arguments)
        if arguments.plan:
            return 0
    for world in worlds:
        if any(name.startswith(f"{world}:") for name in failed):
            continue
        found = dict(tuned_of(out)) | {world: tuned(world, arguments.size, runs)}
        about = {"seed": SEED, "captions": drawn(world, arguments.size)[0].count, "scorers": SHAPES_SCORERS}
        write_json(out / TUNING, {**about, "worlds": found, "provenance": provenance()})
        print(f"{world}: " + ", ".join(f"{m} {w['lr']:g} at guidance {w['guidance']:g}" for m, w in found[world].items() if m != "common"))
    return said(failed)


if __name__ == "__main__":
    raise SystemExit(main())
