"""Converted architectures against plain-torch computations written from the originals' descriptions, on small random instances."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import BlipTextConfig, BlipVisionConfig, CLIPConfig

from selfimprove.scorers import ClipScorer, ScorerError
from selfimprove.scorers.blip import LENGTH, MEAN, STD, ImageRewardModel, ImageRewardScorer, convert_image_reward, read_image_reward
from selfimprove.scorers.checkpoints import fill, read_state
from selfimprove.scorers.clip import ClipTowers, RewardHead, published_head
from selfimprove.scorers.images import crop_square, fit_square, squares
from selfimprove.scorers.openclip import clean_text, convert_open_clip, read_hps
from selfimprove.shapes import ASSETS

CPU = torch.device("cpu")
TOKENIZER = ASSETS / "scorers" / "clip"  # a CLIPTokenizer with 1,682 tokens, 32 positions used here
VOCABULARY, POSITIONS, EOS = 1682, 20, 1681
SIZE, PATCH, WIDE, NARROW, HEADS, LAYERS, JOINT = 24, 8, 32, 16, 4, 2, 12  # image tower, text tower, embeddings
PROMPTS = ["a small red star", "“red”  &amp; BLUE", "", "星 звезда", "a large blue ring on a sand background " * 3]
CLIP = CLIPConfig(
    projection_dim=JOINT,
    vision_config={
        "hidden_size": WIDE, "intermediate_size": 4 * WIDE, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "patch_size": PATCH, "image_size": SIZE, "hidden_act": "gelu",
    },
    text_config={
        "hidden_size": NARROW, "intermediate_size": 4 * NARROW, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS, "hidden_act": "gelu", "eos_token_id": EOS, "bos_token_id": EOS - 1,
    },
)  # fmt: skip
VISION = BlipVisionConfig(
    hidden_size=WIDE, intermediate_size=4 * WIDE, num_hidden_layers=LAYERS, num_attention_heads=HEADS, image_size=SIZE, patch_size=PATCH,
    hidden_act="gelu", layer_norm_eps=1e-6,
)  # fmt: skip
TEXT = BlipTextConfig(
    vocab_size=40, hidden_size=NARROW, encoder_hidden_size=WIDE, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
    max_position_embeddings=64, hidden_act="gelu", layer_norm_eps=1e-12,
)  # fmt: skip


def random_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Matrices that keep a signal's size, norms about 1, biases about 0; nothing is exactly 0 or 1."""
    draws, state = torch.Generator().manual_seed(0), {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=draws) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.3)
        is_scale = name.endswith("weight") and ("norm" in name.lower() or "ln_" in name)
        state[name] = values + is_scale
    return state


