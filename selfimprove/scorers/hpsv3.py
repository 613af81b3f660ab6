"""HPSv3: a Qwen2-VL that reads the image, the criteria and the prompt, and a head on the state of its last token, `<|Reward|>`.

Layout, preprocessing and text follow the repository MizzenAI/HPSv3 (model/qwen2vl_trainer.py, train.py, inference.py,
dataset/data_collator_qwen.py, dataset/utils.py, config/HPSv3_7B.yaml). Two of its habits are kept, because the weights were trained with
them: the positions of all tokens, the image's too, are 0, 1, 2, ... (not Qwen2-VL's positions in three dimensions), and the rotary
frequencies are rounded to bfloat16.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from selfimprove.scorers.checkpoints import fill, read_state
from selfimprove.scorers.images import Images, ScorerError, eight_bit
from selfimprove.scorers.interface import BatchScorer

QWEN2_VL_7B = Qwen2VLConfig(  # as in Qwen/Qwen2-VL-7B-Instruct, with as many tokens as its tokenizer and one more, <|Reward|>
    text_config={
        "vocab_size": 151658, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    vision_config={"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4, "num_heads": 16, "patch_size": 14},
    image_token_id=151655,
)  # fmt: skip
LARGE = 10**9  # weights; from here on the backbone is kept in bfloat16 on a CPU too
AREA = 256 * 28 * 28  # pixels: about what every image is resized to, in multiples of 28
LONGEST = 200  # times the shorter side; Qwen2-VL takes no longer images
IMAGE, REWARD = "<|image_pad|>", "<|Reward|>"
# Qwen2-VL's form of a dialogue around the authors' words, which the network knows in this form alone. Theirs goes on after <|Reward|>;
# attention is causal, so what follows cannot change the score.
DIALOGUE = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>{image}<|vision_end|>{words} <|Reward|>"
)
WORDS_FILE = "instruction.txt"
WORDS = "86ce0bad4a2cad799a2fe57430e92be828e773785241d487c2f5455ee9c9f2a6"  # SHA-256 of the file
RENAMED = {"visual": "backbone.visual", "model": "backbone.language_model", "rm_head": "head"}


class Hpsv3Model(nn.Module):
    """Qwen2-VL without its language head, and a head of two values: mean and spread of the preference. The mean is the score."""

    def __init__(self, config: Qwen2VLConfig = QWEN2_VL_7B) -> None:
        super().__init__()
        self.backbone = Qwen2VLModel(config)
        width = config.text_config.hidden_size
        self.head = nn.Sequential(nn.Linear(width, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(
        self, tokens: Int[Tensor, "b l"], mask: Int[Tensor, "b l"], patches: Float[Tensor, "p d"], grid: Int[Tensor, "b 3"]
    ) -> Float[Tensor, " b"]:
        """Return the mean at each row's last token, in float32. Rows are padded on the right."""
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand(3, *tokens.shape)
        inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions, "pixel_values": patches, "image_grid_thw": grid}
        states = self.backbone(**inputs, use_cache=False).last_hidden_state
        return self.head(states[torch.arange(len(tokens)), mask.sum(1) - 1].float())[:, 0]


