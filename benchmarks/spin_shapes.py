"""python -m benchmarks.spin_shapes: three rounds of SPIN on shapes, three seeds, beside its baselines and null experiments.

Arms of one seed share data and evaluation. Every finished run is exported at once to `book/results/spin_shapes/`, so a sitting may end
at any time and the next goes on. `--seeds`, `--arms` choose; `--prompts` is the number of evaluation images.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import pandas as pd

from selfimprove.config import PRESETS, Preset
from selfimprove.evaluate import summarise
from selfimprove.report import image_grid
from selfimprove.rounds import play, set_up
from selfimprove.runs import provenance, write_json

OUT = Path("book/results/spin_shapes")
SPIN = PRESETS["shapes-spin"]
ROUNDS = 3
STEPS = SPIN.settings.steps


def passes(preset: Preset, rounds: int) -> float:
    """Network forwards of training and rollouts, per latent; a backward pass counts as two forwards."""
    s = preset.settings
    examples = rounds * s.steps * s.batch_size
    if s.objective == "sft":
        return 3 * examples
    rolled = s.generated_source == "rollout"
    return 2 * 4 * examples + rounds * rolled * s.samples * s.rollout_steps * 2


def arms() -> dict[str, tuple[Preset, int]]:
    """Name -> (preset, rounds). One-round arms take the steps of three rounds in one go."""
    settings = SPIN.settings
    long = SPIN.changed(steps=ROUNDS * STEPS)
    sft = long.changed(objective="sft", beta=settings.beta)
    equal = round(passes(SPIN, ROUNDS) / (3 * settings.batch_size))
    return {
        "spin": (SPIN, ROUNDS),
        "sft-steps": (sft, 1),
        "sft-compute": (sft.changed(steps=equal), 1),
        "frozen": (long.changed(opponent="base"), 1),
        "null": (SPIN.changed(generated_source="real"), 1),
        "null-reencoded": (SPIN.changed(generated_source="real-reencoded"), 1),
        "raw": (SPIN.changed(generated_latents="raw"), ROUNDS),
    }


def run_arm(arm: str, seed: int, prompts: int, runs: Path) -> None:
    """Play one arm with one seed and export its numbers; the base's evaluation, equal for all, is made once."""
    preset, rounds = arms()[arm]
    game = set_up(preset.changed(evaluation_prompts=prompts), arm, run=runs / f"{arm}-{seed}", seed=seed, device="cpu")
    first = game.run.round(0)
    shared = runs / "base-evaluation"
    if shared.exists() and not first.exists():
        shutil.copytree(shared, first)
        (first / "manifest.json").unlink()
        for name in ("metrics.json", "held_out.parquet", "scores.parquet"):  # held-out images depend on the seed
            (first / name).unlink()
    start = time.perf_counter()
    infos = play(game, rounds)
    if not shared.exists():
        shutil.copytree(first, shared)
    OUT.mkdir(parents=True, exist_ok=True)
    base = pd.read_parquet(first / "scores.parquet")
    result = {
        "arm": arm,
        "seed": seed,
        "identity": game.run.identity,
        "rounds": [i.metrics for i in infos],
        "last_against_base": summarise(pd.read_parquet(game.run.round(rounds) / "scores.parquet"), base),
        "network_passes": passes(preset, rounds),
        "seconds": round(time.perf_counter() - start),
        "provenance": provenance(),
    }
    write_json(OUT / f"{arm}-{seed}.json", result)
    logs = [i.log.assign(round=i.metrics["round"]) for i in infos if i.log is not None]
    pd.concat(logs).to_parquet(OUT / f"{arm}-{seed}-training.parquet")
    if arm == "spin":
        labels = ["base", *(f"round {k}" for k in range(1, rounds + 1))]
        figure = image_grid([game.run.round(k) for k in range(rounds + 1)], labels)
        figure.savefig(OUT / f"spin-{seed}.png", dpi=130)
        (OUT / "prompts.json").write_text(json.dumps([p for p, _ in game.data.evaluation[:12]], indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spin_shapes", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(arms()), choices=list(arms()))
    parser.add_argument("--prompts", type=int, default=2048)
    parser.add_argument("--runs", type=Path, default=Path("runs/spin_shapes"))
    arguments = parser.parse_args()
    for arm in arguments.arms:
        for seed in arguments.seeds:
            if (OUT / f"{arm}-{seed}.json").exists():
                print(f"{arm}, seed {seed}: exported already", flush=True)
                continue
            start = time.perf_counter()
            run_arm(arm, seed, arguments.prompts, arguments.runs)
            print(f"{arm}, seed {seed}: {(time.perf_counter() - start) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()
