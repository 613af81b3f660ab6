"""State what each experiment is expected to show, before it is played, and judge each statement by one rule afterwards.

A prediction is a difference of judged players (`results.truths.estimate`) and the interval in which it is expected. If the interval leaves
out 0 it predicts a direction, else that nothing moves by more. "theory" is a chapter of the book, "measured" what an earlier world showed.
"""

import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from selfimprove_lab.claims.table import Difference
from selfimprove_lab.results.truths import LEARNED, Judgings, estimate

STOOD, FELL, TURNED, OPEN = "stood", "fell", "turned", "not played with two seeds yet"
UP = math.inf


class Prediction(NamedTuple):
    """`low` to `high` is the expected range of `terms` in `measure`. `item`: the question it belongs to, 1 to 5."""

    item: int
    claim: str
    terms: str
    measure: str
    low: float
    high: float
    because: str

    @property
    def directed(self) -> bool:
        """Return whether a direction is predicted."""
        return self.low > 0 or self.high < 0


def verdict(prediction: Prediction, found: Difference | None) -> str:
    """Return STOOD, FELL, TURNED, or OPEN if it was not played with two seeds at least.

    A directed prediction stands if the estimate lies in its range and the 95 % interval leaves out 0. It has turned if the interval lies on
    the other side of 0. An undirected one stands if the whole interval lies in the range, and has turned if the interval lies wholly
    outside. Everything else has fallen: it was not shown. A single seed decides nothing.
    """
    if found is None or found.seeds < 2:
        return OPEN
    low, high = prediction.low, prediction.high
    if prediction.directed:
        sign = 1 if low > 0 else -1
        near, far = (found.low, found.high) if sign > 0 else (-found.high, -found.low)
        return TURNED if far < 0 else STOOD if near > 0 and low <= found.mean <= high else FELL
    if low <= found.low and found.high <= high:
        return STOOD
    return TURNED if found.low > high or found.high < low else FELL


def _gains(world: str, part: str, quality: float) -> list[Prediction]:
    """Return the headline's predictions in a world, on a part of the prompts."""
    suffix = f" {part}" if part != "first" else ""
    terms = f"{world}/spin@3{suffix} - {world}/base@0{suffix}"
    where = f"{world}, {part} prompts"
    return [
        Prediction(1, f"three rounds raise quality ({where})", terms, "quality", quality, UP, "measured: factors .49 to .70"),
        Prediction(1, f"three rounds keep form ({where})", terms, "form", -0.01, UP, "measured: unguided, tuning loses no form"),
        Prediction(1, f"three rounds keep obedience ({where})", terms, "obedience", -0.01, UP, "the winners obey more than the base set"),
    ]


