"""Say in words, and in one unit, what a comparison of models decides."""

from collections.abc import Mapping, Sequence

import pandas as pd

ERROR = 0.05  # chance that any difference of a table is called decided although there is none, after Holm's correction


def verdict(table: pd.DataFrame) -> str:
    """Return one Markdown sentence per model on the scores in which it differs from the first, and one on what the others would need.

    `table` is that of `evaluation.aggregate.comparison`. A difference is decided if its p after Holm's correction is below 0.05.
    """
    baseline, said = table["model"].iloc[0], []
    for model, rows in table[table["difference"].notna()].groupby("model", sort=False):
        decided = rows["p_holm"] < ERROR
        sides = {"above": decided & (rows["difference"] > 0), "below": decided & (rows["difference"] < 0)}
        parts = [f"{side} `{baseline}` in {_listed(rows.loc[which, 'score'])}" for side, which in sides.items() if which.any()]
        said.append(f"**No score tells `{model}` from `{baseline}`.**" if not parts else f"**`{model}` is {', and '.join(parts)}.**")
        undecided = rows[~decided].sort_values("prompts_needed")
        if len(undecided):
            needed = [f"{row.score} {row.prompts_needed:,.0f}" for row in undecided.itertuples() if pd.notna(row.prompts_needed)]
            said[-1] += f" Not decided: {_listed(undecided['score'])}."
            said[-1] += f" Prompts that would find differences of this size eight times in ten: {', '.join(needed)}." if needed else ""
    return "\n\n".join(said)


def _listed(names: Sequence[str] | pd.Series) -> str:
    *most, last = list(names)
    return f"{', '.join(most)} and {last}" if most else str(last)


def in_spreads(table: pd.DataFrame, spread: Mapping[str, float]) -> pd.DataFrame:
    """Return each model's differences from the first as cells "value [low, high]" in units of `spread`, a row per model and score.

    `spread` has a positive number for every score that is to be shown, such as its standard deviation over the first model's images.
    """
    shown = table[table["difference"].notna() & table["score"].isin(list(spread))]
    cells = {}
    for row in shown.itertuples():
        value, low, high = (getattr(row, name) / spread[row.score] for name in ("difference", "difference_low", "difference_high"))
        cells[row.score if shown["model"].nunique() == 1 else (row.model, row.score)] = f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"
    return pd.DataFrame({"difference": cells})
