"""Measure uncertainty: intervals over prompts, win rates, multiple comparisons, and the number of prompts needed.

scipy and statsmodels do the computing. This module fixes the unit that is resampled: the prompt, never the image. Images of one prompt
are alike, and a hundred of them carry little more information than one.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

RESAMPLES = 2000
SEED = 5775709  # of the resampling, so that the same table gives the same interval
POWER = 0.8  # probability that a study of the advised size finds the difference


def bootstrap_interval(
    values: Float[np.ndarray, " n"], statistic: Callable[..., Float[np.ndarray, "..."]] = np.mean
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a statistic (default: the mean) over resampled entries.

    With one entry both ends are NaN. If all entries are equal, both ends are that value: `statistic` must be one of location.
    """
    if len(values) < 2:
        return math.nan, math.nan
    if np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    result = stats.bootstrap((values,), statistic, n_resamples=RESAMPLES, batch=100, method="percentile", rng=np.random.default_rng(SEED))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def student_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and the lower and upper end of Student's 95 % interval of two or more values."""
    mean, half = float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def win_rate(differences: Float[np.ndarray, " n"]) -> tuple[float, float, float, int]:
    """Return the share of prompts won, Wilson's 95 % interval (low, high), and the number of ties. A tie counts half for either side.

    `differences` holds our score minus theirs, one per prompt.
    """
    ties = int((differences == 0).sum())
    count = len(differences)
    share = float((differences > 0).sum() + 0.5 * ties) / count
    squared = float(stats.norm.ppf(0.975)) ** 2 / count  # squared normal quantile over the number of prompts
    centre, half = share + squared / 2, math.sqrt(squared * (share * (1 - share) + squared / 4))
    return share, (centre - half) / (1 + squared), (centre + half) / (1 + squared), ties


def paired_p_value(differences: Float[np.ndarray, " n"]) -> float:
    """Return the two-sided p value of the paired t test that the mean difference is 0. It is 1 if all differences are 0."""
    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted by Holm's method.

    The probability that any true null hypothesis of the table gets an adjusted value below 0.05 is at most 5 %.
    """
    from statsmodels.stats.multitest import multipletests  # part of the extra `notebooks`, as below

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if len(p_values) else []


def prompts_for_difference(differences: Float[np.ndarray, " n"], wanted: float) -> int:
    """Return how many prompts detect a mean difference of `wanted` (level 5 %, power 0.8) if differences vary as the given ones do.

    Raises:
        ValueError: `wanted` is 0, or there are fewer than two differences.
    """
    if wanted == 0 or len(differences) < 2:
        raise ValueError(f"wanted={wanted!r} with {len(differences)} differences: give a difference other than 0 and at least two prompts")
    from statsmodels.stats.power import TTestPower

    spread = float(np.std(differences, ddof=1))
    if spread == 0:
        return 2
    effect = min(abs(wanted) / spread, 10.0)  # above 10 two prompts are enough, and the solver fails
    return max(2, int(np.ceil(TTestPower().solve_power(effect_size=effect, alpha=0.05, power=POWER))))
