"""Test the claims of the RSIDiff paper on what has been exported.

Changes are paired by prompt, and arms seed by seed. With three or more seeds, intervals count seeds and prompts; with fewer, they count the
prompts alone.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from selfimprove.evaluation.aggregate import RAW
from selfimprove.recursion.collapse import LIMITS
from selfimprove_lab.claims.table import (
    AGREES,
    DIFFERS,
    OPEN,
    QUALITY,
    RIGHT,
    UNTESTABLE,
    Difference,
    Experiments,
    Row,
    difference,
    qualified,
    said,
    table,
    together,
)
from selfimprove_lab.results.arms import signed
from selfimprove_lab.results.evaluation import later_less_earlier, load_evaluations
from selfimprove_lab.results.rsi import Peak, peak
from selfimprove_lab.results.seeds import crossed_interval, seeds_with_intervals

ROUNDS, BESIDE = "chapter 8, Round after round", "chapter 8, Beside it"
LOST, CURES = "chapter 9, What is lost", "chapter 9, One remedy at a time"
PARTS, KEPT, WEIGHTS = "chapter 10, The three parts", "chapter 10, How many to keep", "chapter 10, The weights"
AWAY = ("distance", "nearest", "precision")  # signs that images have left the base's distribution
MEASURES = (RAW, QUALITY, RIGHT)  # the learned scores, which are all that the paper has, and the two truths
RSI, CARELESS = ("rsi_rounds", "rsi"), ("rsi_collapse", "careless")


def claims(root: str | Path) -> pd.DataFrame:
    """Return the table of claims, computed from whatever has been exported under `root`."""
    e = Experiments(Path(root))

    def against(
        first: tuple[str, str], second: tuple[str, str], at: int, columns: Sequence[str] = MEASURES, at_second: int | None = None
    ) -> tuple[str, str]:
        return said({c: difference(e, first, second, c, at, at_second) for c in columns})

    def beaten(arm: str) -> tuple[str, str]:
        """Compare the default with a cell of the ablations, at round 3."""
        return against(RSI, ("rsi_ablations", arm), 3)

    def cured(arm: str) -> tuple[str, str]:
        """Compare the careless arm with one cure and without, at the end."""
        return against(("rsi_collapse", arm), CARELESS, -1)

    long, weights = ("rsi_rounds", "sft-long"), "figure 10: 35 by overall results"
    rows = [
        Row(
            "recursion with selection and weights improves on the base", "HPS v2.1 +7.0 %, ImageReward +181.6 % at round 6", ROUNDS,
            *against(RSI, RSI, 6, at_second=0),
        ),
        Row(
            "scores that did not select improve too", "PickScore and ImageReward rise", ROUNDS,
            *against(RSI, RSI, 6, ("alignment", "saturation"), at_second=0),
        ),
        Row("text alignment by CLIP improves", "CLIP score rises", ROUNDS, *against(RSI, RSI, 6, ("clip",), at_second=0)),
        Row("the best round is in the middle, then it declines", "best at round 6 of 8", "chapter 8, The best round", *_peak(e)),
        Row("... and the learned scores decline after round 6", "figure 5", ROUNDS, *_declines(e)),
        Row(
            "better than SFT on all samples, trained twice as long", "at round 6", BESIDE, *against(RSI, long, 6, at_second=-1),
        ),
        Row("... already from round 4 on", "with 1,200 samples", BESIDE, *against(RSI, long, 4, at_second=-1)),
        Row(
            "filtered prompts give better images from the same model", "figure 4, one pair of images", "chapter 8, Is it the prompts?",
            *_prompts(e),
        ),
        Row("trained on its own images without care a model loses quality", "figure 2, pictures", LOST, *_fallen(e, CARELESS)),
        Row("... and its images leave the base's distribution", "figure 2, pictures", "chapter 9, The signs", *_away(e)),
        Row("filtered prompts mitigate that", "section 3.2", CURES, *cured("prompts")),
        Row("preference sampling does", "section 3.3", CURES, *cured("selection")),
        Row("weights by distance do", "section 3.4", CURES, *cured("weights")),
        Row("with templates in place of filtered prompts it is worse", "figure 7", PARTS, *beaten("no-prompts")),
        Row("without preference sampling it is worse", "figure 7", PARTS, *beaten("no-selection")),
        Row("without weights it is worse", "figure 7", PARTS, *beaten("no-weights")),
        Row("with none of the three it falls below the base", "figure 7", PARTS, *_fallen(e, ("rsi_ablations", "none"))),
        Row("300 of 5,000 beats 100", "figure 8", KEPT, *beaten("selected-100")),
        Row("1,000 of 5,000 lead early", "figure 8, before round 3", KEPT, *against(("rsi_ablations", "selected-1000"), RSI, 1)),
        Row("the 1,000 have lost the lead by round 3", "figure 8", KEPT, *beaten("selected-1000")),
        Row("2,000 of 5,000 lead early", "figure 8, before round 3", KEPT, *against(("rsi_ablations", "selected-2000"), RSI, 1)),
        Row("the 2,000 have lost the lead by round 3", "figure 8", KEPT, *beaten("selected-2000")),
        Row("with either PickScore falls in the end", "figure 8, after round 3", KEPT, _unseen(e), UNTESTABLE),
        Row("a smaller beta is worse", weights, WEIGHTS, *beaten("beta-low")),
        Row("a larger beta is worse", weights, WEIGHTS, *beaten("beta-high")),
        Row("a smaller sigma² is worse", "figure 11: 2 by overall results", WEIGHTS, *beaten("sigma-low")),
        Row("a larger sigma² is worse", "figure 11: 2 by overall results", WEIGHTS, *beaten("sigma-high")),
        Row(
            "a distance of 35 parts what is in from what is out", "section 3.4", "chapter 10, What would beta = 35 mean?",
            "no latents of Stable Diffusion 1.4 here; the page computes in which distance it could", UNTESTABLE,
        ),
        Row(
            "people prefer it to base and SFT", "69.0 % and 59.8 % (appeal), 77.2 % and 64.9 % (faithfulness)",
            "chapter 13, The papers' numbers, and yours", "no raters", UNTESTABLE,
        ),
        Row(
            "it carries over to SD3 with manual selection and LoRA", "figure 9, pictures", "nowhere",
            "no such model here", UNTESTABLE,
        ),
    ]  # fmt: skip
    return table(rows)


def _peaks(e: Experiments) -> tuple[list[Peak], int]:
    """Return where quality is best in every seed, on the prompts on which the best round is chosen, and the last round."""
    runs = e.load("rsi_rounds")
    if "rsi" not in runs:
        return [], 0
    peaks = [peak(runs, "rsi", seed, "oracle: quality", e.root / "rsi_rounds") for seed in runs["rsi"]]
    return peaks, len(next(iter(runs["rsi"].values()))["rounds"]) - 1


def _elsewhere(e: Experiments, peaks: Sequence[Peak], last: int) -> tuple[dict[str, Difference], int]:
    """Return the last round less the best one by the evaluation of chapter 11, {truth: difference}, and its number of prompts.

    The result is empty if seeds differ in their best round, if the best round is the base or the last, or if it was not judged there.
    """
    best = {p.best for p in peaks}
    if len(best) != 1 or best <= {0, last}:
        return {}, 0
    judged = load_evaluations(e.root / "evaluation_shapes" / "held-in")
    found = later_less_earlier(judged, f"RSIDiff round {best.pop()}", f"RSIDiff round {last}")
    differences = {score: Difference(float(m.mean()), *crossed_interval(m), len(m)) for score, m in found.items()}
    return differences, found[QUALITY].shape[1] if found else 0


def _peak(e: Experiments) -> tuple[str, str]:
    """Test whether quality falls after its best round: in every seed beyond its interval, and on other prompts if they were judged."""
    peaks, last = _peaks(e)
    if not peaks:
        return "not run yet", OPEN
    shown = ", ".join(f"round {p.best} (then {signed(p.fall, list(p.fall_ci95))})" for p in peaks)
    falls = [0 < p.best < last and p.fall_ci95[1] < 0 for p in peaks]
    verdict = AGREES if all(falls) else DIFFERS if all(p.best in (0, last) for p in peaks) else OPEN
    differences, prompts = _elsewhere(e, peaks, last)
    if not differences:
        return f"quality best at {shown}", verdict
    change = differences[QUALITY]
    here = f"quality best at {shown}; on {prompts} prompts, nearly all of them others, round {last} less round {peaks[0].best} is {change}"
    return here, verdict if verdict == change.reversed().verdict() else OPEN


def _declines(e: Experiments) -> tuple[str, str]:
    """Compare round 8 with round 6 by the average of the learned scores; the claim is that it falls."""
    change = difference(e, RSI, RSI, RAW, 8, 6)
    return said({RAW: change})[0], said({RAW: change.reversed() if change else None})[1]


def _prompts(e: Experiments) -> tuple[str, str]:
    runs = e.load("rsi_prompts").get("prompts", {})
    if not runs:
        return "not run yet", OPEN
    found = [r["sources"]["filtered"]["oracle: quality"] for r in runs.values()]
    means = [f["over_plain"] for f in found]
    own = [f["over_plain_ci95"] for f in found]
    mean, low, high = seeds_with_intervals(means, own) if len(means) > 2 else (means[0], *own[0])
    result = Difference(mean, low, high, len(means) if len(means) > 2 else 1)
    return f"quality {result}", together([result])


def _fallen(e: Experiments, arm: tuple[str, str]) -> tuple[str, str]:
    """Compare an arm's end with its beginning; the claim is that both oracle readings fall."""
    found = {c: difference(e, arm, arm, c, -1, 0) for c in MEASURES}
    return said(found)[0], together([d.reversed() for d in found.values() if d])


