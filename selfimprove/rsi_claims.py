"""The claims of the RSIDiff paper, computed from what has been exported."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from selfimprove.claims import (
    AGREES,
    DIFFERS,
    OPEN,
    QUALITY,
    RIGHT,
    SPLIT,
    UNTESTABLE,
    Difference,
    Experiments,
    Row,
    difference,
    qualified,
    said,
    table,
)
from selfimprove.results import signed
from selfimprove.rsi_results import peak
from selfimprove.statistics import seeds_with_intervals


def claims(root: str | Path) -> pd.DataFrame:
    """The table of claims, computed from whatever has been exported under `root`."""
    e = Experiments(Path(root))

    def against(
        first: tuple[str, str], second: tuple[str, str], at: int, columns: Sequence[str] = (QUALITY, RIGHT), at_second: int | None = None
    ) -> tuple[str, str]:
        return said({c: difference(e, first, second, c, at, at_second) for c in columns})

    rsi = ("rsi_rounds", "rsi")
    rows = [
        Row(
            "recursion with selection and weights improves on the base",
            "HPS v2.1 +7.0 %, ImageReward +181.6 % at round 6",
            *against(rsi, rsi, 6, at_second=0),
        ),
        Row(
            "scores that did not select improve too",
            "PickScore and ImageReward rise",
            *against(rsi, rsi, 6, ("alignment", "saturation"), at_second=0),
        ),
        Row("the best round is in the middle, then it declines", "best at round 6 of 8", *_peak(e)),
        Row(
            "better than SFT on all samples, trained twice as long",
            "from round 4, with 1,200 samples",
            *against(rsi, ("rsi_rounds", "sft-long"), 6, at_second=-1),
        ),
        Row("filtered prompts give better images from the same model", "figure 4, one pair of images", *_prompts(e)),
        Row("with templates in place of filtered prompts it is worse", "figure 7", *against(rsi, ("rsi_ablations", "no-prompts"), 3)),
        Row("without preference sampling it is worse", "figure 7", *against(rsi, ("rsi_ablations", "no-selection"), 3)),
        Row("without weights it is worse", "figure 7", *against(rsi, ("rsi_ablations", "no-weights"), 3)),
        Row("with none of the three it falls below the base", "figure 7", *_below_base(e)),
        Row("300 of 5,000 beats 100", "figure 8", *against(rsi, ("rsi_ablations", "selected-100"), 3)),
        Row("2,000 of 5,000 lead early", "figure 8, before round 3", *against(("rsi_ablations", "selected-2000"), rsi, 1)),
        Row("... and have lost the lead by round 3", "figure 8", *against(rsi, ("rsi_ablations", "selected-2000"), 3)),
        Row("people prefer it to base and SFT", "69.0 % and 59.8 % (appeal)", "no raters", UNTESTABLE),
        Row("it carries over to SD3 with manual selection and LoRA", "figure 9, pictures", "no such model here", UNTESTABLE),
    ]
    return table(rows)


def _peak(e: Experiments) -> tuple[str, str]:
    """Whether quality peaks before the last round, in every seed by more than its interval."""
    runs = e.load("rsi_rounds")
    if "rsi" not in runs:
        return "not run yet", OPEN
    peaks = [peak(runs, "rsi", seed, "oracle: quality", e.root / "rsi_rounds") for seed in runs["rsi"]]
    last = len(next(iter(runs["rsi"].values()))["rounds"]) - 1
    said = ", ".join(f"round {p.best} (then {signed(p.fall, list(p.fall_ci95))})" for p in peaks)
    falls = [0 < p.best < last and p.fall_ci95[1] < 0 for p in peaks]
    return f"quality best at {said}", AGREES if all(falls) else DIFFERS if all(p.best in (0, last) for p in peaks) else OPEN


def _prompts(e: Experiments) -> tuple[str, str]:
    runs = e.load("rsi_prompts").get("prompts", {})
    if not runs:
        return "not run yet", OPEN
    found = [r["sources"]["filtered"]["oracle: quality"] for r in runs.values()]
    means = [f["over_plain"] for f in found]
    own = [f["over_plain_ci95"] for f in found]
    mean, low, high = seeds_with_intervals(means, own) if len(means) > 2 else (means[0], *own[0])
    result = Difference(mean, low, high, len(means) if len(means) > 2 else 1)
    return f"quality {result}", qualified(result.verdict(), result.seeds)


def _below_base(e: Experiments) -> tuple[str, str]:
    found = {c: difference(e, ("rsi_ablations", "none"), ("rsi_ablations", "none"), c, -1, 0) for c in (QUALITY, RIGHT)}
    words, _ = said(found)
    verdicts = {d.verdict() for d in found.values() if d}
    verdict = OPEN if OPEN in verdicts or not verdicts else SPLIT if len(verdicts) > 1 else AGREES if verdicts == {DIFFERS} else DIFFERS
    return words, qualified(verdict, min((d.seeds for d in found.values() if d), default=0))
