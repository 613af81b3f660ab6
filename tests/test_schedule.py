import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from selfimprove.models.paths import DiffusionSchedule
from selfimprove.schedule import Step

CHANGES = [{}, {"set_alpha_to_one": True, "steps_offset": 0}, {"beta_schedule": "linear"}, {"timestep_spacing": "trailing"}]


def make(**changes: object) -> DDIMScheduler:
    options = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
    return DDIMScheduler(**(options | {"set_alpha_to_one": False, "steps_offset": 1} | changes))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("changes", CHANGES)
def test_one_transition_agrees_with_diffusers(eta: float, changes: dict) -> None:
    scheduler = make(**changes)
    schedule = DiffusionSchedule(scheduler, torch.device("cpu"))
    noisy, eps, noise = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    steps = schedule.timesteps(20)
    assert len(steps) == 20
    for t, t_next in steps:
        expected = scheduler.step(eps, t, noisy, eta=eta, variance_noise=noise if eta else None).prev_sample
        mean, std = schedule.reverse(noisy, eps, schedule.step(t, t_next, eta))
        assert torch.allclose(mean + std * noise, expected, atol=2e-5, rtol=1e-5)


def test_forward_noising_keeps_unit_variance() -> None:
    schedule = DiffusionSchedule(make(), torch.device("cpu"))
    clean, noise = torch.randn(2, 500, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in (0, 500, 999):
        noisy = schedule.add_noise(clean, noise, torch.full((500,), t))
        assert abs(float(noisy.var()) - 1) < 0.02
    expected = make().add_noise(clean[:2], noise[:2], torch.tensor([10, 900]))
    assert torch.allclose(schedule.add_noise(clean[:2], noise[:2], torch.tensor([10, 900])), expected, atol=1e-6)


def test_too_many_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps=2000"):
        DiffusionSchedule(make(), torch.device("cpu")).timesteps(2000)


class Raw:
    """A scheduler of any alphas at all."""

    def __init__(self, alphas: list[float], prediction_type: str = "epsilon") -> None:
        self.alphas_cumprod = torch.tensor(alphas, dtype=torch.float64)
        self.config = {"prediction_type": prediction_type, "set_alpha_to_one": True}


@pytest.mark.parametrize(
    ("alphas", "complaint"),
    [
        ([], "T=0"),
        ([0.9, 0.95], r"alphas_cumprod\[1\]=0.95 is not below"),
        ([0.9, 0.9], "alphas must decrease"),
        ([1.2, 0.5], r"alphas_cumprod\[0\]=1.2 must lie"),
        ([0.9, -0.1], r"alphas_cumprod\[1\]=-0.1 must lie"),
        ([float("nan"), 0.1], r"alphas_cumprod\[0\]=nan must lie"),
        ([0.9, 0.0], "zero terminal SNR needs v_prediction"),
    ],
)
def test_bad_schedules_are_refused(alphas: list[float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        DiffusionSchedule(Raw(alphas), torch.device("cpu"))


def test_zero_terminal_snr_is_for_v_prediction() -> None:
    schedule = DiffusionSchedule(Raw([0.9, 0.4, 0.0], "v_prediction"), torch.device("cpu"), torch.float64)
    step = schedule.steps()[0]
    noisy = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    assert torch.allclose(schedule.reverse(noisy, -noisy, step).mean, (0.4**0.5 + 0.6**0.5) * noisy)  # v = -x_0 at alpha 0, eps = x_t
    with pytest.raises(ValueError, match="h_t is infinite"):
        _ = step.h
    with pytest.raises(ValueError, match="prediction_type='sample'"):
        DiffusionSchedule(Raw([0.9], "sample"), torch.device("cpu"))


def test_bad_steps_are_refused() -> None:
    schedule = DiffusionSchedule(make(), torch.device("cpu"))
    with pytest.raises(ValueError, match="t=1000 lies outside"):
        schedule.step(1000, 5)
    with pytest.raises(ValueError, match="t=-2 lies outside"):
        schedule.step(5, -2)
    with pytest.raises(ValueError, match="t_next=5 must lie before t=5"):
        schedule.step(5, 5)
    with pytest.raises(ValueError, match="steps=0"):
        schedule.steps(0)
    with pytest.raises(ValueError, match=r"sigma=.* at t=900 must lie between 0 and sqrt"):
        schedule.step(900, 899, eta=50.0)
    with pytest.raises(ValueError, match="sigma=-1"):
        Step(5, 4, 0.5, 0.6, -1.0)


def test_stable_diffusions_last_step_ends_before_the_image() -> None:
    """set_alpha_to_one=False: alpha before the first step is alphas_cumprod[0], so h there is small but not 0/0 for offset 1."""
    schedule = DiffusionSchedule(make(), torch.device("cpu"))
    last = schedule.steps(50)[-1]
    assert (last.t, last.t_next) == (1, -1)
    assert last.alpha_next == pytest.approx(0.99915, abs=1e-5)
    assert last.h < 0
    whole = schedule.steps()[-1]  # offset 0: the step from t = 0 to the same alpha removes nothing
    assert whole.h == 0


@given(
    betas=st.lists(st.floats(1e-5, 0.5), min_size=1, max_size=30), eta=st.floats(0, 1), data=st.data(),
    dtype=st.sampled_from([torch.float32, torch.float64]), shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_reverse_is_the_posterior_of_what_the_model_says(
    betas: list[float], eta: float, data: st.DataObject, dtype: torch.dtype, shape
) -> None:
    """For any schedule, dtype and shape: with the true noise, (3.2) is (3.1); and the two variances add up to 1 - alpha_{t-1}."""
    alphas = torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0).tolist()
    schedule = DiffusionSchedule(Raw(alphas), torch.device("cpu"), dtype)
    step = schedule.steps(eta=eta)[data.draw(st.integers(0, len(alphas) - 1))]
    assert step.h <= 0
    assert step.direction**2 + step.sigma**2 == pytest.approx(1 - step.alpha_next, abs=1e-12)
    clean, eps = torch.randn(2, 2, *shape, dtype=dtype, generator=torch.Generator().manual_seed(len(betas)))
    noisy = schedule.add_noise(clean, eps, torch.full((2,), step.t))
    reverse, posterior = schedule.reverse(noisy, eps, step), schedule.posterior(noisy, clean, step)
    tolerance = (1e-4 if dtype == torch.float32 else 1e-9) / (1 - step.alpha) ** 0.5 / step.alpha**0.5
    assert reverse.std == posterior.std
    assert torch.allclose(reverse.mean, posterior.mean, atol=tolerance)
    assert reverse.mean.dtype == dtype


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [2, 7, 10, 30, 50, 999])
def test_each_step_ends_where_the_next_begins(spacing: str, steps: int) -> None:
    pairs = DiffusionSchedule(make(timestep_spacing=spacing), torch.device("cpu")).timesteps(steps)
    assert [ends for _, ends in pairs] == [*(begins for begins, _ in pairs[1:]), -1]
    scheduler = make(timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    assert [begins for begins, _ in pairs] == scheduler.timesteps.tolist()


def test_where_the_steps_of_diffusers_join_ours_are_the_same_and_elsewhere_not() -> None:
    def same(spacing: str, steps: int) -> bool:
        stride = 1000 // steps
        pairs = DiffusionSchedule(make(timestep_spacing=spacing), torch.device("cpu")).timesteps(steps)
        return all(max(begins - stride, -1) == ends for begins, ends in pairs)

    assert all(same("leading", n) for n in (3, 10, 30, 50))
    assert same("trailing", 10)
    assert same("trailing", 50)
    assert not same("trailing", 30)
    assert not same("linspace", 10)  # 999 -> 899, and the next step begins at 888


def test_a_list_of_steps_that_begins_at_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="steps=1 with 'linspace' begins at the image"):
        DiffusionSchedule(make(timestep_spacing="linspace"), torch.device("cpu")).timesteps(1)
