"""Turn per-image scores into tables: means, medians, best of n and win rates, with intervals over prompts.

Every table can be recomputed later from the same score files under another rule, so the choice of a rule loses nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from selfimprove.evaluation.protocol import KEYS, ProtocolError, Scored, check_comparable
from selfimprove.evaluation.statistics import bootstrap_interval, holm, paired_p_value, prompts_for_difference, win_rate

RAW, STANDARDISED = "average", "average of z"


def by_prompt(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of every scorer over the images of each prompt. Intervals resample these prompts."""
    return scores.drop(columns=["id", "image"], errors="ignore").groupby("prompt", sort=True).mean()


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of every scorer over one model's images. The z scores are computed from them."""

    mean: pd.Series
    std: pd.Series

    @classmethod
    def of(cls, scores: pd.DataFrame, scorers: Sequence[str]) -> "Scale":
        """Return the scale of one table of scores, usually the base model's.

        Raises:
            ValueError: a scorer is not a column, or gives every image the same score.
        """
        chosen = _chosen(scores, scorers)
        std = chosen.std()
        if (flat := list(std.index[~(std > 0)])) or len(scores) < 2:
            raise ValueError(f"scorers={flat or list(scorers)} give every image of the baseline one score: no scale; leave them out")
        return cls(chosen.mean(), std)


def _chosen(scores: pd.DataFrame, scorers: Sequence[str]) -> pd.DataFrame:
    if missing := [s for s in scorers if s not in scores]:
        raise ValueError(f"scorers={missing} are not in the table, which has {[c for c in scores if c not in KEYS]}")
    return scores[list(scorers)].astype(np.float64)


def with_averages(scores: pd.DataFrame, scorers: Sequence[str], scale: Scale) -> pd.DataFrame:
    """Return the table with two more columns: the average of the raw scores, and the average of the z scores.

    Published tables use the raw average. The scorer with the widest range dominates it.

    Raises:
        ValueError: a scorer is not a column of the table.
    """
    chosen = _chosen(scores, scorers)
    z = (chosen - scale.mean[list(scorers)]) / scale.std[list(scorers)]
    return scores.assign(**{RAW: chosen.mean(axis=1), STANDARDISED: z.mean(axis=1)})


