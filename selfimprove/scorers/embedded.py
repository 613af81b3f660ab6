"""Scorers of the shapes world: small learned networks of the published kinds, and the oracle, which must not select."""

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from selfimprove.recursion.judges import ShapesRules
from selfimprove.scorers.checkpoints import fill, read_state
from selfimprove.scorers.clip import AestheticHead, AestheticScorer, ClipScorer, ClipTowers, RewardHead, processor_pixels, read_clip
from selfimprove.scorers.images import Images, ScorerError, to_rgb, to_tensor
from selfimprove.scorers.interface import BatchScorer, Scorer
from selfimprove.shapes.oracle import Oracle, load_oracle
from selfimprove.shapes.render import ATTRIBUTES, IMAGE_SIZE

SHAPES_SCORERS = ("clip", "saturation", "shading", "alignment", "aesthetic")
VERSION = "shapes world"


def load_embedded(names: Sequence[str], device: torch.device, folder: Path, batch_size: int = 128) -> dict[str, Scorer]:
    """Return scorers of `SHAPES_SCORERS` by name. `folder` holds their weights.

    Tensors are rounded down to 8 bits, not to the nearest value, because the recorded experiments scored them so.
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


ORACLE_SCORERS = ("quality", "all_right")
RULES = ShapesRules()


def read_caption(prompt: str) -> tuple[list[int], list[bool]]:
    """Return the scene that a caption describes, as indices into ATTRIBUTES, and which of the attributes it states.

    An attribute that is given two different values counts as not stated. The index of an unstated attribute has no meaning.
    """
    named = RULES.stated(prompt)
    stated = [len(named[attribute]) == 1 for attribute in ATTRIBUTES]
    return [
        values.index(min(named[name])) if clear else 0 for (name, values), clear in zip(ATTRIBUTES.items(), stated, strict=True)
    ], stated


class OracleScorer(BatchScorer):
    """Scorer of the truth about the embedded world, which must not select. `name` is "quality" or "all_right".

    "quality" is how well the scene is drawn, in [0, 1]; it is 0 if the image is no scene. "all_right" is 1 if the image is a scene and
    shows all that the prompt states, else 0.
    """

    for_selection = False

    def __init__(self, name: str, batch_size: int = 256) -> None:
        super().__init__(name, "oracle of the shapes world", torch.device("cpu"), batch_size)

    @cached_property
    def oracle(self) -> Oracle:
        """Return the shipped network. It is small and always on the CPU."""
        return load_oracle()

    def score(self, images: Images, prompts: list[str]) -> Float[Tensor, " b"]:
        pixels = list(images) if isinstance(images, Tensor) else [to_tensor(to_rgb(image)) for image in images]
        sizes = sorted({tuple(image.shape[1:]) for image in pixels})
        if sizes != [(IMAGE_SIZE, IMAGE_SIZE)]:
            raise ScorerError(f"{self.name} reads images of {IMAGE_SIZE} x {IMAGE_SIZE} pixels only; these have (height, width) {sizes}")
        reading = self.oracle.read(torch.stack(pixels).cpu())
        if self.name == "quality":
            return reading.quality
        scenes, stated = zip(*map(read_caption, prompts), strict=True)
        return reading.all_right(torch.tensor(scenes), torch.tensor(stated)).float()
