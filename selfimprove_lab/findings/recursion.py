"""Number what the pages on recursion state: eight rounds, collapse and its cures, and the ablations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfimprove.evaluation.aggregate import RAW
from selfimprove_lab.claims.table import QUALITY, RIGHT, Experiments, difference
from selfimprove_lab.findings.cells import cells, spoken
from selfimprove_lab.results.arms import load_results
from selfimprove_lab.results.evaluation import later_table, load_evaluations
from selfimprove_lab.results.lost import share_no_scene
from selfimprove_lab.results.rsi import (
    CURES,
    ERROR_LIMIT,
    ends_table,
    gap_table,
    label,
    peak,
    prompt_sources_table,
    visible,
    warning_counts,
    warnings_table,
)

SCORES = {name: name for name in ("quality", "obedience", "clip", "shading", "alignment")}
AT = 3  # the round at which the ablations are compared
SELECTORS = ("clip", "aesthetic", "shading", "saturation", "alignment")


def rsi(root: Path) -> dict[str, str]:
    """Return the ends of eight rounds and of what stands beside them, the change after the best round, and what prompts do."""
    runs, experiments = load_results(root / "rsi_rounds"), Experiments(root)
    rows = {label("rsi"): "end"} | {label(arm): arm.replace("-", "_") for arm in ("sft-equal", "sft-long", "spin")}
    found = cells("rsi", ends_table(runs, ["rsi", "sft-equal", "sft-long", "spin"]), rows, SCORES)
    for other in ("sft-equal", "sft-long", "spin"):
        for column, name in {RAW: "average", QUALITY: "quality", RIGHT: "obedience"}.items():
            less = difference(experiments, ("rsi_rounds", "rsi"), ("rsi_rounds", other), column, -1)
            found[f"rsi_over_{other.replace('-', '_')}_{name}"] = spoken(less)
    later = later_table(load_evaluations(root / "evaluation_shapes" / "held-in"), "RSIDiff round 5", "RSIDiff round 8")
    columns = {f"{name}, RSIDiff round 8 less RSIDiff round 5": name for name in ("quality", "obedience")}
    found |= cells("rsi_8_less_5", later, {row: "" if row == "all seeds" else row.replace(" ", "_") for row in later.index}, columns)
    sources = prompt_sources_table(load_results(root / "rsi_prompts"))
    found |= cells("rsi", sources, {"oracle: quality": "quality"}, {f"{s} less plain": f"{s}_prompts" for s in ("filtered", "template")})
    best = [peak(runs, "rsi", seed, "oracle: quality", root / "rsi_rounds").best for seed in runs["rsi"]]
    found["rsi_no_scene"] = share_no_scene(root / "evaluation_shapes" / "held-in", "rsidiff-round-8-seed-{seed}")
    found["rsi_best"] = ", ".join(map(str, best))
    found["rsi_prompts"] = str(next(iter(runs["rsi"].values()))["rounds"][0]["n_prompts"])
    found["rsi_damage"] = ", ".join(str(visible(result)) for result in runs["rsi"].values())
    return found


def _right(result: Mapping[str, Any], index: int) -> float:
    return float(result["rounds"][index]["oracle"]["all_right"]["mean"])


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def collapse(root: Path) -> dict[str, str]:
    """Return what each cure leaves after six rounds, when the damage is plain, and what the signs read on the way."""
    runs = load_results(root / "rsi_collapse")
    arms = {arm: arm.replace("-", "_") for arm in ("careless", *CURES)}
    found = cells("collapse", ends_table(runs, list(arms)), {label(arm): name for arm, name in arms.items()}, SCORES)
    for arm, name in arms.items():
        seeds = runs[arm]
        found[f"collapse_left_{name}"] = ", ".join(f"{_right(r, -1):.0%}" for r in seeds.values()) + (
            " (one seed)" if len(seeds) == 1 else ""
        )
    careless = runs["careless"]
    found["collapse_right_base"] = _percent(_right(careless[0], 0))
    found["collapse_right_4"] = ", ".join(_percent(_right(r, 4)) for r in careless.values())
    for sign in ("variance", "distance"):
        for k in (1, 2, 3, 4):
            found[f"collapse_{sign}_{k}"] = ", ".join(f"{r['rounds'][k]['drift'][sign]:.2f}" for r in careless.values())
    error = [[r["rounds"][k]["scores"]["held_out_error"]["mean"] for k in (0, 1)] for r in careless.values()]
    found["collapse_error_1"] = ", ".join(f"{100 * (after / before - 1):+.0f} %" for before, after in error)
    found["collapse_error_limit"] = _percent(ERROR_LIMIT)
    warned = warnings_table(runs | {"rsi": load_results(root / "rsi_rounds")["rsi"]})
    damaged = int(warned["damage is plain"].ne("-").sum())
    found["collapse_runs"], found["collapse_damaged"] = str(len(warned)), str(damaged)
    found["collapse_undamaged"] = str(len(warned) - damaged)
    counts = warning_counts(warned)
    for row, name in {"any sign on the latents": "sign", "error on real images": "error"}.items():
        for column, when in {
            "before the damage": "before", "in the same round": "with", "later or never": "late", "false alarm": "false",
        }.items():  # fmt: skip
            found[f"collapse_{name}_{when}"] = str(counts.loc[row, column])
    found["collapse_prompts"] = str(careless[0]["rounds"][0]["n_prompts"])
    return found


def ablation(root: Path) -> dict[str, str]:
    """Return every cell of the ablations at round 3, the default beside them, and what lies beyond both papers."""
    made, runs, experiments = load_results(root / "rsi_ablations"), load_results(root / "rsi_rounds"), Experiments(root)
    made_first = made | {"rsi-seed-0": {0: runs["rsi"][0]}}
    rows = {label(arm): arm.replace("-", "_").replace(".", "_") for arm in ("rsi", *made_first)}
    found = cells("ablation", ends_table(runs | made_first, ["rsi", *made_first], at=AT), rows, SCORES)
    for arm in made:
        for column, name in {RAW: "average", QUALITY: "quality", RIGHT: "obedience"}.items():
            less = difference(experiments, ("rsi_rounds", "rsi"), ("rsi_ablations", arm), column, AT)
            found[f"ablation_over_{arm.replace('-', '_').replace('.', '_')}_{name}"] = spoken(less)
    gaps = gap_table(made, {f"by-{name}": name for name in SELECTORS})
    for (scorer, _), row in gaps.iterrows():
        found |= {f"ablation_gap_{scorer}_{c.replace(' ', '_')}": f"{row[c]:+.2f}" for c in ("that scorer", "quality", "obedience")}
    ends = [r["rounds"][AT]["oracle"]["quality"]["delta_base"] for r in runs["rsi"].values()]
    found["ablation_seeds_from"], found["ablation_seeds_to"] = (f"{end:+.3f}" for end in (min(ends), max(ends)))
    gentle = made["guidance-1.5"][0]["identity"]["guidance"]
    found["ablation_gentle_guidance"] = f"{gentle:g}"
    beyond = runs | load_results(root / "rsi_beyond")
    names = {arm: label(arm) for arm in ("spin", "spin-weighted", "spin-weighted-nearest", "rsi-after-spin")}
    return found | cells("ablation_beyond", ends_table(beyond, list(names)), {v: k.replace("-", "_") for k, v in names.items()}, SCORES)
