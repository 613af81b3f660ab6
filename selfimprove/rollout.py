"""Sampling with classifier-free guidance, every draw stateless: latents alone, or whole trajectories with what produced them."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from selfimprove import draws
from selfimprove.config import Precision, Sampler
from selfimprove.models import AUTOCAST, Diffuser
from selfimprove.schedule import Schedule, Step, Transition

SOLVERS: dict[Sampler, Any] = {"dpm++": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}


@runtime_checkable
class Denoiser(Protocol):
    """What a UNet2DConditionModel does: (x_t, t, text) -> an object whose `sample` is the prediction, of x_t's shape."""

    def __call__(self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor) -> Any: ...


@runtime_checkable
class World(Protocol):
    """Where latents live: what a rollout needs to know beside the denoiser."""

    @property
    def schedule(self) -> Schedule: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def latent_shape(self) -> tuple[int, int, int]: ...


@dataclass(frozen=True)
class Trajectory:
    """States x_T .. x_0 of B examples, from noise to image, T steps.

    states[i] is where steps[i] starts and states[i + 1] where it ends; noise[i] is the unit noise e_hat of that step (drawn
    also where sigma is 0, as C.3 and C.4 of SPIN-Diffusion share it between player and opponent); log_prob[i] is
    `log p(x_{t-1} | x_t)` under the distribution sampled from, nan where sigma is 0 and there is no density.
    """

    steps: tuple[Step, ...]
    states: Float[Tensor, "states b c h w"]
    noise: Float[Tensor, "steps b c h w"]
    log_prob: Float[Tensor, "steps b"]

    @property
    def clean(self) -> Float[Tensor, "b c h w"]:
        """The images' latents, x_0."""
        return self.states[-1]


class _State(NamedTuple):
    value: Tensor
    noise: Tensor
    log_prob: Tensor


def transition_log_prob(value: Float[Tensor, "b c h w"], transition: Transition) -> Float[Tensor, " b"]:
    """Log density log N(value; mean, std^2 I) of each example; nan if std is 0."""
    if transition.std == 0:
        return torch.full(value.shape[:1], float("nan"), dtype=value.dtype, device=value.device)
    normal = torch.distributions.Normal(transition.mean, transition.std)
    return normal.log_prob(value).sum((1, 2, 3))


def predict(
    denoiser: Denoiser,
    noisy: Float[Tensor, "b c h w"],
    t: int | Int[Tensor, " b"],
    text: Float[Tensor, "b l d"],
    empty: Float[Tensor, "1 l d"] | None = None,
    guidance: float = 1.0,
) -> Float[Tensor, "b c h w"]:
    """The model's output, guided: empty + guidance * (text - empty); guidance 1 asks for the text alone. In the precision of `noisy`."""
    if guidance == 1 or empty is None:
        return denoiser(noisy, t, text).sample.to(noisy.dtype)
    times = t if isinstance(t, int) else t.repeat(2)
    both = denoiser(torch.cat([noisy, noisy]), times, torch.cat([empty.expand_as(text), text])).sample.to(
        noisy.dtype
    )  # before it is multiplied
    unconditional, conditional = both.chunk(2)
    return unconditional + guidance * (conditional - unconditional)


def _states(
    world: World,
    denoiser: Denoiser,
    text: Tensor,
    empty: Tensor,
    ids: Sequence[str],
    seed: int,
    stream: str,
    round_index: int,
    steps: Sequence[Step],
    guidance: float,
    keep: bool,
) -> Iterator[_State]:
    dtype, shape = world.schedule.dtype, world.latent_shape
    text, empty = text.to(world.device), empty.to(world.device)
    noisy = draws.normal(seed, stream, (round_index,), ids, shape).to(world.device, dtype)
    yield _State(noisy, noisy, noisy)
    for index, step in enumerate(steps):
        transition = world.schedule.reverse(noisy, predict(denoiser, noisy, step.t, text, empty, guidance), step)
        noisy, noise = transition.mean, torch.zeros((), dtype=dtype)
        if keep or step.sigma > 0:
            noise = draws.normal(seed, f"{stream}/step", (round_index, index), ids, shape).to(world.device, dtype)
            noisy = noisy + step.sigma * noise
        yield _State(noisy, noise, transition_log_prob(noisy, transition) if keep else noise)


def _solve(
    world: World, denoiser: Denoiser, text: Tensor, empty: Tensor, noisy: Tensor, steps: int | None, guidance: float, sampler: Sampler
) -> Tensor:
    """The probability-flow equation from x_T = `noisy` by a multistep solver of diffusers, with the model's own noise schedule."""
    world.schedule.timesteps(steps)  # refuses a number of steps that the schedule does not have
    config = dict(world.schedule.scheduler.config)
    # from the last step on: with the "leading" steps of Stable Diffusion's folders, noise would be put in where an image already is
    solver = SOLVERS[sampler].from_config(config, timestep_spacing="trailing")
    solver.set_timesteps(steps or len(world.schedule))
    text, empty, noisy = text.to(world.device), empty.to(world.device), noisy * solver.init_noise_sigma
    for t in solver.timesteps:
        output = predict(denoiser, solver.scale_model_input(noisy, t), int(t), text, empty, guidance)
        noisy = solver.step(output, t, noisy).prev_sample
    return noisy


