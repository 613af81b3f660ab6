"""Estimate from exported judgings how models differ in form, obedience, quality and learned scores, over seeds and prompts.

Form is the share of well-formed images. Obedience and quality are averages over the well formed alone, so none is inside another. Such an
average is a ratio, whose chance is that of its linearisation: each prompt counts by what it adds to the ratio.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from selfimprove.scorers import SHAPES_SCORERS
from selfimprove.shapes.render import ATTRIBUTES, FACTORS
from selfimprove_lab.claims.table import Difference, paired
from selfimprove_lab.results.seeds import seeds_and_prompts

TRUTHS = ("form", "obedience", "quality")
LEARNED = "learned scores"  # the mean of their z scores, in deviations of the base's images
FACTOR_COLUMNS = [f"factor_{name}" for name in FACTORS]
ORACLE = {"oracle quality": "oracle_quality", "oracle obedience": "oracle_all_right"}
BASE = "base"
LAWS = {"distance from winners": "data-winners", "distance from base set": "data-base-set"}  # -> the arm that has the real images
WHOLE = ("error", *LAWS)
_SIDE = re.compile(
    r"(?P<world>[\w-]+)/(?P<arm>[\w.-]+)@(?P<round>-?\d+)"
    r"(?: (?P<part>second|winners|base set))?(?: steps=(?P<steps>\d+))?(?: guidance=(?P<guidance>[\d.]+|own))?"
)


@dataclass(frozen=True)
class Side:
    """A judged player: round `round` of an arm (-1: its last), on a part, with a number of steps and a guidance; None for the usual ones.

    `guidance` is a number or "own", the one that was best for the method on validation.
    """

    world: str
    arm: str
    round: int
    part: str = "first"
    steps: int | None = None
    guidance: str | None = None

    @property
    def untrained(self) -> bool:
        """Return whether the player is the base model, or real images: these have one seed."""
        return self.arm == BASE or self.arm.startswith("data-")

    @classmethod
    def parse(cls, text: str) -> "Side":
        """Read a text such as "shapes/spin@3", "shapes/spin@3 second" or "shapes/base@0 steps=50 guidance=1".

        Raises:
            ValueError: the text has another form.
        """
        if not (found := _SIDE.fullmatch(text.strip())):
            raise ValueError(f"{text!r} names no judged player; write world/arm@round, such as 'shapes/spin@3 second steps=50'")
        said = found.groupdict()
        steps = int(said["steps"]) if said["steps"] else None
        return cls(said["world"], said["arm"], int(said["round"]), said["part"] or "first", steps, said["guidance"])


@dataclass(frozen=True)
class Judgings:
    """The exported judgings under a folder (`experiments.play`), and what tuning found."""

    root: Path

    def seeds(self, side: Side) -> list[int]:
        """Return the seeds of which an arm is exported."""
        found = [re.fullmatch(rf"{re.escape(side.arm)}-(\d+)", path.stem) for path in (self.root / side.world).glob(f"{side.arm}-*.json")]
        return sorted(int(match[1]) for match in found if match)

    def exported(self, side: Side, seed: int) -> dict[str, Any]:
        """Return the manifest of an arm and seed."""
        read: dict[str, Any] = json.loads((self.root / side.world / f"{side.arm}-{seed}.json").read_text())
        return read

    def tuning(self, world: str) -> dict[str, Any]:
        """Return what tuning found in a world; empty if nothing was tuned."""
        path = self.root / "tuning.json"
        found: dict[str, Any] = json.loads(path.read_text())["worlds"].get(world, {}) if path.exists() else {}
        return found

    def table(self, side: Side, seed: int) -> pd.DataFrame:
        """Return the rows of a side, by prompt; none if it was not judged so.

        The usual guidance and number of steps are those of the arm's first judging.
        """
        rows = pd.read_parquet(self.root / side.world / f"{side.arm}-{seed}.parquet")
        usual = rows.iloc[0]
        guidance = usual["guidance"] if side.guidance is None else self._guidance(side, seed)
        steps = usual["steps"] if side.steps is None else side.steps
        index = rows["round"].max() if side.round < 0 else side.round
        part = usual["part"] if usual["part"] not in ("first", "second") else side.part  # real images
        asked = (rows["round"] == index) & (rows["part"] == part) & (rows["steps"] == steps) & np.isclose(rows["guidance"], guidance)
        return rows[asked].set_index("prompt").sort_index()

    def _guidance(self, side: Side, seed: int) -> float:
        if side.guidance != "own":
            return float(side.guidance or 0)
        found: float = self.tuning(side.world)[self.exported(side, seed)["tuned"]]["guidance"]
        return found


def by_prompt(table: pd.DataFrame, measure: str, scale: pd.DataFrame | None = None) -> pd.Series:
    """Return a number per prompt whose mean is the measure and whose spread is its chance.

    `measure`: one of TRUTHS, of ORACLE, LEARNED, a scorer, a factor of quality ("factor_shading"), or "<attribute> right" (of the well
    formed). `scale`: the base's table, for LEARNED.

    Raises:
        ValueError: the measure is not known, or LEARNED has no scale.
    """
    well = table["well_formed"].astype(float)
    if measure == "form":
        return well
    if measure == LEARNED:
        if scale is None:
            raise ValueError(f"measure={measure!r} needs the base's scores as its scale")
        scores = list(SHAPES_SCORERS)
        return ((table[scores] - scale[scores].mean()) / scale[scores].std()).mean(axis=1)
    if measure in ORACLE or measure in SHAPES_SCORERS:
        return table[ORACLE.get(measure, measure)].astype(float)
    if measure == "obedience":
        values = table[[f"{name}_right" for name in ATTRIBUTES]].all(axis=1).astype(float)
    elif measure == "quality":
        values = table[FACTOR_COLUMNS].mean(axis=1)
    elif measure in FACTOR_COLUMNS:
        values = table[measure].astype(float)
    elif measure.removesuffix(" right") in ATTRIBUTES:
        values = table[measure.replace(" ", "_")].astype(float)
    else:
        known = [*TRUTHS, LEARNED, *ORACLE, *SHAPES_SCORERS, *FACTOR_COLUMNS, *(f"{name} right" for name in ATTRIBUTES)]
        raise ValueError(f"measure={measure!r} is not known; choose one of {known}")
    share = well.mean()
    if not share:
        return values * np.nan
    mean = float((well * values).mean() / share)
    return mean + well * (values - mean) / share


def estimate(judgings: Judgings, terms: str, measure: str) -> Difference | None:
    """Return a signed sum of judged players in a measure, with its interval over seeds and prompts; None if a player is not there.

    `terms` is such as "shapes/spin@3 - shapes/base@0", or a difference of differences. What is not trained stands beside every seed of the
    others. `measure`: see `by_prompt`, or one of the whole, whose interval is over seeds alone: "error", the denoiser's on held-out
    images, or a key of LAWS, the distance of the images' law from that of real ones (`law_distance`).
    """
    parts = re.split(r" ([+-]) ", terms)
    signs = [1, *(1 if sign == "+" else -1 for sign in parts[1::2])]
    sides = [Side.parse(part) for part in parts[::2]]
    trained = [set(judgings.seeds(side)) for side in sides if not side.untrained]
    if not all(judgings.seeds(side) for side in sides) or not all(trained):
        return None
    found: list[pd.Series] = []
    for seed in sorted(set.intersection(*trained)) if trained else [0]:
        values = [_value(judgings, side, 0 if side.untrained else seed, measure) for side in sides]
        there = [sign * value for sign, value in zip(signs, values, strict=True) if value is not None]
        if len(there) < len(sides):
            return None
        found.append(sum(there))
    if not found:
        return None
    if measure not in WHOLE:
        return paired(found)
    numbers = [float(series.iloc[0]) for series in found]
    return Difference(*(seeds_alone(numbers) if len(numbers) > 1 else (numbers[0], math.nan, math.nan)), len(numbers))


def _value(judgings: Judgings, side: Side, seed: int, measure: str) -> pd.Series | None:
    """Return a measure of one player: a number per prompt, or a single one for measures of the whole; None if it was not judged so."""
    if measure == "error":
        rounds = judgings.exported(side, seed)["rounds"]
        return pd.Series([rounds[side.round]["scores"]["held_out_error"]["mean"]]) if side.round < len(rounds) else None
    table = judgings.table(side, seed)
    if table.empty:
        return None
    if measure in LAWS:
        data = Side(side.world, LAWS[measure], 0)
        return (
            pd.Series([law_distance(table, judgings.table(data, 0))]) if judgings.seeds(data) and table["well_formed"].sum() > 1 else None
        )
    values = by_prompt(table, measure, judgings.table(Side(side.world, BASE, 0), 0) if measure == LEARNED else None)
    return None if values.isna().any() else values  # no image is well formed


def seeds_alone(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and Student's interval of one value per seed."""
    return seeds_and_prompts(values, np.zeros(2))


def law_distance(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Return the energy distance between the laws of the quality factors of the well formed of two tables: 0 if the laws are the same.

    It is twice the mean distance between images of both less the mean distances within each (Székely and Rizzo 2013), unbiased, so that
    two samples of one law give 0 on average, and may give less.
    """
    a, b = (table.loc[table["well_formed"], FACTOR_COLUMNS].to_numpy(np.float64) for table in (first, second))
    return float(2 * _apart(a, b).mean() - _within(a) - _within(b))


def _apart(a: Float[np.ndarray, "n k"], b: Float[np.ndarray, "m k"]) -> Float[np.ndarray, "n m"]:
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(squared.clip(0))


def _within(a: Float[np.ndarray, "n k"]) -> float:
    return float(_apart(a, a).sum() / (len(a) * (len(a) - 1)))
