"""Test the empirical claims of the SPIN-Diffusion paper on what has been exported.

Changes are paired by prompt, and arms seed by seed. With three or more seeds, intervals count seeds and prompts; with fewer, they count the
prompts alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from selfimprove.evaluation.aggregate import RAW, Rule
from selfimprove.evaluation.statistics import bootstrap_interval
from selfimprove.scorers import SHAPES_SCORERS
from selfimprove_lab.claims.table import (
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
from selfimprove_lab.results.controls import images_seen
from selfimprove_lab.results.evaluation import BASE, STATISTICS, Evaluations, load_evaluations, tidy, values
from selfimprove_lab.results.seeds import crossed_interval, seeds_with_intervals
from selfimprove_lab.results.towards_data import data_table

BEST_OF = Rule(5)  # the paper's rule: of five images, the one with the best average of scores
LAST, DPO, SFT = "SPIN round 3", "DPO equal steps", "SFT equal steps"
SCORES = {RAW: "the scorers' average", QUALITY: "quality", RIGHT: "obedience"}
FORMS = "chapter 11, The models of this book, in the papers' forms"
BESIDE = "chapter 7, Beside it"
AGAIN = "chapter 7b, A new opponent, or the old one once more?"
SEEN = "chapter 7c, Against images seen"
SURPASS = "chapter 7d, Can it surpass its data?"


def claims(root: str | Path) -> pd.DataFrame:
    """Return the table of claims, computed from whatever has been exported under `root`."""
    experiments = Experiments(Path(root))
    judged = load_evaluations(Path(root) / "evaluation_shapes" / "held-in")

    def against(first: str, second: str, at: int, at_second: int, other: str = "spin_shapes") -> tuple[str, str]:
        return said({c: difference(experiments, ("spin_shapes", first), (other, second), c, at, at_second) for c in (RAW, QUALITY, RIGHT)})

    rounds = "chapter 7, Round after round"
    rows = [
        Row("round 1 improves on the base", "average 7.013 to 7.268", rounds, *against("spin", "spin", 1, 0)),
        Row("round 2 improves on round 1", "7.268 to 7.395", rounds, *against("spin", "spin", 2, 1)),
        Row("round 3 improves on round 2", "7.395 to 7.413", rounds, *against("spin", "spin", 3, 2)),
        Row(
            "round 1 surpasses the longest SFT", "7.268 against 7.195; not in HPS and ImageReward", BESIDE,
            *against("spin", "sft-compute", 1, -1),
        ),
        Row("in the end it surpasses SFT at equal steps", "7.413 against 7.195", BESIDE, *against("spin", "sft-steps", 3, -1)),
        Row("... and SFT at equal compute", "not compared", BESIDE, *against("spin", "sft-compute", 3, -1)),
        Row("round 2 surpasses Diffusion-DPO", "7.395 against 7.276; not in HPS", BESIDE, *against("spin", "dpo", 2, -1)),
        Row("fine-tuning has stopped improving", "figure 7: after 50,000 samples", SEEN, *_stalls(experiments)),
        Row("playing on against the old opponent stalls", "figure 5: even a decay", AGAIN, *_old_opponent(experiments)),
        Row("a new opponent gains more than the old one", "figure 5", AGAIN, *against("spin", "continued", 2, 2, "spin_controls")),
        Row("SFT of adapters stays below full SFT", "7.171 against 7.195", BESIDE, *against("sft-steps", "sft-lora", -1, -1)),
        Row("it leads towards the data, also downwards", "never past them (limitations)", SURPASS, *_surpasses(experiments)),
        Row(
            "it holds on other prompts", "PartiPrompts, HPSv2", "chapter 11, On scenes that nobody was trained on",
            *_elsewhere(Path(root) / "evaluation_shapes" / "held-out"),
        ),
        Row("without losers it matches what needs them", "no loser is used", BESIDE, *against("spin", "dpo", 3, -1)),
        Row("by scores it wins most prompts from the base", "91.6 % (table 3)", FORMS, *_won(judged, BASE, (RAW,))),
        Row("... and by quality and obedience", "not measured", FORMS, *_won(judged, BASE, (QUALITY, RIGHT))),
        Row("... more of them than SFT at equal steps does", "91.6 % against 73.2 %", FORMS, *_won_beyond(judged, SFT)),
        Row("... and than Diffusion-DPO does", "91.6 % against 84.8 %", FORMS, *_won_beyond(judged, DPO)),
        Row("by scores it wins most prompts from Diffusion-DPO", "70.2 % (table 4)", FORMS, *_won(judged, DPO, (RAW,))),
        Row("medians of the scores rise as means do", "7.036 to 7.483 (table 2)", FORMS, *_medians(judged)),
        Row(
            "of the scorers PickScore agrees best with people", "section 6.1, citing Pick-a-Pic", "chapter 11, Agreement with labels",
            "no labels by people and no PickScore here; the page holds this world's scorers against this world's labels", UNTESTABLE,
        ),
    ]  # fmt: skip
    return table(rows)


def _elsewhere(folder: Path) -> tuple[str, str]:
    """Return the gains of round 3 on prompts whose scenes no model was trained on; intervals count seeds and prompts."""
    evaluations = load_evaluations(folder)
    if {BASE, LAST} - set(evaluations):
        return "not run yet", OPEN
    rows = tidy(evaluations, statistic="difference").set_index(["model", "score"])
    found = {c: rows.loc[(LAST, c)] for c in (QUALITY, RIGHT)}
    return said({c: Difference(float(r["mean"]), float(r["low"]), float(r["high"]), int(r["seeds"])) for c, r in found.items()})


def _best(evaluations: Evaluations, *models: str) -> Mapping[str, Mapping[str, np.ndarray]] | None:
    """Return {model: {score: array (seeds, prompts)}} of the best of five, over the seeds that all have; None if a model is missing."""
    if {BASE, *models} - set(evaluations):
        return None
    seeds = set.intersection(*(set(evaluations[m]) for m in models if m != BASE))
    chosen = {m: {s: e for s, e in evaluations[m].items() if m == BASE or s in seeds} for m in (BASE, *models)}
    return values(chosen, SHAPES_SCORERS, BEST_OF) if seeds else None


def _won(evaluations: Evaluations, over: str, scores: Sequence[str]) -> tuple[str, str]:
    """Return the per cent of prompts that round 3 wins from `over`; a tie counts half. The claim is that this is more than half."""
    found = _best(evaluations, LAST, over)
    if found is None:
        return "not run yet", OPEN
    words, less_half = [], []
    for score in scores:
        won = STATISTICS["wins"](found[LAST][score], found[over][score])
        low, high = crossed_interval(won)
        words.append(f"{SCORES[score]} {won.mean():.1f} % [{max(low, 0):.1f}, {min(high, 100):.1f}]")
        less_half.append(Difference(float(won.mean()) - 50, low - 50, high - 50, len(won)))
    return f"{'; '.join(words)} ({_seeds(less_half[0])})", together(less_half)


def _won_beyond(evaluations: Evaluations, other: str) -> tuple[str, str]:
    """Return by how many points round 3 wins more prompts from the base than `other` does.

    Wins are by the scorers' average, paired by seed and prompt.
    """
    found = _best(evaluations, LAST, other)
    if found is None:
        return "not run yet", OPEN
    won = {name: STATISTICS["wins"](found[name][RAW], found[BASE][RAW]) for name in (LAST, other)}
    points = won[LAST] - won[other]
    beyond = Difference(float(points.mean()), *crossed_interval(points), len(points))
    interval = f"{beyond.mean:+.1f} points [{beyond.low:+.1f}, {beyond.high:+.1f}] ({_seeds(beyond)})"
    return f"{won[LAST].mean():.1f} % against {won[other].mean():.1f} %, {interval}", together([beyond])


def _medians(evaluations: Evaluations) -> tuple[str, str]:
    """Return the median over prompts of the scorers' average at round 3 less the base's; each seed's own interval is combined."""
    found = _best(evaluations, LAST)
    if found is None:
        return "not run yet", OPEN
    changes = [ours - found[BASE][RAW][0] for ours in found[LAST][RAW]]
    own = [bootstrap_interval(c, np.median) for c in changes]
    medians = [float(np.median(c)) for c in changes]
    median = Difference(*seeds_with_intervals(medians, own), len(medians))
    return f"median change of the scorers' average {median}", together([median])


