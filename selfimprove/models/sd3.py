"""Stable Diffusion 3 and 3.5: a transformer of a flow, two CLIP text encoders, and a T5 that a folder may lack."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from selfimprove.models.family import T5, Encoder, Family, times_for
from selfimprove.models.network import Denoiser

T5_TOKENS = 256  # the plain pipeline's default
ABSENT = "_absent_t5_tokens"  # in model_index.json: how many zeros stand for an absent T5, if fewer draw the same (`shapes-flow`: one)


def embed(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
    """Return the embeddings of CLIP and T5 tokens, (B, tokens, width), zeros for a T5 that is absent, and the pooled CLIP outputs."""
    tokens = T5_TOKENS if pipeline.text_encoder_3 is not None else pipeline.config.get(ABSENT, T5_TOKENS)
    text, _, pooled, _ = pipeline.encode_prompt(
        prompts, None, None, device=pipeline.text_encoder.device, do_classifier_free_guidance=False, max_sequence_length=tokens
    )
    return {"text": text, "pooled": pooled}


def call(network: Denoiser, noisy: Tensor, t: Any, tensors: Mapping[str, Tensor]) -> Tensor:
    """Call the transformer, which takes t from 0 to 1000."""
    text, pooled = tensors["text"], tensors["pooled"]
    return network(hidden_states=noisy, timestep=times_for(t, noisy), encoder_hidden_states=text, pooled_projections=pooled).sample


FAMILY = Family(
    "StableDiffusion3Pipeline",
    "transformer",
    "SD3Transformer2DModel",
    embed,
    call,
    encoders=(
        Encoder(kind="CLIPTextModelWithProjection"),
        Encoder("text_encoder_2", "tokenizer_2", "CLIPTextModelWithProjection"),
        Encoder("text_encoder_3", "tokenizer_3", "T5EncoderModel", T5, T5_TOKENS),
    ),
    flow=True,
    optional=("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor"),
    adapted=(
        *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
        *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
    ),
    patch=2,
)
