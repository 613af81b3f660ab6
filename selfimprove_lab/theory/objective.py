"""Notebook 02: go from the test function to the practical objective; test what each step keeps, and what it changes."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import multivariate_normal
from torch import Tensor

from selfimprove import losses
from selfimprove_lab.theory import exact
from selfimprove_lab.theory.checks import Check
from selfimprove_lab.theory.mixture import AffineDenoiser, PointWorld
from selfimprove_lab.theory.paths import Trajectory, noising_trajectory, trajectory
from selfimprove_lab.theory.practical import CASES
from selfimprove_lab.theory.worlds import data_mixture, empty_text, ids, point_world, texts

ETAS = (0.0, 0.5, 1.0)


def joint_log_density(denoiser: AffineDenoiser, path: Trajectory, text: Float[Tensor, "b 1 c"]) -> Float[np.ndarray, " b"]:
    """Return `log p(x_{1:T})` of each path under an affine denoiser's chain, from its joint covariance and scipy's Gaussian.

    The last step is left out: its sigma is 0, so that given x_1 the image has no density.
    """
    steps, count = path.steps[:-1], path.states.shape[1]
    eye = torch.eye(2, dtype=torch.float64)
    means, own, maps = [torch.zeros(count, 2, dtype=torch.float64)], [eye], []
    for step in steps:  # x_{t-1} = M x_t + m + sigma_t e_hat
        maps.append(math.sqrt(step.alpha_next / step.alpha) * eye + step.h * denoiser.matrix[step.t].detach())
        shift = torch.einsum("bc,cd->bd", text[:, 0], denoiser.shift[step.t].detach())
        means.append(means[-1] @ maps[-1].T + step.h * shift)
        own.append(maps[-1] @ own[-1] @ maps[-1].T + step.sigma**2 * eye)
    states = len(means)
    covariance = np.zeros((states, 2, states, 2))
    for i in range(states):
        carried = own[i]
        for j in range(i, states):
            covariance[j, :, i, :], covariance[i, :, j, :] = carried, carried.T
            if j < len(maps):
                carried = maps[j] @ carried
    mean = torch.stack(means, 1).reshape(count, -1).numpy()
    values = path.states[:-1, :, :, 0, 0].permute(1, 0, 2).reshape(count, -1).numpy()
    flat = covariance.reshape(2 * states, 2 * states)
    return np.array([multivariate_normal(mean[b], flat).logpdf(values[b]) for b in range(count)])


def chain_rule(steps: Sequence[int] = (2, 5, 10), count: int = 8) -> pd.DataFrame:
    """Compare the sum of transition log densities, (4.7), with the joint Gaussian's log density; return one row per T."""
    rows = []
    for total in steps:
        world = point_world(total)
        denoiser = AffineDenoiser(total, 2, 2, torch.Generator().manual_seed(total), 0.3)
        text = texts(world, count)
        path = trajectory(world, denoiser, text, empty_text(world), ids(count), 0, "chain", 0, None, 1.0, eta=1.0)
        start = torch.distributions.Normal(0.0, 1.0).log_prob(path.states[0]).sum((1, 2, 3))
        summed = (start + path.log_prob[:-1].sum(0)).numpy()
        joint = joint_log_density(denoiser, path, text)
        rows.append({"T": total, "sum": summed[0], "joint": joint[0], "largest difference": np.abs(summed - joint).max()})
    return pd.DataFrame(rows)


def make_game(
    eta: float, count: int, steps: int = 20, guidance: float = 1.0, distance: float = 0.25, flow: PointWorld | None = None
) -> exact.Game:
    """Return a player near its opponent, both mixtures, on `count` paths of each side; without `flow`, on a diffusion of `steps` steps."""
    world = flow or point_world(steps)
    data, opponent = data_mixture(world.schedule), data_mixture(world.schedule, 0.4, 1.3)
    player = data_mixture(world.schedule, 0.4 - distance, 1.3 - distance / 2)
    text = texts(world, count)
    generated = trajectory(world, opponent, text, empty_text(world), ids(count), 0, "generated", 0, steps, guidance, eta)
    clean = data.sample(text, torch.Generator().manual_seed(1))
    real = noising_trajectory(world, clean, ids(count), 0, "real", 0, generated.steps)
    return exact.Game(world, player, opponent, real, generated, text)