@torch.no_grad()
def rollout(
    world: World,
    denoiser: Denoiser,
    text: Float[Tensor, "b l d"],
    empty: Float[Tensor, "1 l d"],
    ids: Sequence[str],
    seed: int,
    stream: str,
    round_index: int,
    steps: int | None,
    guidance: float,
    eta: float = 0.0,
    sampler: Sampler = "ddim",
) -> Float[Tensor, "b c h w"]:
    """Sample x'_0 ~ p_theta(. | c), scaled latents on the CPU (SPIN-Diffusion eq. 3.2); steps None: the whole schedule.

    The noise of an example depends on (seed, stream, round, its id) alone, so it can be redrawn in any batch: the noise bit
    by bit, the latents up to rounding. eps = eps_empty + guidance * (eps_text - eps_empty); guidance 1 skips the empty one.
    `sampler` "dpm++" (DPM-Solver++(2M), Lu et al. 2022) and "unipc" (Zhao et al. 2023) start from the same noise and draw no more.
    """
    if sampler != "ddim":
        noise = draws.normal(seed, stream, (round_index,), ids, world.latent_shape).to(world.device, world.schedule.dtype)
        return _solve(world, denoiser, text, empty, noise, steps, guidance, sampler).cpu()
    plan = world.schedule.steps(steps, eta)
    states = _states(world, denoiser, text, empty, ids, seed, stream, round_index, plan, guidance, keep=False)
    return deque(states, maxlen=1).pop().value.cpu()  # one state at a time in memory


@torch.no_grad()
def trajectory(
    world: World,
    denoiser: Denoiser,
    text: Float[Tensor, "b l d"],
    empty: Float[Tensor, "1 l d"],
    ids: Sequence[str],
    seed: int,
    stream: str,
    round_index: int,
    steps: int | None,
    guidance: float,
    eta: float = 0.0,
) -> Trajectory:
    """The whole path of `rollout`, which ends in the same x'_0, on the world's device: (T + 2) latents an example."""
    plan = world.schedule.steps(steps, eta)
    first, *rest = _states(world, denoiser, text, empty, ids, seed, stream, round_index, plan, guidance, keep=True)
    return Trajectory(
        plan,
        torch.stack([first.value, *(s.value for s in rest)]),
        torch.stack([s.noise for s in rest]),
        torch.stack([s.log_prob for s in rest]),
    )


@torch.no_grad()
def noising_trajectory(
    world: World, clean: Float[Tensor, "b c h w"], ids: Sequence[str], seed: int, stream: str, round_index: int, steps: Sequence[Step]
) -> Trajectory:
    """The data's path of SPIN-Diffusion eq. (3.1): `x_T ~ q(x_T | x_0)`, then `x_{t-1} ~ q(x_{t-1} | x_t, x_0)`, down to `x_0`.

    Where the schedule's last alpha is 1 the path ends in `clean` itself.
    """
    schedule, shape, dtype = world.schedule, tuple(clean.shape[1:]), world.schedule.dtype
    clean = clean.to(world.device, dtype)
    first = draws.normal(seed, stream, (round_index,), ids, shape).to(world.device, dtype)
    states = [steps[0].alpha ** 0.5 * clean + (1 - steps[0].alpha) ** 0.5 * first]
    noises, log_probs = [], []
    for index, step in enumerate(steps):
        transition = schedule.posterior(states[-1], clean, step)
        noises.append(draws.normal(seed, f"{stream}/step", (round_index, index), ids, shape).to(world.device, dtype))
        states.append(transition.mean + step.sigma * noises[-1])
        log_probs.append(transition_log_prob(states[-1], transition))
    return Trajectory(tuple(steps), torch.stack(states), torch.stack(noises), torch.stack(log_probs))


def sample_batches(
    diffuser: Diffuser,
    denoiser: Denoiser,
    prompts: Sequence[str],
    ids: Sequence[str],
    batch_size: int,
    description: str,
    precision: Precision = "no",
    **settings: float | int | str,
) -> Float[Tensor, "n c h w"]:
    """Rollouts of any number of prompts, batch by batch with a progress bar; `settings` are those of `rollout`.

    `precision`: what the network's layers compute in; the steps between are taken in the schedule's own.
    """
    empty = diffuser.embed([""])
    parts = []
    for start in tqdm(range(0, len(prompts), batch_size), desc=description, leave=False):
        rows = slice(start, start + batch_size)
        text = diffuser.embed(list(prompts[rows]))
        with torch.autocast(diffuser.device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST):
            parts.append(rollout(diffuser, denoiser, text, empty, ids[rows], **settings))  # type: ignore[arg-type]
    return torch.cat(parts)
