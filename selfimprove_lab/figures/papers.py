"""Draw published tables and this book's evaluations in one form: scores by round with baselines as lines, and prompts won over the base."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from selfimprove.evaluation.round_figures import panels
from selfimprove_lab.figures.comparison import MARKERS, colours
from selfimprove_lab.published import load_table

PUBLISHED_ROUNDS = ("SD-1.5", "SPIN round 1", "SPIN round 2", "SPIN round 3")
OWN_ROUNDS = ("base", "SPIN round 1", "SPIN round 2", "SPIN round 3")
_STYLES = ("--", ":", "-.")


def printed(table_id: str) -> pd.DataFrame:
    """Return a published table in the form of `results.evaluation.tidy`: model, score, mean, low, high; intervals were not printed.

    Raises:
        ValueError: there is no such table.
    """
    values = load_table(table_id).values
    rows = [{"model": m, "score": s, "mean": float(values.loc[m, s]), "low": np.nan, "high": np.nan} for s in values for m in values.index]
    return pd.DataFrame(rows)


def by_round(frame: pd.DataFrame, rounds: Sequence[str], baselines: Sequence[str], labels: Mapping[str, str]) -> Figure:
    """Draw each score against the round, with baselines as level lines: the form of SPIN-Diffusion's figure 3.

    Args:
        frame: one row per model and score, with the columns model, score, mean, low and high. Intervals that are missing are not drawn.
        rounds: the models of rounds 0, 1, ...; round 0 is the base model.
        baselines: models that become lines; those that `frame` lacks are left out.
        labels: score -> what its axis says, with its unit.

    Raises:
        ValueError: `frame` lacks a round or a score.
    """
    found = frame.set_index(["score", "model"])
    absent = [(s, m) for s in labels for m in rounds if (s, m) not in found.index]
    if absent:
        raise ValueError(f"frame lacks {absent}; give a row for each score and round")
    figure, axes = panels(len(labels))
    shades = colours(list(baselines))
    for axis, (score, label) in zip(axes, labels.items(), strict=True):
        rows = found.loc[score].loc[list(rounds)]
        bars = None if rows["low"].isna().any() else np.abs(rows[["low", "high"]].to_numpy().T - rows["mean"].to_numpy())
        axis.errorbar(range(len(rows)), rows["mean"], yerr=bars, color=colours(["SPIN"])["SPIN"], marker="o", ms=4, capsize=2, label="SPIN")
        for name, style in zip(baselines, _STYLES, strict=False):
            if (score, name) in found.index:
                axis.axhline(found.loc[(score, name), "mean"], color=shades[name], ls=style, lw=1.5, label=name)
        axis.set(xlabel="round (0 is the base model)", ylabel=label, xticks=range(len(rows)))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def wins(published: pd.DataFrame, own: pd.DataFrame, scores: Sequence[str]) -> Figure:
    """Draw the share of prompts on which a model wins over the base: left as published, right `scores` of this book's models.

    Both frames have the columns model, score, mean, low and high, in per cent. The dashed line at 50 % is no difference.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), sharex=True, constrained_layout=True)
    parts = (left, "SPIN-Diffusion, table 3", published, list(pd.unique(published["score"]))), (right, "here", own, list(scores))
    shades = colours([f"{score} ({title})" for _, title, _, shown in parts for score in shown])  # no colour means two scorers
    for axis, title, frame, shown in parts:
        models = list(pd.unique(frame["model"]))
        for i, (score, marker) in enumerate(zip(shown, MARKERS, strict=False)):
            rows = frame[frame["score"] == score].set_index("model").loc[models]
            y = np.arange(len(models)) + 0.6 * (i / max(len(shown) - 1, 1) - 0.5)
            bars = None if rows["low"].isna().any() else np.abs(rows[["low", "high"]].to_numpy().T - rows["mean"].to_numpy())
            axis.errorbar(
                rows["mean"], y, xerr=bars, fmt=marker, ms=5, capsize=2, lw=1, color=shades[f"{score} ({title})"],
                label=score.replace("_", " "),
            )  # fmt: skip
        axis.axvline(50, color="0.5", lw=1, ls="--")
        axis.set(title=title, yticks=range(len(models)), yticklabels=models, xlabel="prompts won over the base (%)", xlim=(0, 100))
        axis.invert_yaxis()
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, frameon=False, fontsize=8)
    return figure
