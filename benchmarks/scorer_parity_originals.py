"""runs/scorer-parity/venv/bin/python benchmarks/scorer_parity_originals.py OUT: score with the original packages hpsv2 and image-reward.

The script runs in an environment of its own, in which this package cannot be imported. It writes images, prompts, checkpoints with random
weights made by the originals' own classes, tokenizer files, and scores.json into OUT. The networks are small, or with --full of the
published sizes (6 GB of disk).

The originals do not run as they are installed. The script removes each obstacle without touching the originals' arithmetic. torchvision
registers kernels of compiled operators that are missing beside a CPU build of torch; they are declared below. hpsv2's wheel lacks its BPE
file; it is copied from open_clip_torch. image-reward's __init__ files import a trainer and `clip`, which is not on the package index; they
are bypassed. Both packages would download weights or a vocabulary; these are provided here. LAION's aesthetic predictor is not a package;
the layout of its head and its preprocessing are ImageReward's.
"""

import argparse
import gzip
import importlib.util
import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SIZES = [(224, 224), (300, 200), (229, 227), (100, 333), (640, 480), (64, 64)]  # width, height
PROMPTS = [
    "a small red star on a white background",
    "Portrait of a woman’s face, “oil on canvas”, 8k &amp; sharp",
    "一只戴帽子的猫，水彩画",
    "Ünïcödé ﬁne café, naïve — 100% 😀 it's they'll",
    "",
    "word " * 100,
]
OPERATORS = torch.library.Library("torchvision", "FRAGMENT")  # declarations live as long as this object


def folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed here; this script is for the environment that `make scorer-parity` makes")
    return Path(spec.origin).parent


def prepare() -> None:
    """Make the originals importable."""
    try:
        import torchvision  # noqa: F401 - only to see whether it can be
    except RuntimeError:
        for name in ("nms", "qnms"):
            OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    vocabulary = "bpe_simple_vocab_16e6.txt.gz"
    shutil.copy(folder_of("open_clip") / vocabulary, folder_of("hpsv2") / "src" / "open_clip" / vocabulary)
    root = folder_of("ImageReward")
    for name, path in (("ImageReward", root), ("ImageReward.models", root / "models")):
        module = types.ModuleType(name)
        module.__path__ = [str(path)]
        sys.modules[name] = module


def write_images(out: Path) -> list:
    """Write smooth random pictures in RGB, the last in grey, and return them. Noise alone would look the same to every network."""
    draws, images = np.random.default_rng(0), []
    for row, (width, height) in enumerate(SIZES):
        coarse = Image.fromarray(draws.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        noisy = np.asarray(coarse).astype(int) + draws.integers(-40, 40, (height, width, 3))
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        image = image.convert("L") if row == len(SIZES) - 1 else image
        image.save(out / f"{row}.png")
        images.append(image)
    return images


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Move every parameter away from its initial value, so that none is 0 or 1 by convention; matrices preserve a signal's size."""
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            size = parameter.shape[-1] ** -0.5 if parameter.dim() == 2 else 0.05
            parameter += size * torch.randn(parameter.shape, generator=draws)
    return model.eval()


def write_bpe(folder: Path) -> None:
    """Write CLIP's vocabulary and merges in transformers' files, in the order of hpsv2's tokenizer."""
    from hpsv2.src.open_clip.tokenizer import SimpleTokenizer, default_bpe

    merges = gzip.decompress(Path(default_bpe()).read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    tokens = [*list(SimpleTokenizer().encoder)[:-2], "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))


def hps(out: Path, images: list, prompts: list, full: bool) -> dict:
    """Return scores and tokens by hpsv2's own functions on a checkpoint of its own CLIP class."""
    from hpsv2 import img_score
    from hpsv2.src.open_clip.model import CLIP
    from hpsv2.src.open_clip.tokenizer import tokenize
    from hpsv2.src.open_clip.transform import image_transform

    config = json.loads((folder_of("hpsv2") / "src/open_clip/model_configs/ViT-H-14.json").read_text())
    if not full:
        config = {
            "embed_dim": 24, "vision_cfg": {"image_size": 224, "layers": 2, "width": 32, "head_width": 8, "patch_size": 14},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 48, "heads": 4, "layers": 2},
        }  # fmt: skip
    folder = out / "hps"
    folder.mkdir()
    model = shaken(CLIP(**config, output_dict=True))
    torch.save({"state_dict": model.state_dict()}, folder / "HPS_v2.1_compressed.pt")
    write_bpe(folder)
    pixels = image_transform(224, is_train=False, resize_longest_max=True)
    img_score.model_dict.update(model=model, preprocess_val=pixels)
    checkpoint = str(folder / "HPS_v2.1_compressed.pt")
    scores = [[float(s) for s in img_score.score(images, prompt, cp=checkpoint)] for prompt in prompts]
    torch.save([pixels(image) for image in images], folder / "pixels.pt")
    return {"scores": scores, "tokens": tokenize(prompts).tolist(), "config": config}


def image_reward(out: Path, images: list, prompts: list, full: bool) -> dict:
    """Return scores by ImageReward's own `score` on a checkpoint of its own class; unless `full`, with smaller towers put in."""
    from transformers import BertTokenizer

    folder = out / "imagereward"
    folder.mkdir()
    letters = [chr(i) for i in range(33, 127)]
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    pieces = iter([*letters, *(f"##{c}" for c in letters), "star", "red", "small", "background", "cat", "word", "##ground"])
    words = [special.get(i) or next(pieces, f"[unused{i}]") for i in range(30522)]
    (folder / "vocab.txt").write_text("\n".join(words))
    given = BertTokenizer.from_pretrained  # only the vocabulary file differs from the original's
    BertTokenizer.from_pretrained = lambda name: given(folder) if name == "bert-base-uncased" else given(name)

    from ImageReward.ImageReward import MLP, ImageReward
    from ImageReward.models.BLIP import blip_pretrain
    from ImageReward.models.BLIP.vit import VisionTransformer

    med = {
        "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
        "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
        "model_type": "bert", "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 0, "add_type_embeddings": False,
        "type_vocab_size": 2, "vocab_size": 30524, "encoder_width": 768, "add_cross_attention": True,
    }  # fmt: skip
    if not full:
        med |= {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2}
        small = VisionTransformer(img_size=224, patch_size=16, embed_dim=32, depth=2, num_heads=4)
        blip_pretrain.create_vit = lambda *_: (small, 32)
    (folder / "med_config.json").write_text(json.dumps(med))
    model = ImageReward(str(folder / "med_config.json"))
    if not full:
        model.mlp = MLP(med["hidden_size"])
    shaken(model)
    torch.save(model.state_dict(), folder / "ImageReward.pt")
    torch.save([model.preprocess(image) for image in images], folder / "pixels.pt")
    with torch.no_grad():
        scores = [[model.score(prompt, image) for image in images] for prompt in prompts]
    return {"scores": scores, "config": med}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    prepare()
    torch.manual_seed(0)
    images, prompts = write_images(arguments.out), PROMPTS
    if arguments.full:  # the originals take one image at a time, and hpsv2 reads its checkpoint again for each prompt
        images, prompts = images[:3], PROMPTS[:2]
    results = {"full": arguments.full, "prompts": prompts, "images": len(images)}
    results["hps"] = hps(arguments.out, images, prompts, arguments.full)
    results["imagereward"] = image_reward(arguments.out, images, prompts, arguments.full)
    (arguments.out / "scores.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