def noise_form(count: int = 16, flow: PointWorld | None = None) -> pd.DataFrame:
    """Return the largest relative difference between an error of means and its noise form, (C.3) and (C.4).

    The noise form is computed with h_t as derived from (C.2), and with the last factor of h_t read as `sqrt(1 - alpha_{t-1})`, as in the
    extracted text. Steps from pure noise, where h_t is infinite, are left out.
    """
    rows = []
    for eta in ETAS:
        game = make_game(eta, count, flow=flow)
        for side, path in (("real, (C.3)", game.real), ("generated, (C.4)", game.generated)):
            worst = {"derived": 0.0, "as extracted": 0.0}
            for index, step in enumerate(path.steps[:-1]):  # at the last step the extracted h_t is 0/0
                if step.alpha == 0:
                    continue
                own = exact.noise_of(game.world, game.opponent, path, index, game.text)
                target = exact.data_noise(path, index, path.clean) if side.startswith("real") else own
                direct = exact.path_error(game.world, game.player, path, index, game.text)
                derived = exact.noise_error(game.world, game.player, path, index, game.text, target)
                printed_h = step.direction - math.sqrt(step.alpha_next / step.alpha) * math.sqrt(1 - step.alpha_next)
                output = exact.noise_of(game.world, game.player, path, index, game.text)
                residual = target - output + step.sigma / printed_h * path.noise[index]
                printed = printed_h**2 * residual.square().mean((1, 2, 3))
                for name, value in (("derived", derived), ("as extracted", printed)):
                    worst[name] = max(worst[name], float(((value - direct).abs() / direct).detach().max()))
            rows.append({"eta": eta, "side": side} | worst)
    return pd.DataFrame(rows)


def own_path_terms(game: exact.Game, index: int, beta: float) -> losses.SpinTerms:
    """Return (C.5) at step `index`: output errors, times h_t^2 if of eps, without the e_hat that (4.9) keeps inside the link."""
    step, text = game.real.steps[index], game.text
    noisy, fake = game.real.states[index], game.generated.states[index]
    noise, times = exact.data_noise(game.real, index, game.real.clean), torch.full((len(text),), step.t)
    target = game.world.schedule.target(game.real.clean, noise, times)
    own = game.opponent(fake, step.t, text).sample
    errors = losses.Errors(
        losses.squared_error(game.player(noisy, step.t, text).sample, target),
        losses.squared_error(game.player(fake, step.t, text).sample, own),
        losses.squared_error(game.opponent(noisy, step.t, text).sample, target),
        torch.zeros(len(text), dtype=torch.float64),
    )
    return losses.spin(*errors, beta * exact.output_move(game.world, step) ** 2, "paper", 2)


