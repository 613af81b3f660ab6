"""State what a family of models must give, so that everything else is the same for all of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from selfimprove.models.network import Call, call_with_text

Size = tuple[int, int]  # height and width
CLIP = ("CLIPTokenizer", "CLIPTokenizerFast")
T5 = ("T5Tokenizer", "T5TokenizerFast")


class Encoder(NamedTuple):
    """A text encoder of a pipeline: its part and its tokenizer's, their possible classes, and how many tokens it reads.

    `limit`: the tokens that the plain pipeline gives it; 0 for as many as its tokenizer says.
    """

    part: str = "text_encoder"
    tokenizer: str = "tokenizer"
    kind: str = "CLIPTextModel"
    tokenizers: tuple[str, ...] = CLIP
    limit: int = 0


def pooled(pipeline: Any, prompts: list[str], embed: Callable[..., dict[str, Tensor]]) -> Tensor:
    """Return one vector per prompt, (B, width), for families whose embeddings have one."""
    return embed(pipeline, prompts)["pooled"]


@dataclass(frozen=True)
class Family:
    """The duties of a family. To add one, write its module beside `sd`, and add it to `families.FAMILIES`.

    Attributes:
        pipeline: name of the diffusers pipeline whose folders belong to the family.
        part: the part of the pipeline that is trained, "unet" or "transformer".
        network: name of that part's class in diffusers.
        embed: maps (pipeline, prompts) to named tensors on the pipeline's device, one row per prompt. The text "" stands for no
            text, as guidance and caption dropout need it.
        call: maps (network, x_t, t, tensors) to the network's output.
        pooled: maps (pipeline, prompts, `embed`) to one vector per prompt, (B, width), by which prompts are clustered.
        encoders: the text encoders.
        flow: whether the model is a flow; if not, its noise schedule is made of betas.
        optional: parts that a folder may lack.
        adapted: endings of the names of layers that adapters change.
        patch: side, in latents, of the square that is one token of the network.
        folded: latents that the family's own pipeline folds into one channel of the network's input (FLUX: 2 x 2 = 4).
        even_sigmas: whether the family's own pipeline asks its scheduler for the evenly spaced sigmas 1, 1 - 1/n, ..., 1/n.
        latent_statistics: whether the family's own pipeline obeys a VAE's mean and deviation of each latent channel, where it names them.
        guidance_input: the name of the network's setting that says whether guidance is one of its inputs, "" if none says so.
        default_size: side of an image, in latents, where the network's configuration names none; 0 if it must.
    """

    pipeline: str
    part: str
    network: str
    embed: Callable[[Any, list[str]], dict[str, Tensor]]
    call: Call = field(default_factory=lambda: call_with_text)  # a function as a class attribute would be taken for a method
    pooled: Callable[..., Tensor] = field(default_factory=lambda: pooled)
    encoders: tuple[Encoder, ...] = (Encoder(),)
    flow: bool = False
    optional: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    patch: int = 1
    folded: int = 1
    even_sigmas: bool = False
    latent_statistics: bool = False
    guidance_input: str = ""
    default_size: int = 128

    @property
    def called(self) -> str:
        """Return what the trained part is called in messages."""
        return "UNet" if self.part == "unet" else self.part

    def given(self, index: Mapping[str, Any]) -> list[Encoder]:
        """Return the text encoders that a pipeline has, by its `model_index.json`; optional ones may be null there."""
        return [e for e in self.encoders if e.part not in self.optional or (index.get(e.part) or [None])[0]]

    def absent(self, index: Mapping[str, Any]) -> dict[str, None]:
        """Return what plain diffusers must be told when it loads a pipeline: None for each text encoder and tokenizer that is lacking."""
        there = self.given(index)
        return {part: None for e in self.encoders if e not in there for part in (e.part, e.tokenizer)}

    def multiple(self, config: Any) -> int:
        """Return what divides the side of every latent: the network halves it again and again, or cuts it into squares."""
        return 2 ** (len(config.get("block_out_channels", "1")) - 1) * self.patch

    def channels(self, config: Any) -> int:
        """Return the channels of one latent."""
        return config["in_channels"] // self.folded

    def latent_size(self, config: Any) -> Size:
        """Return height and width of a latent at the network's own image size."""
        size = config.get("sample_size") or self.default_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def tokens(self, size: Size) -> int:
        """Return the number of image tokens of a latent of a size."""
        return (size[0] // self.patch) * (size[1] // self.patch)


def times_for(t: Any, noisy: Tensor) -> Tensor:
    """Return one time per row: transformers take no single number."""
    return torch.as_tensor(t, device=noisy.device).expand(len(noisy))


def without_text(prompts: Sequence[str], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors with the rows of empty prompts set to zero."""
    kept = torch.tensor([bool(prompt) for prompt in prompts], device=tensors[0].device)
    return tuple(tensor * kept.view(-1, *[1] * (tensor.ndim - 1)) for tensor in tensors)
