"""Draw games of self-play on lines and mixtures: sessions 3 and 4."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar

from course.pictures import picture
from selfimprove_lab.figures import theory as figures
from selfimprove_lab.figures.theory import COLOURS
from selfimprove_lab.theory import dpo, fixed_points, gradient, self_play

ROOT_HALF = math.sqrt(0.5)  # one step at alpha = 1/2: x_1 = ROOT_HALF (x_0 + eps)
RIGHT_SAMPLES, BEST = (1 - ROOT_HALF) / ROOT_HALF, ROOT_HALF  # slopes: of right samples, of the best denoiser


def next_slope(k: float, beta: float, draws: np.ndarray) -> float:
    """Return the slope at which one round against slope k ends: data N(0, 1), one step, logistic link, noised samples."""
    clean, eps, start, again = draws
    own = (start - ROOT_HALF * k * start) / ROOT_HALF
    real, noised = ROOT_HALF * (clean + eps), ROOT_HALF * (own + again)

    def loss(s: float) -> float:
        bracket = (eps - s * real) ** 2 - (eps - k * real) ** 2 - (again - s * noised) ** 2 + (again - k * noised) ** 2
        return float(np.logaddexp(0, beta * bracket).mean())

    return float(minimize_scalar(loss, bounds=(-1, 2), method="bounded").x)


def standard_draws(count: int, seed: int = 5) -> np.ndarray:
    """Return four rows of `count` draws with mean 0 and variance 1 exactly."""
    draws = np.random.default_rng(seed).normal(size=(4, count))
    return np.asarray((draws - draws.mean(1, keepdims=True)) / draws.std(1, keepdims=True))


@picture("reweighting")
def reweighting() -> Figure:
    """Draw -l'(m) of three links."""
    figure, axis = plt.subplots(figsize=(6, 3), constrained_layout=True)
    m = np.linspace(-4, 4, 400)
    weights = {"logistic": 1 / (1 + np.exp(m)), "hinge": np.where(m < 1, 1.0, 0.0), "correlation": np.ones_like(m)}
    for colour, (name, weight) in zip(COLOURS, weights.items(), strict=False):
        axis.plot(m, weight, color=colour, label=name)
    axis.set(xlabel="margin", ylabel="weight, $-\\ell'(m)$", ylim=(-0.05, 1.15))
    axis.legend(frameon=False)
    return figure


def _bout(steps: int) -> tuple[gradient.Bout, pd.DataFrame]:
    bout = gradient.Bout(256)
    return bout, bout.train(steps, beta=10.0, link="logistic")


@picture("factors-over-training")
def factors_over_training() -> Figure:
    """Draw the three factors along a short training."""
    return figures.factors_over_training({"logistic": _bout(60)[1]})


@picture("factors-over-t")
def factors_over_t() -> Figure:
    """Draw the three factors by noise level after a short training."""
    return figures.factors_over_t(gradient.factors_over_t(_bout(60)[0], 10.0, range(0, 50, 5)))


@picture("counterexample")
def counterexample() -> Figure:
    """Draw the book's counterexample."""
    slopes = sorted([0.2, 0.3, fixed_points.OPPONENT, 0.5, 0.6, fixed_points.BEST, 0.8, 0.9])
    line = fixed_points.counterexample(20_000, slopes, [0.3, 1.0, 3.0, 10.0])
    return figures.counterexample(line, fixed_points.BEST, fixed_points.OPPONENT)


@picture("spreads")
def spreads() -> Figure:
    """Draw the samples' spread by slope, with the two slopes of session 3."""
    figure, axis = plt.subplots(figsize=(6, 3), constrained_layout=True)
    slopes = np.linspace(0, 1, 50)
    axis.plot(slopes, (1 - ROOT_HALF * slopes) / ROOT_HALF, color=COLOURS[0])
    axis.axhline(1, color="0.6", lw=1, ls="--", label="the data's spread")
    for colour, slope, name in ((COLOURS[1], RIGHT_SAMPLES, "right samples"), (COLOURS[2], BEST, "best denoiser")):
        axis.plot(slope, (1 - ROOT_HALF * slope) / ROOT_HALF, "o", ms=8, color=colour, label=f"{name}, slope {slope:.3f}")
    axis.set(xlabel="slope of the denoiser", ylabel="spread of the samples")
    axis.legend(frameon=False)
    return figure


