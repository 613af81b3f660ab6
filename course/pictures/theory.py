"""Draw the theory of sessions 1 to 4 in one and two dimensions, from exact mixtures."""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import norm

from course.pictures import picture
from selfimprove.losses import CONVENTIONS, convert_beta
from selfimprove.rollout import rollout
from selfimprove_lab.figures import theory as figures
from selfimprove_lab.figures.theory import COLOURS
from selfimprove_lab.theory import bound, forward, objective, practical
from selfimprove_lab.theory.mixture import Mixture, PointWorld, cosine_schedule
from selfimprove_lab.theory.worlds import empty_text, ids, point_world

WEIGHTS, MEANS, SPREADS = np.array([0.35, 0.65]), np.array([-1.6, 0.8]), np.array([0.25, 0.45])  # a mixture on a line
LINE = np.linspace(-3.5, 3.5, 400)


def density(x: np.ndarray, alpha: float) -> np.ndarray:
    """Return the mixture's density at x after noising to `alpha`."""
    spread = np.sqrt(alpha * SPREADS**2 + 1 - alpha)
    return np.asarray((WEIGHTS * norm.pdf(x[:, None], math.sqrt(alpha) * MEANS, spread)).sum(1))


def best_eps(x: np.ndarray, alpha: float) -> np.ndarray:
    """Return the best guess at the noise in x."""
    spread = np.sqrt(alpha * SPREADS**2 + 1 - alpha)
    joint = WEIGHTS * norm.pdf(x[:, None], math.sqrt(alpha) * MEANS, spread)
    away = (x[:, None] - math.sqrt(alpha) * MEANS) / spread**2
    return np.asarray(math.sqrt(1 - alpha) * (joint * away).sum(1) / joint.sum(1))


def line_world(steps: int) -> tuple[PointWorld, Mixture]:
    """Return the same mixture as a world of the package, with its exact denoiser."""
    world = PointWorld(cosine_schedule(steps, 1e-3), 1, 1)
    weights, means, spreads = (torch.tensor(v) for v in (WEIGHTS, MEANS, SPREADS))
    return world, Mixture(world.schedule, weights[None], means[None, :, None], spreads[None, :, None, None])


def _one(size: tuple[float, float] = (6, 3.2)) -> tuple[Figure, plt.Axes]:
    return plt.subplots(figsize=size, constrained_layout=True)


@picture("noised-densities")
def noised_densities() -> Figure:
    """Draw the mixture's density at four noise levels."""
    figure, axis = _one()
    for colour, alpha in zip(COLOURS, (1.0, 0.8, 0.4, 0.02), strict=False):
        axis.plot(LINE, density(LINE, alpha), color=colour, label=f"$\\alpha_t$ = {alpha:g}")
    axis.set(xlabel="$x_t$", ylabel="density")
    axis.legend(frameon=False)
    return figure


@picture("best-denoiser")
def best_denoiser() -> Figure:
    """Draw eps* of the mixture."""
    figure, axis = _one()
    for colour, alpha in zip(COLOURS, (0.9, 0.5, 0.05), strict=False):
        axis.plot(LINE, best_eps(LINE, alpha), color=colour, label=f"$\\alpha_t$ = {alpha:g}")
    axis.set(xlabel="$x_t$", ylabel=r"$\epsilon^*(x_t)$")
    axis.legend(frameon=False)
    return figure


@picture("ddim-points")
def ddim_points() -> Figure:
    """Draw DDIM's points on the way."""
    path = forward.denoising_path(point_world(100), 400, eta=0.0)
    figure, axes = plt.subplots(1, 3, figsize=(9, 3), constrained_layout=True, sharex=True, sharey=True)
    for axis, after in zip(axes, (0, 60, 100), strict=True):
        colours = [COLOURS[c] for c in path[after]["condition"]]
        axis.scatter(path[after]["x"], path[after]["y"], c=colours, s=5)
        axis.set(title=f"after {after} of 100 steps", aspect="equal", xlabel="first coordinate")
    axes[0].set_ylabel("second coordinate")
    return figure


