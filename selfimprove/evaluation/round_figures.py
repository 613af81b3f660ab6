"""Draw figures of a run folder: training log, selection, and the same prompts by round. They need the extra `notebooks`."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` axes, at most three per row, so that their labels can be read at the width of a page."""
    columns = 2 if count == 4 else min(count, 3)
    rows = -(-count // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.2 * columns, 2.6 * rows), constrained_layout=True, squeeze=False)
    for axis in grid.flat[count:]:
        axis.remove()
    return figure, list(grid.flat[:count])


def training_figure(log: pd.DataFrame) -> Figure:
    """Draw loss, margin, accuracy, errors relative to the opponent, and gradient norm by training step."""
    spin = "margin" in log
    shown = ["loss", "margin", "implicit_accuracy", "errors", "gradient_norm"] if spin else ["loss", "gradient_norm"]
    shown += [name for name in ("held_out_error",) if name in log]  # only of some steps
    figure, axes = panels(len(shown))
    for axis, name in zip(axes, shown, strict=True):
        if name == "errors":
            for side in ("real", "generated"):
                axis.plot(log["step"], log[f"player_{side}"] / log[f"opponent_{side}"], label=side)
            axis.axhline(1, color="0.6", lw=0.8)
            axis.set_ylabel("squared error,\nplayer / opponent")
            axis.legend(frameon=False)
        else:
            known = log[log[name].notna()]
            axis.plot(known["step"], known[name], marker="." if len(known) < len(log) else "")
            axis.set_ylabel(name.replace("_", " "))
        if name == "loss" and spin:
            axis.axhline(np.log(2), color="0.6", lw=0.8, ls="--")
        axis.set_xlabel("training step")
    return figure


def selection_figure(folder: Path) -> Figure:
    """Draw a round's pool: per scorer, the scores of the kept images among all but the lowest hundredth; then distances and weights."""
    pool = pd.read_parquet(folder / "selection.parquet")
    metrics = [name.rpartition("_")[0] for name in pool if name.endswith(("_rank", "_zscore"))]
    edges = json.loads((folder / "edges.json").read_text()) if (folder / "edges.json").exists() else None
    figure, axes = panels(max(len(metrics) + bool(edges), 1))
    for axis, name in zip(axes, metrics, strict=False):
        shown = pool[name].quantile(0.01), pool[name].max()  # a few failed images would squeeze the rest
        bins = np.histogram_bin_edges(pool[name], bins=30, range=shown).tolist()
        axis.hist(pool[name], bins, density=True, color="0.75", label="pool")
        axis.hist(pool[name][pool["kept"]], bins, density=True, histtype="step", color="C0", label="kept")
        axis.set_xlabel(f"{name} (scorer's units)", parse_math=False)
        axis.set_ylabel("density")
    if metrics:
        axes[0].legend(frameon=False)
    if edges:
        weights = pd.read_parquet(folder / "weights.parquet")
        axis = axes[-1]
        axis.scatter(weights["distance"], weights["weight"], s=8, alpha=0.6)
        axis.axvline(edges["beta"], color="0.6", lw=0.8, ls="--")
        axis.set(xlabel=f"distance to the base's samples ({edges['distance']}, {edges['reference']})", ylabel="weight")
        axis.set_ylim(0, 1.05)
    return figure


def progress_grid(before: Path, folder: Path) -> Figure | None:
    """Draw the images of a round in training below those of the round before it, and above its own; None if none were drawn."""
    steps = sorted((folder / "samples").glob("*"))
    drawn = len(list((steps[0] / "images").glob("*.png"))) if steps else 0
    rows, labels = [before, *steps, folder], ["before", *(f"step {int(s.name)}" for s in steps), "after"]
    return image_grid(rows, labels, drawn) if drawn else None


def image_grid(rounds: list[Path], labels: list[str], columns: int = 12) -> Figure:
    """Draw the same prompts and noise (columns) for several rounds (rows), from their `images/` folders."""
    names = sorted(p.name for p in (rounds[0] / "images").glob("*.png"))[:columns]
    size = (0.9 * len(names) + 0.9, 0.9 * len(rounds))  # inches; the labels beside the images take 0.9
    figure, axes = plt.subplots(len(rounds), len(names), figsize=size, squeeze=False)
    for row, (folder, label) in enumerate(zip(rounds, labels, strict=True)):
        for column, name in enumerate(names):
            axis = axes[row][column]
            axis.imshow(plt.imread(folder / "images" / name))
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axes[row][0].set_ylabel(label, parse_math=False, rotation=0, ha="right", va="center", fontsize=14)
    figure.subplots_adjust(left=0.9 / size[0], right=1, top=1, bottom=0, wspace=0.03, hspace=0.03)
    return figure
