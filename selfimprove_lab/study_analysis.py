"""Analyse a study: shares with intervals, Bradley-Terry scores, and the agreement of raters with each other and with themselves.

Every function takes the table of `study.read_answers`. Repeats count only in `self_agreement` and `position_bias`. Skips are never answers.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, log_expit
from statsmodels.stats.inter_rater import fleiss_kappa
from statsmodels.stats.proportion import proportion_confint

from selfimprove.study.pairwise import LEFT, RIGHT, SKIP, TIE
from selfimprove.study.store import StudyError

LARGEST = 10.0  # bound on a score in resamples where a model won everything: odds of 22,000 to 1


class Agreement(NamedTuple):
    """Fleiss' kappa over the pairs that every rater answered. It is NaN without a second rater, shared pairs, or differing answers."""

    kappa: float
    pairs: int
    raters: int


def _of(answers: pd.DataFrame, question: str) -> pd.DataFrame:
    """Return the first-time answers to a question, without skips."""
    known = sorted(answers["question"].unique())
    if question not in known:
        raise StudyError(f"question={question!r} has no answers; choose from {known}")
    return answers[(answers["question"] == question) & ~answers["repeat"] & (answers["answer"] != SKIP)]


def models_of(answers: pd.DataFrame) -> list[str]:
    """Return the compared models, sorted."""
    return sorted({*answers["left"], *answers["right"]})


def _share(successes: int, trials: int) -> dict[str, float]:
    """Return a share with its Wilson 95 % interval, or NaN if there were no trials."""
    if not trials:
        return {"share": np.nan, "low": np.nan, "high": np.nan}
    low, high = proportion_confint(successes, trials, method="wilson")
    return {"share": successes / trials, "low": float(low), "high": float(high)}


def win_shares(answers: pd.DataFrame, question: str) -> pd.DataFrame:
    """Return one row per pair of models: wins of each, ties, skips, and the first one's `share` of decided answers with Wilson interval.

    The interval treats answers as independent. Several raters' answers to the same few prompts are not: `bradley_terry` resamples prompts.
    """
    chosen = _of(answers, question)
    skipped = answers[(answers["question"] == question) & ~answers["repeat"] & (answers["answer"] == SKIP)]
    rows = []
    for first, second in combinations(models_of(answers), 2):
        both = chosen[chosen["left"].isin([first, second]) & chosen["right"].isin([first, second])]
        skips = int((skipped["left"].isin([first, second]) & skipped["right"].isin([first, second])).sum())
        wins, losses = int((both["winner"] == first).sum()), int((both["winner"] == second).sum())
        ties = int((both["answer"] == TIE).sum())
        counts = {"first": first, "second": second, "first_wins": wins, "second_wins": losses, "ties": ties, "skips": skips}
        rows.append(counts | _share(wins, wins + losses))
    return pd.DataFrame(rows)


def fit_bradley_terry(wins: Float[np.ndarray, "m m"]) -> Float[np.ndarray, " m"]:
    """Return maximum-likelihood scores with sum 0, P(i beats j) = sigmoid(s_i - s_j). `wins[i, j]` is how often i beat j.

    The scores are finite only if no group of models won, or lost, everything against the rest. Otherwise LARGEST bounds them.
    """

    def loss(scores: np.ndarray) -> tuple[float, np.ndarray]:
        apart = scores[:, None] - scores[None]
        slope = wins * expit(-apart)
        return -float((wins * log_expit(apart)).sum()), slope.sum(0) - slope.sum(1)

    found = minimize(loss, np.zeros(len(wins)), jac=True, bounds=[(-LARGEST, LARGEST)] * len(wins), method="L-BFGS-B")
    return found.x - found.x.mean()