def _away(e: Experiments) -> tuple[str, str]:
    """Return the careless arm's signs of a shift after the last round, as ratios to the base's own, and the verdict.

    The verdict is "agrees" if all signs leave their range in every seed.
    """
    runs = e.load(CARELESS[0]).get(CARELESS[1], {})
    if not runs:
        return "not run yet", OPEN
    ends = [r["rounds"][-1]["drift"] for r in runs.values()]
    words = "; ".join(f"{name} {', '.join(f'{d[name]:.2f}' for d in ends)}" for name in AWAY)
    outside = [not LIMITS[name].low <= d[name] <= LIMITS[name].high for d in ends for name in AWAY]
    verdict = AGREES if all(outside) else OPEN if any(outside) else DIFFERS
    return f"ratios to the base's own at the end, by seed: {words}", qualified(verdict, len(ends))


def _unseen(e: Experiments) -> str:
    """Describe how a scorer that does not select changes from round 2 to the last round of these cells."""
    arms = {n: ("rsi_ablations", f"selected-{n}") for n in (1000, 2000)}
    found = {f"{n:,} kept": difference(e, arm, arm, "alignment", 3, 2) for n, arm in arms.items()}
    return f"no PickScore here, and these cells end at round 3; 'alignment', which does not select, from round 2 to 3: {said(found)[0]}"
