"""Notebook 02, last section: measure what forward-noised samples do to the objective in place of the opponent's own path."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from selfimprove import losses
from selfimprove.models.network import Denoiser
from selfimprove.rollout import predict
from selfimprove_lab.theory.paths import trajectory
from selfimprove_lab.theory.worlds import data_mixture, empty_text, ids, point_world, texts


class Scaled(nn.Module):
    """A denoiser times a factor. It is no longer the best denoiser of its own samples, and neither is a model with guidance."""

    def __init__(self, denoiser: Denoiser, factor: float) -> None:
        super().__init__()
        self.denoiser, self.factor = denoiser, factor

    def forward(self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor) -> Any:
        """Return the predicted noise, with the signature of a UNet."""
        return SimpleNamespace(sample=self.factor * self.denoiser(sample, timestep, encoder_hidden_states).sample)


@dataclass(frozen=True)
class Case:
    """One way in which the practical objective may differ from the objective on the opponent's own path."""

    name: str
    steps: int = 100  # steps of the opponent's sampler
    last_alpha: float = 1e-4  # alpha_T: how far q(x_T) is from the N(0, I) that sampling starts from
    factor: float = 1.0  # multiplies the opponent's denoiser; if not 1, it is not the best on its own samples
    guidance: float = 1.0
    beta: float = 3.0


CASES = (
    Case("consistent: the best denoiser, 100 steps"),
    Case("samples of 5 steps", steps=5),
    Case("samples of a start that is not noise", last_alpha=0.3),
    Case("denoiser scaled by 0.7", factor=0.7),
    Case("the same, at beta 0.5", factor=0.7, beta=0.5),
    Case("samples and denoiser at guidance 3", guidance=3.0),
)


def practical_bias(count: int, cases: Sequence[Case] = CASES, seed: int = 0) -> pd.DataFrame:
    """Return what forward-noised samples do to the objective in place of the opponent's own path, split in two.

    Each example has one t, uniform over the sampler's. Player and opponent are fixed. The real side, t and x'_0 are shared, so that all
    differences are paired. `target` is practical less middle: at forward-noised x'_t, e' stands in place of eps_k(x'_t). `law` is middle
    less (C.5): forward-noised x'_t stand in place of the path's own. Under guidance eps_k(x'_t) is the guided prediction that moved the
    path, and the opponent's own error is kept. Both sides draw noise of their own, as conditional Jensen needs. Rows are means with
    standard errors over `count` examples.
    """
    rows = []
    for case in cases:
        world = point_world(100, case.last_alpha)
        data = data_mixture(world.schedule)
        opponent: Denoiser = data_mixture(world.schedule, 0.3, 1.2)
        opponent = Scaled(opponent, case.factor) if case.factor != 1 else opponent
        player = data_mixture(world.schedule, 0.1, 1.1)
        text, names = texts(world, count), ids(count)
        sampler = None if case.steps == 100 else case.steps
        path = trajectory(world, opponent, text, empty_text(world), names, seed, "bias", 0, sampler, case.guidance)
        clean = data.sample(text, torch.Generator().manual_seed(seed + 1))
        generator = torch.Generator().manual_seed(seed + 2)
        index = torch.randint(len(path.steps), (count,), generator=generator)
        t = torch.tensor([s.t for s in path.steps])[index]
        eps, eps_generated = torch.randn(2, count, 2, 1, 1, dtype=torch.float64, generator=generator)
        noisy, forward = world.schedule.add_noise(clean, eps, t), world.schedule.add_noise(path.clean, eps_generated, t)
        own = path.states[index, torch.arange(count)]

        def errors(denoiser: Denoiser, points: Tensor, target: Tensor, t: Tensor = t, text: Tensor = text) -> Tensor:
            with torch.no_grad():
                return losses.squared_error(denoiser(points, t, text).sample, target)

        with torch.no_grad():
            targets = {
                name: predict(opponent, points, t, text, empty_text(world), case.guidance)
                for name, points in (("forward", forward), ("own", own))
            }
        real = errors(player, noisy, eps), errors(opponent, noisy, eps)
        sides = {
            "practical": (errors(player, forward, eps_generated), errors(opponent, forward, eps_generated)),
            "middle": (errors(player, forward, targets["forward"]), errors(opponent, forward, targets["forward"])),
            "own path": (errors(player, own, targets["own"]), errors(opponent, own, targets["own"])),
        }
        loss = {k: losses.spin(real[0], p, real[1], o, case.beta, "paper", 2).loss for k, (p, o) in sides.items()}
        row: dict[str, Any] = {"case": case.name} | {k: float(v.mean()) for k, v in loss.items()}
        differences = {
            "target": loss["practical"] - loss["middle"], "law": loss["middle"] - loss["own path"],
            "total": loss["practical"] - loss["own path"],
        }  # fmt: skip
        for name, value in differences.items():
            row |= {name: float(value.mean()), f"{name} error": float(value.std() / math.sqrt(count))}
        rows.append(row)
    return pd.DataFrame(rows)
