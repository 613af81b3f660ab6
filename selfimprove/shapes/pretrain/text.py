"""The text encoder: a CLIP text model that learns, from captions alone, which attributes they state.

It is trained before the UNet and then kept, so the states of all captions are computed once and a step of the UNet is the UNet
alone; and what a caption says is on its last token from the first step, not after hours of noise prediction.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from selfimprove.shapes.captions import KIND_WEIGHTS
from selfimprove.shapes.image_sets import base_captions
from selfimprove.shapes.pretrain.fit import Workshop, fit
from selfimprove.shapes.render import ATTRIBUTES

STEPS, BATCH, LR = 1200, 128, 1.5e-3
CAPTIONS = 40_000
WIDTH, LAYERS = 96, 3


def text_config(tokenizer: CLIPTokenizer, layers: int) -> CLIPTextConfig:
    """A small CLIP text model for the shapes tokenizer."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token numbers, (b, 32)."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def train_text_encoder(workshop: Workshop, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Train on captions of held-in scenes: at the end of the text, each attribute's stated value, or that it is free."""
    torch.manual_seed(workshop.seed)
    counts = [len(values) + 1 for values in ATTRIBUTES.values()]
    parts = nn.ModuleDict({"text": CLIPTextModel(text_config(tokenizer, LAYERS)), "head": nn.Linear(WIDTH, sum(counts))})
    parts = parts.to(workshop.device)
    captions = base_captions(workshop.steps(CAPTIONS), workshop.seed, "text", KIND_WEIGHTS)
    numbers = tokens(tokenizer, [c.text for c in captions])
    ends = (numbers == tokenizer.eos_token_id).int().argmax(1)
    said = torch.tensor([[s if k else n - 1 for s, k, n in zip(c.scene, c.stated, counts, strict=True)] for c in captions])

    def loss(draws: torch.Generator) -> Tensor:
        rows = torch.randint(len(captions), (BATCH,), generator=draws)
        states = parts["text"](numbers[rows].to(workshop.device))[0]
        logits = parts["head"](states[torch.arange(BATCH), ends[rows]]).float().split(counts, 1)
        return torch.stack([F.cross_entropy(x, said[rows, i].to(x.device)) for i, x in enumerate(logits)]).sum()

    fit(workshop, "text", parts, loss, workshop.steps(STEPS), LR)
    return parts["text"]


@torch.inference_mode()
def text_states(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, texts: list[str], batch_size: int = 256) -> Tensor:
    """What the UNet is given, (b, 32, width), in half precision."""
    numbers = tokens(tokenizer, texts).to(encoder.device)
    return torch.cat([encoder(x)[0].half() for x in numbers.split(batch_size)])
