"""Number what the pages on judging state: models in the papers' forms, guidance, and how many claims hold."""

from pathlib import Path

import pandas as pd

from selfimprove.evaluation.aggregate import MEAN, Rule
from selfimprove.evaluation.statistics import bootstrap_interval
from selfimprove.scorers import SHAPES_SCORERS
from selfimprove_lab.claims import rsi as rsi_claims
from selfimprove_lab.claims import spin as spin_claims
from selfimprove_lab.claims.table import AGREES, DIFFERS, OPEN, UNTESTABLE, claimed
from selfimprove_lab.findings.cells import cells
from selfimprove_lab.results.arms import readable, signed
from selfimprove_lab.results.evaluation import BASE, guidance_table, interval_widths, load_evaluations, table, values

SHOWN = {"oracle quality": "quality", "oracle obedience": "obedience", "average": "average", "average of z": "average_of_z"}


def _rows(models: pd.Index) -> dict[str, str]:
    return {model: model.lower().replace(" ", "_") for model in models}


def judge(root: Path) -> dict[str, str]:
    """Return every model's scores, differences from the base and prompts won, on scenes seen and not seen, and by guidance."""
    folder = root / "evaluation_shapes"
    found: dict[str, str] = {}
    judged, elsewhere = (load_evaluations(folder / name) for name in ("held-in", "held-out"))
    for form, (kind, rule) in {
        "best": ("mean", Rule(5)), "gain": ("difference", MEAN), "best_gain": ("difference", Rule(5)), "won": ("wins", Rule(5)),
    }.items():  # fmt: skip
        shown = table(judged, kind, rule)
        found |= cells(f"judge_{form}", shown, _rows(shown.index), SHOWN)
    shown = table(elsewhere, "difference")
    found |= cells("judge_elsewhere", shown, _rows(shown.index), SHOWN)
    swept = guidance_table(load_evaluations(folder / "guidance"), 3.0)
    names = {(model, g): f"{model} at {g:g}".lower().replace(" ", "_").replace(".", "_") for model, g in swept.index}
    beside = {"there": "there", "at 3": "at_3"}
    columns = {f"{name}, over the base {w}": f"{name}_{short}" for name in ("quality", "obedience") for w, short in beside.items()}
    found |= cells("judge_guidance", swept, names, columns)
    best, every = (values({BASE: judged[BASE]}, SHAPES_SCORERS, rule)[BASE] for rule in (Rule(5), MEAN))
    for score in best:
        if name := SHOWN.get(readable(score)):
            gain = (best[score] - every[score])[0]
            found[f"judge_choosing_{name}"] = signed(float(gain.mean()), bootstrap_interval(gain))
    base = next(iter(judged["base"].values()))
    widths = interval_widths(next(iter(judged["SPIN round 3"].values())), base, "oracle_quality", [500]).iloc[0]
    times = widths["difference of unpaired models"] / widths["paired difference"]
    found["judge_unpaired_times"], found["judge_unpaired_prompts"] = f"{times:.1f}", f"{times**2:.0f}"
    found["judge_prompts"] = str(base.table["prompt"].nunique())
    found["judge_prompts_elsewhere"] = str(next(iter(elsewhere["base"].values())).table["prompt"].nunique())
    return found


def claims(root: Path) -> dict[str, str]:
    """Return the number of claims of each paper's experiments, by verdict; `mixed` are those whose measures disagree.

    `agree_scores` are those that agree by learned scores alone, because they speak of nothing else.
    """
    found: dict[str, str] = {}
    for paper, rows in {"spin": spin_claims.claims(root), "rsi": rsi_claims.claims(root)}.items():
        made = claimed(rows)
        verdicts = made["verdict"].str.replace(r", (one seed|\d+ seeds?)$", "", regex=True)
        known = {AGREES: "agree", DIFFERS: "differ", OPEN: "open", UNTESTABLE: "untestable"}
        found |= {f"claims_{paper}_{name}": str((verdicts == verdict).sum()) for verdict, name in known.items()}
        alone = ~made["here"].str.contains("quality|obedience")
        found[f"claims_{paper}_agree_scores"] = str(((verdicts == AGREES) & alone).sum())
        found[f"claims_{paper}_mixed"] = str((~verdicts.isin(list(known))).sum())
        found[f"claims_{paper}_rows"] = str(len(made))
    return found