def convert_hpsv3(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the published state dict under the names of `Hpsv3Model`, without the language head, which the score ignores.

    An unknown key keeps its name, and `fill` refuses it.
    """
    return {re.sub(r"^[a-z_]+", lambda m: RENAMED.get(m[0], m[0]), k): value for k, value in state.items() if k != "lm_head.weight"}


def read_hpsv3(weights: Path, device: torch.device, config: Qwen2VLConfig = QWEN2_VL_7B) -> Hpsv3Model:
    """Return the network of the published checkpoint on a device: backbone in bfloat16 (small ones on the CPU in float32), head in float32.

    Raises:
        ScorerError: see `read_state` and `fill`.
    """
    network = fill(lambda: Hpsv3Model(config), convert_hpsv3(read_state(weights)), weights, None)
    small = device.type == "cpu" and sum(w.numel() for w in network.parameters()) < LARGE
    for frequencies in network.backbone.buffers():
        frequencies.copy_(frequencies.bfloat16())
    network.backbone.to(torch.float32 if small else torch.bfloat16)
    network.head.float()
    return network.to(device)


def read_words(folder: Path, wanted: str = WORDS) -> str:
    """Return the authors' words between image and `<|Reward|>`, "{prompt}" in place of the prompt, from `instruction.txt` in a folder.

    The words are the authors' own, and no part of this package. They stand in MizzenAI/HPSv3, dataset/data_collator_qwen.py.

    Raises:
        ScorerError: there is no such file, or it holds other words than those with which the network was trained.
    """
    path = folder / WORDS_FILE
    remedy = "write the two texts of MizzenAI/HPSv3's dataset/data_collator_qwen.py there, up to <|Reward|>, with {prompt} for the prompt"
    if not path.exists():
        raise ScorerError(f"hpsv3: {str(path)!r}, the words that the network reads before the prompt, is missing; {remedy}")
    text = path.read_text(encoding="utf-8").removesuffix("\n")
    if hashlib.sha256(text.encode()).hexdigest() != wanted:
        raise ScorerError(f"hpsv3: {str(path)!r} holds other words than those of the training (their SHA-256 differ); {remedy}")
    return text


class Hpsv3Scorer(BatchScorer):
    """HPSv3's mean. A long image, or a prompt with one of the tokenizer's control tokens, is refused (`ScorerError`).

    On the authors' benchmark, averages over models lie between -0.2 (Stable Diffusion 2) and 10.6 (Kolors).
    """

    def __init__(
        self, name: str, version: str, read: Callable[[], Hpsv3Model], words: str, tokenizer: Path, device: torch.device,
        batch_size: int = 16, config: Qwen2VLConfig = QWEN2_VL_7B,
    ) -> None:  # fmt: skip
        super().__init__(name, version, device, batch_size)
        self.read, self.words, self.folder, self.config = read, words, tokenizer, config
        self.processor = Qwen2VLImageProcessorPil(size={"shortest_edge": AREA, "longest_edge": AREA})  # bicubic, CLIP's mean and std

    @cached_property
    def model(self) -> Hpsv3Model:
        """Return the network, frozen, on the scorer's device."""
        return self.read()

    @cached_property
    def tokenizer(self) -> Any:
        """Return Qwen2-VL's tokenizer with `<|Reward|>` as its last token.

        Raises:
            ScorerError: its tokens are not numbered as the network's.
        """
        tokenizer = Qwen2Tokenizer.from_pretrained(self.folder, padding_side="right")
        tokenizer.add_tokens([REWARD], special_tokens=True)
        found = tokenizer.convert_tokens_to_ids([IMAGE, REWARD])
        if found != [self.config.image_token_id, self.config.text_config.vocab_size - 1]:
            raise ScorerError(f"{self.name}: in {str(self.folder)!r} {IMAGE} and {REWARD} are {found}; Qwen2-VL's own tokenizer is needed")
        return tokenizer

    def score(self, images: Images, prompts: list[str]) -> Float[Tensor, " b"]:
        pictures, control = eight_bit(images), sorted(self.tokenizer.get_added_vocab())
        for picture, prompt in zip(pictures, prompts, strict=True):
            if max(picture.size) > LONGEST * min(picture.size):
                raise ScorerError(f"{self.name}: an image has {picture.size} pixels; a side may be at most {LONGEST} times the other")
            if held := [token for token in control if token in prompt]:
                raise ScorerError(f"{self.name}: the prompt {prompt!r} holds {held[0]}, which steers the network; leave it out")
        read = self.processor(pictures, return_tensors="pt").to(self.device)
        counts = (read.image_grid_thw.prod(1) // self.processor.merge_size**2).tolist()
        spoken = [self.words.replace("{prompt}", prompt) for prompt in prompts]
        texts = [DIALOGUE.format(image=IMAGE * count, words=words) for count, words in zip(counts, spoken, strict=True)]
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt").to(self.device)
        return self.model(tokens.input_ids, tokens.attention_mask, read.pixel_values, read.image_grid_thw)
