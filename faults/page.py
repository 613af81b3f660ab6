"""Write the page of the book that says what was tried to break runs, from the results alone."""

from typing import Any

from faults.results import RESULTS, ROOT, Row, read

PAGE = ROOT / "book" / "chapters" / "faults.md"
HEAD = """# What was tried to break it

<!-- written by python -m faults; edit faults/page.py -->

`make faults` plays tiny runs of self-play (`spin`) and of recursive self-improvement (`rsi`) on the command line, a random pipeline of
16 pixels in two rounds, and does to them what happens to runs: it kills them, damages their files, fills their disk. Then it plays on and
compares every data file, tensors, tables, pictures and what the manifests say of them, with those of an undisturbed run. Each process is
forked from one that has imported everything, and prints no plan, which writes nothing: a trial takes seconds. After a smaller micro-batch,
whose sums are rounded in another order, losses are compared within 0.001. A damaged file is damaged in one way at a time: one bit flipped,
cut off at a random place, deleted, or replaced by the file of the same name of a run with another seed (by noise if that has none). Whole
folders of that run, whose files fit each other, are exchanged too.

A run *survives* if it ends with the same files as an undisturbed one (*same*), if it stops with one line that names the file or the round
(*refused*), or if nothing that was made after the fault used the damaged file (*unused*). *Traceback*: it stopped, and nothing was
trained on, but not in one line of words. *Lost*: it ended as if all were well, with other files than an undisturbed run; or it hung.

"""
FOUND = """## What this found

Counts are of revisions in which what an earlier trial had found was mended:

- A checkpoint of training put into another run's folder, of a network of the same shape, was trained on. A checkpoint now says of which
  training it is.
- `held_out.parquet` was no recorded file of an evaluation: another run's was compared with, and a damaged one ended in a traceback.
- Round 1's prompts and images, the references of the weights by distance, were read without a check of what the round had recorded; a
  damaged `prompts.parquet` ended in a traceback.
- A whole round's folder of another run, files and manifest together, was played on. Every manifest now carries a mark that was drawn when
  its run's folder was made.

"""


def _often(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _named(what: str) -> str:
    """Return a row's words as Markdown: the name of a file, which begins some of them, in a fixed pitch."""
    first, found, rest = what.partition(" (")
    return f"`{first}`{found}{rest}" if "." in first and " " not in first else what


def _totals(groups: dict[str, Any]) -> list[str]:
    rows = [Row(**row) for group in groups.values() for row in group["rows"]]
    tried, survived, trace, lost = (sum(getattr(row, name) for row in rows) for name in ("tried", "survived", "traceback", "lost"))
    times = sorted({group["times"] for group in groups.values()})
    repeated = " to ".join(_often(number) for number in dict.fromkeys((times[0], times[-1])))
    return [
        f"**{tried} faults tried, {survived} survived, {trace} stopped with a traceback, {lost} lost.** Each random fault was tried "
        f"{repeated}.\n"
    ]


def _group(group: dict[str, Any]) -> str:
    rows = [Row(**row) for row in group["rows"]]
    lines = [f"## {group['title']}\n", "| fault | tried | survived | same | refused | unused | traceback | lost |"]
    lines.append("|" + "---|" * 8)
    for row in rows:
        cells = (row.tried, row.survived, row.same, row.refused, row.unused, row.traceback, row.lost)
        lines.append(f"| {_named(row.what)} | " + " | ".join(map(str, cells)) + " |")
    notes = [f"- {_named(row.what)}: `{note.replace('`', chr(39))}`" for row in rows for note in row.notes]
    about = group["manifest"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines += ["", *notes, ""] if notes else [""]
    lines.append(
        f"Random ones tried {_often(group['times'])}, at revision `{about['revision'][:12]}` on {about['time'][:10]}, "
        f"seed {group['seed']}, {group['seconds']} s; {about['machine']}, Python {about['python']}, {versions}.\n"
    )
    return "\n".join(lines)


def page() -> str:
    """Return the page's text."""
    groups = read(RESULTS)
    return HEAD + "\n".join([*_totals(groups), FOUND + "\n".join(_group(group) for group in groups.values())]) if groups else HEAD


if __name__ == "__main__":
    PAGE.write_text(page())
