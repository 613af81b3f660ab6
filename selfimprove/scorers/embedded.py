"""The shapes world's own scorers: small networks of the published ones' kinds, shipped with the package."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from selfimprove.scorers.checkpoints import fill, read_state
from selfimprove.scorers.clip import AestheticScorer, ClipScorer, ClipTowers, processor_pixels, read_clip
from selfimprove.scorers.heads import AestheticHead, RewardHead
from selfimprove.scorers.interface import Scorer

SHAPES_SCORERS = ("clip", "saturation", "shading", "alignment", "aesthetic")
VERSION = "shapes world"


def load_embedded(names: Sequence[str], device: torch.device, folder: Path, batch_size: int = 128) -> dict[str, Scorer]:
    """Scorers of `SHAPES_SCORERS` by name; `folder` holds them.

    Tensors are rounded down to 8 bits, not to the nearest: so recorded experiments scored them.
    """

    def towers(name: str) -> ClipTowers:
        return ClipTowers(partial(read_clip, folder / name / "model.safetensors"), folder / name, device)

    def read_head() -> RewardHead:
        weights = folder / "aesthetic.safetensors"
        return fill(lambda: AestheticHead(clip.model.config.projection_dim), read_state(weights), weights)

    clip = towers("clip")
    scorers: dict[str, Scorer] = {}
    for name in names:
        pixels = processor_pixels(folder / ("clip" if name == "aesthetic" else name), torch.floor)
        if name == "aesthetic":
            scorers[name] = AestheticScorer(name, VERSION, clip, pixels, read_head, batch_size)
        else:
            scorers[name] = ClipScorer(name, VERSION, clip if name == "clip" else towers(name), pixels, True, batch_size)
    return scorers
