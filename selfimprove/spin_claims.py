"""The empirical claims of the SPIN-Diffusion paper, computed from what has been exported.

Changes from the base are paired by prompt within a seed; arms are compared seed by seed, with intervals over seeds.
"""

from pathlib import Path

import pandas as pd

from selfimprove.claims import AGREES, DIFFERS, OPEN, QUALITY, RIGHT, Difference, Experiments, Row, difference, qualified, said, table
from selfimprove.evaluation_results import BASE, load_evaluations, tidy
from selfimprove.results import Results
from selfimprove.shapes.image_sets import winners
from selfimprove.spin_results import images_seen
from selfimprove.statistics import seeds_with_intervals

STALL = 50_000  # samples after which fine-tuning is said to have stopped
FAR = 0.05  # of quality below the data, at which no outcome could contradict the claim


def claims(root: str | Path) -> pd.DataFrame:
    """The table of claims, computed from whatever has been exported under `root`."""
    experiments = Experiments(Path(root))
    core = experiments.load("spin_shapes")

    def against(first: str, second: str, at: int, at_second: int, other: str = "spin_shapes") -> tuple[str, str]:
        return said({c: difference(experiments, ("spin_shapes", first), (other, second), c, at, at_second) for c in (QUALITY, RIGHT)})

    rows = [
        Row("round 1 improves on the base", "average 7.013 to 7.268", *against("spin", "spin", 1, 0)),
        Row("round 2 improves on round 1", "7.268 to 7.395", *against("spin", "spin", 2, 1)),
        Row("round 3 improves on round 2", "7.395 to 7.413", *against("spin", "spin", 3, 2)),
        Row("round 1 surpasses the longest SFT", "7.268 against 7.195; not in HPS and ImageReward", *against("spin", "sft-compute", 1, -1)),
        Row("in the end it surpasses SFT at equal steps", "7.413 against 7.195", *against("spin", "sft-steps", 3, -1)),
        Row("... and SFT at equal compute", "not compared", *against("spin", "sft-compute", 3, -1)),
        Row("round 2 surpasses Diffusion-DPO", "7.395 against 7.276; not in HPS", *against("spin", "dpo", 2, -1)),
        Row("fine-tuning has stopped improving", "figure 7: after 50,000 samples", *_stalls(experiments)),
        Row("playing on against the old opponent stalls", "figure 5, two iterations", *against("spin", "continued", 2, 2, "spin_controls")),
        Row("SFT of adapters stays below full SFT", "7.171 against 7.195", *against("sft-steps", "sft-lora", -1, -1)),
        Row("it cannot surpass the data", "in principle (limitations)", *_below_data(core)),
        Row("it holds on other prompts", "PartiPrompts, HPSv2", *_elsewhere(Path(root) / "evaluation_shapes" / "held-out")),
        Row("without losers it matches what needs them", "no loser is used", *against("spin", "dpo", 3, -1)),
    ]
    return table(rows)


def _elsewhere(folder: Path) -> tuple[str, str]:
    """Gains of round 3 on prompts whose scenes nobody was trained on; intervals over seeds and prompts at once."""
    evaluations = load_evaluations(folder)
    if {BASE, "SPIN round 3"} - set(evaluations):
        return "not run yet", OPEN
    rows = tidy(evaluations, statistic="difference").set_index(["model", "score"])
    found = {c: rows.loc[("SPIN round 3", c)] for c in (QUALITY, RIGHT)}
    return said({c: Difference(float(r["mean"]), float(r["low"]), float(r["high"]), int(r["seeds"])) for c, r in found.items()})


def _stalls(experiments: Experiments) -> tuple[str, str]:
    """Whether more fine-tuning than at equal steps brings nothing more."""
    found = difference(experiments, ("spin_shapes", "sft-compute"), ("spin_shapes", "sft-steps"), QUALITY, -1)
    words, _ = said({QUALITY: found})
    seen = max((images_seen(r, 1) for r in experiments.load("spin_shapes").get("sft-compute", {}).values()), default=0)
    if 0 < seen < STALL:
        return f"{words}, but only {seen:,} samples", OPEN
    return words, opposite(found) if found else OPEN


def opposite(found: Difference) -> str:
    """The verdict on a claim that the difference is negative."""
    return qualified({AGREES: DIFFERS, DIFFERS: AGREES}.get(found.verdict(), OPEN), found.seeds)


def _below_data(core: Results) -> tuple[str, str]:
    """The last round's mean quality less that of the winners it was trained on, by seed."""
    runs = core.get("spin", {})
    if len(runs) < 2:
        return "not run yet", OPEN
    above, own = [], []
    for seed, result in runs.items():
        data, reached = winners(result["identity"]["samples"], seed), result["rounds"][-1]["oracle"]["quality"]
        above.append(reached["mean"] - float(data.drawing.quality.mean()))
        own.append(reached["ci95"])
    found = Difference(*seeds_with_intervals(above, own), len(runs))
    if found.high < -FAR:
        return f"quality less the winners' {found}: too far below to test it", OPEN
    return f"quality less the winners' {found}", opposite(found)
