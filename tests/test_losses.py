import doctest
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selfimprove import losses

CONVENTIONS = list(losses.CONVENTIONS)
ERRORS = [torch.tensor(v) for v in ([0.5, 0.2], [0.4, 0.9], [0.7, 0.2], [0.4, 0.6])]  # player r, g; opponent r, g


def test_the_four_conventions_give_one_logit() -> None:
    """The table of conventions, worked out by hand from full-size squared errors of a 4x64x64 latent."""
    dimensions = 4 * 64 * 64
    generator = torch.Generator().manual_seed(0)
    sides = torch.rand(4, 3, dimensions, generator=generator, dtype=torch.float64)  # squared residuals
    bracket_mean = (sides[0] - sides[2]).mean(1) - (sides[1] - sides[3]).mean(1)
    bracket_sum = (sides[0] - sides[2]).sum(1) - (sides[1] - sides[3]).sum(1)
    by_hand = {
        "diffusion-dpo": -0.5 * 5000 * bracket_mean,
        "diffusers": -2500 * bracket_mean,
        "summed-half": -0.5 * (5000 / dimensions) * bracket_sum,
        "paper": -(2500 / dimensions) * bracket_sum,
    }
    for name in CONVENTIONS:
        beta = losses.convert_beta(5000.0, "diffusion-dpo", name, dimensions)
        terms = losses.spin(*(s.mean(1) for s in sides), beta, name, dimensions)
        assert torch.allclose(terms.margin, by_hand[name], rtol=1e-6, atol=0)
        assert torch.allclose(terms.margin, by_hand["diffusion-dpo"], rtol=1e-6, atol=0)


def test_spin_by_hand() -> None:
    """Brackets: (.5-.7) - (.4-.4) = -.2 and (.2-.2) - (.9-.6) = -.3, so margins at scale 1: .2 and .3."""
    terms = losses.spin(*ERRORS, beta=2.0, convention="diffusion-dpo", dimensions=4)
    assert terms.margin.tolist() == pytest.approx([0.2, 0.3])
    assert terms.loss.tolist() == pytest.approx([math.log(1 + math.exp(-0.2)), math.log(1 + math.exp(-0.3))])
    assert terms.reweighting.tolist() == pytest.approx([2 / (1 + math.exp(0.2)), 2 / (1 + math.exp(0.3))])
    assert terms.implicit_accuracy.tolist() == [True, True]
    hinge = losses.spin(*ERRORS, beta=2.0, convention="diffusion-dpo", dimensions=4, link="hinge")
    assert hinge.loss.tolist() == pytest.approx([0.8, 0.7])
    correlation = losses.spin(*ERRORS, beta=2.0, convention="diffusion-dpo", dimensions=4, link="correlation")
    assert correlation.loss.tolist() == pytest.approx([0.8, 0.7])


@pytest.mark.parametrize("name", ["logistic", "hinge", "correlation"])
def test_links_have_the_stated_slope(name: str) -> None:
    x = torch.linspace(-6, 6, 102, dtype=torch.float64, requires_grad=True)  # 102: not on the hinge's corner
    link = losses.get_link(name)
    (slope,) = torch.autograd.grad(link.value(x).sum(), x)
    assert torch.allclose(slope, link.slope(x.detach()))