def best_of(scores: pd.DataFrame, n: int, by: str) -> pd.DataFrame:
    """Return the best image by column `by` in every group of `n` images of a prompt, grouped in the order of their index.

    With N images per prompt there are N // n groups, and one row remains per group. The first image wins a tie.

    Raises:
        ValueError: a prompt has fewer than `n` images, or `by` is not a column.
    """
    if by not in scores:
        raise ValueError(f"by={by!r} is not in the table, which has {list(scores)}")
    fewest = int(scores.groupby("prompt").size().min())
    if not 1 <= n <= fewest:
        raise ValueError(f"n={n} images are wanted of each prompt, and some have {fewest}; give 1 to {fewest}, or sample more")
    ordered = scores.sort_values(["prompt", "image"], kind="stable")
    place = ordered.groupby("prompt").cumcount()
    group = place // n
    ordered, group = ordered[group < fewest // n], group[group < fewest // n]
    return ordered.loc[ordered.groupby([ordered["prompt"], group])[by].idxmax()]


LOWER_IS_BETTER = ("held_out_error",)


def summarise(scores: pd.DataFrame, previous: pd.DataFrame | None = None, base: pd.DataFrame | None = None) -> dict[str, dict[str, Any]]:
    """Return every scorer's mean, median and 95 % interval over prompts.

    If `previous` (the round before) or `base` has the same score, also return the paired difference and the win rate against it. The win
    rate is the share of prompts that score higher, or lower if lower is better; ties count half.
    """
    now = by_prompt(scores)
    summary: dict[str, dict[str, Any]] = {}
    for name in now.columns:
        values = now[name].to_numpy(dtype=np.float64)
        row: dict[str, Any] = {
            "mean": float(values.mean()), "median": float(np.median(values)), "ci95": list(bootstrap_interval(values)),
        }  # fmt: skip
        for other, label in ((previous, "prev"), (base, "base")):
            if other is None or name not in other:  # a scorer may have been added later
                continue
            difference = values - by_prompt(other).loc[now.index, name].to_numpy(dtype=np.float64)
            row[f"delta_{label}"] = float(difference.mean())
            row[f"delta_{label}_ci95"] = list(bootstrap_interval(difference))
            rate, low, high, _ = win_rate(-difference if name in LOWER_IS_BETTER else difference)
            row |= {f"win_rate_{label}": rate, f"win_rate_{label}_ci95": [low, high]}
        summary[name] = row
    return summary


@dataclass(frozen=True)
class Rule:
    """Rule by which the images of a prompt become one number."""

    best_of: int = 1  # number of images of which the best counts; 1 averages all images
    by: str = RAW  # column by which the best is chosen

    def apply(self, scores: pd.DataFrame) -> pd.DataFrame:
        """Return the value of every score per prompt."""
        return by_prompt(best_of(scores, self.best_of, self.by) if self.best_of > 1 else scores)

    def header(self) -> str:
        return f"best of {self.best_of} by the {self.by}" if self.best_of > 1 else "mean over the images of a prompt"


MEAN = Rule()


def comparison(
    models: Sequence[Scored], scorers: Sequence[str], rule: Rule = MEAN, force: bool = False, allowed: Sequence[str] = ()
) -> pd.DataFrame:
    """Compare every model on every scorer and on both averages. The first model is the baseline that the others are paired with.

    Columns: model, score, mean, low, high, median, median_low, median_high (95 % over prompts). For all models but the first also:
    difference, difference_low, difference_high, p, p_holm (over the whole table), win_rate, win_low, win_high (Wilson), ties, and
    prompts_needed (to detect a difference as large as the one seen). The z scores are computed from the baseline's images.

    Raises:
        ProtocolError: the protocols differ (see `check_comparable`), or the prompts differ.
    """
    check_comparable(models, force, allowed)
    baseline = models[0]
    scale = Scale.of(baseline.table, scorers)
    values = [rule.apply(with_averages(m.table, scorers, scale)) for m in models]
    rows = []
    for model, now in zip(models, values, strict=True):
        if list(now.index) != list(values[0].index):
            raise ProtocolError(
                f"{model.protocol.model!r} was not scored on the prompts of {baseline.protocol.model!r}; score both on one set"
            )
        for score in (*scorers, RAW, STANDARDISED):
            ours = now[score].to_numpy(dtype=np.float64)
            row: dict[str, Any] = {"model": model.protocol.model, "score": score, "mean": ours.mean(), "median": np.median(ours)}
            row["low"], row["high"] = bootstrap_interval(ours)
            row["median_low"], row["median_high"] = bootstrap_interval(ours, np.median)
            if model is not baseline:
                row |= _against(ours - values[0][score].to_numpy(dtype=np.float64))
            rows.append(row)
    table = pd.DataFrame(rows)
    if "p" in table:
        compared = table["p"].notna()
        table.loc[compared, "p_holm"] = holm(table.loc[compared, "p"].tolist())
    return table


def _against(difference: np.ndarray) -> dict[str, float]:
    low, high = bootstrap_interval(difference)
    rate, win_low, win_high, ties = win_rate(difference)
    mean = float(difference.mean())
    needed = prompts_for_difference(difference, mean) if mean and len(difference) > 1 else float("nan")
    return {
        "difference": mean, "difference_low": low, "difference_high": high, "p": paired_p_value(difference), "win_rate": rate,
        "win_low": win_low, "win_high": win_high, "ties": ties, "prompts_needed": needed,
    }  # fmt: skip


def wide(table: pd.DataFrame, statistic: str = "mean", decimals: Mapping[str, int] | int = 4) -> pd.DataFrame:
    """Return `comparison` in the form of the published tables: one row per model, one column per score, cells of "value [low, high]".

    `statistic` is "mean", "median", "difference" (from the baseline) or "win_rate" (in per cent).

    Raises:
        ValueError: `statistic` is none of these.
    """
    bounds = {"mean": ("low", "high"), "median": ("median_low", "median_high"), "difference": ("difference_low", "difference_high"),
              "win_rate": ("win_low", "win_high")}  # fmt: skip
    if statistic not in bounds:
        raise ValueError(f"statistic={statistic!r} is not known; choose one of {list(bounds)}")
    low, high = bounds[statistic]
    scale, sign = (100, "") if statistic == "win_rate" else (1, "+" if statistic == "difference" else "")

    def cell(row: pd.Series) -> str:
        if pd.isna(row[statistic]):
            return ""
        digits = 1 if statistic == "win_rate" else decimals if isinstance(decimals, int) else decimals.get(row["score"], 4)
        shown = [f"{scale * row[name]:{sign}.{digits}f}" for name in (statistic, low, high)]
        return f"{shown[0]} [{shown[1]}, {shown[2]}]"

    kept = table[table[statistic].notna()]
    text = kept.assign(cell=kept.apply(cell, axis=1)).pivot(index="model", columns="score", values="cell")
    return text.reindex(index=pd.unique(kept["model"]), columns=pd.unique(kept["score"]))
