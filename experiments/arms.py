"""Play the arms of an experiment: each is a preset played for some rounds with one seed, and exported as soon as it ends.

Every finished arm and seed is a JSON file with its manifest, so a session may stop at any time and the next one continues. Inside an arm,
the run folder continues at the first unfinished stage.
"""

import argparse
import fnmatch
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.exports import logged, narrow_log, narrow_metrics, narrow_prompts, narrow_summary, save_strip
from selfimprove.config import Settings
from selfimprove.evaluation.aggregate import by_prompt, summarise
from selfimprove.evaluation.round_figures import image_grid
from selfimprove.files import write_json, write_table
from selfimprove.planning import work
from selfimprove.planning.plan import plan
from selfimprove.presets import Preset
from selfimprove.recursion.collapse import CollapseError
from selfimprove.rounds import play
from selfimprove.run import Run, set_up
from selfimprove.run_folder import identity_hash


@dataclass(frozen=True)
class Arm:
    """A preset, and the number of rounds to play of it. The base is the preset's, unless `start` or `write` gives another.

    `start` names another arm of the same seed, played before, whose last player is the base. `write` writes the base into a folder.
    """

    preset: Preset
    rounds: int
    start: str = ""
    write: Callable[[Path], None] | None = None


# A forward with its backward, in forwards, as `planning.costs` counts them on the embedded network: of all weights, of an adapter alone
STEP, ADAPTER_STEP = 3, 1.86


def passes(settings: Settings, examples: int) -> float:
    """Return the network forwards, per latent, of one round that trains on `examples` different samples."""
    counted = work.count(Preset("", "", settings), 1, examples, 0).total
    return counted.forwards + counted.opponent + counted.trained * (ADAPTER_STEP if settings.lora_rank else STEP)


def as_long_as(played: Preset, other: Preset, rounds: int = 1) -> Preset:
    """Return `other` with the number of steps that gives it the network passes of `rounds` rounds of `played`."""
    s = played.settings
    step = passes(s, s.samples) / passes(replace(other.settings, steps=1), s.samples)
    return other.changed(steps=round(rounds * step))


def fine_tuning(preset: Preset, rounds: int = 1) -> Preset:
    """Return SFT on the images of `preset`, for the network passes of `rounds` rounds of it."""
    return as_long_as(preset, preset.changed(objective="sft"), rounds)


def set_up_arm(arm: Arm, name: str, seed: int, runs: Path, device: str = "cpu") -> Run:
    """Set up the arm's run in `runs`/<name>-<seed>; what several arms share is copied from the arms that made it first."""
    model = str(runs / f"{arm.start}-{seed}" / "pipeline_at_end") if arm.start else ""
    if model and not Path(model).exists():
        raise SystemExit(
            f"{name}, seed {seed}, starts where {arm.start} ended, which is not in {runs}; play that first (without its exported file)"
        )
    if arm.write:
        model = str(_written(arm.write, runs / f"base-{arm.write.__name__}"))
    run = set_up(arm.preset, name, model, run=runs / f"{name}-{seed}", seed=seed, device=device)
    for own, shared in _shared(run, runs):
        if shared.exists() and not own.exists():
            own.parent.mkdir(exist_ok=True)
            _copy(shared, own)
    return run


def _written(write: Callable[[Path], None], folder: Path) -> Path:
    """Write a folder completely or not at all, once for all arms, and return it."""
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        write(part)
        part.rename(folder)
    return folder


def _copy(source: Path, target: Path) -> None:
    """Copy completely or not at all, because several processes may play arms side by side."""
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, part)
    try:
        part.rename(target)
    except OSError:  # another process was first, with the same bytes
        (shutil.rmtree if part.is_dir() else Path.unlink)(part)


