"""Set a run's own results beside a published table, with every difference of protocol named in the header."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from selfimprove_lab.published import AVERAGE, VERSION, Table, render, unit_of

NOT_RUN, NOT_PRINTED = "not run", "not in the table"


class Beside(NamedTuple):
    """Published and own results as one table of text, the header that must stand above it, and the footnotes of its marks."""

    frame: pd.DataFrame  # columns (scorer, "published") and (scorer, "here")
    header: str
    footnotes: list[str]

    def _repr_html_(self) -> str:
        return render(self.header, self.frame, self.footnotes)


def beside(
    table: Table,
    results: pd.DataFrame,
    protocol: Mapping[str, Any],
    commands: Mapping[str, str] | None = None,
    force: bool = False,
) -> Beside:
    """Set a run's results beside a published table; what has not been measured stays "not run".

    Args:
        results: models as index (the table's names where they are meant to compare; others are added below), some of the table's columns,
            in the table's units. A cell is a number, (mean, low, high), or missing.
        protocol: a value for each field of `table.protocol`, None if it is not known; the header names every difference. "<scorer> version"
            is needed only for what was measured; the average measures all scorers. Of a version such as a scorer's own "hpsv2.1: <file>",
            the part before the colon is compared.
        commands: model -> what to run to fill its row.
        force: set two known versions of one scorer side by side all the same.

    Raises:
        ValueError: columns, models or cells do not fit, fields are missing, or a scorer has two known versions without `force`.
    """
    _fits(table, results, commands or {})
    measured = set(table.printed if AVERAGE in results else results)
    skipped = {f for f in table.protocol if f.endswith(VERSION) and f.removesuffix(VERSION) not in measured}
    there = {f: v for f, v in table.protocol.items() if f not in skipped}
    missing = [f for f in there if f not in protocol]
    if missing:
        raise ValueError(f"protocol lacks {missing}; give a value for each field of table.protocol, None where it is not known")
    here = {f: str(v).partition(":")[0] if v and f.endswith(VERSION) else v for f, v in protocol.items() if f not in skipped}
    for field, version in there.items():
        if field.endswith(VERSION) and None not in (version, here[field]) and version != here[field] and not force:
            raise ValueError(
                f"protocol has {field} {here[field]!r}, {table.id} has {version!r}: scores of the two do not compare; "
                "score again with the table's, or pass force=True to set them side by side all the same"
            )
    models = [*table.printed.index, *(m for m in results.index if m not in table.printed.index)]
    own, shown = results.reindex(index=models, columns=table.printed.columns), table.shown().reindex(models).fillna(NOT_PRINTED)
    parts: dict[tuple[str, str], pd.Series] = {}
    for column in table.printed:
        digits = -int(unit_of(table.printed[column]).as_tuple().exponent)
        parts[column, "published"] = shown[column]
        parts[column, "here"] = pd.Series({m: _own(v, digits, m, column) for m, v in own[column].items()})
    frame = pd.DataFrame(parts)
    if commands:
        unfilled = (frame == NOT_RUN).any(axis=1)
        frame["command", "to fill"] = [commands.get(m, "") if unfilled[m] else "" for m in models]
    return Beside(frame, f"{table.caption} {_differences(there, here)}", table.notes)


def _fits(table: Table, results: pd.DataFrame, commands: Mapping[str, str]) -> None:
    for name, axis in (("rows", results.index), ("columns", results.columns)):
        if not axis.is_unique:
            raise ValueError(f"results has the {name} {sorted(set(axis[axis.duplicated()]))} more than once; give each one time")
    if extra := [c for c in results if c not in table.printed]:
        raise ValueError(
            f"results has the columns {extra}, which {table.id} does not have; leave them out or name one of {list(table.printed)}"
        )
    if unknown := [m for m in commands if m not in table.printed.index and m not in results.index]:
        raise ValueError(f"commands names {unknown}, neither in {table.id} nor in results; name one of {list(table.printed.index)}")


def _own(value: Any, digits: int, model: str, column: str) -> str:
    """Format a cell of the run's own, a number or (mean, low, high), with as many digits as the table prints."""
    interval = np.ndim(value) == 1
    if not interval and pd.isna(value):
        return NOT_RUN
    try:
        mean, low, high = map(float, value if interval else (value,) * 3)
    except (TypeError, ValueError):
        mean = low = high = math.nan
    if not -math.inf < low <= mean <= high < math.inf:
        raise ValueError(f"results at {model!r}, {column!r} is {value!r}; give a finite number, (mean, low, high) in order, or nothing")
    return f"{mean:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if interval else "")


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Name every protocol field that differs or that only one side states, in one sentence."""

    def said(protocol: Mapping[str, Any], field: str) -> str:
        return "not stated" if protocol.get(field) is None else str(protocol[field])

    fields = [f for f in dict.fromkeys([*there, *here]) if there.get(f) != here.get(f)]
    if not fields:
        return "The protocols agree in every field."
    return "Differences of protocol: " + "; ".join(f"{f}: {said(there, f)} there, {said(here, f)} here" for f in fields) + "."
