import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_aggregate import model

from selfimprove.evaluation.aggregate import comparison
from selfimprove_lab.figures.comparison import (
    METHODS,
    colours,
    correlation_map,
    fonts_for,
    lines,
    picture_grid,
    proxy_against_truth,
    radar,
    win_rate_bars,
)
from selfimprove_lab.figures.forest import forest
from selfimprove_lab.results.verdict import in_spreads, verdict


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return comparison([model("base"), model("SPIN round 1", 0.3, 1), model("mine", 0.6, 2)], ["wide", "narrow"])


def test_a_method_has_one_colour_whatever_else_is_shown() -> None:
    alone, among = colours(["SPIN round 2"]), colours(["mine", "base", "SPIN round 2", "other"])
    assert alone["SPIN round 2"] == among["SPIN round 2"]
    assert among["base"] == METHODS["base"]
    assert len(set(among.values())) == 4
    rounds = colours([f"SPIN round {k}" for k in (1, 2, 3)])
    assert len(set(rounds.values())) == 3


def test_bars_show_the_win_rates(table: pd.DataFrame) -> None:
    figure = win_rate_bars(table)
    heights = [bar.get_height() for bar in figure.axes[0].patches]  # type: ignore[attr-defined]
    assert sorted(heights) == pytest.approx(sorted(100 * table["win_rate"].dropna()))
    assert "base" in figure.axes[0].get_ylabel()
    plt.close(figure)


def test_every_figure_names_its_axes_and_models(table: pd.DataFrame) -> None:
    tracks = pd.DataFrame({"model": ["SPIN", "SPIN"], "round": [1, 2], "mean": [0.1, 0.2], "low": [0.0, 0.1], "high": [0.2, 0.3]})
    drawn = [proxy_against_truth(table, "wide", ["narrow"]), lines(tracks, "round", "quality", "round")]
    for figure in drawn:
        axis = figure.axes[0]
        assert axis.get_xlabel()
        assert axis.get_ylabel()
        assert axis.get_legend() or figure.legends
    for shown in (table, table[table["difference"].notna()]):  # with its baseline, and without
        crosses = proxy_against_truth(shown, "wide", ["narrow"]).axes[0].get_legend_handles_labels()[1]
        assert crosses == ["SPIN round 1", "mine"]
    spokes = radar(table, {"wide": 2.0, "narrow": 0.01}).axes[0]
    assert [t.get_text() for t in spokes.get_xticklabels()] == ["wide", "narrow"]
    plt.close("all")


def test_the_verdict_says_what_is_decided_and_what_is_not() -> None:
    rows = pd.DataFrame({
        "model": ["a", "a", "a", "b", "b", "b"], "score": ["up", "down", "open"] * 2, "difference": [np.nan] * 3 + [1.0, -0.5, 0.2],
        "difference_low": [np.nan] * 3 + [0.5, -0.8, -0.2], "difference_high": [np.nan] * 3 + [1.5, -0.2, 0.6],
        "p_holm": [np.nan] * 3 + [0.001, 0.01, 0.3], "prompts_needed": [np.nan] * 3 + [10.0, 20.0, 1234.4],
    })  # fmt: skip
    assert verdict(rows) == (
        "**`b` is above `a` in up, and below `a` in down.** Not decided: open. "
        "Prompts that would find differences of this size eight times in ten: open 1,234."
    )
    assert verdict(rows.assign(p_holm=0.2)).startswith("**No score tells `b` from `a`.** Not decided: up, down and open. Prompts")
    assert list(in_spreads(rows, {"up": 2.0, "open": 0.1})["difference"]) == ["+0.5000 [+0.2500, +0.7500]", "+2.0000 [-2.0000, +6.0000]"]


def test_differences_in_spreads_are_drawn_for_every_model(table: pd.DataFrame) -> None:
    cells = in_spreads(table, {"wide": 2.0, "narrow": 0.01})
    assert list(cells.index) == [(m, s) for m in ("SPIN round 1", "mine") for s in ("wide", "narrow")]
    figure = forest(cells, {"difference": "difference"})
    assert len([line for line in figure.axes[0].lines if line.get_marker() == "o"]) == 4
    plt.close(figure)


HARD = [
    "$$$ rich $$$",
    "price tag $_^$",
    r"$a\b$",
    "\\frac{",
    "שלום עולם",
    "مرحبا",
    "山の上の赤い星",
    "a 🦊 fox",
    "100 % {x} & _y_",
    "\u200b",
]


def test_names_are_shown_letter_by_letter_or_by_number() -> None:
    figure = picture_grid(np.zeros((len(HARD), len(HARD), 2, 2, 3)), HARD, HARD)
    figure.canvas.draw()  # a warning of a missing letter, or a formula that cannot be read, is an error here
    titles = [axis.get_title().replace("\n", " ") for axis in figure.axes[: len(HARD)]]
    for number, (name, title) in enumerate(zip(HARD, titles, strict=True), start=1):
        assert title == (name if fonts_for(name) else f"prompt {number}, in letters that no font here has")
    assert titles[:6] == HARD[:6]
    plt.close("all")


def test_a_font_that_is_installed_is_used() -> None:
    with plt.rc_context({"font.family": "cmr10", "axes.formatter.use_mathtext": True}):  # has no Cyrillic letters
        fonts_for.cache_clear()
        assert fonts_for("abc") == ["cmr10"]
        assert fonts_for("\U0010ffff") is None
        figure = picture_grid(np.zeros((1, 1, 2, 2, 3)), ["звезда"], ["звезда"])
        assert figure.axes[0].get_title() == "звезда"
        figure.canvas.draw()
    fonts_for.cache_clear()
    plt.close("all")


def test_grid_and_map() -> None:
    figure = picture_grid(np.zeros((2, 3, 4, 4, 3)), ["a", "b"], ["x", "y", "z"])
    assert [a.get_title() for a in figure.axes[:3]] == ["x", "y", "z"]
    square = correlation_map(pd.DataFrame(np.eye(2), index=["a", "b"], columns=["a", "b"]))
    assert [t.get_text() for t in square.axes[0].texts] == ["1.00", "0.00", "0.00", "1.00"]
    plt.close("all")