@picture("ddim-ddpm")
def ddim_ddpm() -> Figure:
    """Draw paths of DDIM and DDPM side by side, by this module's own exact denoiser."""
    schedule, draws = cosine_schedule(60, 1e-3), np.random.default_rng(0)
    start = norm.ppf((np.arange(14) + 0.5) / 14)
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), constrained_layout=True, sharey=True)
    for axis, eta in zip(axes, (0.0, 1.0), strict=True):
        x, states = start.copy(), [start.copy()]
        for step in schedule.steps(eta=eta):
            eps = best_eps(x, step.alpha)
            clean = (x - math.sqrt(1 - step.alpha) * eps) / math.sqrt(step.alpha)
            x = math.sqrt(step.alpha_next) * clean + math.sqrt(max(1 - step.alpha_next - step.sigma**2, 0)) * eps
            x = x + step.sigma * draws.normal(size=len(x))
            states.append(x.copy())
        axis.plot(np.array(states), color=COLOURS[int(eta)], lw=0.9)
        axis.set(title="DDIM, $\\eta=0$" if eta == 0 else "DDPM, $\\eta=1$", xlabel="step (noise left, data right)")
    axes[0].set_ylabel("$x_t$")
    return figure


@picture("coarse-sampler")
def coarse_sampler() -> Figure:
    """Draw what few steps draw, with the package's sampler."""
    world, mixture = line_world(200)
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), constrained_layout=True, sharey=True)
    text = world.embed(torch.zeros(2000, dtype=torch.long))
    for axis, count in zip(axes, (2, 5, 50), strict=True):
        drawn = rollout(world, mixture, text, empty_text(world), ids(2000), 0, "slides", 0, count, 1.0).flatten().numpy()
        axis.hist(drawn, 50, range=(-3.5, 3.5), density=True, color="0.75", label="samples")
        axis.plot(LINE, density(LINE, 1.0), color=COLOURS[0], label="data")
        axis.set(title=f"{count} steps", xlabel="$x_0$")
    axes[0].set_ylabel("density")
    axes[0].legend(frameon=False)
    return figure


@picture("sampling-error")
def sampling_error() -> Figure:
    """Draw the book's figure with fewer samples."""
    return figures.sampling_error(forward.sampling_error(500, counts=(2, 3, 5, 10, 20)))


@picture("links")
def links() -> Figure:
    """Draw three links."""
    figure, axis, m = *_one(), np.linspace(-3, 4, 200)
    drawn = {"logistic": np.log1p(np.exp(-m)), "hinge": np.maximum(0, 1 - m), "correlation": 1 - m}
    for colour, style, (name, values) in zip(COLOURS, ("-", "-", "--"), drawn.items(), strict=False):
        axis.plot(m, values, style, color=colour, label=name)
    axis.axvline(0, color="0.7", lw=1)
    axis.text(0.1, 3.8, "a round begins here")
    axis.set(xlabel="margin", ylabel="link", ylim=(-0.6, 4.2))
    axis.legend(frameon=False)
    return figure


@picture("best-reply")
def best_reply() -> Figure:
    """Draw replies p_k exp(f / lambda) to f(x) = x."""
    figure, axis = _one()
    opponent = np.where(np.abs(LINE) < 2.5, norm.pdf(LINE), 0)
    axis.fill_between(LINE, opponent / np.trapezoid(opponent, LINE), color="0.85", label="opponent")
    for colour, price in zip(COLOURS, (4, 1, 0.4), strict=False):
        reply = opponent * np.exp(LINE / price)
        axis.plot(LINE, reply / np.trapezoid(reply, LINE), color=colour, label=f"reply at $\\lambda$ = {price}")
    axis.set(xlabel="$x$, with test function $f(x)=x$", ylabel="density")
    axis.legend(frameon=False)
    return figure


