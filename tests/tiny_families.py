"""Random tiny pipelines of every family, made from configurations alone."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from selfimprove.shapes import PIPELINE
from tests.conftest import tiny_pipeline

LENGTH = 24  # tokens of a CLIP tokenizer


def _tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer", model_max_length=LENGTH)


def _clip(tokenizer: CLIPTokenizer, projected: bool, width: int = 32) -> CLIPTextModel | CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=37, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=LENGTH, projection_dim=width, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def _t5() -> tuple[T5EncoderModel, T5Tokenizer]:
    words = [
        "<pad>",
        "</s>",
        "<unk>",
        *(f"\N{LOWER ONE EIGHTH BLOCK}{word}" for word in ("a", "star", "moon", "red", "cat", "noise", "number")),
    ]
    tokenizer = T5Tokenizer(vocab=[(word, -float(i)) for i, word in enumerate(words)], extra_ids=0, model_max_length=512)
    config = T5Config(vocab_size=len(words), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    return T5EncoderModel(config), tokenizer


def _vae(channels: int, quant: bool, **changes: float) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 16),
        norm_num_groups=4, sample_size=16, latent_channels=channels, use_quant_conv=quant, use_post_quant_conv=quant, **changes,
    )  # fmt: skip


def sdxl(width: int = 32) -> StableDiffusionXLPipeline:
    """16 px images, 8x8 latents of 4 channels, two text encoders, the second of a width."""
    tokenizer = _tokenizer()
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2), projection_class_embeddings_input_dim=48 + width, cross_attention_dim=32 + width,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )
    return StableDiffusionXLPipeline(
        vae=_vae(4, True, scaling_factor=0.13025), text_encoder=_clip(tokenizer, False),
        text_encoder_2=_clip(tokenizer, True, width), tokenizer=tokenizer, tokenizer_2=_tokenizer(),
        unet=unet, scheduler=scheduler, add_watermarker=False,
    )  # fmt: skip


def sd3(with_t5: bool = True, width: int = 32, **changes: object) -> StableDiffusion3Pipeline:
    """16 px images, 8x8 latents of 16 channels in patches of 2, three text encoders, the second of a width, or two."""
    tokenizer = _tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=80, caption_projection_dim=32, pooled_projection_dim=32 + width,
        pos_embed_max_size=16, **changes,
    )  # fmt: skip
    t5, t5_tokenizer = _t5() if with_t5 else (None, None)
    if t5 is not None:
        config = T5Config(**(t5.config.to_dict() | {"d_model": 80}))
        t5 = T5EncoderModel(config)
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(16, False, scaling_factor=1.5305, shift_factor=0.0609), text_encoder=_clip(tokenizer, True), tokenizer=tokenizer,
        text_encoder_2=_clip(tokenizer, True, width), tokenizer_2=_tokenizer(), text_encoder_3=t5, tokenizer_3=t5_tokenizer,
    )  # fmt: skip


def flux(guidance: bool = False) -> FluxPipeline:
    """16 px images, 8x8 latents of 4 channels packed 2x2, a CLIP and a T5; with `guidance`, guidance is an input."""
    tokenizer = _tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, guidance_embeds=guidance, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    t5, t5_tokenizer = _t5()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return FluxPipeline(
        scheduler=scheduler, vae=_vae(4, False, scaling_factor=0.3611, shift_factor=0.1159), text_encoder=_clip(tokenizer, False),
        tokenizer=tokenizer, text_encoder_2=t5, tokenizer_2=t5_tokenizer, transformer=transformer,
    )  # fmt: skip


PIPELINES = {
    "sd": tiny_pipeline, "sdxl": sdxl, "sd3": sd3, "sd3 without T5": lambda: sd3(False), "flux": flux,
    "flux with guidance": lambda: flux(True),
}  # fmt: skip


def write(name: str, folder: Path) -> Path:
    """Write a tiny pipeline of a family, with random weights that depend on nothing but its name."""
    torch.manual_seed(sum(name.encode()))
    pipeline: DiffusionPipeline = PIPELINES[name]()
    pipeline.save_pretrained(folder)
    return folder
