"""Single-file checkpoints: read like plain diffusers reads them, converted once, with their configuration found without a network."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import tiny_pipeline
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from forms import checkpoint, here, plainly, unet_names, vae_names, write_checkpoint, write_merges
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from selfimprove.models.checks import on_meta
from selfimprove.models.known import KNOWN, PACKAGES, VOCABULARY, write_known
from selfimprove.models.original import check_fit, recognise
from selfimprove.models.pipeline import load_diffuser
from selfimprove.models.players import write_pipeline
from selfimprove.models.resolve import resolve_model
from selfimprove.models.weights import ModelError, model_hash

UNET, TEXT = "model.diffusion_model.", "cond_stage_model.transformer.text_model."
REFINER = "conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None) -> Path:
    monkeypatch.setenv("SELFIMPROVE_CACHE", str(tmp_path / "cache"))
    return write_merges(tmp_path / "cache")


def configurations(tiny: Path, folder: Path) -> Path:
    return Path(shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("*.safetensors")))


@pytest.fixture
def file(tiny: Path, tmp_path: Path) -> Path:
    """A checkpoint, beside a folder of its name with the configurations."""
    configurations(tiny, tmp_path / "dream")
    return write_checkpoint(tmp_path / "dream.safetensors", checkpoint(StableDiffusionPipeline.from_pretrained(tiny)))


def test_a_single_file_draws_what_plain_diffusers_draws(tiny: Path, file: Path) -> None:
    folder = resolve_model(file)
    plain = StableDiffusionPipeline.from_single_file(str(file), config=str(file.with_suffix("")), requires_safety_checker=False)
    torch.testing.assert_close(here(folder), plainly(plain), atol=1e-4, rtol=0)
    torch.testing.assert_close(here(folder), here(tiny), atol=0, rtol=0)


def test_half_precision_stays_so_and_a_mixture_loses_nothing(tiny: Path, file: Path) -> None:
    halves = {n: w.half() if w.is_floating_point() else w for n, w in load_file(file).items()}
    write_checkpoint(file, halves)
    folder = resolve_model(file)
    kept = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert {w.dtype for w in kept.values()} == {torch.float16}
    assert torch.equal(kept["conv_in.weight"], halves[f"{UNET}input_blocks.0.0.weight"])
    write_checkpoint(file, halves | {f"{UNET}out.2.bias": torch.full((4,), 1e-9)})
    assert load_file(resolve_model(file) / "unet" / "diffusion_pytorch_model.safetensors")["conv_out.bias"].tolist() == pytest.approx(
        [1e-9] * 4
    )


def test_it_is_converted_once_and_again_where_it_was_damaged(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = resolve_model(file)
    before, written = model_hash(folder), (folder / "model_index.json").stat().st_mtime_ns
    assert folder.is_relative_to(cache)
    assert resolve_model(file) == folder
    assert (folder / "model_index.json").stat().st_mtime_ns == written
    (folder / "unet" / "config.json").write_text("{}")
    with pytest.warns(UserWarning, match="is not what was written there: it is made again"):
        assert resolve_model(file) == folder
    assert model_hash(folder) == before
    text = "".join(path.read_text() for path in folder.rglob("config.json"))
    assert "_diffusers_version" not in text  # the same model, whichever version converts it
    monkeypatch.setenv("SELFIMPROVE_CACHE", str(file))
    with pytest.raises(ModelError, match="name a folder with enough space by the environment variable SELFIMPROVE_CACHE"):
        resolve_model(file)


def test_other_weights_and_other_configurations_are_other_models(file: Path) -> None:
    first = resolve_model(file)
    scheduler = file.with_suffix("") / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"beta_end": 0.03}))
    second = resolve_model(file)
    assert second != first
    assert model_hash(second) != model_hash(first)


def test_the_configuration_is_found_in_its_own_folder_or_by_name(tiny: Path, file: Path, tmp_path: Path) -> None:
    wanted = model_hash(resolve_model(file))
    moved = configurations(tiny, tmp_path / "elsewhere")
    shutil.move(file, moved / "v1-5-pruned.safetensors")  # as in a clone of a published repository
    assert model_hash(resolve_model(moved / "v1-5-pruned.safetensors")) == wanted
    shutil.move(moved / "v1-5-pruned.safetensors", tmp_path / "alone.safetensors")
    assert model_hash(resolve_model(f"{tmp_path}/alone.safetensors as {moved}")) == wanted
    with pytest.raises(ModelError, match=r"unet: its weights lack .*put a folder with the right one, named 'alone'"):
        resolve_model(tmp_path / "alone.safetensors")
    with pytest.raises(ModelError, match="there is no such file or folder"):
        resolve_model(f"{tmp_path}/alone.safetensors as {tmp_path}/nowhere")
    with pytest.raises(ModelError, match="there is no file"):
        resolve_model(f"{tmp_path}/nothing.safetensors as sd1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop(f"{UNET}out.0.weight"),
            "does not fit its configuration .unet: .* lack conv_norm_out.weight; .*put a folder",
        ),
        (lambda t: t.update({f"{UNET}label_emb.0.0.weight": torch.zeros(2)}), "unet: its weights hold, .* 209 tensors, not 208"),
        (lambda t: [t.pop(n) for n in list(t) if n.startswith("first_stage_model.")], "holds no vae; give a complete checkpoint"),
        (lambda t: [t.pop(n) for n in list(t) if n.startswith("cond_stage_model.")], "holds no text_encoder"),
        (lambda t: t.pop(f"{TEXT}final_layer_norm.bias"), "text_encoder: its weights lack .*final_layer_norm.bias"),
        (lambda t: t.update({REFINER: torch.zeros(1)}), "of the kind 'xl_refiner'"),
        (lambda t: (t.clear(), t.update({"lora_unet_x.lora_up.weight": torch.zeros(1)})), "is a LoRA, no model; add it to one"),
        (lambda t: (t.clear(), t.update({"head.weight": torch.zeros(1)})), "is no checkpoint .its first tensor is 'head.weight'"),
    ],
)
def test_what_is_no_complete_checkpoint_is_refused(tiny: Path, file: Path, cache: Path, change, message: str) -> None:
    tensors = checkpoint(StableDiffusionPipeline.from_pretrained(tiny))
    change(tensors)
    write_checkpoint(file, tensors)
    with pytest.raises(ModelError, match=message):
        resolve_model(file)
    assert not list(cache.rglob("pipeline*"))


def test_pickles_pointers_and_cut_files_are_refused(file: Path) -> None:
    shutil.copy(file, file.with_suffix(".ckpt"))
    with pytest.raises(ModelError, match=r"dream.ckpt' is pickled, and can run code when loaded; convert it"):
        resolve_model(file.with_suffix(".ckpt"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"dream.safetensors' is cut off or no safetensors file"):
        resolve_model(file)
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ModelError, match=r"dream.safetensors' is a pointer of git-lfs.*git lfs pull"):
        resolve_model(file)


def test_a_file_says_what_it_predicts(tiny: Path, file: Path, tmp_path: Path) -> None:
    """Files of Stable Diffusion 2.x look alike; metadata and marks say which they are, and nothing is guessed."""
    shutil.rmtree(file.with_suffix(""))
    wide = {f"{UNET}input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(4, 1024)}
    tensors = checkpoint(tiny_pipeline()) | wide
    write_checkpoint(file, tensors)
    with pytest.raises(ModelError, match=r'does not say whether it predicts eps .*as sd2-base" or model=".*as sd2"'):
        resolve_model(file)
    for metadata, name in (({"modelspec.prediction_type": "v"}, "sd2"), ({"modelspec.prediction_type": "epsilon"}, "sd2-base")):
        write_checkpoint(file, tensors, **metadata)
        with pytest.raises(ModelError, match="unet: its weights lack"):  # these are tiny tensors
            resolve_model(file)
        assert json.loads((write_known(tmp_path / name, KNOWN[name]) / "scheduler" / "scheduler_config.json").read_text())[
            "prediction_type"
        ] == ("v_prediction" if name == "sd2" else "epsilon")


@pytest.mark.parametrize(
    ("name", "unet", "text", "side", "pad"),
    [
        ("sd1", 859_520_964, 123_060_480, 512, 49407),
        ("sd2-base", 865_910_724, 340_387_840, 512, 0),
        ("sd2", 865_910_724, 340_387_840, 768, 0),
    ],
)
def test_the_known_configurations_are_those_of_the_published_models(
    tmp_path: Path, name: str, unet: int, text: int, side: int, pad: int
) -> None:
    """The published numbers of weights and tokens."""
    folder = write_known(tmp_path / name, KNOWN[name])
    denoiser, vae = on_meta(UNet2DConditionModel, folder / "unet"), on_meta(AutoencoderKL, folder / "vae")
    with torch.device("meta"):
        encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder"))
    assert [sum(w.numel() for w in network.parameters()) for network in (denoiser, vae, encoder)] == [unet, 83_653_863, text]
    assert denoiser.config.sample_size * 8 == vae.config.sample_size == side
    names = {"unet": (unet_names, 2), "vae": (vae_names, 4)}
    found, prefixes = {}, {"unet": UNET, "vae": "first_stage_model."}
    for part, network in (("unet", denoiser), ("vae", vae)):
        for n, weight in network.state_dict().items():
            flat = part == "vae" and re.search(r"to_(q|k|v|out\.0)\.weight", n)
            found[prefixes[part] + names[part][0](n, names[part][1])] = weight[..., None, None] if flat else weight
    check_fit(
        folder, recognise(tmp_path, found, dict.fromkeys(found, "F16"), {})
    )  # diffusers' conversion, from the names of the original code, at the true size
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    numbers = tokenizer("a photo of a cat", padding="max_length").input_ids
    # what CLIP's merges do not decide: the marks, the letter "a" as a word, the padding, and the sizes
    assert (numbers[:2], numbers[numbers.index(49407) + 1], len(numbers), len(tokenizer)) == ([49406, 320], pad, 77, 49408)


def test_a_player_of_a_single_file_loads_in_plain_diffusers(file: Path, tmp_path: Path) -> None:
    folder = resolve_model(file)
    diffuser = load_diffuser(folder, torch.device("cpu"))
    write_pipeline(tmp_path / "player", diffuser.denoiser, folder)
    torch.testing.assert_close(here(folder), plainly(StableDiffusionPipeline.from_pretrained(tmp_path / "player")), atol=1e-4, rtol=0)


def test_without_clips_vocabulary_the_remedy_is_named(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / VOCABULARY).unlink()
    monkeypatch.setattr("selfimprove.models.known.PACKAGES", ())
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: (tmp_path / "none").read_text())  # tries no longer
    with pytest.raises(ModelError, match=r"CLIP's vocabulary is not here .*: give a pipeline folder .*install open_clip"):
        write_known(tmp_path / "sd1", KNOWN["sd1"])
    assert PACKAGES == ("open_clip", "clip")