def decoupled_against_approximate(count: int = 2000, beta: float = 40.0, flow: PointWorld | None = None) -> pd.DataFrame:
    """Compare (C.5) with (4.9) by eta: the mean loss of each, and the largest difference of an example."""
    rows = []
    for eta in ETAS:
        game = make_game(eta, count, flow=flow)
        with torch.no_grad():
            approximate = torch.stack([t.loss for t in exact.approximate(game, beta)])
            decoupled = torch.stack([own_path_terms(game, i, beta).loss for i in range(len(game.real.steps))])
        difference = (approximate - decoupled).mean(0)
        rows.append({
            "eta": eta, "(4.9)": float(approximate.mean()), "(C.5)": float(decoupled.mean()), "mean difference": float(difference.mean()),
            "standard error": float(difference.std() / math.sqrt(count)), "largest": float((approximate - decoupled).abs().max()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def per_example_losses(count: int, etas: Sequence[float], beta: float = 40.0) -> dict[float, pd.DataFrame]:
    """Return (4.9) and (C.5) for every example and step, by eta: columns "(4.9)", "(C.5)", "t"."""
    tables = {}
    for eta in etas:
        game = make_game(eta, count)
        with torch.no_grad():
            approximate = [terms.loss for terms in exact.approximate(game, beta)]
            decoupled = [own_path_terms(game, i, beta).loss for i in range(len(game.real.steps))]
        times = [torch.full((count,), step.t) for step in game.real.steps]
        columns = {"(4.9)": approximate, "(C.5)": decoupled, "t": times}
        tables[eta] = pd.DataFrame({name: torch.cat(values).numpy() for name, values in columns.items()})
    return tables


def opponents_own_error(count: int = 64, guidances: Sequence[float] = (1.0, 1.5, 3.0, 7.5)) -> pd.DataFrame:
    """Return the fourth error of (4.8), `|x'_{t-1} - mu_k(x'_t)|^2` at sigma = 0, against the guidance of the rollout."""
    rows = []
    for guidance in guidances:
        with torch.no_grad():
            errors = exact.path_errors(make_game(0.0, count, guidance=guidance))
        rows.append({"guidance": guidance, "opponent's own": float(errors.opponent_generated.mean()),
                     "player's": float(errors.player_generated.mean())})  # fmt: skip
    return pd.DataFrame(rows)


def best_reply(penalty: float = 0.5, points: int = 4001) -> float:
    """Return by how much p_k exp(f / lambda), (4.3), beats the best of 500 other densities on a line, in nats.

    The reply maximises E_p f - lambda KL(p || p_k). The return is the smallest advantage of the closed form over any rival. The advantage
    is lambda KL(rival || closed form), and so never negative.
    """
    x = np.linspace(-5, 5, points)
    generator = np.random.default_rng(0)
    opponent = np.exp(-0.5 * x**2)
    opponent /= opponent.sum()
    f = np.sin(2 * x) + 0.3 * x
    reply = opponent * np.exp(f / penalty)
    reply /= reply.sum()

    def value(p: np.ndarray) -> float:
        inside = p > 0
        return float((p * f).sum() - penalty * (p[inside] * np.log(p[inside] / opponent[inside])).sum())

    advantages = []
    for scale in np.geomspace(1e-3, 1, 500):
        rival = reply * np.exp(scale * np.interp(x, np.linspace(-5, 5, 12), generator.normal(size=12)))
        advantages.append(value(reply) - value(rival / rival.sum()))
    return min(advantages)


def checks(
    chain: pd.DataFrame, forms: pd.DataFrame, decoupled: pd.DataFrame, own: pd.DataFrame, bias: pd.DataFrame, advantage: float
) -> list[Check]:
    """Return what the notebook asserts."""
    consistent, scaled = bias.iloc[0], bias[bias["case"] == CASES[4].name].iloc[0]
    at_zero, at_one = decoupled.iloc[0], decoupled.iloc[-1]
    return [
        Check("p_k exp(f / lambda) is the opponent's best reply (4.3)", "smallest advantage over 500 rivals", advantage, ">=", 0),
        Check("log p(x_1..x_T) is the sum of its steps (4.7)", "largest difference", chain["largest difference"].max(), "<=", 1e-8),
        Check("(C.3) and (C.4) hold with h_t from (C.2)", "largest relative difference", forms["derived"].max(), "<=", 1e-8),
        Check("and not with h_t as extracted", "smallest of six largest differences", forms["as extracted"].min(), ">=", 0.01),
        Check("the decoupled objective equals the approximate one at sigma = 0", "largest difference of an example",
              at_zero["largest"], "<=", 1e-10),
        Check("and differs from it at sigma > 0", "mean difference less 5 s.e.",
              abs(at_one["mean difference"]) - 5 * at_one["standard error"], ">=", 0),
        Check("without guidance the opponent's own error vanishes at sigma = 0", "mean squared error",
              own["opponent's own"].iloc[0], "<=", 1e-20),
        Check("with guidance it does not", "mean squared error", own["opponent's own"].iloc[1], ">=", 1e-6),
        Check("consistent opponent: the practical objective lies above the decoupled one, by Jensen", "total less 5 s.e.",
              consistent["total"] - 5 * consistent["total error"], ">=", 0),
        Check("and there the law of x'_t changes nothing that can be seen", "|law part| less 5 s.e.",
              abs(consistent["law"]) - 5 * consistent["law error"], "<=", 0),
        Check("denoiser scaled by 0.7: at a small beta the first part turns negative", "target part plus 5 s.e.",
              scaled["target"] + 5 * scaled["target error"], "<=", 0),
    ]  # fmt: skip
