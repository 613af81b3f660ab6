"""Models in the forms in which they are published: variants, shards, LoRAs, the hub; and faulty ones, refused or read as diffusers does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel
from forms import edit, here, plainly
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from selfimprove.models.pipeline import load_denoiser, load_diffuser
from selfimprove.models.players import write_pipeline
from selfimprove.models.weights import ModelError, model_hash, used_files

CPU = torch.device("cpu")
UNET = "unet/diffusion_pytorch_model.safetensors"
NAMES = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFIMPROVE_CACHE", str(tmp_path / "cache"))


def shard(folder: Path, stem: str, variant: str = "") -> None:
    """Replace a part's weights by two shards and their index, under the names that save_pretrained gives them."""
    single = folder / f"{stem}.safetensors"
    weights, ending = load_file(single), f".{variant}" if variant else ""
    single.unlink()
    names = sorted(weights)
    files = {f"{stem}{ending}-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, inside in files.items():
        save_file({name: weights[name] for name in inside}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": {name: file for file, inside in files.items() for name in inside}}
    (folder / f"{stem}.safetensors.index{ending}.json").write_text(json.dumps(index))


def as_fp16(folder: Path) -> None:
    for part, stem in NAMES.items():
        weights = load_file(folder / part / f"{stem}.safetensors")
        halves = {name: w.half() if w.is_floating_point() else w for name, w in weights.items()}
        save_file(halves, folder / part / f"{stem}.fp16.safetensors", metadata={"format": "pt"})
        (folder / part / f"{stem}.safetensors").unlink()


def as_shards(folder: Path) -> None:
    for part, stem in NAMES.items():
        shard(folder / part, stem)


def as_shards_of_a_variant(folder: Path) -> None:
    for part, stem in NAMES.items():
        shard(folder / part, stem, "fp16")


@pytest.mark.parametrize(("change", "variant"), [(as_fp16, "fp16"), (as_shards, None), (as_shards_of_a_variant, "fp16")])
def test_variants_and_shards_are_read_and_their_players_load_plainly(
    copy: Path, tmp_path: Path, change: Callable[[Path], None], variant: str | None
) -> None:
    change(copy)
    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    parts = {part: kind.from_pretrained(copy / part, variant=variant).float() for part, kind in kinds.items()}
    drawn = here(copy)
    torch.testing.assert_close(drawn, plainly(StableDiffusionPipeline.from_pretrained(copy, **parts)), atol=1e-4, rtol=0)
    write_pipeline(tmp_path / "player", load_diffuser(copy, CPU).denoiser, copy)
    torch.testing.assert_close(drawn, plainly(StableDiffusionPipeline.from_pretrained(tmp_path / "player")), atol=1e-4, rtol=0)


@pytest.mark.parametrize("change", [as_fp16, as_shards, as_shards_of_a_variant])
def test_the_identity_covers_precisely_the_files_that_are_loaded(copy: Path, change: Callable[[Path], None]) -> None:
    change(copy)
    before, used = model_hash(copy), used_files(copy)
    for beside in (
        "diffusion_pytorch_model.non_ema.safetensors",
        "diffusion_pytorch_model.bf16.safetensors",
        "diffusion_pytorch_model.bin",
    ):
        (copy / "unet" / beside).write_bytes(b"not loaded")
    (copy / "unet" / "README.md").write_text("not loaded")
    assert model_hash(copy) == before
    for path in used:
        kept = path.read_bytes()
        if path.suffix == ".safetensors":
            weights = load_file(path)
            save_file({name: w + 1 for name, w in weights.items()}, path, metadata={"format": "pt"})
        else:
            path.write_bytes(kept + b" ")
        assert model_hash(copy) != before, path
        path.write_bytes(kept)
    assert model_hash(copy) == before
    assert len([path for path in used if path.suffix == ".safetensors"]) == (3 if change is as_fp16 else 6)


def test_the_plain_weights_go_before_a_variant(copy: Path, tiny: Path) -> None:
    as_fp16(copy)
    halves = copy / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(tiny / UNET, copy / UNET)
    assert load_denoiser(copy).conv_in.weight.sum() == load_denoiser(tiny).conv_in.weight.sum()
    assert halves not in used_files(copy)


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def reweigh(path: Path, change: Callable[[dict], Any]) -> None:
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def with_shards(folder: Path, then: Callable[[Path], None]) -> None:
    shard(folder / "unet", "diffusion_pytorch_model")
    then(folder / "unet")


def without(path: Path, *keys: str) -> None:
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in keys}))


