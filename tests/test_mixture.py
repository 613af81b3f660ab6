import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from selfimprove.rollout import rollout
from selfimprove_lab.theory.mixture import Mixture, PointWorld, cosine_schedule, kl_divergence, kl_of_samples

SCHEDULE = cosine_schedule(60)
WORLD = PointWorld(SCHEDULE, 2, 2)


def two_conditions(shift: float = 0.0) -> Mixture:
    means = torch.tensor([[[-1.0, 0.0], [1.0, 0.5]], [[0.0, -1.5], [0.5, 1.0]]], dtype=torch.float64) + shift
    factors = torch.tensor([[[0.4, 0.0], [0.2, 0.3]], [[0.3, 0.0], [0.0, 0.5]]], dtype=torch.float64).repeat(2, 1, 1, 1)
    return Mixture(SCHEDULE, torch.tensor([[0.3, 0.7], [0.5, 0.5]], dtype=torch.float64), means, factors)


def test_density_agrees_with_scipy_also_for_the_empty_caption() -> None:
    mixture = two_conditions()
    points = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for alpha in (1.0, 0.3):
        by_condition = []
        for c in range(2):
            density = 0.0
            for k in range(2):
                factor = mixture.factors[c, k].detach().numpy()
                covariance = alpha * factor @ factor.T + (1 - alpha) * np.eye(2)
                normal = multivariate_normal(alpha**0.5 * mixture.means[c, k].detach().numpy(), covariance)
                density += [[0.3, 0.7], [0.5, 0.5]][c][k] * normal.pdf(points.numpy())
            by_condition.append(density)
            ours = mixture.log_density(points, WORLD.embed(torch.full((5,), c)), alpha).exp()
            assert ours.tolist() == pytest.approx(density.tolist(), rel=1e-10)
        both = mixture.log_density(points, WORLD.embed(torch.full((5,), -1)), alpha).exp()
        assert both.tolist() == pytest.approx((sum(by_condition) / 2).tolist(), rel=1e-10)


def test_the_denoiser_is_the_score_and_the_conditional_mean_of_the_noise() -> None:
    mixture, text = two_conditions(), WORLD.embed(torch.tensor([0, 1, 1]))
    points = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    t = 25
    alpha = SCHEDULE.alpha(t)
    (score,) = torch.autograd.grad(mixture.log_density(points, text, alpha).sum(), points)
    eps = mixture(points[:, :, None, None], t, text).sample[:, :, 0, 0]
    assert torch.allclose(eps, -math.sqrt(1 - alpha) * score, atol=1e-12)
    # E[eps | x_t] by weighting draws of x_0 with q(x_t | x_0)
    generator = torch.Generator().manual_seed(2)
    clean = mixture.sample(WORLD.embed(torch.full((400_000,), 1)), generator)[:, :, 0, 0]
    noise = (points[1] - alpha**0.5 * clean) / (1 - alpha) ** 0.5
    weight = (-0.5 * noise.square().sum(1)).softmax(0)
    assert torch.allclose((weight[:, None] * noise).sum(0), eps[1], atol=0.02)


def test_ddim_of_the_exact_denoiser_draws_the_data() -> None:
    """Falsified by a wrong sign or a wrong alpha anywhere between score and sampler; 5 standard errors of 4,000 samples."""
    mixture = two_conditions()
    text = WORLD.embed(torch.ones(4000, dtype=torch.long))
    ids = [str(i) for i in range(4000)]
    latents = rollout(WORLD, mixture, text, WORLD.embed(torch.tensor([-1])), ids, 0, "test", 0, None, 1.0)[:, :, 0, 0]
    divergence, error = kl_of_samples(latents, mixture, text)
    assert abs(divergence) < 0.03 + 5 * error
    exact = mixture.sample(text, torch.Generator().manual_seed(0))[:, :, 0, 0]
    assert torch.allclose(latents.mean(0), exact.mean(0), atol=0.1)


def test_divergences() -> None:
    text = WORLD.embed(torch.zeros(20_000, dtype=torch.long))
    near, far = two_conditions(), two_conditions(0.3)
    assert kl_divergence(near, near, text, torch.Generator().manual_seed(0)) == (0.0, 0.0)
    exact, error = kl_divergence(far, near, text, torch.Generator().manual_seed(0))
    points = far.sample(text, torch.Generator().manual_seed(0))[:, :, 0, 0]
    estimate, error_of_estimate = kl_of_samples(points, near, text)
    assert exact > 0.1
    assert estimate == pytest.approx(exact, abs=0.02 + 5 * (error + error_of_estimate))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"weights": torch.tensor([[0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)}, "weights=.* must be positive"),
        ({"means": torch.full((2, 2, 2), float("nan"), dtype=torch.float64)}, "means holds NaN"),
        ({"factors": torch.zeros(2, 2, 2, 2, dtype=torch.float64)}, "factors holds a singular"),
    ],
)
def test_bad_mixtures_are_refused(changes: dict, complaint: str) -> None:
    good = two_conditions()
    arguments = {"weights": good.log_weights.exp(), "means": good.means, "factors": good.factors}
    with pytest.raises(ValueError, match=complaint):
        Mixture(SCHEDULE, **{k: v.detach() for k, v in (arguments | changes).items()})


def test_bad_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="steps=0"):
        cosine_schedule(0)
    with pytest.raises(ValueError, match="last_alpha=1"):
        cosine_schedule(5, 1.0)
