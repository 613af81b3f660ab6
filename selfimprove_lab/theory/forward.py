"""Notebook 01: test the forward marginals for every sigma, the reverse transition, and sampling from DDIM to DDPM."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from selfimprove.models.paths import DiffusionSchedule
from selfimprove.rollout import rollout
from selfimprove_lab.theory.checks import Check
from selfimprove_lab.theory.mixture import PointWorld, kl_of_samples
from selfimprove_lab.theory.paths import noising_trajectory, trajectory
from selfimprove_lab.theory.worlds import data_mixture, empty_text, ids, point_world, texts

ETAS = (0.0, 0.5, 1.0)


def marginal_moments(samples: int, steps: int = 20, seed: int = 0) -> pd.DataFrame:
    """Noise one fixed x_0 along eq. (3.1), and compare x_t's first two moments with sqrt(alpha_t) x_0 and 1 - alpha_t.

    There is one row per eta and t. Deviations are in standard errors of `samples` paths: the largest over the two dimensions and, for the
    second moment, their product.
    """
    world = point_world(steps)
    clean = torch.tensor([1.3, -0.7], dtype=torch.float64).view(1, 2, 1, 1).expand(samples, 2, 1, 1)
    rows = []
    for eta in ETAS:
        path = noising_trajectory(world, clean, ids(samples), seed, "marginals", 0, world.schedule.steps(eta=eta))
        for step, state in zip(path.steps[1:], path.states[1:-1], strict=True):
            rest = (state - step.alpha**0.5 * clean)[:, :, 0, 0] / math.sqrt(1 - step.alpha)  # should be standard normal
            products = torch.stack([rest[:, 0] ** 2 - 1, rest[:, 1] ** 2 - 1, rest[:, 0] * rest[:, 1]], 1)
            z = {
                name: float((v.mean(0) / v.std(0)).abs().max()) * math.sqrt(samples) for name, v in (("mean", rest), ("variance", products))
            }
            rows.append({"eta": eta, "t": step.t, "alpha": step.alpha} | z)
    return pd.DataFrame(rows)


def agreement_with_diffusers() -> pd.DataFrame:
    """Return the largest difference of one transition from diffusers' own schedulers, over all t of a full schedule, in float64."""
    generator = torch.Generator().manual_seed(0)
    noisy, output, noise = torch.randn(3, 2, 3, 4, 4, dtype=torch.float64, generator=generator)
    rows = []
    for prediction in ("epsilon", "v_prediction"):
        options: dict[str, Any] = {
            "num_train_timesteps": 200, "beta_schedule": "scaled_linear", "beta_start": 0.004, "beta_end": 0.06, "clip_sample": False,
            "prediction_type": prediction,
        }  # fmt: skip
        ddim, ddpm = DDIMScheduler(**options), DDPMScheduler(**options)
        for scheduler in (ddim, ddpm):
            scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        ddim.final_alpha_cumprod, ddpm.one = torch.ones((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
        schedule = DiffusionSchedule(ddim, torch.device("cpu"), torch.float64)
        for eta in ETAS:
            largest = 0.0
            ddim.set_timesteps(200)
            for step in schedule.steps(eta=eta):
                theirs = ddim.step(output, step.t, noisy, eta=eta, variance_noise=noise if eta else None).prev_sample
                ours = schedule.reverse(noisy, output, step)
                largest = max(largest, float((ours.mean + ours.std * noise - theirs).abs().max()))
            rows.append({"scheduler": "DDIMScheduler", "prediction": prediction, "eta": eta, "largest difference": largest})
        largest = 0.0
        for step in schedule.steps(eta=1.0):
            drawn = torch.randn(noisy.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(step.t))
            theirs = ddpm.step(output, step.t, noisy, generator=torch.Generator().manual_seed(step.t)).prev_sample
            ours = schedule.reverse(noisy, output, step)
            largest = max(largest, float((ours.mean + ours.std * drawn - theirs).abs().max()))
        rows.append({"scheduler": "DDPMScheduler", "prediction": prediction, "eta": 1.0, "largest difference": largest})
    return pd.DataFrame(rows)


def sampling_error(samples: int, counts: Sequence[int] = (2, 3, 5, 10, 20, 50, 100, 200), seed: int = 0) -> pd.DataFrame:
    """Return the KL of rollouts of the exact denoiser to p_data, in nats, by number of steps and eta, with standard errors.

    `excess` is the estimate less that of as many exact samples, so that the estimator's own bias cancels where the two laws agree.
    """
    world = point_world(200)
    mixture, text = data_mixture(world.schedule), texts(world, samples, condition=0)
    exact = mixture.sample(text, torch.Generator().manual_seed(seed + 1))[:, :, 0, 0]
    reference, reference_error = kl_of_samples(exact, mixture, text)
    rows = []
    for eta in ETAS:
        for count in counts:
            steps = None if count == 200 else count
            points = rollout(world, mixture, text, empty_text(world), ids(samples), seed, "sampling", 0, steps, 1.0, eta)
            estimate, error = kl_of_samples(points[:, :, 0, 0], mixture, text)
            rows.append({"eta": eta, "steps": count, "excess": estimate - reference, "error": math.hypot(error, reference_error)})
    return pd.DataFrame(rows)


def denoising_path(world: PointWorld, samples: int, eta: float, seed: int = 0) -> list[pd.DataFrame]:
    """Return x_T .. x_0 of the exact denoiser, one frame of points per state, for pictures."""
    mixture, text = data_mixture(world.schedule), texts(world, samples)
    path = trajectory(world, mixture, text, empty_text(world), ids(samples), seed, "pictures", 0, None, 1.0, eta)
    condition = torch.arange(samples) % world.conditions
    return [pd.DataFrame({"x": s[:, 0, 0, 0], "y": s[:, 1, 0, 0], "condition": condition}) for s in path.states]


def checks(moments: pd.DataFrame, agreement: pd.DataFrame, sampling: pd.DataFrame) -> list[Check]:
    """Return what the notebook asserts."""
    last = sampling[sampling["steps"] == sampling["steps"].max()]
    few = sampling[(sampling["steps"] == 3) & (sampling["eta"] == 0)].iloc[0]
    return [
        Check("the marginal's mean does not depend on sigma_t", "largest deviation, standard errors", moments["mean"].max(), "<=", 5),
        Check("nor do its variances and covariance", "largest deviation, standard errors", moments["variance"].max(), "<=", 5),
        Check("one transition is diffusers'", "largest difference", agreement["largest difference"].max(), "<=", 1e-6),
        Check("the exact denoiser draws p_data at 200 steps, for every eta", "|excess KL| plus 2 s.e., nats",
              float((last["excess"].abs() + 2 * last["error"]).max()), "<=", 0.1),
        Check("three DDIM steps do not", "excess KL less 5 s.e., nats", few["excess"] - 5 * few["error"], ">=", 0.02),
    ]  # fmt: skip
