"""Tabulate the claims of a paper: what it reports, where it is tested, the result here with an interval, and whether the two agree."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from IPython.display import HTML

from selfimprove.evaluation.aggregate import RAW
from selfimprove.evaluation.statistics import bootstrap_interval
from selfimprove.scorers import SHAPES_SCORERS
from selfimprove_lab.results.arms import Results, load_results, signed
from selfimprove_lab.results.seeds import seeds_and_prompts

AGREES, DIFFERS, SPLIT, OPEN, UNTESTABLE = "agrees", "differs", "split", "not decided", "cannot be tested here"
CHAPTERS = (  # the pages of chapter 1, chapter 2, ...
    "01_diffusion_and_ddim", "02_spin_objective", "03_jensen_bound", "04_gradient", "05_fixed_points", "06_dpo_and_spin",
    "07_spin_rounds", "08_rsi_rounds", "09_collapse", "10_ablations", "11_evaluation", "12_compare_models", "13_at_scale",
    "14_from_diffusion_to_flows", "15_speed",
)  # fmt: skip
_CHAPTER = re.compile(r"[Cc]hapter (\d+)")


class Difference(NamedTuple):
    """A mean difference and its 95 % interval, `low` to `high`, over seeds and prompts; with fewer than three seeds over prompts alone."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return f"{signed(self.mean, [self.low, self.high])} ({self.seeds} seed{'s' * (self.seeds != 1)})"

    def verdict(self) -> str:
        """Return the verdict on the claim that the difference is positive."""
        return AGREES if self.low > 0 else DIFFERS if self.high < 0 else OPEN

    def reversed(self) -> "Difference":
        """Return the second less the first; its verdict is on the claim that the difference is negative."""
        return Difference(-self.mean, -self.high, -self.low, self.seeds)


@dataclass(frozen=True)
class Experiments:
    """The folders of the exported experiments under `root`, and the results in them."""

    root: Path

    def load(self, name: str) -> Results:
        """Return the results of an experiment, by arm and seed; empty if nothing has been run."""
        return load_results(self.root / name)

    def prompts(self, name: str, arm: str, seed: int) -> pd.DataFrame:
        """Return scores by prompt and round, with the embedded scorers' average beside them."""
        frame = pd.read_parquet(self.root / name / f"{arm}-{seed}-prompts.parquet")
        return frame.assign(**{RAW: frame[list(SHAPES_SCORERS)].mean(axis=1)}) if set(SHAPES_SCORERS) <= set(frame) else frame


def difference(
    experiments: Experiments, first: tuple[str, str], second: tuple[str, str], column: str, at: int, at_second: int | None = None
) -> Difference | None:
    """Return a score of arm `first` (experiment, arm) at round `at` less that of `second`, paired by prompt; None if no seed has both.

    Arms judged on fewer prompts are compared on the prompts that both have. `at` -1 is the last round; `at_second` is `at` if None.
    """
    loaded = [experiments.load(name).get(arm, {}) for name, arm in (first, second)]
    paired = []
    for seed in sorted(set(loaded[0]) & set(loaded[1])):
        values = []
        for (name, arm), when in ((first, at), (second, at if at_second is None else at_second)):
            frame = experiments.prompts(name, arm, seed)
            frame = frame[frame["round"] == (frame["round"].max() if when < 0 else min(when, frame["round"].max()))]
            values.append(frame[column])
        paired.append(values[0] - values[1])
    if not paired:
        return None
    by_prompt = pd.concat(paired, axis=1).mean(axis=1).dropna().to_numpy(dtype=np.float64)
    if len(paired) < 3:
        return Difference(float(by_prompt.mean()), *bootstrap_interval(by_prompt), len(paired))
    return Difference(*seeds_and_prompts([float(d.mean()) for d in paired], by_prompt), len(paired))


class Row(NamedTuple):
    """One claim, what the paper reports, where it is tested, the result here, and the verdict.

    `where` begins with "chapter N", and may go on with a section of that page ("chapter 7, Beside it").
    """

    claim: str
    paper: str
    where: str
    here: str
    verdict: str


QUALITY, RIGHT = "oracle_quality", "oracle_all_right"
NAMES = {RAW: "the scorers' average", QUALITY: "quality", RIGHT: "all right", "alignment": "unseen scorer 'alignment'"}


def said(found: dict[str, Difference | None]) -> tuple[str, str]:
    """Return the differences in words, and the verdict: one if all measures agree, else one per measure ("quality agrees, ...")."""
    known = {NAMES.get(name, name): d for name, d in found.items() if d is not None}
    if len(known) < len(found):
        return "not run yet", OPEN
    verdicts = {name: d.verdict() for name, d in known.items()}
    verdict = ", ".join(f"{name} {v}" for name, v in verdicts.items()) if len(set(verdicts.values())) > 1 else next(iter(verdicts.values()))
    return "; ".join(f"{name} {d}" for name, d in known.items()), qualified(verdict, min(d.seeds for d in known.values()))


def together(found: Sequence[Difference]) -> str:
    """Return one verdict: agrees if all are positive, differs if all are negative, split if they lie on both sides.

    If an interval contains zero, nothing is decided. A verdict of fewer than three seeds states their number.
    """
    verdicts = {d.verdict() for d in found}
    verdict = OPEN if OPEN in verdicts or not verdicts else verdicts.pop() if len(verdicts) == 1 else SPLIT
    return qualified(verdict, min((d.seeds for d in found), default=0))


def qualified(verdict: str, seeds: int) -> str:
    """Return a verdict with the number of training seeds behind it, if there are fewer than three."""
    if seeds >= 3 or verdict in (OPEN, UNTESTABLE):
        return verdict
    return f"{verdict}, {'one seed' if seeds == 1 else f'{seeds} seeds'}"


def table(rows: Sequence[Row]) -> pd.DataFrame:
    """Return the rows as a table with the names of their fields, indexed by the claim."""
    return pd.DataFrame(rows, columns=[f.replace("_", " ") for f in Row._fields]).set_index("claim")


def linked(rows: pd.DataFrame) -> HTML:
    """Return the table with every mention of a chapter linked to its page, which must lie beside the page that shows the table."""
    with pd.option_context("display.max_colwidth", None):  # claims are whole sentences
        text = rows.to_html()
    return HTML(_CHAPTER.sub(lambda found: f'<a href="{CHAPTERS[int(found[1]) - 1]}.html">{found[0]}</a>', text))
