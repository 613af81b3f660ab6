"""Draw a table of "value [low, high]" cells: the same numbers that a reader could look up, with their intervals side by side."""

import math
import re
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def read(cell: object) -> tuple[float, float, float] | None:
    """Return (value, low, high) of a cell such as "+0.041 [+0.038, +0.044] (3 seeds)"; None if the cell holds no interval."""
    value, bracket, rest = str(cell).partition("[")
    found = [float(number) for number in _NUMBER.findall(value)[:1] + _NUMBER.findall(rest.partition("]")[0])]
    return (found[0], found[1], found[2]) if bracket and len(found) == 3 else None


def forest(table: pd.DataFrame, columns: Mapping[str, str], rows: Mapping[str, str] | None = None) -> Figure:
    """Draw one panel per column, with the x label that `columns` gives it, and one row per row of the table; bars are its intervals.

    Blue lies right of zero, orange left of it, grey on both sides; hollow points have one seed. `rows` may give shorter labels.
    """
    labels = [", ".join(map(str, key)) if isinstance(key, tuple) else str(key) for key in table.index]
    labels = [(rows or {}).get(label, label) for label in labels]
    figure, axes = plt.subplots(1, len(columns), figsize=(9, 1 + 0.27 * len(labels)), sharey=True, constrained_layout=True, squeeze=False)
    for axis, (column, xlabel) in zip(axes[0], columns.items(), strict=True):
        for place, cell in enumerate(table[column]):
            if found := read(cell):
                value, low, high = found
                # rounded to nothing, a bound still shows by its sign on which side of zero it lies
                colour = "C0" if math.copysign(1, low) > 0 else "C1" if math.copysign(1, high) < 0 else "0.5"
                alone = "1 seed" in str(cell) or "*" in str(cell)
                error = np.array([[value - low], [high - value]]).clip(0)
                axis.errorbar(value, place, xerr=error, fmt="o", ms=4, color=colour, mfc="white" if alone else colour)
        axis.axvline(0, color="0.7", lw=1)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.set(xlabel=xlabel)
    axes[0, 0].set(yticks=range(len(labels)), yticklabels=labels)
    axes[0, 0].invert_yaxis()
    return figure
