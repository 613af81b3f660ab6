"""Families of models: from the same noise, the images of plain diffusers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from selfimprove import draws
from selfimprove.models.checks import family_of
from selfimprove.models.lora import FILE
from selfimprove.models.pipeline import Diffuser, load_denoiser, load_diffuser
from selfimprove.models.players import write_pipeline
from selfimprove.models.resolution import at_resolution
from selfimprove.models.resolve import resolve_model
from selfimprove.models.weights import ModelError
from selfimprove.planning.plan import plan
from selfimprove.presets import Preset
from selfimprove.publishing import hub
from selfimprove.rollout import rollout
from selfimprove.rounds import RoundInfo, play
from selfimprove.run import set_up
from tests import test_rounds, test_stages
from tests.conftest import write_images
from tests.tiny_families import PIPELINES, write

PROMPTS = ["a star", "a red cat", "noise number 3"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=list(PIPELINES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(request.param, tmp_path_factory.mktemp("family") / request.param.replace(" ", "_"))


@pytest.fixture(scope="module")
def diffuser(folder: Path) -> Diffuser:
    return at_resolution(load_diffuser(folder, CPU), 16)  # FLUX's configuration names no size, and its usual one is large


def plain(folder: Path) -> DiffusionPipeline:
    family, index = family_of(folder)
    loaded = DiffusionPipeline.from_pretrained(folder, **family.absent(index))
    loaded.set_progress_bar_config(disable=True)
    return loaded


def own_guidance(diffuser: Diffuser) -> bool:
    """Whether guidance is an input of the network."""
    return bool(diffuser.shape.config.get("guidance_embeds", False))


@pytest.mark.parametrize(("guidance", "negative"), [(1.0, ""), (4.0, ""), (4.0, "a moon")])
def test_images_are_those_of_plain_diffusers(folder: Path, diffuser: Diffuser, guidance: float, negative: str) -> None:
    if own_guidance(diffuser) and guidance != 1:
        pytest.skip("guidance is an input of this model")
    pipeline, kind, shape = plain(folder), diffuser.family.pipeline, diffuser.latent_shape
    text, empty = diffuser.embed(PROMPTS), diffuser.embed([negative])
    latents = rollout(diffuser, diffuser.denoiser, text, empty, ["a", "b", "c"], 0, "test", 1, 4, guidance)
    ours = diffuser.decode(latents)
    noise = draws.normal(0, "test", (1,), ["a", "b", "c"], shape)
    options: dict[str, object] = {"guidance_scale": guidance} if not own_guidance(diffuser) else {}
    if guidance != 1:
        options["negative_prompt"] = [negative] * 3 if negative or "XL" not in kind else None
    if "Flux" in kind:
        noise = pipeline._pack_latents(noise, 3, *shape)
        options = {"true_cfg_scale": guidance} | ({"negative_prompt": [negative] * 3} if guidance != 1 else {})
    theirs = pipeline(PROMPTS, height=16, width=16, num_inference_steps=4, latents=noise, output_type="pt", **options).images
    assert torch.allclose(ours, theirs, atol=1e-4), (ours - theirs).abs().max()


def test_images_go_through_the_vae_as_in_plain_diffusers(folder: Path, diffuser: Diffuser) -> None:
    """Encoding undoes the scale and the shift that plain pipelines undo before they decode."""
    vae, images = plain(folder).vae, torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mean, std = diffuser.encode(images)
    with torch.no_grad():
        posterior = vae.encode(2 * images - 1).latent_dist
        shift = vae.config.shift_factor or 0
        assert torch.allclose(mean / vae.config.scaling_factor + shift, posterior.mean, atol=1e-5)
        assert torch.allclose(std / vae.config.scaling_factor, posterior.std, atol=1e-5)
        again = (vae.decode(posterior.mean).sample / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(diffuser.decode(mean), again, atol=1e-5)


def small(preset: Preset, diffuser: Diffuser) -> Preset:
    guidance = {"guidance": 1.0, "evaluation_guidance": 1.0} if own_guidance(diffuser) else {}
    return preset.changed(resolution=16, **guidance)


def played(preset: Preset, folder: Path, run: Path, rounds: int) -> list[RoundInfo]:
    prepared = test_rounds.prepared_run(folder, write_images(run.parent / "images", 30), run, preset)
    assert plan(prepared, rounds).memory > 0
    return play(prepared, rounds)


def network_of(pipeline: DiffusionPipeline, diffuser: Diffuser) -> torch.nn.Module:
    return getattr(pipeline, diffuser.family.part)


def drawn(network: torch.nn.Module, diffuser: Diffuser) -> torch.Tensor:
    """What a network says of some noise."""
    noise = torch.randn(1, *diffuser.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return diffuser.family.call(network, noise, 500, diffuser.embed(PROMPTS[:1]).tensors)


@pytest.fixture(scope="module")
def adapted(folder: Path, diffuser: Diffuser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds of self-play with adapters."""
    run = tmp_path_factory.mktemp("adapted") / "run"
    preset = small(test_rounds.PRESET.changed(steps=2, on_collapse="ignore", lora_rank=2), diffuser)
    infos = played(preset, folder, run, 2)
    assert infos[1].log is not None
    assert infos[1].log["margin"].iloc[0] == pytest.approx(0, abs=1e-4)
    assert infos[1].log["margin"].iloc[-1] != 0
    return run


