"""Published tables and this book's evaluations, drawn in one form."""

from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from selfimprove_lab.figures.papers import OWN_ROUNDS, PUBLISHED_ROUNDS, by_round, printed, wins
from selfimprove_lab.published import load_table
from selfimprove_lab.results.evaluation import load_evaluations, tidy

RESULTS = Path(__file__).parent.parent / "book" / "results" / "evaluation_shapes" / "held-in"


def test_a_published_table_keeps_its_numbers() -> None:
    table, frame = load_table("spin-diffusion/2").values, printed("spin-diffusion/2")
    assert len(frame) == table.size
    for row in frame.itertuples():
        assert row.mean == table.loc[row.model, row.score]
    assert frame["low"].isna().all()


def test_curves_by_round_and_lines_of_baselines() -> None:
    frame = printed("spin-diffusion/2")
    figure = by_round(frame, PUBLISHED_ROUNDS, ("SFT", "DPO", "nobody"), {"HPS": "HPS (median)", "Aesthetic": "aesthetic (median)"})
    table = load_table("spin-diffusion/2").values
    for axis, score in zip(figure.axes, ("HPS", "Aesthetic"), strict=True):
        lines = {line.get_label(): list(line.get_ydata()) for line in axis.lines}
        assert lines["SFT"] == [table.loc["SFT", score]] * 2
        assert "nobody" not in lines
        assert list(axis.lines[0].get_ydata()) == list(table.loc[list(PUBLISHED_ROUNDS), score])
        assert axis.get_xlabel()
        assert axis.get_ylabel().endswith("(median)")
    plt.close(figure)


def test_own_curves_have_intervals() -> None:
    means = tidy(load_evaluations(RESULTS))
    figure = by_round(means, OWN_ROUNDS, ("SFT equal steps",), {"oracle_quality": "quality"})
    (bars,) = figure.axes[0].containers
    assert bars.has_yerr  # type: ignore[attr-defined]
    plt.close(figure)
    with pytest.raises(ValueError, match=r"frame lacks \[\('nothing', 'base'\)"):
        by_round(means, OWN_ROUNDS, (), {"nothing": "nothing"})


def test_shares_of_prompts_won() -> None:
    own = tidy(load_evaluations(RESULTS), statistic="wins")
    figure = wins(printed("spin-diffusion/3"), own, ["clip", "oracle_quality"])
    left, right = figure.axes
    assert [t.get_text() for t in left.get_yticklabels()] == list(load_table("spin-diffusion/3").values.index)
    drawn = sorted(float(x) for bars in right.containers for x in bars.lines[0].get_xdata())  # type: ignore[attr-defined]
    assert drawn == pytest.approx(sorted(own[own["score"].isin(["clip", "oracle_quality"])]["mean"]))
    assert "base" in right.get_xlabel()
