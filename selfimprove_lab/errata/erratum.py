"""Describe one place of a paper that does not hold as it stands."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Erratum:
    """One place: what is printed, what should stand there, how this was decided, and whether it matters.

    `evidence` is a function that returns what the code finds now, or, where words contradict words, says where these stand.
    """

    place: str
    printed: str
    derived: str
    evidence: Callable[[], str] | str
    matters: str


def listed(errata: Iterable[Erratum]) -> str:
    """Return Markdown of the places, one heading per place, with evidence computed now."""
    blocks = []
    for e in errata:
        evidence = e.evidence if isinstance(e.evidence, str) else e.evidence()
        lines = {"Printed": e.printed, "Derived": e.derived, "Evidence": evidence}
        block = "".join(f"- *{name}:* {text}.\n" for name, text in lines.items())
        blocks.append(f"### {e.place}\n\n{block}- *Does it matter?* {e.matters}\n")
    return "\n".join(blocks)
