"""Uncertainty: intervals over prompts and training seeds, win rates, many comparisons at once, and how many prompts are enough.

scipy and statsmodels compute; what is decided here is the unit that is resampled. That is the prompt, never the image: images of one
prompt are alike, and a hundred of them carry little more than one.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

RESAMPLES = 2000
SEED = 5775709  # of the resampling: the same table gives the same interval
POWER = 0.8  # how often a study of the advised size finds the difference


def bootstrap_interval(
    values: Float[np.ndarray, " n"], statistic: Callable[..., Float[np.ndarray, "..."]] = np.mean
) -> tuple[float, float]:
    """95 % percentile interval of the mean (or another statistic), resampling entries; equal entries give themselves twice."""
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    result = stats.bootstrap((values,), statistic, n_resamples=RESAMPLES, batch=100, method="percentile", rng=np.random.default_rng(SEED))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def student_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, lower and upper end of Student's 95 % interval of two or more values."""
    mean, half = float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def seeds_and_prompts(means: Sequence[float], by_prompt: Float[np.ndarray, " n"]) -> tuple[float, float, float]:
    """Mean, and a 95 % interval that counts both sources of chance: training seeds, and the prompts that all of them are judged on.

    The halves of the two intervals, Student's over the seeds' means and the normal one over the prompts' (of their means over seeds),
    add up as squares. Two seeds or more; of one prompt nothing can be said: then the interval is infinite.
    """
    mean, low, high = student_interval(means)
    over_prompts = 1.96 * float(np.std(by_prompt, ddof=1)) / len(by_prompt) ** 0.5 if len(by_prompt) > 1 else math.inf
    half = math.hypot((high - low) / 2, over_prompts)
    return mean, mean - half, mean + half


def seeds_with_intervals(means: Sequence[float], over_prompts: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """`seeds_and_prompts` where each seed's own 95 % interval (low, high) over the same prompts is known in place of the prompts.

    The half over prompts is the mean of the seeds' halves. It is that of their average if all seeds find the same prompts easy, and too
    wide otherwise. A single seed has its own.
    """
    if len(means) == 1:
        return means[0], over_prompts[0][0], over_prompts[0][1]
    mean, low, high = student_interval(means)
    half = math.hypot((high - low) / 2, float(np.mean([b - a for a, b in over_prompts])) / 2)
    return mean, mean - half, mean + half


def crossed_interval(values: Float[np.ndarray, "seeds prompts"]) -> tuple[float, float]:
    """95 % interval of the mean where every training seed is judged on all prompts: `seeds_and_prompts`; of one seed over prompts alone."""
    if len(values) == 1:
        return bootstrap_interval(values[0])
    _, low, high = seeds_and_prompts(values.mean(1).tolist(), values.mean(0))
    return low, high


def win_rate(differences: Float[np.ndarray, " n"]) -> tuple[float, float, float, int]:
    """Share of prompts won, a tie counting half to either side, with Wilson's 95 % interval, and the number of ties.

    `differences`: ours less theirs, one a prompt.
    """
    ties = int((differences == 0).sum())
    count = len(differences)
    share = float((differences > 0).sum() + 0.5 * ties) / count
    squared = float(stats.norm.ppf(0.975)) ** 2 / count  # of the normal quantile
    centre, half = share + squared / 2, math.sqrt(squared * (share * (1 - share) + squared / 4))
    return share, (centre - half) / (1 + squared), (centre + half) / (1 + squared), ties


def paired_p_value(differences: Float[np.ndarray, " n"]) -> float:
    """Two-sided p value of the paired t test that the mean difference is zero; 1 where all differences are zero."""
    if np.ptp(differences) == 0:
        return 1.0 if differences[0] == 0 else 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values: below .05 somewhere is right in all of the table with probability .95, however many are compared."""
    from statsmodels.stats.multitest import multipletests  # of the extra `notebooks`, as below

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if len(p_values) else []


def prompts_for_difference(differences: Float[np.ndarray, " n"], wanted: float) -> int:
    """How many prompts find a mean difference of `wanted` (at 5 %, 8 times in 10), if differences vary as these do.

    Raises:
        ValueError: `wanted` is 0, or fewer than two differences.
    """
    if wanted == 0 or len(differences) < 2:
        raise ValueError(f"wanted={wanted!r} with {len(differences)} differences: give a difference other than 0 and at least two prompts")
    from statsmodels.stats.power import TTestPower

    spread = float(np.std(differences, ddof=1))
    if spread == 0:
        return 2
    effect = min(abs(wanted) / spread, 10.0)  # beyond that two prompts are enough, and the solver fails
    return max(2, int(np.ceil(TTestPower().solve_power(effect_size=effect, alpha=0.05, power=POWER))))


def prompts_for_win_rate(rate: float) -> int:
    """How many prompts tell a win rate of `rate` from one half (at 5 %, 8 times in 10).

    Raises:
        ValueError: `rate` is one half, or outside (0, 1).
    """
    if not 0 < rate < 1 or rate == 0.5:
        raise ValueError(f"rate={rate!r} cannot be planned for; give a win rate between 0 and 1 other than .5")
    from statsmodels.stats.power import NormalIndPower
    from statsmodels.stats.proportion import proportion_effectsize

    effect = abs(proportion_effectsize(rate, 0.5))
    return int(np.ceil(NormalIndPower().solve_power(effect_size=effect, alpha=0.05, power=POWER, ratio=0)))