def fewer_words(folder: Path, rows: int) -> None:
    edit(folder / "text_encoder" / "config.json", vocab_size=rows)
    reweigh(folder / TEXT, lambda w: w.update({n: w[n][:rows].clone() for n in w if "token_embedding" in n}))


def tiny_vae(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
                    num_decoder_blocks=(1, 1)).save_pretrained(folder / "vae")  # fmt: skip
    edit(folder / "model_index.json", vae=["diffusers", "AutoencoderTiny"])


VAE, TEXT = "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
SCHEDULER, TOKENIZER = "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"
EMBEDS = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80}
OTHER_TEXT = ["transformers", "CLIPTextModelWithProjection"]
CHANNELS = ("in_channels", "out_channels", "latent_channels")
LCM = {"_class_name": "LCMScheduler", "beta_schedule": "scaled_linear"}
FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "unet is a pointer": (lambda f: pointer(f / UNET), r"unet/diffusion_pytorch_model.safetensors' is a pointer of git-lfs.*git lfs pull"),
    "unet is cut": (lambda f: cut(f / UNET), "unet/diffusion_pytorch_model.safetensors' is cut off or no safetensors file"),
    "unet is empty": (lambda f: (f / UNET).write_bytes(b""), "unet/diffusion_pytorch_model.safetensors' is cut off"),
    "vae is cut": (lambda f: cut(f / VAE), "vae/diffusion_pytorch_model.safetensors' is cut off"),
    "text is a pointer": (lambda f: pointer(f / TEXT), "text_encoder/model.safetensors' is a pointer"),
    "tokenizer is a pointer": (lambda f: pointer(f / "tokenizer/tokenizer.json"), "tokenizer/tokenizer.json' is a pointer"),
    "config is a pointer": (lambda f: pointer(f / "unet/config.json"), "unet/config.json' is a pointer"),
    "unet lacks a tensor": (lambda f: reweigh(f / UNET, lambda w: w.pop("conv_in.bias")), "unet': its weights lack conv_in.bias; give"),
    "vae lacks a tensor": (lambda f: reweigh(f / VAE, lambda w: w.pop("quant_conv.bias")), "vae': its weights lack quant_conv.bias"),
    "text lacks a tensor": (lambda f: reweigh(f / TEXT, lambda w: w.pop(max(w))), "text_encoder': its weights lack .*final_layer_norm"),
    "unet has more": (lambda f: reweigh(f / UNET, lambda w: w.update(odd=torch.ones(1))), "unet': its weights hold, .*, odd; give"),
    "vae has more": (lambda f: reweigh(f / VAE, lambda w: w.update(odd=torch.ones(1))), "vae': its weights hold, .*odd"),
    "text has more": (lambda f: reweigh(f / TEXT, lambda w: w.update(odd=torch.ones(1))), "text_encoder': its weights hold, .*odd"),
    "unet of other shapes": (
        lambda f: edit(f / "unet/config.json", block_out_channels=[16, 24]),
        "unet': its weights do not fit .* is of ",
    ),
    "a shard is missing": (
        lambda f: with_shards(f, lambda u: next(u.glob("*-00002-of*")).unlink()),
        "-00002-of-00002.safetensors' is missing, which the index",
    ),
    "an index is broken": (
        lambda f: with_shards(f, lambda u: next(u.glob("*.index.json")).write_text("{")),
        "index.json' is empty, cut off",
    ),
    "an index is no index": (lambda f: with_shards(f, lambda u: next(u.glob("*.index.json")).write_text("{}")), "has no weight_map"),
    "another variant": (lambda f: (f / UNET).rename(f / "unet/odd.safetensors"), "has no diffusion_.*, only odd.safetensors; rename"),
    "class-conditioned": (lambda f: edit(f / "unet/config.json", num_class_embeds=3), "cannot be called with .* class_labels should be"),
    "addition embeds": (lambda f: edit(f / "unet/config.json", **EMBEDS), "cannot be called with a noisy latent, a time and the text"),
    "distilled guidance": (lambda f: edit(f / "unet/config.json", time_cond_proj_dim=8), "wants the guidance as an input"),
    "another text width": (lambda f: edit(f / "unet/config.json", cross_attention_dim=48), "cannot be called with .* text .24 x 32."),
    "learned variance": (lambda f: edit(f / "unet/config.json", out_channels=8), "cannot be called with a noisy latent"),
    "no size": (lambda f: edit(f / "unet/config.json", sample_size=None), "config.json': sample_size=None says no size.* by 2, there: 256"),
    "size absent": (lambda f: without(f / "unet/config.json", "sample_size"), "sample_size=None says no size"),
    "size is text": (lambda f: edit(f / "unet/config.json", sample_size="8"), "sample_size='8' says no size"),
    "size is 0": (lambda f: edit(f / "unet/config.json", sample_size=0), "sample_size=0 says no size"),
    "size of three": (lambda f: edit(f / "unet/config.json", sample_size=[8, 8, 8]), "says no size"),
    "no limit of tokens": (
        lambda f: (f / TOKENIZER).write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"})),
        r'tokenizer_config.json\' does not say model_max_length, and the text encoder takes 24 tokens; write "model_max_length": 24',
    ),
    "no tokenizer_config": (lambda f: (f / TOKENIZER).unlink(), "does not say model_max_length"),
    "tokenizer too long": (lambda f: edit(f / TOKENIZER, model_max_length=77), "says model_max_length=77, and the text encoder takes 24"),
    "tokenizer of another model": (lambda f: fewer_words(f, 50), "its tokenizer has tokens up to number .*, its text encoder has 50"),
    "no vocabulary": (
        lambda f: [p.unlink() for p in (f / "tokenizer").glob("[!t]*")] + [(f / "tokenizer/tokenizer.json").unlink()],
        "neither",
    ),
    "tokenizer is empty": (lambda f: (f / "tokenizer/tokenizer.json").write_text(""), "tokenizer.json' is empty"),
    "no scheduler": (lambda f: (f / SCHEDULER).unlink(), "scheduler_config.json' is missing; give a complete pipeline"),
    "scheduler is empty": (lambda f: (f / SCHEDULER).write_text(""), "scheduler_config.json' is empty, cut off or no JSON"),
    "index is broken": (lambda f: (f / "model_index.json").write_text('{"_class'), "model_index.json' is empty, cut off or no JSON"),
    "index is empty": (lambda f: (f / "model_index.json").write_text(""), "model_index.json' is empty"),
    "index is a list": (lambda f: (f / "model_index.json").write_text("[]"), "model_index.json' holds no JSON object but list"),
    "config is empty": (lambda f: (f / "vae/config.json").write_text(""), "vae/config.json' is empty"),
    "no config": (lambda f: (f / "text_encoder/config.json").unlink(), "text_encoder/config.json' is missing"),
    "config makes nothing": (lambda f: edit(f / "unet/config.json", down_block_types=["Odd", "Odd"]), "unet/config.json' makes no UNet2D"),
    "part not named": (lambda f: edit(f / "model_index.json", vae=[None, None]), "model_index.json' names no class for vae"),
    "tiny autoencoder": (tiny_vae, "its vae is a AutoencoderTiny; what can be trained has AutoencoderKL there"),
    "another text encoder": (lambda f: edit(f / "model_index.json", text_encoder=OTHER_TEXT), "is a CLIPTextModelWithProjection; what"),
    "thresholding": (lambda f: edit(f / SCHEDULER, thresholding=True), "asks for dynamic thresholding, which is for pixels"),
    "betas left out": (lambda f: (f / SCHEDULER).write_text(json.dumps(LCM)), "LCMScheduler makes another noise schedule of it than DDIM"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_model_is_refused_with_the_file_and_the_remedy(copy: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    change(copy)
    with pytest.raises(ModelError, match=message):
        load_diffuser(copy, CPU)


def test_no_finite_weight_is_missed_in_shards(copy: Path) -> None:
    reweigh(copy / UNET, lambda w: w["conv_out.bias"].fill_(float("inf")))
    shard(copy / "unet", "diffusion_pytorch_model", "fp16")
    with pytest.raises(ModelError, match="weight 'conv_out.bias' holds NaN or infinity"):
        load_diffuser(copy, CPU)


def rename(path: Path, names: dict[str, str]) -> None:
    def change(weights: dict) -> None:
        for name in list(weights):
            new = name
            for old, other in names.items():
                new = new.replace(old, other)
            weights[new] = weights.pop(name)

    reweigh(path, change)


READ: dict[str, Callable[[Path], Any]] = {
    "absent channels": lambda f: (
        without(f / "unet/config.json", "in_channels", "out_channels"),
        without(f / "vae/config.json", "latent_channels"),
    ),
    "size as a list": lambda f: edit(f / "unet/config.json", sample_size=[8, 12]),
    "size by an old diffusers": lambda f: edit(f / "unet/config.json", sample_size=8, _diffusers_version="0.6.0.dev0"),
    "no scaling factor": lambda f: without(f / "vae/config.json", "scaling_factor"),
    "clipped samples": lambda f: edit(f / SCHEDULER, clip_sample=True),
    "clipped samples by default": lambda f: without(f / SCHEDULER, "clip_sample"),
    "another offset": lambda f: edit(f / SCHEDULER, steps_offset=0),
    "offset absent": lambda f: without(f / SCHEDULER, "steps_offset"),
    "another final alpha": lambda f: edit(f / SCHEDULER, set_alpha_to_one=True),
    "trailing": lambda f: edit(f / SCHEDULER, timestep_spacing="trailing"),
    "attention mask": lambda f: edit(f / "text_encoder/config.json", use_attention_mask=True),
    "old names in the VAE": lambda f: rename(f / VAE, {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}),
    "old names in the text": lambda f: reweigh(f / TEXT, lambda w: [w.update({f"text_model.{n}": w.pop(n)}) for n in list(w)]),
    "surplus of CLIP": lambda f: reweigh(f / TEXT, lambda w: w.update({"text_projection.weight": torch.ones(2, 32)})),
    "fp16 weights": lambda f: reweigh(f / UNET, lambda w: [w.update({n: w[n].half()}) for n in list(w)]),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of what plain diffusers reads otherwise than it is written
@pytest.mark.parametrize("form", READ)
def test_a_model_is_read_as_plain_diffusers_reads_it(copy: Path, tmp_path: Path, form: str) -> None:
    """The images are those of plain diffusers, of the model and of the player that is written from it."""
    READ[form](copy)
    drawn = here(copy)
    plain = plainly(StableDiffusionPipeline.from_pretrained(copy, dtype=torch.float32))
    assert drawn.shape == plain.shape
    torch.testing.assert_close(drawn, plain, atol=1e-4, rtol=0)
    write_pipeline(tmp_path / "player", load_diffuser(copy, CPU).denoiser, copy)
    torch.testing.assert_close(plainly(StableDiffusionPipeline.from_pretrained(tmp_path / "player")), plain, atol=1e-4, rtol=0)
