"""Tabulate the claims of a paper: what it reports, where it is tested, the result here with an interval, and whether the two agree."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from selfimprove.evaluation.aggregate import RAW
from selfimprove.evaluation.statistics import bootstrap_interval
from selfimprove.scorers import SHAPES_SCORERS
from selfimprove_lab.results.arms import Results, load_results, signed
from selfimprove_lab.results.seeds import seeds_and_prompts

AGREES, DIFFERS, SPLIT, OPEN, UNTESTABLE = "agrees", "differs", "split", "not decided", "cannot be tested here"
CHAPTERS = {  # number by which a page is called -> page
    "1": "01_diffusion_and_ddim", "2": "02_spin_objective", "3": "03_jensen_bound", "4": "04_gradient", "5": "05_fixed_points",
    "6": "06_dpo_and_spin", "7": "07_spin_rounds", "7b": "07_what_a_round_is_made_of", "7c": "07_how_long_how_large",
    "7d": "07_limits_and_controls", "8": "08_rsi_rounds", "9": "09_collapse", "10": "10_ablations", "11": "11_evaluation",
    "12": "12_compare_models", "13": "13_at_scale", "14": "14_from_diffusion_to_flows", "15": "15_speed",
}  # fmt: skip
_CHAPTER = re.compile(r"[Cc]hapter (\d+[a-d]?)")


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
        path = self.root / name / f"{arm}-{seed}-prompts.parquet"
        frame = _scores(path, path.stat().st_mtime_ns)
        return frame.assign(**{RAW: frame[list(SHAPES_SCORERS)].mean(axis=1)}) if set(SHAPES_SCORERS) <= set(frame) else frame


@lru_cache(maxsize=256)
def _scores(path: Path, written: int) -> pd.DataFrame:
    """Return exported scores, which nobody changes in place; `written` makes a changed file be read again."""
    return pd.read_parquet(path)


def difference(
    experiments: Experiments, first: tuple[str, str], second: tuple[str, str], column: str, at: int, at_second: int | None = None
) -> Difference | None:
    """Return a score of arm `first` (experiment, arm) at round `at` less that of `second`, paired by prompt; None if no seed has both.

    Arms judged on fewer prompts are compared on the prompts that both have. `at` -1 is the last round; `at_second` is `at` if None.
    """
    loaded = [experiments.load(name).get(arm, {}) for name, arm in (first, second)]
    pairs = []
    for seed in sorted(set(loaded[0]) & set(loaded[1])):
        values = []
        for (name, arm), when in ((first, at), (second, at if at_second is None else at_second)):
            frame = experiments.prompts(name, arm, seed)
            frame = frame[frame["round"] == (frame["round"].max() if when < 0 else min(when, frame["round"].max()))]
            values.append(frame[column])
        pairs.append(values[0] - values[1])
    return paired(pairs) if pairs else None


def paired(differences: Sequence[pd.Series]) -> Difference:
    """Return the mean of differences by prompt, one series per seed, over the prompts that all seeds share."""
    by_prompt = pd.concat(list(differences), axis=1).mean(axis=1).dropna().to_numpy(dtype=np.float64)
    if len(differences) < 3:
        return Difference(float(by_prompt.mean()), *bootstrap_interval(by_prompt), len(differences))
    return Difference(*seeds_and_prompts([float(d.mean()) for d in differences], by_prompt), len(differences))


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
NAMES = {RAW: "the scorers' average", QUALITY: "quality", RIGHT: "obedience", "alignment": "unseen scorer 'alignment'"}


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

    If an interval contains zero, or a difference has one seed, nothing is decided. A verdict of two seeds says so.
    """
    verdicts = {d.verdict() for d in found}
    verdict = OPEN if OPEN in verdicts or not verdicts else verdicts.pop() if len(verdicts) == 1 else SPLIT
    return qualified(verdict, min((d.seeds for d in found), default=0))


def qualified(verdict: str, seeds: int) -> str:
    """Return a verdict with the number of training seeds behind it, if there are two; with one seed nothing is decided.

    The interval of a single seed is over prompts alone, and says nothing about luck in training.
    """
    if seeds >= 3 or verdict in (OPEN, UNTESTABLE):
        return verdict
    return OPEN if seeds == 1 else f"{verdict}, {seeds} seeds"


def table(rows: Sequence[Row]) -> pd.DataFrame:
    """Return the rows as a table with the names of their fields, indexed by the claim."""
    return pd.DataFrame(rows, columns=[f.replace("_", " ") for f in Row._fields]).set_index("claim")


def claimed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that the paper claims; those whose second column begins with "not " are this book's own questions."""
    return rows[~rows["paper"].str.startswith("not ")]


def verdicts_figure(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw how many of each paper's claims have which verdict; rows whose measures disagree, or are split, count as mixed."""
    known = {AGREES: "C0", "mixed": "0.75", DIFFERS: "C1", OPEN: "0.9", UNTESTABLE: "white"}
    figure, axis = plt.subplots(figsize=(8, 0.6 + 0.5 * len(tables)), constrained_layout=True)
    for place, rows in enumerate(tables.values()):
        plain = claimed(rows)["verdict"].str.replace(r", \d+ seeds$", "", regex=True)
        counts, left = plain.where(plain.isin(list(known)), "mixed").value_counts(), 0
        for verdict, colour in known.items():
            if number := int(counts.get(verdict, 0)):
                axis.barh(place, number, left=left, color=colour, edgecolor="0.4", label=verdict)
                axis.text(left + number / 2, place, str(number), ha="center", va="center")
                left += number
    axis.set(yticks=range(len(tables)), yticklabels=list(tables), xlabel="claims")
    axis.invert_yaxis()
    handles, labels = axis.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    figure.legend(
        [named[k] for k in known if k in named], [k for k in known if k in named], loc="outside upper center", ncols=5, frameon=False
    )
    return figure


def linked(rows: pd.DataFrame) -> HTML:
    """Return the table with every mention of a chapter linked to its page, which must lie beside the page that shows the table."""
    with pd.option_context("display.max_colwidth", None):  # claims are whole sentences
        text = rows.to_html()
    return HTML(_CHAPTER.sub(lambda found: f'<a href="{CHAPTERS[found[1]]}.html">{found[0]}</a>', text))
