"""Draw the figures of the derivation notebooks, from the tables that the other modules return."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # colour-blind readers can tell these apart


def points(frame: pd.DataFrame, title: str) -> Figure:
    """Draw points of both conditions in the plane."""
    figure, axis = plt.subplots(figsize=(3.6, 3.6), constrained_layout=True)
    for condition, part in frame.groupby("condition"):
        axis.scatter(part["x"], part["y"], s=3, color=COLOURS[int(str(condition))], label=f"condition {condition}")
    axis.set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), xlabel="first coordinate", ylabel="second coordinate", title=title)
    axis.legend(loc="lower left", markerscale=3)
    return figure


def sampling_error(table: pd.DataFrame) -> Figure:
    """Draw excess KL against the number of sampler steps, one line per eta; bars are two standard errors."""
    figure, axis = plt.subplots(figsize=(5.5, 3.2), constrained_layout=True)
    for colour, (eta, part) in zip(COLOURS, table.groupby("eta"), strict=False):
        axis.errorbar(part["steps"], part["excess"], 2 * part["error"], marker="o", ms=3, capsize=2, color=colour, label=f"eta {eta}")
    axis.axhline(0, color="0.6", lw=0.8)
    axis.set_xscale("log")
    counts = sorted(table["steps"].unique())
    axis.set_xticks(counts, [str(n) for n in counts])
    axis.minorticks_off()
    axis.set(xlabel="sampler steps", ylabel="KL to p_data beyond\nexact samples' (nats)")
    axis.legend(frameon=False)
    return figure


def two_forms(table: pd.DataFrame, title: str) -> Figure:
    """Draw the decoupled against the approximate objective: a mark per example and step, coloured by t, up to 3 nats."""
    figure, axis = plt.subplots(figsize=(4.6, 3.6), constrained_layout=True)
    marks = axis.scatter(table["(4.9)"], table["(C.5)"], c=table["t"] + 1, s=6, cmap="viridis")
    axis.plot([0, 3], [0, 3], color="0.6", lw=0.8)
    axis.set(xlim=(0, 3), ylim=(0, 3), xlabel="approximate objective (nats)", ylabel="decoupled objective (nats)", title=title)
    figure.colorbar(marks, label="t (1 is the least noise)", ticks=MaxNLocator(integer=True))
    return figure


def practical_bias(table: pd.DataFrame) -> Figure:
    """Draw the practical objective less the one on the opponent's own path, split in two; bars are two standard errors."""
    figure, axis = plt.subplots(figsize=(8, 3.6), constrained_layout=True)
    places = np.arange(len(table))
    names = {"target": "first part: the target", "law": "second part: the law of the points", "total": "both"}
    for offset, (colour, (name, label)) in enumerate(zip(COLOURS, names.items(), strict=False)):
        axis.barh(places + 0.27 * (offset - 1), table[name], 0.25, xerr=2 * table[f"{name} error"], color=colour, label=label, capsize=2)
    axis.axvline(0, color="0.4", lw=0.8)
    axis.set(yticks=places, yticklabels=table["case"], xlabel="change of the mean loss (nats, logistic link)")
    axis.invert_yaxis()
    figure.legend(*axis.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=3)
    return figure


def gap(table: pd.DataFrame) -> Figure:
    """Draw how loose the bound is against the bracket's variance over t, one mark per case."""
    figure, axis = plt.subplots(figsize=(5.5, 3.4), constrained_layout=True)
    for colour, (link, part) in zip(COLOURS, table[table["link"].isin(["logistic", "hinge"])].groupby("link"), strict=False):
        shown = part[(part["gap"] > 1e-12) & (part["variance over t"] > 0)]
        axis.scatter(shown["variance over t"], shown["gap"], s=14, color=colour, label=str(link))
    x = np.geomspace(1e-4, 10, 20)
    axis.plot(x, x / 8, color="0.5", lw=1, label="variance / 8")
    axis.set(xscale="log", yscale="log", xlabel="variance over t of beta_t * bracket_t", ylabel="approximate less exact (nats)")
    axis.legend(frameon=False)
    return figure


