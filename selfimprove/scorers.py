"""Scorers: (images, prompts) -> one float an image. Learned judges of text alignment, preference and looks.

All take images with values in [0, 1], shape (B, 3, H, W), and as many prompts. Each keeps its own preprocessing.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from selfimprove.shapes import ASSETS

Scorer = Callable[[Float[Tensor, "b 3 h w"], Sequence[str]], Float[Tensor, " b"]]


class ScorerError(ValueError):
    """A scorer gave what is no score; names scorer, image and prompt."""


class AestheticHead(nn.Module):
    """An MLP without activations on L2-normalised CLIP image features, as the LAION aesthetic predictor has it; about 1..10."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 128), nn.Dropout(0.1), nn.Linear(128, 32), nn.Linear(32, 1))

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        return self.layers(features)[:, 0]


class ClipScorer:
    """exp(logit_scale) * cosine of image and text embeddings: CLIP text alignment, and PickScore's formula."""

    def __init__(self, folder: Path, device: torch.device, batch_size: int = 128) -> None:
        self.model = CLIPModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder)
        self.processor = CLIPImageProcessor.from_pretrained(folder)
        self.device, self.batch_size = device, batch_size

    def features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """L2-normalised image embeddings."""
        pixels = self.processor(list(images.cpu()), do_rescale=False, return_tensors="pt").pixel_values
        return F.normalize(self.model.get_image_features(pixel_values=pixels.to(self.device)).pooler_output, dim=1)

    @torch.inference_mode()
    def __call__(self, images: Float[Tensor, "b 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        scores = []
        for start in range(0, len(prompts), self.batch_size):
            rows = slice(start, start + self.batch_size)
            tokens = self.tokenizer(list(prompts[rows]), padding=True, truncation=True, return_tensors="pt").to(self.device)
            text = F.normalize(self.model.get_text_features(**tokens).pooler_output, dim=1)
            scores.append(self.model.logit_scale.exp() * (self.features(images[rows]) * text).sum(1))
        return torch.cat(scores).cpu()


class AestheticScorer:
    """A head on the image features of a CLIP scorer; the prompt is ignored."""

    def __init__(self, clip: ClipScorer, weights: Path) -> None:
        self.clip = clip
        self.head = AestheticHead(clip.model.config.projection_dim).to(clip.device).eval()
        self.head.load_state_dict({k: v.float() for k, v in load_file(weights).items()})

    @torch.inference_mode()
    def __call__(self, images: Float[Tensor, "b 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        parts = [self.head(self.clip.features(x)) for x in images.split(self.clip.batch_size)]
        return torch.cat(parts).cpu()


SHAPES_SCORERS = ("clip", "saturation", "shading", "alignment", "aesthetic")


def load_scorers(names: Sequence[str], device: torch.device, assets: Path = ASSETS) -> dict[str, Scorer]:
    """The embedded scorers by name, from `assets`/scorers.

    Raises:
        ValueError: a name is not known.
    """
    unknown = [n for n in names if n not in SHAPES_SCORERS]
    if unknown:
        raise ValueError(f"scorers={unknown} are not known; choose from {list(SHAPES_SCORERS)}")
    clips = {n: ClipScorer(assets / "scorers" / n, device) for n in names if n != "aesthetic"}
    scorers: dict[str, Scorer] = dict(clips)
    if "aesthetic" in names:
        clip = clips.get("clip") or ClipScorer(assets / "scorers" / "clip", device)
        scorers["aesthetic"] = AestheticScorer(clip, assets / "scorers" / "aesthetic.safetensors")
    return scorers


def nearest_real(
    latents: Float[Tensor, "n c h w"], prompts: Sequence[str], real: Float[Tensor, "m c h w"], captions: Sequence[str]
) -> Float[Tensor, " n"]:
    """Minus the distance to the nearest real image of the same caption (of any, where no real image has it).

    The distance is the root mean square over the latent's dimensions: 0 for a copy, about -1.4 for unrelated latents.
    """
    distance = torch.cdist(latents.flatten(1), real.flatten(1)) / latents[0].numel() ** 0.5
    same = torch.tensor([[p == c for c in captions] for p in prompts])
    allowed = same | ~same.any(1, keepdim=True)
    return -distance.masked_fill(~allowed, float("inf")).amin(1)
