"""python -m benchmarks.scorers: measure images per second of the embedded scorers and of published architectures with random weights.

The command measures on the CPU, and on a GPU if there is one. Preprocessing is included, and everything is in float32. Nothing is
downloaded. The command writes book/results/scorer_speed.json. With --layers the networks are shortened, to check that the code runs. With
--layers or --only nothing is written.
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import BlipTextConfig, BlipVisionConfig, CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from selfimprove.files import write_json
from selfimprove.run_folder import provenance
from selfimprove.scorers import SHAPES_SCORERS, AestheticScorer, BatchScorer, ClipScorer, load_scorers
from selfimprove.scorers.blip import TEXT, VISION, ImageRewardModel, ImageRewardScorer
from selfimprove.scorers.clip import ClipTowers, processor_pixels, published_head
from selfimprove.scorers.images import crop_square, fit_square, squares
from selfimprove.scorers.openclip import VIT_H_14, clean_text
from selfimprove.shapes import ASSETS

OUT = Path("book/results/scorer_speed.json")
PUBLISHED = ("clip", "aesthetic", "pickscore", "hpsv2.1", "imagereward")
PROMPT = "a large red star on a white background"
SIDES = {"shapes": 64, "published": 512}  # side of the images in pixels
COUNTS = {("shapes", "cpu"): 1024, ("published", "cpu"): 32, ("shapes", "cuda"): 4096, ("published", "cuda"): 512}
BATCH = 16
VIT_L_14 = CLIPConfig(  # openai/clip-vit-large-patch14
    projection_dim=768,
    vision_config={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14},
    text_config={"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
)


def cut(config: Any, layers: int) -> Any:
    """Return the configuration with at most `layers` layers; 0 means all layers."""
    config = copy.deepcopy(config)
    for part in (config.text_config, config.vision_config) if isinstance(config, CLIPConfig) else (config,):
        part.num_hidden_layers = min(part.num_hidden_layers, layers or part.num_hidden_layers)
    return config


def network(config: CLIPConfig) -> CLIPModel:
    return CLIPModel(config).eval().requires_grad_(False)


def published(name: str, device: torch.device, layers: int, folder: Path) -> BatchScorer:
    """Build a published architecture with random weights; the tokenizers are small ones, which take about as long."""
    if name == "imagereward":
        vision, text = cut(VISION, layers).to_dict(), cut(TEXT, layers).to_dict()
        (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PROMPT.split()]))
        build = partial(ImageRewardModel, BlipVisionConfig(**vision), BlipTextConfig(**text))
        return ImageRewardScorer(name, "random", lambda: build().eval().requires_grad_(False), folder, device, BATCH)
    config = cut(VIT_L_14 if name in ("clip", "aesthetic") else VIT_H_14, layers)
    towers = ClipTowers(partial(network, config), ASSETS / "scorers" / "clip", device, clean_text)
    if name == "aesthetic":
        return AestheticScorer(name, "random", towers, partial(squares, fit=crop_square, size=224), lambda: published_head().eval(), BATCH)
    if name == "hpsv2.1":
        return ClipScorer(name, "random", towers, partial(squares, fit=fit_square, size=224), False, BATCH)
    CLIPImageProcessorPil().save_pretrained(folder)
    return ClipScorer(name, "random", towers, processor_pixels(folder), True, BATCH)


def scorers(device: torch.device, layers: int, folder: Path, only: list[str]) -> Iterator[tuple[str, BatchScorer]]:
    """Yield (family, scorer), built one after the other, because the large scorers take 4 GB each."""
    for name in SHAPES_SCORERS:
        if not only or name in only:
            yield "shapes", load_scorers((name,), device)[name]
    for name in PUBLISHED:
        if not only or name in only:
            yield "published", published(name, device, layers, folder)


def measure(family: str, scorer: BatchScorer, count: int) -> dict[str, Any]:
    """Return the seconds for `count` random images, measured after a first batch that loads the network."""
    pixels = torch.rand(64, 3, SIDES[family], SIDES[family], generator=torch.Generator().manual_seed(0))
    if family == "shapes":
        images: Any = pixels[torch.arange(count) % 64]
    else:
        pictures = [Image.fromarray((p * 255).byte().permute(1, 2, 0).numpy()) for p in pixels[:16]]
        images = [pictures[i % 16] for i in range(count)]
    scorer(images[: scorer.batch_size], [PROMPT] * min(scorer.batch_size, count))
    start = time.perf_counter()
    scorer(images, [PROMPT] * count)
    seconds = time.perf_counter() - start
    return {
        "family": family, "scorer": scorer.name, "device": scorer.device.type, "threads": torch.get_num_threads(), "images": count,
        "side": SIDES[family], "batch": scorer.batch_size, "seconds": round(seconds, 2), "images_per_second": round(count / seconds, 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scorers", description=__doc__)
    parser.add_argument("--layers", type=int, default=0, help="at most so many layers a network (default: all)")
    parser.add_argument("--only", nargs="*", default=[], help="names of scorers (default: all)")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
            for family, scorer in scorers(torch.device(device), arguments.layers, Path(folder), arguments.only):
                rows.append(measure(family, scorer, COUNTS[family, device]))
                print(rows[-1], flush=True)
    if not (arguments.layers or arguments.only):
        write_json(OUT, {"rows": rows, "provenance": provenance()})


if __name__ == "__main__":
    main()
