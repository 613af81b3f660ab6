"""Curves of the ablations: what was exported, by round, and no verdict from one seed."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from selfimprove_lab.results.ablation_curves import curve, curves_figure
from selfimprove_lab.results.arms import Results, load_results

RESULTS = Path(__file__).parent.parent / "book" / "results"


@pytest.fixture(scope="module")
def results() -> Results:
    return load_results(RESULTS / "rsi_rounds") | load_results(RESULTS / "rsi_ablations")


def test_a_curve_is_the_change_from_the_base_by_round(results: Results) -> None:
    """Recomputed from the scores by prompt."""
    for arm, folder, seeds in (("rsi", "rsi_rounds", 3), ("no-weights", "rsi_ablations", 1)):
        frames = [pd.read_parquet(RESULTS / folder / f"{arm}-{seed}-prompts.parquet") for seed in range(seeds)]
        found = curve(results, arm, "oracle: quality", 3)
        assert found[0] == (0, 0, 0)
        for index, (mean, low, high) in enumerate(found):
            by_round = [f.groupby("round")["oracle_quality"].mean() for f in frames]
            assert mean == pytest.approx(np.mean([r[index] - r[0] for r in by_round]), abs=1e-3)
            assert low <= mean <= high
    assert len(curve(results, "rsi", "clip", 99)) == 9  # what was played, not what was asked for


def test_one_seed_is_not_decided(results: Results) -> None:
    figure = curves_figure(results, ["rsi", "none", "not-run"], 3)
    _, labels = figure.axes[0].get_legend_handles_labels()
    assert labels == ["RSIDiff (3 seeds)", "none of the three (1 seed, not decided)"]
    several, alone = (line for line in figure.axes[0].lines if line.get_marker() in ("o", "s"))
    assert (several.get_markerfacecolor() != "white", alone.get_markerfacecolor()) == (True, "white")
    assert (several.get_linestyle(), alone.get_linestyle()) == ("-", "--")
    assert all(axis.get_xlabel() and axis.get_title() for axis in figure.axes)
    plt.close(figure)


def test_nothing_run_is_said(results: Results) -> None:
    with pytest.raises(ValueError, match=r"arms=\['not-run'\]: none has been run; make rsi-rounds rsi-ablations"):
        curves_figure(results, ["not-run"])
