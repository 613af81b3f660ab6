"""What users name as a model: folders, hub ids, and LoRAs that are added to a start."""

import fnmatch
import shutil
import warnings
from pathlib import Path

import huggingface_hub
import pytest
import torch
from conftest import tiny_pipeline
from diffusers import StableDiffusionPipeline
from forms import edit, here, plainly
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from test_model_forms import as_fp16, as_shards

from selfimprove.models.lora import FILE
from selfimprove.models.pipeline import load_diffuser
from selfimprove.models.resolve import resolve_model
from selfimprove.models.weights import ModelError, model_hash
from selfimprove.shapes import MODELS, PIPELINE

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFIMPROVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


class Hub:
    """A stand-in for the hub: one repository, of which it gives the files that match the patterns."""

    def __init__(self, repository: Path, copies: Path) -> None:
        self.repository, self.copies, self.asked = repository, copies, list[tuple]()

    def __call__(self, name: str, revision: str | None, allow_patterns: list[str]) -> str:
        self.asked.append((name, revision))
        for path in self.repository.rglob("*"):
            inside = path.relative_to(self.repository)
            if path.is_file() and any(fnmatch.fnmatch(inside.as_posix(), pattern) for pattern in allow_patterns):
                (self.copies / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, self.copies / inside)
        return str(self.copies)


@pytest.fixture
def hub(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(copy, tmp_path / "downloaded")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made)
    return made


def test_a_slip_in_a_path_is_not_sought_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine-1").mkdir(parents=True)
    (tmp_path / "models").mkdir()
    with pytest.raises(ModelError, match=r"model='runs/mine': there is no such file or folder, but 'runs/mine-1'; .* write hub:runs/mine"):
        resolve_model("runs/mine")
    for name in ("models/dreamlike", "models/x.safetensors", "gone/x.safetensors", "./a", "~/a", "a", "a/b/c", "/a/b", "hub:a", "a\\b"):
        with pytest.raises(ModelError, match="there is no such file or folder"):
            resolve_model(name)
    assert not hub.asked
    resolve_model("hub:runs/mine@v1.0")
    resolve_model("owner/name")
    assert hub.asked == [("runs/mine", "v1.0"), ("owner/name", None)]


@pytest.mark.parametrize("change", [None, as_fp16, as_shards])
def test_the_hub_gives_plain_weights_or_what_there_is(hub: Hub, change) -> None:
    if change:
        change(hub.repository)
    else:
        (hub.repository / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not fetched")
    (hub.repository / "unet" / "diffusion_pytorch_model.non_ema.safetensors").write_bytes(b"not fetched")
    (hub.repository / "v1-5-pruned.ckpt").write_bytes(b"not fetched")
    folder = resolve_model("owner/name")
    load_diffuser(folder, CPU)
    assert model_hash(folder) == model_hash(hub.repository)
    assert not [path for path in folder.rglob("*") if path.is_file() and path.read_bytes() == b"not fetched"]


def adapters(folder: Path, seed: int = 0) -> Path:
    """A LoRA of UNet and text encoder in diffusers' format."""
    pipeline = tiny_pipeline()
    torch.manual_seed(seed)
    pipeline.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v", "to_out.0"], init_lora_weights=False))
    pipeline.text_encoder.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "out_proj"], init_lora_weights=False))
    layers = {f"{part}_lora_layers": get_peft_model_state_dict(getattr(pipeline, part)) for part in ("unet", "text_encoder")}
    StableDiffusionPipeline.save_lora_weights(folder, **layers)
    return folder / FILE


def as_sd_scripts_writes(file: Path, target: Path, alpha: float) -> Path:
    """The same LoRA under the names of sd-scripts, with its alpha in the file."""
    found = {}
    for name, w in load_file(file).items():
        part, _, rest = name.partition(".")
        layer, _, _ = rest.partition(".lora")
        layer = layer.replace("to_out.0", "to_out_0") if part == "unet" else "text_model." + layer.removeprefix("text_model.")
        key = f"lora_{'unet' if part == 'unet' else 'te'}_{layer.replace('.', '_')}"
        found[f"{key}.lora_{'down' if name.endswith(('lora_A.weight', 'lora.down.weight')) else 'up'}.weight"] = w
        found[f"{key}.alpha"] = torch.tensor(alpha)
    save_file(found, target)
    return target


