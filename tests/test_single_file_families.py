"""Single files of SDXL, Stable Diffusion 3 and 3.5, and FLUX.1: read as plain diffusers reads them, or refused in a line."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import diffusers
import pytest
import torch
import transformers
from diffusers import DiffusionPipeline
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file, save_file
from torch import Tensor

from selfimprove import draws
from selfimprove.models import single_file
from selfimprove.models.checks import load_tokenizer, on_meta
from selfimprove.models.families import FAMILIES
from selfimprove.models.known import KNOWN, T5_FILE, write_configurations, write_known
from selfimprove.models.original import check_fit, recognise
from selfimprove.models.pipeline import load_diffuser
from selfimprove.models.resolution import at_resolution
from selfimprove.models.resolve import resolve_model
from selfimprove.models.weights import ModelError
from selfimprove.rollout import rollout
from tests.forms import write_merges
from tests.original_layout import CLIP_L, DENOISER, T5, original
from tests.tiny_families import flux, sd3, sdxl

PROMPTS, CPU = ["a star", "a red cat"], torch.device("cpu")


class Form(NamedTuple):
    """A file: its kind, the tiny pipeline, the parts in the file (all if none is named), and how names of the denoiser begin."""

    kind: str
    make: Callable[[], DiffusionPipeline]
    held: tuple[str, ...] = ()
    prefix: str = DENOISER


NORMED = {"qk_norm": "rms_norm"}
FORMS = {
    "SDXL": Form("sdxl", lambda: sdxl(48)),
    "SDXL, UNet alone": Form("sdxl", lambda: sdxl(48), ("unet",)),
    "SD3 with all encoders": Form("sd3", lambda: sd3(True, 48)),
    "SD3 without T5": Form("sd3", lambda: sd3(True, 48), ("transformer", "vae", "text_encoder", "text_encoder_2")),
    "SD3.5-medium, transformer and VAE": Form("sd3", lambda: sd3(True, 48, dual_attention_layers=(0,), **NORMED), ("transformer", "vae")),
    "SD3.5-large, transformer alone": Form("sd3", lambda: sd3(False, 48, **NORMED), ("transformer",), ""),
    "FLUX.1-schnell with all encoders": Form("flux", flux),
    "FLUX.1-dev, transformer alone": Form("flux", lambda: flux(True), ("transformer",), ""),
}


class Written(NamedTuple):
    """A file, the tiny pipeline whose weights it has, a folder with the whole pipeline, and one with its configurations alone."""

    form: Form
    file: Path
    pipeline: Any
    whole: Path
    bare: Path

    def named(self) -> Path:
        """The folder that has what the file lacks, and no more."""
        return self.bare if not self.form.held or "text_encoder" in self.form.held else self.whole


class ByProportion:
    """torch, but what is split into rows of FLUX's true width, a number in diffusers' conversion, is split in proportion to these."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def split(tensor: Tensor, rows: tuple[int, ...], dim: int = 0) -> tuple[Tensor, ...]:
        return torch.split(tensor, [row * tensor.shape[dim] // sum(rows) for row in rows], dim)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None) -> Path:
    monkeypatch.setenv("SELFIMPROVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(single_file_utils, "torch", ByProportion())
    return tmp_path / "cache"


def write(name: str, folder: Path) -> Written:
    torch.manual_seed(sum(name.encode()))
    form = FORMS[name]
    pipeline = form.make()
    if form.kind == "sd3":  # files leave out the projection of the first encoder, which is the identity
        pipeline.text_encoder.text_projection.weight.data = torch.eye(32)
    pipeline.save_pretrained(folder / "whole")
    shutil.copytree(folder / "whole", folder / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = original(form.kind, pipeline, *form.held)
    renamed = {n.replace(DENOISER, form.prefix): w for n, w in tensors.items()}
    save_file(renamed, folder / "dream.safetensors")
    return Written(form, folder / "dream.safetensors", pipeline, folder / "whole", folder / "bare")


def parts_of(pipeline: Any) -> Iterator[tuple[str, torch.nn.Module]]:
    names = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
    return ((name, network) for name in names if (network := getattr(pipeline, name, None)) is not None)


@pytest.fixture(scope="module", params=list(FORMS))
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(request.param, tmp_path_factory.mktemp("form"))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    names = {"sdxl": "SDXL", "sd3": "SD3 with all encoders", "flux": "FLUX.1-schnell with all encoders"}
    return {kind: write(name, tmp_path_factory.mktemp(kind)) for kind, name in names.items()}


def plainly_read(written: Written) -> Any:
    """Plain diffusers' pipeline of the file; what the file lacks is loaded from the folder, as its error message asks."""
    folder, nothing = written.named(), {"text_encoder_3": None, "tokenizer_3": None}
    given: dict[str, Any] = nothing if getattr(written.pipeline, "text_encoder_3", "") is None else {}
    for part, network in parts_of(written.pipeline):
        if written.form.held and part not in written.form.held:
            there = any((folder / part).glob("*.safetensors"))
            given |= {part: type(network).from_pretrained(folder / part)} if there else nothing
    pipeline = type(written.pipeline).from_single_file(str(written.file), config=str(folder), local_files_only=True, **given)
    for _, network in parts_of(pipeline):
        network.eval()  # diffusers forgets that for T5, and leaves the second name of its embeddings empty
        if any(weight.is_meta for weight in network.parameters()):
            network.set_input_embeddings(network.get_input_embeddings())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pictures(folder: Path, pipeline: Any, guidance: float, negative: str) -> tuple[Tensor, Tensor]:
    """Images of the same latents, ours and plain diffusers'."""
    diffuser = at_resolution(load_diffuser(folder, CPU), 16)
    distilled = bool(diffuser.shape.config.get("guidance_embeds"))
    guidance, ids = (1.0 if distilled else guidance), ["a", "b"]
    text, empty = diffuser.embed(PROMPTS), diffuser.embed([negative])
    ours = diffuser.decode(rollout(diffuser, diffuser.denoiser, text, empty, ids, 0, "test", 1, 3, guidance))
    noise = draws.normal(0, "test", (1,), ids, diffuser.latent_shape)
    options: dict[str, Any] = {"guidance_scale": guidance, "negative_prompt": [negative] * 2}
    if "Flux" in type(pipeline).__name__:
        noise = pipeline._pack_latents(noise, 2, *diffuser.latent_shape)
        options = {} if distilled else {"true_cfg_scale": guidance, "negative_prompt": [negative] * 2}
    theirs = pipeline(PROMPTS, height=16, width=16, num_inference_steps=3, latents=noise, output_type="pt", **options).images
    return ours, theirs


def test_a_file_draws_what_plain_diffusers_draws(written: Written) -> None:
    """With guidance and a negative prompt. Every tensor is that of the model from which the file was written."""
    folder = resolve_model(f"{written.file} as {written.named()}")
    ours, theirs = pictures(folder, plainly_read(written), 3.0, "a moon")
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    index = json.loads((folder / "model_index.json").read_text())
    for part, network in parts_of(written.pipeline):
        if part == "text_encoder_3" and written.named() == written.bare and written.form.held:
            assert index[part] == index["tokenizer_3"] == [None, None]
            continue
        read, wanted = load_file(next((folder / part).glob("*.safetensors"))), network.state_dict()
        assert index[part][1] == type(network).__name__
        assert read.keys() >= wanted.keys() - {"encoder.embed_tokens.weight"}
        assert [name for name in read if not torch.equal(read[name], wanted[name])] == []


def rewrite(written: Written, folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """Write another file of the same name into a folder."""
    tensors = load_file(written.file)
    change(tensors)
    folder.mkdir(exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in tensors.items()}, folder / "dream.safetensors")
    return folder / "dream.safetensors"


@pytest.mark.parametrize(
    ("kind", "types", "kept"),
    [
        ("sdxl", (torch.float16,), torch.float16),
        ("sd3", (torch.float16, torch.float8_e4m3fn), torch.float16),  # T5 in 8 bits
        ("flux", (torch.bfloat16, torch.float8_e4m3fn), torch.bfloat16),
        ("flux", (torch.bfloat16, torch.float16), torch.float32),
    ],
)
def test_the_precision_of_a_file_is_kept(one: dict[str, Written], tmp_path: Path, kind: str, types: tuple, kept: torch.dtype) -> None:
    """8 bits become 16, and two kinds of half precision become float32, which changes no number."""
    tensors: dict[str, Tensor] = {}

    def halve(found: dict[str, Tensor]) -> None:
        found |= {name: weight.to(types[-1 if name.startswith(T5) else 0]) for name, weight in found.items()}
        tensors.update(found)

    folder = resolve_model(f"{rewrite(one[kind], tmp_path, halve)} as {one[kind].bare}")
    for part, _ in parts_of(one[kind].pipeline):
        read = load_file(next((folder / part).glob("*.safetensors")))
        assert {weight.dtype for name, weight in read.items() if ".wo." not in name} == {kept}, part  # transformers keeps T5's in float32
        assert all(weight.isfinite().all() for weight in read.values())
    if kind != "sdxl":
        part, name = next(p for p in ("text_encoder_3", "text_encoder_2") if (folder / p).exists()), "shared.weight"
        read = load_file(folder / part / "model.safetensors")
        assert torch.equal(read[name].float(), tensors[T5 + name].float())


FIRST = {"sdxl": "conditioner.embedders.0.transformer.text_model.", "sd3": f"{CLIP_L}text_model.", "flux": f"{CLIP_L}text_model."}
IN = {"sdxl": "input_blocks.0.0", "sd3": "x_embedder.proj", "flux": "img_in"}


def without(*beginnings: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(beginnings)]


def with_(**tensors: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda found: found.update({name.replace("__", "."): weight for name, weight in tensors.items()})


def of_other_shape(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({name: torch.cat([tensors[name]] * 2)})


INNER = {"sdxl": "middle_block.0.in_layers.0.weight", "sd3": "joint_blocks.1.x_block.attn.qkv.bias", "flux": "single_blocks.0.linear1.bias"}
SECOND = {
    "sdxl": "conditioner.embedders.1.model.ln_final.bias",
    "sd3": "text_encoders.clip_g.transformer.text_model.final_layer_norm.bias",
    "flux": f"{T5}encoder.final_layer_norm.weight",
}
DAMAGES: dict[str, Callable[[str], tuple[Callable[[dict[str, Tensor]], object], str]]] = {
    "a tensor of the denoiser": lambda k: (without(DENOISER + INNER[k]), "(unet|transformer): its weights lack (mid_block|joint|single)"),
    "a tensor of the VAE": lambda k: (
        without("vae.decoder.conv_out.b", "first_stage_model.decoder.conv_out.b"),
        "vae: .*lack decoder.conv_out",
    ),
    "a tensor of the first encoder": lambda k: (without(FIRST[k] + "final_layer_norm.b"), r"text_encoder: its weights lack .*norm\.bias"),
    "a tensor of the second encoder": lambda k: (without(SECOND[k]), r"text_encoder_2: its weights lack .*final_layer_norm"),
    "the embeddings of the first encoder": lambda k: (without(FIRST[k] + "embeddings.token"), "text_encoder: its weights lack .*token_emb"),
    "another shape in the denoiser": lambda k: (of_other_shape(f"{DENOISER}{IN[k]}.bias"), r"(unet|transformer): .* is of \(\d+,\), not"),
    "another shape in the second encoder": lambda k: (
        of_other_shape(SECOND[k]),
        r"text_encoder_2: .*layer_norm.* is of \(\d+,\), not",
    ),
    "a surplus tensor": lambda k: (
        with_(**{f"{DENOISER}more.weight": torch.zeros(1)}),
        "hold, unknown to .*, (more|293 tensors)",
    ),
    "no VAE": lambda k: (without("vae.", "first_stage_model."), "holds no vae; give a complete checkpoint, or name a pipeline folder"),
    "no first encoder": lambda k: (without(FIRST[k]), 'holds no text_encoder; .* that has the rest: model=".*dream.safetensors as FOLDER"'),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux"])
def test_damage_is_named_before_the_file_is_read(
    one: dict[str, Written], tmp_path: Path, cache: Path, kind: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, message = DAMAGES[damage](kind)
    file = rewrite(one[kind], tmp_path, change)
    monkeypatch.setattr(single_file, "sha256", lambda path: "" if path.suffix != ".safetensors" else pytest.fail("the file was read"))
    with pytest.raises(ModelError, match=message):
        resolve_model(f"{file} as {one[kind].bare}")
    assert not cache.exists()


REFINER = "conditioner.embedders.0.model.transformer"
OTHER_FILES: dict[str, tuple[str, Callable[[dict[str, Tensor]], object], str]] = {
    "a refiner": (
        "sdxl",
        with_(conditioner__embedders__0__model__transformer__resblocks__9__mlp__c_proj__bias=torch.zeros(1)),
        "'xl_refiner'",
    ),
    "SDXL to inpaint": (
        "sdxl",
        with_(**{f"{DENOISER}input_blocks.0.0.weight": torch.zeros(16, 9, 3, 3)}),
        "is of the kind 'inpainting'; single files of .* FLUX.1 can be read",
    ),
    "FLUX.1-Fill": (
        "flux",
        with_(**{f"{DENOISER}img_in.weight": torch.zeros(32, 384), f"{DENOISER}guidance_in.in_layer.bias": torch.zeros(1)}),
        "'flux-fill'",
    ),
    "Chroma": ("flux", with_(**{"distilled_guidance_layer.in_proj.bias": torch.zeros(1)}), "'chroma'"),
    "a ControlNet": ("sd3", with_(controlnet_blocks__0__weight=torch.zeros(1)), "is a ControlNet, no model; give a text-to-image model"),
    "a LoRA": ("flux", with_(lora_unet_x__lora_up__weight=torch.zeros(1)), "is a LoRA, no model; add it to one"),
    "scaled fp8": ("flux", with_(scaled_fp8=torch.zeros(1)), "is quantised; give the file of the same model in half precision"),
    "scaled fp8 of today": ("sd3", with_(**{f"{DENOISER}x_embedder.proj.weight_scale": torch.zeros(1)}), "is quantised; give"),
    "nf4": ("flux", with_(**{f"{DENOISER}img_in.weight.quant_state.bitsandbytes__nf4": torch.zeros(1)}), "is quantised; give"),
    "8-bit integers": (
        "flux",
        lambda t: t.update({f"{DENOISER}img_in.weight": t[f"{DENOISER}img_in.weight"].to(torch.int8)}),
        r"is of I8\);",
    ),
    "names of diffusers": (
        "flux",
        lambda t: (t.clear(), t.update({"transformer_blocks.0.attn.to_q.weight": torch.zeros(1)})),
        "has a name of diffusers .'transformer_blocks.0.*give that folder",
    ),
    "a VAE alone": ("flux", lambda t: (t.clear(), t.update({"decoder.conv_in.weight": torch.zeros(1)})), "is no checkpoint"),
}


@pytest.mark.parametrize("case", OTHER_FILES)
def test_what_is_no_model_of_these_is_refused_in_a_line(one: dict[str, Written], tmp_path: Path, case: str) -> None:
    kind, change, message = OTHER_FILES[case]
    with pytest.raises(ModelError, match=message) as refused:
        resolve_model(f"{rewrite(one[kind], tmp_path, change)} as {one[kind].bare}")
    assert "\n" not in str(refused.value)


def test_a_damage_on_which_the_classification_of_diffusers_stumbles_is_named(one: dict[str, Written], tmp_path: Path) -> None:
    """It looks up tensors that a damaged file lacks, and knows two sizes of the grid of Stable Diffusion 3 alone."""

    def distilled(tensors: dict[str, Tensor]) -> None:
        tensors[f"{DENOISER}guidance_in.in_layer.bias"] = torch.zeros(32)
        del tensors[f"{DENOISER}img_in.weight"]

    wide = with_(**{f"{DENOISER}joint_blocks.0.context_block.adaLN_modulation.1.bias": torch.zeros(9216)})
    for kind, change, message in (("flux", distilled, "transformer: its weights lack"), ("sd3", wide, r"is of \(9216,\), not")):
        with pytest.raises(ModelError, match=message):
            resolve_model(f"{rewrite(one[kind], tmp_path, change)} as {one[kind].bare}")


def test_files_of_other_formats_and_configurations_of_other_families_are_refused(one: dict[str, Written], tmp_path: Path) -> None:
    for suffix, message in ((".gguf", "is quantised; give the file of the same model in half precision, as .safetensors"),
                            (".ckpt", "is pickled, and can run code when loaded")):  # fmt: skip
        shutil.copy(one["flux"].file, tmp_path / f"dream{suffix}")
        with pytest.raises(ModelError, match=message):
            resolve_model(tmp_path / f"dream{suffix}")
    cut = tmp_path / "dream.safetensors"
    cut.write_bytes(one["sd3"].file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="is cut off or no safetensors file"):
        resolve_model(f"{cut} as {one['sd3'].bare}")
    for named in (str(one["sd3"].bare), "sd3"):
        with pytest.raises(ModelError, match=rf"is of a FluxPipeline, '{named}' of a StableDiffusion3Pipeline; name a configuration"):
            resolve_model(f"{one['flux'].file} as {named}")


def test_the_rest_comes_from_the_folder_and_makes_another_model(tmp_path: Path) -> None:
    """The folder may be the one that the file lies in, as in a clone of a published repository; its weights are part of what was made."""
    written = write("FLUX.1-dev, transformer alone", tmp_path / "form")
    file = Path(shutil.move(written.file, written.whole))
    first = resolve_model(file)
    t5 = written.whole / "text_encoder_2" / "model.safetensors"
    assert (first / "text_encoder_2" / "model.safetensors").read_bytes() == t5.read_bytes()
    save_file({name: weight + 1 for name, weight in load_file(t5).items()}, t5, metadata={"format": "pt"})
    assert resolve_model(file) != first
    t5.unlink()
    with pytest.raises(ModelError, match="holds no text_encoder_2; give"):
        resolve_model(file)


def test_a_hub_id_gives_what_the_file_lacks_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, asked = write("SD3.5-medium, transformer and VAE", tmp_path / "form"), list[str]()

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.extend([name, *(pattern for pattern in allow_patterns if pattern.endswith(".safetensors"))])
        return str(written.whole)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    resolve_model(f"{written.file} as owner/model")
    assert asked == ["owner/model", *(f"text_encoder{n}/model.safetensors" for n in ("", "_2", "_3"))]


CLIP_TEXT, CLIP_G_TEXT, T5_TEXT = 123_060_480, 694_659_840, 4_762_310_656
SIZES = {  # the numbers of weights of the published models: denoiser, VAE, text encoders
    "sdxl": (2_567_463_684, 83_653_863, CLIP_TEXT, CLIP_G_TEXT),
    "sd3": (2_028_328_000, 83_819_683, CLIP_TEXT + 768**2, CLIP_G_TEXT, T5_TEXT),
    "sd35-medium": (2_243_171_520, 83_819_683, CLIP_TEXT + 768**2, CLIP_G_TEXT, T5_TEXT),
    "sd35-large": (8_056_627_520, 83_819_683, CLIP_TEXT + 768**2, CLIP_G_TEXT, T5_TEXT),
    "flux-dev": (11_901_408_320, 83_819_683, CLIP_TEXT, T5_TEXT),
    "flux-schnell": (11_891_178_560, 83_819_683, CLIP_TEXT, T5_TEXT),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_known_configurations_are_those_of_the_published_models(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the true size, without weights: the file is recognised, and diffusers' conversion of its names fits the known configuration."""
    monkeypatch.setattr(single_file_utils, "torch", torch)
    folder = write_configurations(tmp_path / name, KNOWN[name])
    family = FAMILIES[KNOWN[name]["model_index"]["_class_name"]]
    networks = {family.part: on_meta(getattr(diffusers, family.network), folder / family.part)}
    networks["vae"] = on_meta(diffusers.AutoencoderKL, folder / "vae")
    for encoder in family.encoders:
        kind = getattr(transformers, encoder.kind)
        with torch.device("meta"):
            networks[encoder.part] = kind(kind.config_class.from_pretrained(folder / encoder.part))
    assert tuple(sum(w.numel() for w in network.parameters()) for network in networks.values()) == SIZES[name]
    found = original({"unet": "sdxl"}.get(family.part, name[:3].replace("flu", "flux")), SimpleNamespace(**networks))
    read = recognise(tmp_path, found, dict.fromkeys(found, "F16"), {})
    assert (read.family, read.usual, read.lacking) == (family, name, [])
    check_fit(folder, read)


def no_hub(*_: object) -> None:
    raise OSError("offline")  # at once; the real one tries for half a minute


def tiny_known(written: Written) -> dict[str, Any]:
    """The configurations of a tiny pipeline, in the form of those that are known."""
    index = json.loads((written.bare / "model_index.json").read_text())
    files = {p.parent.name: p for name in ("config", "scheduler_config", "tokenizer_config") for p in written.bare.glob(f"*/{name}.json")}
    return {"model_index": {"_class_name": index["_class_name"]}} | {part: json.loads(path.read_text()) for part, path in files.items()}


def test_without_a_folder_the_known_configuration_is_taken(
    one: dict[str, Written], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark that a file of SDXL predicts v is obeyed; a file of SD3 without T5 needs no vocabulary of T5."""
    write_merges(tmp_path / "cache")
    for name in ("sdxl", "sd3"):
        monkeypatch.setitem(KNOWN, name, tiny_known(one[name]))
    plain = resolve_model(rewrite(one["sdxl"], tmp_path / "plain", lambda _: None))
    marked = resolve_model(rewrite(one["sdxl"], tmp_path / "marked", with_(v_pred=torch.zeros(1), ztsnr=torch.zeros(1))))
    said = [json.loads((folder / "scheduler" / "scheduler_config.json").read_text()) for folder in (plain, marked)]
    assert [(s["_class_name"], s["prediction_type"]) for s in said] == [
        ("EulerDiscreteScheduler", "epsilon"),
        ("DDIMScheduler", "v_prediction"),
    ]
    assert (said[1]["rescale_betas_zero_snr"], said[1]["timestep_spacing"]) == (True, "trailing")
    short = resolve_model(rewrite(one["sd3"], tmp_path / "short", without(T5)))
    index = json.loads((short / "model_index.json").read_text())
    assert index["text_encoder_3"] == index["tokenizer_3"] == [None, None]
    assert index["text_encoder"][1] == "CLIPTextModelWithProjection"
    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_hub)
    with pytest.raises(ModelError, match=r"T5's vocabulary is not here .*: give a pipeline folder beside it, or put the tokenizer.json of"):
        resolve_model(one["sd3"].file)


def test_an_unknown_size_of_a_known_family_is_refused_with_the_remedy(one: dict[str, Written], cache: Path) -> None:
    for kind, name in (("sdxl", "unet"), ("sd3", "transformer"), ("flux", "transformer")):
        message = f"does not fit its configuration .{name}: .*put a folder with the right one, named 'dream', beside the file, or name it"
        with pytest.raises(ModelError, match=message):
            resolve_model(one[kind].file)
    assert not cache.exists()


def test_the_tokenizers_of_known_configurations(one: dict[str, Written], tmp_path: Path) -> None:
    """Marks, padding and lengths are those of the published folders; the words are stand-ins."""
    shutil.copy(one["sd3"].bare / "tokenizer_3" / "tokenizer.json", write_merges(tmp_path / "cache") / T5_FILE)
    for name, pads in (("sdxl", (49407, 0)), ("sd3", (49407, 0, 0)), ("flux-dev", (49407, 0))):
        folder = write_known(tmp_path / name, KNOWN[name])
        for encoder, pad in zip(FAMILIES[KNOWN[name]["model_index"]["_class_name"]].encoders, pads, strict=True):
            tokenizer = load_tokenizer(folder / encoder.tokenizer, encoder.tokenizers[0])
            length = 77 if "CLIP" in encoder.tokenizers[0] else 512
            ids = tokenizer("a", padding="max_length").input_ids
            assert (len(ids), ids[-1], tokenizer.model_max_length) == (length, pad, length)
            assert ids[0] == 49406 if length == 77 else ids[1] == tokenizer.eos_token_id
