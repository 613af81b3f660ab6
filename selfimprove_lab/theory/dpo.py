"""Notebook 06: find where Diffusion-DPO and SPIN share a formula, where they part, and the four readings of beta."""

import copy
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from selfimprove import losses
from selfimprove.rollout import rollout
from selfimprove_lab.theory.checks import Check
from selfimprove_lab.theory.mixture import Mixture, PointWorld
from selfimprove_lab.theory.worlds import Batch, data_mixture, empty_text, ids, point_world, texts, training_step

DIRECTION = torch.tensor([0.8, 0.6], dtype=torch.float64)  # utility rises along this direction


def same_formula(count: int = 64, beta: float = 2000.0) -> float:
    """Return the largest difference between Diffusion-DPO's loss (arXiv 2311.12908, eq. 14), as its code has it, and `losses.spin`."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, 4, 8, 8)
    noise, *predictions = 0.1 * torch.randn(5, *shape, dtype=torch.float64, generator=generator)
    model_w, model_l, reference_w, reference_l = predictions
    difference = [(noise - p).square().mean((1, 2, 3)) for p in (model_w, reference_w, model_l, reference_l)]
    written_out = -F.logsigmoid(-0.5 * beta * ((difference[0] - difference[1]) - (difference[2] - difference[3])))
    errors = losses.Errors(*(losses.squared_error(p, noise) for p in (model_w, model_l, reference_w, reference_l)))
    ours = losses.spin(*errors, beta, "diffusion-dpo", 256).loss
    return float((ours - written_out).abs().max())


def convention_table(beta: float = 2000.0) -> pd.DataFrame:
    """Return the betas of one logit in the four conventions, for the latents of Stable Diffusion and of the shapes world."""
    latents = {"Stable Diffusion, 4 x 64 x 64": 4 * 64 * 64, "shapes, 16 x 8 x 8": 16 * 8 * 8}
    rows = []
    for name, (reduction, factor) in losses.CONVENTIONS.items():
        row: dict[str, str | float] = {"convention": name, "squared norm is a": reduction, "factor": factor}
        rows.append(row | {k: losses.convert_beta(beta, "diffusion-dpo", name, d) for k, d in latents.items()})
    return pd.DataFrame(rows).set_index("convention")


def convention_spread(beta: float = 2000.0) -> float:
    """Return the largest relative difference of the four conventions' logits to logits written out by hand from full-size residuals."""
    generator = torch.Generator().manual_seed(1)
    squares = torch.randn(4, 64, 1024, dtype=torch.float64, generator=generator).square()  # player r, g; opponent r, g
    bracket = (squares[0] - squares[2]) - (squares[1] - squares[3])
    betas = {name: losses.convert_beta(beta, "diffusion-dpo", name, 1024) for name in losses.CONVENTIONS}
    by_hand = {
        "diffusion-dpo": -0.5 * betas["diffusion-dpo"] * bracket.mean(1), "diffusers": -betas["diffusers"] * bracket.mean(1),
        "summed-half": -0.5 * betas["summed-half"] * bracket.sum(1), "paper": -betas["paper"] * bracket.sum(1),
    }  # fmt: skip
    errors = losses.Errors(*squares.mean(2))
    margins = [losses.spin(*errors, betas[name], name, 1024).margin for name in losses.CONVENTIONS] + list(by_hand.values())
    return float(max(((m - by_hand["diffusion-dpo"]) / by_hand["diffusion-dpo"]).abs().max() for m in margins))


class Pairs(NamedTuple):
    """Preference pairs of points, each (N, 2, 1, 1), and their texts."""

    winners: Tensor
    losers: Tensor
    text: Tensor


def utility(points: Tensor) -> Tensor:
    """Return what the labeller likes: a linear function of the point."""
    return points[:, :, 0, 0] @ DIRECTION


def preference_pairs(world: PointWorld, base: Mixture, count: int, seed: int, sharpness: float = 3.0) -> Pairs:
    """Draw two points of the base per text, and label them by a Bradley-Terry coin on their utility."""
    generator = torch.Generator().manual_seed(seed)
    text = texts(world, count)
    first, second = base.sample(text, generator), base.sample(text, generator)
    chance = torch.sigmoid(sharpness * (utility(first) - utility(second)))
    wins = (torch.rand(count, dtype=torch.float64, generator=generator) < chance).view(-1, 1, 1, 1)
    return Pairs(torch.where(wins, first, second), torch.where(wins, second, first), text)


def preference_run(method: str, seed: int, rounds: int, steps: int, samples: int, beta: float = 1.0, lr: float = 1e-2) -> pd.DataFrame:
    """Train a mixture that starts as the base on pairs ("dpo"), on winners against its past ("spin"), or on winners ("sft").

    Every round has the same number of steps. DPO's reference is the base throughout. There is one row per round: the mean utility of the
    sampler's points, beside that of the winners and of the base.
    """
    world = point_world(50)
    base = data_mixture(world.schedule, 0.2, 1.2)
    player, pairs = copy.deepcopy(base), preference_pairs(world, base, samples, seed)
    generator, empty, rows = torch.Generator().manual_seed(1000 + seed), empty_text(world), []
    optimiser = torch.optim.Adam(player.parameters(), lr)
    for index in range(rounds + 1):
        points = rollout(world, player, pairs.text, empty, ids(samples), seed, "evaluation", 0, None, 1.0)
        liked = utility(points)
        rows.append({
            "method": method, "seed": seed, "round": index, "utility": float(liked.mean()), "error": float(liked.std() / samples**0.5),
            "winners": float(utility(pairs.winners).mean()), "base": float(utility(torch.cat([pairs.winners, pairs.losers])).mean()),
        })  # fmt: skip
        if index == rounds:
            break
        opponent = copy.deepcopy(player) if method == "spin" else base
        other = pairs.losers
        if method == "spin":
            other = rollout(world, opponent, pairs.text, empty, ids(samples), seed, "rollout", index, None, 1.0)
        for _ in range(steps):
            chosen = torch.randint(samples, (256,), generator=generator)
            batch = Batch.make(world, pairs.winners[chosen], other[chosen], pairs.text[chosen], generator)
            training_step(optimiser, batch, player, None if method == "sft" else opponent, beta)
    return pd.DataFrame(rows)


def checks(difference: float, spread: float, runs: pd.DataFrame) -> list[Check]:
    """Return what the notebook asserts."""
    last = runs[runs["round"] == runs["round"].max()]

    def beyond(method: str) -> np.ndarray:
        chosen = last[last["method"] == method]
        return (chosen["utility"] - chosen["winners"]).to_numpy()

    error = last.groupby("method")["error"].max()
    way = last["winners"] - last["base"]
    return [
        Check("Diffusion-DPO's loss is SPIN's, with the loser as the generated image", "largest difference", difference, "<=", 1e-10),
        Check("the four conventions give one logit", "largest relative difference", spread, "<=", 1e-6),
        Check("DPO goes beyond its winners", "smallest utility over the winners', less 5 s.e.",
              float(beyond("dpo").min()) - 5 * error["dpo"], ">=", 0),
        Check("SPIN stops at them", "largest |utility less the winners'| plus 5 s.e., over the way from the base to the winners",
              (float(np.abs(beyond("spin")).max()) + 5 * error["spin"]) / float(way.min()), "<=", 0.35),
    ]  # fmt: skip