def linear(names: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{names}.weight": (outputs, inputs), f"{names}.bias": (outputs,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention of (B, L, D) projections."""
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
    weights = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return ((weights if mask is None else weights + mask).softmax(-1) @ v).transpose(1, 2).flatten(2)


class Reference:
    """Layers by name from a flat state dict."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps)


# --- open_clip's ViT CLIP, whose checkpoints HPSv2 publishes


def open_clip_state() -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (POSITIONS, NARROW), "text_projection": (NARROW, JOINT), "logit_scale": (),
        "visual.class_embedding": (WIDE,), "visual.positional_embedding": ((SIZE // PATCH) ** 2 + 1, WIDE), "visual.proj": (WIDE, JOINT),
        "visual.conv1.weight": (WIDE, 3, PATCH, PATCH), "token_embedding.weight": (VOCABULARY, NARROW),
        **norm("visual.ln_pre", WIDE), **norm("visual.ln_post", WIDE), **norm("ln_final", NARROW),
    }  # fmt: skip
    for prefix, width in (("visual.transformer", WIDE), ("transformer", NARROW)):
        for layer in range(LAYERS):
            name = f"{prefix}.resblocks.{layer}"
            shapes |= {f"{name}.attn.in_proj_weight": (3 * width, width), f"{name}.attn.in_proj_bias": (3 * width,)}
            shapes |= linear(f"{name}.attn.out_proj", width, width) | norm(f"{name}.ln_1", width) | norm(f"{name}.ln_2", width)
            shapes |= linear(f"{name}.mlp.c_fc", 4 * width, width) | linear(f"{name}.mlp.c_proj", width, 4 * width)
    return random_state({k: s for k, s in shapes.items() if s}) | {"logit_scale": torch.tensor(2.0)}


class OpenClip(Reference):
    def blocks(self, x: Tensor, prefix: str, mask: Tensor | None) -> Tensor:
        for layer in range(LAYERS):
            name = f"{prefix}.resblocks.{layer}"
            projections = F.linear(
                self.norm(x, f"{name}.ln_1", 1e-5), self.state[f"{name}.attn.in_proj_weight"], self.state[f"{name}.attn.in_proj_bias"]
            )
            x = x + self.linear(attend(*projections.chunk(3, -1), mask), f"{name}.attn.out_proj")
            x = x + self.linear(F.gelu(self.linear(self.norm(x, f"{name}.ln_2", 1e-5), f"{name}.mlp.c_fc")), f"{name}.mlp.c_proj")
        return x

    def image(self, pixels: Tensor) -> Tensor:
        patches = F.conv2d(pixels, self.state["visual.conv1.weight"], stride=PATCH).flatten(2).transpose(1, 2)
        first = self.state["visual.class_embedding"].expand(len(pixels), 1, -1)
        x = torch.cat([first, patches], 1) + self.state["visual.positional_embedding"]
        x = self.blocks(self.norm(x, "visual.ln_pre", 1e-5), "visual.transformer", None)
        return F.normalize(self.norm(x[:, 0], "visual.ln_post", 1e-5) @ self.state["visual.proj"], dim=1)

    def text(self, ids: Tensor) -> Tensor:
        """Read at the highest token id of each row, the end of the text; later rows are padding, which causal attention hides."""
        x = self.state["token_embedding.weight"][ids] + self.state["positional_embedding"][: ids.shape[1]]
        x = self.blocks(x, "transformer", torch.full((ids.shape[1],) * 2, float("-inf")).triu(1))
        x = self.norm(x, "ln_final", 1e-5)[torch.arange(len(ids)), ids.argmax(1)]
        return F.normalize(x @ self.state["text_projection"], dim=1)


def pictures() -> list[Image.Image]:
    draws = torch.Generator().manual_seed(1)
    sizes = [(24, 24), (37, 20), (19, 50), (9, 9), (24, 11)]
    return [Image.fromarray((torch.rand(h, w, 3, generator=draws) * 255).byte().numpy()) for w, h in sizes]


def test_hpsv2_is_the_originals_computation(tmp_path: Path) -> None:
    state = open_clip_state()
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "hps.pt")
    towers = ClipTowers(partial(read_hps, tmp_path / "hps.pt", CLIP), TOKENIZER, CPU, clean_text)
    pixels = partial(squares, fit=fit_square, size=SIZE)
    scores = ClipScorer("hpsv2", "test", towers, pixels, scaled=False, batch_size=2)(pictures(), PROMPTS)
    reference, ids = OpenClip(state), torch.zeros(len(PROMPTS), POSITIONS, dtype=torch.long)  # padded with zeros, as open_clip does
    for row, prompt in enumerate(PROMPTS):
        tokens = towers.tokenizer(clean_text(prompt), truncation=True, max_length=POSITIONS).input_ids
        ids[row, : len(tokens)] = torch.tensor(tokens)
    expected = (reference.image(pixels(pictures())) * reference.text(ids)).sum(1)
    assert expected.std() > 0.05
    assert (scores - expected).abs().max() <= 1e-5
    assert scores.abs().max() <= 1


def test_hpsv2_mends_text_before_the_tokenizer() -> None:
    assert clean_text(" “café”&amp;amp; it’s\n") == '"café"& it\'s'


# --- ImageReward: a ViT, a BERT that attends to it, linear layers


def image_reward_state() -> dict[str, Tensor]:
    vit, bert = "blip.visual_encoder", "blip.text_encoder"
    shapes: dict[str, tuple[int, ...]] = {
        f"{vit}.cls_token": (1, 1, WIDE), f"{vit}.pos_embed": (1, (SIZE // PATCH) ** 2 + 1, WIDE),
        f"{vit}.patch_embed.proj.weight": (WIDE, 3, PATCH, PATCH), f"{vit}.patch_embed.proj.bias": (WIDE,), **norm(f"{vit}.norm", WIDE),
        f"{bert}.embeddings.word_embeddings.weight": (40, NARROW), f"{bert}.embeddings.position_embeddings.weight": (64, NARROW),
        **norm(f"{bert}.embeddings.LayerNorm", NARROW), **linear("blip.vision_proj", 8, WIDE), **linear("blip.text_proj", 8, NARROW),
    }  # fmt: skip
    for layer in range(LAYERS):
        name = f"{vit}.blocks.{layer}"
        shapes |= norm(f"{name}.norm1", WIDE) | norm(f"{name}.norm2", WIDE) | linear(f"{name}.attn.qkv", 3 * WIDE, WIDE)
        shapes |= (
            linear(f"{name}.attn.proj", WIDE, WIDE) | linear(f"{name}.mlp.fc1", 4 * WIDE, WIDE) | linear(f"{name}.mlp.fc2", WIDE, 4 * WIDE)
        )
        name = f"{bert}.encoder.layer.{layer}"
        for kind, inputs in (("attention", NARROW), ("crossattention", WIDE)):
            shapes |= linear(f"{name}.{kind}.self.query", NARROW, NARROW) | linear(f"{name}.{kind}.self.key", NARROW, inputs)
            shapes |= linear(f"{name}.{kind}.self.value", NARROW, inputs) | linear(f"{name}.{kind}.output.dense", NARROW, NARROW)
            shapes |= norm(f"{name}.{kind}.output.LayerNorm", NARROW)
        shapes |= linear(f"{name}.intermediate.dense", 48, NARROW) | linear(f"{name}.output.dense", NARROW, 48)
        shapes |= norm(f"{name}.output.LayerNorm", NARROW)
    for index, (inputs, outputs) in {0: (NARROW, 1024), 2: (1024, 128), 4: (128, 64), 6: (64, 16), 7: (16, 1)}.items():
        shapes |= linear(f"mlp.layers.{index}", outputs, inputs)
    return random_state(shapes) | {f"{bert}.embeddings.position_ids": torch.arange(64)[None]}


class ImageReward(Reference):
    def patches(self, pixels: Tensor) -> Tensor:
        vit = "blip.visual_encoder"
        embedding = f"{vit}.patch_embed.proj"
        x = F.conv2d(pixels, self.state[f"{embedding}.weight"], self.state[f"{embedding}.bias"], stride=PATCH).flatten(2).transpose(1, 2)
        x = torch.cat([self.state[f"{vit}.cls_token"].expand(len(x), -1, -1), x], 1) + self.state[f"{vit}.pos_embed"]
        for layer in range(LAYERS):
            name = f"{vit}.blocks.{layer}"
            projections = self.linear(self.norm(x, f"{name}.norm1", 1e-6), f"{name}.attn.qkv").chunk(3, -1)
            x = x + self.linear(attend(*projections), f"{name}.attn.proj")
            x = x + self.linear(F.gelu(self.linear(self.norm(x, f"{name}.norm2", 1e-6), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
        return self.norm(x, f"{vit}.norm", 1e-6)

    def score(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        bert, patches = "blip.text_encoder", self.patches(pixels)
        x = self.state[f"{bert}.embeddings.word_embeddings.weight"][ids]
        x = self.norm(
            x + self.state[f"{bert}.embeddings.position_embeddings.weight"][: ids.shape[1]], f"{bert}.embeddings.LayerNorm", 1e-12
        )
        hidden = (1.0 - mask[:, None, None].float()) * -10000.0
        for layer in range(LAYERS):
            name = f"{bert}.encoder.layer.{layer}"
            for kind, source, added in (("attention", None, hidden), ("crossattention", patches, None)):
                read = x if source is None else source
                q, k, v = (self.linear(a, f"{name}.{kind}.self.{b}") for a, b in ((x, "query"), (read, "key"), (read, "value")))
                x = self.norm(
                    self.linear(attend(q, k, v, added), f"{name}.{kind}.output.dense") + x, f"{name}.{kind}.output.LayerNorm", 1e-12
                )
            inner = F.gelu(self.linear(x, f"{name}.intermediate.dense"))
            x = self.norm(self.linear(inner, f"{name}.output.dense") + x, f"{name}.output.LayerNorm", 1e-12)
        x = x[:, 0]
        for index in (0, 2, 4, 6, 7):
            x = self.linear(x, f"mlp.layers.{index}")
        return (x[:, 0] - MEAN) / STD


def build_image_reward() -> ImageRewardModel:
    return ImageRewardModel(VISION, TEXT)


def test_image_reward_is_the_originals_computation(tmp_path: Path) -> None:
    state = image_reward_state()
    torch.save(state, tmp_path / "ImageReward.pt")
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a small red star blue large ring on background ##s &"
    (tmp_path / "vocab.txt").write_text(words.replace(" ", "\n"))
    read = partial(read_image_reward, tmp_path / "ImageReward.pt", build_image_reward)
    scorer = ImageRewardScorer("imagereward", "test", read, tmp_path, CPU, batch_size=2)
    prompts = ["a small red star", "Large STARS & rings", "", "星", "a red ring on " * 20]
    scores = scorer(pictures(), prompts)
    ids, mask = torch.zeros(5, LENGTH, dtype=torch.long), torch.zeros(5, LENGTH, dtype=torch.long)
    rows = [[5, 6, 7, 8], [10, 8, 14, 15, 11, 14], [], [1], [5, 7, 11, 12] * 20]
    for row, pieces in enumerate(rows):
        tokens = [2, *pieces[: LENGTH - 2], 3]
        ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
    expected = ImageReward(state).score(squares(pictures(), crop_square, SIZE), ids, mask)
    assert expected.std() > 0.05
    assert (scores - expected).abs().max() <= 1e-5


# --- every key is accounted for


@pytest.mark.parametrize("layout", ["open_clip", "image_reward"])
def test_a_missing_or_extra_key_is_an_error(layout: str, tmp_path: Path) -> None:
    if layout == "open_clip":
        state, read = open_clip_state(), partial(read_hps, tmp_path / "x.pt", CLIP)
        lost, shape, convert = "transformer.resblocks.1.ln_2.bias", "visual.proj", convert_open_clip
    else:
        state, read = image_reward_state(), partial(read_image_reward, tmp_path / "x.pt", build_image_reward)
        lost, shape, convert = "blip.visual_encoder.blocks.1.attn.qkv.bias", "mlp.layers.0.weight", convert_image_reward

    def written(changed: dict[str, Tensor]) -> Callable:
        torch.save({"state_dict": changed} if layout == "open_clip" else changed, tmp_path / "x.pt")
        return read

    assert written(state)()
    missing = {k: v for k, v in state.items() if k != lost}
    with pytest.raises(ScorerError, match=r"of another architecture: 1 keys missing \(.*layers\.1.*bias\); is it the published file\?"):
        written(missing)()
    for extra in ("visual.attnpool.weight", "blip.visual_encoder.blocks.0.more.weight", "transformer.resblocks.0.ls_1.gamma"):
        with pytest.raises(ScorerError, match=rf"1 keys left over \({extra}\)"):
            written(state | {extra: torch.ones(1)})()
    with pytest.raises(ScorerError, match=r"has shape \(.*\), not \(.*\)"):
        written(state | {shape: state[shape].repeat(2, 1)})()
    with pytest.raises(ScorerError, match="keys missing .* keys left over"):
        written({f"other.{k}": v for k, v in state.items()})()
    used = [k for k in state if k in convert(state)]
    assert len(convert(state)) >= len(state) - 5
    assert used == [k for k in ("logit_scale",) if k in state]  # every other name was changed


def test_laions_head_has_the_published_names_and_no_activations(tmp_path: Path) -> None:
    layers = {0: (1024, 768), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}
    state = random_state({k: s for i, (outputs, inputs) in layers.items() for k, s in linear(f"layers.{i}", outputs, inputs).items()})
    torch.save(state, tmp_path / "head.pth")
    head: RewardHead = fill(published_head, read_state(tmp_path / "head.pth"), tmp_path / "head.pth")
    features = torch.randn(5, 768, generator=torch.Generator().manual_seed(2))
    expected, reference = features, Reference(state)
    for index in layers:
        expected = reference.linear(expected, f"layers.{index}")
    assert (head(features) - expected[:, 0]).abs().max() <= 1e-5
    assert not head.training
