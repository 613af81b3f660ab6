"""python -m selfimprove_lab.errata.page: write the page of what does not hold as printed in SPIN-Diffusion and in RSIDiff, and why."""

from pathlib import Path

from selfimprove_lab.errata.erratum import listed
from selfimprove_lab.errata.rsi import RSI
from selfimprove_lab.errata.spin import SPIN
from selfimprove_lab.published import load_table, tables
from selfimprove_lab.published.checks import check

PAGE = Path(__file__).parents[2] / "book" / "chapters" / "errata.md"
HEAD = """# Errata

<!-- written by python -m selfimprove_lab.errata.page; edit that file -->

Two lists of places in {cite:t}`yuan2024spin` and {cite:t}`zhang2025rsidiff`: **what does not hold** as printed, and **what is left open**
and has to be chosen by whoever repeats the work. The second list names no mistakes. Most places are slips without effect. In each part,
those that matter to anybody who builds on the paper come first, and those that do not come last.

We had the papers' text as extracted from PDF and HTML, not the originals. An extraction can lose a root, an index, a dash or a decimal
point, so a place that hangs on one such sign, as the last display of C.3 does, may be no fault of the authors. Every
place was settled by numbers that the code below this book computes, or, where words contradict words, by reading both. The last line of
each place says whether it matters. Numbers of equations, tables and sections are the papers' own.

In this book SPIN-Diffusion's (C.3) and (C.4) are {prf:ref}`lem-noise-form`; (4.8) is {eq}`eq-exact`, (4.9) {eq}`eq-approximate`, (C.5)
{eq}`eq-decoupled`, the last display of C.3 {eq}`eq-practical`; Theorem 5.2 is {prf:ref}`thm-own-path` and Theorem 5.3
{prf:ref}`thm-practical`. RSIDiff's (5) is {eq}`eq-weight` and (6) {eq}`eq-weighted-loss`; $\\alpha_t$ in its (2) is the factor of a single
step, where SPIN-Diffusion's is the product of all up to $t$, which is another notation and no error.

"""
WRONG, OPEN = "## What does not hold: {}\n\n", "\n## What is left open: {}\n\n"
TABLES_HEAD = """
## What does not hold: the printed tables

Every table was recomputed from its printed digits: averages from their scores, win rates from both sides, the text's sentences from the
cells. Where a sentence states a number, it is the first of the two here. None of this changes how a method is built; some of it is listed
above as well.

:::{dropdown} What does not come out
"""


def page() -> str:
    """Return the page's text, with evidence computed now."""
    papers = (("SPIN-Diffusion", SPIN), ("RSIDiff", RSI))
    wrong = "\n".join(WRONG.format(name) + listed(e for e in errata if not e.left_open) for name, errata in papers)
    left_open = "".join(OPEN.format(name) + listed(e for e in errata if e.left_open) for name, errata in papers)
    return HEAD + wrong + _tables() + left_open


def _tables() -> str:
    """Return what recomputing finds in the printed tables, table by table; a win rate seen from both sides stands once."""
    lines, sides = [], set()
    for table_id in tables():
        table, (paper, _, number) = load_table(table_id), table_id.partition("/")
        for found in check(table):
            said = found.said
            if found.found == "opposite":
                (model, column), *_ = found.cells
                pair = frozenset({model, table.protocol["baseline"]}), column
                if pair in sides:
                    continue
                sides.add(pair)
                said += "; ties that count for both sides would explain it"
            lines.append(f"- *{'SPIN-Diffusion' if paper == 'spin-diffusion' else 'RSIDiff'}, table {number}:* {said}.")
    return TABLES_HEAD + "\n".join(lines) + "\n:::\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE.name}: {len(SPIN) + len(RSI)} places")
