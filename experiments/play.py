"""python -m experiments.play: play the arms of `experiments.table` that are not exported yet, with what `experiments.tuning` found.

Results go to book/results/experiments/<world>/: `<arm>-<seed>.json` has the settings, what each round says and what it cost;
`<arm>-<seed>.parquet` has a row for every judged image. Each arm and seed is exported as soon as it ends. Killed and started again, the
command goes on where it stopped. `make experiments` tunes first.
"""

import fnmatch
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.arms import examples_of, give, passes, set_up_arm
from experiments.command import parser, places, play_or_plan, prices, said, there
from experiments.exports import logged, narrow_log, narrow_summary
from experiments.jobs import Job
from experiments.judging import Judging, judged
from experiments.table import SEEDS, Arm, arms
from selfimprove.files import read_json, write_json, write_table
from selfimprove.rounds import play
from selfimprove.run_folder import provenance

TUNING = "tuning.json"


def judgings(arm: Arm, seed: int) -> list[tuple[int, Judging]]:
    """Return which rounds of an arm are judged how, of this seed."""
    return [(k, e.judging) for e in arm.exports for k in e.rounds if not e.first_seed or seed == arm.seeds[0]]


def play_arm(arm: Arm, seed: int, out: Path, runs: Path, device: str = "cpu") -> None:
    """Play one arm with one seed, judge its players, and export it."""
    start, runs = time.perf_counter(), runs / arm.world
    run = set_up_arm(arm, arm.name, seed, runs, device)  # type: ignore[arg-type]  # of the same fields
    infos = play(run, arm.rounds)
    give(run, runs)
    tables = []
    for index, judging in judgings(arm, seed):
        folder = run.folder.round(index)
        player = folder / "pipeline" if index else run.diffuser.folder
        tables.append(judged(folder / "judged", run.diffuser, player, judging, run.scorers, {"round": index}))
    made = [run.folder.manifest(k)["stages"] for k in range(len(infos))]
    examples = [examples_of(run, k) for k in range(1, len(infos))]
    rounds = [{k: v for k, v in info.metrics.items() if k in ("round", "drift", "train")} for info in infos]
    for kept, info in zip(rounds, infos, strict=True):
        kept["scores"] = narrow_summary({k: v for k, v in info.metrics["scores"].items() if k == "held_out_error"})
    result: dict[str, Any] = {
        "arm": arm.name, "world": arm.world, "item": arm.item, "seed": seed, "tuned": arm.tuned, "identity": run.folder.identity,
        "rounds": rounds, "samples_trained_on": examples,
        "network_passes": sum(passes(arm.preset.for_round(k), n) for k, n in enumerate(examples, start=1)),
        "training_seconds": round(sum(stage["seconds"] for stages in made for stage in stages.values())),
        "last_sitting_seconds": round(time.perf_counter() - start), "provenance": provenance(),
    }  # fmt: skip
    where = out / arm.world
    where.mkdir(parents=True, exist_ok=True)
    if logged(arm.preset.settings) and arm.rounds:
        logs = [info.log.assign(round=info.metrics["round"]) for info in infos if info.log is not None]
        write_table(where / f"{arm.name}-{seed}-training.parquet", narrow_log(pd.concat(logs)))
    for table in tables:
        table.attrs = {}  # made from what the manifest names
    write_table(where / f"{arm.name}-{seed}.parquet", pd.concat(tables, ignore_index=True))
    write_json(where / f"{arm.name}-{seed}.json", result)  # last: it says that all the rest is there


def pending(chosen: Sequence[Arm], seeds: Sequence[int], out: Path) -> list[tuple[Arm, int]]:
    """Return the arms and seeds that are not exported yet."""
    played = [(arm, seed) for arm in chosen for seed in arm.seeds if seed in seeds or arm.rounds == 0]
    return [(arm, seed) for arm, seed in played if not (out / arm.world / f"{arm.name}-{seed}.json").exists()]


def jobs(wanted: Sequence[tuple[Arm, int]], out: Path, runs: Path, device: str) -> list[Job]:
    """Return a job for each arm and seed, with its price."""
    priced = {world: prices(world, device) for world in {arm.world for arm, _ in wanted}}
    return [
        Job(
            f"{arm.world}/{arm.name}-{seed}",
            priced[arm.world].minutes(arm.preset, arm.rounds, [j for _, j in judgings(arm, seed)]),
            partial(play_arm, arm, seed, out, runs, device),
            (f"{arm.world}/{arm.start}-{seed}",) if arm.start else (),
        )
        for arm, seed in wanted
    ]


def tuned_of(out: Path) -> Mapping[str, Any]:
    """Return what tuning found, by world and method; empty where nothing is tuned yet."""
    return read_json(out / TUNING)["worlds"] if (out / TUNING).exists() else {}


def main(given: Sequence[str] | None = None) -> int:
    options = parser("experiments.play", __doc__)
    options.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    options.add_argument("--arms", nargs="+", default=["*"], help="names, or patterns such as 'spin-*'; default: all")
    arguments = options.parse_args(given)
    out, runs = places(arguments)
    worlds, tuned = there(arguments.worlds), tuned_of(out)
    if untuned := [world for world in worlds if world not in tuned and arguments.size == "full" and not arguments.plan]:
        options.error(f"{untuned} are not tuned, and arms take their rates from {out / TUNING}; first: python -m experiments.tuning")
    known = [arm for world in worlds for arm in arms(world, arguments.size, tuned.get(world, {}))]
    if unknown := [pattern for pattern in arguments.arms if worlds and not fnmatch.filter([arm.name for arm in known], pattern)]:
        options.error(f"arms={unknown} are not known; choose from {sorted({arm.name for arm in known})}")
    chosen = [arm for arm in known if any(fnmatch.fnmatch(arm.name, pattern) for pattern in arguments.arms)]
    wanted = pending(chosen, arguments.seeds, out)
    print(f"{len(wanted)} arms and seeds are not exported yet", flush=True)
    return said(play_or_plan(jobs(wanted, out, runs, arguments.device), arguments))


if __name__ == "__main__":
    raise SystemExit(main())
