"""HPSv2's checkpoints in transformers' CLIPModel: conversion of the keys from open_clip's layout, and HPSv2's own cleaning of text.

Layout and preprocessing follow the package hpsv2 1.2.0 (ViT-H-14.json, model.py, transformer.py, tokenizer.py). HPSv2's scores are cosines
without logit scale. That package runs in mixed precision on a GPU; here everything is float32.
"""

import html
import re
from collections.abc import Mapping
from pathlib import Path

import ftfy
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from selfimprove.scorers.checkpoints import fill, read_state

VIT_H_14 = CLIPConfig(
    projection_dim=1024,
    vision_config={
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16, "patch_size": 14,
        "image_size": 224, "hidden_act": "gelu",
    },
    text_config={
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 49408,
        "max_position_embeddings": 77, "hidden_act": "gelu", "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407,
    },
)  # fmt: skip

WHOLE = {  # keys outside the blocks; a trailing * stands for weight and bias
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.*": "text_model.final_layer_norm.*",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.*": "vision_model.pre_layrnorm.*",
    "visual.ln_post.*": "vision_model.post_layernorm.*",
}
TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
BLOCKS = {"transformer.resblocks": "text_model.encoder.layers", "visual.transformer.resblocks": "vision_model.encoder.layers"}
IN_BLOCK = {
    "attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
}  # fmt: skip


def convert_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return open_clip's state dict of a ViT CLIP under the names of CLIPModel. An unknown key keeps its name, and `fill` refuses it."""
    whole = {
        source.replace("*", kind): target.replace("*", kind)
        for source, target in WHOLE.items()
        for kind in (("weight", "bias") if source.endswith("*") else ("",))
    }
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        block = re.fullmatch(r"((?:visual\.)?transformer\.resblocks)\.(\d+)\.(.+)[._](weight|bias)", key)
        if key in TRANSPOSED:
            converted[TRANSPOSED[key]] = value.T
        elif block and block[3] == "attn.in_proj":  # query, key and value, stacked
            for part, third in zip("qkv", value.chunk(3), strict=True):
                converted[f"{BLOCKS[block[1]]}.{block[2]}.self_attn.{part}_proj.{block[4]}"] = third
        elif block and block[3] in IN_BLOCK:
            converted[f"{BLOCKS[block[1]]}.{block[2]}.{IN_BLOCK[block[3]]}.{block[4]}"] = value
        else:
            converted[whole.get(key, key)] = value
    return converted


def read_hps(weights: Path, config: CLIPConfig = VIT_H_14) -> CLIPModel:
    """Return the network of a published HPSv2 checkpoint, whose state dict lies under `state_dict`.

    Raises:
        ScorerError: see `read_state` and `fill`.
    """
    return fill(lambda: CLIPModel(config), convert_open_clip(read_state(weights, "state_dict")), weights)


def clean_text(text: str) -> str:
    """Clean a text as open_clip's tokenizer does first: repair Unicode (typographic quotes become plain) and resolve HTML entities."""
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()
