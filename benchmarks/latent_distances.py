"""python -m benchmarks.latent_distances --model FOLDER_OR_ID --prompts prompts.txt: find the scale of RSIDiff's beta of 35 on a model.

The command draws images with the model. For every distance convention it prints the quantiles of each image's mean distance to the others
(the d(s, D_0) of eq. 5), and the share of images within 35. The convention for which that share is large, but not all, is the paper's.
"""

import argparse
from pathlib import Path
from typing import get_args

import pandas as pd
import torch
from accelerate import PartialState

from selfimprove.config import Distance
from selfimprove.data.prompt_files import load_prompts
from selfimprove.draws import example_id
from selfimprove.files import write_json
from selfimprove.models.pipeline import load_diffuser
from selfimprove.models.resolve import resolve_model
from selfimprove.recursion.prompts import collect
from selfimprove.recursion.weighting import distances
from selfimprove.rollout import sample_batches
from selfimprove.run_folder import provenance
from selfimprove.shapes.captions import collected_prompts

BETA = 35.0  # RSIDiff, appendix


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latent_distances", description=__doc__)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--prompts", default="shapes", help="'shapes', a file of prompts, or a datasets id")
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--out", type=Path, help="write the table as JSON too")
    arguments = parser.parse_args()
    diffuser = load_diffuser(resolve_model(arguments.model), PartialState().device)
    source = collected_prompts(4 * arguments.count, 0) if arguments.prompts == "shapes" else load_prompts(arguments.prompts)
    prompts = collect(source, 0, 0).prompts
    prompts = [prompts[i % len(prompts)] for i in range(arguments.count)]
    ids = [example_id(p, i) for i, p in enumerate(prompts)]
    latents = sample_batches(
        diffuser, diffuser.denoiser, prompts, ids, arguments.batch, "sampling", seed=0, stream="distances", round_index=0,
        steps=arguments.steps, guidance=arguments.guidance,
    )  # fmt: skip
    rows = {}
    for name in get_args(Distance):
        own = distances(latents, ids, latents, ids, name, "mean", scaling_factor=diffuser.scaling_factor)
        quantiles = {f"{q:.0%}": float(own.quantile(q)) for q in (0.05, 0.5, 0.95, 1.0)}
        rows[name] = quantiles | {f"share within {BETA:g}": float((own <= BETA).float().mean())}
    print(f"variance a dimension: {float(latents.flatten(1).var(0).mean()):.3f}; scaling factor {diffuser.scaling_factor}")
    print(pd.DataFrame(rows).T.round(3).to_string())
    if arguments.out:
        write_json(arguments.out, {"model": arguments.model, "count": len(latents), "conventions": rows, "provenance": provenance()})


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
