"""Make the mixtures, texts and batches that the derivation notebooks share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from selfimprove import draws, losses
from selfimprove.models.network import Denoiser
from selfimprove.schedule import Schedule
from selfimprove_lab.theory.mixture import Mixture, PointWorld, cosine_schedule, flow_schedule

CONDITIONS, DIMENSIONS = 2, 2
_MEANS = [[[-1.1, 0.2], [0.9, 0.7]], [[0.1, -1.2], [0.6, 0.9]]]
_FACTORS = [[[0.35, 0.0], [0.15, 0.25]], [[0.25, 0.0], [-0.1, 0.4]]]


def point_world(steps: int, last_alpha: float = 1e-3) -> PointWorld:
    """Return a world of two dimensions and two conditions, with a schedule of `steps` steps down to alpha_T = `last_alpha`."""
    return PointWorld(cosine_schedule(steps, last_alpha), DIMENSIONS, CONDITIONS)


def flow_world(shift: float = 1.0) -> PointWorld:
    """Return the same world on a flow's path, whose sampling times are shifted towards noise by `shift`."""
    return PointWorld(flow_schedule(shift), DIMENSIONS, CONDITIONS)


def data_mixture(schedule: Schedule, shift: float = 0.0, spread: float = 1.0) -> Mixture:
    """Return p_data(x | c), two correlated components per condition; `shift` and `spread` give mixtures near it."""
    means = torch.tensor(_MEANS, dtype=torch.float64) + shift * torch.tensor([1.0, -0.5], dtype=torch.float64)
    factors = torch.tensor(_FACTORS, dtype=torch.float64).expand(CONDITIONS, 2, 2, 2) * spread
    return Mixture(schedule, torch.tensor([[0.4, 0.6], [0.5, 0.5]], dtype=torch.float64), means, factors)


def texts(world: PointWorld, count: int, condition: int | None = None) -> Tensor:
    """Return `count` texts: all of one condition, or the conditions in turn."""
    numbers = torch.arange(count) % world.conditions if condition is None else torch.full((count,), condition)
    return world.embed(numbers)


def empty_text(world: PointWorld) -> Tensor:
    """Return the empty caption."""
    return world.embed(torch.tensor([-1]))


def ids(count: int) -> list[str]:
    """Return the identities of `count` examples."""
    return [draws.example_id("point", i) for i in range(count)]


def times(schedule: Schedule, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` training times, uniform over the middles of equal parts of the schedule: a hundred, or all of a shorter schedule."""
    levels = min(len(schedule), 100)  # few levels are quick: matrices of mixtures are computed once per level
    return schedule.time((torch.randint(levels, (count,), generator=generator) + 0.5) / levels)


@dataclass(frozen=True)
class Batch:
    """One batch of the practical objective: noisy points of both sides, and what a model should say, each (B, d, 1, 1), at times (B,).

    Targets are the noise, or on a flow the velocity. Each side has noise of its own, as the formula has it; the released code shares the
    noise.
    """

    t: Tensor
    text: Tensor
    noisy: Tensor
    target: Tensor
    forward: Tensor
    forward_target: Tensor

    @staticmethod
    def make(
        world: PointWorld, real: Tensor, generated: Tensor, text: Tensor, generator: torch.Generator,
        forward_noise: Tensor | None = None,
    ) -> "Batch":  # fmt: skip
        """Noise both sides with draws of the generator, or the generated one with the noise given, and return the batch."""
        schedule, t = world.schedule, times(world.schedule, len(text), generator)
        eps, forward_eps = torch.randn(2, *real.shape, dtype=torch.float64, generator=generator)
        sides = ((real, eps), (generated, forward_eps if forward_noise is None else forward_noise))
        noisy, forward = (schedule.add_noise(clean, e, t) for clean, e in sides)
        return Batch(t, text, noisy, schedule.target(real, eps, t), forward, schedule.target(*sides[1], t))

    def errors(self, model: Denoiser) -> tuple[Tensor, Tensor]:
        """Return a model's errors on the real and the generated side, each (B,)."""
        both = model(torch.cat([self.noisy, self.forward]), self.t.repeat(2), self.text.repeat(2, 1, 1)).sample
        real, generated = both.chunk(2)
        return losses.squared_error(real, self.target), losses.squared_error(generated, self.forward_target)

    def spin(self, player: Denoiser, opponent: Denoiser, beta: float) -> losses.SpinTerms:
        """Return the practical objective's terms, convention "paper", logistic link; the player's graph is kept."""
        with torch.no_grad():
            reference = self.errors(opponent)
        return losses.spin(*self.errors(player), *reference, beta, "paper", DIMENSIONS)


def training_step(optimiser: torch.optim.Optimizer, batch: Batch, player: Denoiser, opponent: Denoiser | None, beta: float) -> None:
    """Take one optimiser step on the practical objective, or, without an opponent, of fine-tuning on the batch's real side."""
    if opponent is None:
        error = losses.squared_error(player(batch.noisy, batch.t, batch.text).sample, batch.target)
        loss = losses.denoising(error).loss.mean()
    else:
        loss = batch.spin(player, opponent, beta).loss.mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
