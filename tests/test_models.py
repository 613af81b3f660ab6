import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from forms import edit
from safetensors.torch import load_file, save_file

from selfimprove.models import pipeline as models
from selfimprove.models import players
from selfimprove.models.pipeline import load_diffuser
from selfimprove.models.players import write_pipeline
from selfimprove.models.resolve import resolve_model
from selfimprove.models.weights import ModelError, model_hash
from selfimprove.shapes import PIPELINE

CPU = torch.device("cpu")
UNET = "unet/diffusion_pytorch_model.safetensors"


def test_missing_and_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"there is no such file or folder; give 'shapes'"):
        resolve_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"model='owner/nowhere': no such folder here, and the hub did not give it"):
        resolve_model("owner/nowhere")
    with pytest.raises(ModelError, match="is empty or no folder"):
        load_diffuser(tmp_path, CPU)
    assert resolve_model("shapes") == PIPELINE


def test_folder_without_unet(copy: Path) -> None:
    shutil.rmtree(copy / "unet")
    with pytest.raises(ModelError, match="has no unet/ folder; give a complete pipeline"):
        load_diffuser(copy, CPU)


def test_not_a_pipeline(copy: Path) -> None:
    (copy / "model_index.json").unlink()
    with pytest.raises(ModelError, match="has no model_index.json, but scheduler, text_encoder, tokenizer; give"):
        load_diffuser(copy, CPU)
    (copy / "inside").mkdir()
    (copy / "inside" / "dream.safetensors").touch()  # a folder around what is meant
    with pytest.raises(ModelError, match="has no model_index.json, but dream.safetensors; give the folder that has it, or a .safetensors"):
        load_diffuser(copy / "inside", CPU)


@pytest.mark.parametrize("kind", ["StableDiffusionXLImg2ImgPipeline", "StableDiffusion3ControlNetPipeline"])  # the refiner is the former
def test_other_pipelines(copy: Path, kind: str) -> None:
    edit(copy / "model_index.json", _class_name=kind)
    with pytest.raises(ModelError, match=f"is a {kind}; pipelines that can be trained: StableDiffusionPipeline, StableDiffusionXLPipe"):
        load_diffuser(copy, CPU)


def test_inpainting(copy: Path) -> None:
    edit(copy / "unet" / "config.json", in_channels=9)
    with pytest.raises(ModelError, match="takes 9 channels, its VAE makes 4 .an inpainting"):
        load_diffuser(copy, CPU)


def test_other_prediction_types(copy: Path) -> None:
    edit(copy / "scheduler" / "scheduler_config.json", prediction_type="sample")
    with pytest.raises(ModelError, match="predicts 'sample'; only models of epsilon or v_prediction"):
        load_diffuser(copy, CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta_schedule": "wavy"}, "its scheduler cannot be used: wavy is not implemented"),
        ({"rescale_betas_zero_snr": True}, "its scheduler cannot be used: .*zero terminal SNR needs v_prediction"),
    ],
)
def test_schedules_that_cannot_be_used(copy: Path, change: dict, message: str) -> None:
    edit(copy / "scheduler" / "scheduler_config.json", **change)
    with pytest.raises(ModelError, match=message):
        load_diffuser(copy, torch.device("cpu"))


def test_nan_weight(copy: Path) -> None:
    weights = load_file(copy / UNET)
    weights["conv_in.bias"][1] = float("nan")
    save_file(weights, copy / UNET)
    with pytest.raises(ModelError, match="weight 'conv_in.bias' holds NaN or infinity; give an intact model"):
        load_diffuser(copy, CPU)


