import pytest
import torch
from diffusers import DDIMScheduler

from selfimprove.schedule import Schedule

CHANGES = [{}, {"set_alpha_to_one": True, "steps_offset": 0}, {"beta_schedule": "linear"}, {"timestep_spacing": "trailing"}]


def make(**changes: object) -> DDIMScheduler:
    options = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
    return DDIMScheduler(**(options | {"set_alpha_to_one": False, "steps_offset": 1} | changes))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("changes", CHANGES)
def test_one_transition_agrees_with_diffusers(eta: float, changes: dict) -> None:
    scheduler = make(**changes)
    schedule = Schedule(scheduler, torch.device("cpu"))
    noisy, eps, noise = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = schedule.timesteps(20)
    assert len(steps) == 20
    for t, t_next in steps:
        expected = scheduler.step(eps, t, noisy, eta=eta, variance_noise=noise if eta else None).prev_sample
        mean, std = schedule.reverse(noisy, eps, t, t_next, eta)
        assert torch.allclose(mean + std * noise, expected, atol=2e-5, rtol=1e-5)


def test_forward_noising_keeps_unit_variance() -> None:
    schedule = Schedule(make(), torch.device("cpu"))
    clean, noise = torch.randn(2, 500, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in (0, 500, 999):
        noisy = schedule.add_noise(clean, noise, torch.full((500,), t))
        assert abs(float(noisy.var()) - 1) < 0.02
    expected = make().add_noise(clean[:2], noise[:2], torch.tensor([10, 900]))
    assert torch.allclose(schedule.add_noise(clean[:2], noise[:2], torch.tensor([10, 900])), expected, atol=1e-6)


def test_too_many_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps=2000"):
        Schedule(make(), torch.device("cpu")).timesteps(2000)
