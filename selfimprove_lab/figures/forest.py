"""Draw a table of "value [low, high]" cells: the same numbers that a reader could look up, with their intervals side by side."""

import math
import re
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

ABOVE, BELOW, OPEN = "C0", "C1", "0.5"  # an interval right of zero, left of it, on both sides
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def read(cell: object) -> tuple[float, float, float] | None:
    """Return (value, low, high) of a cell such as "+0.041 [+0.038, +0.044] (3 seeds)"; None if the cell holds no interval."""
    value, bracket, rest = str(cell).partition("[")
    found = [float(number) for number in _NUMBER.findall(value)[:1] + _NUMBER.findall(rest.partition("]")[0])]
    return (found[0], found[1], found[2]) if bracket and len(found) == 3 else None


def forest(table: pd.DataFrame, columns: Mapping[str, str], rows: Mapping[str, str] | None = None, one_scale: bool = False) -> Figure:
    """Draw one panel per column, with the x label that `columns` gives it, and one row per row of the table; bars are its intervals.

    The legend says what colours and hollow points mean. `rows` may give shorter labels. With `one_scale` all panels share it.
    """
    labels = [", ".join(map(str, key)) if isinstance(key, tuple) else str(key) for key in table.index]
    labels = [(rows or {}).get(label, label) for label in labels]
    size = (9, 1.3 + 0.27 * len(labels))
    figure, axes = plt.subplots(1, len(columns), figsize=size, sharex=one_scale, sharey=True, constrained_layout=True, squeeze=False)
    for axis, (column, xlabel) in zip(axes[0], columns.items(), strict=True):
        for place, cell in enumerate(table[column]):
            if found := read(cell):
                point(axis, place, *found, hollow="1 seed" in str(cell) or "*" in str(cell))
        axis.axvline(0, color="0.7", lw=1)
        axis.xaxis.set_major_locator(MaxNLocator(4 if len(columns) < 4 else 2))
        axis.set(xlabel=xlabel)
    axes[0, 0].set(yticks=range(len(labels)), yticklabels=labels)
    axes[0, 0].set_ylim(len(labels) - 0.5, -0.5)
    legend(
        figure, hollow="one seed: intervals over prompts alone" if any("1 seed" in c or "*" in c for c in _cells(table, columns)) else ""
    )
    return figure


def point(axis: Axes, place: int, value: float, low: float, high: float, hollow: bool) -> None:
    """Draw a value and its interval in a row, coloured by the side of zero on which the interval lies."""
    # rounded to nothing, a bound still shows by its sign on which side of zero it lies
    colour = ABOVE if math.copysign(1, low) > 0 else BELOW if math.copysign(1, high) < 0 else OPEN
    error = np.array([[value - low], [high - value]]).clip(0)
    axis.errorbar(value, place, xerr=error, fmt="o", ms=4, color=colour, mfc="white" if hollow else colour)


def _cells(table: pd.DataFrame, columns: Mapping[str, str]) -> list[str]:
    return [str(cell) for column in columns for cell in table[column]]


def legend(figure: Figure, hollow: str = "") -> None:
    """Say below a figure what its colours mean, and with `hollow` what a hollow point is."""
    said = {"interval above zero": ABOVE, "below zero": BELOW, "holds zero: not decided": OPEN}
    points = [Line2D([], [], marker="o", ms=4, color=colour, label=name) for name, colour in said.items()]
    points += [Line2D([], [], marker="o", ms=4, ls="", color=OPEN, mfc="white", label=hollow)] if hollow else []
    figure.legend(handles=points, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
