"""python -m experiments.evaluation_shapes: judge the base, SPIN's and RSIDiff's rounds and their baselines by the papers' protocols.

Models come from the run folders of `make spin-experiments` and `make rsi-rounds`; missing models are named and left out. There are 500
prompts of scenes that were trained on and 128 of scenes that were not, five images per prompt, and the same noise for all models. Guidance
is swept on 128 prompts of the first kind. Per-image scores go to `book/results/evaluation_shapes/<set>/`, each model as soon as it is
finished. On one core a model takes about 5 min for the 500 prompts and 1.3 min for 128. `--models`, `--seeds` and `--sets` choose. `--size
smoke` judges the models that exist in seconds.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from experiments.exports import narrow
from selfimprove.comparison import Sampling, file_name, set_up_comparison
from selfimprove.data.prompt_sets import judged_prompts
from selfimprove.evaluation.protocol import write_scores
from selfimprove.files import write_json
from selfimprove.run_folder import provenance
from selfimprove.scorers import SHAPES_SCORERS, load_scorers
from selfimprove_lab.results.evaluation import BASE, TRUTH_COLUMNS

# What a table calls it -> (arm, round): where arms leave their players
MODELS = {
    "SPIN round 1": ("spin", 1), "SPIN round 2": ("spin", 2), "SPIN round 3": ("spin", 3), "DPO equal steps": ("dpo", 1),
    "DPO equal compute": ("dpo-compute", 1), "SFT equal steps": ("sft-steps", 1), "SFT equal images": ("sft-examples", 1),
    "SFT equal compute": ("sft-compute", 1), "frozen opponent": ("frozen", 1), "SPIN adapters": ("spin-lora", 3),
    "SFT adapters": ("sft-lora", 1), "SFT adapters, equal compute": ("sft-compute-lora", 1), "DPO adapters": ("dpo-lora", 1),
    "DPO adapters, equal compute": ("dpo-compute-lora", 1),
    "RSIDiff round 1": ("rsi", 1), "RSIDiff round 5": ("rsi", 5), "RSIDiff round 8": ("rsi", 8), "SFT on own images": ("sft-equal", 1),
}  # fmt: skip
SETS = {  # prompts, how many of them, guidances
    "held-in": ("shapes-held-in", 500, (3.0,)),
    "held-out": ("shapes-held-out", 128, (3.0,)),
    "guidance": ("shapes-held-in", 128, (1.5, 3.0, 6.0)),
}


def players(seeds: Sequence[int], labels: Sequence[str], runs: Path) -> dict[str, str]:
    """Return the pipeline folders that exist, by their names in tables; print which models are missing."""
    found = {BASE: "shapes"}
    for seed in seeds:
        for label in labels:
            arm, index = MODELS[label]
            folders = [runs / where / f"{arm}-{seed}" / f"round_{index}" / "pipeline" for where in ("spin_shapes", "rsi_shapes")]
            there = [folder for folder in folders if folder.is_dir()]
            if there:
                found[f"{label}, seed {seed}"] = str(there[0])
            else:
                print(f"{label}, seed {seed}: no such run yet; left out", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("book/results/evaluation_shapes"))
    parser.add_argument("--size", choices=["full", "smoke"], default="full")
    arguments = parser.parse_args()
    scorers, small = load_scorers(SHAPES_SCORERS, torch.device("cpu")), arguments.size == "smoke"
    models = players(arguments.seeds, arguments.models, arguments.runs)
    for name in arguments.sets:
        source, count, guidances = SETS[name]
        sampling = Sampling(images=2 if small else 5, steps=2 if small else 10, guidances=guidances, batch=128)
        once = "" if name != "guidance" else f"seed {arguments.seeds[0]}"  # a sweep of one training seed is enough
        chosen = {m: p for m, p in models.items() if m == BASE or m.endswith(once)}
        run = arguments.runs / "evaluation_shapes" / f"{name}-{arguments.size}"
        comparison = set_up_comparison(chosen, judged_prompts(source, 12 if small else count), scorers, sampling, run, "cpu")
        print(f"{name}: {comparison.cost()}", flush=True)
        where = arguments.out / name
        where.mkdir(parents=True, exist_ok=True)
        for scored in comparison.play():
            kept = narrow(scored.table[["prompt", "image", *SHAPES_SCORERS, *TRUTH_COLUMNS]])  # an id follows from prompt and image
            write_scores(where / f"{file_name(scored.protocol.model)}.parquet", replace(scored, table=kept))
        write_json(where / "provenance.json", provenance())


if __name__ == "__main__":
    main()
