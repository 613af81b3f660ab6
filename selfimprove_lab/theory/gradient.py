"""Notebook 04: test equation (5.1), matching, pushing and reweighting, against automatic differentiation and over training."""

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from selfimprove import draws, losses
from selfimprove.config import BetaConvention
from selfimprove.models.network import Denoiser
from selfimprove.rollout import rollout
from selfimprove_lab.theory.checks import Check
from selfimprove_lab.theory.mixture import MLPDenoiser, PointWorld
from selfimprove_lab.theory.worlds import data_mixture, empty_text, ids, point_world, texts, times


class GradientTerms(NamedTuple):
    """The three factors of eq. (5.1): the gradient is the mean of reweighting * (matching - pushing) over the batch.

    `matching` and `pushing` hold, for each parameter, the batch's mean of reweighting times the gradient of the player's squared error on
    the real and on the generated side. `reweighting`, one value per example, is -beta_t l'_t.
    """

    reweighting: Float[Tensor, " b"]
    matching: tuple[Tensor, ...]
    pushing: tuple[Tensor, ...]

    @property
    def gradient(self) -> tuple[Tensor, ...]:
        """Return the gradient of the mean loss, parameter by parameter."""
        return tuple(m - p for m, p in zip(self.matching, self.pushing, strict=True))


def gradient_terms(
    parameters: Sequence[Tensor],
    player_real: Float[Tensor, " b"],
    player_generated: Float[Tensor, " b"],
    reweighting: Float[Tensor, " b"],
    convention: BetaConvention,
    dimensions: int,
) -> GradientTerms:
    """Return eq. (5.1) of SPIN-Diffusion, from errors that still carry the graph and the `reweighting` that `spin` returned."""
    scale = losses.convert_beta(1.0, convention, "diffusers", dimensions)
    matching, pushing = (
        torch.autograd.grad((reweighting * scale * errors).mean(), list(parameters), retain_graph=True, materialize_grads=True)
        for errors in (player_real, player_generated)
    )
    return GradientTerms(reweighting, matching, pushing)


def pretrained_opponent(world: PointWorld, steps: int, seed: int = 0, shift: float = 0.5, spread: float = 1.4) -> MLPDenoiser:
    """Fit a small network by eq. (3.3) to a mixture near the data, and return it: round 0."""
    model = MLPDenoiser(world.schedule, world.dimensions, world.conditions, seed=seed)
    base = data_mixture(world.schedule, shift, spread)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        text = texts(world, 256)
        clean = base.sample(text, generator)
        eps = torch.randn(clean.shape, dtype=clean.dtype, generator=generator)
        t = times(world.schedule, len(clean), generator)
        error = losses.squared_error(model(world.schedule.add_noise(clean, eps, t), t, text).sample, world.schedule.target(clean, eps, t))
        optimiser.zero_grad()
        losses.denoising(error).loss.mean().backward()
        optimiser.step()
    return model


class Bout:
    """A player against its opponent in the practical objective on a mixture; both sides share t and noise, as in the released code."""

    def __init__(self, count: int, pretraining: int = 600, steps: int = 50, seed: int = 0, flow: PointWorld | None = None) -> None:
        self.world, self.seed, self.count = flow or point_world(steps), seed, count
        self.opponent = pretrained_opponent(self.world, pretraining, seed)
        self.player = copy.deepcopy(self.opponent)
        self.text = texts(self.world, count)
        self.real = data_mixture(self.world.schedule).sample(self.text, torch.Generator().manual_seed(seed + 1))
        self.generated = rollout(self.world, self.opponent, self.text, empty_text(self.world), ids(count), seed, "bout", 1, steps, 1.0)

    def errors(self, step: int, t: int | None = None) -> losses.Errors:
        """Return errors at each example's own t of that step, or all at the t given; the player's errors carry their graph."""
        names, schedule = ids(self.count), self.world.schedule
        noise = draws.normal(self.seed, "noise", (1, step), names, self.world.latent_shape).double()
        index = draws.integers(self.seed, "timestep", (1, step), names, len(schedule)) if t is None else torch.full((self.count,), t)
        times = schedule.time((index + 0.5) / len(schedule))
        sides = [(schedule.add_noise(x, noise, times), schedule.target(x, noise, times)) for x in (self.real, self.generated)]

        def errors(model: Denoiser) -> list[Tensor]:
            return [losses.squared_error(model(noisy, times, self.text).sample, target) for noisy, target in sides]

        player = errors(self.player)
        with torch.no_grad():
            opponent = errors(self.opponent)
        return losses.Errors(*player, *opponent)

    def train(self, steps: int, beta: float, link: str = "logistic", lr: float = 3e-4) -> pd.DataFrame:
        """Train with Adam on the practical objective, convention "paper"; return one row per step with the three factors of eq. (5.1).

        `told_apart` is the mean weight of the half of the examples with the larger margin, over that of the other half.
        """
        optimiser, rows = torch.optim.Adam(self.player.parameters(), lr), []
        parameters = list(self.player.parameters())
        for step in range(steps):
            errors = self.errors(step)
            terms = losses.spin(*errors, beta, "paper", 2, link)
            parts = gradient_terms(parameters, errors[0], errors[1], terms.reweighting, "paper", 2)
            order = terms.margin.argsort()
            easy, hard = order[self.count // 2 :], order[: self.count // 2]
            rows.append({
                "step": step, "loss": float(terms.loss.detach().mean()), "margin": float(terms.margin.mean()),
                "accuracy": float(terms.implicit_accuracy.double().mean()), "matching": _norm(parts.matching),
                "pushing": _norm(parts.pushing), "difference": _norm(parts.gradient), "reweighting": float(terms.reweighting.mean()) / beta,
                "told_apart": float(terms.reweighting[easy].mean() / terms.reweighting[hard].mean().clamp_min(1e-12)),
            })  # fmt: skip
            optimiser.zero_grad()
            for parameter, gradient in zip(parameters, parts.gradient, strict=True):
                parameter.grad = gradient
            optimiser.step()
        return pd.DataFrame(rows)


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(v.square().sum()) for v in tensors))


