"""Keep lines from breaking inside an interval in a table, and between a formula and the sign that follows it."""

import re
from typing import Any

from sphinx.application import Sphinx

CELL = re.compile(r"<t[dh]\b.*?</t[dh]>", re.DOTALL)
INTERVAL = re.compile(r"\[([-+−\d.]+), ([-+−\d.]+)\]( \*)?")
SPACE = "\N{NO-BREAK SPACE}"
FORMULA = re.compile(r'(<span class="math[^"]*">(?:(?!</span>).){1,60}</span>)([.,;:!?)]+)', re.DOTALL)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", keep_together)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def keep_together(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object) -> None:
    """Put no-break spaces into the intervals of tables, and put each short formula and its punctuation into one box."""
    if "body" in context:
        body = CELL.sub(lambda cell: INTERVAL.sub(_whole, cell[0]), context["body"])
        context["body"] = FORMULA.sub(r'<span class="unbroken">\1\2</span>', body)


def _whole(interval: re.Match[str]) -> str:
    return f"[{interval[1]},{SPACE}{interval[2]}]" + f"{SPACE}*" * bool(interval[3])
