"""The published scorers' files: which, where they are looked for, what is refused."""

import json
import os
import pickle
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.hps_package import HpsPackageScorer
from selfimprove.scorers import PUBLISHED_SCORERS, ScorerError, load_scorers
from selfimprove.scorers.blip import TEXT, VISION, ImageRewardModel
from selfimprove.scorers.checkpoints import fill, read_state
from selfimprove.scorers.clip import published_head, read_clip
from selfimprove.scorers.hpsv3 import Hpsv3Model
from selfimprove.scorers.images import crop_square, squares
from selfimprove.scorers.openclip import VIT_H_14
from selfimprove.shapes import ASSETS

CPU = torch.device("cpu")
EMBEDDED = ASSETS / "scorers" / "clip"
IMAGES = [Image.new("RGB", (30, 20), colour) for colour in ("red", "green", "blue")]
PROMPTS = ["a red star", "", "синий круг"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Repositories as folders hub/owner/name, served in place of the hub, only the files asked for; others cannot be had."""

    def snapshot(repository: str, allow_patterns: list[str]) -> str:
        if not (tmp_path / "hub" / repository).exists():
            raise ConnectionError("no hub here")
        cache = tmp_path / "cache" / repository
        cache.mkdir(parents=True, exist_ok=True)
        for file in allow_patterns:
            if (tmp_path / "hub" / repository / file).exists():
                shutil.copy(tmp_path / "hub" / repository / file, cache)
        return str(cache)

    monkeypatch.setattr("selfimprove.scorers.checkpoints.snapshot_download", snapshot)
    return tmp_path / "hub"


def test_ids_and_files_are_the_published_ones() -> None:
    assert {name: (p.repository, p.file, p.beside) for name, p in PUBLISHED_SCORERS.items()}.items() >= {
        "clip": ("openai/clip-vit-large-patch14", "", "openai/clip-vit-large-patch14"),
        "pickscore": ("yuvalkirstain/PickScore_v1", "", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
        "hpsv2": ("xswu/HPSv2", "HPS_v2_compressed.pt", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
        "hpsv2.1": ("xswu/HPSv2", "HPS_v2.1_compressed.pt", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
        "hpsv3": ("MizzenAI/HPSv3", "HPSv3.safetensors", "Qwen/Qwen2-VL-7B-Instruct"),
        "imagereward": ("THUDM/ImageReward", "ImageReward.pt", "google-bert/bert-base-uncased"),
        "aesthetic": ("", "sac+logos+ava1-l14-linearMSE.pth", "openai/clip-vit-large-patch14"),
    }.items()


def test_networks_have_the_published_sizes() -> None:
    with torch.device("meta"):
        hps, reward, head, large = CLIPModel(VIT_H_14), ImageRewardModel(VISION, TEXT), published_head(), Hpsv3Model()
    assert sum(p.numel() for p in hps.parameters()) == 986_109_441  # as counted on the package's ViT-H-14
    assert sum(p.numel() for p in reward.vision.parameters()) == 303_301_632  # ViT-L/16 without its classifier
    assert reward.text.embeddings.word_embeddings.weight.shape == (30524, 768)
    unused = 152064 * 3584 + (152064 - 151658) * 3584  # Qwen2-VL's language head, and its embeddings beyond the tokenizer's
    assert sum(p.numel() for p in large.backbone.parameters()) + unused == 16_582_751_232 // 2  # bytes in Qwen2-VL-7B-Instruct's index
    assert [tuple(p.shape) for p in large.head.parameters() if p.dim() == 2] == [(1024, 3584), (16, 1024), (2, 16)]
    assert [tuple(p.shape) for p in head.parameters() if p.dim() == 2] == [(1024, 768), (128, 1024), (64, 128), (16, 64), (1, 16)]


def test_a_folder_holds_all_that_a_scorer_needs(hub: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(EMBEDDED, tmp_path / "mine")
    state = read_state(EMBEDDED / "model.safetensors")
    save_file(state | {"text_model.embeddings.position_ids": torch.arange(32)[None]}, folder / "model.safetensors")  # as old files have
    scorers = load_scorers([f"clip={folder}", f"pickscore={folder / 'model.safetensors'}"], CPU, family="published")
    assert list(scorers) == ["clip", "pickscore"]
    assert scorers["clip"].version == "clip: mine (local)"
    assert torch.equal(scorers["clip"](IMAGES, PROMPTS), load_scorers(("clip",), CPU)["clip"](IMAGES, PROMPTS))
    assert torch.equal(scorers["pickscore"](IMAGES, PROMPTS), scorers["clip"](IMAGES, PROMPTS))


def test_hub_files_are_fetched_and_checked_before_anything_is_scored(hub: Path) -> None:
    with pytest.raises(ScorerError, match=r"clip needs model.safetensors of openai/clip-vit-large-patch14: the hub did not give it "
                       r"\(ConnectionError\); .*'clip=path/to/folder'"):  # fmt: skip
        load_scorers(["clip"], CPU, family="published")
    with pytest.raises(ScorerError, match=r"aesthetic is not on the model hub: download sac\+logos.* and give 'aesthetic=path/to/it'"):
        load_scorers(["aesthetic"], CPU, family="published")
    shutil.copytree(EMBEDDED, hub / "yuvalkirstain" / "PickScore_v1")
    for file in ("tokenizer.json", "preprocessor_config.json"):
        (hub / "yuvalkirstain" / "PickScore_v1" / file).unlink()
    with pytest.raises(ScorerError, match="pickscore needs tokenizer.json of laion/CLIP-ViT-H-14"):
        load_scorers(["pickscore"], CPU, family="published")
    shutil.copytree(EMBEDDED, hub / PUBLISHED_SCORERS["pickscore"].beside)
    scorer = load_scorers(["pickscore"], CPU, family="published")["pickscore"]
    assert scorer.version == "pickscore: yuvalkirstain/PickScore_v1"
    assert torch.equal(scorer(IMAGES, PROMPTS), load_scorers(("clip",), CPU)["clip"](IMAGES, PROMPTS))
    (hub / "xswu" / "HPSv2").mkdir(parents=True)
    with pytest.raises(ScorerError, match=r"hpsv2.1 needs HPS_v2.1_compressed.pt of xswu/HPSv2: it is not there"):
        load_scorers(["hpsv2.1"], CPU, family="published")


def test_clip_and_aesthetic_share_a_network(hub: Path, tmp_path: Path) -> None:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 56}
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 1682}
    folder = shutil.copytree(EMBEDDED, hub / PUBLISHED_SCORERS["clip"].repository)
    torch.manual_seed(0)
    clip, head = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)).eval(), published_head()
    clip.save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    torch.save(head.state_dict(), tmp_path / "head.pth")
    scorers = load_scorers([f"aesthetic={tmp_path / 'head.pth'}", "clip"], CPU, family="published")
    assert scorers["aesthetic"].towers is scorers["clip"].towers
    assert scorers["aesthetic"].version == "aesthetic: head.pth (local)"
    with torch.no_grad():
        features = F.normalize(clip.get_image_features(pixel_values=squares(IMAGES, crop_square, 224)).pooler_output, dim=1)
        expected = head.eval()(features)
    assert torch.allclose(scorers["aesthetic"](IMAGES, PROMPTS), expected, atol=1e-6)
    assert not torch.allclose(scorers["clip"](IMAGES, PROMPTS), expected, atol=1e-3)


def test_image_reward_looks_for_its_tokenizer(hub: Path, tmp_path: Path) -> None:
    (tmp_path / "ImageReward.pt").touch()
    with pytest.raises(ScorerError, match="imagereward needs tokenizer.json of google-bert/bert-base-uncased: the hub did not give it"):
        load_scorers([f"imagereward={tmp_path}"], CPU, family="published")
    (tmp_path / "vocab.txt").touch()
    scorer = load_scorers([f"imagereward={tmp_path}"], CPU, family="published")["imagereward"]
    assert scorer.version == "imagereward: ImageReward.pt (local)"
    with pytest.raises(ScorerError, match=r"ImageReward.pt' is truncated or no checkpoint \(0 bytes\)"):
        scorer.model  # noqa: B018 - read at first use


def test_hpsv3_looks_for_its_files_before_anything_is_read(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ScorerError, match="hpsv3 needs HPSv3.safetensors of MizzenAI/HPSv3: the hub did not give it"):
        load_scorers(["hpsv3"], CPU, family="published")
    with pytest.raises(ScorerError, match="hpsv3='.*': there is no file '.*HPSv3.safetensors'; get it from https://github.com/MizzenAI"):
        load_scorers([f"hpsv3={tmp_path}"], CPU, family="published")
    save_file({"model.norm.weight": torch.ones(3584)}, tmp_path / "HPSv3.safetensors")
    with pytest.raises(ScorerError, match="hpsv3 needs tokenizer.json of Qwen/Qwen2-VL-7B-Instruct: the hub did not give it"):
        load_scorers([f"hpsv3={tmp_path}"], CPU, family="published")
    (tmp_path / "tokenizer.json").touch()
    with pytest.raises(ScorerError, match=r"instruction.txt', the words that the network reads before the prompt, is missing"):
        load_scorers([f"hpsv3={tmp_path}"], CPU, family="published")
    monkeypatch.setattr("selfimprove.scorers.published.read_words", lambda folder: "{prompt}")
    scorer = load_scorers([f"hpsv3={tmp_path}"], CPU, family="published")["hpsv3"]
    assert scorer.version == "hpsv3: HPSv3.safetensors (local)"
    with pytest.raises(ScorerError, match=r"of another architecture: 7\d\d keys missing \(backbone.visual.patch_embed.proj.weight"):
        scorer.model  # noqa: B018 - read at first use
    with pytest.raises(ScorerError, match="hpsv2.1='.*' is another scorer's checkpoint"):
        load_scorers([f"hpsv2.1={tmp_path / 'HPSv3.safetensors'}"], CPU, family="published")


def test_versions_are_not_confused(tmp_path: Path) -> None:
    for file in ("HPS_v2_compressed.pt", "HPS_v2.1_compressed.pt"):
        (tmp_path / file).touch()
        (tmp_path / "tokenizer.json").touch()
    with pytest.raises(ScorerError, match=r"hpsv2.1='.*HPS_v2_compressed.pt' is another scorer's checkpoint; hpsv2.1 needs HPS_v2.1_com"):
        load_scorers([f"hpsv2.1={tmp_path / 'HPS_v2_compressed.pt'}"], CPU, family="published")
    scorers = load_scorers([f"hpsv2={tmp_path}", f"hpsv2.1={tmp_path}"], CPU, family="published")
    assert [s.version for s in scorers.values()] == ["hpsv2: HPS_v2_compressed.pt (local)", "hpsv2.1: HPS_v2.1_compressed.pt (local)"]


# --- checkpoints that cannot be used


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def test_code_in_a_checkpoint_is_refused_and_not_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    torch.save({"state_dict": {"a": torch.ones(1)}, "more": Bomb(mark)}, tmp_path / "zip.pt")
    for protocol in (2, 4):
        (tmp_path / f"pickle{protocol}.pt").write_bytes(pickle.dumps({"a": Bomb(mark)}, protocol))
    (tmp_path / "pytorch_model.bin").write_bytes((tmp_path / "zip.pt").read_bytes())
    shutil.copy(EMBEDDED / "config.json", tmp_path)
    for file in ("zip.pt", "pickle2.pt", "pickle4.pt"):
        with pytest.raises(ScorerError, match="holds pickled code or objects, not only tensors: refused, nothing was executed"):
            read_state(tmp_path / file)
    with pytest.raises(ScorerError, match="refused"):
        read_clip(tmp_path / "pytorch_model.bin")
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_missing_truncated_and_foreign_files_are_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    with pytest.raises(ScorerError, match=f"x{suffix}' does not exist"):
        read_state(path)
    state = {"a": torch.rand(200)}
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    assert torch.equal(read_state(path)["a"], state["a"])
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"<html>404</html>"):
        path.write_bytes(content)
        with pytest.raises(ScorerError, match=rf"x{suffix}' is truncated or no checkpoint \({len(content)} bytes\); download it again"):
            read_state(path)


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    for content, inside in (({"model": {}}, ""), (torch.ones(2), "state_dict"), ({"a": torch.ones(1)}, "state_dict"), ({"a": [1]}, "")):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(ScorerError, match="holds no state dict.*is it the published file"):
            read_state(tmp_path / "x.pt", inside)


def test_another_architecture_is_refused_at_first_use(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").touch()
    torch.save({"state_dict": read_state(EMBEDDED / "model.safetensors")}, tmp_path / "other.pt")
    with pytest.raises(ScorerError, match=r"other.pt' is of another architecture: \d+ keys missing \(layers.0.weight"):
        fill(published_head, read_state(tmp_path / "other.pt", "state_dict"), tmp_path / "other.pt")
    folder = shutil.copytree(EMBEDDED, tmp_path / "blip")
    (folder / "config.json").write_text(json.dumps({"model_type": "blip"}))
    with pytest.raises(ScorerError, match="holds a model of type 'blip'; a CLIPModel folder is needed"):
        load_scorers([f"clip={folder}"], CPU, family="published")["clip"](IMAGES, PROMPTS)
    (folder / "config.json").write_text("{")
    with pytest.raises(ScorerError, match="config.json' is no JSON"):
        read_clip(folder / "model.safetensors")
    for given, message in ((tmp_path / "nothing", "there is no file"), (tmp_path, "is no CLIPModel folder")):
        with pytest.raises(ScorerError, match=message):
            load_scorers([f"clip={given}"], CPU, family="published")


# --- the authors' package


def test_the_package_is_called_once_a_prompt_with_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def score(images: list, prompt: str, cp: str | None, hps_version: str) -> list[float]:
        calls.append((len(images), prompt, cp, hps_version))
        return [image.getpixel((0, 0))[0] / 255 for image in images]

    package = types.ModuleType("hpsv2")
    package.img_score = types.SimpleNamespace(score=score)
    monkeypatch.setitem(sys.modules, "hpsv2", package)
    monkeypatch.setitem(sys.modules, "hpsv2.img_score", package.img_score)
    scorer = HpsPackageScorer("hpsv2.1")
    values = [0.2, 0.4, 0.6, 0.8]
    images = torch.stack([torch.full((3, 4, 4), value) for value in values])
    assert torch.allclose(scorer(images, ["a", "b", "a", "a"]), torch.tensor(values), atol=1e-6)
    assert calls == [(3, "a", None, "v2.1"), (1, "b", None, "v2.1")]
    assert scorer.version == "hpsv2.1: package hpsv2, v2.1"


def test_a_package_that_cannot_be_used_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hpsv2", None)
    with pytest.raises(ScorerError, match="the package hpsv2 cannot be used .*torchvision.*bpe_simple_vocab_16e6.txt.gz.*use 'hpsv2'"):
        HpsPackageScorer("hpsv2")