def _shared(run: Run, runs: Path) -> list[tuple[Path, Path]]:
    """Return (path in the run, path that arms share) of the base's evaluation images, filtered prompts, and round-1 rollout of the base."""
    s, folder = run.preset.for_round(1), run.folder
    model = folder.identity["model"]
    judged = identity_hash({"model": model} | {k: v for k, v in vars(s).items() if k.startswith("evaluation_")})
    pairs = [(folder.round(0) / "evaluation", runs / f"shared-evaluation-{judged}")]
    source: dict[str, Any] = {"seed": run.seed, "model": model}
    if run.collection:
        names = ("prompt_source", "judge", "collected", "clusters", "kept")
        source |= {k: getattr(s, k) for k in names} | {"prompts": folder.identity["prompts"]}
        made = identity_hash(source)
        pairs += [(folder.path / f, runs / f"shared-prompts-{made}-{f}") for f in ("prompts.parquet", "prompts.json")]
    else:
        source["data"] = folder.identity["data"]
    if run.collection or (s.objective == "spin" and s.generated_source == "rollout"):
        names = ("samples", "rollout_steps", "guidance", "eta", "generated_latents", "flip")
        later = {k: getattr(s, k) for k, off in (("sampler", "ddim"), ("precision", "no")) if getattr(s, k) != off}
        if not run.collection and (rolled := s.drawn(len(run.data.train))) < len(run.data.train):
            later["drawn"] = rolled
        rolled = identity_hash(source | {k: getattr(s, k) for k in names} | later)
        pairs.append((folder.round(1) / "rollout", runs / f"shared-rollout-{rolled}"))
    return pairs


def give(run: Run, runs: Path) -> None:
    """Copy what other arms can use of a run to where they look for it, and link the last player, from which others may start."""
    for own, shared in _shared(run, runs):
        if own.exists() and not shared.exists():
            _copy(own, shared)
    last = next(k for k in count() if not run.folder.is_done(k, "evaluation")) - 1
    end = run.folder.path / "pipeline_at_end"
    if not end.exists() and last:
        end.symlink_to(Path(run.folder.round(last).name) / "pipeline")


def run_arm(arm: Arm, name: str, seed: int, out: Path, runs: Path, strip: Sequence[int] = (), device: str = "cpu") -> None:
    """Play one arm with one seed and export it; `strip` holds rounds whose first evaluation images are exported as a picture.

    `<arm>-<seed>.json` holds every round's metrics and the manifest. `-prompts.parquet` holds scores, as means by prompt and round.
    `-training.parquet` holds the log of self-play. All are as narrow as `experiments.exports` makes them.
    """
    run = set_up_arm(arm, name, seed, runs, device)
    print(f"{name}, seed {seed}: about {plan(run, arm.rounds).minutes:.1f} min", flush=True)
    start = time.perf_counter()
    try:
        infos = play(run, arm.rounds)
    except CollapseError as stopped:  # an arm that is meant to stop is exported as far as it went
        print(stopped, flush=True)
        run = replace(run, preset=run.preset.changed(on_collapse="ignore"))  # the same run; only what was said is not said again
        infos = play(run, max(k for k in range(arm.rounds + 1) if run.folder.is_done(k, "evaluation")))
    give(run, runs)
    last, base = run.folder.round(len(infos) - 1), pd.read_parquet(run.folder.round(0) / "scores.parquet")
    out.mkdir(parents=True, exist_ok=True)
    logs = [i.log.assign(round=i.metrics["round"]) for i in infos if i.log is not None]
    examples = [examples_of(run, k) for k in range(1, len(infos))]
    manifests = [run.folder.manifest(k)["stages"] for k in range(len(infos))]
    result: dict[str, Any] = {
        "arm": name,
        "seed": seed,
        "identity": run.folder.identity,
        "rounds": [narrow_metrics(i.metrics) for i in infos],
        "last_against_base": narrow_summary(summarise(pd.read_parquet(last / "scores.parquet"), base)),
        "network_passes": sum(passes(arm.preset.for_round(k), n) for k, n in enumerate(examples, start=1)),
        "samples_trained_on": examples,
        "seconds": round(sum(stage["seconds"] for stages in manifests for stage in stages.values())),
        "provenance": list(manifests[-1].values())[-1]["provenance"],
    }
    prompts = run.folder.path / "prompts.json"
    if prompts.exists():
        result["prompt_filters"] = json.loads(prompts.read_text())
    if logged(arm.preset.settings):
        write_table(out / f"{name}-{seed}-training.parquet", narrow_log(pd.concat(logs)))
    scores = [by_prompt(pd.read_parquet(run.folder.round(k) / "scores.parquet")).assign(round=k) for k in range(len(infos))]
    write_table(out / f"{name}-{seed}-prompts.parquet", narrow_prompts(pd.concat(scores), each=arm.preset.settings.objective == "weighted"))
    if strip:
        write_json(out / "prompts.json", [p for p, _ in run.data.evaluation[:12]])
        rounds = [k for k in strip if k < len(infos)]
        figure = image_grid([run.folder.round(k) for k in rounds], [f"round {k}" if k else "base" for k in rounds])
        save_strip(figure, out / f"{name}-{seed}.png")
    write_json(out / f"{name}-{seed}.json", result)  # last: it says that all the rest is there
    print(f"{name}, seed {seed}: exported after {(time.perf_counter() - start) / 60:.1f} min", flush=True)


