"""python -m experiments.sampler_steps: does a round of self-play still gain when everybody is drawn in more sampler steps?

The models are the base and round 3 of self-play on the base's own kind of images, played and judged without guidance in ten steps
(`own-data-unguided` of `make spin-controls`). Each model is drawn in 10 and 50 steps of DDIM, with the same prompts and the same noise.
The players come from the run folders. The command writes book/results/spin_steps/steps-<seed>-prompts.parquet (by prompt) after every model
and number of steps, and steps-<seed>.json after every seed. Started again, it continues where it stopped.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

from experiments.exports import narrow
from experiments.judged_samplers import draw
from experiments.spin_depth import controls
from selfimprove.files import write_json, write_table
from selfimprove.models.pipeline import load_diffuser
from selfimprove.run_folder import provenance
from selfimprove.shapes import PIPELINE

OUT = Path("book/results/spin_steps")
ARM, ROUNDS, STEPS = "own-data-unguided", (3,), (10, 50)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.sampler_steps", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--runs", type=Path, default=Path("runs/spin_depth"))
    arguments = parser.parse_args()
    preset = controls("full")[ARM].preset
    settings = {steps: preset.changed(rollout_steps=steps).settings for steps in STEPS}
    diffuser = load_diffuser(PIPELINE, torch.device("cpu"))
    OUT.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        played = {k: arguments.runs / f"{ARM}-{seed}" / f"round_{k}" / "pipeline" for k in ROUNDS}
        pipelines = {0: PIPELINE, **played}
        missing = [k for k, folder in pipelines.items() if not (folder / "model_index.json").exists()]
        if missing:
            parser.error(
                f"rounds {missing} of seed {seed} are not in {arguments.runs}; play them first, into another folder than that of the "
                f"exported results: python -m experiments.spin_depth controls --arms {ARM} --seeds {seed} --out runs/again"
            )
        path = OUT / f"steps-{seed}-prompts.parquet"
        done = pd.read_parquet(path) if path.exists() else pd.DataFrame(columns=["round", "steps"])
        judged = set(zip(done["round"], done["steps"], strict=True))
        for k, steps in ((k, steps) for steps in STEPS for k in pipelines if (k, steps) not in judged):
            found = draw(diffuser, pipelines[k], settings[steps], arguments.count).assign(round=k, steps=steps)
            done = found if done.empty else pd.concat([done, found])
            write_table(path, narrow(done))
            print(f"seed {seed}: round {k} in {steps} steps, quality {found['oracle_quality'].mean():.3f}", flush=True)
        about = {"arm": "steps", "seed": seed, "prompts": arguments.count, "steps": list(STEPS)}
        write_json(OUT / f"steps-{seed}.json", {**about, "provenance": provenance()})


if __name__ == "__main__":
    main()
