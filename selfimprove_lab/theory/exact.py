"""Compute the exact SPIN-Diffusion objective over whole trajectories (eq. 4.8), its bound by steps (eq. 4.9), and gradients.

The memory of a gradient does not depend on T.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from selfimprove import losses
from selfimprove.config import BetaConvention
from selfimprove.models.network import Denoiser, Text
from selfimprove.rollout import World
from selfimprove.schedule import Step
from selfimprove_lab.theory.paths import Trajectory

StepBeta = float | Callable[[Step], float]


class Game(NamedTuple):
    """A player against an opponent on paths of the same B captions, by the same steps.

    `real` is a `noising_trajectory` of data, `generated` the opponent's own `trajectory`, and `text` is (B, L, D). The means of the player
    and of the opponent are taken without guidance, as the theory has none. If the rollout was guided, x'_{t-1} is not the opponent's mean.
    The opponent's own error on the generated side then does not vanish at sigma = 0, and it is kept.
    """

    world: World
    player: Denoiser
    opponent: Denoiser
    real: Trajectory
    generated: Trajectory
    text: Text


def path_error(world: World, denoiser: Denoiser, path: Trajectory, index: int, text: Text) -> Float[Tensor, " b"]:
    """Return `|x_{t-1} - mu(x_t)|^2` of one step, eqs. (4.7) and (4.8), as the mean over C*H*W."""
    step, noisy = path.steps[index], path.states[index]
    mean = world.schedule.reverse(noisy, denoiser(noisy, step.t, text).sample, step).mean
    return losses.squared_error(path.states[index + 1], mean)


def noise_error(
    world: World, denoiser: Denoiser, path: Trajectory, index: int, text: Text, target: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """Return the error of `path_error` in noise form, eqs. (C.3) and (C.4): `h_t^2 |target - eps_theta + (sigma_t / h_t) e_hat|^2`.

    `target` is eps_t on the data's path, and the opponent's eps_k(x'_t) on its own path. e_hat is the path's, shared by all models.
    """
    step = path.steps[index]
    return step.h**2 * losses.squared_error(target + step.sigma / step.h * path.noise[index], noise_of(world, denoiser, path, index, text))


def noise_of(world: World, denoiser: Denoiser, path: Trajectory, index: int, text: Float[Tensor, "b l d"]) -> Float[Tensor, "b c h w"]:
    """Return the noise in `path.states[index]` according to a denoiser, whatever it predicts."""
    step, noisy = path.steps[index], path.states[index]
    return world.schedule.clean_and_noise(noisy, denoiser(noisy, step.t, text).sample, step.alpha, step.variance)[1]


def output_move(world: World, step: Step) -> float:
    """Return how far an error of 1 in the network's output moves a step's mean.

    This is h_t if the network predicts eps. On a flow it is `(1 - s) h_t`, finite at pure noise too; at sigma = 0 the step's `s' - s`.
    """
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    return float(world.schedule.reverse(torch.zeros_like(one), one, step).mean)


def data_noise(path: Trajectory, index: int, clean: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return eps_t of the data's path, for which `x_t = sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) eps_t`."""
    step = path.steps[index]
    return (path.states[index] - step.alpha**0.5 * clean) / step.variance**0.5


def path_errors(game: Game) -> losses.Errors:
    """Return `|x_{t-1} - mu(x_t)|^2` of both models on both sides, each (T, B), as means over C*H*W.

    The player's errors carry the graph, so memory grows with T.
    """
    _check(game)
    rows = []
    for index in range(len(game.real.steps)):
        player = [path_error(game.world, game.player, path, index, game.text) for path in (game.real, game.generated)]
        with torch.no_grad():
            opponent = [path_error(game.world, game.opponent, path, index, game.text) for path in (game.real, game.generated)]
        rows.append([*player, *opponent])
    return losses.Errors(*(torch.stack(side) for side in zip(*rows, strict=True)))


def step_betas(steps: tuple[Step, ...], beta: StepBeta) -> Float[Tensor, "steps 1"]:
    """Return beta_t of each step: a constant, or a function of the step (its t, alpha, sigma, h)."""
    values = [beta(step) if callable(beta) else beta for step in steps]
    return torch.tensor(values, dtype=torch.float64)[:, None]


def exact(
    game: Game, beta: StepBeta, convention: BetaConvention = "paper", link: str | losses.LinkFunction = "logistic"
) -> losses.SpinTerms:
    """Return eq. (4.8) for each example, differentiable; beta and sigma are decoupled, so t = 1, where sigma is 0, is like any step."""
    errors = path_errors(game)
    betas = step_betas(game.real.steps, beta).to(errors.player_real)
    return losses.spin_exact(*errors, betas, convention, game.real.states[0, 0].numel(), link)


def approximate(
    game: Game, beta: StepBeta, convention: BetaConvention = "paper", link: str | losses.LinkFunction = "logistic"
) -> Iterator[losses.SpinTerms]:
    """Yield the terms of eq. (4.9) at each t in turn; their mean over t is the objective that Lemma 4.1 compares with eq. (4.8)."""
    errors, betas = path_errors(game), step_betas(game.real.steps, beta)
    for index in range(len(game.real.steps)):
        at_step = losses.Errors(*(side[index] for side in errors))
        yield losses.spin(*at_step, float(betas[index]), convention, game.real.states[0, 0].numel(), link)


def exact_backward(
    game: Game, beta: StepBeta, convention: BetaConvention = "paper", link: str | losses.LinkFunction = "logistic"
) -> losses.SpinTerms:
    """Add the gradient of the mean of eq. (4.8) to the player's `.grad`, and return the terms, detached.

    The first pass sums the bracket without a graph. The second pass weights each step's errors by the slope l', and frees the step's graph
    before the next. Memory beyond the stored paths is that of one step, at the price of one more forward.
    """
    with torch.no_grad():
        terms = exact(game, beta, convention, link)
    dimensions, count = game.real.states[0, 0].numel(), len(game.real.steps)
    scale = losses.convert_beta(1.0, convention, "diffusers", dimensions)
    slope = losses.get_link(link).slope(terms.margin)
    for index, weight in enumerate(step_betas(game.real.steps, beta)[:, 0].tolist()):
        for sign, path in ((-1.0, game.real), (1.0, game.generated)):
            error = path_error(game.world, game.player, path, index, game.text)
            (slope * sign * scale * weight / count * error).mean().backward()
    return terms


def _check(game: Game) -> None:
    if game.real.steps != game.generated.steps:
        raise ValueError("real and generated paths must go by the same steps; make both with the same number of steps and eta")
    if game.real.states.shape != game.generated.states.shape:
        raise ValueError(
            f"real paths have shape {tuple(game.real.states.shape)}, generated ones {tuple(game.generated.states.shape)}; "
            "give both for the same captions"
        )
    for name, path in (("real", game.real), ("generated", game.generated)):
        if not bool(torch.isfinite(path.states).all()):
            raise ValueError(f"{name} holds NaN or infinity among its states; check the model and the data that made it")


def coupled_beta(sigma: float, steps: int, penalty: float) -> float:
    """Return beta_t = lambda T / (2 sigma_t^2), which ties eq. (4.8) to eq. (4.6), from sigma_t^2 = lambda T / (2 beta_t).

    Raises:
        ValueError: sigma is 0, as it must be at t = 1, where eq. (4.7) is singular; decouple beta from sigma there.
    """
    if not sigma > 0:
        raise ValueError(f"sigma={sigma!r}: the coupled beta is infinite there (always so at t = 1); give beta apart from sigma")
    return penalty * steps / (2 * sigma**2)
