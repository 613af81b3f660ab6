"""Stable Diffusion 1.x and 2.x: a UNet, one CLIP text encoder, noise or v prediction."""

from typing import Any

from torch import Tensor

from selfimprove.models.family import Family


def embed(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
    """Return the embeddings of the tokens, (B, tokens, width), as the plain pipeline makes them."""
    return {"text": pipeline.encode_prompt(prompts, pipeline.text_encoder.device, 1, False)[0]}


def pooled(pipeline: Any, prompts: list[str], *_: Any) -> Tensor:
    """Return the text encoder's pooled output, at the end-of-text token, which the UNet is not given."""
    encoder = pipeline.text_encoder
    tokens = pipeline.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").to(encoder.device)
    masked = getattr(encoder.config, "use_attention_mask", False)  # as the plain pipeline asks
    return encoder(tokens.input_ids, attention_mask=tokens.attention_mask if masked else None).pooler_output


FAMILY = Family(
    "StableDiffusionPipeline",
    "unet",
    "UNet2DConditionModel",
    embed,
    pooled=pooled,
    optional=("safety_checker", "feature_extractor", "image_encoder"),
    default_size=0,
)
