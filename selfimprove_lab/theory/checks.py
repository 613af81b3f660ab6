"""Check statements by the numbers that decide them; a notebook shows its checks as a table at its end, and asserts them there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd


class BrokenCheckError(AssertionError):
    """Raised if at least one claim does not hold; the message lists the broken claims with what was measured."""


@dataclass(frozen=True)
class Check:
    """A statement, the quantity that decides it, its measured value, and the bound that this value must keep."""

    statement: str
    quantity: str
    measured: float
    relation: Literal["<=", ">="]
    bound: float | int

    @property
    def holds(self) -> bool:
        """Return whether the measured number keeps the bound; nan never does."""
        return bool(self.measured <= self.bound if self.relation == "<=" else self.measured >= self.bound)


def checks_table(claims: Sequence[Check]) -> pd.DataFrame:
    """Return one row per claim: statement, quantity, tolerance, what was measured, verdict."""
    rows = [
        {
            "claim": c.statement, "quantity": c.quantity, "tolerance": f"{c.relation} {c.bound:.3g}", "measured": f"{c.measured:.3g}",
            "verdict": "holds" if c.holds else "BROKEN",
        }
        for c in claims
    ]  # fmt: skip
    return pd.DataFrame(rows).set_index("claim")


def assert_checks(claims: Sequence[Check]) -> None:
    """Raise if a claim is broken.

    Raises:
        BrokenCheckError: a claim is broken; the message names every broken claim, its number and its bound.
    """
    broken = [f"{c.statement} ({c.quantity}: {c.measured:.6g}, should be {c.relation} {c.bound:.6g})" for c in claims if not c.holds]
    if broken:
        raise BrokenCheckError(f"{len(broken)} of {len(claims)} claims are broken: " + "; ".join(broken))
