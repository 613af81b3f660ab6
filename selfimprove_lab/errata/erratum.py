"""Describe one place of a paper that does not hold as it stands, or that leaves open what has to be chosen."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Erratum:
    """One place: what is printed, what should stand there or has to be chosen, how this was decided, and whether it matters.

    `evidence` is a function that returns what the code finds now, or, where words contradict words, says where these stand. `left_open`
    tells a choice that the paper leaves to its reader from a statement that does not hold; `derived` then says what has to be chosen.
    """

    place: str
    printed: str
    derived: str
    evidence: Callable[[], str] | str
    matters: str
    left_open: bool = False


def listed(errata: Iterable[Erratum]) -> str:
    """Return Markdown of the places, one heading per place, with evidence computed now; those that matter come first."""
    blocks = []
    for e in sorted(errata, key=lambda e: 0 if e.matters.startswith("Yes") else 2 if e.matters.startswith("No") else 1):
        evidence = e.evidence if isinstance(e.evidence, str) else e.evidence()
        lines = {"Printed": e.printed, "To be chosen" if e.left_open else "Derived": e.derived, "Evidence": evidence}
        block = "".join(f"- *{name}:* {text}.\n" for name, text in lines.items())
        blocks.append(f"### {e.place}\n\n{block}- *Does it matter?* {e.matters}\n")
    return "\n".join(blocks)
