"""Single files of SDXL, Stable Diffusion 3 and 3.5, and FLUX.1: read as plain diffusers reads them, or refused in a line."""

import gzip
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from itertools import product
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
from selfimprove.models.checks import on_meta
from selfimprove.models.families import FAMILIES
from selfimprove.models.known import KNOWN, MERGES, T5_FILE, VOCABULARY, write_configurations, write_known
from selfimprove.models.original import check_fit, recognise
from selfimprove.models.pipeline import load_diffuser
from selfimprove.models.resolution import at_resolution
from selfimprove.models.resolve import resolve_model
from selfimprove.models.weights import ModelError
from selfimprove.rollout import rollout
from tests.original_layout import CLIP_L, DENOISER, T5, original
from tests.tiny_families import LENGTH, flux, sd3, sdxl

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
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
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
