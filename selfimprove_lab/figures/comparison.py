"""Draw comparisons. A method has one colour everywhere, safe for colour-blind readers; markers tell methods apart in grey print.

Bars and crosses are 95 % intervals over prompts. The functions take the tidy tables of `aggregate.comparison` or plain arrays.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_PALETTE = [to_hex(c) for c in sns.color_palette("colorblind", 10)]
METHODS = {  # first word of a model's name -> colour; a name without a method takes a spare colour
    "base": "#595959",
    "SPIN": _PALETTE[0],
    "RSIDiff": _PALETTE[1],
    "SFT": _PALETTE[2],
    "DPO": _PALETTE[4],
    "frozen": _PALETTE[5],
}
_SPARE = [_PALETTE[i] for i in (6, 8, 9, 3, 7)]
MARKERS = "osD^vP*Xhd"
FEW, FEW_TICKS, LONG = 3, 8, 16  # most lines that get bands; most values of x that all get a tick; most letters of a short name


def colours(models: Sequence[str]) -> dict[str, str]:
    """Return a colour per model: its method's, lighter for earlier rounds. A known method keeps its colour whatever else is shown."""
    methods = {model: next((m for m in METHODS if re.match(rf"{m}\b", model, re.IGNORECASE)), None) for model in models}
    left = _SPARE if any(methods.values()) else _PALETTE  # a figure without methods may use them all
    found, spare = {}, iter(left * (1 + len(models) // len(left)))
    for model, method in methods.items():
        colour = METHODS[method] if method else next(spare)
        number = re.search(r"round (\d+)", model)
        light = 0.45 * 0.8 ** (int(number[1]) - 1) if number and method else 0.0
        found[model] = to_hex(np.array(sns.color_palette([colour])[0]) * (1 - light) + light)
    return found


def first_column(axis: Axes) -> bool:
    """Return whether an axis of `panels` stands at the left, where a label speaks for its row."""
    place = axis.get_subplotspec()
    return place is not None and place.is_first_col()


def _errors(rows: pd.DataFrame, value: str, low: str, high: str) -> np.ndarray:
    return np.abs(rows[[low, high]].to_numpy(dtype=np.float64).T - rows[value].to_numpy(dtype=np.float64))


def win_rate_bars(table: pd.DataFrame) -> Figure:
    """Draw the win rate over the first model by score, with Wilson's intervals; the line at 50 % is no difference."""
    compared = table[table["win_rate"].notna()]
    models, scores = list(pd.unique(compared["model"])), list(pd.unique(compared["score"]))
    figure, axis = plt.subplots(figsize=(1.5 + 1.1 * len(scores), 3), constrained_layout=True)
    width = 0.8 / len(models)
    for i, (model, colour) in enumerate(colours(models).items()):
        rows = compared[compared["model"] == model].set_index("score").loc[scores]
        x = np.arange(len(scores)) + (i - (len(models) - 1) / 2) * width
        axis.bar(x, 100 * rows["win_rate"], width, color=colour, label=model, edgecolor="white", linewidth=0.5)
        axis.errorbar(
            x, 100 * rows["win_rate"], yerr=100 * _errors(rows, "win_rate", "win_low", "win_high"), fmt="none", ecolor="0.2", lw=1
        )
    axis.axhline(50, color="0.3", lw=0.8, ls="--")
    axis.set(ylabel=f"prompts won over {table['model'].iloc[0]} (%)", ylim=(0, 100), xticks=range(len(scores)))
    axis.set_xticklabels([s.replace("_", " ") for s in scores], rotation=20, ha="right")
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    sns.despine(figure)
    return figure


def radar(table: pd.DataFrame, spread: Mapping[str, float]) -> Figure:
    """Draw the difference from the first model on every score, in units of `spread`.

    `spread` is for example the standard deviation over the baseline's images. The dashed ring is the baseline. The shaded band of each
    model is its interval.
    """
    compared = table[table["score"].isin(spread)]
    scores = list(pd.unique(compared["score"]))
    angles = np.linspace(0, 2 * np.pi, len(scores), endpoint=False)
    figure, axis = plt.subplots(figsize=(5.2, 4.2), subplot_kw={"projection": "polar"}, constrained_layout=True)
    scale = np.array([spread[s] for s in scores])
    models = [m for m in pd.unique(compared["model"]) if m != table["model"].iloc[0]]
    closed = np.append(angles, angles[0])
    for (model, colour), marker in zip(colours(models).items(), MARKERS, strict=False):
        rows = compared[compared["model"] == model].set_index("score").loc[scores]
        low, mid, high = (
            np.append(v, v[0]) for v in (rows[c].to_numpy() / scale for c in ("difference_low", "difference", "difference_high"))
        )
        axis.plot(closed, mid, color=colour, marker=marker, ms=4, lw=1.2, label=model)
        axis.fill_between(closed, low, high, color=colour, alpha=0.2, lw=0)
    axis.plot(np.linspace(0, 2 * np.pi, 200), np.zeros(200), color="0.3", lw=0.8, ls="--", label=str(table["model"].iloc[0]))
    axis.set_xticks(angles, [s.replace("_", " ") for s in scores])
    for label, angle in zip(axis.get_xticklabels(), angles, strict=True):
        label.set_horizontalalignment("left" if np.cos(angle) > 0.3 else "right" if np.cos(angle) < -0.3 else "center")
    axis.tick_params("x", pad=10)
    axis.tick_params("y", labelsize=7)
    axis.set_rticks(MaxNLocator(4).tick_values(*axis.get_ylim())[1:-1])
    axis.set_rlabel_position(180 / len(scores))  # between two spokes, where no line runs
    axis.set_title("difference, in standard\ndeviations of the baseline", fontsize=8, loc="left", pad=18)
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.15, 1))
    return figure