def bradley_terry(answers: pd.DataFrame, question: str, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Return each model's Bradley-Terry `score` (log odds, sum 0) with a 95 % bootstrap interval over prompts (`low`, `high`).

    A tie counts as half a win for each model, which pulls the scores together.

    Raises:
        StudyError: a group of models won everything against the others, or was never compared with them, so no finite score exists.
    """
    chosen, models = _of(answers, question), models_of(answers)
    number = {model: i for i, model in enumerate(models)}
    prompts, prompt = np.unique(chosen["prompt"].to_numpy(dtype=str), return_inverse=True)
    wins = np.zeros((len(prompts), len(models), len(models)))
    for row, left, right, answer in zip(prompt, chosen["left"], chosen["right"], chosen["answer"], strict=True):
        wins[row, number[left], number[right]] += {LEFT: 1.0, TIE: 0.5, RIGHT: 0.0}[answer]
        wins[row, number[right], number[left]] += {LEFT: 0.0, TIE: 0.5, RIGHT: 1.0}[answer]
    groups, group = connected_components(wins.sum(0) > 0, directed=True, connection="strong")
    if groups > 1:
        apart = [[m for m, g in zip(models, group, strict=True) if g == k] for k in range(groups)]
        raise StudyError(f"the answers on {question} leave {apart} without a win in both directions; collect more answers")
    weights = np.random.default_rng(seed).multinomial(len(prompts), np.full(len(prompts), 1 / len(prompts)), size=resamples)
    drawn = np.stack([fit_bradley_terry(np.tensordot(w, wins, 1)) for w in weights.astype(float)])
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return pd.DataFrame({"score": fit_bradley_terry(wins.sum(0)), "low": low, "high": high}, index=pd.Index(models, name="model"))


def position_bias(answers: pd.DataFrame) -> pd.DataFrame:
    """Return, per question, the share of decided answers that went to the left side, with Wilson interval. One half means no bias."""
    decided = answers[answers["answer"].isin([LEFT, RIGHT])]
    rows = []
    for question, some in decided.groupby("question"):
        left = int((some["answer"] == LEFT).sum())
        rows.append({"question": question, "answers": len(some)} | _share(left, len(some)))
    return pd.DataFrame(rows, columns=["question", "answers", "share", "low", "high"])


def self_agreement(answers: pd.DataFrame, pooled: bool = False) -> pd.DataFrame:
    """Return, per rater and question, the share of repeated pairs answered alike both times (same model, or tie), with Wilson interval.

    If `pooled`, the repeats of all raters are counted together: one rater's are few.
    """
    told = answers[answers["answer"] != SKIP]
    keys = ["rater", "question", "pair"]
    both = told[~told["repeat"]].merge(told[told["repeat"]], on=keys, suffixes=("", "_again"))
    both = both.assign(rater="all") if pooled else both
    rows = []
    for (rater, question), some in both.groupby(["rater", "question"]):
        alike = int((some["winner"] == some["winner_again"]).sum())
        rows.append({"rater": rater, "question": question, "repeats": len(some)} | _share(alike, len(some)))
    return pd.DataFrame(rows, columns=["rater", "question", "repeats", "share", "low", "high"])


def rater_agreement(answers: pd.DataFrame, question: str) -> Agreement:
    """Return Fleiss' kappa of the raters on a question: 1 is full agreement, and 0 is agreement by chance.

    An answer is in one of three categories: the pair's first model by name, a tie, or the second. Pairs that some rater did not answer are
    left out.
    """
    chosen = _of(answers, question)
    raters = chosen["rater"].nunique()
    first = np.minimum(chosen["left"].to_numpy(dtype=object), chosen["right"].to_numpy(dtype=object))
    category = np.where(chosen["answer"] == TIE, 1, np.where(chosen["winner"] == first, 0, 2))
    counts = pd.crosstab(chosen["pair"], category).reindex(columns=[0, 1, 2], fill_value=0).to_numpy()
    counts = counts[counts.sum(1) == raters]
    if raters < 2 or not len(counts) or (counts.sum(0) > 0).sum() == 1:
        return Agreement(float("nan"), len(counts), raters)
    return Agreement(float(fleiss_kappa(counts)), len(counts), raters)
