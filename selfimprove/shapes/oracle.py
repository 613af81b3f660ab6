"""The oracle reads from an image which scene it shows and how well it is drawn. It is never used to train, select or tune."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from selfimprove.errors import SelfImproveError
from selfimprove.shapes import ASSETS
from selfimprove.shapes.render import ATTRIBUTES, FACTORS

_HIDDEN = ContextVar("hidden", default=False)


class TruthError(SelfImproveError):
    """Raised if code that selects or tunes asks for the truth."""


@contextmanager
def truth_hidden() -> Iterator[None]:
    """Refuse the truth to all code inside, however that code is wrapped. Everything that selects samples runs in this context."""
    before = _HIDDEN.set(True)
    try:
        yield
    finally:
        _HIDDEN.reset(before)


def refuse_if_hidden(message: str) -> None:
    """Raise TruthError inside `truth_hidden`."""
    if _HIDDEN.get():
        raise TruthError(message)


COUNTS = [len(values) for values in ATTRIBUTES.values()]


class Reading(NamedTuple):
    """What the oracle sees: `attributes` as indices into ATTRIBUTES, `is_scene` (one clean shape, not debris), and `factors` in [0, 1]."""

    attributes: Int[Tensor, "b 4"]
    is_scene: Bool[Tensor, " b"]
    factors: Float[Tensor, "b 5"]

    @property
    def quality(self) -> Float[Tensor, " b"]:
        """Return the mean of the factors, or 0 where the image is no scene."""
        return self.factors.mean(1) * self.is_scene

    def all_right(self, scenes: Int[Tensor, "b 4"], stated: Bool[Tensor, "b 4"]) -> Bool[Tensor, " b"]:
        """Return whether each image is a scene and shows every attribute that its caption states."""
        return self.is_scene & ((self.attributes == scenes) | ~stated).all(1)


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(8, outputs), nn.SiLU())


class Oracle(nn.Module):
    """A small convolutional network on 64-pixel images, with attribute logits, a scene logit and five factors as outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _block(3, 24, 2), _block(24, 48, 2), _block(48, 64, 1), _block(64, 96, 2), _block(96, 96, 1),
            _block(96, 128, 2), nn.Flatten(), nn.Linear(128 * 16, 256), nn.SiLU(),
        )  # fmt: skip
        self.heads = nn.Linear(256, sum(COUNTS) + 1 + len(FACTORS))

    def forward(self, images: Float[Tensor, "b 3 64 64"]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return (logits per attribute, scene logit (B,), factors (B, 5)) of images in [0, 1]."""
        logits, scene, factors = self.heads(self.features(2 * images - 1)).split([sum(COUNTS), 1, len(FACTORS)], 1)
        return list(logits.split(COUNTS, 1)), scene[:, 0], factors

    @torch.inference_mode()
    def read(self, images: Float[Tensor, "b 3 64 64"], batch_size: int = 256) -> Reading:
        """Read images with values in [0, 1].

        Raises:
            TruthError: called inside `truth_hidden`.
        """
        refuse_if_hidden("the oracle reads the truth, which must not select; choose among the learned scorers")
        parts = [self(x.clamp(0, 1)) for x in images.split(batch_size)]
        attributes = torch.cat([torch.stack([a.argmax(1) for a in logits], 1) for logits, _, _ in parts])
        scene = torch.cat([s for _, s, _ in parts]) > 0
        return Reading(attributes, scene, torch.cat([f for _, _, f in parts]).clamp(0, 1))


def load_oracle(folder: Path = ASSETS) -> Oracle:
    """Return the shipped oracle, in float32."""
    oracle = Oracle()
    oracle.load_state_dict(load_file(folder / "oracle.safetensors"))
    return oracle.float().eval()