def factors_over_t(table: pd.DataFrame) -> Figure:
    """Draw matching, pushing, their difference, and the reweighting, over t."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), constrained_layout=True)
    for colour, name in zip(COLOURS, ("matching", "pushing", "difference"), strict=False):
        axes[0].plot(table["t"] + 1, table[name], color=colour, marker="o", ms=3, label=name)
    axes[0].set(xlabel="t (1 is the least noise)", ylabel="norm of the gradient / beta")
    axes[0].legend(frameon=False)
    axes[1].plot(table["t"] + 1, table["reweighting"], color=COLOURS[3], marker="o", ms=3)
    axes[1].set(xlabel="t (1 is the least noise)", ylabel="reweighting over beta, -l'", ylim=(0, None))
    return figure


def factors_over_training(runs: dict[str, pd.DataFrame], among: dict[str, pd.DataFrame] | None = None) -> Figure:
    """Draw the factors along training, one line per run. The axes have room for all runs in `among`, which is `runs` by default."""
    labels = {
        "margin": "margin", "reweighting": "reweighting over beta, -l'", "told_apart": "weight of examples told apart\nover the others'",
        "cancelling": "|matching - pushing| /\n(|matching| + |pushing|)",
    }  # fmt: skip
    figure, axes = plt.subplots(2, 2, figsize=(8, 5), constrained_layout=True)
    for colour, (name, run) in zip(COLOURS, _with_cancelling(runs).items(), strict=False):
        for axis, column in zip(axes.flat, labels, strict=True):
            axis.plot(run["step"], run[column], color=colour, label=name)
    everything = pd.concat(_with_cancelling(among or runs).values())
    for axis, (column, label) in zip(axes.flat, labels.items(), strict=True):
        low, high = everything[column].min(), everything[column].max()
        room = 0.05 * (high - low)
        axis.set(xlabel="training step", ylabel=label, ylim=(low - room, high + room))
    axes[0, 0].set_yscale("symlog", linthresh=0.1)
    axes[0, 0].axhline(0, color="0.6", lw=0.8)
    axes[0, 0].legend(frameon=False)
    return figure


def _with_cancelling(runs: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return {name: run.assign(cancelling=run["difference"] / (run["matching"] + run["pushing"])) for name, run in runs.items()}


def counterexample(table: pd.DataFrame, best: float, opponent: float) -> Figure:
    """Draw the objective less l(0) against the player's slope, one line per scale s, on the own path and in practical form."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), constrained_layout=True, sharey=True)
    for axis, (form, part) in zip(axes, table.groupby("form"), strict=True):
        for colour, (scale, line) in zip(COLOURS, part[part["scale"].isin([0.3, 1, 3, 10])].groupby("scale"), strict=False):
            axis.errorbar(line["slope"], line["excess"], 2 * line["error"], color=colour, label=f"s = {scale:g}")
        axis.axhline(0, color="0.6", lw=0.8)
        for x, label in ((best, r"$\epsilon^*$"), (opponent, r"$\epsilon_k$")):
            axis.axvline(x, color="0.6", lw=0.8, ls=":")
            axis.annotate(label, (x, 1.04), xycoords=("data", "axes fraction"), ha="center", fontsize=9)
        axis.set_title(str(form), pad=18)
        axis.set(xlabel="player's slope", ylim=(-0.1, 0.5))
    axes[0].set_ylabel("objective less l(0) (nats)")
    axes[0].legend(frameon=False, loc="upper center")
    return figure


def gradient_left(table: pd.DataFrame) -> Figure:
    """Draw the squared norm of the gradient that discretisation leaves, against the number of sampler steps."""
    figure, axis = plt.subplots(figsize=(4.5, 3), constrained_layout=True)
    finite, exact = table[np.isfinite(table["n"])], table[~np.isfinite(table["n"])].iloc[0]
    axis.errorbar(finite["n"], finite["squared norm"], 2 * finite["error"], marker="o", ms=4, capsize=2, color=COLOURS[0])
    band = [exact["squared norm"] - 2 * exact["error"], exact["squared norm"] + 2 * exact["error"]]
    axis.axhspan(*band, color="0.85", label="$x'_0$ drawn exactly (two standard errors)")
    axis.set_xscale("log")
    axis.set_xticks(finite["n"], [f"{n:g}" for n in finite["n"]])
    axis.minorticks_off()
    axis.set(xlabel="sampler steps n", ylabel="squared norm of the gradient\nat $\\epsilon_k = \\epsilon^*$")
    axis.legend(frameon=False, loc="upper right")
    return figure


