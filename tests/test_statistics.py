import numpy as np
import pytest

from selfimprove.evaluation.statistics import (
    bootstrap_interval,
    holm,
    paired_p_value,
    prompts_for_difference,
    student_interval,
    win_rate,
)
from selfimprove_lab.results.seeds import crossed_interval, seeds_and_prompts, seeds_with_intervals


def test_the_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = sum(low <= 0 <= high for low, high in (bootstrap_interval(generator.normal(size=60)) for _ in range(200)))
    assert 180 <= covered <= 199


def test_the_interval_of_the_median_is_about_the_median() -> None:
    values = np.append(np.zeros(99), 1e6)
    assert bootstrap_interval(values, np.median) == (0.0, 0.0)
    assert bootstrap_interval(values)[1] > 0


def test_the_crossed_interval_sees_seeds_and_prompts() -> None:
    generator = np.random.default_rng(1)
    seeds, prompts = generator.normal(size=(5, 1)), generator.normal(size=(1, 400))

    def width(values: np.ndarray) -> float:
        low, high = crossed_interval(values)
        return high - low

    both = width(seeds + 0 * prompts)
    assert both > 5 * width(0 * seeds + prompts)  # five draws are less certain than four hundred
    assert width(0 * seeds + prompts) == pytest.approx(2 * 1.96 / 20, rel=0.2)
    assert crossed_interval(prompts) == bootstrap_interval(prompts[0])


def test_student_interval_by_hand() -> None:
    mean, low, high = student_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert high - mean == pytest.approx(4.302653 / 3**0.5, rel=1e-5)  # t(.975, 2) s / sqrt(3), s = 1
    assert mean - low == pytest.approx(high - mean)


def test_a_win_rate_of_55_percent_of_500_prompts() -> None:
    rate, low, high, ties = win_rate(np.array([1.0] * 265 + [0.0] * 20 + [-1.0] * 215))
    assert (rate, ties) == (0.55, 20)
    assert high - rate == pytest.approx(0.043, abs=0.002)  # the often quoted 4.4 points
    assert low < 0.55 < high


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_an_interval_over_seeds_and_prompts_holds_the_truth_as_often_as_it_says() -> None:
    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        prompts, seeds = rng.normal(size=50), 0.1 * rng.normal(size=3)  # the truth is 0; every seed is judged on the same prompts
        values = prompts + seeds[:, None] + 0.1 * rng.normal(size=(3, 50))
        _, low, high = seeds_and_prompts(values.mean(1).tolist(), values.mean(0))
        inside += low < 0 < high
        assert student_interval(values.mean(1).tolist())[1] > low  # which knows nothing of the prompts
        own = [(m - h, m + h) for m, h in zip(values.mean(1), 1.96 * values.std(1, ddof=1) / 50**0.5, strict=True)]
        _, lower, higher = seeds_with_intervals(values.mean(1).tolist(), own)
        assert lower <= low + 1e-12  # never narrower, and hardly wider where the seeds find the same prompts easy
        assert higher - lower == pytest.approx(high - low, rel=0.03)
    assert 0.93 < inside / 400 <= 1
    assert seeds_and_prompts([0.1, 0.2], np.array([0.15]))[1:] == (-np.inf, np.inf)


def test_the_p_value_is_uniform_without_a_difference() -> None:
    generator = np.random.default_rng(2)
    values = [paired_p_value(generator.normal(size=30)) for _ in range(400)]
    assert 0.02 <= np.mean(np.array(values) < 0.05) <= 0.09
    assert paired_p_value(np.zeros(5)) == 1.0
    assert paired_p_value(np.ones(5)) == 0.0


def test_as_many_prompts_as_advised_find_the_difference_eight_times_in_ten() -> None:
    generator = np.random.default_rng(3)
    pilot = generator.normal(0.3, 1.0, size=4000)
    needed = prompts_for_difference(pilot, 0.3)
    assert 80 <= needed <= 100  # (1.96 + .84)^2 / .3^2 is 87
    found = [paired_p_value(generator.normal(0.3, 1.0, size=needed)) < 0.05 for _ in range(400)]
    assert 0.74 <= np.mean(found) <= 0.86
    assert prompts_for_difference(pilot, -0.3) == needed
    assert prompts_for_difference(np.ones(3), 1.0) == 2


def test_no_difference_cannot_be_planned_for() -> None:
    with pytest.raises(ValueError, match="wanted=0"):
        prompts_for_difference(np.arange(5.0), 0.0)
    with pytest.raises(ValueError, match="1 differences"):
        prompts_for_difference(np.arange(1.0), 1.0)


def test_a_single_seed_has_its_own_interval() -> None:
    assert seeds_with_intervals([0.2], [[0.1, 0.4]]) == (0.2, 0.1, 0.4)