def test_pickled_weights_are_refused(copy: Path) -> None:
    (copy / UNET).unlink()
    (copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"only pickled weights .*can run code when loaded; convert them"):
        load_diffuser(copy, CPU)
    (copy / "unet" / "diffusion_pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="has no diffusion_pytorch_model.safetensors"):
        load_diffuser(copy, CPU)


def test_shapes_of_another_model(tiny: Path) -> None:
    diffuser = load_diffuser(tiny, CPU)
    assert diffuser.latent_shape == (4, 8, 8)
    assert diffuser.image_size == (16, 16)
    assert diffuser.embed(["a", "b c"]).tensors["text"].shape == (2, 24, 32)
    images = torch.rand(2, 3, 16, 16)
    mean, std = diffuser.encode(images)
    assert mean.shape == std.shape == (2, 4, 8, 8)
    assert diffuser.decode(mean).shape == images.shape
    assert diffuser.truncated(["a word", "word " * 30, "a word"]) == ["word " * 30]


def test_the_vae_conventions_are_the_pipelines(tiny: Path) -> None:
    """Scaled latents mean what StableDiffusionPipeline means by them."""
    diffuser = load_diffuser(tiny, CPU)
    latents = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        image = diffuser.vae.decode(latents / diffuser.vae.config.scaling_factor).sample
    assert torch.allclose(diffuser.decode(latents), (image / 2 + 0.5).clamp(0, 1))


def test_a_written_player_loads_in_plain_diffusers(tiny: Path, tmp_path: Path) -> None:
    diffuser = load_diffuser(tiny, CPU)
    with torch.no_grad():
        diffuser.denoiser.conv_in.bias += 1
    write_pipeline(tmp_path / "player", diffuser.denoiser, tiny)
    assert model_hash(tmp_path / "player") != model_hash(tiny)
    again = load_diffuser(tmp_path / "player", CPU)
    assert torch.equal(again.denoiser.conv_in.bias, diffuser.denoiser.conv_in.bias)
    assert torch.equal(again.vae.decoder.conv_in.weight, diffuser.vae.decoder.conv_in.weight)
    program = f"""
import sys
from diffusers import StableDiffusionPipeline
StableDiffusionPipeline.from_pretrained({str(tmp_path / "player")!r})("x", num_inference_steps=1, output_type="latent")
assert not any(m.startswith("selfimprove") for m in sys.modules)
"""
    subprocess.run([sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True)


def test_a_player_shares_nothing_that_programs_write_in_place(
    tiny: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = model_hash(copy)
    (copy / ".git").mkdir()
    (copy / ".git" / "pack").write_bytes(b"history")
    (copy / "v1-5-pruned.ckpt").write_bytes(b"pickle")
    write_pipeline(tmp_path / "player", load_diffuser(copy, CPU).denoiser, copy)
    written = [path for path in (tmp_path / "player").rglob("*") if path.is_file()]
    assert {path.stat().st_nlink for path in written} == {1}
    assert not [path.name for path in written if path.suffix == ".ckpt" or path.name == "pack"]
    edit(tmp_path / "player" / "scheduler" / "scheduler_config.json", beta_end=0.5)
    assert model_hash(copy) == before
    monkeypatch.setattr(players, "LINKED", 1)  # only large weights may be links
    write_pipeline(tmp_path / "linked", load_diffuser(copy, CPU).denoiser, copy)
    links = {path.name for path in (tmp_path / "linked").rglob("*") if path.is_file() and path.stat().st_nlink > 1}
    assert links == {"diffusion_pytorch_model.safetensors", "model.safetensors"}
    assert "_name_or_path" not in (tmp_path / "linked" / "unet" / "config.json").read_text()  # the same player wherever its base lay


def test_a_model_is_the_files_that_are_loaded(copy: Path) -> None:
    before = model_hash(copy)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    for name in ("diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.fp16.safetensors"):
        shutil.copy(weights, weights.with_name(name))
    assert model_hash(copy) == before
    edit(copy / "scheduler" / "scheduler_config.json", beta_end=0.5)
    assert model_hash(copy) != before


def test_a_part_without_weights_is_left_out_of_what_is_written(tiny: Path, copy: Path, tmp_path: Path) -> None:
    (copy / "safety_checker").mkdir()  # as from the hub, whose safety checker's weights are not fetched
    (copy / "safety_checker" / "config.json").write_text("{}")
    edit(copy / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    with pytest.raises(OSError, match="safety_checker"):
        StableDiffusionPipeline.from_pretrained(copy)
    write_pipeline(tmp_path / "player", load_diffuser(copy, CPU).denoiser, copy)
    assert StableDiffusionPipeline.from_pretrained(tmp_path / "player").safety_checker is None
    assert not (tmp_path / "player" / "safety_checker").exists()


def test_the_vae_sees_a_few_images_at_a_time(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diffuser = load_diffuser(tiny, CPU)
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    whole = diffuser.encode(images)
    drawn = diffuser.decode(whole[0])
    monkeypatch.setattr(models, "VAE_PIXELS", 2 * 16 * 16 + 1)
    assert diffuser.vae_batch == 2
    sizes: list[int] = []
    handle = diffuser.vae.encoder.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    parts = diffuser.encode(images)
    handle.remove()
    assert sizes == [2, 2, 1]
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(diffuser.decode(whole[0]), drawn)
