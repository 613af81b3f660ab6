"""Draw spurious fixed points, flat directions of an objective, and how laws change under recursion."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selfimprove_lab.figures.theory import COLOURS
from selfimprove_lab.theory import recursion
from selfimprove_lab.theory.spurious import threshold


def phase_diagram(table: pd.DataFrame) -> Figure:
    """Draw which cases of `spurious.phase_diagram` move, over scale and variance, with the threshold that theory gives."""
    figure, axis = plt.subplots(figsize=(6, 3.8), constrained_layout=True)
    curve = np.linspace(table["variance"].min() * 0.9, 0.999, 200)
    axis.plot([threshold(v) for v in curve], curve, color="0.3", lw=1.2, label="threshold, from the second variation")
    axis.axhline(1, color="0.6", lw=0.8, ls=":", label="opponent's law is the data's")
    kinds = (
        (table["moves"], COLOURS[0], "o", "a better function was found: the round moves"),
        (~table["moves"] & (table["variance"] < 1), COLOURS[1], "X", "none was found, although the laws differ"),
        (~table["moves"] & (table["variance"] > 1), COLOURS[0], "^", "none was found on the grid, but one exists"),
        (~table["moves"] & (table["variance"] == 1), COLOURS[2], "s", "none was found, and the laws agree"),
    )
    for chosen, colour, marker, label in kinds:
        axis.scatter(table[chosen]["scale"], table[chosen]["variance"], s=34, color=colour, marker=marker, label=label, zorder=3)
    axis.set(xscale="log", xlabel="scale s = beta h² (gamma = 1)", ylabel="variance of the opponent's points")
    axis.set_xlim(table["scale"].min() / 1.4, table["scale"].max() * 1.4)
    figure.legend(*axis.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def flat_players(table: pd.DataFrame) -> Figure:
    """Draw the practical objective less l(0) against the distance from the opponent, one line per case of `uniqueness.flat_players`."""
    figure, axis = plt.subplots(figsize=(6, 3.8), constrained_layout=True)
    for colour, marker, (name, part) in zip(COLOURS, "osX^v", table.groupby("case", sort=False), strict=False):
        axis.plot(part["distance"], part["excess"], color=colour, marker=marker, ms=5, label=str(name))
    axis.axhline(0, color="0.6", lw=0.8)
    axis.set(xlabel="distance of the player from the opponent (change of slope or constant)", ylabel="objective less l(0) (nats)")
    figure.legend(*axis.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def selection(shares: tuple[float, ...], rounds: int) -> Figure:
    """Draw mean and variance by round of a normal model that is refitted to the best share of its own samples."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), constrained_layout=True)
    for colour, marker, share in zip(COLOURS, "osX^", shares, strict=False):
        laws = [recursion.Gaussian(0.0, 1.0)]
        for _ in range(rounds):
            laws.append(recursion.selected(laws[-1], share))
        axes[0].plot([law.mean for law in laws], color=colour, marker=marker, ms=4, label=f"best {share:.0%} kept")
        axes[0].axhline(recursion.reach(share), color=colour, lw=0.8, ls=":")
        axes[1].plot([law.variance for law in laws], color=colour, marker=marker, ms=4)
    axes[0].set(xlabel="round", ylabel="mean score\n(standard deviations of round 0)")
    axes[1].set(xlabel="round", ylabel="variance of the score\n(of round 0's)", yscale="log")
    _whole_rounds(axes)
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4)
    return figure


def guidance(table: pd.DataFrame) -> Figure:
    """Draw mean and variance by round of `recursion.guided_rounds`, one line per guidance."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), constrained_layout=True)
    for colour, marker, (scale, part) in zip(COLOURS, "osX^v", table.groupby("guidance"), strict=False):
        axes[0].plot(part["round"], part["mean"], color=colour, marker=marker, ms=4, label=f"guidance {scale:g}")
        axes[1].plot(part["round"], part["variance"], color=colour, marker=marker, ms=4)
    axes[0].set(xlabel="round", ylabel="mean of the caption's law")
    axes[1].set(xlabel="round", ylabel="variance of the caption's law", yscale="log", ylim=(1e-6, 2))
    _whole_rounds(axes)
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4)
    return figure


def refitting(samples: tuple[int, ...], rounds: int, chains: int = 2000) -> Figure:
    """Draw refitting to one's own samples: the variance left, played and in closed form, and three ways' drift of the mean."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), constrained_layout=True)
    for colour, marker, count in zip(COLOURS, "osX^", samples, strict=False):
        exact, played = recursion.refitted(1.0, count, rounds), recursion.refitted_by_chance(1.0, count, rounds, chains)
        axes[0].plot(exact["round"], exact["variance within"], color=colour, lw=1, label=f"{count} samples a round")
        shown = played.iloc[:: max(1, rounds // 8)]
        axes[0].errorbar(shown["round"], shown["variance within"], 2 * shown["error"], color=colour, fmt=marker, ms=4, capsize=2)
    for colour, style, way in zip(COLOURS[3:], ("-", "--", ":"), ("replace", "accumulate", "real"), strict=True):
        axes[1].plot(recursion.drift_of_means(way, samples[0], rounds), color=colour, ls=style, label=way)
    axes[0].set(xlabel="round", ylabel="variance of what is drawn\n(mean over models)", ylim=(0, 1.1))
    axes[1].set(xlabel="round", ylabel=f"variance of the fitted mean\n({samples[0]} samples a round)")
    axes[0].legend(frameon=False, fontsize=8)
    axes[1].legend(frameon=False, fontsize=8)
    _whole_rounds(axes)
    return figure


def _whole_rounds(axes: np.ndarray) -> None:
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
