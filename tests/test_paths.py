"""Gaussian paths: diffusion as it was, flows as diffusers steps them, and errors that are multiples of one another."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from selfimprove.config import Settings
from selfimprove.losses import weighted_denoising
from selfimprove.models.paths import DiffusionSchedule, FlowSchedule, path_of
from selfimprove.models.samplers import SAMPLERS
from selfimprove.schedule import Schedule, ddpm_sigma, density, shifted

CPU = torch.device("cpu")
SETTINGS = Settings()


def diffusion(dtype: torch.dtype = torch.float64, **changes: object) -> DiffusionSchedule:
    options = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
    return DiffusionSchedule(DDIMScheduler(**(options | changes)), CPU, dtype)


def flow(shift: float = 3.0, dtype: torch.dtype = torch.float64, **changes: object) -> FlowSchedule:
    return FlowSchedule(FlowMatchEulerDiscreteScheduler(shift=shift, **changes), CPU, dtype)


def pair(dtype: torch.dtype = torch.float64, rows: int = 5) -> torch.Tensor:
    return torch.randn(2, rows, 3, 4, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_diffusions_numbers_are_those_of_the_formulas_with_alpha_alone(dtype: torch.dtype, prediction: str, eta: float) -> None:
    """Bit for bit, what was written before flows: 1 - alpha in place of a variance of its own."""
    schedule = diffusion(dtype, prediction_type=prediction)
    clean, noise = pair(dtype)
    t = torch.tensor([0, 3, 500, 998, 999])
    alpha = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    assert torch.equal(schedule.add_noise(clean, noise, t), noisy)
    target = noise if prediction == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
    assert torch.equal(schedule.target(clean, noise, t), target)
    for step in (*schedule.steps(13, eta), *schedule.steps(None, eta)[::97]):
        a, a_next = schedule.alpha(step.t), schedule.alpha(step.t_next)
        sigma = eta * np.sqrt((1 - a_next) / (1 - a) * max(1 - a / a_next, 0.0))
        assert step.sigma == sigma
        if prediction == "epsilon":
            x0, eps = (noisy - (1 - a) ** 0.5 * target) / a**0.5, target
        else:
            x0, eps = a**0.5 * noisy - (1 - a) ** 0.5 * target, a**0.5 * target + (1 - a) ** 0.5 * noisy
        direction = np.sqrt(max(1 - a_next - sigma**2, 0.0))
        assert torch.equal(schedule.reverse(noisy, target, step).mean, a_next**0.5 * x0 + float(direction) * eps)
        assert torch.equal(
            schedule.posterior(noisy, clean, step).mean,
            a_next**0.5 * clean + float(direction) * ((noisy - a**0.5 * clean) / (1 - a) ** 0.5),
        )


@pytest.mark.parametrize(("shift", "steps"), [(1.0, 7), (3.0, 20), (3.0, 1)])
def test_the_flows_steps_are_diffusers_euler_steps(shift: float, steps: int) -> None:
    schedule, scheduler = flow(shift), FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    ours = schedule.steps(steps)
    assert [step.t for step in ours] == pytest.approx(scheduler.timesteps.tolist(), rel=1e-6)
    noisy = theirs = pair(torch.float32)[0]
    for step, t in zip(ours, scheduler.timesteps, strict=True):
        velocity = torch.sin(theirs)  # any field
        theirs = scheduler.step(velocity, t, theirs).prev_sample
        noisy = schedule.reverse(noisy, torch.sin(noisy), step).mean
        assert torch.allclose(noisy, theirs, atol=1e-6 * max(1, float(theirs.abs().max()))), step
    assert ours[-1].t_next == 0


def test_dynamic_shifting_needs_the_size_of_images() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    with pytest.raises(ValueError, match="image_tokens=0"):
        path_of(scheduler, CPU)
    schedule = path_of(scheduler, CPU, image_tokens=1024)  # 512 px
    assert schedule.solver_config()["flow_shift"] == pytest.approx(1.88, abs=0.01)
    scheduler.set_timesteps(9, mu=0.63)
    assert [step.t for step in schedule.steps(9)] == pytest.approx(scheduler.timesteps.tolist(), rel=1e-4)


@pytest.mark.parametrize("schedule", [diffusion(), diffusion(prediction_type="v_prediction"), flow(1.0)], ids=["eps", "v", "flow"])
def test_errors_are_multiples_of_one_another(schedule: Schedule) -> None:
    """Perturb the output, read x_0 and eps off it, and compare squared errors in every form."""
    clean, noise = pair(rows=1)
    change = torch.randn(clean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for share in (0.02, 0.3, 0.7, 0.97):
        t = schedule.time(torch.tensor([share], dtype=torch.float64))
        alpha, variance = (float(part) for part in schedule.powers(t))
        noisy = schedule.add_noise(clean, noise, t)
        x0, eps = schedule.clean_and_noise(noisy, schedule.target(clean, noise, t) + change, alpha, variance)
        a, b = alpha**0.5, variance**0.5
        assert torch.allclose(a * x0 + b * eps, noisy, atol=1e-12)  # the two lie on the path
        errors = {"epsilon": eps - noise, "x0": x0 - clean, "velocity": (eps - x0) - (noise - clean)}
        errors["v"] = a * (eps - noise) - b * (x0 - clean)
        own = float(change.square().mean())
        for name, error in errors.items():
            assert float(error.square().mean()) == pytest.approx(own * float(schedule.error_scale(t, name)), rel=1e-9), (name, share)


def test_the_likelihoods_weight() -> None:
    """(1 - s)/s on a flow's velocity; on a diffusion, half the slope of log SNR on eps: summed over t, a telescoping log SNR."""
    share = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    schedule = flow(1.0)
    assert torch.allclose(schedule.error_scale(schedule.time(share), "likelihood"), (1 - share) / share, rtol=1e-6)
    schedule = diffusion()
    t = torch.arange(len(schedule) - 1)
    total = float(schedule.error_scale(t, "likelihood").sum()) / len(schedule)
    log_snr = torch.special.logit(schedule.alphas_cumprod)
    assert total == pytest.approx(float(log_snr[0] - log_snr[-1]) / 2, rel=1e-9)


