"""The notebooks' claims can fail: each of these mutations of the code breaks one of them. (That they hold, the notebooks assert.)"""

from collections.abc import Callable

import pandas as pd
import pytest
import torch

from selfimprove import losses, schedule
from selfimprove_lab.errata import page as errata
from selfimprove_lab.theory import bound, checks, dpo, exact, forward, gradient, mixture, objective, paths, practical
from tests import flow_claims

Checks = list[checks.Check]


def forward_claims() -> Checks:
    sampling = pd.DataFrame([{"eta": 0.0, "steps": n, "excess": 0.0, "error": 0.0} for n in (3, 200)])
    return forward.checks(forward.marginal_moments(400, steps=6), forward.agreement_with_diffusers(), sampling)[:3]


def objective_claims() -> Checks:
    tables = objective.chain_rule((2, 5)), objective.noise_form(4), objective.decoupled_against_approximate(50)
    bias = practical.practical_bias(4, practical.CASES[4:5])
    return objective.checks(*tables, objective.opponents_own_error(4), bias, objective.best_reply(points=101))[:5]


def bound_claims() -> Checks:
    return bound.checks(bound.gaps(4, totals=(1, 5), distances=(0.02, 0.25)))


def gradient_claims() -> Checks:
    run = pd.DataFrame([dict.fromkeys(["step", "loss", "margin", "matching", "pushing", "difference", "reweighting", "told_apart"], 1.0)])
    return gradient.checks(gradient.against_autograd(8), {"logistic": run, "correlation": run}, {1.0: run, 2.0: run})[:2]


def dpo_claims() -> Checks:
    runs = pd.DataFrame(
        [{"method": m, "round": 0} | dict.fromkeys(["utility", "winners", "error"], 0.0) | {"base": -1.0} for m in ("dpo", "spin")]
    )
    return dpo.checks(dpo.same_formula(8), dpo.convention_spread(), runs)[:2]


def wrong_h(step: schedule.Step) -> float:
    return step.direction - (step.alpha_next / step.alpha) ** 0.5 * (1 - step.alpha_next) ** 0.5


def wrong_posterior(self: schedule.Schedule, noisy: torch.Tensor, clean: torch.Tensor, step: schedule.Step) -> schedule.Transition:
    eps = (noisy - step.alpha**0.5 * clean) / (1 - step.alpha) ** 0.5
    return schedule.Transition(step.alpha_next * clean + step.direction * eps, step.sigma)  # the square root left out


def noise_not_shared(world: object, denoiser: Callable, path: paths.Trajectory, index: int, text: torch.Tensor, target: torch.Tensor):
    step, noisy = path.steps[index], path.states[index]
    other = path.noise[(index + 1) % len(path.steps)]
    return step.h**2 * losses.squared_error(target + step.sigma / step.h * other, denoiser(noisy, step.t, text).sample)


def push_added(errors: losses.Errors, *rest: object) -> losses.SpinTerms:
    real, generated, opponent_real, opponent_generated = errors
    return LINKED(losses.Errors(real, -generated, opponent_real, -opponent_generated), *rest)


def summed_over_steps(errors: losses.Errors, beta: float, *rest: object) -> losses.SpinTerms:
    return LINKED(errors, beta * len(errors.player_real), *rest)


def wrong_prediction(
    self: schedule.Schedule, noisy: torch.Tensor, output: torch.Tensor, *powers: float
) -> tuple[torch.Tensor, torch.Tensor]:
    clean, eps = CLEAN_AND_NOISE(self, noisy, output, *powers)
    return (-clean, eps) if self.prediction_type == "v_prediction" else (clean, eps)


LINKED, CLEAN_AND_NOISE = losses._linked, schedule.Schedule.clean_and_noise
LOGISTIC = losses.LINKS["logistic"].value
WRONG_SLOPE = {"logistic": losses.LinkFunction("logistic", LOGISTIC, lambda x: -torch.sigmoid(x), satisfies_assumption=False)}
SUMMED = property(lambda g: tuple(m + p for m, p in zip(g.matching, g.pushing, strict=True)))

