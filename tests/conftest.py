"""Shared fixtures: a random tiny SD-1.x pipeline of another shape than the embedded one, and a folder of small images."""

import gc
import json
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfimprove.batches import TrainingSet
from selfimprove.data import items
from selfimprove.data.latents import Store, build_store
from selfimprove.models.pipeline import load_diffuser
from selfimprove.shapes import PIPELINE

LENGTH = 24  # tokens
# the files that take longest, from the longest on: begun last, one of them would keep a core waiting
LONGEST = ("notebooks", "processes", "gpu_script", "course", "shares", "stages", "course_material", "scale")

gc.collect()
gc.freeze()  # what is imported stays: rounds collect garbage often, and need not look through half a million objects each time


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the order of tests in a file, and of the other files, stays."""
    ranks = {f"test_{name}": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


def tiny_pipeline(seed: int = 0) -> StableDiffusionPipeline:
    """16 px images, 8x8 latents of 4 channels, a text encoder of its own width."""
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer", model_max_length=LENGTH)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=LENGTH, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32, attention_head_dim=2,
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 16),
        norm_num_groups=4, sample_size=16,
    )  # fmt: skip
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    return StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def checked(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What was found in images is kept in a folder of the test's own."""
    folder = tmp_path_factory.mktemp("checked")
    monkeypatch.setattr(items, "CHECKED", folder)
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks a network fails."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline as a folder; read only."""
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline, to be changed."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


@pytest.fixture(scope="session")
def training_data(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    """Ten examples of random latents for the tiny pipeline; real and generated ones stand apart."""
    folder = tmp_path_factory.mktemp("stores")
    diffuser = load_diffuser(tiny, torch.device("cpu"))

    def store(name: str, seed: int, std: float) -> Store:
        mean = 2 * seed + torch.randn(10, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
        tensors = {"mean": mean, "std": torch.full_like(mean, std), "mean_flipped": mean.flip(3), "std_flipped": torch.full_like(mean, std)}
        return build_store(folder / name, 10, lambda r: {k: v[r.start : r.stop] for k, v in tensors.items()}, name)

    text = build_store(folder / "text", 3, lambda r: dict(diffuser.embed(["", "a star", "a moon"][r.start : r.stop]).tensors), "text")
    ids = tuple(f"example {i}" for i in range(10))
    return TrainingSet(ids, [1 + i % 2 for i in range(10)], text, store("real", 0, 0.1), store("generated", 1, 0.0))


def write_images(folder: Path, count: int, sizes: Sequence[tuple[int, int]] = ((16, 20),)) -> Path:
    """An imagefolder of `count` images with captions, of these sizes, (height, width), in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(1)
    with (folder / "metadata.jsonl").open("w") as metadata:
        for i in range(count):
            pixels = (torch.rand(*sizes[i % len(sizes)], 3, generator=generator) * 255).byte().numpy()
            Image.fromarray(pixels).save(folder / f"{i:03d}.png")
            metadata.write(json.dumps({"file_name": f"{i:03d}.png", "text": f"noise number {i % 7}"}) + "\n")
    return folder


def tiny_language_model(folder: Path, says: str) -> Path:
    """A chat model that answers every question with one word: its hidden state is constant, and its output layer points there."""
    words = ["<pad>", "<unk>", "</s>", "yes", "no", "star"]
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")  # no pad token, as Llama
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, eos_token_id=2,
            bos_token_id=None, max_position_embeddings=512,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        model.model.embed_tokens.weight.fill_(1.0)
        model.lm_head.weight.zero_()
        model.lm_head.weight[words.index(says)] = model.model(torch.tensor([[1]])).last_hidden_state[0, 0]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Thirty captioned images."""
    return write_images(tmp_path / "images", 30)
