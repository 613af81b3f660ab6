"""Image distributions of the shapes world. Each image is a function of (seed, index).

`base` has low quality, and a quarter of its captions are wrong by a rule (`confused`); the base model is trained on it. `pairs` has two
images per prompt, labelled by a Bradley-Terry coin on their true utility (for DPO). `winners` is the preferred side of the same pairs
(p_data for SPIN and SFT). Scenes of `HELD_OUT` appear in none of them.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from selfimprove.draws import generator
from selfimprove.shapes.captions import HELD_OUT, KIND_WEIGHTS, SCENES, Caption, caption
from selfimprove.shapes.render import ATTRIBUTES, COLOURS, SHAPES, Drawing, drawing

HELD_IN_SCENES = SCENES[~HELD_OUT]
BASE_QUALITY = (0.08, 0.62)
PAIR_QUALITY = (0.50, 0.92)
PAIR_WRONG = 0.06
PREFERENCE_SLOPE = 8.0  # log odds per unit of utility
PROMPT_KINDS = {"full": 0.8, "partial": 0.2}  # shares of caption kinds in pairs and winners


class Captioned(NamedTuple):
    """Captions, and the drawings that their images really show."""

    captions: list[Caption]
    drawing: Drawing


class Pairs(NamedTuple):
    """Two drawings per caption, and whether the labeller preferred the first."""

    captions: list[Caption]
    first: Drawing
    second: Drawing
    first_wins: Bool[Tensor, " b"]


def _scenes(seed: int, stream: str, count: int) -> Tensor:
    draws = torch.tensor([int(torch.randint(len(HELD_IN_SCENES), (), generator=generator(seed, stream, i))) for i in range(count)])
    return HELD_IN_SCENES[draws]


def base_captions(count: int, seed: int, stream: str, kinds: dict[str, float]) -> list[Caption]:
    """Return captions of held-in scenes without images, for a text encoder."""
    return _captions(_scenes(seed, f"{stream}/scene", count), seed, stream, kinds)


def _captions(scenes: Tensor, seed: int, stream: str, kinds: dict[str, float]) -> list[Caption]:
    return [caption(tuple(s), seed, stream, i, kinds=kinds) for i, s in enumerate(scenes.tolist())]


def _draw(scenes: Tensor, seed: int, stream: str, quality: tuple[float, float], wrong: float) -> Drawing:
    """Return drawings of the scenes. A share `wrong` of them has one attribute changed at random."""
    uniform = torch.stack([torch.rand(12, generator=generator(seed, stream, i)) for i in range(len(scenes))])
    shown = scenes.clone()
    for row in (uniform[:, 8] < wrong).nonzero()[:, 0].tolist():
        attribute = int(uniform[row, 9] * len(ATTRIBUTES))
        values = len(list(ATTRIBUTES.values())[attribute])
        shown[row, attribute] = (shown[row, attribute] + 1 + int(uniform[row, 10] * (values - 1))) % values
    low, high = quality
    return drawing(shown, low + (high - low) * uniform[:, 11], uniform[:, :8])


def utility(captions: list[Caption], drawn: Drawing) -> Float[Tensor, " b"]:
    """Return what a careful judge would value: quality in [0, 1], minus 0.5 per stated attribute that is wrong."""
    scenes = torch.tensor([c.scene for c in captions])
    stated = torch.tensor([c.stated for c in captions])
    return drawn.quality - 0.5 * ((drawn.attributes != scenes) & stated).sum(1)


def confused(scenes: Int[Tensor, "b 4"]) -> Int[Tensor, "b 4"]:
    """Return what the base set draws for these scenes: a quarter of the pairs of colour and shape always come out as another one.

    Half of those have another shape, half another colour. Guidance undoes captions that are wrong at random, because it draws what most
    images of a caption show. So faults that a model is to have at every guidance are a function of the caption.
    """
    colour, shape = scenes[:, 1], scenes[:, 2]
    mistaken = (colour + 3 * shape) % 4 == 0
    shown = scenes.clone()
    shown[:, 2] = torch.where(mistaken & (shape % 2 == 0), (shape + 3) % len(SHAPES), shape)
    shown[:, 1] = torch.where(mistaken & (shape % 2 == 1), (colour + 3) % len(COLOURS), colour)
    return shown


def base_set(count: int, seed: int) -> Captioned:
    """Return the set that the base model is trained on: captions of every kind, quality in BASE_QUALITY, scenes `confused`."""
    scenes = _scenes(seed, "base/scene", count)
    captions = _captions(scenes, seed, "base", KIND_WEIGHTS)
    return Captioned(captions, _draw(confused(scenes), seed, "base/image", BASE_QUALITY, wrong=0.0))


def pairs(count: int, seed: int, copy: int = 0) -> Pairs:
    """Return pairs of images of one prompt, with quality in PAIR_QUALITY. The winner has log odds PREFERENCE_SLOPE * utility difference.

    `copy` 1, 2, ... gives further, independent pairs of the same prompts.
    """
    scenes = _scenes(seed, "pairs/scene", count)
    captions = _captions(scenes, seed, "pairs", PROMPT_KINDS)
    stream = f"pairs/{copy}"
    first, second = (_draw(scenes, seed, f"{stream}/{side}", PAIR_QUALITY, PAIR_WRONG) for side in ("first", "second"))
    chance = torch.sigmoid(PREFERENCE_SLOPE * (utility(captions, first) - utility(captions, second)))
    coin = torch.stack([torch.rand((), generator=generator(seed, f"{stream}/coin", i)) for i in range(count)])
    return Pairs(captions, first, second, coin < chance)


def _side(count: int, seed: int, copy: int, preferred: bool) -> Captioned:
    captions, first, second, first_wins = pairs(count, seed, copy)
    chosen = [torch.where((first_wins == preferred)[:, None], a, b) for a, b in zip(first, second, strict=True)]
    return Captioned(captions, Drawing(*chosen))


def winners(count: int, seed: int, copy: int = 0) -> Captioned:
    """Return the preferred side of `pairs(count, seed, copy)`."""
    return _side(count, seed, copy, True)


def losers(count: int, seed: int, copy: int = 0) -> Captioned:
    """Return the other side of `pairs(count, seed, copy)`."""
    return _side(count, seed, copy, False)
