"""Search for early signs of over-optimisation: a round's training log beside the round's change of obedience and quality."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import spearmanr

from selfimprove_lab.claims.table import Experiments
from selfimprove_lab.results.arms import readable

EXPERIMENTS = {"spin_shapes": "rounds, and the frozen opponent", "spin_controls": "controls", "spin_map": "cells of the map"}


class Sign(NamedTuple):
    """The signs in a round's training log, and the round's change of obedience and quality; one per run and round of self-play.

    For `real_error` see `training_signs`. `implicit_accuracy` and `margin` are means over the same tenth of the log. `all_right` and
    `quality` are changes of the oracle's readings in the round.
    """

    experiment: str
    arm: str
    seed: int
    round: int
    real_error: float
    implicit_accuracy: float
    margin: float
    all_right: float
    quality: float


def training_signs(root: str | Path, at: float = 1.0) -> pd.DataFrame:
    """Return the signs in a tenth of the log, and what the round changed, for every exported round of self-play, each counted once.

    Null rounds and DPO are left out. `at` is the share of the round, in (0, 1], at which the tenth ends: 1 looks at the round's end, a
    third is an early sign. `real_error` is the player's squared error on real images over the opponent's, less 1. Above 0, the player has
    become worse even on the images that it should learn, only less so than on the opponent's images.
    """
    rows: dict[tuple[float, ...], Sign] = {}
    experiments = Experiments(Path(root))
    for name in ("spin_shapes", "spin_controls", "spin_map"):
        for arm, seeds in experiments.load(name).items():
            for seed, result in seeds.items() if not arm.startswith(("null", "dpo")) else ():
                path = Path(root) / name / f"{arm}-{seed}-training.parquet"
                logs = pd.read_parquet(path) if path.exists() else pd.DataFrame()  # fine-tuning's is not exported
                if "margin" not in logs:
                    continue
                for index, log in logs.groupby("round"):
                    end = log.head(max(round(at * len(log)), 1)).tail(max(len(log) // 10, 1))
                    truth = result["rounds"][int(index)]["oracle"]
                    ratio = float(end["player_real"].mean() / end["opponent_real"].mean()) - 1
                    changes = (float(truth[k]["delta_prev"]) for k in ("all_right", "quality"))
                    accuracy, margin = float(end["implicit_accuracy"].mean()), float(end["margin"].mean())
                    sign = Sign(name, arm, seed, int(index), ratio, accuracy, margin, *changes)
                    same = (seed, *log[["player_real", "opponent_real", "implicit_accuracy"]].to_numpy().ravel().round(9))
                    rows.setdefault(same, sign)  # a round that several arms share counts once
    return pd.DataFrame(rows.values(), columns=Sign._fields)


def predictors_table(signs: pd.DataFrame) -> pd.DataFrame:
    """Return Spearman's correlation of each sign with the round's change of obedience and of quality, with intervals over runs.

    A sign warns of over-optimisation if it correlates with a loss of obedience in runs that did not suggest the sign.
    """
    rows, codes = {}, signs.groupby(["experiment", "arm", "seed"]).ngroup().to_numpy()
    for sign in ("real_error", "implicit_accuracy", "margin"):
        row = {}
        for truth in ("all_right", "quality"):
            pairs = signs[[sign, truth]].to_numpy()
            if len(pairs) < 5:
                row[readable(truth)] = "too few rounds"
                continue
            runs = [np.flatnonzero(codes == run) for run in range(codes.max() + 1)]  # rounds of a run resemble one another
            generator, values = np.random.default_rng(0), []
            for _ in range(2000):
                drawn = np.concatenate([runs[i] for i in generator.integers(len(runs), size=len(runs))])
                values.append(spearmanr(pairs[drawn, 0], pairs[drawn, 1]).statistic if len(np.unique(pairs[drawn, 0])) > 1 else np.nan)
            low, high = np.nanquantile(values, [0.025, 0.975])
            row[readable(truth)] = f"{spearmanr(*pairs.T).statistic:+.2f} [{low:+.2f}, {high:+.2f}]"
        rows[sign.replace("_", " ")] = row
    return pd.DataFrame(rows).T


def signs_figure(signs: pd.DataFrame) -> Figure:
    """Draw the change of obedience in a round against the player's error on real images, relative to the opponent's.

    `signs` are those half way through the rounds, where the alarm listens. Dashed lines are its limit, and the loss that it should foresee.
    """
    figure, axis = plt.subplots(figsize=(5.5, 3.4), constrained_layout=True)
    for marker, (name, part) in zip("os^", signs.groupby("experiment"), strict=False):
        axis.scatter(100 * part["real_error"], part["all_right"], s=14, marker=marker, alpha=0.7, label=EXPERIMENTS[str(name)])
    axis.axhline(0, color="0.7", lw=1)
    axis.axvline(0, color="0.7", lw=1)
    axis.axvline(100 * LIMIT, color="0.3", lw=1, ls="--", label=f"the alarm's limit, {LIMIT:.0%}")
    axis.axhline(-LOSS, color="0.3", lw=1, ls=":", label=f"a loss of {LOSS:g}")
    axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.set(xlabel="half way: error on real images, player over opponent, less 1 (%)", ylabel="obedience, change in the round")
    figure.legend(loc="outside upper left", ncols=3, frameon=False, columnspacing=1, fontsize=8)
    return figure


LIMIT, LOSS = 0.1, 0.03  # of the error on real images above the opponent's; of obedience: fixed before the rounds that tested them


def alarm_table(root: str | Path, runs: Sequence[tuple[str, str, int]], at: float = 0.5) -> pd.DataFrame:
    """Return whether the alarm was right in every round of some runs, given as (experiment, arm, seed); missing runs are left out.

    The alarm rings if, after the share `at` of a round, the error on real images is more than `LIMIT` above the opponent's. The alarm is
    right if it rings and the round then ends with obedience lower by more than `LOSS`, or if it is silent and the round does not.
    """
    signs = training_signs(root, at).set_index(["experiment", "arm", "seed"])
    rows = []
    for run in runs:
        for sign in signs.loc[[run]].itertuples() if run in signs.index else ():
            rings, lost = sign.real_error > LIMIT, -sign.all_right > LOSS
            row = {"arm": run[1], "seed": run[2], "round": sign.round, f"real error after {at:.0%} of it": f"{sign.real_error:+.1%}"}
            row |= {"alarm": "rings" if rings else "silent", "obedience, change": f"{sign.all_right:+.3f}"}
            rows.append(row | {"quality, change": f"{sign.quality:+.3f}", "the alarm is": "right" if rings == lost else "wrong"})
    return pd.DataFrame(rows).set_index(["arm", "seed", "round"]) if rows else pd.DataFrame()


def alarm_counts(signs: pd.DataFrame) -> pd.DataFrame:
    """Count the rounds in which the alarm of `alarm_table` rings or is silent, by whether obedience falls by more than `LOSS`."""
    rings, lost = signs["real_error"] > LIMIT, -signs["all_right"] > LOSS
    columns = {f"obedience falls by more than {LOSS:g}": lost, "it does not": ~lost}
    return pd.DataFrame(
        {name: {"rings": int((rings & found).sum()), "silent": int((~rings & found).sum())} for name, found in columns.items()}
    )