@picture("cobweb")
def cobweb() -> Figure:
    """Draw rounds as a cobweb."""
    draws, slopes = standard_draws(4000), np.linspace(0.05, 1.0, 12)
    figure, axis = plt.subplots(figsize=(5, 4), constrained_layout=True)
    axis.plot(slopes, [next_slope(k, 0.5, draws) for k in slopes], color=COLOURS[0], label="one round, beta 0.5")
    axis.plot([0, 1], [0, 1], color="0.7", lw=1)
    k, xs, ys = 0.9, [0.9], [0.0]
    for _ in range(5):
        after = next_slope(k, 0.5, draws)
        xs, ys, k = xs + [k, after], ys + [after, after], after
    axis.plot(xs, ys, color=COLOURS[1], lw=1, label="five rounds from 0.9")
    axis.axvline(RIGHT_SAMPLES, color=COLOURS[2], lw=1, ls=":", label="right samples")
    axis.axvline(BEST, color=COLOURS[3], lw=1, ls="--", label="best denoiser")
    axis.set(xlabel="opponent's slope", ylabel="player's slope after the round", xlim=(0, 1), ylim=(0, 1))
    axis.legend(frameon=False, fontsize=8)
    return figure


@picture("play-by-round")
def play_by_round() -> Figure:
    """Draw a short version of the book's figure of self-play on a mixture."""
    played = pd.concat([self_play.play_arm(arm, 0, 5, 60, 800) for arm in self_play.ARMS[:2]])
    return figures.by_round(
        played, "arm", {"samples": "KL(samples || data)\nbeyond exact samples' (nats)", "denoiser": "mean squared distance\nto eps*"}
    )


@picture("gradient-left")
def gradient_left() -> Figure:
    """Draw what discretisation leaves at the best denoiser."""
    return figures.gradient_left(fixed_points.gradient_left([3, 5, 10, 20], 256))


@picture("preferences-by-round")
def preferences_by_round() -> Figure:
    """Draw three methods on labelled pairs."""
    runs = pd.concat([dpo.preference_run(method, 0, 6, 40, 500) for method in ("spin", "dpo", "sft")])
    figure = figures.by_round(runs, "method", {"utility": "mean utility of samples"}, logarithmic=False)
    figure.axes[0].axhline(runs["winners"].mean(), color="0.5", lw=1, ls="--")
    return figure


@picture("spurious")
def spurious() -> Figure:
    """Draw how a large scale makes the best denoiser a minimum on the own path although the laws differ."""
    draws = torch.randn(3, 40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).numpy()
    real, eps, own = ROOT_HALF * (draws[0] + draws[1]), draws[1], 1.1 * draws[2]  # the opponent's points are wider than the data's
    figure, axis = plt.subplots(figsize=(6, 3), constrained_layout=True)
    slopes = np.linspace(0.55, 0.85, 25)
    for colour, scale in zip(COLOURS, (0.05, 0.3, 2), strict=False):
        excess = []
        for s in slopes:
            bracket = (eps - s * real) ** 2 - (eps - BEST * real) ** 2 - (BEST - s) ** 2 * own**2
            excess.append((np.logaddexp(0, scale * bracket).mean() - math.log(2)) / scale)
        axis.plot(slopes, excess, color=colour, label=f"s = {scale:g}")
    axis.axhline(0, color="0.7", lw=1)
    axis.axvline(BEST, color="0.7", lw=1, ls=":")
    axis.set(xlabel="player's slope (dotted: the opponent, which is $\\epsilon^*$)", ylabel="(objective less $\\ell(0)$) / s")
    axis.legend(frameon=False)
    return figure
