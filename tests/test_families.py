"""Families of models: from the same noise, the images of plain diffusers."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DiffusionPipeline

from selfimprove import draws
from selfimprove.models.families import FAMILIES
from selfimprove.models.network import Conditioning
from selfimprove.models.paths import path_of
from selfimprove.rollout import rollout
from tests.tiny_families import PIPELINES, write

PROMPTS = ["a star", "a red cat", "noise number 3"]


@pytest.fixture(scope="module", params=list(PIPELINES))
def pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DiffusionPipeline:
    folder = write(request.param, tmp_path_factory.mktemp("family") / "pipeline")
    absent = {"text_encoder_3": None, "tokenizer_3": None} if "without" in request.param else {}
    loaded = DiffusionPipeline.from_pretrained(folder, **absent)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.mark.parametrize(("guidance", "negative"), [(1.0, ""), (4.0, ""), (4.0, "a moon")])
def test_latents_are_those_of_plain_diffusers(pipeline: DiffusionPipeline, guidance: float, negative: str) -> None:
    family = FAMILIES[type(pipeline).__name__]
    distilled = getattr(getattr(pipeline, "transformer", None), "config", {}).get("guidance_embeds", False)
    if distilled and guidance != 1:
        pytest.skip("guidance is an input of this model")
    if type(pipeline).__name__ == "StableDiffusionPipeline":
        pipeline.scheduler.set_timesteps(4)
    schedule = path_of(pipeline.scheduler, torch.device("cpu"), image_tokens=family.tokens((8, 8)), even_sigmas=family.even_sigmas)
    channels = family.channels(getattr(pipeline, family.part).config)
    world = SimpleNamespace(schedule=schedule, device=torch.device("cpu"), latent_shape=(channels, 8, 8))
    with torch.no_grad():
        text, empty = (Conditioning(family.embed(pipeline, prompts, (16, 16)), family.call) for prompts in (PROMPTS, [negative]))
        ours = rollout(world, getattr(pipeline, family.part), text, empty, ["a", "b", "c"], 0, "test", 1, 4, guidance)
    noise = draws.normal(0, "test", (1,), ["a", "b", "c"], (channels, 8, 8))
    options = {"guidance_scale": guidance} if not distilled else {}
    if guidance != 1:
        options["negative_prompt"] = [negative] * 3 if negative or "XL" not in type(pipeline).__name__ else None
    if "Flux" in type(pipeline).__name__:
        noise = pipeline._pack_latents(noise, 3, channels, 8, 8)
        options = {"true_cfg_scale": guidance} | ({"negative_prompt": [negative] * 3} if guidance != 1 else {})
    theirs = pipeline(PROMPTS, height=16, width=16, num_inference_steps=4, latents=noise, output_type="latent", **options).images
    if "Flux" in type(pipeline).__name__:
        theirs = pipeline._unpack_latents(theirs, 16, 16, pipeline.vae_scale_factor)
    assert torch.allclose(ours, theirs, atol=1e-4 * max(1, float(theirs.abs().max()))), (ours - theirs).abs().max()
