"""Load the papers' printed tables as data; `checks` recomputes them, `beside` sets a run's own results beside them.

A table is `<paper>/<number>.json`; `paper.json` holds what a paper's tables share. Cells keep the printed digits, even where these cannot
be right; a footnote then says so. Rounds are what the papers call iterations. None in a protocol means that the paper does not say.
"""

import html
import json
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

FOLDER = Path(__file__).parent
AVERAGE, WINS, VERSION = "Average", "share of prompts won", " version"  # a column; a statistic; the end of a field with a scorer's version

Cell = tuple[str, str]  # model, column
Found = Literal["average", "averaged", "repeat", "percentage", "disagree", "opposite", "claim", "reading"]


class Footnote(NamedTuple):
    """What is wrong or open about some cells (no cells: the whole table); `checks.check` finds all kinds but "reading"."""

    found: Found
    cells: tuple[Cell, ...]
    text: str


def unit_of(column: pd.Series) -> Decimal:
    """Return one unit in the last place of a printed column; a shorter cell has lost its trailing zeros."""
    return Decimal(1).scaleb(min(v.as_tuple().exponent for v in column))


def render(caption: str, frame: pd.DataFrame, footnotes: list[str]) -> str:
    """Return the HTML of a table under its caption, with its footnotes."""
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in footnotes)
    return f"<p>{html.escape(caption)}</p>{frame.to_html()}{notes}"


@dataclass(frozen=True, eq=False)
class Table:
    """One printed table. `printed` has models as index, scorers as columns and Decimals with the printed digits as cells."""

    id: str
    title: str
    source: str
    printed: pd.DataFrame
    units: dict[str, str]  # column -> unit
    higher_is_better: bool | None
    averages: bool  # whether the column Average is the mean of the others
    protocol: dict[str, Any]  # field -> how the numbers were made; "<scorer> version" for each scorer among the columns
    footnotes: tuple[Footnote, ...]
    claims: tuple[dict[str, Any], ...]  # what the paper's text says about these cells, true or not; see `checks`

    @property
    def values(self) -> pd.DataFrame:
        """Return the printed numbers as floats."""
        return self.printed.astype(float)

    @property
    def caption(self) -> str:
        """Return title, source, units and direction in one paragraph."""
        units = set(self.units.values())
        said = units.pop() if len(units) == 1 else "; ".join(f"{c}: {u}" for c, u in self.units.items())
        direction = {True: " Higher is better.", False: " Lower is better.", None: ""}[self.higher_is_better]
        return f"{self.title} ({self.source}). Units: {said}.{direction}"

    @property
    def notes(self) -> list[str]:
        """Return the footnotes, with the numbers with which `shown` marks cells."""
        return [f"[{number}] {note.text}" for number, note in enumerate(self.footnotes, 1)]

    def shown(self) -> pd.DataFrame:
        """Return the cells as printed, as text, with the numbers of their footnotes."""
        frame = self.printed.map(str)
        for number, note in enumerate(self.footnotes, 1):
            for model, column in note.cells:
                frame.loc[model, column] += f" [{number}]"
        return frame

    def _repr_html_(self) -> str:
        return render(self.caption, self.shown(), self.notes)


def tables() -> list[str]:
    """Return the ids of all tables, such as "spin-diffusion/1"."""
    numbered = [p for p in FOLDER.glob("*/*.json") if p.stem.isdigit()]
    return [f"{p.parent.name}/{p.stem}" for p in sorted(numbered, key=lambda p: (p.parent.name, int(p.stem)))]


def load_table(table_id: str) -> Table:
    """Load one table with its source, protocol and footnotes.

    Raises:
        ValueError: there is no such table.
    """
    if table_id not in tables():
        raise ValueError(f"table_id={table_id!r} is not known; choose one of {tables()}")
    path = FOLDER / f"{table_id}.json"
    paper = json.loads((path.parent / "paper.json").read_text())
    data = json.loads(path.read_text(), parse_float=Decimal)
    columns = data["columns"]
    scorers = {c: paper["scorers"][c] for c in columns if c in paper["scorers"]}
    notes = [Footnote(n["found"], tuple((m, c) for m, c in n["cells"]), n["text"]) for n in data["footnotes"]]
    notes += [Footnote("reading", (), s["note"]) for s in scorers.values() if "note" in s]
    page = f", page {data['page']}" if data["page"] else ""
    return Table(
        id=table_id,
        title=data["title"],
        source=f"{paper['paper']}, {paper['authors']}, arXiv:{paper['arxiv']}, table {path.stem}{page}; {paper['read_from']}",
        printed=pd.DataFrame.from_dict({m: [Decimal(v) for v in row] for m, row in data["rows"].items()}, orient="index", columns=columns),
        units={c: data["unit"] or (scorers[c]["unit"] if c in scorers else "mean of the others") for c in columns},
        higher_is_better=data["higher_is_better"],
        averages=data["average_of_others"],
        protocol=paper["protocol"] | data["protocol"] | {c + VERSION: s["version"] for c, s in scorers.items()},
        footnotes=tuple(notes),
        claims=tuple(data["claims"]),
    )
