"""Draw whole paths of samples and of data, with the noise and the densities of their steps, for the exact objective."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from selfimprove import draws
from selfimprove.models.network import Denoiser, EmptyText, Text
from selfimprove.rollout import World, states
from selfimprove.schedule import Step, Transition


@dataclass(frozen=True)
class Trajectory:
    """The states x_T .. x_0 of B examples, from noise to image, in T steps.

    `states[i]` is where `steps[i]` starts, and `states[i + 1]` where it ends. `noise[i]` is the unit noise e_hat of that step, which is
    drawn even if sigma is 0, as C.3 and C.4 of SPIN-Diffusion share it between player and opponent. `log_prob[i]` is `log p(x_{t-1} | x_t)`
    under the distribution sampled from; it is nan if sigma is 0, where there is no density.
    """

    steps: tuple[Step, ...]
    states: Float[Tensor, "states b c h w"]
    noise: Float[Tensor, "steps b c h w"]
    log_prob: Float[Tensor, "steps b"]

    @property
    def clean(self) -> Float[Tensor, "b c h w"]:
        """Return the images' latents, x_0."""
        return self.states[-1]


def transition_log_prob(value: Float[Tensor, "b c h w"], transition: Transition) -> Float[Tensor, " b"]:
    """Return the log density log N(value; mean, std^2 I) of each example; nan if std is 0."""
    if transition.std == 0:
        return torch.full(value.shape[:1], float("nan"), dtype=value.dtype, device=value.device)
    normal = torch.distributions.Normal(transition.mean, transition.std)
    return normal.log_prob(value).sum((1, 2, 3))


@torch.no_grad()
def trajectory(
    world: World,
    denoiser: Denoiser,
    text: Text,
    empty: EmptyText,
    ids: Sequence[str],
    seed: int,
    stream: str,
    round_index: int,
    steps: int | None,
    guidance: float,
    eta: float = 0.0,
) -> Trajectory:
    """Return the whole path of `rollout`, which ends in the same x'_0, on the world's device: T + 1 states per example."""
    plan = world.schedule.steps(steps, eta)
    first, *rest = states(world, denoiser, text, empty, ids, seed, stream, round_index, plan, guidance, keep=True)
    return Trajectory(
        plan,
        torch.stack([first.value, *(s.value for s in rest)]),
        torch.stack([s.noise for s in rest]),
        torch.stack([transition_log_prob(s.value, s.transition) for s in rest if s.transition]),
    )


@torch.no_grad()
def noising_trajectory(
    world: World, clean: Float[Tensor, "b c h w"], ids: Sequence[str], seed: int, stream: str, round_index: int, steps: Sequence[Step]
) -> Trajectory:
    """Draw the data's path, SPIN-Diffusion eq. (3.1): `x_T ~ q(x_T | x_0)`, then `x_{t-1} ~ q(x_{t-1} | x_t, x_0)`, down to `x_0`.

    If the schedule's last alpha is 1, the path ends in `clean` itself.
    """
    schedule, shape, dtype = world.schedule, tuple(clean.shape[1:]), world.schedule.dtype
    clean = clean.to(world.device, dtype)
    first = draws.normal(seed, stream, (round_index,), ids, shape).to(world.device, dtype)
    states = [steps[0].alpha ** 0.5 * clean + steps[0].variance ** 0.5 * first]
    noises, log_probs = [], []
    for index, step in enumerate(steps):
        transition = schedule.posterior(states[-1], clean, step)
        noises.append(draws.normal(seed, f"{stream}/step", (round_index, index), ids, shape).to(world.device, dtype))
        states.append(transition.mean + step.sigma * noises[-1])
        log_probs.append(transition_log_prob(states[-1], transition))
    return Trajectory(tuple(steps), torch.stack(states), torch.stack(noises), torch.stack(log_probs))
