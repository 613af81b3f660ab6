"""The claims of the RSIDiff paper, one row each: what it reports, what is seen here with an interval, and whether the two agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from selfimprove.results import load_results, signed
from selfimprove.rsi_results import Results, peak
from selfimprove.statistics import bootstrap_interval, student_interval

AGREES, DIFFERS, SPLIT, OPEN, UNTESTABLE = "agrees", "differs", "split", "not decided", "cannot be tested here"


class Difference(NamedTuple):
    """A mean difference with its 95 % interval: over seeds from three on, else over the prompts of the first."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return f"{signed(self.mean, [self.low, self.high])} ({self.seeds} seed{'s' * (self.seeds != 1)})"

    def verdict(self) -> str:
        """Of a claim that the difference is positive."""
        return AGREES if self.low > 0 else DIFFERS if self.high < 0 else OPEN


@dataclass(frozen=True)
class Experiments:
    """The folders of the exported experiments, and what is in them."""

    root: Path

    def load(self, name: str) -> Results:
        """Results of `rsi_<name>`; empty where nothing has been run."""
        return load_results(self.root / f"rsi_{name}")

    def prompts(self, name: str, arm: str, seed: int) -> pd.DataFrame:
        """Scores by prompt and round."""
        return pd.read_parquet(self.root / f"rsi_{name}" / f"{arm}-{seed}-prompts.parquet")


def difference(
    experiments: Experiments, first: tuple[str, str], second: tuple[str, str], column: str, at: int, at_second: int | None = None
) -> Difference | None:
    """A score of arm `first` (experiment, arm) at round `at` less that of `second`, paired by prompt; None if no seed has both.

    Arms judged on fewer prompts are compared on those that both have. `at` -1 is the last round.
    """
    loaded = [experiments.load(name).get(arm, {}) for name, arm in (first, second)]
    seeds = sorted(set(loaded[0]) & set(loaded[1]))
    means, within = [], None
    for seed in seeds:
        values = []
        for (name, arm), when in ((first, at), (second, at if at_second is None else at_second)):
            frame = experiments.prompts(name, arm, seed)
            frame = frame[frame["round"] == (frame["round"].max() if when < 0 else min(when, frame["round"].max()))]
            values.append(frame[column])
        paired = (values[0] - values[1]).dropna().to_numpy(dtype=np.float64)
        means.append(float(paired.mean()))
        within = within or bootstrap_interval(paired)
    if not means or within is None:
        return None
    if len(means) < 3:
        return Difference(means[0], *within, 1)
    return Difference(*student_interval(means), len(means))


class Row(NamedTuple):
    """One claim."""

    claim: str
    paper: str
    here: str
    verdict: str


QUALITY, RIGHT = "oracle_quality", "oracle_all_right"
NAMES = {QUALITY: "quality", RIGHT: "all right", "alignment": "unseen scorer 'alignment'"}


def _said(found: dict[str, Difference | None]) -> tuple[str, str]:
    """The differences in words, and one verdict: agrees if all are positive, split if one is and another is negative."""
    known = {name: d for name, d in found.items() if d is not None}
    if len(known) < len(found):
        return "not run yet", OPEN
    verdicts = {d.verdict() for d in known.values()}
    verdict = SPLIT if {AGREES, DIFFERS} <= verdicts else AGREES if verdicts == {AGREES} else DIFFERS if DIFFERS in verdicts else OPEN
    return "; ".join(f"{NAMES.get(name, name)} {d}" for name, d in known.items()), verdict


def claims(root: str | Path) -> pd.DataFrame:
    """The table of claims, computed from whatever has been exported under `root`."""
    e = Experiments(Path(root))

    def against(
        first: tuple[str, str], second: tuple[str, str], at: int, columns: Sequence[str] = (QUALITY, RIGHT), at_second: int | None = None
    ) -> tuple[str, str]:
        return _said({c: difference(e, first, second, c, at, at_second) for c in columns})

    rsi = ("rounds", "rsi")
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
            "better than SFT on all samples, trained for long",
            "from round 4, with 1,200 samples",
            *against(rsi, ("rounds", "sft-long"), 6, at_second=-1),
        ),
        Row("filtered prompts give better images from the same model", "figure 4, one pair of images", *_prompts(e)),
        Row("without filtered prompts it is worse", "figure 7", *against(rsi, ("ablations", "no-prompts"), 3)),
        Row("without preference sampling it is worse", "figure 7", *against(rsi, ("ablations", "no-selection"), 3)),
        Row("without weights it is worse", "figure 7", *against(rsi, ("ablations", "no-weights"), 3)),
        Row("with none of the three it falls below the base", "figure 7", *_below_base(e)),
        Row("300 of 5,000 beats 100", "figure 8", *against(rsi, ("ablations", "selected-100"), 3)),
        Row("1,000 and 2,000 lead early", "figure 8, before round 3", *against(("ablations", "selected-2000"), rsi, 1)),
        Row("... and slow down after round 3", "figure 8", *against(rsi, ("ablations", "selected-2000"), 3)),
        Row("people prefer it to base and SFT", "69.0 % and 59.8 % (appeal)", "no raters", UNTESTABLE),
        Row("it carries over to SD3 with manual selection and LoRA", "figure 9, pictures", "no such model here", UNTESTABLE),
    ]
    return pd.DataFrame(rows, columns=[f.replace("_", " ") for f in Row._fields]).set_index("claim")


def _peak(e: Experiments) -> tuple[str, str]:
    """Whether quality peaks before the last round, in every seed by more than its interval."""
    runs = e.load("rounds")
    if "rsi" not in runs:
        return "not run yet", OPEN
    peaks = [peak(runs, "rsi", seed, "oracle: quality", e.root / "rsi_rounds") for seed in runs["rsi"]]
    last = len(next(iter(runs["rsi"].values()))["rounds"]) - 1
    said = ", ".join(f"round {p.best} (then {signed(p.fall, list(p.fall_ci95))})" for p in peaks)
    falls = [0 < p.best < last and p.fall_ci95[1] < 0 for p in peaks]
    return f"quality best at {said}", AGREES if all(falls) else DIFFERS if all(p.best in (0, last) for p in peaks) else OPEN


def _prompts(e: Experiments) -> tuple[str, str]:
    runs = e.load("prompts").get("prompts", {})
    if not runs:
        return "not run yet", OPEN
    found = [r["sources"]["filtered"]["oracle: quality"] for r in runs.values()]
    means = [f["over_plain"] for f in found]
    low, high = found[0]["over_plain_ci95"]
    result = Difference(*student_interval(means), len(means)) if len(means) > 2 else Difference(means[0], low, high, 1)
    return f"quality {result}", result.verdict()


def _below_base(e: Experiments) -> tuple[str, str]:
    found = {c: difference(e, ("ablations", "none"), ("ablations", "none"), c, -1, 0) for c in (QUALITY, RIGHT)}
    said, verdict = _said(found)
    below = any(d is not None and d.verdict() == DIFFERS for d in found.values())
    return said, AGREES if below else DIFFERS if verdict == AGREES else OPEN