@picture("jensen")
def jensen() -> Figure:
    """Draw Jensen's inequality on the logistic link."""
    figure, axis, a = *_one(), np.linspace(-4, 4, 200)
    ends = np.array([-3.0, 2.0])
    axis.plot(a, np.log1p(np.exp(-a)), color=COLOURS[0], label=r"$\ell(a)=\log(1+e^{-a})$")
    axis.plot(ends, np.log1p(np.exp(-ends)), "o-", color=COLOURS[1], label="two steps of one example")
    middle = ends.mean()
    below, above = float(np.log1p(np.exp(-middle))), float(np.log1p(np.exp(-ends)).mean())
    axis.annotate("", (middle, above), (middle, below), arrowprops={"arrowstyle": "<->"})
    axis.text(middle + 0.15, (above + below) / 2, "gap")
    axis.set(xlabel="$a_t$", ylabel="loss (nats)")
    axis.legend(frameon=False)
    return figure


@picture("gap")
def gap() -> Figure:
    """Draw the book's figure of the bound."""
    return figures.gap(bound.gaps(16, totals=(5, 20), etas=(0.0, 1.0)))


@picture("two-forms")
def two_forms() -> Figure:
    """Draw the two forms of the one-step objective."""
    losses = objective.per_example_losses(64, (0.0,))[0.0]
    figure = figures.two_forms(losses, "the same number, written twice")
    least, most = losses[["(4.9)", "(C.5)"]].min().min(), losses[["(4.9)", "(C.5)"]].max().max()
    edges = (0.98 * least, 1.02 * most)
    figure.axes[0].set(xlim=edges, ylim=edges, xlabel="loss in means (4.9)", ylabel="loss in noise (C.5)")
    return figure


@picture("practical-bias")
def practical_bias() -> Figure:
    """Draw what noising again changes."""
    return figures.practical_bias(practical.practical_bias(400))


@picture("bradley-terry")
def bradley_terry() -> Figure:
    """Draw the Bradley-Terry model."""
    figure, axis, u = *_one(), np.linspace(-3, 3, 200)
    for colour, sharpness in zip(COLOURS, (0.5, 1, 3), strict=False):
        axis.plot(u, 1 / (1 + np.exp(-sharpness * u)), color=colour, label=f"sharpness {sharpness:g}")
    axis.set(xlabel="utility of the first less the second", ylabel="P(first is preferred)")
    axis.legend(frameon=False)
    return figure


@picture("two-laws")
def two_laws() -> Figure:
    """Draw the winners' law and DPO's law in a world with two kinds of images."""
    figure, axis, u = *_one(), np.linspace(-3, 3, 121)
    base = 0.6 * norm.pdf(u, -1, 0.6) + 0.4 * norm.pdf(u, 1, 0.5)
    base /= base.sum()
    winners = 2 * base * ((1 / (1 + np.exp(-2 * (u[:, None] - u[None])))) @ base)
    axis.fill_between(u, base, color="0.85", label="base")
    axis.plot(u, winners, color=COLOURS[0], label="winners: SPIN stops here")
    for colour, beta in zip(COLOURS[1:], (4.0, 1.0), strict=False):
        law = base * np.exp(2 * u / beta)
        axis.plot(u, law / law.sum(), color=colour, label=f"DPO, beta {beta:g}")
    axis.set(xlabel="utility", ylabel="probability")
    axis.legend(frameon=False)
    return figure


@picture("beta-conventions")
def beta_conventions() -> Figure:
    """Draw one strength in four conventions."""
    figure, axis = _one((7, 2.6))
    betas = {name: convert_beta(2000.0, "diffusion-dpo", name, 16_384) for name in CONVENTIONS}
    axis.barh(list(betas), list(betas.values()), color=COLOURS[0])
    for place, beta in enumerate(betas.values()):
        axis.text(beta * 1.15, place, f"{beta:,.4g}", va="center")
    axis.set(xscale="log", xlabel="beta of the same strength", xlim=(min(betas.values()) / 3, max(betas.values()) * 12))
    return figure
