"""Scenes and the grammar of their captions: about 30,000 phrasings, from exact to vague and contradictory.

A caption states some of a scene's attributes; the others are free. A `full` caption states all four attributes, `partial` some, `bare`
only the shape, and `vague` at most one but not the shape. A `contradictory` caption gives one attribute two different values.
"""

import re
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import torch

from selfimprove.draws import integers, key_hash, uniform
from selfimprove.shapes.render import ATTRIBUTES, BACKGROUNDS, COLOURS, SHAPES, SIZES

SCENES = torch.cartesian_prod(*(torch.arange(len(x)) for x in ATTRIBUTES.values()))  # (512, 4)
HELD_OUT = (SCENES * torch.tensor([1, 1, 1, 2])).sum(1) % 5 == 0  # (512,): True for scenes that no generator was trained on

SYNONYMS = {
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "circle": ("circle", "disc"),
    "ring": ("ring", "hoop"),
    "cross": ("cross", "plus sign"),
    "moon": ("moon", "crescent"),
}
TEMPLATES = {
    "full": (
        "a {size} {colour} {shape} on a {background} background",
        "{size} {colour} {shape}, {background} background",
        "a picture of a {size} {colour} {shape} on a {background} background",
        "a {colour} {shape}, {size}, in front of a {background} backdrop",
        "on a {background} background there is a {size} {colour} {shape}",
        "the {shape} is {size} and {colour}, the background is {background}",
        "an image showing one {size} {shape} in {colour} against {background}",
        "a drawing of a {size} {colour} {shape} over a {background} ground",
        "{background} background with a {size} {colour} {shape} in the middle",
        "please draw a {size} {colour} {shape} on {background}",
    ),
    "partial": (
        "a {colour} {shape}",
        "a {size} {shape}",
        "a {size} {colour} {shape}",
        "a {shape} on a {background} background",
        "a {colour} {shape} on a {background} background",
        "a {size} {shape} on a {background} background",
    ),
    "bare": ("a photo of a {shape}", "a {shape}"),
    "vague": (
        "something nice",
        "an object",
        "a shape on a background",
        "some {colour} thing",
        "a {size} thing",
        "something on a {background} background",
    ),
    "contradictory": (
        "a {colour} {other_colour} {shape} on a {background} background",
        "a {size} {other_size} {colour} {shape}",
        "a {shape} that is a {other_shape} on a {background} background",
        "a {colour} {shape} on a {background} {other_background} background",
    ),
}
ENDINGS = ("", ".", ", please")  # make near-duplicates: the same words with another ending
KIND_WEIGHTS = {"full": 0.62, "partial": 0.2, "bare": 0.06, "vague": 0.06, "contradictory": 0.06}


class Caption(NamedTuple):
    """A caption and what it says. `scene` holds indices into ATTRIBUTES. `stated` says which of the four attributes the text fixes."""

    text: str
    kind: str
    scene: tuple[int, ...]
    stated: tuple[bool, ...]


def scene_words(scene: tuple[int, ...]) -> dict[str, str]:
    """Return the words of a scene: {"size": "small", "colour": "red", ...}."""
    return {name: values[i] for (name, values), i in zip(ATTRIBUTES.items(), scene, strict=True)}


def _fill(template: str, **words: str) -> str:
    return re.sub(r"\ba (?=[aeiou])", "an ", template.format(**words))


def canonical(scene: tuple[int, ...]) -> str:
    """Return the plainest full caption, such as "a small red star on a white background"."""
    return _fill(TEMPLATES["full"][0], **scene_words(scene))


def _stated(template: str) -> tuple[bool, ...]:
    return tuple(f"{{{name}}}" in template and f"{{other_{name}}}" not in template for name in ATTRIBUTES)


def caption(scene: tuple[int, ...], *key: str | int, kinds: dict[str, float] = KIND_WEIGHTS) -> Caption:
    """Draw a caption of the scene from the grammar. It is a function of the scene and the key (see `selfimprove.draws`)."""
    draw = f"{key_hash(*key, *scene):x}"
    share = float(uniform(0, "caption/kind", (), [draw])) * sum(kinds.values())
    kind = next(iter(kinds))
    for kind, weight in kinds.items():  # noqa: B007 - the kind in which the cumulative weight passes the draw
        share -= weight
        if share < 0:
            break

    def choose(what: str, options: tuple[str, ...]) -> str:
        return options[int(integers(0, f"caption/{what}", (), [draw], len(options)))]

    template = choose("template", TEMPLATES[kind])
    words = scene_words(scene)
    others = {f"other_{n}": choose(n, tuple(v for v in ATTRIBUTES[n] if v != words[n])) for n in words}
    words = {name: choose(f"word/{name}", SYNONYMS.get(word, (word,))) for name, word in words.items()}
    ending = choose("ending", ENDINGS + ("",) * 5)
    return Caption(_fill(template, **words, **others) + ending, kind, scene, _stated(template))


def collected_prompts(count: int, seed: int) -> list[str]:
    """Return captions of every kind of random held-in scenes, as users of a website might write them, for prompt filters to work on."""
    scenes = SCENES[~HELD_OUT].tolist()
    rows = integers(seed, "prompts/scene", (), [str(i) for i in range(count)], len(scenes)).tolist()
    return [caption(tuple(scenes[row]), seed, "prompts", i).text for i, row in enumerate(rows)]


def concepts() -> list[str]:
    """Return the nouns of the world, for template prompts."""
    return [word for shape in SHAPES for word in SYNONYMS.get(shape, (shape,))]


def phrasings(kind: str = "full") -> Iterator[str]:
    """Yield every phrasing of a kind, without endings. The kind `full` alone has more than 20,000."""
    for template in TEMPLATES[kind]:
        for size, colour, shape, background in product(SIZES, COLOURS, SHAPES, BACKGROUNDS):
            words = {"size": size, "colour": colour, "shape": shape, "background": background}
            used = [n for n in words if f"{{{n}}}" in template]
            if any(words[n] != ATTRIBUTES[n][0] for n in words if n not in used):
                continue  # values of an attribute that the template does not name repeat the text
            others = [n for n in words if f"{{other_{n}}}" in template]
            for choice in product(*(SYNONYMS.get(words[n], (words[n],)) for n in used)):
                for other in product(*([v for v in ATTRIBUTES[n] if v != words[n]] for n in others)):
                    named = {f"other_{n}": v for n, v in zip(others, other, strict=True)}
                    yield _fill(template, **dict(zip(used, choice, strict=True)), **named)