@pytest.mark.parametrize(
    ("value", "slope", "complaint"),
    [
        (lambda x: x, torch.ones_like, "'bad' rises"),
        (lambda x: torch.sigmoid(-x), lambda x: -torch.sigmoid(x) * torch.sigmoid(-x), "'bad' is not convex"),
        (lambda x: torch.relu(-x), lambda x: -(x < 0).to(x.dtype), "'bad' has slope 0"),
    ],
)
def test_what_is_no_link_is_refused(value: Callable, slope: Callable, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        losses.LinkFunction("bad", value, slope)
    assert losses.LinkFunction("bad", value, slope, satisfies_assumption=False).name == "bad"  # a counterexample on purpose


def test_an_unknown_link_is_refused() -> None:
    with pytest.raises(ValueError, match="link='cubic' is not known"):
        losses.get_link("cubic")


def test_the_gradient_matches_on_real_and_pushes_on_generated() -> None:
    """Equation (5.1): d loss / d error_real = scale * -l', and the opposite on the generated side."""
    sides = [e.clone().requires_grad_() for e in ERRORS]
    terms = losses.spin(*sides, beta=2.0, convention="diffusion-dpo", dimensions=4)
    real, generated, _, _ = torch.autograd.grad(terms.loss.sum(), sides)
    assert torch.allclose(real, terms.reweighting / 2)  # the convention's factor 1/2
    assert torch.allclose(generated, -real)
    assert not any(t.requires_grad for t in terms[1:])


def test_equal_player_and_opponent_give_log_two() -> None:
    terms = losses.spin(ERRORS[0], ERRORS[1], ERRORS[0], ERRORS[1], 5000.0, "diffusion-dpo", 4)
    assert terms.loss.tolist() == pytest.approx([math.log(2)] * 2)


def test_squared_error_is_the_mean_in_float32() -> None:
    error = losses.squared_error(torch.full((2, 1, 2, 2), 3.0, dtype=torch.bfloat16), torch.ones(2, 1, 2, 2))
    assert error.dtype == torch.float32
    assert error.tolist() == [4.0, 4.0]


@given(
    steps=st.integers(1, 5), count=st.integers(1, 6), dtype=st.sampled_from([torch.float32, torch.float64]), beta=st.floats(0.01, 50),
    link=st.sampled_from(list(losses.LINKS)), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_properties_of_the_objective(steps: int, count: int, dtype: torch.dtype, beta: float, link: str, seed: int) -> None:
    """The exact objective lies below the mean of single steps; sides swapped, margins change sign; equal models give l(0)."""
    errors = torch.rand(4, steps, count, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    exact = losses.spin_exact(*errors, beta, "paper", 8, link)
    single = torch.stack([losses.spin(*errors[:, i], beta, "paper", 8, link).loss for i in range(steps)]).mean(0)
    assert exact.loss.dtype == dtype
    assert (single - exact.loss).min() > -1e-3 * float(single.abs().max() + 1)
    swapped = losses.spin_exact(*errors[[1, 0, 3, 2]], beta, "paper", 8, link)
    assert torch.allclose(swapped.margin, -exact.margin, rtol=1e-4, atol=1e-3)
    equal = losses.spin_exact(errors[0], errors[1], errors[0], errors[1], beta, "paper", 8, link)
    assert torch.allclose(equal.loss, losses.get_link(link).value(torch.zeros(count, dtype=dtype)))
    assert (exact.reweighting >= 0).all()


def test_shapes_that_do_not_fit_are_refused() -> None:
    """Shape annotations, executed in tests alone, would say so too: hence the check itself."""
    with pytest.raises(ValueError, match=r"opponent_real has shape \(2,\), player_generated \(3,\)"):
        losses.check_errors(torch.zeros(3), player_real=torch.zeros(3), opponent_real=torch.zeros(2))


def test_the_docstrings_examples_are_right() -> None:
    failures, attempted = doctest.testmod(losses)
    assert attempted >= 4
    assert failures == 0


def test_weighted_denoising_is_equation_6_of_rsidiff_in_its_x0_form() -> None:
    """w lambda_t |x0_hat - x_0|^2 computed from predicted images, against the form in eps, with lambda_t one and SNR."""
    generator = torch.Generator().manual_seed(0)
    clean, noise, predicted = (torch.randn(6, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    alpha = torch.tensor([0.9991, 0.8, 0.5, 0.2, 0.05, 0.0047], dtype=torch.float64)  # the last: Stable Diffusion's noisiest step
    weight = torch.rand(6, generator=generator, dtype=torch.float64)
    a = alpha.view(-1, 1, 1, 1)
    noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
    image = (noisy - (1 - a).sqrt() * predicted) / a.sqrt()
    in_x0 = losses.squared_error(image, clean)
    in_eps = losses.squared_error(predicted, noise)
    for name, time_weight in (("one", torch.ones(6, dtype=torch.float64)), ("snr", alpha / (1 - alpha))):
        terms = losses.weighted_denoising(in_eps, weight, alpha, name)
        assert torch.allclose(terms.loss, weight * time_weight * in_x0, rtol=1e-10)
        assert torch.equal(terms.player_real, in_eps)
    assert float((1 - alpha[-1]) / alpha[-1]) == pytest.approx(214, rel=0.02)  # what lambda_t = 1 weighs that step by


@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_min_snr_is_the_papers_weight_of_the_error_in_x0(gamma: float) -> None:
    """min(SNR, gamma) |x0_hat - x_0|^2 by both forms of the error, from a network that errs by a known amount."""
    alpha = torch.tensor([0.999, 0.9, 0.5, 0.2, 0.01], dtype=torch.float64)
    snr = alpha / (1 - alpha)
    error_x0 = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    wanted = torch.minimum(snr, torch.tensor(gamma, dtype=torch.float64)) * error_x0
    in_eps, in_v = error_x0 * snr, error_x0 * (snr + 1)
    assert torch.allclose(losses.min_snr_weight(alpha, gamma, "epsilon") * in_eps, wanted)
    assert torch.allclose(losses.min_snr_weight(alpha, gamma, "v") * in_v, wanted)
    ends = torch.tensor([0.0, 1.0])  # zero terminal SNR, and no noise
    assert losses.min_snr_weight(ends, gamma, "epsilon").tolist() == [1.0, 0.0]
    assert losses.min_snr_weight(ends, gamma, "v").tolist() == [0.0, 0.0]