def by_round(table: pd.DataFrame, group: str, columns: dict[str, str], logarithmic: bool = True) -> Figure:
    """Draw one panel per column and one line per group: means over seeds, with bars from the smallest to the largest seed."""
    figure, axes = plt.subplots(1, len(columns), figsize=(max(4 * len(columns), 5), 3.6), constrained_layout=True, squeeze=False)
    for axis, (column, label) in zip(axes[0], columns.items(), strict=True):
        for colour, (name, part) in zip(COLOURS, table.groupby(group, sort=False), strict=False):
            seeds = part.groupby("round")[column].agg(["mean", "min", "max"])
            bars = [seeds["mean"] - seeds["min"], seeds["max"] - seeds["mean"]]
            axis.errorbar(seeds.index, seeds["mean"], bars, marker="o", ms=3, capsize=2, color=colour, label=str(name))
        axis.set(xlabel="round", ylabel=label, yscale="log" if logarithmic else "linear")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, loc="outside lower center", ncols=3)
    return figure


def gaussian_paths(states: pd.DataFrame) -> Figure:
    """Draw the paths of diffusions and flows in the plane of a and b, with a sampler's states and the rays on which they are one."""
    figure, axis = plt.subplots(figsize=(4.2, 4.2), constrained_layout=True)
    angle = np.linspace(0, np.pi / 2, 100)
    axis.plot(np.cos(angle), np.sin(angle), color=COLOURS[0], label="diffusion, $a^2+b^2=1$")
    axis.plot([1, 0], [0, 1], color=COLOURS[1], label="flow, $a+b=1$")
    axis.plot([0 * states["a"], states["a"]], [0 * states["b"], states["b"]], color="0.8", lw=0.8, zorder=0)
    axis.plot(states["a"], states["b"], "o", ms=4, color=COLOURS[0])
    axis.plot(1 - states["s"], states["s"], "o", ms=4, color=COLOURS[1])
    axis.set(xlabel="a, the image's share", ylabel="b, the noise's share", xlim=(0, 1.05), ylim=(0, 1.05), aspect="equal")
    axis.legend(frameon=False, loc="lower left")
    return figure


def weights_over_s(table: pd.DataFrame, times: np.ndarray) -> Figure:
    """Draw the weights of the velocity's squared error against s, over the density of the times given, which has a scale of its own."""
    figure, axis = plt.subplots(figsize=(5.5, 3.4), constrained_layout=True)
    for colour, name in zip(COLOURS, table, strict=False):
        axis.plot(table.index, table[name], color=colour, label=str(name))
    density = axis.twinx()
    density.hist(times, 60, (0, 1), density=True, color="0.88")
    density.set(ylabel="density of SD3's training times")
    axis.set_zorder(density.get_zorder() + 1)
    axis.set_facecolor("none")
    axis.set(xlabel="s (1 is pure noise)", ylabel=r"weight of $|\hat v-v|^2$", yscale="log", ylim=(1e-3, 30))
    axis.legend(frameon=False, loc="lower center")
    return figure


def chords(states: np.ndarray) -> Figure:
    """Draw paths (steps + 1, points, 2) from noise to image, each with its chord."""
    figure, axis = plt.subplots(figsize=(4.2, 3.8), constrained_layout=True)
    for i in range(states.shape[1]):
        axis.plot(*states[:, i].T, color=COLOURS[0], marker="o", ms=2, lw=1, label="_" * (i > 0) + "the opponent's path")
        axis.plot(*states[[0, -1], i].T, color=COLOURS[1], lw=0.8, ls="--", label="_" * (i > 0) + "its chord: own noise")
    axis.plot(*states[-1].T, "k.", ms=5, label="images")
    axis.set(xlabel="first coordinate", ylabel="second coordinate")
    figure.legend(*axis.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=3)
    return figure
