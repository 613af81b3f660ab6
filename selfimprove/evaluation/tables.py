"""Format the numbers in a notebook's tables."""

import math
from collections.abc import Sequence

import pandas as pd


def number(value: float) -> str:
    """Return a number as text: three significant digits, whole numbers in full with thousands commas, "0" for rounding errors of doubles.

    >>> [number(v) for v in (2000.0, 5.499737, 0.04123, -2.2e-16, 83805.4, 1.2e-6)]
    ['2,000', '5.50', '0.0412', '0', '83,805', '1.20e-06']
    """
    if not math.isfinite(value):
        return str(value)
    if abs(value) < 1e-14:
        return "0"
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.3g}"
    return f"{value:#.3g}"


def interval(bounds: Sequence[float | None], digits: int = 3, sign: str = "") -> str:
    """Return the ends of an interval over prompts as text. A single prompt has none, which JSON holds as null."""
    low, high = bounds
    return "[one prompt]" if low is None or high is None else f"[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def readable_numbers() -> None:
    """Make pandas show the numbers of its tables as `number` writes them."""
    pd.set_option("display.float_format", number)
