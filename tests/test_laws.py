"""Spurious fixed points, uniqueness, and recursion as an iteration of laws: closed forms, and mutations that break them."""

import math

import numpy as np
import pytest
import torch

from selfimprove_lab.theory import checks, recursion, spurious, uniqueness


@pytest.fixture(scope="module")
def phases():
    return spurious.phase_diagram([0.05, 0.2, 0.5, 3.0], [0.5, 0.81, 1.0, 1.2], starts=3)


def test_spurious_claims_hold_at_the_smallest_setting(phases) -> None:
    checks.assert_checks(spurious.checks(phases))


def test_the_threshold_by_hand() -> None:
    """max p'/p = 1/0.9 at variance 0.81; the logistic link has l''(0)/|l'(0)| = 1/2, and Var(eps | x) = 1/2."""
    assert spurious.curvature_ratio() == pytest.approx(0.5)
    assert spurious.threshold(0.81) == pytest.approx(2 / 9)
    assert spurious.threshold(1.0) == 0
    assert math.isinf(spurious.threshold(1.01))


def test_the_second_variation_changes_sign_at_the_threshold() -> None:
    """A small bump at x = 0, where p'/p is largest, lowers the objective below the threshold and raises it above."""
    line = spurious.Line(0.81)
    bump = torch.zeros(41, dtype=torch.float64)
    bump[20] = 1e-3
    assert float(line.excess(bump, 0.95 * 2 / 9)) < 0 < float(line.excess(bump, 1.05 * 2 / 9))


def test_a_wrong_threshold_breaks_a_claim(phases) -> None:
    wrong = phases.assign(threshold=3 * phases["threshold"])
    with pytest.raises(checks.BrokenCheckError, match="below the threshold"):
        checks.assert_checks(spurious.checks(wrong))
    with pytest.raises(checks.BrokenCheckError, match="above the threshold"):
        checks.assert_checks(spurious.checks(phases.assign(threshold=phases["threshold"] / 5)))


@pytest.fixture(scope="module")
def flat():
    return uniqueness.flat_players([0.0, 0.25, 0.5, 1.0, 2.0])


def test_uniqueness_claims_hold_and_can_fail(flat) -> None:
    checks.assert_checks(uniqueness.checks(flat))
    assert flat[flat["distance"] == 0]["excess"].abs().max() < uniqueness.FLAT
    with pytest.raises(checks.BrokenCheckError, match="every other player"):
        checks.assert_checks(uniqueness.checks(flat.assign(unique=True)))
    swapped = uniqueness.checks(flat.assign(unique=lambda t: ~t["case"].eq("logistic link, shared noise") & t["unique"]))
    with pytest.raises(checks.BrokenCheckError, match="hypothesis fails"):
        checks.assert_checks(swapped)


def test_every_case_draws_the_datas_law() -> None:
    """One DDIM step from N(0, 1) with each case's opponent: the hypothesis of the propositions."""
    for case in uniqueness.CASES:
        if case.spread:
            slope = float(case.player(0.0)(torch.ones(1)))
            assert abs((1 - uniqueness.REST * slope) / uniqueness.ROOT) == pytest.approx(case.spread), case.name


def test_recursion_claims_hold() -> None:
    checks.assert_checks(recursion.checks())


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("tilted", lambda law, weight: law),
        ("reach", lambda share: 1.0),
        ("guided_ode", lambda law, guidance: recursion.Gaussian(law.mean, law.variance)),
        ("refitted", lambda variance, samples, rounds: recursion.pd.DataFrame({"variance within": [variance] * (rounds + 1)})),
        ("resampled", lambda law, samples, rounds: np.full(rounds + 1, 1 - np.square(law).sum())),
    ],
)
def test_a_mutation_breaks_a_claim_of_recursion(monkeypatch: pytest.MonkeyPatch, name: str, mutant: object) -> None:
    monkeypatch.setattr(recursion, name, mutant)
    with pytest.raises(checks.BrokenCheckError):
        checks.assert_checks(recursion.checks())


def test_selection_of_a_normal_law_is_that_of_its_samples() -> None:
    values = np.random.default_rng(0).normal(2.0, 3.0, 400_000)
    kept = np.sort(values)[-24_000:]
    law = recursion.selected(recursion.Gaussian(2.0, 9.0), 0.06)
    assert law.mean == pytest.approx(kept.mean(), abs=0.03)
    assert law.variance == pytest.approx(kept.var(), rel=0.03)
    assert recursion.selected(law, 1.0) == law


def test_guidance_one_changes_nothing_and_logarithms_compound() -> None:
    law = recursion.Gaussian(0.7, 0.5)
    neutral = recursion.guided_ode(law, 1.0)
    assert neutral.mean == pytest.approx(0.7)
    assert neutral.variance == pytest.approx(0.5)
    rounds = recursion.guided_rounds(law, [1.5], 3)
    assert np.log(rounds["variance"]).tolist() == pytest.approx([math.log(0.5) * 1.5**k for k in range(4)])
    strong = recursion.guided_rounds(law, [6.0], 4)["mean"]  # variances down to 1e-60: the integral keeps its peak
    assert (strong.diff()[1:] > -1e-6).all()
    assert strong.iloc[-1] == pytest.approx(1.7035, abs=1e-3)


def test_variance_within_and_of_the_mean_sum_to_the_first() -> None:
    played = recursion.refitted_by_chance(1.0, 10, 6, 50_000)
    exact = recursion.refitted(1.0, 10, 6)
    assert (exact["variance within"] + exact["variance of the mean"]).tolist() == pytest.approx([1.0] * 7)
    assert played["variance of the mean"].tolist() == pytest.approx(exact["variance of the mean"].tolist(), abs=0.01)


@pytest.mark.parametrize(("way", "limit"), [("accumulate", math.pi**2 / 6), ("real", 2 / 3)])
def test_drift_of_means_and_its_limits(way: str, limit: float) -> None:
    """The chains of the three ways, played, beside their closed forms."""
    generator, mean, total = np.random.default_rng(0), np.zeros(40_000), np.zeros(40_000)
    for index in range(1, 6):
        fitted = mean + generator.standard_normal(40_000) / math.sqrt(5)
        total = total + fitted
        mean = total / index if way == "accumulate" else (fitted + generator.standard_normal(40_000) / math.sqrt(5)) / 2
    assert mean.var() == pytest.approx(recursion.drift_of_means(way, 5, 5)[-1], rel=0.03)
    assert recursion.drift_of_means(way, 5, 5000)[-1] == pytest.approx(limit / 5, rel=1e-3)
    assert recursion.drift_of_means("replace", 5, 10)[-1] == pytest.approx(2)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"share=0\.0 is no part of a pool; give a number above 0"):
        recursion.kept_weight(0.0, np.zeros(3), np.full(3, 1 / 3))
    with pytest.raises(ValueError, match="weight is 0 wherever the law is not"):
        recursion.tilted(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"law\.variance=0\.0 is not positive"):
        recursion.guided_ode(recursion.Gaussian(0.0, 0.0), 2.0)
    with pytest.raises(ValueError, match="way='keep' is not known"):
        recursion.drift_of_means("keep", 5, 5)
