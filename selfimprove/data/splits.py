"""Split captioned images so that validation and test parts share no caption and no image with what is trained on."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from selfimprove.data.items import Item
from selfimprove.data.opening import THUMB, Look
from selfimprove.draws import EVALUATION_SEED, key_hash
from selfimprove.errors import DataError

LEAST = 3  # different captions needed for a split into training, validation and test
NEAR = 6  # two images whose thumbs differ by no more, in levels of 255, show the same: one was scaled or encoded again
CONTRAST = 24  # levels between the darkest and the brightest value of a thumb, below which images are told apart by all their pixels


class KeptOut(NamedTuple):
    """Captions kept out of training: models are judged on `test`, and settings are chosen on `validation`."""

    test: list[str]
    validation: list[str]


def kept_out(captions: Sequence[str], validation: int, evaluation: int, found: str) -> KeptOut:
    """Choose the captions of the test and the validation part by hash. `captions` has one entry per image: its caption, or its `group`.

    Each part has up to max(`validation`, `evaluation`) captions: at most a twentieth of the captions and of the images, but at least one
    caption. A caption with more than a twentieth of the images is kept out only if there is no other choice.

    Raises:
        DataError: there are fewer than three different captions. The message opens with `found`.
    """
    images, limit = Counter(captions), len(captions) / 20
    if len(images) < LEAST:
        different = f", with {len(images)} different ones among them" if len(images) < len(captions) else ""
        raise DataError(f"{found}{different}; at least {LEAST} are needed, to train on, to validate and to test by")
    order = sorted(images, key=lambda c: (images[c] > limit, key_hash(EVALUATION_SEED, "split", c)))
    most = min(max(validation, evaluation), max(1, len(order) // 20))
    parts = []
    for _ in KeptOut._fields:
        count = 1
        while count < most and sum(images[c] for c in order[: count + 1]) <= limit:
            count += 1
        parts.append(order[:count])
        order = order[count:]
    return KeptOut(*parts)


def group(items: Sequence[Item], seen: Sequence[Look], ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the group of each item, and notes. No two groups share a caption or an image, so that parts of whole groups share none.

    Captions that differ by capitals and spaces alone are the same. Where captions leave fewer than three groups, only images count. `seen`
    has one or several looks for each item, one round after another.
    """
    count = len(items)
    images = [(a % count, b % count) for a, b in same_images(seen)]
    first: dict[str, int] = {}
    texts = [(first.setdefault(" ".join(text.lower().split()), i), i) for i, item in enumerate(items) for text in item.captions]
    by_text = components(count, [*images, *texts])
    if len(set(by_text)) >= LEAST:
        names: dict[int, str] = {}
        for number, item in zip(by_text, items, strict=True):
            names[number] = min(names.get(number, item.captions[0]), *item.captions)
        return [names[number] for number in by_text], []
    by_image = components(count, images)
    names = {}
    for number, name in zip(by_image, ids, strict=True):
        names[number] = min(names.get(number, name), name)
    return [names[number] for number in by_image], [f"the parts share captions, of which there are {len(first)}, and no images"] * bool(
        items
    )


def same_images(seen: Sequence[Look]) -> list[tuple[int, int]]:
    """Return pairs of positions that show the same image: equal bytes, equal pixels, or nearly equal ones.

    Nearly equal are images of which one was scaled, encoded again or mirrored left to right. Cut-outs and changed colours are not found.
    """
    first: dict[str, int] = {}
    pairs = [(first.setdefault(key, i), i) for i, each in enumerate(seen) for key in (each.digest, each.pixels) if key]
    different = [i for i, each in enumerate(seen) if each.thumb and first[each.pixels] == i]
    rich = [i for i in different if max(seen[i].thumb) - min(seen[i].thumb) >= CONTRAST]
    if len(rich) < 2:
        return pairs
    upright = np.array([np.frombuffer(seen[i].thumb, np.uint8) for i in rich], np.int16).reshape(-1, THUMB, THUMB, 3)
    thumbs = np.concatenate([upright, upright[:, :, ::-1]]).reshape(-1, 3 * THUMB**2)  # and mirrored
    half = THUMB // 2  # the means of quarters cannot differ by more than the thumbs do
    quarters = thumbs.reshape(-1, 2, half, 2, half, 3).mean((2, 4)).reshape(-1, 12)
    # in twelve dimensions all leaves of a tree of so few points touch, and it compares every pair; in the greens' four it does not
    near = cKDTree(quarters[:, 1::3]).query_pairs(NEAR, p=np.inf, output_type="ndarray")
    for means in quarters.T:
        near = near[np.abs(means[near[:, 0]] - means[near[:, 1]]) <= NEAR]
    near = near[near[:, 0] < len(rich)]  # two that are mirrored tell nothing new
    near = near[np.abs(thumbs[near[:, 0]] - thumbs[near[:, 1]]).max(1) <= NEAR] % len(rich)
    return pairs + [(rich[a], rich[b]) for a, b in near.tolist()]


def components(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Return the number of the connected component of each of `count` things, of which `pairs` are connected."""
    ends = np.array(pairs, int).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].tolist()