def _seeds(found: Difference) -> str:
    return f"{found.seeds} seed{'s' * (found.seeds != 1)}"


def _stalls(experiments: Experiments) -> tuple[str, str]:
    """Test whether fine-tuning gains nothing more beyond about 50,000 samples: the longest run less one that ended before."""
    runs = experiments.load("spin_map")
    short, long = "sft-steps-240", "sft-steps-720"
    if {short, long} - set(runs):
        return "not run yet", OPEN
    seen = [images_seen(next(iter(runs[arm].values())), 1) for arm in (short, long)]
    words, verdict = _no_gain({c: difference(experiments, ("spin_map", long), ("spin_map", short), c, 1) for c in (RAW, QUALITY)})
    return f"from {seen[0]:,} to {seen[1]:,} samples: {words}", verdict


def _old_opponent(experiments: Experiments) -> tuple[str, str]:
    """Test whether a second round against the old opponent and its images gains nothing."""
    old = ("spin_controls", "continued")
    return _no_gain({c: difference(experiments, old, old, c, 2, 1) for c in SCORES})


def _no_gain(found: dict[str, Difference | None]) -> tuple[str, str]:
    """Return the changes in words, and the verdict on the claim that there is no rise."""
    return said(found)[0], said({c: d.reversed() if d else None for c, d in found.items()})[1]


def _surpasses(experiments: Experiments) -> tuple[str, str]:
    """Return how far below the winners three rounds end, and what a round does to quality that is already above its data's."""
    rows = data_table(experiments.root)
    own = ("spin_controls", "own-data")
    change = difference(experiments, own, own, QUALITY, 1, 0)
    if change is None or rows.empty:
        return "not run yet", OPEN
    level, base = (float(rows.loc[("quality", "the base's own data"), name]) for name in ("the data's", "the base's"))
    ends = [r["rounds"][-1]["oracle"]["quality"]["mean"] for r in experiments.load("spin_shapes").get("spin", {}).values()]
    winners = float(rows.loc[("quality", "the winners"), "the data's"])
    words = f"the data were not reached: three rounds end at {np.mean(ends):.2f}, the winners are at {winners:.2f}; "
    words += f"from {base:.3f}, above data of {level:.3f}, a round changes quality by {change} and ends at {base + change.mean:.3f}"
    return words, qualified(change.reversed().verdict(), change.seeds) if base > level else UNTESTABLE