def test_self_play_with_all_weights(folder: Path, diffuser: Diffuser, tmp_path: Path) -> None:
    """The player is read by plain diffusers, and draws there what it draws here."""
    played(small(test_rounds.PRESET.changed(steps=2, on_collapse="ignore"), diffuser), folder, tmp_path / "run", 1)
    player = tmp_path / "run" / "round_1" / "pipeline"
    here = drawn(load_denoiser(player), diffuser)
    assert torch.allclose(drawn(network_of(plain(player), diffuser), diffuser), here, atol=1e-5)
    assert not torch.allclose(drawn(diffuser.denoiser, diffuser), here, atol=1e-5)
    half = network_of(plain(hub.export(player, tmp_path / "half")), diffuser)
    assert torch.allclose(drawn(half.float(), diffuser), here, atol=1e-2)
    used = (player / "README.md").read_text().split("```")[1]
    assert "DiffusionPipeline.from_pretrained(" in used
    assert ("text_encoder_3=None, tokenizer_3=None" in used) == ("without" in folder.name)


def test_plain_diffusers_adds_the_adapter_of_the_last_round_to_the_base(folder: Path, diffuser: Diffuser, adapted: Path) -> None:
    base, last = plain(folder), adapted / "round_2"
    base.load_lora_weights(last / "lora", weight_name=FILE)
    assert torch.allclose(drawn(network_of(base, diffuser), diffuser), drawn(load_denoiser(last / "pipeline"), diffuser), atol=1e-4)


def test_two_rounds_of_recursion(folder: Path, diffuser: Diffuser, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"a picture of thing number {i}" for i in range(34)))
    preset = small(test_stages.PRESET.changed(lora_rank=2, epochs=1), diffuser)
    run = set_up(preset, "test", str(folder), "", tmp_path / "run", 0, "cpu", str(prompts), test_stages.SCORERS)
    infos = play(run, 2)
    assert infos[2].log is not None
    assert infos[2].log["loss"].notna().all()
    vectors = diffuser.embed_pooled(PROMPTS)  # by which prompts are clustered
    assert vectors.shape[0] == 3
    assert vectors.std(0).min() > 0


def test_an_adapter_of_the_same_family_is_added_and_one_of_another_is_refused(
    folder: Path, tmp_path: Path, diffuser: Diffuser, adapted: Path
) -> None:
    adapter = adapted / "round_2" / "lora"
    fused, player = (load_denoiser(f) for f in (resolve_model(f"{folder} + {adapter}"), adapted / "round_2" / "pipeline"))
    for (name, ours), theirs in zip(fused.named_parameters(), player.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5), name
    other = write("sd" if diffuser.family.pipeline != "StableDiffusionPipeline" else "sd3", tmp_path / "other")
    with pytest.raises(ModelError, match=r"the LoRA .* (cannot be added to this model|has \d+ tensors, of which \d+ have a layer here)"):
        resolve_model(f"{other} + {adapter}")


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / name)


def edited(file: str, **changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))

    return change


