"""python -m experiments.judged_samplers: does a round gain with any sampler, or only with the one that drew its opponent's images?

The models are the base, and one round of self-play against images of each of DDIM, DPM-Solver++ and UniPC. Each model is drawn by each of
the three samplers, in as many steps as the rounds had, with the same prompts and the same noise. The players come from the run folders of
`make spin-controls`. The command writes book/results/spin_samplers/samplers-<seed>-prompts.parquet (by prompt) after every model and
sampler, and samplers-<seed>.json after every seed. Started again, it continues where it stopped.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

from experiments.exports import narrow
from experiments.spin_depth import controls
from selfimprove.config import Settings
from selfimprove.data.images import indexed, shapes_prompts
from selfimprove.draws import EVALUATION_SEED, example_id
from selfimprove.files import write_json, write_table
from selfimprove.models.pipeline import Diffuser, load_diffuser
from selfimprove.rollout import sample_batches
from selfimprove.run_folder import provenance
from selfimprove.shapes import PIPELINE
from selfimprove.shapes.oracle import load_oracle

OUT = Path("book/results/spin_samplers")
SAMPLERS = ("ddim", "dpm++", "unipc")


def draw(diffuser: Diffuser, pipeline: Path, settings: Settings, count: int) -> pd.DataFrame:
    """Return quality and obedience of one image per prompt, drawn by a pipeline with the rollout's sampler and number of steps."""
    scenes = shapes_prompts(count)
    prompts = [c.text for c in scenes]
    ids = [example_id(p, i) for p, i in indexed(prompts)]
    latents = sample_batches(
        diffuser, diffuser.load_denoiser(pipeline), prompts, ids, settings.rollout_batch, "sampling", seed=EVALUATION_SEED,
        stream="evaluation", round_index=0, steps=settings.rollout_steps, guidance=settings.evaluation_guidance,
        sampler=settings.sampler,
    )  # fmt: skip
    reading = load_oracle().read(torch.cat([diffuser.decode(z) for z in latents.split(settings.rollout_batch)]))
    right = reading.all_right(torch.tensor([c.scene for c in scenes]), torch.tensor([c.stated for c in scenes]))
    return pd.DataFrame({"prompt": prompts, "oracle_quality": reading.quality.numpy(), "oracle_all_right": right.float().numpy()})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.judged_samplers", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--count", type=int, default=1024)
    parser.add_argument("--runs", type=Path, default=Path("runs/spin_depth"))
    arguments = parser.parse_args()
    arms = controls("full")
    settings = {name: arms[f"{name}-few"].preset.settings for name in SAMPLERS}
    diffuser = load_diffuser(PIPELINE, torch.device("cpu"))
    OUT.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        pipelines = {"base": PIPELINE} | {name: arguments.runs / f"{name}-few-{seed}" / "round_1" / "pipeline" for name in SAMPLERS}
        path = OUT / f"samplers-{seed}-prompts.parquet"
        done = pd.read_parquet(path) if path.exists() else pd.DataFrame(columns=["trained", "drawn"])
        judged = set(zip(done["trained"], done["drawn"], strict=True))
        wanted = [(trained, drawn) for trained in pipelines for drawn in settings if (trained, drawn) not in judged]
        missing = sorted({t for t, _ in wanted if not (pipelines[t] / "model_index.json").exists()})
        if missing:
            arms = " ".join(f"{name}-few" for name in missing)
            parser.error(
                f"{missing} not in {arguments.runs}; play them first, into another folder than that of the exported results: "
                f"python -m experiments.spin_depth controls --arms {arms} --seeds {seed} --out runs/again"
            )
        if not wanted:
            print(f"seed {seed}: exported already", flush=True)
            continue
        for trained, drawn in wanted:
            found = draw(diffuser, pipelines[trained], settings[drawn], arguments.count).assign(trained=trained, drawn=drawn)
            done = found if done.empty else pd.concat([done, found])
            write_table(path, narrow(done))
            print(f"seed {seed}: {trained} drawn by {drawn}, quality {found['oracle_quality'].mean():.3f}", flush=True)
        about = {"arm": "samplers", "seed": seed, "prompts": arguments.count, "steps": {n: s.rollout_steps for n, s in settings.items()}}
        write_json(OUT / f"samplers-{seed}.json", {**about, "provenance": provenance()})


if __name__ == "__main__":
    main()
