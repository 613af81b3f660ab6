"""Sample with classifier-free guidance; every draw is stateless."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from tqdm.auto import tqdm

from selfimprove import draws
from selfimprove.config import Precision
from selfimprove.models.execution import autocast, in_parts
from selfimprove.models.network import Denoiser, EmptyText, Text, conditioning, guided
from selfimprove.models.pipeline import Diffuser
from selfimprove.models.samplers import SAMPLERS
from selfimprove.schedule import Schedule, Step, Time, Transition


@runtime_checkable
class World(Protocol):
    """What a rollout needs to know beside the denoiser: noise schedule, device, and the shape (C, H, W) of one latent."""

    @property
    def schedule(self) -> Schedule: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def latent_shape(self) -> tuple[int, int, int]: ...


class State(NamedTuple):
    """x_t on the way from noise to image, the unit noise of the step that led to x_t, and the transition of that step (None for x_T)."""

    value: Tensor
    noise: Tensor
    transition: Transition | None


def predict(
    denoiser: Denoiser,
    noisy: Float[Tensor, "b c h w"],
    t: Time | Shaped[Tensor, " b"],
    text: Text,
    empty: EmptyText | None = None,
    guidance: float = 1.0,
) -> Float[Tensor, "b c h w"]:
    """Return the denoiser's guided output for a conditioning, or for plain text embeddings; see `models.network.guided`."""
    return guided(denoiser, noisy, t, conditioning(text), None if empty is None else conditioning(empty), guidance)


def states(
    world: World,
    denoiser: Denoiser,
    text: Text,
    empty: EmptyText,
    ids: Sequence[str],
    seed: int,
    stream: str,
    round_index: int,
    steps: Sequence[Step],
    guidance: float,
    keep: bool,
    interval: Sequence[float] = (),
) -> Iterator[State]:
    """Yield x_T, then the state after each step (SPIN-Diffusion eq. 3.2); with `keep`, draw noise even for steps that use none.

    `interval`: see `guided_at`.
    """
    dtype, shape = world.schedule.dtype, world.latent_shape
    text, empty = text.to(world.device), empty.to(world.device)
    noisy = draws.normal(seed, stream, (round_index,), ids, shape).to(world.device, dtype)
    yield State(noisy, noisy, None)
    for index, step in enumerate(steps):
        scale = guidance if guided_at(step.alpha, step.variance, interval) else 1.0
        transition = world.schedule.reverse(noisy, predict(denoiser, noisy, step.t, text, empty, scale), step)
        noisy, noise = transition.mean, torch.zeros((), dtype=dtype)
        if keep or step.sigma > 0:
            noise = draws.normal(seed, f"{stream}/step", (round_index, index), ids, shape).to(world.device, dtype)
            noisy = noisy + step.sigma * noise
        yield State(noisy, noise, transition)


def guided_at(alpha: float, variance: float, interval: Sequence[float]) -> bool:
    """Return whether a step from a_t^2 = `alpha` and b_t^2 = `variance` is guided: its noise level b/a lies in (low, high].

    Every step is, without an interval. In the middle guidance does good, and elsewhere harm or nothing (Kynkäänniemi et al. 2024, eq. 5).
    """
    return not interval or interval[0] ** 2 * alpha < variance <= interval[1] ** 2 * alpha


def _solve(
    world: World, denoiser: Denoiser, text: Text, empty: EmptyText, noisy: Tensor, steps: int | None, guidance: float, sampler: str,
    interval: Sequence[float],
) -> Tensor:  # fmt: skip
    """Solve the probability-flow equation from x_T = `noisy` with a multistep solver of diffusers, on the model's own noise schedule."""
    world.schedule.timesteps(steps)  # raises for a number of steps that the schedule does not have
    solver = SAMPLERS[sampler].solver(world.schedule.solver_config())
    solver.set_timesteps(steps or len(world.schedule))
    text, empty, noisy = text.to(world.device), empty.to(world.device), noisy * solver.init_noise_sigma
    for t in solver.timesteps:
        scale = guidance if guided_at(*world.schedule.power(t.item()), interval) else 1.0
        output = predict(denoiser, solver.scale_model_input(noisy, t), t.item(), text, empty, scale)
        noisy = solver.step(output, t, noisy).prev_sample
    return noisy


@torch.no_grad()
def rollout(
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
    sampler: str = "ddim",
    interval: Sequence[float] = (),
) -> Float[Tensor, "b c h w"]:
    """Sample x'_0 ~ p_theta(. | c), and return scaled latents on the CPU (SPIN-Diffusion eq. 3.2); `steps` None: the whole schedule.

    The noise of an example depends on (seed, stream, round, id of the example) alone. The example can therefore be sampled again in any
    batch: its noise is the same bit by bit, its latent up to rounding. The guided output is eps_empty + guidance * (eps_text - eps_empty);
    guidance 1 skips the empty caption, and so do steps outside `interval` (`guided_at`). `sampler` is a name in `samplers.SAMPLERS`. All
    samplers start from the same noise, and only "ddim" with `eta` above 0 draws further noise.
    """
    if SAMPLERS[sampler].scheduler:
        noise = draws.normal(seed, stream, (round_index,), ids, world.latent_shape).to(world.device, world.schedule.dtype)
        return _solve(world, denoiser, text, empty, noise, steps, guidance, sampler, interval).cpu()
    plan = world.schedule.steps(steps, eta)
    path = states(world, denoiser, text, empty, ids, seed, stream, round_index, plan, guidance, False, interval)
    return deque(path, maxlen=1).pop().value.cpu()  # one state at a time in memory


def sample_batches(
    diffuser: Diffuser,
    denoiser: Denoiser,
    prompts: Sequence[str],
    ids: Sequence[str],
    batch_size: int,
    description: str,
    precision: Precision = "no",
    negative: str = "",
    **settings: Any,
) -> Float[Tensor, "n c h w"]:
    """Sample any number of prompts, batch by batch with a progress bar, and return all latents; `settings` are those of `rollout`.

    A batch has at most `batch_size` prompts, and fewer where memory holds fewer (`execution.in_parts`). `precision`: what the network's
    layers compute in. The sampler's steps are computed in the precision of the schedule. `negative`: the prompt from which guidance leads
    away, empty in the papers.
    """
    empty, given = diffuser.embed_one(negative), diffuser.embed(list(prompts))

    def drawn(rows: slice) -> Tensor:
        with autocast(diffuser.device, precision):
            return rollout(diffuser, denoiser, given.rows(rows), empty, ids[rows], **settings)

    with tqdm(total=len(prompts), desc=description, leave=False) as progress:
        parts = []
        for part in in_parts(len(prompts), batch_size, description, diffuser.latent_shape, drawn):
            parts.append(part)
            progress.update(len(part))
    return torch.cat(parts)