def examples_of(run: Run, index: int) -> int:
    """Return how many different samples a round trained on."""
    path, settings = run.folder.round(index) / "selected.parquet", run.preset.for_round(index)
    if not path.exists():
        return settings.reached(len(run.data.train))
    rounds = range(1, index + 1) if settings.accumulate else [index]
    return sum(len(pd.read_parquet(run.folder.round(k) / "selected.parquet")) for k in rounds) + settings.real_samples


def run_missing(
    arms: Mapping[str, Arm], seeds: Sequence[int], out: Path, runs: Path, strips: Mapping[str, Sequence[int]], device: str = "cpu"
) -> None:
    """Play every arm with every seed that is not exported yet; all arms of one seed come before the next seed.

    `strips`: rounds exported as a picture, by arm or by arm and seed ("careless-0").
    """
    for seed in seeds:
        for name, arm in arms.items():
            if (out / f"{name}-{seed}.json").exists():
                print(f"{name}, seed {seed}: exported already", flush=True)
            else:
                run_arm(arm, name, seed, out, runs, strips.get(name, strips.get(f"{name}-{seed}", ())), device)


def play_from_command_line(
    description: str | None,
    experiments: Mapping[str, Callable[[str], Mapping[str, Arm]]],
    strips: Mapping[str, Mapping[str, Sequence[int]]],
    runs: Path,
) -> None:
    """Play what the command line asks for. `experiments` maps a name to (size -> arms); the first argument chooses among several."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if len(experiments) > 1:
        names = {name.rpartition("_")[2]: name for name in experiments}
        parser.add_argument("experiment", choices=list(names))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=["*"], help="names, or patterns such as 'spin-*'; default: all")
    parser.add_argument("--size", choices=["full", "smoke"], default="full")
    parser.add_argument("--out", type=Path, help="default: book/results/<experiment>")
    parser.add_argument(
        "--device", default="cpu", help="default: cpu, where results repeat exactly; cuda plays a finer map in the same time"
    )
    parser.add_argument("--runs", type=Path, default=runs, help=f"default: {runs}")
    arguments = parser.parse_args()
    name = names[arguments.experiment] if len(experiments) > 1 else next(iter(experiments))
    arms = experiments[name](arguments.size)
    unknown = [a for a in arguments.arms if not fnmatch.filter(arms, a)]
    if unknown:
        parser.error(f"arms={unknown} are not known; choose from {list(arms)}")
    if arguments.size == "smoke":
        arms = {arm: replace(made, rounds=min(made.rounds, 2)) for arm, made in arms.items()}
    chosen = {arm: made for arm, made in arms.items() if any(fnmatch.fnmatch(arm, a) for a in arguments.arms)}
    out = arguments.out or Path("book/results") / name
    run_missing(chosen, arguments.seeds, out, arguments.runs, strips.get(name, {}), arguments.device)