PREDICTIONS = [
    *_gains("shapes", "first", 0.12),
    *_gains("shapes", "second", 0.12),
    *_gains("shapes-flow", "first", 0.08),
    *_gains("shapes-flow", "second", 0.08),
    Prediction(1, "three rounds raise obedience: the base's fault is its data's", "shapes/spin@3 - shapes/base@0", "obedience",
               0.02, 0.25, "a quarter of the base set's captions is wrong, of the winners' a few in a hundred"),
    Prediction(1, "each round gains less than the one before", "shapes/spin@2 - shapes/spin@1 - shapes/spin@1 + shapes/base@0", "quality",
               -0.15, -0.005, "theory: 4, the gradient falls with the distance to the data"),
    Prediction(1, "at equal steps self-play is ahead of fine-tuning", "shapes/spin@3 - shapes/sft-steps@1", "quality", 0.005, 0.10,
               "measured: the push adds about a third"),
    Prediction(1, "at equal images they are level", "shapes/spin@3 - shapes/sft-images@1", "quality", -0.03, 0.03, "measured"),
    Prediction(1, "at equal compute fine-tuning is ahead", "shapes/spin@3 - shapes/sft-compute@1", "quality", -0.10, -0.005,
               "measured: a step of self-play costs four to five"),
    Prediction(1, "at equal compute they obey alike", "shapes/spin@3 - shapes/sft-compute@1", "obedience", -0.02, 0.02,
               "the earlier loss was the oracle's scene flag"),
    Prediction(1, "self-play is ahead of DPO at equal compute", "shapes/spin@3 - shapes/dpo-compute@1", "quality", 0.005, 0.15,
               "theory: 6, losers differ less from winners than the base's images do"),
    Prediction(1, "an adapter gains what all weights gain, each at its own rate", "shapes/spin-lora@3 - shapes/spin@3", "quality", -0.03,
               0.03, "measured: equal margins at equal loss"),
    Prediction(1, "at the tuned rate a frozen opponent does as well", "shapes/spin@3 - shapes/frozen@1", "quality", -0.02, 0.02,
               "theory: 4, opponents differ in second order of the rate; measured: the frozen one slightly ahead"),
    Prediction(1, "at ten times the rate a renewed opponent is ahead", "shapes/spin-10x@3 - shapes/frozen-10x@1", "quality", 0.01, 0.20,
               "theory: 5, a player that has left the base learns nothing from its images"),
    Prediction(1, "... and keeps more form", "shapes/spin-10x@3 - shapes/frozen-10x@1", "form", 0.005, 0.30, "theory: 5"),
    Prediction(1, "at long rounds a renewed opponent is ahead", "shapes/spin-long@3 - shapes/frozen-long@1", "quality", 0.005, 0.15,
               "theory: 5; the paper's figure 5"),
    Prediction(1, "self-play at its own guidance keeps form", "shapes/spin@3 guidance=own - shapes/base@0 guidance=own", "form", -0.01, UP,
               "measured: at one guidance for all the loss is guidance's"),
    Prediction(2, "without the push a round gains less", "shapes/pushing-off@1 - shapes/spin@1", "quality", -0.10, -0.002,
               "measured: a quarter of the gain"),
    Prediction(2, "with separate noise most of the push is lost", "shapes/noise-apart@1 - shapes/spin@1", "quality", -0.10, -0.002,
               "measured"),
    Prediction(2, "real images as the opponent's change nothing", "shapes/null@1 - shapes/base@0", "quality", -0.01, 0.01, "theory: 5"),
    Prediction(2, "encoding them twice changes nothing", "shapes/null-reencoded@1 - shapes/null@1", "quality", -0.01, 0.01, "measured"),
    Prediction(2, "the reweighting changes nothing", "shapes/correlation@1 - shapes/spin@1", "quality", -0.01, 0.01,
               "theory: a factor that all examples share is divided out by AdamW"),
    Prediction(2, "the hinge changes nothing", "shapes/hinge@1 - shapes/spin@1", "quality", -0.01, 0.01, "measured"),
    Prediction(2, "a flow's own path changes little", "shapes-flow/own-path@1 - shapes-flow/spin@1", "quality", -0.02, 0.02, "theory: 14"),
    Prediction(3, "on the base set self-play brings what is drawn nearer to it", "shapes/own-data@3 - shapes/base@0",
               "distance from base set", -1.0, -0.002, "theory: 5, no fixed point while the sampler leaves an error"),
    Prediction(3, "... and fine-tuning does not", "shapes/own-data-sft@1 - shapes/base@0", "distance from base set", -0.002, 0.002,
               "theory: 5, the denoiser is the best already"),
    Prediction(3, "... with a denoiser that is farther from the best", "shapes/own-data@3 - shapes/own-data@0", "error", 1e-5, 1.0,
               "theory: 5"),
    Prediction(3, "the gain belongs to the sampler: at 50 steps there is less", "shapes/own-data@3 - shapes/base@0 "
               "- shapes/own-data@3 steps=50 + shapes/base@0 steps=50", "distance from base set", -1.0, -0.001, "theory: 5"),
    Prediction(3, "towards the winners the gain does not belong to the sampler", "shapes/spin@3 - shapes/base@0 - shapes/spin@3 steps=50 "
               "+ shapes/base@0 steps=50", "quality", -0.03, 0.03, "measured: rows of other samplers alike"),
    Prediction(3, "more steps of the sampler do not do what three rounds do", "shapes/spin@3 - shapes/base@0 steps=50", "quality", 0.08, UP,
               "measured: more steps do not help"),
    Prediction(3, "more guidance does not either", "shapes/spin@3 - shapes/base@0 guidance=6", "form", 0.005, UP,
               "measured: guidance sharpens and malforms"),
    Prediction(4, "three rounds of RSIDiff raise quality", "shapes/rsi@3 - shapes/base@0", "quality", 0.01, 0.20, "measured"),
    Prediction(4, "five further rounds do not", "shapes/rsi@8 - shapes/rsi@3", "quality", -0.20, 0.02, "measured: a peak, then a decline"),
    Prediction(4, "eight rounds cost form", "shapes/rsi@8 - shapes/base@0", "form", -0.50, -0.005, "theory: recursion, guidance compounds"),
    Prediction(4, "eight rounds cost obedience", "shapes/rsi@8 - shapes/base@0", "obedience", -0.30, -0.005, "measured"),
    Prediction(4, "it peaks in the flow world too", "shapes-flow/rsi@8 - shapes-flow/rsi@3", "quality", -0.20, 0.02, "measured once"),
    Prediction(4, "informative prompts help", "shapes/rsi@3 - shapes/no-prompts@3", "quality", 0.005, 0.20, "measured: a plain difference"),
    Prediction(4, "selection raises the scores that select", "shapes/rsi@3 - shapes/no-selection@3", LEARNED, 0.02, 1.0, "measured"),
    Prediction(4, "... and not quality", "shapes/rsi@3 - shapes/no-selection@3", "quality", -0.015, 0.015, "measured"),
    Prediction(4, "weights change nothing", "shapes/rsi@3 - shapes/no-weights@3", "quality", -0.015, 0.015, "theory: recursion"),
    Prediction(4, "more images cost obedience", "shapes/selected-1000@6 - shapes/selected-100@6", "obedience", -0.30, -0.005, "measured"),
    Prediction(4, "unguided rollouts give no gain", "shapes/guidance-1@3 - shapes/base@0", "quality", -0.20, 0.01,
               "theory: recursion, guidance 1 is neutral"),
    Prediction(4, "rollouts of guidance 6 cost form", "shapes/guidance-6@3 - shapes/rsi@3", "form", -0.50, -0.005, "theory: recursion"),
    Prediction(4, "careless recursion collapses", "shapes/careless@6 - shapes/base@0", "form", -1.0, -0.05, "measured"),
    Prediction(4, "real images cure it", "shapes/careless-real@6 - shapes/careless@6", "form", 0.03, 1.0, "theory: the drift is bounded"),
    Prediction(4, "keeping old samples cures it in part", "shapes/careless-accumulate@6 - shapes/careless@6", "form", 0.01, 1.0, "theory"),
    Prediction(4, "a gentle rate cures it", "shapes/careless-gentle@6 - shapes/careless@6", "form", 0.05, 1.0, "measured"),
    Prediction(4, "weights do not", "shapes/careless-weights@6 - shapes/careless@6", "form", -0.05, 0.05, "measured"),
    Prediction(5, "rounds 4 to 6 go on to raise learned scores", "shapes/spin@6 - shapes/spin@3", LEARNED, 0.02, 2.0, "measured"),
    Prediction(5, "... and no longer obedience", "shapes/spin@6 - shapes/spin@3", "obedience", -0.20, 0.01, "over-optimisation"),
    Prediction(5, "recursion raises learned scores to the end", "shapes/rsi@8 - shapes/rsi@3", LEARNED, 0.02, 2.0, "measured"),
    Prediction(5, "... while form falls", "shapes/rsi@8 - shapes/rsi@3", "form", -0.50, -0.003, "over-optimisation"),
]  # fmt: skip


def judged(root: str | Path = "book/results/experiments") -> pd.DataFrame:
    """Return every prediction with what was found and its verdict, one row each; what is not played yet is OPEN."""
    judgings, rows = Judgings(Path(root)), []
    for prediction in PREDICTIONS:
        found = estimate(judgings, prediction.terms, prediction.measure)
        rows.append(
            {
                "item": prediction.item, "prediction": prediction.claim, "measure": prediction.measure,
                "expected": f"{prediction.low:+.3g} to {prediction.high:+.3g}".replace(" to +inf", " at least"),
                "found": str(found) if found else "", "verdict": verdict(prediction, found), "because": prediction.because,
            }
        )  # fmt: skip
    return pd.DataFrame(rows).set_index("prediction")


def counts(rows: pd.DataFrame) -> Counter[str]:
    """Return how many predictions stood, fell, turned, and are not played yet."""
    return Counter(rows["verdict"])
