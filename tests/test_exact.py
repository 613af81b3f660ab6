"""Falsified by a wrong factor, sign or index anywhere between a path and its loss: every quantity has a second derivation."""

import copy
import dataclasses

import pytest
import torch

from selfimprove import draws
from selfimprove_lab.theory import exact
from selfimprove_lab.theory.mixture import Mixture, MLPDenoiser, PointWorld, cosine_schedule
from selfimprove_lab.theory.paths import noising_trajectory, trajectory

STEPS, COUNT = 6, 5
SCHEDULE = cosine_schedule(STEPS)
WORLD = PointWorld(SCHEDULE, 2, 2)
TEXT = WORLD.embed(torch.tensor([0, 1, 0, 1, 1]))
EMPTY = WORLD.embed(torch.tensor([-1]))
EYE = torch.eye(2, dtype=torch.float64)
IDS = [draws.example_id("point", i) for i in range(COUNT)]


def make_game(eta: float, guidance: float = 1.0, distance: float = 0.3) -> exact.Game:
    opponent = MLPDenoiser(SCHEDULE, 2, 2, width=16, seed=1)
    player = copy.deepcopy(opponent)
    with torch.no_grad():
        for parameter in player.parameters():
            parameter += distance * torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    clean = torch.randn(COUNT, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    generated = trajectory(WORLD, opponent, TEXT, EMPTY, IDS, 0, "generated", 1, None, guidance, eta)
    real = noising_trajectory(WORLD, clean, IDS, 0, "real", 1, generated.steps)
    assert torch.allclose(real.clean, clean)
    return exact.Game(WORLD, player, opponent, real, generated, TEXT)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_noise_forms(eta: float) -> None:
    """(C.3) and (C.4): the same errors from noise predictions, and the opponent's own error is sigma^2 |e_hat|^2."""
    game = make_game(eta)
    errors = exact.path_errors(game)
    for index, step in enumerate(game.real.steps):
        eps = exact.data_noise(game.real, index, game.real.clean)
        own = game.opponent(game.generated.states[index], step.t, TEXT).sample
        for name, path, target in (("real", game.real, eps), ("generated", game.generated, own)):
            for who, denoiser in (("player", game.player), ("opponent", game.opponent)):
                noise_form = exact.noise_error(WORLD, denoiser, path, index, TEXT, target)
                assert torch.allclose(noise_form, getattr(errors, f"{who}_{name}")[index], rtol=1e-9, atol=1e-14), (name, who, index)
        rest = step.sigma**2 * game.generated.noise[index].square().mean((1, 2, 3))
        assert torch.allclose(errors.opponent_generated[index], rest, atol=1e-14)


def test_guidance_leaves_the_opponent_an_error_of_its_own() -> None:
    assert exact.path_errors(make_game(0.0)).opponent_generated.max() < 1e-25
    assert exact.path_errors(make_game(0.0, guidance=3.0)).opponent_generated.min() > 1e-8


@pytest.mark.parametrize("link", ["logistic", "hinge", "correlation"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_gradient_without_memory_is_autograds(eta: float, link: str) -> None:
    game = make_game(eta)
    parameters = list(game.player.parameters())
    whole = exact.exact(game, lambda step: 3 + step.t, "diffusion-dpo", link)
    expected = torch.autograd.grad(whole.loss.mean(), parameters)
    terms = exact.exact_backward(game, lambda step: 3 + step.t, "diffusion-dpo", link)
    assert torch.allclose(terms.loss, whole.loss)
    assert any(g.abs().max() > 1e-4 for g in expected)
    for parameter, gradient in zip(parameters, expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-9, atol=1e-13)


def test_the_approximate_objective_bounds_the_exact_one() -> None:
    """Lemma 4.1 example by example, and the correlation link has equality."""
    game = make_game(0.5)
    for link, tight in (("logistic", False), ("hinge", False), ("correlation", True)):
        inner = exact.exact(game, 50.0, link=link).loss
        outer = torch.stack([terms.loss for terms in exact.approximate(game, 50.0, link=link)]).mean(0)
        assert (outer - inner).min() > -1e-12
        assert torch.allclose(outer, inner) == tight


def test_paths_that_do_not_fit_are_refused() -> None:
    game, other = make_game(0.0), make_game(1.0)
    with pytest.raises(ValueError, match="same steps"):
        exact.path_errors(game._replace(real=other.real))
    broken = dataclasses.replace(game.generated, states=game.generated.states * float("nan"))
    with pytest.raises(ValueError, match="generated holds NaN"):
        exact.path_errors(game._replace(generated=broken))


def test_a_beta_tied_to_sigma_is_infinite_at_the_image() -> None:
    last = SCHEDULE.steps(eta=1.0)[-1]
    with pytest.raises(ValueError, match="sigma=0.0"):
        exact.coupled_beta(last.sigma, STEPS, 1.0)
    first = SCHEDULE.steps(eta=1.0)[0]
    assert first.sigma**2 == pytest.approx(0.1 * STEPS / (2 * exact.coupled_beta(first.sigma, STEPS, 0.1)))


def test_mixture_is_a_denoiser_like_any_other() -> None:
    weights, means = torch.ones(2, 1, dtype=torch.float64), torch.randn(2, 1, 2, dtype=torch.float64)
    mixture = Mixture(SCHEDULE, weights, means, torch.eye(2, dtype=torch.float64).expand(2, 1, 2, 2))
    game = make_game(0.0)._replace(player=mixture)
    exact.exact_backward(game, 1.0)
    assert mixture.means.grad.abs().max() > 0