def vae_of(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        shutil.rmtree(folder / "vae")
        shutil.copytree(write(name, folder.parent / "other") / "vae", folder / "vae")

    return change


@pytest.mark.parametrize(
    ("name", "break_it", "said"),
    [
        ("flux", without("text_encoder_2"), r"has no text_encoder_2/ folder; give a complete pipeline"),
        ("sdxl", without("text_encoder_2"), r"has no text_encoder_2/ folder; give a complete pipeline"),
        ("sdxl", without("tokenizer_2"), r"has no tokenizer_2/ folder; give a complete pipeline"),
        ("sd3", without("text_encoder_3"), r"has no text_encoder_3/ folder; give a complete pipeline"),
        ("sd3", vae_of("sd"), r"its transformer takes 16 channels, its VAE makes 4 .* parts of two models\)"),
        (
            "sdxl",
            edited("unet/config.json", projection_class_embeddings_input_dim=72),
            r"its UNet and VAE cannot be called .* a StableDiff",
        ),
        (
            "sd3",
            edited("scheduler/scheduler_config.json", _class_name="DDIMScheduler"),
            r"is of a DDIMScheduler; a StableDiffusion3Pipeline",
        ),
        ("sd", edited("scheduler/scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"), "ok"),
        (
            "sd3",
            edited("model_index.json", transformer=["diffusers", "FluxTransformer2DModel"]),
            r"its transformer is a FluxTransformer2DM",
        ),
        (
            "sdxl",
            edited("model_index.json", text_encoder_2=["transformers", "CLIPTextModel"]),
            r"its text_encoder_2 is a CLIPTextModel; what",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, name: str, break_it: Callable[[Path], None], said: str) -> None:
    folder = write(name, tmp_path / "model")
    break_it(folder)
    if said == "ok":  # betas decide, whatever the class's name says
        assert load_diffuser(folder, CPU).schedule.prediction_type == "epsilon"
        return
    with pytest.raises(ModelError, match=said) as refusal:
        load_diffuser(folder, CPU)
    assert "\n" not in str(refusal.value)


def test_guidance_of_a_model_that_takes_it_as_an_input(images: Path, tmp_path: Path) -> None:
    folder = write("flux with guidance", tmp_path / "model")
    with pytest.raises(ModelError, match=r"guidance=2.0: model=.* was distilled to take guidance as an input, .*; give guidance=1"):
        test_rounds.prepared_run(folder, images, tmp_path / "run")


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_size_changes_the_shift_where_the_scheduler_says_so(tmp_path: Path, name: str) -> None:
    diffuser = load_diffuser(write(name, tmp_path / "model"), CPU)
    larger = at_resolution(diffuser, 32)
    assert larger.image_size == (32, 32)
    assert larger.latent_shape[1:] == (16, 16)
    changed = larger.schedule.timesteps(4) != diffuser.schedule.timesteps(4)
    assert changed == (name == "flux")
    with pytest.raises(ModelError, match=r"resolution=18 must be a multiple of 4 for this model; give 16 or 20"):
        at_resolution(diffuser, 18)


def test_large_text_encoders_are_held_in_half_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write("sd3", tmp_path / "model")
    monkeypatch.setattr("selfimprove.models.pipeline.LARGE", 20_000)
    diffuser = load_diffuser(folder, CPU)
    assert {network.dtype for network, _, _ in diffuser.texts} == {torch.bfloat16}
    assert {tensor.dtype for tensor in diffuser.embed(PROMPTS).tensors.values()} == {torch.float32}


def test_each_image_is_given_its_own_size(tmp_path: Path) -> None:
    """Stable Diffusion XL is told the size beside the text; with aspect-ratio buckets a batch's own."""
    diffuser, seen = load_diffuser(write("sdxl", tmp_path / "model"), CPU), []
    network = lambda *inputs, **named: (seen.append(named["added_cond_kwargs"]["time_ids"]), diffuser.denoiser(*inputs, **named))[1]  # noqa: E731
    wide = diffuser.sized((16, 32))
    rollout(wide, network, diffuser.embed(PROMPTS), diffuser.embed([""]), ["a", "b", "c"], 0, "test", 1, 1, 1.0)
    assert seen[0].tolist() == [[16, 32, 0, 0, 16, 32]] * 3


def test_a_part_that_is_named_and_not_there_is_null_in_a_player(tmp_path: Path) -> None:
    """Plain diffusers refuses a folder whose index names a part that is missing; the hub's optional parts are not downloaded."""
    folder = write("sdxl", tmp_path / "model")
    edited("model_index.json", image_encoder=["transformers", "CLIPVisionModelWithProjection"])(folder)
    write_pipeline(tmp_path / "player", load_diffuser(folder, CPU).denoiser, folder)
    assert plain(tmp_path / "player").image_encoder is None


def test_a_vae_may_name_the_mean_and_deviation_of_each_channel(tmp_path: Path) -> None:
    folder = write("sdxl", tmp_path / "model")
    usual = load_diffuser(folder, CPU)
    edited("vae/config.json", latents_mean=[0.1, -0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 0.5, 1.5])(folder)
    diffuser, latents = load_diffuser(folder, CPU), torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = plain(folder)(PROMPTS[:2], height=16, width=16, num_inference_steps=1, latents=latents, output_type="latent").images
        images = plain(folder)(PROMPTS[:2], height=16, width=16, num_inference_steps=1, latents=latents, output_type="pt").images
    assert torch.allclose(diffuser.decode(theirs), images, atol=1e-5)
    assert not torch.allclose(usual.decode(theirs), images, atol=1e-2)
    given = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    mean, std = diffuser.encode(given)
    raw, raw_std = (latent / usual.scaling_factor for latent in usual.encode(given))
    statistics = [torch.tensor(diffuser.vae.config[name]).view(-1, 1, 1) for name in ("latents_mean", "latents_std")]
    assert torch.allclose(mean, (raw - statistics[0]) / statistics[1] * usual.scaling_factor, atol=1e-5)
    assert torch.allclose(std, raw_std / statistics[1] * usual.scaling_factor, atol=1e-6)
