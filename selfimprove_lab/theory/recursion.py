"""Notebook recursion_laws: follow the law that a model draws from, round after round, where every round is known exactly.

A round keeps part of what is drawn (selection), draws it under guidance, and fits the next model to it (refitting). Each of the three is a
map of laws. It is computed in closed form on Gaussians of one dimension and on laws of finitely many values.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import integrate, special, stats

from selfimprove_lab.theory.checks import Check


class Gaussian(NamedTuple):
    """A normal law in one dimension."""

    mean: float
    variance: float


def tilted(law: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the law p w / E_p w of a weighted sample; law and weight (n,), or several laws (..., n).

    Raises:
        ValueError: the weights leave nothing of a law.
    """
    product = law * weight
    total = product.sum(-1, keepdims=True)
    if not (total > 0).all():
        raise ValueError("weight is 0 wherever the law is not; give a weight that is positive somewhere on its support")
    return product / total


def kept_weight(share: float, score: np.ndarray, law: np.ndarray) -> np.ndarray:
    """Return the weight, at most 1 / share, with which the best `share` of a large pool stands for its law; score and law (n,).

    The value at which the share is filled counts in part, so that E_p w = 1 exactly.

    Raises:
        ValueError: the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share} is no part of a pool; give a number above 0 and at most 1")
    weight, left = np.zeros_like(law), share
    for index in np.argsort(-score, kind="stable"):
        taken = min(law[index], left)
        weight[index] = taken / law[index] / share if law[index] > 0 else 0.0
        left -= taken
    return weight


def selected(law: Gaussian, share: float) -> Gaussian:
    """Return mean and variance of the best `share` of a normal law, whose score is the value itself.

    A truncated normal law's, for a normal model that is refitted to them.
    """
    if share == 1:
        return law
    cut = float(stats.norm.isf(share))
    rise = float(stats.norm.pdf(cut)) / share
    return Gaussian(law.mean + rise * math.sqrt(law.variance), law.variance * (1 + cut * rise - rise**2))


def reach(share: float) -> float:
    """Return how far the mean rises in all, in standard deviations of round 0, when every round keeps the best `share` and refits."""
    once = selected(Gaussian(0.0, 1.0), share)
    return once.mean / (1 - math.sqrt(once.variance))


def guided_tilt(conditional: np.ndarray, unconditional: np.ndarray, guidance: float) -> np.ndarray:
    """Return the law proportional to p (p(. | c) / p)^g, what guidance is often said to draw; laws (captions, n) and (n,)."""
    ratio = np.divide(conditional, unconditional, out=np.zeros_like(conditional), where=unconditional > 0)
    return tilted(unconditional, ratio**guidance)


def guided_ode(law: Gaussian, guidance: float) -> Gaussian:
    """Return the law that guided DDIM draws in the limit of fine steps, for p = N(0, 1) without a caption and p(. | c) = `law`.

    The equation of `prop-fine-steps` with the guided prediction is linear in y, so the law stays normal: the variance becomes its g-th
    power, and the mean is an integral.

    Raises:
        ValueError: the variance is not positive.
    """
    if law.variance <= 0:
        raise ValueError(f"law.variance={law.variance} is not positive; give a law with a density")
    g, v = guidance, law.variance

    def carried(u: float) -> float:  # at s = e^u: what the flow leaves at 0 of a unit shift there, times the pull towards the mean
        s2 = math.exp(2 * u)
        log_flow = (1 - g) / 2 * -math.log1p(s2) + g / 2 * (math.log(v) - math.log(v + s2))
        return math.exp(log_flow) * g * s2 / (v + s2)

    bend = math.log(v) / 2  # where the noise is as large as the spread: the integrand has its peak near there
    edges = sorted({bend - 40, bend, 0.0, max(bend, 0.0) + 40})
    rise = sum(integrate.quad(carried, low, high, limit=200)[0] for low, high in itertools.pairwise(edges))
    return Gaussian(law.mean * float(rise), v**g)


def guided_ddim(law: Gaussian, guidance: float, steps: int, largest: float = 200.0) -> Gaussian:
    """Return the law of guided DDIM with `steps` steps between noise-to-signal ratios `largest` and 0, from the noised N(0, 1)."""
    ratios = np.concatenate([np.geomspace(largest, 1e-3, steps), [0.0]])
    mean, spread = 0.0, math.sqrt(1 + largest**2)
    for s, following in itertools.pairwise(ratios):
        slope = (1 - guidance) * s / (1 + s * s) + guidance * s / (law.variance + s * s)
        shift = guidance * s * law.mean / (law.variance + s * s)
        mean, spread = mean + (following - s) * (slope * mean - shift), spread * (1 + (following - s) * slope)
    return Gaussian(mean, spread**2)


def guided_rounds(law: Gaussian, guidances: Sequence[float], rounds: int) -> pd.DataFrame:
    """Retrain on guided samples, round after round, the law without a caption held at N(0, 1); return one row per guidance and round."""
    rows = []
    for guidance in guidances:
        current = law
        for index in range(rounds + 1):
            rows.append({"guidance": guidance, "round": index, "mean": current.mean, "variance": current.variance})
            current = guided_ode(current, guidance) if current.variance > 1e-200 else current
    return pd.DataFrame(rows)


def refitted(variance: float, samples: int, rounds: int) -> pd.DataFrame:
    """Return, by round, the expected variance of a normal model refitted to `samples` of its own, and the variance of its mean.

    Maximum likelihood: the first is multiplied by 1 - 1/n in every round, and the two always sum to the variance of round 0.
    """
    index = np.arange(rounds + 1)
    inside = variance * (1 - 1 / samples) ** index
    return pd.DataFrame({"round": index, "variance within": inside, "variance of the mean": variance - inside})


def refitted_by_chance(variance: float, samples: int, rounds: int, chains: int, seed: int = 0) -> pd.DataFrame:
    """Play `refitted` with `chains` independent models; return the same columns, and the standard error of the first."""
    generator = np.random.default_rng(seed)
    mean, spread, rows = np.zeros(chains), np.full(chains, variance), []
    for index in range(rounds + 1):
        error = spread.std() / math.sqrt(chains)
        rows.append({"round": index, "variance within": spread.mean(), "variance of the mean": mean.var(), "error": error})
        mean = mean + np.sqrt(spread / samples) * generator.standard_normal(chains)
        spread = spread / samples * generator.chisquare(samples - 1, chains)
    return pd.DataFrame(rows)


def drift_of_means(way: str, samples: int, rounds: int) -> np.ndarray:
    """Return the variance of a refitted mean by round, (rounds + 1,), of a model N(m, 1) that starts at the truth.

    Args:
        way: "replace" fits the last round's samples, "accumulate" those of all rounds, "real" as many fresh real ones beside them.
        samples: drawn per round.
        rounds: how many.

    Raises:
        ValueError: the way is not one of the three.
    """
    index = np.arange(rounds + 1)
    if way == "replace":
        return index / samples
    if way == "accumulate":
        return np.concatenate([[0.0], np.cumsum(1 / np.arange(1, rounds + 1) ** 2)]) / samples
    if way == "real":
        return 2 / (3 * samples) * (1 - 0.25**index)
    raise ValueError(f'way={way!r} is not known; give "replace", "accumulate" or "real"')


def resampled(law: np.ndarray, samples: int, rounds: int) -> np.ndarray:
    """Return the expected chance that two draws differ, by round, (rounds + 1,), of a law of frequencies refitted to its own samples.

    It is multiplied by 1 - 1/n in every round, as in a population of n that breeds at random.
    """
    return (1 - np.square(law).sum()) * (1 - 1 / samples) ** np.arange(rounds + 1)


def resampled_by_chance(law: np.ndarray, samples: int, rounds: int, chains: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Play `resampled`: return the mean over `chains` of the chance that two draws differ, and its standard error, by round."""
    generator = np.random.default_rng(seed)
    laws, differ = np.tile(law, (chains, 1)), []
    for _ in range(rounds + 1):
        differ.append(1 - np.square(laws).sum(1))
        laws = generator.multinomial(samples, laws / laws.sum(1, keepdims=True)) / samples
    table = np.stack(differ)
    return table.mean(1), table.std(1) / math.sqrt(chains)


