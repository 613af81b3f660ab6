"""Preference sampling (RSIDiff section 3.3): select the generated images that a round trains on, and record why.

Every strategy returns a table with one row per candidate: `id`, `prompt`, the scores, each scorer's standing, `combined`, `place` (0 is
best), `kept` and `reason`. Every strategy has a random control that keeps the same number of images.
"""

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from selfimprove.config import Combination, Strategy
from selfimprove.draws import key_hash
from selfimprove.errors import SelfImproveError

KEPT_BY_HAND = "kept.txt"  # file in a round's folder with the ids chosen by hand, one per line


class SelectionError(SelfImproveError):
    """No sensible selection is possible; the message says why and what to do."""


def check_selecting(metrics: Sequence[tuple[str, float]], scorers: Mapping[str, Any]) -> None:
    """Raise if a scorer that reads the truth would select: the truth only measures. `truth_hidden` stops functions that hide such a scorer.

    Raises:
        SelectionError: `for_selection` is False for a scorer in `metrics`. The message names the scorers.
    """
    truths = [name for name, _ in metrics if not getattr(scorers[name], "for_selection", True)]
    if truths:
        raise SelectionError(f"metrics={truths} read the truth, which must not select; choose among the learned scorers")


def check_scores(scores: pd.DataFrame, metrics: Mapping[str, float]) -> None:
    """Raise if the scores cannot rank the candidates. Warn of a metric that is the same for all candidates while others differ.

    Raises:
        SelectionError: `metrics` is empty or names an unknown metric, a score is not finite (the message names id and metric), or all
            candidates are alike in all metrics.
    """
    if not metrics:
        raise SelectionError("metrics is empty; name the scorers to select by, and their weights")
    unknown = [name for name in metrics if name not in scores]
    if unknown:
        raise SelectionError(f"metrics={unknown} were not scored; choose from {[c for c in scores if c not in ('id', 'prompt', 'image')]}")
    for name in metrics:
        bad = ~np.isfinite(scores[name].to_numpy(dtype=np.float64))
        if bad.any():
            raise SelectionError(
                f"{name} of {scores['id'][bad].iloc[0]} is {scores[name][bad].iloc[0]} ({bad.sum()} of {len(scores)}); mend the scorer"
            )
    constant = [name for name in metrics if len(scores) > 1 and np.ptp(scores[name].to_numpy(dtype=np.float64)) == 0]
    if len(constant) == len(metrics):
        raise SelectionError(
            f"all {len(scores)} candidates have the same score in {', '.join(constant)}: nothing to select by; check the scorers"
        )
    if constant:
        warnings.warn(f"{', '.join(constant)}: all candidates score the same, so it has no say in the selection", stacklevel=3)


def combine(scores: pd.DataFrame, metrics: Mapping[str, float], how: Combination = "rank") -> pd.DataFrame:
    """Return each metric's standing and `combined`, the weighted mean of the standings. Higher is better.

    "rank" is the share of candidates that score lower, in (0, 1), with ties at their middle. "zscore" is the number of standard deviations
    from the mean. Ranks give every scorer the same influence; z-scores let an outlier count for more.

    Raises:
        SelectionError: see `check_scores`.
    """
    check_scores(scores, metrics)
    standing = pd.DataFrame(index=scores.index)
    for name in metrics:
        values = scores[name].to_numpy(dtype=np.float64)
        if how == "rank":
            standing[f"{name}_{how}"] = (stats.rankdata(values) - 0.5) / len(values)
        else:
            standing[f"{name}_{how}"] = (values - values.mean()) / (values.std() or 1.0)
    standing["combined"] = np.average(standing.to_numpy(), axis=1, weights=list(metrics.values()))
    return standing


def _ordered(ids: pd.Series, values: np.ndarray, seed: int) -> np.ndarray:
    """Return positions from the best value to the worst. The order of ties depends on the seed and the ids alone."""
    ties = np.array([key_hash(seed, "tie", i) for i in ids], dtype=np.int64)
    return np.lexsort((ties, -values))


def _best_of_each(frame: pd.DataFrame, order: np.ndarray, size: int) -> np.ndarray:
    """Return `size` positions: the best image of each prompt, then the second best of each prompt, and so on."""
    within = frame["prompt"].iloc[order].groupby(frame["prompt"].iloc[order]).cumcount().to_numpy()
    return order[np.argsort(within, kind="stable")][:size]


def select(
    scores: pd.DataFrame,
    metrics: Mapping[str, float],
    strategy: Strategy,
    size: int,
    seed: int,
    how: Combination = "rank",
    threshold: float = 0.0,
    kept_ids: Collection[str] = (),
) -> pd.DataFrame:
    """Select among the candidates (`id`, `prompt`, and one column per scorer). Return one row per candidate, in the given order.

    - `pool` keeps the `size` best of all; `per-prompt` keeps the best of each prompt, then the second best, up to `size`.
    - `threshold` keeps those with a combined standing of at least `threshold`, or the `size` best of them if `size` is not 0.
    - `random` keeps `size` at random; `manual` keeps those in `kept_ids`; `all` keeps everything.

    Raises:
        SelectionError: see `check_scores`; also if `size` exceeds the pool, nothing passes the threshold, or `kept_ids` is empty or holds
            an id that is not a candidate.
    """
    if size > len(scores):
        raise SelectionError(f"selected={size} is more than the pool of {len(scores)}; select fewer or sample more")
    frame = scores.copy()
    if metrics or strategy in ("pool", "per-prompt", "threshold"):
        frame = pd.concat([frame, combine(scores, metrics, how)], axis=1)
        values = frame["combined"].to_numpy()
    else:
        values = np.zeros(len(frame))
    order = _ordered(frame["id"], values, seed)
    place = np.empty(len(frame), dtype=np.int64)
    place[order] = np.arange(len(frame))
    frame["place"] = place
    if strategy == "all":
        kept, why = np.arange(len(frame)), "all are kept"
    elif strategy == "random":
        kept, why = random_rows(frame["id"], size, seed), "drawn at random"
    elif strategy == "pool":
        kept, why = order[:size], f"among the best {size} of the pool"
    elif strategy == "per-prompt":
        kept, why = _best_of_each(frame, order, size), "among the best of its prompt"
    elif strategy == "threshold":
        kept, why = order[values[order] >= threshold][: size or None], f"combined standing of at least {threshold:g}"
        if not len(kept):
            raise SelectionError(f"threshold={threshold:g} keeps nothing; the best combined standing is {values.max():.3f}")
    else:
        kept, why = _manual(frame["id"], kept_ids), "kept by hand"
    chosen = np.zeros(len(frame), dtype=bool)
    chosen[kept] = True
    frame["kept"] = chosen
    frame["reason"] = [f"{why}, place {p + 1}" if c else f"not kept, place {p + 1}" for c, p in zip(chosen, place, strict=True)]
    return frame


def random_rows(ids: pd.Series, size: int, seed: int) -> np.ndarray:
    """Return `size` random positions that depend on the seed and the ids alone."""
    return np.argsort([key_hash(seed, "random selection", i) for i in ids], kind="stable")[:size]


def _manual(ids: pd.Series, kept_ids: Collection[str]) -> np.ndarray:
    known = {name: row for row, name in enumerate(ids)}
    strangers = [name for name in kept_ids if name not in known]
    if strangers:
        raise SelectionError(f"kept ids {strangers[:3]} ({len(strangers)} in all) are no candidates; take them from this round's rollout")
    if not kept_ids:
        raise SelectionError("the list of kept ids is empty; keep at least one image")
    return np.array(sorted(known[name] for name in set(kept_ids)))
