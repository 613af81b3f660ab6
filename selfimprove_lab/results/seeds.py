"""Give intervals over training seeds and prompts together, for experiments that were repeated with other seeds."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from selfimprove.evaluation.statistics import bootstrap_interval, student_interval


def seeds_and_prompts(means: Sequence[float], by_prompt: Float[np.ndarray, " n"]) -> tuple[float, float, float]:
    """Return the mean and a 95 % interval (low, high) that counts both sources of chance: training seeds, and prompts that all seeds share.

    `means` holds one mean per seed, at least two. `by_prompt` holds one mean over seeds per prompt. The half-width is the root of the sum
    of two squared half-widths: Student's over the seeds and the normal one over the prompts. With a single prompt it is infinite.
    """
    mean, low, high = student_interval(means)
    over_prompts = 1.96 * float(np.std(by_prompt, ddof=1)) / len(by_prompt) ** 0.5 if len(by_prompt) > 1 else math.inf
    half = math.hypot((high - low) / 2, over_prompts)
    return mean, mean - half, mean + half


def seeds_with_intervals(means: Sequence[float], over_prompts: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Return the result of `seeds_and_prompts` from each seed's own 95 % interval (low, high) over the same prompts.

    The half-width over prompts is the mean of the seeds' half-widths. This equals the half-width of the seeds' average if all seeds find
    the same prompts easy, and is too wide otherwise. With a single seed, its own interval is returned.
    """
    if len(means) == 1:
        return means[0], over_prompts[0][0], over_prompts[0][1]
    mean, low, high = student_interval(means)
    half = math.hypot((high - low) / 2, float(np.mean([b - a for a, b in over_prompts])) / 2)
    return mean, mean - half, mean + half


def crossed_interval(values: Float[np.ndarray, "seeds prompts"]) -> tuple[float, float]:
    """Return the 95 % interval of the mean over seeds that share all prompts (`seeds_and_prompts`); for one seed, over prompts alone."""
    if len(values) == 1:
        return bootstrap_interval(values[0])
    _, low, high = seeds_and_prompts(values.mean(1).tolist(), values.mean(0))
    return low, high
