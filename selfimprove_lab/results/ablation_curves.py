"""Draw what each part of RSIDiff does, round by round: the form of the paper's figures 7, 8, 10 and 11."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selfimprove.evaluation.round_figures import panels
from selfimprove_lab.figures.comparison import MARKERS, colours, first_column
from selfimprove_lab.results.arms import Results, readable
from selfimprove_lab.results.rsi import entry, label
from selfimprove_lab.results.seeds import seeds_with_intervals

SCORES = ("oracle: quality", "oracle: all_right", "clip", "aesthetic", "shading", "alignment")
DECIDES = 3  # training seeds from which an interval counts the luck of training


def curve(results: Results, arm: str, score: str, rounds: int) -> list[tuple[float, float, float]]:
    """Return (mean, low, high) of a score's change from the base by round, from round 0, where it is 0, to at most `rounds`.

    Intervals are over seeds and prompts, or over the prompts of a single seed.
    """
    seeds = list(results[arm].values())
    found = [(0.0, 0.0, 0.0)]
    for index in range(1, min(rounds, min(len(r["rounds"]) for r in seeds) - 1) + 1):
        ends = [entry(r["rounds"][index], score) for r in seeds]
        found.append(seeds_with_intervals([e["delta_base"] for e in ends], [e["delta_base_ci95"] for e in ends]))
    return found


def curves_figure(
    results: Results, arms: Sequence[str], rounds: int = 3, scores: Sequence[str] = SCORES, names: Mapping[str, str] | None = None
) -> Figure:
    """Draw the change of each score from the base against the round, one line per arm, with 95 % intervals.

    Arms with fewer than three training seeds have hollow markers and dashed lines, and the legend says that they are not decided: their
    intervals leave out the luck of training. `names` may give arms other labels.

    Raises:
        ValueError: none of the arms has been run.
    """
    shown = [arm for arm in arms if results.get(arm)]
    if not shown:
        raise ValueError(f"arms={list(arms)}: none has been run; make rsi-rounds rsi-ablations")
    labels = {arm: (names or {}).get(arm, label(arm)) for arm in shown}
    shades = colours(list(labels.values()))
    figure, axes = panels(len(scores))
    for axis, score in zip(axes, scores, strict=True):
        for place, arm in enumerate(shown):
            points = np.array(curve(results, arm, score, rounds))
            count, colour = len(results[arm]), shades[labels[arm]]
            decided = count >= DECIDES
            said = f"{count} seeds" if decided else f"{count} seed{'s' * (count > 1)}, not decided"
            axis.errorbar(
                np.arange(len(points)) + 0.06 * (place - (len(shown) - 1) / 2), points[:, 0],
                yerr=np.abs(points[:, 1:].T - points[:, 0]), fmt=f"{MARKERS[place % len(MARKERS)]}{'-' if decided else '--'}", ms=4, lw=1.2,
                capsize=2, color=colour, mfc=colour if decided else "white", label=f"{labels[arm]} ({said})",
            )  # fmt: skip
        axis.axhline(0, color="0.6", lw=0.8)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        kind = "truth" if score.startswith("oracle") else "scorer's own unit"
        axis.set(
            xlabel="round",
            ylabel="change from the base" if first_column(axis) else "",
            title=f"{readable(score.rpartition(': ')[2])} ({kind})",
        )
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure
