"""Name the numbers that prose states. Pages write `{{ name }}`, and the book takes the value from here when it is built.

A name begins with its group (`play_`, `map_`, ...), and a group is one function that computes all its numbers from book/results and the
presets. Nearly every number is a cell of a table that some page shows, so that text and table cannot differ. `numbers` lists those of one
page, for readers in Jupyter, where the text has the names.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from selfimprove_lab.findings.judging import claims, judge
from selfimprove_lab.findings.recursion import ablation, collapse, rsi
from selfimprove_lab.findings.self_play import alarm, map_cells, own, part, play
from selfimprove_lab.findings.settings import cost, setting
from selfimprove_lab.results.speed import named as speed

GROUPS: dict[str, Callable[[Path], dict[str, str]]] = {
    "play": play, "part": part, "map": map_cells, "own": own, "alarm": alarm, "rsi": rsi, "collapse": collapse, "ablation": ablation,
    "judge": judge, "claims": claims, "setting": setting, "cost": cost, "speed": speed,
}  # fmt: skip
NAME = re.compile(r"\{\{ (\w+) \}\}")


def findings(root: str | Path, groups: list[str] | None = None) -> dict[str, str]:
    """Return name -> text of every number, or those of some groups, computed from the exported results under `root`.

    Raises:
        ValueError: a function made a name that does not begin with its group.
    """
    found: dict[str, str] = {}
    for group in groups or GROUPS:
        made = GROUPS[group](Path(root))
        strange = [name for name in made if not re.fullmatch(rf"{group}_\w+", name)]
        if strange:
            raise ValueError(f"names {strange} of the group {group!r} must begin with {group}_ and have letters, digits and _ alone")
        found |= made
    return found


def used(text: str) -> list[str]:
    """Return the names in a text, each once, in the order of their first use."""
    return list(dict.fromkeys(NAME.findall(text)))


def chosen(names: list[str], root: str | Path) -> dict[str, str]:
    """Return some numbers by name; only their groups are computed.

    Raises:
        KeyError: a name is not known.
    """
    groups = [group for group in GROUPS if any(name.startswith(f"{group}_") for name in names)]
    found = findings(root, groups) if groups else {}
    unknown = [name for name in names if name not in found]
    if unknown:
        raise KeyError(f"no number is named {unknown}; selfimprove_lab.findings.findings lists the names")
    return {name: found[name] for name in names}


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return a text with every `{{ name }}` replaced by its value; an unknown name is a KeyError."""
    return NAME.sub(lambda match: values[match[1]], text)


def numbers(page: str, root: str | Path = "book/results") -> pd.DataFrame:
    """Return the numbers that the prose of a notebook names, one row per name, for readers of the notebook itself."""
    cells = json.loads(Path("notebooks", f"{page}.ipynb").read_text())["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return pd.DataFrame.from_dict(chosen(used(prose), root), orient="index", columns=["value"]).rename_axis("name")


def readme(root: str | Path = "book/results") -> str:
    """Return the README's findings: the template beside this module, with its numbers filled in."""
    template = Path(__file__).with_name("readme.md").read_text().strip()
    return fill(template, chosen(used(template), root))
