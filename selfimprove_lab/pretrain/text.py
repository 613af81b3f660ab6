"""Train text encoders: CLIP text models that learn, from captions alone, which attributes the captions state.

A text encoder is trained before the denoiser and then kept. So the states of all captions are computed once, and a step of the denoiser
costs the denoiser alone. What a caption states is then in its last token from the first step, and not after hours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from selfimprove.shapes.captions import KIND_WEIGHTS
from selfimprove.shapes.image_sets import base_captions
from selfimprove.shapes.render import ATTRIBUTES
from selfimprove_lab.pretrain.fit import Workshop, fit

STEPS, BATCH, LR = 1200, 128, 1.5e-3
CAPTIONS = 40_000
WIDTH, LAYERS = 96, 3
PROJECTED = 64  # width of the pooled output of an encoder with a projection


def text_config(tokenizer: CLIPTokenizer, layers: int) -> CLIPTextConfig:
    """Return the configuration of a small CLIP text model for the shapes tokenizer."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=PROJECTED,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Return the token numbers, padded to the tokenizer's length, (B, L)."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def train_text_encoder(
    workshop: Workshop, tokenizer: CLIPTokenizer, name: str = "text", layers: int = LAYERS, projected: bool = False
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """Train on captions of held-in scenes to say, for each attribute, which value is stated, or that none is.

    The statement is read from the last token's state or, with `projected`, from the pooled output. `name` is of the stage: encoders of
    different names start from different weights and see different captions.
    """
    torch.manual_seed(workshop.seed + sum(name.encode()) - sum(b"text"))
    counts = [len(values) + 1 for values in ATTRIBUTES.values()]
    config = text_config(tokenizer, layers)
    encoder = CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)
    parts = nn.ModuleDict({"text": encoder, "head": nn.Linear(PROJECTED if projected else WIDTH, sum(counts))}).to(workshop.device)
    captions = base_captions(workshop.steps(CAPTIONS), workshop.seed, name, KIND_WEIGHTS)
    numbers = tokens(tokenizer, [c.text for c in captions])
    ends = (numbers == tokenizer.eos_token_id).int().argmax(1)
    said = torch.tensor([[s if k else n - 1 for s, k, n in zip(c.scene, c.stated, counts, strict=True)] for c in captions])

    def loss(draws: torch.Generator) -> Tensor:
        rows = torch.randint(len(captions), (BATCH,), generator=draws)
        out = parts["text"](numbers[rows].to(workshop.device))
        last = out.text_embeds if projected else out.last_hidden_state[torch.arange(BATCH), ends[rows]]
        logits = parts["head"](last).float().split(counts, 1)
        return torch.stack([F.cross_entropy(x, said[rows, i].to(x.device)) for i, x in enumerate(logits)]).sum()

    fit(workshop, name, parts, loss, workshop.steps(STEPS), LR)
    return parts["text"]


@torch.inference_mode()
def text_states(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, texts: list[str], batch_size: int = 256) -> Tensor:
    """Return what a UNet is given, (B, L, WIDTH), in half precision."""
    numbers = tokens(tokenizer, texts).to(encoder.device)
    return torch.cat([encoder(x)[0].half() for x in numbers.split(batch_size)])
