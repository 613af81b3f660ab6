"""Draw random numbers without state: every draw is a function of seed, stream and drawn item, never of order or batch size.

A stream names the purpose of a draw: "rollout", "evaluation", "timestep", "noise", "posterior", "dropout", "flip", ... An
example is identified by the hash of its prompt and image index, so any single example can be drawn again on its own.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

EVALUATION_SEED = 5775709  # gives prompts and noise of every evaluation: the same for all rounds, models and training seeds

Key = str | int


def key_hash(*parts: Key) -> int:
    """Return a 63-bit hash of the parts. `("a", "bc")` and `("ab", "c")` have different hashes."""
    text = "\x1f".join(str(p) for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def example_id(prompt: str, image: int = 0) -> str:
    """Return the identifier of image number `image` of a prompt: 16 hexadecimal digits."""
    return f"{key_hash('example', prompt, image):016x}"


def several_captions(image: str, example: str) -> str:
    """Return the identifier of an example whose image, of that identity, has several captions and an example for each."""
    return f"{image}#{example}"


def image_of(example: str) -> str:
    """Return the identity of an example's image, which examples of its other captions share."""
    return example.partition("#")[0]


@lru_cache(maxsize=2)
def count_images(examples: tuple[str, ...]) -> int:
    """Return the number of different images among examples: the length of an epoch."""
    return len({image_of(example) for example in examples})


def generator(*key: Key) -> torch.Generator:
    """Return a CPU generator that is seeded by the key alone."""
    return torch.Generator().manual_seed(key_hash(*key))


def normal(seed: int, stream: str, when: Sequence[int], ids: Sequence[str], shape: Sequence[int]) -> Float[Tensor, "b ..."]:
    """Draw standard normal numbers, float32, of shape `(len(ids), *shape)`; `when` holds the round and, if there is one, the step."""
    return torch.stack([torch.randn(*shape, generator=generator(seed, stream, *when, i)) for i in ids])


def uniform(seed: int, stream: str, when: Sequence[int], ids: Sequence[str]) -> Float[Tensor, " b"]:
    """Draw one uniform number in [0, 1) per example, float64."""
    return torch.tensor([key_hash(seed, stream, *when, i) / 2**63 for i in ids], dtype=torch.float64)


def integers(seed: int, stream: str, when: Sequence[int], ids: Sequence[str], high: int) -> Int[Tensor, " b"]:
    """Draw one integer per example, uniform in 0..high-1."""
    return (uniform(seed, stream, when, ids) * high).long().clamp_max(high - 1)
