"""Read finished experiments for the slides: differences with intervals, and where a loss of obedience comes from."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from course.sessions import ROOT
from selfimprove_lab.findings import findings
from selfimprove_lab.results import lost
from selfimprove_lab.results.arms import Results, load_results
from selfimprove_lab.results.seeds import crossed_interval

RESULTS = ROOT / "book" / "results"
HELD_IN = RESULTS / "evaluation_shapes" / "held-in"
SEEDS = (0, 1, 2)


@cache
def results(folder: str) -> Results:
    """Return the exported runs of a folder below book/results."""
    return load_results(RESULTS / folder)


def judged(model: str) -> pd.DataFrame:
    """Return the scores of every image of a model in the larger evaluation, 500 prompts with five images each."""
    return pd.read_parquet(HELD_IN / f"{model}.parquet")


def per_prompt(model: str, column: str) -> Float[np.ndarray, " prompts"]:
    """Return a model's mean score per prompt of the larger evaluation."""
    return judged(model).groupby("prompt")[column].mean().to_numpy(dtype=np.float64)


def split_with_interval(model: str) -> pd.DataFrame:
    """Return `lost.split_with_interval` of a model of the larger evaluation."""
    return lost.split_with_interval(HELD_IN, model)


def changes(arm: str, truth: str, folder: str = "spin_shapes") -> list[float]:
    """Return the change of a truth from the base at the end of an arm, by seed."""
    return [results(folder)[arm][seed]["last_against_base"][f"oracle_{truth}"]["delta_prev"] for seed in SEEDS]


def _said(values: tuple[float, float, float], points: bool = False) -> str:
    mean, low, high = (100 * v for v in values) if points else values
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}] points" if points else f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


@cache
def _stated() -> dict[str, str]:
    """Return the numbers that chapter 7 states, so that slides and chapter cannot differ."""
    return findings(RESULTS, ["play"])


def _held_in(later: str, earlier: str, column: str) -> str:
    """Return the difference of two models over seeds and prompts of the larger evaluation."""
    matrix = np.stack([per_prompt(later.format(seed=s), column) - per_prompt(earlier.format(seed=s), column) for s in SEEDS])
    return _said((float(matrix.mean()), *crossed_interval(matrix)), column == "oracle_all_right")


def _share(model: str) -> str:
    return lost.share_no_scene(HELD_IN, model)


def _spread(arm: str) -> str:
    return f"{np.std(changes(arm, 'quality'), ddof=1):.4f}"


FINDINGS: dict[str, Callable[[], str]] = {
    "spin less sft-steps": lambda: _stated()["play_over_sft_equal_steps_quality"],
    "spin less sft-compute": lambda: _stated()["play_over_sft_equal_compute_quality"],
    "adapters, spin less sft-steps": lambda: _stated()["play_adapters_over_sft_equal_steps_quality"],
    "spin less frozen": lambda: _stated()["play_over_frozen_opponent_equal_steps_quality"],
    "spin less frozen, obedience": lambda: _stated()["play_over_frozen_opponent_equal_steps_obedience"],
    "spin share no scene": lambda: _share("spin-round-3-seed-{seed}"),
    "sft share no scene": lambda: _share("sft-equal-compute-seed-{seed}"),
    "rsi share no scene": lambda: _share("rsidiff-round-8-seed-{seed}"),
    "null spread": lambda: _spread("null"),
    "spin spread": lambda: _spread("spin"),
    "sft spread": lambda: _spread("sft-compute"),
    "rsi quality 5 to 8": lambda: _held_in("rsidiff-round-8-seed-{seed}", "rsidiff-round-5-seed-{seed}", "oracle_quality"),
    "rsi obedience 5 to 8": lambda: _held_in("rsidiff-round-8-seed-{seed}", "rsidiff-round-5-seed-{seed}", "oracle_all_right"),
    "rsi quality 8": lambda: _held_in("rsidiff-round-8-seed-{seed}", "base", "oracle_quality"),
    "rsi obedience 8": lambda: _held_in("rsidiff-round-8-seed-{seed}", "base", "oracle_all_right"),
}


@cache
def finding(name: str) -> str:
    """Return a finding in numbers, by its name in the slides: mean and 95 % interval, computed from book/results."""
    return FINDINGS[name]()


def exported(pattern: str) -> list[Path]:
    """Return the exported files that match a pattern below book/results, sorted."""
    return sorted(RESULTS.glob(pattern))
