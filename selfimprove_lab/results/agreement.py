"""Measure how far scorers agree: with labels of people or of the shapes world, with the oracle, and with one another."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.proportion import proportion_confint
from tqdm.auto import tqdm

from selfimprove.data.pairs import LabelledPair
from selfimprove.evaluation.statistics import bootstrap_interval
from selfimprove.scorers import Scorer


def pair_accuracy(scorers: Mapping[str, Scorer], pairs: Iterable[LabelledPair], batch_size: int = 64) -> pd.DataFrame:
    """Return how often each scorer prefers the image that the label prefers (SPIN-Diffusion, section 6.1), one row per scorer.

    Columns: accuracy (equal scores count half), low and high (Wilson, 95 %), equal (pairs with equal scores), pairs.

    Raises:
        ValueError: there is no pair.
    """
    margins: dict[str, list[float]] = {name: [] for name in scorers}
    unread, bar = iter(pairs), tqdm(desc="scoring pairs", leave=False)
    while part := list(islice(unread, batch_size)):
        bar.update(len(part))
        prompts = [p.prompt for p in part]
        sign = np.array([1.0 if p.first_wins else -1.0 for p in part])
        for name, scorer in scorers.items():
            difference = scorer([p.first for p in part], prompts) - scorer([p.second for p in part], prompts)
            margins[name] += (sign * difference.double().numpy()).tolist()
    rows = []
    for name, values in margins.items():
        if not values:
            raise ValueError("pairs holds no labelled pair; give some with a preference")
        margin = np.array(values)
        right = float((margin > 0).sum() + 0.5 * (margin == 0).sum())
        low, high = proportion_confint(right, len(margin), method="wilson")
        equal, pairs_read = int((margin == 0).sum()), len(margin)
        rows.append({"scorer": name, "accuracy": right / pairs_read, "low": low, "high": high, "equal": equal, "pairs": pairs_read})
    return pd.DataFrame(rows).set_index("scorer")


def within_prompt_correlation(scores: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return Spearman's rank correlation of every two scores among the images of one prompt, averaged over prompts: a square table.

    The correlation is taken within a prompt, because a score that is high for easy prompts says nothing about images. A prompt where one of
    the two scores is constant is left out of that pair's mean.
    """
    table = pd.DataFrame(np.eye(len(columns)), index=list(columns), columns=list(columns))
    for i, first in enumerate(columns):
        for second in columns[i + 1 :]:
            table.loc[first, second] = table.loc[second, first] = _correlations(scores, first, second).mean()
    return table


def correlation_with(scores: pd.DataFrame, columns: Sequence[str], truth: str) -> pd.DataFrame:
    """Return each score's within-prompt rank correlation with `truth`: the mean over prompts, with its 95 % interval."""
    rows = {}
    for name in columns:
        values = _correlations(scores, name, truth)
        low, high = bootstrap_interval(values)
        rows[name] = {"correlation": values.mean(), "low": low, "high": high, "prompts": len(values)}
    return pd.DataFrame(rows).T


def _correlations(scores: pd.DataFrame, first: str, second: str) -> np.ndarray:
    """Return one correlation per prompt that has at least three images and variation in both scores."""
    found = []
    for _, group in scores.groupby("prompt", sort=True):
        if len(group) > 2 and group[first].nunique() > 1 and group[second].nunique() > 1:
            found.append(float(stats.spearmanr(group[first], group[second]).statistic))
    if not found:
        raise ValueError(f"{first!r} and {second!r} both vary in no prompt with at least three images; sample more images of each")
    return np.array(found)
