"""ImageReward v1.0 in transformers' BLIP classes: a text encoder that attends to the image's patches, and a head on its first state.

Layout, preprocessing and formula follow the package image-reward 1.5 (ImageReward.py, BLIP/vit.py, BLIP/med.py). Scores have mean 0 and
standard deviation 1 over the authors' training data, so negative scores are common.
"""

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import BertTokenizer, BlipTextConfig, BlipVisionConfig, BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from selfimprove.scorers.checkpoints import fill, read_state
from selfimprove.scorers.clip import published_head
from selfimprove.scorers.images import Images, crop_square, squares
from selfimprove.scorers.interface import BatchScorer

MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the head's raw output over the authors' training data
LENGTH = 35  # tokens; longer prompts are cut, shorter ones padded
VISION = BlipVisionConfig(  # ViT-L/16 with timm's epsilon in place of transformers' default 1e-5
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=224, patch_size=16,
    hidden_act="gelu", layer_norm_eps=1e-6,
)  # fmt: skip
TEXT = BlipTextConfig(  # as in med_config.json, with the image tower's width
    vocab_size=30524, hidden_size=768, encoder_hidden_size=1024, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
    max_position_embeddings=512, hidden_act="gelu", layer_norm_eps=1e-12, is_decoder=True,
)  # fmt: skip
UNUSED = re.compile(r"blip\.(vision_proj|text_proj)\.(weight|bias)|blip\.text_encoder\.embeddings\.position_ids")  # the score ignores these
RENAMED = (  # the first pattern that matches the whole key applies
    (r"blip\.text_encoder\.(.+)", r"text.\1"),
    (r"blip\.visual_encoder\.cls_token", "vision.embeddings.class_embedding"),
    (r"blip\.visual_encoder\.pos_embed", "vision.embeddings.position_embedding"),
    (r"blip\.visual_encoder\.patch_embed\.proj\.(.+)", r"vision.embeddings.patch_embedding.\1"),
    (r"blip\.visual_encoder\.norm\.(.+)", r"vision.post_layernorm.\1"),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.attn\.qkv\.(.+)", r"vision.encoder.layers.\1.self_attn.qkv.\2"),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj\.(.+)", r"vision.encoder.layers.\1.self_attn.projection.\2"),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.norm([12])\.(.+)", r"vision.encoder.layers.\1.layer_norm\2.\3"),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.mlp\.(.+)", r"vision.encoder.layers.\1.mlp.\2"),
    (r"mlp\.(.+)", r"head.\1"),
)


def convert_image_reward(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the published state dict under the names of `ImageRewardModel`. An unknown key keeps its name, and `fill` refuses it."""
    converted = {}
    for key, value in state.items():
        if not UNUSED.fullmatch(key):
            pattern, name = next(((p, n) for p, n in RENAMED if re.fullmatch(p, key)), (r"(.+)", r"\1"))
            converted[re.sub(pattern, name, key)] = value
    return converted


class ImageRewardModel(nn.Module):
    """A text encoder whose cross-attention reads the image's patches, with a head on the state of [CLS]."""

    def __init__(self, vision: BlipVisionConfig = VISION, text: BlipTextConfig = TEXT) -> None:
        super().__init__()
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        self.head = published_head(text.hidden_size)

    def forward(self, pixels: Float[Tensor, "b 3 h w"], tokens: Int[Tensor, "b l"], mask: Int[Tensor, "b l"]) -> Float[Tensor, " b"]:
        """Return normalised rewards, one per image."""
        patches = self.vision(pixels).last_hidden_state
        states = self.text(tokens, attention_mask=mask, encoder_hidden_states=patches).last_hidden_state
        return (self.head(states[:, 0]) - MEAN) / STD


def read_image_reward(weights: Path, build: Callable[[], ImageRewardModel] = ImageRewardModel) -> ImageRewardModel:
    """Return the network of the published checkpoint, which is a bare state dict.

    Raises:
        ScorerError: see `read_state` and `fill`.
    """
    return fill(build, convert_image_reward(read_state(weights)), weights)


class ImageRewardScorer(BatchScorer):
    """ImageReward, with scores of about -2 to 2. Texts longer than 35 tokens are cut.

    The published tokenizer adds [DEC] and [ENC] (30522, 30523). Scoring never uses them, so plain bert-base-uncased gives the same tokens.
    """

    def __init__(
        self, name: str, version: str, read: Callable[[], ImageRewardModel], tokenizer: Path, device: torch.device, batch_size: int = 16
    ) -> None:
        super().__init__(name, version, device, batch_size)
        self.read, self.folder = read, tokenizer

    @cached_property
    def model(self) -> ImageRewardModel:
        """Return the network, frozen, in float32."""
        return self.read().to(self.device)

    @cached_property
    def tokenizer(self) -> Any:
        """Return BERT's lower-casing word-piece tokenizer."""
        return BertTokenizer.from_pretrained(self.folder)

    def score(self, images: Images, prompts: list[str]) -> Float[Tensor, " b"]:
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt").to(self.device)
        pixels = squares(images, crop_square, self.model.vision.config.image_size)
        return self.model(pixels.to(self.device), tokens.input_ids, tokens.attention_mask)