def against_autograd(count: int = 64, betas: Sequence[float] = (1.0, 20.0), flow: PointWorld | None = None) -> pd.DataFrame:
    """Return the largest difference over parameters of (5.1), built from its three factors, to the gradient of the loss, in float64."""
    bout, rows = Bout(count, pretraining=50, flow=flow), []
    for parameter in bout.player.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parameters = list(bout.player.parameters())
    for link in ("logistic", "hinge", "correlation"):
        for beta in betas:
            errors = bout.errors(0)
            terms = losses.spin(*errors, beta, "paper", 2, link)
            parts = gradient_terms(parameters, errors[0], errors[1], terms.reweighting, "paper", 2)
            automatic = torch.autograd.grad(terms.loss.mean(), parameters)
            largest = max(float((a - b).abs().max()) for a, b in zip(automatic, parts.gradient, strict=True))
            rows.append({"link": link, "beta": beta, "norm": _norm(automatic), "largest difference": largest})
    return pd.DataFrame(rows)


def factors_over_t(bout: Bout, beta: float, times: Sequence[int]) -> pd.DataFrame:
    """Return the three factors at single time steps, all examples at the same t, as norms of the batch's mean gradients."""
    rows: list[dict[str, Any]] = []
    for t in times:
        errors = bout.errors(1_000_000, t)  # draws that no training step has used
        terms = losses.spin(*errors, beta, "paper", 2)
        parts = gradient_terms(list(bout.player.parameters()), errors[0], errors[1], terms.reweighting, "paper", 2)
        rows.append({
            "t": t, "matching": _norm(parts.matching) / beta, "pushing": _norm(parts.pushing) / beta,
            "difference": _norm(parts.gradient) / beta, "reweighting": float(terms.reweighting.mean()) / beta,
        })  # fmt: skip
    return pd.DataFrame(rows)


def checks(agreement: pd.DataFrame, training: dict[str, pd.DataFrame], by_beta: dict[float, pd.DataFrame]) -> list[Check]:
    """Return what the notebook asserts."""
    logistic, correlation = training["logistic"], training["correlation"]
    first, last = logistic.iloc[0], logistic.tail(10).mean()
    small, large = by_beta[min(by_beta)], by_beta[max(by_beta)]
    return [
        Check("(5.1) is the gradient, for every link", "largest difference", agreement["largest difference"].max(), "<=", 1e-10),
        Check("and that gradient is not nothing", "smallest norm", agreement["norm"].min(), ">=", 1e-3),
        Check("every round starts at log 2", "difference", abs(first["loss"] - math.log(2)), "<=", 1e-9),
        Check("and with half the slope", "difference of -l' from 1/2", abs(first["reweighting"] - 0.5), "<=", 1e-9),
        Check("training tells the sides apart: the margin rises", "mean margin of the last ten steps", last["margin"], ">=", 0.02),
        Check("examples told apart weigh less (logistic), by a tenth or more", "their weight over the others'",
              last["told_apart"], "<=", 0.9),
        Check("not so for the correlation link", "deviation of that ratio from 1", (correlation["told_apart"] - 1).abs().max(), "<=", 1e-9),
        Check("at the start pushing is the smaller: eps_k is nearly best on its own samples", "pushing over matching",
              first["pushing"] / first["matching"], "<=", 0.5),
        Check("later the two oppose each other", "norm of the difference over the sum of norms",
              last["difference"] / (last["matching"] + last["pushing"]), "<=", 0.5),
        Check("the correlation link's loss runs far below that of any bounded link", "its loss at the end",
              float(correlation["loss"].iloc[-1]), "<=", -5),
        Check("a larger beta ends with less weight", "-l' at the largest beta less at the smallest",
              float(large["reweighting"].tail(10).mean() - small["reweighting"].tail(10).mean()), "<=", 0),
    ]  # fmt: skip
