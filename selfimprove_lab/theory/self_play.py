"""Notebooks 05 and 14, last sections: play self-play and fine-tuning on the mixture, round after round."""

import copy
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from selfimprove import losses
from selfimprove.models.network import Denoiser
from selfimprove.rollout import rollout
from selfimprove_lab.theory.mixture import Mixture, PointWorld, kl_terms
from selfimprove_lab.theory.own_noise import PAIRINGS, Pairing, paired_batch
from selfimprove_lab.theory.paths import trajectory
from selfimprove_lab.theory.worlds import Batch, data_mixture, empty_text, flow_world, ids, point_world, texts, training_step


@dataclass(frozen=True)
class Arm:
    """One way of training on the mixture world; `guidance` is that of the rollout and of the evaluation."""

    name: str
    objective: str  # "spin" or "sft"
    components: int = 2  # per condition; p_data has 2, so 2 can reach it and 1 cannot
    guidance: float = 1.0
    flow: bool = False
    pairing: Pairing = "fresh"  # of the opponent's images with noise
    beta: float = 1.5

    @property
    def world(self) -> PointWorld:
        """Return the world that the arm plays in."""
        return flow_world() if self.flow else point_world(100)


ARMS = (
    Arm("SPIN, reachable", "spin"),
    Arm("SFT, reachable", "sft"),
    Arm("SPIN, unreachable", "spin", components=1),
    Arm("SFT, unreachable", "sft", components=1),
    Arm("SPIN, reachable, guidance 2", "spin", guidance=2.0),
)
FRESH_LOW, FRESH_HIGH, OWN_LOW, OWN_HIGH = (f"{PAIRINGS[p]}, beta {b}" for p in ("fresh", "own") for b in (0.4, 1.5))
OWN_PATH = f"{PAIRINGS['path']}, beta 1.5"
PATHS = tuple(
    Arm(f"{objective.upper()}, {('DDIM', 'Euler')[flow]}", objective, flow=flow) for flow in (False, True) for objective in ("spin", "sft")
)
OWN = (  # beside the arm "SPIN, Euler", which has fresh noise and beta 1.5
    Arm(FRESH_LOW, "spin", flow=True, beta=0.4),
    Arm(OWN_LOW, "spin", flow=True, pairing="own", beta=0.4),
    Arm(OWN_HIGH, "spin", flow=True, pairing="own"),
    Arm(OWN_PATH, "spin", flow=True, pairing="path"),
)
SAMPLER_STEPS = 8


def family(world: PointWorld, components: int, seed: int) -> Mixture:
    """Return a mixture near p_data with `components` per condition, to be trained: round 0."""
    generator = torch.Generator().manual_seed(seed)
    if components == 2:
        base = data_mixture(world.schedule, 0.4, 1.3)
        means, factors = base.means.detach(), base.factors.detach()
        means = means + 0.1 * torch.randn(means.shape, dtype=torch.float64, generator=generator)
    else:
        means = 0.3 * torch.randn(2, components, 2, dtype=torch.float64, generator=generator)
        factors = 0.8 * torch.eye(2, dtype=torch.float64).expand(2, components, 2, 2)
    return Mixture(world.schedule, torch.ones(2, means.shape[1], dtype=torch.float64), means, factors)


def play_arm(arm: Arm, seed: int, rounds: int, steps: int, samples: int, lr: float = 1.5e-2) -> pd.DataFrame:
    """Play the rounds of one arm; return one row per round, row 0 for the start.

    The rollout and the evaluation use SAMPLER_STEPS steps of DDIM or Euler. For the columns see `distances`. The learning rate falls within
    each round and over the rounds.
    """
    world = arm.world
    data, player = data_mixture(world.schedule), family(world, arm.components, seed)
    generator = torch.Generator().manual_seed(1000 + seed)
    text, empty, rows = texts(world, samples), empty_text(world), []
    for round_index in range(rounds + 1):
        rows.append({"arm": arm.name, "seed": seed, "round": round_index} | distances(world, player, arm.guidance, samples))
        if round_index == rounds:
            break
        opponent = copy.deepcopy(player)
        if arm.objective == "spin":
            path = trajectory(world, opponent, text, empty, ids(samples), seed, "rollout", round_index, SAMPLER_STEPS, arm.guidance)
        optimiser = torch.optim.Adam(player.parameters(), lr)
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = lr * (1 - step / steps) * (1 - 0.8 * round_index / rounds)
            rowsel = torch.randint(samples, (256,), generator=generator)
            real = data.sample(text[rowsel], generator)
            if arm.objective == "spin":
                batch = paired_batch(arm.pairing, world, opponent, path, rowsel, real, text[rowsel], generator)
            else:
                batch = Batch.make(world, real, real, text[rowsel], generator)
            training_step(optimiser, batch, player, opponent if arm.objective == "spin" else None, arm.beta)
    return pd.DataFrame(rows)


@torch.no_grad()
def distances(world: PointWorld, model: Denoiser, guidance: float, samples: int) -> dict[str, Any]:
    """Return how far the sampler's output is from p_data (KL beyond as many exact samples', nats), and the model's output from the best.

    `terms` holds each point's share of the KL. All models start from the same noise, so that differences can be paired.
    """
    data, text = data_mixture(world.schedule), texts(world, samples, condition=0)
    points = rollout(world, model, text, empty_text(world), ids(samples), 7, "evaluation", 0, SAMPLER_STEPS, guidance)
    generator = torch.Generator().manual_seed(8)
    exact = data.sample(text, generator)
    terms = kl_terms(points[:, :, 0, 0], data, text)
    batch = Batch.make(world, data.sample(text, generator), exact, text, generator)
    best, ours = (m(batch.noisy, batch.t, text).sample for m in (data, model))
    excess = float(terms.mean() - kl_terms(exact[:, :, 0, 0], data, text).mean())
    return {"samples": excess, "denoiser": float(losses.squared_error(ours, best).mean()), "terms": terms}


def exact_level(samples: int, world: PointWorld | None = None, guidance: float = 1.0) -> float:
    """Return the KL of `distances` for the exact denoiser: what SAMPLER_STEPS steps cost a perfect model, on a diffusion by default."""
    world = world or point_world(100)
    return float(distances(world, data_mixture(world.schedule), guidance, samples)["samples"])