@pytest.mark.parametrize("style", ["diffusers", "sd-scripts"])
def test_a_lora_to_start_from_is_fused_as_diffusers_fuses_it(tiny: Path, tmp_path: Path, style: str) -> None:
    file = adapters(tmp_path / "style")
    if style == "sd-scripts":
        file = as_sd_scripts_writes(file, tmp_path / "style.safetensors", alpha=1.0)
    plain = StableDiffusionPipeline.from_pretrained(tiny)
    before = plainly(plain)
    plain.load_lora_weights(str(file.parent), weight_name=file.name)
    plain.fuse_lora(lora_scale=0.5)
    folder = resolve_model(f"{tiny} + 0.5 * {file}")
    drawn = here(folder)
    torch.testing.assert_close(drawn, plainly(plain), atol=1e-4, rtol=0)
    assert (drawn - before).abs().max() > 0.01
    assert resolve_model(f"{tiny} + 0.5 * {file}") == folder
    assert model_hash(resolve_model(f"{tiny} + {file}")) != model_hash(folder)


def test_several_loras_add_up_and_a_folder_of_one_is_enough(tiny: Path, tmp_path: Path) -> None:
    one, other = adapters(tmp_path / "one", 1), adapters(tmp_path / "other", 2)
    plain = StableDiffusionPipeline.from_pretrained(tiny)
    with warnings.catch_warnings(action="ignore"):  # of a second adapter
        for name, file in (("one", one), ("other", other)):
            plain.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
    plain.set_adapters(["one", "other"], [1.0, -0.5])
    torch.testing.assert_close(here(resolve_model(f"{tiny} + {one.parent} + -0.5 * {other}")), plainly(plain), atol=1e-4, rtol=0)


def test_a_lora_of_another_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    file = adapters(tmp_path / "style")
    weights = load_file(file)
    first = next(name for name in weights if name.startswith("unet.down_blocks.1"))
    for name, change, message in (
        (
            "odd",
            {**weights, first.replace("down_blocks.1", "down_blocks.7"): weights[first].clone()},
            "LoRA '.*odd.safetensors' has .* have a layer",
        ),
        ("wide", {name: torch.cat([w, w], 1) for name, w in weights.items()}, "cannot be added to this model"),
        ("dora", {**weights, "unet.conv_in.dora_scale": torch.ones(1)}, "is a DoRA .unet.conv_in.dora_scale., which diffusers cannot read"),
        ("nan", {**weights, first: weights[first] * float("nan")}, "holds NaN or infinity"),
        ("loha", {"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": torch.ones(2, 2)}, "cannot be added|have a layer"),
    ):
        save_file({k: w.contiguous() for k, w in change.items()}, tmp_path / f"{name}.safetensors")
        with pytest.raises(ModelError, match=message):
            resolve_model(f"{tiny} + {tmp_path / name}.safetensors")
    for text, message in (
        (f"{tmp_path}/gone.safetensors", "LoRA '.*gone.safetensors' is no .safetensors file"),
        (f"much * {file}", "is no LoRA; write"),
    ):
        with pytest.raises(ModelError, match=message):
            resolve_model(f"{tiny} + {text}")
    (tmp_path / "style.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="is no .safetensors file"):
        resolve_model(f"{tiny} + {tmp_path / 'style.bin'}")


def test_a_world_whose_weights_are_not_made_says_how_to_make_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "shapes-flow", tmp_path / "flow")
    with pytest.raises(
        ModelError, match=r"model='shapes-flow': its weights are not in .*flow; make them: python -m selfimprove_lab\.pretrain\.flow"
    ):
        resolve_model("shapes-flow")


def test_a_folder_whose_name_reads_like_a_sum_is_a_folder(copy: Path, tmp_path: Path) -> None:
    for name in ("a + b", "a as b"):
        assert resolve_model(shutil.copytree(copy, tmp_path / name)) == tmp_path / name
    assert resolve_model("shapes") == PIPELINE
    edit(copy / "scheduler" / "scheduler_config.json", beta_end=0.03)
    assert model_hash(copy) != model_hash(tmp_path / "a + b")
