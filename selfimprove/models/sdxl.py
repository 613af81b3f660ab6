"""Stable Diffusion XL: a UNet that is also given two pooled texts' second one and the sizes of the image, and two CLIP text encoders."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from selfimprove.models.family import Encoder, Family, without_text
from selfimprove.models.network import Denoiser


def embed(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
    """Return the embeddings of both encoders, (B, tokens, width), the second's pooled output, and the pixels of a latent's side, (B, 1).

    No text is zeros where the pipeline asks for zeros, as the base model does.
    """
    text, _, pooled, _ = pipeline.encode_prompt(
        prompts, device=pipeline.text_encoder_2.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    if pipeline.config.get("force_zeros_for_empty_prompt", True):
        text, pooled = without_text(prompts, text, pooled)
    return {"text": text, "pooled": pooled, "pixels": text.new_full((len(prompts), 1), pipeline.vae_scale_factor)}


def call(network: Denoiser, noisy: Tensor, t: Any, tensors: Mapping[str, Tensor]) -> Tensor:
    """Call the UNet with its added conditions. The sizes are those of x_t, and say that the image was neither scaled nor cropped."""
    height, width = noisy.shape[2:]
    sizes = torch.tensor([height, width, 0, 0, height, width], dtype=noisy.dtype, device=noisy.device)
    added = {"text_embeds": tensors["pooled"], "time_ids": tensors["pixels"] * sizes}
    return network(noisy, t, encoder_hidden_states=tensors["text"], added_cond_kwargs=added).sample


FAMILY = Family(
    "StableDiffusionXLPipeline",
    "unet",
    "UNet2DConditionModel",
    embed,
    call,
    encoders=(Encoder(), Encoder("text_encoder_2", "tokenizer_2", "CLIPTextModelWithProjection")),
    optional=("image_encoder", "feature_extractor"),
    latent_statistics=True,
)
