"""Notebook 05: find where a large beta makes the best denoiser a fixed point of the own-path game although the laws differ.

One dimension and one step, as in `fixed_points`: data N(0, 1), the opponent's denoiser is the best one, and the points on its path are
N(0, variance). Players are all functions of the noisy point.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize
from torch import Tensor

from selfimprove import losses
from selfimprove_lab.theory.checks import Check
from selfimprove_lab.theory.fixed_points import ALPHA

LINK = losses.LINKS["logistic"]
SPREAD = ALPHA  # Var(eps | x_t) for data N(0, 1): 1 less the square of the best slope
FOUND = 1e-9  # nats below l(0) that count as a player who does better


def curvature_ratio(link: losses.LinkFunction = LINK) -> float:
    """Return `l''(0) / |l'(0)|`, 1/2 for the logistic link; the second derivative is that of the link's own slope."""
    at = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    second = torch.autograd.grad(link.slope(at).sum(), at)[0]
    return float(second / -link.slope(at).detach())


def threshold(variance: float) -> float:
    """Return the scale s from which the best denoiser is a local minimum on the own path; infinite where none is large enough.

    The condition is `p' <= p (1 + 2 s l''(0) / |l'(0)| Var(eps | x))` at every x. For variances up to 1 the ratio `p' / p` is largest at 0,
    where it is `variance ** -0.5`; above 1 it has no bound. If the laws agree every s will do: 0.

    Args:
        variance: of the points on the opponent's path, positive; the data's is 1.
    """
    if variance > 1:
        return math.inf
    return (variance**-0.5 - 1) / (2 * curvature_ratio() * SPREAD)


class Line:
    """The own-path objective less l(0) on a grid of points x, as a function of the player's values there less the best denoiser's.

    Means are sums over x, over the opponent's point x', and over the noise given x (Gauss-Hermite nodes); nothing is drawn.
    The grid ends at 3.5 standard deviations of the data: gains farther out, where a wider opponent's lie at a large s, are not seen.
    """

    def __init__(self, variance: float, points: int = 41, nodes: int = 7) -> None:
        self.x = torch.linspace(-3.5, 3.5, points, dtype=torch.float64)
        self.real, self.generated = (self._law(v) for v in (1.0, variance))
        z, weight = np.polynomial.hermite_e.hermegauss(nodes)
        self.noise = torch.tensor(z * math.sqrt(SPREAD))
        self.weight = torch.tensor(weight / weight.sum())

    def _law(self, variance: float) -> Tensor:
        density = torch.exp(-self.x.square() / (2 * variance))
        return density / density.sum()

    def excess(self, move: Tensor, scale: float) -> Tensor:
        """Return the objective less l(0) of the player eps* + move, a number; `move` has one value per grid point, `scale` is s."""
        own = 2 * self.noise * move[:, None] - move.square()[:, None]  # (x, noise)
        margin = scale * (own[:, None, :] + move.square()[None, :, None])  # (x, x', noise)
        return torch.einsum("i,j,k,ijk->", self.real, self.generated, self.weight, LINK.value(margin) - LINK.value(0 * margin))

    def lowest(self, scale: float, starts: int = 5, seed: int = 0) -> float:
        """Return the least excess that minimising over all functions finds from `starts` random functions, in nats; never above 0."""
        generator = np.random.default_rng(seed)

        def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
            move = torch.tensor(flat, requires_grad=True)
            loss = self.excess(move, scale)
            (gradient,) = torch.autograd.grad(loss, move)
            return float(loss.detach()) * 1e6, gradient.numpy() * 1e6  # in units in which the minimiser does not stop at once

        found = [0.0]
        for start in range(starts):
            size = 10 ** (-1.5 + 2 * start / max(starts - 1, 1))
            moves = size * generator.standard_normal(len(self.x)) * (self.generated > self.real).numpy()
            found.append(float(minimize(value, moves, jac=True, method="L-BFGS-B", options={"maxiter": 300}).fun) / 1e6)
        return min(found)


def phase_diagram(scales: Sequence[float], variances: Sequence[float], starts: int = 4) -> pd.DataFrame:
    """Return, for every scale s and variance of the opponent's points, the least excess found and the scale from which theory says none."""
    rows = []
    for variance in variances:
        line = Line(variance)
        for scale in scales:
            rows.append({"variance": variance, "scale": scale, "lowest": line.lowest(scale, starts), "threshold": threshold(variance)})
    return pd.DataFrame(rows).assign(moves=lambda table: table["lowest"] < -FOUND)


def checks(phases: pd.DataFrame) -> list[Check]:
    """Return what the notebook asserts of the phase diagram."""
    narrow = phases[phases["variance"] < 1]
    below, above = narrow[narrow["scale"] < 0.8 * narrow["threshold"]], narrow[narrow["scale"] > 1.25 * narrow["threshold"]]
    agree, wide = phases[phases["variance"] == 1], phases[(phases["variance"] > 1) & (phases["scale"] <= 1)]
    return [
        Check("below the threshold some function beats the best denoiser on the own path", "share of cases",
              float(below["moves"].mean()), ">=", 1),
        Check("above the threshold none was found, although the laws differ", "share of cases with one",
              float(above["moves"].mean()), "<=", 0),
        Check("where the laws agree none was found at any scale", "share of cases with one", float(agree["moves"].mean()), "<=", 0),
        Check("where the opponent's points are spread wider than the data's some function does better, at s up to 1", "share of cases",
              float(wide["moves"].mean()), ">=", 1),
    ]  # fmt: skip
