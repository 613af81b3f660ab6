"""The oracle of the embedded world as scorers: for reading results, never for selecting, training or tuning."""

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from selfimprove.judges import ShapesRules
from selfimprove.scorers.images import Images, ScorerError, to_rgb, to_tensor
from selfimprove.scorers.interface import BatchScorer
from selfimprove.shapes.oracle import Oracle, load_oracle
from selfimprove.shapes.render import ATTRIBUTES, IMAGE_SIZE

TRUTHS = ("quality", "all_right")
RULES = ShapesRules()


def read_caption(prompt: str) -> tuple[list[int], list[bool]]:
    """The scene that a caption describes, as indices into ATTRIBUTES, and which of them it states.

    An attribute named twice with different words is not stated; an index without statement means nothing.
    """
    named = RULES.stated(prompt)
    stated = [len(named[attribute]) == 1 for attribute in ATTRIBUTES]
    return [
        values.index(min(named[name])) if clear else 0 for (name, values), clear in zip(ATTRIBUTES.items(), stated, strict=True)
    ], stated


class OracleScorer(BatchScorer):
    """`quality`: how well the scene is drawn, 0..1, 0 for no scene. `all_right`: 1 if the image shows all that the prompt states."""

    for_selection = False

    def __init__(self, name: str, device: torch.device, batch_size: int = 256) -> None:
        super().__init__(name, "oracle of the shapes world", device, batch_size)

    @cached_property
    def oracle(self) -> Oracle:
        """The shipped network; small, and always on the CPU."""
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
