"""Answers whose analysis is known: by hand, or because raters were made up with known scores."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from selfimprove.study import LEFT, RIGHT, SKIP, TIE, Trial
from selfimprove.study.store import StudyError
from selfimprove_lab.study_analysis import (
    bradley_terry,
    fit_bradley_terry,
    models_of,
    position_bias,
    rater_agreement,
    self_agreement,
    win_shares,
)  # fmt: skip
from selfimprove_lab.study_demo import simulate, simulated_study

SCORES = {"a": -0.8, "b": 0.1, "c": 0.7}


def answer(rater: str, pair: str, what: str, left: str = "a", right: str = "b", repeat: bool = False) -> dict[str, object]:
    winner = {LEFT: left, RIGHT: right}.get(what, "")
    return {
        "rater": rater, "pair": pair, "prompt": pair, "question": "appeal", "answer": what, "winner": winner, "left": left,
        "right": right, "repeat": repeat,
    }  # fmt: skip


def trials(prompts: int, seed: int = 0) -> list[Trial]:
    pairs = [(f"{p}", *m) for p in range(prompts) for m in (("a", "b"), ("b", "c"), ("c", "a"))]
    swap = np.random.default_rng(seed).random(len(pairs)) < 0.5
    sides = [(p, y, x) if s else (p, x, y) for (p, x, y), s in zip(pairs, swap, strict=True)]
    return [Trial(f"{p}{min(x, y)}{max(x, y)}", p, 0, x, y, False, n) for n, (p, x, y) in enumerate(sides)]


def test_shares_by_hand() -> None:
    """a wins 3 of 4 decided, whichever side it is on; the tie, the skip and the repeat stand apart."""
    told = [answer("r", str(n), LEFT) for n in range(2)] + [answer("r", "2", RIGHT, "b", "a"), answer("r", "3", RIGHT)]
    told += [answer("r", "4", TIE), answer("r", "5", SKIP), answer("r", "0", RIGHT, repeat=True)]
    row = win_shares(pd.DataFrame(told), "appeal").iloc[0]
    assert row[["first", "second", "first_wins", "second_wins", "ties", "skips"]].tolist() == ["a", "b", 3, 1, 1, 1]
    z = 1.959963984540054
    centre, half = (0.75 + z**2 / 8) / (1 + z**2 / 4), z * np.sqrt(0.75 * 0.25 / 4 + z**2 / 64) / (1 + z**2 / 4)
    assert row[["share", "low", "high"]].tolist() == pytest.approx([0.75, centre - half, centre + half])


def test_shares_of_models_never_decided() -> None:
    row = win_shares(pd.DataFrame([answer("r", "0", TIE)]), "appeal").iloc[0]
    assert np.isnan(row["share"])


def test_two_models_have_the_scores_of_their_odds() -> None:
    scores = fit_bradley_terry(np.array([[0.0, 30.0], [10.0, 0.0]]))
    assert scores[0] - scores[1] == pytest.approx(np.log(3), abs=1e-4)
    assert scores.sum() == pytest.approx(0)


@pytest.mark.parametrize("seed", range(3))
def test_known_scores_are_recovered_within_the_interval(seed: int) -> None:
    seen = trials(150, seed)
    told = simulate({f"rater {r}": seen for r in range(4)}, {"appeal": SCORES}, ties=0.0, left=0.3, seed=seed)
    found = bradley_terry(told, "appeal", resamples=200)
    assert list(found.index) == ["a", "b", "c"]
    for model, score in SCORES.items():
        assert found.loc[model, "low"] < score < found.loc[model, "high"]
    assert (found["high"] - found["low"] < 0.4).all()


def test_the_interval_resamples_prompts() -> None:
    """Many raters who say the same of few prompts know no more than few prompts tell."""
    few = [answer("r", str(n), LEFT if n % 3 else RIGHT) for n in range(9)]
    crowd = [row | {"rater": f"r{r}"} for row in few for r in range(20)]
    alone, many = (bradley_terry(pd.DataFrame(rows), "appeal", resamples=300) for rows in (few, crowd))
    assert many["high"]["a"] - many["low"]["a"] == pytest.approx(alone["high"]["a"] - alone["low"]["a"], rel=0.05)


def test_no_finite_score() -> None:
    with pytest.raises(StudyError, match=r"leave \[.*'a'.*\] without a win in both directions"):
        bradley_terry(pd.DataFrame([answer("r", str(n), LEFT) for n in range(5)]), "appeal")
    with pytest.raises(StudyError, match=r"question='colour' has no answers; choose from \['appeal'\]"):
        bradley_terry(pd.DataFrame([answer("r", "0", LEFT)]), "colour")


def test_kappa_by_hand() -> None:
    """Three raters, four pairs: counts (a, tie, b) = (3,0,0), (2,1,0), (0,0,3), (1,0,2).

    Agreement by pair: 1, 1/3, 1, 1/3, mean 2/3. Shares: 6/12, 1/12, 5/12, so by chance 62/144.
    kappa = (2/3 - 62/144) / (1 - 62/144) = 34/82.
    """
    votes = {"0": "aaa", "1": "aat", "2": "bbb", "3": "abb"}
    told = []
    for pair, choices in votes.items():
        for rater, choice in enumerate(choices):
            left, right = ("a", "b") if rater % 2 else ("b", "a")
            told.append(answer(f"r{rater}", pair, TIE if choice == "t" else LEFT if choice == left else RIGHT, left, right))
    told.append(answer("r0", "4", LEFT))  # one rater alone: left out
    found = rater_agreement(pd.DataFrame(told), "appeal")
    assert found.kappa == pytest.approx(34 / 82)
    assert (found.pairs, found.raters) == (4, 3)


def test_kappa_where_there_is_none() -> None:
    assert np.isnan(rater_agreement(pd.DataFrame([answer("r", "0", LEFT)]), "appeal").kappa)
    same = pd.DataFrame([answer(r, p, LEFT) for r in "xy" for p in "01"])
    assert np.isnan(rater_agreement(same, "appeal").kappa)


def test_agreement_with_oneself() -> None:
    """The repeat has its sides exchanged: the same model on the other side is agreement, the same side is not."""
    told = [answer("r", "0", LEFT), answer("r", "0", RIGHT, "b", "a", repeat=True)]
    told += [answer("r", "1", LEFT), answer("r", "1", LEFT, "b", "a", repeat=True)]
    told += [answer("r", "2", TIE), answer("r", "2", TIE, "b", "a", repeat=True)]
    told += [answer("r", "3", SKIP), answer("r", "3", LEFT, "b", "a", repeat=True)]
    row = self_agreement(pd.DataFrame(told)).iloc[0]
    assert (row["repeats"], row["share"]) == (3, pytest.approx(2 / 3))
    assert self_agreement(pd.DataFrame(told[:1])).empty
    other = [{**row, "rater": "s"} for row in told[:2]]
    both = self_agreement(pd.DataFrame(told + other), pooled=True)
    assert (len(both), both.iloc[0]["repeats"], both.iloc[0]["share"]) == (1, 4, pytest.approx(3 / 4))


def test_leaning_to_a_side_shows() -> None:
    seen = trials(150)
    for lean, biased in ((0.0, False), (1.0, True)):
        told = simulate({"r": seen}, {"appeal": SCORES}, left=lean)
        row = position_bias(told).iloc[0]
        assert (row["low"] > 0.5) == biased
        assert (row["low"], row["high"]) == proportion_confint(
            (told["answer"] == LEFT).sum(), (told["answer"] != TIE).sum(), method="wilson"
        )


def test_made_up_raters_tie_as_often_as_told() -> None:
    table = simulated_study(raters=3, prompts=6)
    assert models_of(table) == ["fair", "fine", "rough"]
    assert table.groupby("rater").size().nunique() == 1
    assert 0.04 < (table["answer"] == TIE).mean() < 0.17
    assert win_shares(table, "appeal").set_index(["first", "second"])["share"]["fine", "rough"] > 0.7
