"""Measure diversity and drift in a scorer's image features: how much a prompt's images differ, and how far one model is from another.

Features are L2-normalised embeddings (`ClipScorer.features`). The Frechet distance is an FID in another feature space. Its values therefore
compare only with values from the same features and the same number of images.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import linalg

from selfimprove.evaluation.statistics import bootstrap_interval


def within_prompt_diversity(features: Float[np.ndarray, "n d"], prompts: Sequence[str]) -> tuple[float, float, float]:
    """Return the mean of 1 - cosine between different images of a prompt, averaged over prompts, with its 95 % interval over prompts.

    Raises:
        ValueError: every prompt has one image.
    """
    values = []
    names = np.array(prompts)
    for prompt in np.unique(names):
        own = features[names == prompt].astype(np.float64)
        if len(own) > 1:
            cosine = own @ own.T
            values.append(1 - (cosine.sum() - np.trace(cosine)) / (len(own) * (len(own) - 1)))
    if not values:
        raise ValueError("every prompt has one image; diversity within a prompt needs at least two")
    return float(np.mean(values)), *bootstrap_interval(np.array(values))


def frechet_distance(first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "m d"]) -> float:
    """Return `|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))` of the two sets' means and covariances (Heusel et al. 2017).

    The distance is biased upwards, more so with fewer images: two samples of one model do not give 0. Show `frechet_floor` beside it.

    Raises:
        ValueError: one side has fewer than two images.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"{len(first)} and {len(second)} images have no covariance; give at least two on each side")
    means = first.mean(0, dtype=np.float64) - second.mean(0, dtype=np.float64)
    covariances = [np.cov(x.astype(np.float64), rowvar=False) for x in (first, second)]
    # tr (S_1 S_2)^(1/2) from the eigenvalues of the symmetric S_1^(1/2) S_2 S_1^(1/2): no complex rounding to throw away
    values, vectors = linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(linalg.eigvalsh(root @ covariances[1] @ root).clip(0)).sum()
    return float(means @ means + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross)


def frechet_floor(features: Float[np.ndarray, "n d"], prompts: Sequence[str]) -> float:
    """Return what the bias alone gives: the distance between two halves of one model's images, split alternately within each prompt.

    Each half has half as many images, so the result is a little more than the floor at full size.
    """
    place: dict[str, int] = {}
    half = np.empty(len(prompts), dtype=bool)
    for row, prompt in enumerate(prompts):
        half[row] = place.get(prompt, 0) % 2 == 0
        place[prompt] = place.get(prompt, 0) + 1
    return frechet_distance(features[half], features[~half])


def drift_report(features: Mapping[str, Float[np.ndarray, "n d"]], prompts: Sequence[str]) -> pd.DataFrame:
    """Return the diversity within prompts with its interval, and the Frechet distance to the first model, one row per model.

    The distance in the first model's own row is its floor, see `frechet_floor`.
    """
    base = next(iter(features.values()))
    rows = []
    for name, own in features.items():
        mean, low, high = within_prompt_diversity(own, prompts)
        halves = own is base
        distance = frechet_floor(base, prompts) if halves else frechet_distance(own, base)
        rows.append(
            {
                "model": name,
                "diversity within a prompt": f"{mean:.4f} [{low:.4f}, {high:.4f}]",
                "Frechet distance": f"{distance:.4f}{' (its own halves)' * halves}",
            }
        )
    return pd.DataFrame(rows).set_index("model")
