"""Prepare prompts for RSIDiff (section 3.2): collect, clean, filter by clarity and specificity, diversify, and split.

Every filter reports how many prompts it dropped and quotes some of them.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.cluster import KMeans, MiniBatchKMeans
from tqdm.auto import tqdm

from selfimprove.data.prompt_files import PromptError
from selfimprove.draws import EVALUATION_SEED, key_hash
from selfimprove.recursion.judges import QUESTIONS, Judge, judged

FILLERS = frozenset({"a", "an", "the", "please"})  # words ignored in the search for near-duplicates
MINI_BATCH_ABOVE = 20_000  # number of prompts above which K-means uses mini-batches
TEMPLATE = "a photo of a {concept}"
SHOWN = 3  # dropped prompts quoted per report


class FilterReport(NamedTuple):
    """Result of one filter: the numbers of prompts before and after it, and quoted `examples` of dropped prompts.

    `unknown` counts the dropped prompts for which the judge gave no readable answer.
    """

    name: str
    before: int
    after: int
    unknown: int = 0
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        unknown = f" ({self.unknown} without a readable answer)" if self.unknown else ""
        shown = "; such as " + " | ".join(repr(e) for e in self.examples) if self.examples else ""
        return f"{self.name}: {self.before} -> {self.after}, dropped {self.before - self.after}{unknown}{shown}"


def read_reports(path: Path) -> list[FilterReport]:
    """Read reports from a JSON file, which holds a list of their fields."""
    return [FilterReport(**{**fields, "examples": tuple(fields["examples"])}) for fields in json.loads(path.read_text())]


@dataclass(frozen=True)
class Collection:
    """Prompts without duplicates, split in two: `prompts` to generate from, and `held_out` for evaluation."""

    prompts: list[str]
    held_out: list[str]
    reports: list[FilterReport]


@dataclass(frozen=True)
class PromptSet:
    """Prompts to generate from, in the order in which rounds use them, with the reports of the filters they passed."""

    prompts: list[str]
    reports: list[FilterReport]

    def of_round(self, index: int, count: int) -> list[str]:
        """Return `count` prompts for round `index` (from 1). Each round takes the next slice; the list starts over when all are used."""
        return [self.prompts[i % len(self.prompts)] for i in range((index - 1) * count, index * count)]


def normalise(prompt: str) -> str:
    """Return the prompt in normal form: Unicode NFKC, single spaces, and no spaces at the ends."""
    return " ".join(unicodedata.normalize("NFKC", prompt).split())


def _signature(prompt: str) -> tuple[str, ...]:
    """Return the words in order, without case, punctuation and fillers. Prompts with the same signature are near-duplicates."""
    words = re.findall(r"\w+", prompt.casefold())
    return tuple(w for w in words if w not in FILLERS) or tuple(words) or (prompt,)


def drop_duplicates(prompts: Sequence[str]) -> tuple[list[str], list[FilterReport]]:
    """Normalise prompts and drop empty ones, repetitions and near-duplicates. The first of several duplicates stays."""
    cleaned = [normalise(p) for p in prompts]
    unique = list(dict.fromkeys(p for p in cleaned if p))
    first: dict[tuple[str, ...], str] = {}
    near = []
    for prompt in unique:
        signature = _signature(prompt)
        if signature in first:
            near.append(prompt)
        else:
            first[signature] = prompt
    kept = list(first.values())
    reports = [
        FilterReport("empty or repeated", len(prompts), len(unique)),
        FilterReport("near-duplicate", len(unique), len(kept), examples=tuple(near[:SHOWN])),
    ]
    return kept, reports


def apply_judge(prompts: Sequence[str], judge: Judge, cache: Path | None = None) -> tuple[list[str], list[FilterReport]]:
    """Keep the prompts that are judged clear and specific. An unreadable answer drops the prompt. The folder `cache` keeps the answers.

    Raises:
        PromptError: no prompt passes.
    """
    kept, reports = list(prompts), []
    for question in QUESTIONS:
        answers = judged(judge, question, kept, cache)
        after = [p for p, a in zip(kept, answers, strict=True) if a]
        dropped = [p for p, a in zip(kept, answers, strict=True) if not a]
        unknown = sum(a is None for a in answers)
        reports.append(FilterReport(question, len(kept), len(after), unknown, tuple(dropped[:SHOWN])))
        if not after:
            raise PromptError(f"every prompt was dropped: {reports[-1]}; check the judge, or use prompt_source='plain'")
        kept = after
    return kept, reports


def spread(embeddings: Float[np.ndarray, "n d"], clusters: int, keep: int, seed: int) -> Int[np.ndarray, " keep"]:
    """Return the sorted rows of the `keep` prompts nearest to the centres of K-means clusters, so that the kept prompts are diverse.

    Each cluster contributes in proportion to its size; the quotas are rounded by the largest remainders. Above 20,000 prompts K-means
    uses mini-batches.

    Raises:
        PromptError: there are fewer prompts than `clusters` or `keep`.
    """
    count = len(embeddings)
    for name, value in (("clusters", clusters), ("kept", keep)):
        if count < value:
            raise PromptError(f"{name}={value} is more than the {count} prompts that are left; collect more prompts, or ask for fewer")
    kind = MiniBatchKMeans if count > MINI_BATCH_ABOVE else KMeans
    extra = {"batch_size": 4096} if kind is MiniBatchKMeans else {}
    model = kind(n_clusters=clusters, random_state=key_hash(seed, "clusters") % 2**32, n_init=1, **extra).fit(embeddings)
    labels = model.labels_
    distance = np.empty(count)
    for start in range(0, count, 4096):  # in parts: an (n, d) array of differences would double the memory
        rows = slice(start, start + 4096)
        distance[rows] = np.linalg.norm(embeddings[rows] - model.cluster_centers_[labels[rows]], axis=1)
    sizes = np.bincount(labels, minlength=clusters)
    share = sizes * keep / count
    quota = np.floor(share).astype(int)
    quota[np.argsort(-(share - quota), kind="stable")[: keep - quota.sum()]] += 1
    order = np.lexsort((distance, labels))  # by cluster, the nearest first
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return np.sort(np.concatenate([order[s : s + q] for s, q in zip(starts, quota, strict=True)]))


def embed_all(
    prompts: Sequence[str], embed: Callable[[list[str]], Float[np.ndarray, "b d"]], batch_size: int = 256
) -> Float[np.ndarray, "n d"]:
    """Embed any number of prompts in batches, with a progress bar. Return float32."""
    starts = tqdm(range(0, len(prompts), batch_size), desc="embedding prompts", leave=False)
    return np.concatenate([np.asarray(embed(list(prompts[s : s + batch_size])), dtype=np.float32) for s in starts])


def collect(prompts: Sequence[str], held_out: int, seed: int) -> Collection:
    """Drop duplicates, hold out up to `held_out` prompts (at most half, the same for every `seed`), and order the rest by `seed`.

    Raises:
        PromptError: no prompt is left to generate from.
    """
    unique, reports = drop_duplicates(prompts)
    kept_out = sorted(unique, key=lambda p: key_hash(EVALUATION_SEED, "prompt split", p))[: min(held_out, len(unique) // 2)]
    if not unique:
        raise PromptError("no prompt is left to generate from; collect more")
    rest = set(unique) - set(kept_out)
    return Collection(sorted(rest, key=lambda p: key_hash(seed, "prompt split", p)), kept_out, reports)


def prepare(
    collection: Collection,
    judge: Judge | None,
    embed: Callable[[list[str]], Float[np.ndarray, "b d"]],
    clusters: int,
    keep: int,
    seed: int,
    cache: Path | None = None,
) -> PromptSet:
    """Prepare a collection (RSIDiff section 3.2): filter by clarity and specificity unless `judge` is None, then choose `keep` prompts.

    The chosen prompts are spread over `clusters`. With `clusters` 0 they are the first `keep`, and with `keep` 0 all are kept.

    Raises:
        PromptError: no prompt is left, or fewer than `clusters` or `keep`.
    """
    prompts, reports = collection.prompts, list(collection.reports)
    if keep > len(prompts):  # checked before a judge is asked
        raise PromptError(f"kept={keep} is more than the {len(prompts)} prompts collected; collect more prompts, or keep fewer")
    if judge is not None:
        prompts, judged_reports = apply_judge(prompts, judge, cache)
        reports += judged_reports
    if keep > len(prompts):
        raise PromptError(f"kept={keep} is more than the {len(prompts)} prompts that are left; collect more prompts, or keep fewer")
    if clusters and keep:
        rows = spread(embed_all(prompts, embed), clusters, keep, seed).tolist()
        left = set(rows)
        dropped = [p for i, p in enumerate(prompts) if i not in left]
        reports.append(FilterReport("diversity", len(prompts), len(rows), examples=tuple(dropped[:SHOWN])))
        prompts = [prompts[i] for i in rows]
    elif keep:
        prompts = prompts[:keep]
    return PromptSet(prompts, reports)


def templates(concepts: Sequence[str]) -> list[str]:
    """Return "a photo of a [concept]" per concept: the paper's prompts without any construction."""
    return [re.sub(r"\ba (?=[aeiou])", "an ", TEMPLATE.format(concept=c)) for c in dict.fromkeys(concepts)]


def fingerprint(prompts: Sequence[str]) -> str:
    """Return the SHA-256 of the prompts in their order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(prompt.encode() + b"\0")
    return digest.hexdigest()