def compounding(guidance: float, rounds: int, retrain: bool, bins: int = 40) -> pd.DataFrame:
    """Iterate the guided tilt on three captions of `bins` values; return by round how far the laws lie from the exponent g^k of round 0.

    `retrain` says whether the law without a caption is trained on the guided samples too, or held; `gap` is the largest difference of a
    probability, `entropy` the captions' mean entropy in nats.
    """
    centre, x = np.array([[-1.0], [0.2], [1.5]]), np.linspace(-3, 3, bins)
    first = tilted(np.ones((3, bins)), np.exp(-((x - centre) ** 2)))
    held = first.mean(0)
    current, rows = first, []
    for index in range(rounds + 1):
        gap = float(np.abs(current - guided_tilt(first, held, guidance**index)).max())
        rows.append({"round": index, "gap": gap, "entropy": float(special.entr(current).sum(-1).mean())})
        current = guided_tilt(current, current.mean(0) if retrain else held, guidance)
    return pd.DataFrame(rows)


def checks(seed: int = 0) -> list[Check]:
    """Return what the notebook asserts: each closed form against the map it sums up, or against chance."""
    generator = np.random.default_rng(seed)
    law = generator.dirichlet(np.ones(50))
    score, values = generator.standard_normal(50), generator.standard_normal(50)
    weight = generator.uniform(0.1, 2, 50)
    best = float((law * weight * values).sum() / (law * weight).sum())
    nearby = [float((law * weight * (values - best - d) ** 2).sum()) for d in (-0.01, 0.0, 0.01)]
    twice = tilted(tilted(law, kept_weight(0.3, score, law)), kept_weight(0.2, score, tilted(law, kept_weight(0.3, score, law))))
    once = tilted(law, kept_weight(0.06, score, law))
    start, rounds = Gaussian(0.7, 0.5), 8
    current = Gaussian(0.0, 1.0)
    for _ in range(200):
        current = selected(current, 0.06)
    ode, fine = guided_ode(start, 3.0), guided_ddim(start, 3.0, 20_000)
    chance = refitted_by_chance(1.0, 12, rounds, 20_000, seed)
    off = (chance["variance within"] - refitted(1.0, 12, rounds)["variance within"]).abs() / chance["error"].clip(lower=1e-12)
    bred, error = resampled_by_chance(law, 30, rounds, 4000, seed)
    apart = np.abs(bred - resampled(law, 30, rounds))[1:] / error[1:]
    kept = compounding(1.5, 4, retrain=False)
    return [
        Check("the weighted loss is least at the mean of p w / E w", "its excess at the neighbours, smallest",
              min(nearby[0], nearby[2]) - nearby[1], ">=", 0),
        Check("and that mean is the tilted law's", "difference", abs(best - float((tilted(law, weight) * values).sum())), "<=", 1e-12),
        Check("keeping 30 % and then 20 % of that is keeping 6 %", "largest difference of a probability",
              float(np.abs(twice - once).max()), "<=", 1e-12),
        Check("selection with a normal refit ends where the series says", "difference of the mean after 200 rounds",
              abs(current.mean - reach(0.06)), "<=", 1e-9),
        Check("guided DDIM draws the law of the closed form", "largest relative difference at 20,000 steps",
              max(abs(fine.mean / ode.mean - 1), abs(fine.variance / ode.variance - 1)), "<=", 0.01),
        Check("retraining on guided samples compounds the exponent to g^k", "largest difference of a probability",
              float(kept["gap"].max()), "<=", 1e-12),
        Check("refitting a normal law loses 1/n of its variance a round", "largest deviation, standard errors",
              float(off[1:].max()), "<=", 5),
        Check("refitting frequencies loses 1/n of the chance that two draws differ", "largest deviation, standard errors",
              float(apart.max()), "<=", 5),
    ]  # fmt: skip
