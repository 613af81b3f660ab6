"""Stable Diffusion 1.x and 2.x: a UNet, one CLIP text encoder, noise or v prediction."""

from typing import Any

from torch import Tensor

from selfimprove.models.family import Family, Size


def embed(pipeline: Any, prompts: list[str], size: Size) -> dict[str, Tensor]:
    """Return the embeddings of the tokens, (B, tokens, width), as the plain pipeline makes them."""
    return {"text": pipeline.encode_prompt(prompts, pipeline.text_encoder.device, 1, False)[0]}


FAMILY = Family(
    "StableDiffusionPipeline", "unet", "UNet2DConditionModel", embed, pooled="", optional=("safety_checker", "feature_extractor")
)
