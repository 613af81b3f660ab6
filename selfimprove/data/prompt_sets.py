"""Load prompt sets to judge models on: published benchmarks, the shapes world's sets, or a user's own file."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from selfimprove.data.images import shapes_prompts
from selfimprove.data.prompt_files import PromptError, hub_column, load_prompts
from selfimprove.draws import EVALUATION_SEED, key_hash
from selfimprove.recursion.prompts import fingerprint, normalise
from selfimprove.shapes.captions import HELD_OUT, SCENES, Caption
from selfimprove.shapes.image_sets import HELD_IN_SCENES

HPS_STYLES = ("anime", "concept-art", "paintings", "photo")
SHAPES_PROMPTS = 512  # prompts of a shapes set if no count is given


@dataclass(frozen=True)
class JudgedPrompts:
    """Different prompts under the name that tables show. `scenes` holds what each prompt says, where the truth is known."""

    name: str
    prompts: list[str]
    scenes: list[Caption] | None = None

    @property
    def hash(self) -> str:
        """Return the identity of the set: 12 hexadecimal digits."""
        return fingerprint(self.prompts)[:12]


def _hpsv2() -> list[str]:
    from huggingface_hub import hf_hub_download

    prompts: list[str] = []
    for style in HPS_STYLES:
        path = hf_hub_download("zhwang/HPDv2", f"benchmark/{style}.json", repo_type="dataset")
        with open(path, encoding="utf-8") as stream:
            prompts += json.load(stream)
    return prompts


# Name -> function that downloads the prompts. Pick-a-Pic is no longer at its first address; this mirror has the same card and schema.
PUBLISHED_SETS: dict[str, Callable[[], list[str]]] = {
    "pickapic-test": partial(hub_column, "liuhuohuo2/pick-a-pic-v2", "test_unique", "caption"),
    "pickapic-validation": partial(hub_column, "liuhuohuo2/pick-a-pic-v2", "validation_unique", "caption"),
    "partiprompts": partial(hub_column, "nateraw/parti-prompts", "train", "Prompt"),
    "hpsv2": _hpsv2,
}
SHAPES: dict[str, Any] = {"shapes-held-in": HELD_IN_SCENES, "shapes-held-out": SCENES[HELD_OUT]}


def judged_prompts(source: str, count: int = 0) -> JudgedPrompts:
    """Load a prompt set by name, from a file, or by `datasets` id (see `prompt_files.load_prompts`). Repeated prompts are dropped.

    `count` > 0 takes that many prompts, and the choice does not depend on their order in the file. 0 takes all, or 512 of a shapes set.

    Raises:
        PromptError: the source is missing, holds no prompt, or has fewer than `count` different prompts; or `count` is negative.
    """
    if count < 0:
        raise PromptError(f"count={count} must not be negative; 0 takes all prompts")
    if source in SHAPES:
        captions = _different(shapes_prompts(4 * (count or SHAPES_PROMPTS), SHAPES[source], source))
        return JudgedPrompts(source, *_first(captions, count or SHAPES_PROMPTS, source))
    if source in PUBLISHED_SETS:
        try:
            found = PUBLISHED_SETS[source]()
        except Exception as error:  # the hub client raises many unrelated types
            raise PromptError(
                f"prompts={source!r} could not be had from the hub ({type(error).__name__}); save its prompts as a text file and give that"
            ) from error
    else:
        try:
            found = load_prompts(source)
        except PromptError as error:
            raise PromptError(f"{error}; or one of {[*PUBLISHED_SETS, *SHAPES]}") from error
    prompts = list(dict.fromkeys(p for p in map(normalise, found) if p))
    if not prompts:
        raise PromptError(f"prompts={source!r} holds only empty prompts; give at least one")
    if count > len(prompts):
        raise PromptError(f"count={count} is more than the {len(prompts)} different prompts of {source!r}; ask for fewer")
    if count:
        prompts = sorted(prompts, key=lambda p: key_hash(EVALUATION_SEED, "judged", p))[:count]
    return JudgedPrompts(source, prompts)


def _different(captions: Sequence[Caption]) -> list[Caption]:
    return list({c.text: c for c in captions}.values())


def _first(captions: list[Caption], count: int, source: str) -> tuple[list[str], list[Caption]]:
    if count > len(captions):
        raise PromptError(f"count={count} is more than the {len(captions)} different phrasings found for {source!r}; ask for fewer")
    return [c.text for c in captions[:count]], captions[:count]
