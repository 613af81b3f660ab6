"""Recompute the printed tables: find sums that do not come out, rows printed twice, and sentences that the cells contradict."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import pandas as pd

from selfimprove_lab.published import AVERAGE, WINS, Cell, Found, Table, load_table, tables, unit_of


class Finding(NamedTuple):
    """What `check` finds: the kind of error, the cells concerned, and the evidence."""

    found: Found
    cells: tuple[Cell, ...]
    said: str


def check(table: Table) -> list[Finding]:
    """Return everything that recomputing finds wrong, from the printed digits alone.

    Kinds of findings in the cells: an average that its scores do not have (average), a row that repeats an earlier one (repeat), a share
    outside 0 to 100 or of no whole number of prompts (percentage), another value in a table of the paper with the same protocol (disagree),
    or a win rate that contradicts the two models the other way round (opposite). Kinds of findings in the text's claims: how many scores
    are averaged (averaged), a cell's value, or that the best of some models exceeds the best of others or a number (claim).
    """
    claims = (finding for claim in table.claims for finding in _claim(table, claim))
    return [*_rows(table), *_percentages(table), *_across(table), *claims]


def _rows(table: Table) -> Iterator[Finding]:
    frame = table.printed
    if table.averages:
        others = frame.drop(columns=AVERAGE)
        slack = (unit_of(frame[AVERAGE]) + sum(unit_of(others[c]) for c in others) / others.shape[1]) / 2
        for model, row in others.iterrows():
            mean = sum(row) / len(row)
            if abs(mean - frame.loc[model, AVERAGE]) > slack:
                yield Finding("average", ((model, AVERAGE),), f"printed {frame.loc[model, AVERAGE]}, mean of the others {mean:.5f}")
    seen: dict[tuple[Decimal, ...], str] = {}
    for model, row in frame.iterrows():
        first = seen.setdefault(tuple(row), model)
        if first != model:
            yield Finding("repeat", tuple((model, c) for c in frame), f"the row of {model} repeats that of {first}")


def _percentages(table: Table) -> Iterator[Finding]:
    prompts = table.protocol["prompts"] if table.protocol["statistic"] == WINS else None
    for column in (c for c, unit in table.units.items() if unit.startswith("%")):
        for model, share in table.printed[column].items():
            if not 0 <= share <= 100:
                yield Finding("percentage", ((model, column),), f"{share} is no share in 0 to 100")
            elif prompts and abs(100 * round(share * prompts / 100) / Decimal(prompts) - share) > unit_of(table.printed[column]) / 2:
                yield Finding("percentage", ((model, column),), f"{share} % is no whole number of {prompts} prompts")


def _across(table: Table) -> Iterator[Finding]:
    """Compare with the paper's other tables: the same quantity printed twice, and a win rate seen from its other side."""
    paper = table.id.partition("/")[0] + "/"
    for other in (load_table(t) for t in tables() if t.startswith(paper) and t != table.id):
        columns = [c for c in table.printed if c in other.printed]
        if other.protocol == table.protocol:
            for cell in ((m, c) for m in table.printed.index if m in other.printed.index for c in columns):
                here, there = table.printed.loc[cell], other.printed.loc[cell]
                if here != there:
                    yield Finding("disagree", (cell,), f"{here} here, {there} in {other.id}")
        model, baseline = other.protocol["baseline"], table.protocol["baseline"]
        if model in table.printed.index and baseline in other.printed.index and other.protocol["statistic"] == WINS:
            for column in columns:
                total = table.printed.loc[model, column] + other.printed.loc[baseline, column]
                if total > 100 + (unit_of(table.printed[column]) + unit_of(other.printed[column])) / 2:
                    yield Finding(
                        "opposite", ((model, column),), f"{column}: with {other.id}'s {baseline} over {model} the sum is {total} %"
                    )


def _claim(table: Table, claim: dict[str, Any]) -> Iterator[Finding]:
    where, frame = claim["where"], table.printed
    if "averaged" in claim:
        if claim["averaged"] != frame.shape[1] - 1:
            yield Finding("averaged", (), f"{where}: {claim['averaged']} scores averaged; the table averages {frame.shape[1] - 1}")
    elif "value" in claim:
        cell, said = (claim["model"], claim["column"]), Decimal(claim["value"])
        if abs(frame.loc[cell] - said) > unit_of(pd.Series([said])) / 2:
            yield Finding("claim", (cell,), f"{where}: {said}; the table has {frame.loc[cell]}")
    else:
        cells, evidence = [], []
        for column in claim["columns"]:
            value, best = max((frame.loc[m, column], m) for m in claim["models"])
            rival = max(frame.loc[claim["over"], column]) if isinstance(claim["over"], list) else claim["over"]
            if value <= rival:
                cells.append((best, column))
                evidence.append(f"{column} {value} against {rival}")
        if cells:
            yield Finding("claim", tuple(cells), f"{where}: {' or '.join(claim['models'])} not higher: {', '.join(evidence)}")