def test_ddpms_variance_is_that_of_the_markov_path() -> None:
    """Draw x' and then x from it with the path's marginals: the variance of x' given x and x_0 is sigma^2, for both kinds of path."""
    for schedule, t, t_next in ((diffusion(), 700, 400), (flow(1.0), 700.0, 400.0)):
        (alpha, variance), (alpha_next, variance_next) = schedule.power(t), schedule.power(t_next)
        ratio = (alpha / alpha_next) ** 0.5
        added = variance - ratio**2 * variance_next
        posterior = 1 / (1 / variance_next + ratio**2 / added)
        assert ddpm_sigma(alpha, alpha_next, variance, variance_next) ** 2 == pytest.approx(posterior, rel=1e-9)
        step = schedule.step(t, t_next, eta=1.0)
        assert step.direction**2 + step.sigma**2 == pytest.approx(variance_next, rel=1e-12)
        assert step.h <= 0


@given(t=st.floats(1, 999), down=st.floats(0.01, 0.99), eta=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_reverse_is_the_posterior_on_flows_too(t: float, down: float, eta: float) -> None:
    schedule = flow(1.0)
    step = schedule.step(t, down * t, eta)
    clean, noise = pair()
    times = torch.full((5,), t, dtype=torch.float64)
    noisy = schedule.add_noise(clean, noise, times)
    reverse = schedule.reverse(noisy, schedule.target(clean, noise, times), step)
    assert torch.allclose(reverse.mean, schedule.posterior(noisy, clean, step).mean, atol=1e-9)
    euler = noisy + (step.t_next - step.t) / 1000 * (noise - clean)
    assert torch.allclose(schedule.reverse(noisy, noise - clean, replace(step, sigma=0.0)).mean, euler, atol=1e-12)
    changed = schedule.reverse(noisy, schedule.target(clean, noise, times) + 1, step).mean  # eps changes by a / (a + b) = 1 - s
    assert torch.allclose(changed - reverse.mean, torch.full_like(clean, step.h * (1 - t / 1000)), atol=1e-9)


def test_training_times_of_released_recipes() -> None:
    """Shift 3 moves the logit-normal's median from .5 to .75 and its logit's mean to ln 3, as indexing SD3's shifted table does."""
    uniform = torch.rand(40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    quantiles = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    normal = replace(SETTINGS, time_density="logit-normal")
    for shift, wanted in ((1.0, [0.16, 0.34, 0.50, 0.66, 0.84]), (3.0, [0.37, 0.60, 0.75, 0.86, 0.94])):
        found = density(uniform, replace(normal, time_shift=shift)).quantile(quantiles)
        assert found.tolist() == pytest.approx(wanted, abs=0.008)
    logits = torch.logit(density(uniform, replace(normal, time_shift=3.0)))
    assert (float(logits.mean()), float(logits.std())) == pytest.approx((np.log(3), 1), abs=0.02)
    table = FlowMatchEulerDiscreteScheduler(shift=3.0).sigmas.double()
    assert torch.allclose(shifted(torch.linspace(1, 0.001, 1000, dtype=torch.float64), 3.0), table[:1000], atol=1e-6)
    assert float(table[999]) == pytest.approx(0.00299, abs=1e-5)
    towards_noise = density(uniform, replace(normal, time_mean=1.0))
    assert float(towards_noise.median()) == pytest.approx(0.731, abs=0.01)
    mode = density(uniform, replace(SETTINGS, time_density="mode", time_std=1.29))
    assert 0 <= float(mode.min()) <= float(mode.max()) <= 1
    assert float(((mode > 0.25) & (mode < 0.75)).double().mean()) > 0.6  # most weight in the middle
    assert torch.equal(density(uniform, SETTINGS), uniform)


def test_times_are_what_networks_are_given() -> None:
    share = torch.tensor([0.0, 0.4999999, 0.5, 0.9999999999], dtype=torch.float64)
    assert diffusion().time(share).tolist() == [0, 499, 500, 999]
    times = flow().time(share)
    assert times.dtype == torch.float32
    assert times.tolist() == pytest.approx([1, 500, 500, 999.999])  # never the image itself, never quite pure noise
    assert torch.isfinite(flow().error_scale(times, "x0")).all()


def test_what_rsidiffs_weights_are_on_a_flow() -> None:
    """lambda = 1/s^2 is plain flow matching; lambda = 1, the weight of x_0's error, is s^2 on the velocity; the SNR gives (1-s)^2."""
    schedule, share = flow(1.0), torch.tensor([0.2, 0.75], dtype=torch.float64)
    t = schedule.time(share)
    alpha, variance = schedule.powers(t)
    in_eps = schedule.error_scale(t, "epsilon")  # of a velocity whose squared error is 1
    for name, wanted in (("inverse-variance", torch.ones(2)), ("one", share**2), ("snr", (1 - share) ** 2)):
        loss = weighted_denoising(in_eps, torch.ones(2), alpha, name, variance).loss
        assert torch.allclose(loss, wanted.double(), rtol=1e-6), name


@pytest.mark.parametrize("sampler", [name for name, sampler in SAMPLERS.items() if sampler.scheduler])
def test_solvers_follow_the_flow(sampler: str) -> None:
    """On a Gaussian of variance 1/4 about 1, whose velocity is known, every solver ends where the flow ends."""

    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        s = t / 1000
        total = 0.25 * (1 - s) ** 2 + s**2
        return (s - 0.25 * (1 - s)) / total * (x - (1 - s)) - 1

    schedule = flow(3.0)
    solver = SAMPLERS[sampler].solver(schedule.solver_config())
    solver.set_timesteps(40)
    noise = pair()[0]
    x = noise * solver.init_noise_sigma
    for t in solver.timesteps:
        x = solver.step(velocity(solver.scale_model_input(x, t), t.item()), t, x).prev_sample
    assert torch.allclose(x, 1 + 0.5 * noise, atol=0.02)


def test_bad_times_are_refused() -> None:
    schedule = flow()
    with pytest.raises(ValueError, match="t=1001 lies outside the flow"):
        schedule.step(1001, 5)
    with pytest.raises(ValueError, match="t_next=5 must lie before t=5"):
        schedule.step(5, 5)
    with pytest.raises(ValueError, match="steps=0 must lie between"):
        schedule.steps(0)
    with pytest.raises(ValueError, match="sigma=3"):
        replace(schedule.step(500, 400), sigma=3.0)
