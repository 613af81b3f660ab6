"""Single files in the names of the original code, for tests: the inverse of what diffusers does when it reads them."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from tests.forms import unet_names, vae_names

Tensors = dict[str, Tensor]
DENOISER, CLIP_L, CLIP_G, T5 = "model.diffusion_model.", *(f"text_encoders.{n}.transformer." for n in ("clip_l", "clip_g", "t5xxl"))
SD3 = (
    (r"^pos_embed\.pos_embed$", "pos_embed"), (r"^pos_embed\.proj", "x_embedder.proj"),
    (r"^time_text_embed\.timestep_embedder\.linear_1", "t_embedder.mlp.0"),
    (r"^time_text_embed\.timestep_embedder\.linear_2", "t_embedder.mlp.2"),
    (r"^time_text_embed\.text_embedder\.linear_1", "y_embedder.mlp.0"),
    (r"^time_text_embed\.text_embedder\.linear_2", "y_embedder.mlp.2"),
    (r"^proj_out", "final_layer.linear"),
    (r"^norm_out\.linear", "final_layer.adaLN_modulation.1"),
    (r"^transformer_blocks", "joint_blocks"),
    (r"attn\.norm_added_([qk])", r"context_block.attn.ln_\1"), (r"(attn2?)\.norm_([qk])", r"x_block.\1.ln_\2"),
    (r"attn\.to_add_out", "context_block.attn.proj"), (r"(attn2?)\.to_out\.0", r"x_block.\1.proj"),
    (r"attn\.to_context_qkv", "context_block.attn.qkv"), (r"(attn2?)\.to_qkv", r"x_block.\1.qkv"),
    (r"norm1\.linear", "x_block.adaLN_modulation.1"), (r"norm1_context\.linear", "context_block.adaLN_modulation.1"),
    (r"ff\.net\.0\.proj", "x_block.mlp.fc1"), (r"ff\.net\.2", "x_block.mlp.fc2"),
    (r"ff_context\.net\.0\.proj", "context_block.mlp.fc1"), (r"ff_context\.net\.2", "context_block.mlp.fc2"),
)  # fmt: skip
FLUX = (
    (r"^time_text_embed\.timestep_embedder\.linear_1", "time_in.in_layer"),
    (r"^time_text_embed\.timestep_embedder\.linear_2", "time_in.out_layer"),
    (r"^time_text_embed\.text_embedder\.linear_1", "vector_in.in_layer"),
    (r"^time_text_embed\.text_embedder\.linear_2", "vector_in.out_layer"),
    (r"^time_text_embed\.guidance_embedder\.linear_1", "guidance_in.in_layer"),
    (r"^time_text_embed\.guidance_embedder\.linear_2", "guidance_in.out_layer"),
    (r"^context_embedder", "txt_in"), (r"^x_embedder", "img_in"), (r"^proj_out", "final_layer.linear"),
    (r"^norm_out\.linear", "final_layer.adaLN_modulation.1"),
    (r"^(single_transformer_blocks\.\d+)\.attn\.norm_q\.weight", r"\1.norm.query_norm.scale"),
    (r"^(single_transformer_blocks\.\d+)\.attn\.norm_k\.weight", r"\1.norm.key_norm.scale"),
    (r"^single_transformer_blocks\.(\d+)\.norm\.linear", r"single_blocks.\1.modulation.lin"),
    (r"^single_transformer_blocks\.(\d+)\.attn\.to_qkv", r"single_blocks.\1.linear1"),
    (r"^single_transformer_blocks\.(\d+)\.proj_out", r"single_blocks.\1.linear2"),
    (r"^single_transformer_blocks", "single_blocks"), (r"^transformer_blocks", "double_blocks"),
    (r"attn\.norm_q\.weight", "img_attn.norm.query_norm.scale"), (r"attn\.norm_k\.weight", "img_attn.norm.key_norm.scale"),
    (r"attn\.norm_added_q\.weight", "txt_attn.norm.query_norm.scale"),
    (r"attn\.norm_added_k\.weight", "txt_attn.norm.key_norm.scale"),
    (r"attn\.to_out\.0", "img_attn.proj"), (r"attn\.to_add_out", "txt_attn.proj"), (r"attn\.to_context_qkv", "txt_attn.qkv"),
    (r"attn\.to_qkv", "img_attn.qkv"), (r"norm1\.linear", "img_mod.lin"), (r"norm1_context\.linear", "txt_mod.lin"),
    (r"ff\.net\.0\.proj", "img_mlp.0"), (r"ff\.net\.2", "img_mlp.2"),
    (r"ff_context\.net\.0\.proj", "txt_mlp.0"), (r"ff_context\.net\.2", "txt_mlp.2"),
)  # fmt: skip
OPENCLIP = (
    (r"^text_model\.encoder\.layers", "transformer.resblocks"),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.embeddings\.", ""), (r"^text_model\.final_layer_norm", "ln_final"), (r"layer_norm([12])", r"ln_\1"),
    (r"\.fc1\.", ".c_fc."),
    (r"\.fc2\.", ".c_proj."),
    (r"self_attn\.out_proj", "attn.out_proj"),
    (r"self_attn\.to_qkv\.", "attn.in_proj_"),
    (r"^text_projection\.weight", "text_projection"),
)  # fmt: skip


def _renamed(names: tuple[tuple[str, str], ...], tensors: Tensors) -> Tensors:
    def new(name: str) -> str:
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        return name

    return {new(name): tensor for name, tensor in tensors.items()}


def _joined(tensors: Tensors, rows: tuple[str, ...], into: str) -> Tensors:
    """Join layers beside each other, such as q, k and v, into one of all their rows."""
    found = dict(tensors)
    for name in tensors:
        if (at := re.search(rf"\b{re.escape(rows[0])}\.(weight|bias)$", name)) is not None:
            stem = name[: at.start()]
            parts = [f"{stem}{row}.{at[1]}" for row in rows]
            if all(part in found for part in parts):
                found[f"{stem}{into}.{at[1]}"] = torch.cat([found.pop(part) for part in parts])
    return found


def _halves_swapped(tensors: Tensors, pattern: str) -> Tensors:
    return {n: torch.cat(w.chunk(2)[::-1]) if re.search(pattern, n) else w for n, w in tensors.items()}


def transformer(kind: str, tensors: Tensors) -> Tensors:
    """SD3's or FLUX's transformer."""
    single = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    found = _joined(tensors, single, "attn.to_qkv")
    for attention in ("attn", "attn2"):
        found = _joined(found, tuple(f"{attention}.to_{row}" for row in "qkv"), f"{attention}.to_qkv")
    found = _joined(found, tuple(f"attn.add_{row}_proj" for row in "qkv"), "attn.to_context_qkv")
    last = max(int(name.split(".")[1]) for name in tensors if name.startswith("transformer_blocks."))
    swapped = r"^norm_out\.linear" + (rf"|^transformer_blocks\.{last}\.norm1_context\.linear" if kind == "sd3" else "")
    return _renamed(SD3 if kind == "sd3" else FLUX, _halves_swapped(found, swapped))


def unet(tensors: Tensors, layers: int) -> Tensors:
    def name_of(name: str) -> str:
        name = re.sub(r"^add_embedding\.linear_([12])", lambda m: f"label_emb.0.{2 * int(m[1]) - 2}", name)
        name = unet_names(name, layers)
        return re.sub(r"^(output_blocks\.\d+)\.1\.conv", r"\1.2.conv", name)  # SDXL's blocks up have attention before

    return {name_of(name): tensor for name, tensor in tensors.items()}


def vae(tensors: Tensors, blocks: int) -> Tensors:
    flat = r"to_(q|k|v|out\.0)\.weight"
    return {vae_names(n, blocks): w[..., None, None] if re.search(flat, n) else w for n, w in tensors.items()}


def open_clip(tensors: Tensors) -> Tensors:
    found = _joined(tensors, tuple(f"self_attn.{row}_proj" for row in "qkv"), "self_attn.to_qkv")
    return {n: w.T if n == "text_projection" else w for n, w in _renamed(OPENCLIP, found).items()}


def wrapped(tensors: Tensors) -> Tensors:
    """CLIP under the names of files, all of which begin with "text_model." but the projection."""
    return {n if n.startswith(("text_model.", "text_projection.")) else f"text_model.{n}": w for n, w in tensors.items()}


def parts(kind: str, pipeline: Any) -> Iterator[tuple[str, str, Callable[[Tensors], Tensors]]]:
    """For each part of a pipeline its prefix in an all-in-one file, and how its tensors are named there."""
    blocks = len(pipeline.vae.config.block_out_channels)
    if kind == "sdxl":
        yield "unet", DENOISER, lambda tensors: unet(tensors, pipeline.unet.config.layers_per_block)
        yield "vae", "first_stage_model.", lambda tensors: vae(tensors, blocks)
        yield "text_encoder", "conditioner.embedders.0.transformer.", wrapped
        yield "text_encoder_2", "conditioner.embedders.1.model.", open_clip
        return
    yield "transformer", DENOISER, lambda tensors: transformer(kind, tensors)
    yield "vae", "first_stage_model." if kind == "sd3" else "vae.", lambda tensors: vae(tensors, blocks)
    yield "text_encoder", CLIP_L, lambda tensors: {n: w for n, w in wrapped(tensors).items() if n != "text_projection.weight"}
    if kind == "sd3":
        yield "text_encoder_2", CLIP_G, wrapped
    t5 = "text_encoder_3" if kind == "sd3" else "text_encoder_2"
    if getattr(pipeline, t5) is not None:
        yield t5, T5, lambda tensors: {n: w for n, w in tensors.items() if n != "encoder.embed_tokens.weight"}  # the same as `shared`


def original(kind: str, pipeline: Any, *only: str) -> Tensors:
    """Return a pipeline's tensors under the names of the original code; `only`: of these parts."""
    found: Tensors = {}
    for part, prefix, names in parts(kind, pipeline):
        if not only or part in only:
            found |= {prefix + n: w.contiguous().clone() for n, w in names(getattr(pipeline, part).state_dict()).items()}
    return found
