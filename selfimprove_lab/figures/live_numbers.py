"""Compute by the package what the figures of `selfimprove_lab.figures.live` compute in the browser, so that tests can compare the two."""

import math
from dataclasses import replace
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from jaxtyping import Float64
from torch import Tensor
from torch.func import functional_call

from selfimprove import losses
from selfimprove.config import Settings
from selfimprove.models.paths import FlowSchedule
from selfimprove.schedule import Schedule, Step, density
from selfimprove_lab.figures.live import WORLDS
from selfimprove_lab.theory.mixture import Mixture, cosine_schedule

Points = Float64[Tensor, " n"]
_GOLDEN = 1.1673039782614187  # the root of x^5 = x + 1: its powers spread points evenly in four dimensions


def _mixture(schedule: Schedule, law: dict[str, list[float]]) -> Mixture:
    weights, means, sds = (torch.tensor(law[name], dtype=torch.float64) for name in ("weights", "means", "sds"))
    return Mixture(schedule, weights[None], means[None, :, None], sds[None, :, None, None])


def _quantiles(law: dict[str, list[float]], at: Points) -> Points:
    """Return a mixture's quantiles, by bisection."""
    weights, means, sds = (torch.tensor(law[name], dtype=torch.float64) for name in ("weights", "means", "sds"))
    low, high = torch.full_like(at, -5), torch.full_like(at, 5)
    for _ in range(60):
        middle = (low + high) / 2
        below = (weights * torch.special.ndtr((middle[:, None] - means) / sds)).sum(1) < at
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def _even(count: int) -> Points:
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def _distance(law: dict[str, list[float]], points: Points) -> float:
    return float((points.sort().values - _quantiles(law, _even(len(points)))).abs().mean())


@torch.no_grad()
def _draw(schedule: Schedule, model: Mixture, points: Points, steps: tuple[Step, ...]) -> Points:
    x, text = points[:, None, None, None], torch.ones(len(points), 1, 1, dtype=torch.float64)
    for step in steps:
        x = schedule.reverse(x, model(x, step.t, text).sample, step).mean
    return x.flatten()


def sampling(steps: int) -> dict[str, float]:
    """Return the distance of the samples from the data by DDIM and by Euler's method, in units of x."""
    world = WORLDS["sampling"]
    first, found = torch.special.ndtri(_even(world["points"])), {}
    flow = FlowSchedule(FlowMatchEulerDiscreteScheduler(), torch.device("cpu"), torch.float64, even_sigmas=True)
    for name, schedule in (("ddim", cosine_schedule(steps, world["lastAlpha"])), ("flow", flow)):
        drawn = _draw(schedule, _mixture(schedule, world["data"]), first, schedule.steps(steps if name == "flow" else None))
        found[name] = _distance(world["data"], drawn)
    return found


def self_play(beta: float, rounds: int) -> list[dict[str, float]]:
    """Return what each round ends with: `distance` of the player's samples, and from round 1 on `loss`, `ahead` and `before`."""
    world = WORLDS["self-play"]
    schedule = cosine_schedule(world["times"], world["lastAlpha"])
    sampler, first = cosine_schedule(world["rolloutSteps"], world["lastAlpha"]), torch.special.ndtri(_even(world["points"]))
    parameters = torch.tensor(world["start"], dtype=torch.float64)
    drawn = _draw(sampler, _mixture(sampler, _law(parameters)), first, sampler.steps())
    found: list[dict[str, float]] = [{"distance": _distance(world["data"], drawn)}]
    for _ in range(rounds):
        parameters, end = _round(world, schedule, sampler, parameters, beta)
        drawn = _draw(sampler, _mixture(sampler, _law(parameters)), first, sampler.steps())
        found.append(end | {"distance": _distance(world["data"], drawn), "before": found[-1]["distance"]})
    return found


def _law(parameters: Points) -> dict[str, list[float]]:
    weight = 1 / (1 + math.exp(-float(parameters[0])))
    return {"weights": [weight, 1 - weight], "means": parameters[1:3].tolist(), "sds": parameters[3:].exp().tolist()}


def _round(world: dict[str, Any], schedule: Schedule, sampler: Schedule, start: Points, beta: float) -> tuple[Points, dict[str, float]]:
    """Play one round by the package's loss and torch's Adam; return the player's parameters, and its loss and implicit accuracy."""
    numbers = torch.arange(1, world["examples"] + 1, dtype=torch.float64)
    real, noise, time, first = ((0.5 + numbers / _GOLDEN**d) % 1 for d in (1, 2, 3, 4))
    opponent = _mixture(schedule, _law(start))
    generated = _draw(sampler, _mixture(sampler, _law(start)), torch.special.ndtri(first), sampler.steps())
    t, eps = (time * world["times"]).long(), torch.special.ndtri(noise)[:, None, None, None]
    text = torch.ones(len(t), 1, 1, dtype=torch.float64)
    sides = [schedule.add_noise(x[:, None, None, None], eps, t) for x in (_quantiles(world["data"], real), generated)]
    with torch.no_grad():
        reference = [losses.squared_error(opponent(x, t, text).sample, eps) for x in sides]

    def terms(p: Tensor) -> losses.SpinTerms:
        log_weights = torch.stack([torch.nn.functional.logsigmoid(p[0]), torch.nn.functional.logsigmoid(-p[0])])
        named = {"log_weights": log_weights[None], "means": p[1:3][None, :, None], "factors": p[3:].exp()[None, :, None, None]}
        real, generated = (losses.squared_error(functional_call(opponent, named, (x, t, text)).sample, eps) for x in sides)
        return losses.spin(real, generated, reference[0], reference[1], beta, "paper", 1)

    player = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([player], world["rate"])
    for _ in range(world["trainingSteps"]):
        optimiser.zero_grad()
        terms(player).loss.mean().backward()
        optimiser.step()
    end = terms(player.detach())
    return player.detach(), {"loss": float(end.loss.mean()), "ahead": float(end.implicit_accuracy.double().mean())}


def times(shift: float) -> dict[str, dict[str, float]]:
    """Return each law's median, and its share of times above the world's `late`, from a hundred thousand even quantiles."""
    world, even, plain = WORLDS["times"], _even(100_001), Settings()
    laws = {
        "uniform": plain,
        "logit-normal": replace(plain, time_density="logit-normal"),
        "mode": replace(plain, time_density="mode", time_std=world["modeScale"]),
    }
    drawn = {name: density(even, replace(law, time_shift=shift)) for name, law in laws.items()}
    return {name: {"median": float(s.median()), "above": float((s > world["late"]).double().mean())} for name, s in drawn.items()}
