"""Scorers on CLIP embeddings: text alignment, preference models of CLIP's architecture, and aesthetic heads."""

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from selfimprove.scorers.checkpoints import fill, read_state
from selfimprove.scorers.images import Images, ScorerError, eight_bit
from selfimprove.scorers.interface import BatchScorer

Pixels = Callable[[Images], Float[Tensor, "b 3 h w"]]


def read_clip(weights: Path) -> CLIPModel:
    """Return a CLIPModel whose config.json lies beside its weights (safetensors or bin).

    Raises:
        ScorerError: see `read_state` and `fill`; also if config.json is not JSON, or the folder holds another kind of model.
    """
    try:
        settings = json.loads((weights.parent / "config.json").read_text())
    except ValueError as error:
        raise ScorerError(f"{str(weights.parent / 'config.json')!r} is no JSON; get the folder again") from error
    kind = settings.get("model_type")
    if kind != "clip":
        raise ScorerError(f"{str(weights.parent)!r} holds a model of type {kind!r}; a CLIPModel folder is needed")
    config = CLIPConfig.from_dict(settings)
    state = {k: v for k, v in read_state(weights).items() if not k.endswith("position_ids")}  # old files store these counters
    return fill(lambda: CLIPModel(config), state, weights)


def processor_pixels(folder: Path, rounding: Callable[[Tensor], Tensor] = torch.round) -> Pixels:
    """Return the preprocessing of the folder's preprocessor_config.json. It always resizes the PIL image, whatever else is installed."""
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    return lambda images: processor(eight_bit(images, rounding), return_tensors="pt").pixel_values


class ClipTowers:
    """The image and text towers of a CLIP and its tokenizer, on one device. They are loaded at first use, and scorers may share them.

    `read` returns the model. `clean` is applied to each text before the tokenizer.
    """

    def __init__(self, read: Callable[[], CLIPModel], tokenizer: Path, device: torch.device, clean: Callable[[str], str] = str) -> None:
        self.read, self.folder, self.device, self.clean = read, tokenizer, device, clean

    @cached_property
    def model(self) -> CLIPModel:
        """Return the network, frozen, in float32."""
        return self.read().to(self.device)

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        """Return CLIP's byte-level BPE tokenizer."""
        return CLIPTokenizer.from_pretrained(self.folder)

    def texts(self, prompts: Sequence[str]) -> Float[Tensor, "b d"]:
        """Return L2-normalised text embeddings. Prompts are cut at the encoder's limit."""
        limit = self.model.config.text_config.max_position_embeddings
        cleaned = [self.clean(prompt) for prompt in prompts]
        tokens = self.tokenizer(cleaned, padding=True, truncation=True, max_length=limit, return_tensors="pt").to(self.device)
        return F.normalize(self.model.get_text_features(**tokens).pooler_output, dim=1)

    def images(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Return L2-normalised embeddings of preprocessed images."""
        return F.normalize(self.model.get_image_features(pixel_values=pixels.to(self.device)).pooler_output, dim=1)


class RewardHead(nn.Module):
    """Linear layers of the given widths that end in one value, with a dropout after each of the first layers and no activations.

    Each dropout takes an index in `layers`, so that the parameters have the names of the published state dicts.
    """

    def __init__(self, widths: Sequence[int], dropouts: Sequence[float]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(pairwise([*widths, 1])):
            layers += [nn.Linear(inputs, outputs), *(nn.Dropout(p) for p in dropouts[index : index + 1])]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        return self.layers(features)[:, 0]


class AestheticHead(RewardHead):
    """The embedded world's head on L2-normalised CLIP image features: LAION's predictor, only smaller. Its scores are about 1 to 10."""

    def __init__(self, width: int) -> None:
        super().__init__((width, 128, 32), (0.1,))


def published_head(width: int = 768) -> RewardHead:
    """Return a head 768-1024-128-64-16-1, as published for LAION's aesthetic predictor v2 and used in ImageReward."""
    return RewardHead((width, 1024, 128, 64, 16), (0.2, 0.2, 0.1))


class ClipScorer(BatchScorer):
    """Cosine of image and text embeddings, multiplied by exp(logit_scale) if `scaled` (CLIP text alignment, PickScore; HPSv2 is not)."""

    def __init__(self, name: str, version: str, towers: ClipTowers, pixels: Pixels, scaled: bool = True, batch_size: int = 128) -> None:
        super().__init__(name, version, towers.device, batch_size)
        self.towers, self.pixels, self.scaled = towers, pixels, scaled

    @torch.inference_mode()
    def features(self, images: Images) -> Float[Tensor, "b d"]:
        """Return L2-normalised image embeddings of one batch, on the CPU. Distances between sets of images are measured on them."""
        self.bring()
        return self.towers.images(self.pixels(images)).float().cpu()

    def score(self, images: Images, prompts: list[str]) -> Float[Tensor, " b"]:
        cosine = self.towers.images(self.pixels(images)) * self.towers.texts(prompts)
        return self.towers.model.logit_scale.exp() * cosine.sum(1) if self.scaled else cosine.sum(1)


class AestheticScorer(BatchScorer):
    """A head on L2-normalised CLIP image embeddings, with scores of about 1 to 10. The prompt is ignored."""

    def __init__(
        self, name: str, version: str, towers: ClipTowers, pixels: Pixels, read_head: Callable[[], RewardHead], batch_size: int = 128
    ) -> None:
        super().__init__(name, version, towers.device, batch_size)
        self.towers, self.pixels, self.read_head = towers, pixels, read_head

    @cached_property
    def head(self) -> RewardHead:
        """Return the head, on the towers' device."""
        return self.read_head().to(self.device)

    def score(self, images: Images, prompts: list[str]) -> Float[Tensor, " b"]:
        return self.head(self.towers.images(self.pixels(images)))
