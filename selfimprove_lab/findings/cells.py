"""Take named numbers from the cells of tables that pages show."""

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

_SEEDS = re.compile(r" \((\d+) seeds?\)")
WORDS = {"1": "one", "2": "two"}


def spoken(cell: object) -> str:
    """Return a table's cell as prose has it: the number of seeds is named only if it is below three."""

    def seeds(found: re.Match[str]) -> str:
        return "" if int(found[1]) > 2 else f" ({WORDS[found[1]]} seed{'s' * (found[1] != '1')})"

    return _SEEDS.sub(seeds, str(cell)).replace(" *", " (one seed)")


def cells(prefix: str, table: pd.DataFrame, rows: Mapping[Any, str], columns: Mapping[str, str]) -> dict[str, str]:
    """Return `<prefix>_<row>_<column>` -> cell, for the rows and columns that are named; what a table lacks or leaves empty is absent.

    `rows` and `columns` map the table's labels to parts of names; an empty part is left out.
    """
    found = {}
    for row, first in rows.items():
        for column, second in columns.items():
            if row in table.index and column in table and table.loc[row, column] != "":
                name = "_".join(part for part in (prefix, first, second) if part)
                found[re.sub(r"\W", "_", name)] = spoken(table.loc[row, column])
    return found
