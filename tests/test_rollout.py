from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from selfimprove import draws
from selfimprove.config import Settings
from selfimprove.models.pipeline import Diffuser, load_diffuser
from selfimprove.rollout import predict, rollout, sample_batches
from selfimprove.shapes import PIPELINE
from selfimprove_lab.theory.paths import trajectory

PROMPTS = ["a star", "a red heart on a white background", "", "something nice", "a moon"]
IDS = [draws.example_id(p) for p in PROMPTS]
SETTINGS = {"seed": 1, "stream": "test", "round_index": 2, "steps": 5, "guidance": 3.0}


@pytest.fixture(scope="module")
def diffuser(tiny: Path) -> Diffuser:
    return load_diffuser(tiny, torch.device("cpu"))


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_any_batch_size_gives_the_same_latents(diffuser: Diffuser, eta: float) -> None:
    runs = [sample_batches(diffuser, diffuser.denoiser, PROMPTS, IDS, size, "test", **SETTINGS, eta=eta) for size in (1, 2, 5)]
    assert runs[0].shape == (5, 4, 8, 8)
    for other in runs[1:]:
        assert torch.allclose(runs[0], other, atol=1e-4)
    assert runs[0].std() > 0.1


def test_rounds_streams_and_seeds_differ(diffuser: Diffuser) -> None:
    text, empty = diffuser.embed(PROMPTS[:1]), diffuser.embed([""])
    runs = [
        rollout(diffuser, diffuser.denoiser, text, empty, IDS[:1], **(SETTINGS | change))
        for change in ({}, {"seed": 2}, {"stream": "other"}, {"round_index": 3})
    ]
    for other in runs[1:]:
        assert not torch.allclose(runs[0], other, atol=1e-2)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_agrees_with_the_diffusers_pipeline(guidance: float) -> None:
    """The same initial noise through StableDiffusionPipeline, on the embedded model."""
    diffuser = load_diffuser(PIPELINE, torch.device("cpu"))
    settings = SETTINGS | {"guidance": guidance, "steps": 6}
    ours = sample_batches(diffuser, diffuser.denoiser, PROMPTS, IDS, 8, "test", **settings)
    pipeline = StableDiffusionPipeline.from_pretrained(PIPELINE)
    pipeline.set_progress_bar_config(disable=True)
    noise = draws.normal(1, "test", (2,), IDS, diffuser.latent_shape)
    theirs = pipeline(PROMPTS, latents=noise, num_inference_steps=6, guidance_scale=guidance, output_type="latent").images
    assert torch.allclose(ours, theirs, atol=2e-4)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_a_trajectory_ends_where_the_rollout_does(diffuser: Diffuser, eta: float) -> None:
    text, empty = diffuser.embed(PROMPTS), diffuser.embed([""])
    latents = rollout(diffuser, diffuser.denoiser, text, empty, IDS, **SETTINGS, eta=eta)
    path = trajectory(diffuser, diffuser.denoiser, text, empty, IDS, **SETTINGS, eta=eta)
    assert torch.allclose(path.clean, latents, atol=1e-6)
    assert path.states.shape == (6, 5, 4, 8, 8)
    assert path.log_prob.isnan().all() == (eta == 0)
    for index, step in enumerate(path.steps):  # every step can be made again from what is kept
        eps = predict(diffuser.denoiser, path.states[index], step.t, text, empty, SETTINGS["guidance"])
        mean, std = diffuser.schedule.reverse(path.states[index], eps, step)
        assert torch.allclose(mean + std * path.noise[index], path.states[index + 1], atol=1e-5)


@pytest.mark.parametrize("sampler", ["dpm++", "unipc"])
def test_solvers_reach_the_same_image_in_fewer_steps(sampler: str) -> None:
    """Where 200 steps of DDIM end, from the same noise: ten of a solver come nearer than ten of DDIM."""
    diffuser = load_diffuser(PIPELINE, torch.device("cpu"))
    text, empty = diffuser.embed(PROMPTS), diffuser.embed([""])

    def drawn(steps: int, sampler: str = "ddim") -> torch.Tensor:
        return rollout(diffuser, diffuser.denoiser, text, empty, IDS, **(SETTINGS | {"steps": steps}), sampler=sampler)

    end = drawn(200)
    slow, fast, finer = ((drawn(*how) - end).square().mean() for how in ((10, "ddim"), (10, sampler), (40, sampler)))
    assert fast < 0.6 * slow
    assert finer < fast


def test_solvers_draw_no_noise() -> None:
    with pytest.raises(ValueError, match="eta=0.5 belongs to sampler='ddim'; 'unipc' draws no noise"):
        Settings(sampler="unipc", eta=0.5)


@pytest.mark.parametrize("sampler", ["ddim", "dpm++"])
def test_more_steps_than_the_schedule_has(diffuser: Diffuser, sampler: str) -> None:
    with pytest.raises(ValueError, match="steps=1500 must lie between 1 and the schedule's 1000"):
        sample_batches(diffuser, diffuser.denoiser, PROMPTS, IDS, 8, "test", **(SETTINGS | {"steps": 1500}), sampler=sampler)