MUTATIONS: list[tuple[str, object, str, object, Callable[[], Checks]]] = [
    ("pushing term's sign, in the gradient", gradient.GradientTerms, "gradient", SUMMED, gradient_claims),
    ("pushing term's sign, in the loss", losses, "_linked", push_added, dpo_claims),
    ("slope of the link", losses, "LINKS", losses.LINKS | WRONG_SLOPE, gradient_claims),
    ("h_t with the wrong index", schedule.Step, "h", property(wrong_h), objective_claims),
    ("square root left out", schedule.Schedule, "posterior", wrong_posterior, forward_claims),
    ("e_hat not shared", exact, "noise_error", noise_not_shared, objective_claims),
    ("sigma_t squared", schedule, "ddpm_sigma", lambda a, b, *_: (1 - b) / (1 - a) * (1 - a / b), forward_claims),
    ("fresh noise not paid for", schedule.Step, "direction", property(lambda s: (1 - s.alpha_next) ** 0.5), forward_claims),
    ("v prediction's sign", schedule.Schedule, "clean_and_noise", wrong_prediction, forward_claims),
    ("steps summed, not averaged", losses, "_linked", summed_over_steps, bound_claims),
    ("beta's factor forgotten", losses, "convert_beta", lambda beta, *_: beta, dpo_claims),
    ("density of a step without its width", paths, "transition_log_prob",
     lambda value, transition: -0.5 * (value - transition.mean).square().sum((1, 2, 3)), objective_claims),
]  # fmt: skip


CLAIMS = [
    forward_claims, objective_claims, bound_claims, gradient_claims, dpo_claims,
    flow_claims.weights_claims, flow_claims.objectives_claims, flow_claims.own_noise_claims,
]  # fmt: skip
EVERY_MUTATION = [*MUTATIONS, *((f"flows: {name}", *rest) for name, *rest in flow_claims.MUTATIONS)]


@pytest.mark.parametrize("make", CLAIMS)
def test_claims_hold_at_the_smallest_setting(make: Callable[[], Checks]) -> None:
    checks.assert_checks(make())


@pytest.mark.parametrize(("place", "name", "mutant", "make"), [m[1:] for m in EVERY_MUTATION], ids=[m[0] for m in EVERY_MUTATION])
def test_a_mutation_breaks_a_claim(
    monkeypatch: pytest.MonkeyPatch, place: object, name: str, mutant: object, make: Callable[[], Checks]
) -> None:
    monkeypatch.setattr(place, name, mutant)
    with pytest.raises(checks.BrokenCheckError, match="claims are broken"):
        checks.assert_checks(make())


def test_checks_table_and_nan() -> None:
    good, bad = checks.Check("one", "number", 0.5, "<=", 1.0), checks.Check("none", "number", float("nan"), ">=", 0.0)
    table = checks.checks_table([good, bad])
    assert table["verdict"].tolist() == ["holds", "BROKEN"]
    with pytest.raises(checks.BrokenCheckError, match=r"1 of 2 claims are broken: none \(number: nan, should be >= 0\)"):
        checks.assert_checks([good, bad])


def test_estimates_of_the_squared_gradient_have_no_bias() -> None:
    """Products of different batches only: for pure noise they average to zero, where squares of means would not."""
    from selfimprove_lab.theory.fixed_points import _between

    noise = torch.randn(400, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert abs(_between(noise @ noise.T, list(range(400)))) < 0.02
    signal = noise + 2
    assert _between(signal @ signal.T, list(range(400))) == pytest.approx(12, abs=1)


def test_mixture_family_starts_where_it_should() -> None:
    world = mixture.PointWorld(mixture.cosine_schedule(10), 2, 2)
    pairs = dpo.preference_pairs(world, mixture_of(world), 4000, 0)
    assert float((dpo.utility(pairs.winners) - dpo.utility(pairs.losers)).mean()) > 0.3


def mixture_of(world: mixture.PointWorld) -> mixture.Mixture:
    from selfimprove_lab.theory.worlds import data_mixture

    return data_mixture(world.schedule)


def test_the_errata_page_is_what_the_code_finds() -> None:
    assert errata.PAGE.read_text() == errata.page(), "run python -m selfimprove_lab.errata.page"
