"""Notebook 05: test whether the opponent is the only minimum of the practical objective once its samples have the data's law.

One dimension and one step. Means are sums over Gauss-Hermite nodes: nothing is drawn, and a flat objective is flat to rounding.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from selfimprove import losses
from selfimprove_lab.theory.checks import Check
from selfimprove_lab.theory.fixed_points import ALPHA, OPPONENT

Denoiser = Callable[[Tensor], Tensor]
ROOT, REST = math.sqrt(ALPHA), math.sqrt(1 - ALPHA)
FLAT = 1e-10  # nats; below it an excess is rounding


@dataclass(frozen=True)
class Case:
    """A setting of the practical objective in which the opponent's samples have the data's law, and a way to leave the opponent.

    `spread` is the data's standard deviation; `player(r)` returns the denoiser at distance r from `opponent`, which is `player(0)`.
    """

    name: str
    link: str
    spread: float
    shared: bool  # whether both sides have the same noise
    player: Callable[[float], Denoiser]
    unique: bool  # what the propositions say


def _steeper(slope: float) -> Callable[[float], Denoiser]:
    return lambda r: lambda x: (slope + r) * x


def _mirrored(r: float) -> Denoiser:
    """Return eps_k + r (eps* - eps_k) for data that are the point 0, whose eps* = x / sqrt(1 - alpha); at r = 2 the margin is 0."""
    return lambda x: (1 - r) * OPPONENT * x + r * x / REST


CASES = (
    Case("logistic link", "logistic", 1.0, False, _steeper(OPPONENT), unique=True),
    Case("correlation link", "correlation", 1.0, False, _steeper(OPPONENT), unique=False),
    Case("logistic link, data are one point", "logistic", 0.0, False, _mirrored, unique=False),
    Case("logistic link, shared noise", "logistic", 1.0, True, _steeper(OPPONENT), unique=True),
    Case("logistic link, shared noise, constant denoisers", "logistic", 2**0.5, True, lambda r: lambda x: 0 * x + r, unique=False),
)


def excess(case: Case, distance: float, beta: float = 1.0, nodes: int = 14) -> float:
    """Return the practical objective of the player at `distance` from the opponent, less l(0), in nats."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    points, weights = torch.tensor(z), torch.tensor(w / w.sum())
    ones = torch.ones(1, dtype=torch.float64)
    image = (points, weights) if case.spread else (0 * ones, ones)
    generated_noise = (0 * ones, ones) if case.shared else (points, weights)
    grids = torch.meshgrid(image[0], image[0], points, generated_noise[0], indexing="ij")
    weight = torch.einsum("i,j,k,l->ijkl", image[1], image[1], weights, generated_noise[1])
    real, fake, eps = case.spread * grids[0], case.spread * grids[1], grids[2]
    fake_eps = eps if case.shared else grids[3]
    noisy, forward = ROOT * real + REST * eps, ROOT * fake + REST * fake_eps
    player, opponent = case.player(distance), case.player(0.0)
    sides = (noisy, eps), (forward, fake_eps)
    errors = losses.Errors(*((e - f(x)).square().flatten() for f in (player, opponent) for x, e in sides))
    loss = losses.spin(*errors, beta, "paper", 1, case.link).loss.view(weight.shape)
    at_zero = float(losses.get_link(case.link).value(torch.zeros(1, dtype=torch.float64)))
    return float((weight * loss).sum()) - at_zero


def flat_players(distances: Sequence[float]) -> pd.DataFrame:
    """Return the excess over l(0) by case and distance from the opponent, with what the propositions say of the case."""
    rows = [{"case": c.name, "unique": c.unique, "distance": r, "excess": excess(c, r)} for c in CASES for r in distances]
    return pd.DataFrame(rows)


def checks(table: pd.DataFrame) -> list[Check]:
    """Return what the notebook asserts; the mirrored player of the one-point data is at distance 2."""
    away = table[table["distance"] > 0]
    unique, flat = away[away["unique"]], away[~away["unique"]]
    mirrored = flat["case"].str.contains("one point") & ~np.isclose(flat["distance"], 2)
    return [
        Check("strictly convex link, independent sides: every other player is above l(0)", "smallest excess, nats",
              float(unique["excess"].min()), ">=", 100 * FLAT),
        Check("where a hypothesis fails other players reach l(0)", "largest |excess|, nats",
              float(flat[~mirrored]["excess"].abs().max()), "<=", FLAT),
        Check("with data that are one point only the mirrored player does", "smallest excess of the others, nats",
              float(flat[mirrored]["excess"].min()), ">=", 100 * FLAT),
    ]  # fmt: skip
