"""python -m benchmarks.scorer_parity FOLDER: compare the scorers here with what scorer_parity_originals.py wrote into FOLDER.

The command prints the largest differences in tokens, pixels and scores, and fails if one is too large. `make scorer-parity` runs both
halves.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from transformers import BlipTextConfig, BlipVisionConfig, CLIPConfig

from selfimprove.scorers import ClipScorer, Scorer, load_scorers
from selfimprove.scorers.blip import TEXT, VISION, ImageRewardModel, ImageRewardScorer, read_image_reward
from selfimprove.scorers.clip import ClipTowers
from selfimprove.scorers.images import crop_square, fit_square, squares
from selfimprove.scorers.openclip import VIT_H_14, clean_text, read_hps

CPU = torch.device("cpu")
ALLOWED = 1e-5  # largest difference, in pixels and in scores


def small_hps(folder: Path, shape: dict) -> Scorer:
    """Build hpsv2.1 with the sizes of open_clip's configuration `shape` in place of the published ones."""
    vision, text = shape["vision_cfg"], shape["text_cfg"]
    config = CLIPConfig(
        projection_dim=shape["embed_dim"],
        vision_config=VIT_H_14.vision_config.to_dict() | {
            "hidden_size": vision["width"], "intermediate_size": 4 * vision["width"], "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision["head_width"],
        },
        text_config=VIT_H_14.text_config.to_dict() | {
            "hidden_size": text["width"], "intermediate_size": 4 * text["width"], "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
        },
    )  # fmt: skip
    towers = ClipTowers(partial(read_hps, folder / "HPS_v2.1_compressed.pt", config), folder, CPU, clean_text)
    return ClipScorer("hpsv2.1", "small", towers, partial(squares, fit=fit_square, size=224), scaled=False)


def small_image_reward(folder: Path, shape: dict) -> Scorer:
    """Build ImageReward with the text sizes of `shape` and an image tower of width 32."""
    vision = VISION.to_dict() | {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = TEXT.to_dict() | {"encoder_hidden_size": 32} | {
        key: shape[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    }  # fmt: skip
    build = partial(ImageRewardModel, BlipVisionConfig(**vision), BlipTextConfig(**text))
    return ImageRewardScorer("imagereward", "small", partial(read_image_reward, folder / "ImageReward.pt", build), folder, CPU)


def differences(scorer: Scorer, images: list[Image.Image], prompts: list[str], original: list[list[float]]) -> tuple[float, float]:
    """Return the largest difference of scores over all images and prompts, and the standard deviation of the originals' scores."""
    wanted = torch.tensor(original)
    ours = torch.stack([scorer(images, [prompt] * len(images)) for prompt in prompts])
    return float((ours - wanted).abs().max()), float(wanted.std())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scorer_parity", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    written = json.loads((folder / "scores.json").read_text())
    images, prompts = [Image.open(folder / f"{row}.png") for row in range(written["images"])], written["prompts"]
    names = ("hpsv2.1", "imagereward")
    folders = {"hpsv2.1": folder / "hps", "imagereward": folder / "imagereward"}
    if written["full"]:
        scorers = load_scorers([f"{name}={folders[name]}" for name in names], CPU, family="published")
    else:
        scorers = {
            "hpsv2.1": small_hps(folders["hpsv2.1"], written["hps"]["config"]),
            "imagereward": small_image_reward(folders["imagereward"], written["imagereward"]["config"]),
        }
    failed = False
    tokenizer = scorers["hpsv2.1"].towers.tokenizer
    for prompt, original in zip(prompts, written["hps"]["tokens"], strict=True):
        ours = tokenizer(clean_text(prompt), truncation=True, max_length=77).input_ids
        if ours != original[: len(ours)] or any(original[len(ours) :]):
            print(f"hpsv2.1: other tokens for {prompt!r}")
            failed = True
    for name, fit in (("hpsv2.1", fit_square), ("imagereward", crop_square)):
        wanted = torch.stack(torch.load(folders[name] / "pixels.pt", weights_only=True))
        pixels = float((squares(images, fit, 224) - wanted).abs().max())
        scores, spread = differences(scorers[name], images, prompts, written["hps" if name == "hpsv2.1" else name]["scores"])
        print(f"{name}: {len(images)} images x {len(prompts)} prompts; largest difference in pixels {pixels:.1e}, in scores {scores:.1e}"
              f" (standard deviation of the original's {spread:.3f})")  # fmt: skip
        failed |= max(pixels, scores) > ALLOWED
    sys.exit(failed)


if __name__ == "__main__":
    main()
