"""python -m experiments.prompt_quality: compare prompts as collected, filtered prompts, and templates on one model (RSIDiff, fig. 4).

The base model draws one image per prompt. Every scorer judges the images, and so does the oracle's quality, which needs no prompt. The
command writes book/results/rsi_prompts/prompts-<seed>.json.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from selfimprove.config import PromptSource
from selfimprove.draws import example_id
from selfimprove.files import write_json
from selfimprove.presets import PRESETS
from selfimprove.rollout import sample_batches
from selfimprove.rsi_stages import prepared_prompts
from selfimprove.run import set_up
from selfimprove.run_folder import provenance
from selfimprove.shapes.oracle import load_oracle

OUT = Path("book/results/rsi_prompts")
SOURCES: tuple[PromptSource, ...] = ("plain", "filtered", "template")


def score_source(source: PromptSource, seed: int, count: int, runs: Path) -> dict[str, np.ndarray]:
    """Return the scores of `count` images, one image per prompt of the source."""
    preset = PRESETS["shapes-rsi"].changed(prompt_source=source)
    run = set_up(preset, f"prompts-{source}", run=runs / f"prompts-{source}-{seed}", seed=seed, device="cpu")
    prompts = prepared_prompts(run, run.preset.settings).of_round(1, count)
    ids = [example_id(p, i) for i, p in enumerate(prompts)]
    s = run.preset.settings
    latents = sample_batches(
        run.diffuser, run.diffuser.denoiser, prompts, ids, s.rollout_batch, "sampling", seed=seed, stream="prompt quality", round_index=0,
        steps=s.rollout_steps, guidance=s.guidance,
    )  # fmt: skip
    images = torch.cat([run.diffuser.decode(z) for z in latents.split(s.rollout_batch)])
    reading = load_oracle().read(images)
    columns = {name: scorer(images, prompts).double().numpy() for name, scorer in run.scorers.items()}
    return columns | {"oracle: quality": reading.quality.double().numpy(), "oracle: a scene": reading.is_scene.double().numpy()}


def summary(values: np.ndarray, plain: np.ndarray) -> dict[str, Any]:
    """Return the mean, and the difference from plain prompts with Welch's 95 % interval; the prompts differ, so nothing is paired."""
    test = stats.ttest_ind(values, plain, equal_var=False)
    low, high = test.confidence_interval(0.95) if np.ptp(values) or np.ptp(plain) else (0.0, 0.0)
    return {"mean": float(values.mean()), "over_plain": float(values.mean() - plain.mean()), "over_plain_ci95": [float(low), float(high)]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.prompt_quality", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=384)
    parser.add_argument("--runs", type=Path, default=Path("runs/rsi_shapes"))
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        path = OUT / f"prompts-{seed}.json"
        if path.exists():
            continue
        scores = {source: score_source(source, seed, arguments.count, arguments.runs) for source in SOURCES}
        table = {source: {name: summary(v, scores["plain"][name]) for name, v in found.items()} for source, found in scores.items()}
        write_json(path, {"arm": "prompts", "seed": seed, "count": arguments.count, "sources": table, "provenance": provenance()})
        print(path, flush=True)


if __name__ == "__main__":
    main()