def proxy_against_truth(table: pd.DataFrame, proxy: str, truths: Sequence[str]) -> Figure:
    """Draw each model's change of a learned score against its change of a truth; a point to the right and down is over-optimisation.

    The figure shows the models that have a difference; a baseline has none.
    """
    models = list(pd.unique(table["model"][table["difference"].notna()]))
    figure, axes = plt.subplots(1, len(truths), figsize=(4 * len(truths), 3.2), constrained_layout=True, squeeze=False)
    by_score = {s: rows.set_index("model").loc[models] for s, rows in table.groupby("score") if s in (proxy, *truths)}
    for axis, truth in zip(axes[0], truths, strict=True):
        _cross(axis, models, by_score[proxy], by_score[truth])
        axis.axhline(0, color="0.6", lw=0.8)
        axis.axvline(0, color="0.6", lw=0.8)
        axis.set(xlabel=f"change of {proxy.replace('_', ' ')}", ylabel=f"change of {truth.replace('_', ' ')}")
    axes[0, -1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    sns.despine(figure)
    return figure


def _cross(axis: Axes, models: Sequence[str], across: pd.DataFrame, up: pd.DataFrame) -> None:
    named = ("difference", "difference_low", "difference_high")
    for (model, colour), marker in zip(colours(models).items(), MARKERS * (1 + len(models) // len(MARKERS)), strict=False):
        x, y = across.loc[[model]], up.loc[[model]]
        axis.errorbar(
            x["difference"], y["difference"], xerr=_errors(x, *named), yerr=_errors(y, *named),
            fmt=marker, color=colour, ms=5, capsize=2, lw=1, label=model,
        )  # fmt: skip


def lines(frame: pd.DataFrame, x: str, ylabel: str, xlabel: str) -> Figure:
    """Draw scores against rounds or against training samples, one line per model; the oracle's readings are black and dashed.

    Intervals are bands, or bars if there are many lines. `frame` has the columns model, `x`, mean, low, high.
    """
    models = list(pd.unique(frame["model"]))
    figure, axis = plt.subplots(figsize=(6, 3.9 + 0.15 * max(0, len(models) - FEW)), constrained_layout=True)  # room for the legend
    drawn: list[str] = []
    for (model, colour), marker in zip(colours(models).items(), MARKERS * (1 + len(models) // len(MARKERS)), strict=False):
        rows = frame[frame["model"] == model].sort_values(x)
        known = str(model).startswith("oracle")  # the oracle's readings, among scorers
        alike = ("-", ":", "-.")[drawn.count(colour) % 3]  # line styles tell models of one method and colour apart
        drawn.append(colour)
        style = {"color": "black", "ls": "--"} if known else {"color": colour, "ls": alike}
        axis.plot(rows[x], rows["mean"], marker=marker, ms=4, lw=1.2, label=str(model).replace("_", " "), **style)
        if len(rows) > 1 and (known or len(models) <= FEW):
            axis.fill_between(rows[x], rows["low"], rows["high"], color=style["color"], alpha=0.2, lw=0)
        else:  # bands of many lines would hide each other, and one point has no band
            axis.errorbar(rows[x], rows["mean"], yerr=_errors(rows, "mean", "low", "high"), fmt="none", ecolor=colour, capsize=2, lw=0.8)
    if frame[x].nunique() <= FEW_TICKS:
        axis.set_xticks(sorted(frame[x].unique()))
    axis.set(xlabel=xlabel, ylabel=ylabel)
    figure.legend(loc="outside lower center", ncols=2 if max(map(len, map(str, models)), default=0) > LONG else 3, frameon=False)
    sns.despine(figure)
    return figure


@cache
def fonts_for(text: str) -> list[str] | None:
    """Return families of fonts that together show a text: the figures' own, then an installed one if need be. None if there is no such."""
    own = list(plt.rcParams["font.family"])
    first = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    missing = {ord(c) for c in text if not c.isspace()} - first.get_charmap().keys()
    if not missing:
        return own
    for font in font_manager.fontManager.ttflist:  # the font of last resort has a box for every script, and no letter
        if font.style == "normal" and not font.name.startswith("Last Resort"):
            try:
                found = missing <= font_manager.get_font(font.fname).get_charmap().keys()
            except (OSError, RuntimeError):  # removed since, or of a kind that cannot be drawn
                continue
            if found:
                return [*own, font.name]
    return None


def _as_written(names: Sequence[str], index: int, kind: str, label: str) -> dict[str, Any]:
    name = names[index]
    fonts = fonts_for(name)
    shown = textwrap.fill(name if fonts else f"{kind} {names.index(name) + 1}, in letters that no font here has", 16)
    return {label: shown, "parse_math": False, "fontfamily": fonts}


def picture_grid(images: Float[np.ndarray, "rows columns h w 3"], rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """Draw pictures in [0, 1] as a grid, such as models by prompts or prompts by noise, with names beside rows and above columns.

    Names are shown letter by letter: nothing in them is mathematics. One that no installed font can show is replaced by its number.
    """
    height, width = images.shape[:2]
    figure, axes = plt.subplots(height, width, figsize=(1.1 * width + 1.4, 1.1 * height + 0.5), squeeze=False, constrained_layout=True)
    for i in range(height):
        for j in range(width):
            axes[i, j].imshow(images[i, j])
            axes[i, j].set(xticks=[], yticks=[])
            axes[i, j].spines[:].set_visible(False)
        axes[i, 0].set_ylabel(**_as_written(rows, i, "row", "ylabel"), rotation=0, ha="right", va="center", fontsize=11)
    for j in range(width):
        axes[0, j].set_title(**_as_written(columns, j, "prompt", "label"), fontsize=9)
    return figure


def correlation_map(table: pd.DataFrame) -> Figure:
    """Draw a square table of correlations, with its number in each cell."""
    figure, axis = plt.subplots(figsize=(0.8 * len(table) + 2, 0.7 * len(table) + 1), constrained_layout=True)
    names = [n.replace("_", " ") for n in table]
    sns.heatmap(
        table, annot=True, fmt=".2f", cmap="vlag", vmin=-1, vmax=1, square=True, ax=axis, xticklabels=names, yticklabels=names,
        cbar_kws={"label": "Spearman's rank correlation within a prompt"},
    )  # fmt: skip
    return figure


def change_map(table: pd.DataFrame, shares: Sequence[str] = ("all_right",)) -> Figure:
    """Draw the table of `sensitivity` as a map, one row per change and one column per scorer; brackets mean that an interval holds 0.

    `shares` holds columns that change in their own unit, a share of images. They stand apart and are not coloured.
    """
    rows = list(pd.unique(table["change"]))
    columns = sorted(pd.unique(table["scorer"]), key=lambda name: name in shares)
    means = table.pivot(index="change", columns="scorer", values="mean").loc[rows, columns]
    sure = (
        table.assign(sure=(table["low"] > 0) | (table["high"] < 0))
        .pivot(index="change", columns="scorer", values="sure")
        .loc[rows, columns]
    )
    text = means.map("{:+.1f}".format).where(sure, means.map("({:+.1f})".format))
    figure, axis = plt.subplots(figsize=(1.1 * len(columns) + 2, 0.5 * len(rows) + 1.2), constrained_layout=True)
    apart = [name in shares for name in columns]
    sns.heatmap(
        means, annot=text, fmt="", cmap="vlag", center=0, robust=True, ax=axis, cbar_kws={"label": "change (standard deviations)"},
        mask=np.broadcast_to(apart, means.shape),
        xticklabels=[c.replace("all_right", "obedience").replace("_", " ") + "\n(share)" * (c in shares) for c in columns],
    )  # fmt: skip
    for column in np.flatnonzero(apart):
        for row, words in enumerate(text.iloc[:, column]):
            axis.text(column + 0.5, row + 0.5, words, ha="center", va="center")
        axis.axvline(int(column), color="black", lw=1)
    axis.set(xlabel="", ylabel="")
    return figure
