"""Make the tables and figures of self-play's controls, and of the map of where self-play pays compared with fine-tuning."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from selfimprove.evaluation.aggregate import RAW
from selfimprove.evaluation.statistics import bootstrap_interval, student_interval
from selfimprove.models.samplers import SAMPLERS
from selfimprove.scorers import SHAPES_SCORERS
from selfimprove_lab.claims.table import QUALITY, RIGHT, Experiments, difference
from selfimprove_lab.figures.comparison import MARKERS, colours
from selfimprove_lab.figures.forest import legend, point
from selfimprove_lab.results.arms import Results, signed
from selfimprove_lab.results.seeds import seeds_with_intervals

CONTROLS = {  # arm of spin_controls -> what was changed
    "pushing-off": "no pushing term",
    "reweighting-frozen": "reweighting frozen at its first value",
    "correlation": "correlation link",
    "hinge": "hinge link",
    "noise-apart": "noise of the two sides apart",
    "all-apart": "noise and time step apart",
    "ddim-few": "eight sampler steps: DDIM",
    "dpm++-few": "eight sampler steps: DPM-Solver++",
    "unipc-few": "eight sampler steps: UniPC",
}
AXES = {  # prefix of a cell of the map -> what it moves
    "default": "default",
    "images": "number of real images",
    "from": "base, moved before",
    "steps": "optimiser steps",
    "lr": "learning rate",
    "beta": "beta",
    "guidance": "guidance of the rollout",
    "rank": "capacity: rank of an adapter",
    "blocks": "capacity: times the blocks of the denoiser",
}


def controls_table(root: str | Path) -> pd.DataFrame:
    """Return the change from the base in a round with one thing changed, and that less the same seed's round without the change."""
    experiments, rows = Experiments(Path(root)), []
    plain = ("spin_shapes", "spin")
    for arm, label in {"": "nothing: the round as it is", **CONTROLS}.items():
        own = ("spin_controls", arm) if arm else plain
        row = {"changed": label}
        for column, name in ((QUALITY, "quality"), (RIGHT, "obedience")):
            row[f"{name}, change in the round"] = str(difference(experiments, own, own, column, 1, 0) or "not run")
            row[f"{name}, against the round as it is"] = str(difference(experiments, own, plain, column, 1) or "not run") if arm else ""
        rows.append(row)
    return pd.DataFrame(rows).set_index("changed")


def samplers_table(root: str | Path) -> pd.DataFrame:
    """Return what a round gains over the base, by the sampler of its opponent's images (columns) and the sampler that draws both models.

    Gains are paired by prompt, with 95 % intervals over prompts; several seeds are averaged. Without exported files the table is empty.
    """
    columns: dict[str, dict[str, str]] = {}
    files = sorted((Path(root) / "spin_samplers").glob("*-prompts.parquet"))
    if not files:
        return pd.DataFrame()
    scores = pd.concat(pd.read_parquet(file) for file in files).groupby(["trained", "drawn", "prompt"]).mean()
    known = scores.index.unique("drawn")
    for trained in filter(known.__contains__, SAMPLERS):
        gains = columns[f"opponent drawn by {SAMPLERS[trained].label}"] = {}
        for column, name in ((QUALITY, "quality"), (RIGHT, "obedience")):
            for drawn in filter(known.__contains__, SAMPLERS):
                gain = (scores.loc[(trained, drawn), column] - scores.loc[("base", drawn), column]).to_numpy(dtype=np.float64)
                gains[f"{name}, drawn by {SAMPLERS[drawn].label}"] = signed(float(gain.mean()), list(bootstrap_interval(gain)))
    return pd.DataFrame(columns)


BUDGETS = {  # arm -> the baseline that it is to be held against, and how much of it
    "spin": {"sft-steps": "SFT, equal steps", "sft-examples": "SFT, equal images", "sft-compute": "SFT, equal compute",
             "dpo": "DPO, equal steps", "dpo-compute": "DPO, equal compute", "frozen": "frozen opponent, equal steps"},
    "spin-lora": {"sft-lora": "SFT, equal steps", "sft-compute-lora": "SFT, equal compute", "dpo-lora": "DPO, equal steps",
                  "dpo-compute-lora": "DPO, equal compute"},
}  # fmt: skip


def budgets_table(root: str | Path) -> pd.DataFrame:
    """Return three rounds of self-play less each baseline, paired by seed and prompt; one row per budget, all weights and adapters."""
    experiments, rows = Experiments(Path(root)), []
    for arm, baselines in BUDGETS.items():
        for other, label in baselines.items():
            row = {"trained": "adapters" if "lora" in arm else "all weights", "SPIN less": label}
            for column, name in ((QUALITY, "quality"), (RIGHT, "obedience")):
                row[name] = str(difference(experiments, ("spin_shapes", arm), ("spin_shapes", other), column, -1) or "not run")
            rows.append(row)
    return pd.DataFrame(rows).set_index(["trained", "SPIN less"])


PATHS = {  # arms along which a method goes on
    "SPIN, rounds 1 to 3": ["spin"], "SFT": ["sft-steps", "sft-examples", "sft-compute"], "DPO": ["dpo", "dpo-compute"],
    "frozen opponent": ["frozen"], "SPIN, adapters": ["spin-lora"], "SFT, adapters": ["sft-lora", "sft-compute-lora"],
    "DPO, adapters": ["dpo-lora", "dpo-compute-lora"],
}  # fmt: skip


def price_figure(results: Results, paths: Mapping[str, Sequence[str]] = PATHS) -> Figure:
    """Draw how much obedience is paid for how much quality: one line per method, one point per arm's end or round.

    Bars are 95 % intervals over seeds and prompts. `paths` maps a method's name to the arms along which it goes on.
    """
    figure, axis = plt.subplots(figsize=(7, 3.8), constrained_layout=True)
    shades = colours(list(paths))
    for marker, (name, arms) in zip(MARKERS, paths.items(), strict=False):
        points = []
        for seeds in (results[arm] for arm in arms if arm in results):
            for index in range(1, len(next(iter(seeds.values()))["rounds"])):
                truths = [r["rounds"][index]["oracle"] for r in seeds.values()]
                points.append(
                    [
                        seeds_with_intervals([t[k]["delta_base"] for t in truths], [t[k]["delta_base_ci95"] for t in truths])
                        for k in ("quality", "all_right")
                    ]
                )
        if not points:
            continue
        x, y = np.moveaxis(np.array(points), 1, 0)
        axis.errorbar(
            x[:, 0], y[:, 0], xerr=np.abs(x[:, 1:].T - x[:, 0]), yerr=np.abs(y[:, 1:].T - y[:, 0]), marker=marker, ms=4, capsize=0, lw=1,
            elinewidth=0.6, ls=":" if "adapters" in name else "-", color=shades[name], label=name,
        )  # fmt: skip
    axis.axhline(0, color="0.7", lw=1)
    axis.set(xlabel="quality (oracle), change from the base", ylabel="obedience (oracle), change from the base")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


SECOND = {QUALITY: "quality, change in round 2", RIGHT: "obedience, change in round 2", RAW: "scorers' average, change in round 2"}


def second_round_table(root: str | Path) -> pd.DataFrame:
    """Answer fig. 5's question: after round 1, play against round 1's player, or once more against the base and its images?"""
    experiments = Experiments(Path(root))
    new, old = ("spin_shapes", "spin"), ("spin_controls", "continued")
    pairs = {
        "a new opponent, with its images": (new, new, 1),
        "the old opponent, with its images": (old, old, 1),
        "old less new": (old, new, None),
    }
    rows = {
        label: {name: str(difference(experiments, first, second, column, 2, before) or "not run") for column, name in SECOND.items()}
        for label, (first, second, before) in pairs.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def partner(cell: str) -> str:
    """Return the arm of fine-tuning that belongs to a cell; fine-tuning has no beta, so cells that move beta share the default's."""
    return "sft-default" if cell.startswith("beta") else f"sft-{cell}"


def cells(results: Results) -> list[str]:
    """Return the map's cells that have been played, in the order of its axes."""
    played = [arm.removeprefix("spin-") for arm in results if arm.startswith("spin-") and partner(arm.removeprefix("spin-")) in results]

    def order(cell: str) -> tuple[int, float, str]:
        axis, _, value = cell.partition("-")
        number = value.removesuffix("x")
        return list(AXES).index(axis), float(number) if number.replace(".", "").isdigit() else 0.0, value

    return sorted(played, key=order)


def map_table(root: str | Path) -> pd.DataFrame:
    """Return every cell played so far: self-play and fine-tuning at equal compute, from the same base on the same images."""
    experiments, rows = Experiments(Path(root)), []
    for cell in cells(experiments.load("spin_map")):
        arms = [("spin_map", f"spin-{cell}"), ("spin_map", partner(cell))]
        changes = [str(difference(experiments, arm, arm, column, 1, 0)) for column in (QUALITY, RIGHT) for arm in arms]
        beside = [difference(experiments, arms[0], arms[1], column, 1) for column in (QUALITY, RIGHT)]
        ahead = {c: d.verdict() for c, d in zip(("quality", "obedience"), beside, strict=True) if d}
        signs = {"agrees": "self-play", "differs": "fine-tuning"}
        said = ", ".join(f"{signs[v]} in {c}" for c, v in ahead.items() if v in signs) or "neither"
        seeds = min(d.seeds for d in beside if d)
        said += f" ({'one seed' if seeds == 1 else f'{seeds} seeds'})" if said != "neither" and seeds < 3 else ""
        axis, _, value = cell.partition("-")
        of_quality, of_right = (*changes[:2], str(beside[0])), (*changes[2:], str(beside[1]))
        rows.append((AXES[axis], value or "as it is", *of_quality, *of_right, said))
    names = ["moved", "cell", "SPIN: quality", "SFT: quality", "SPIN - SFT: quality", "SPIN: obedience", "SFT: obedience",
             "SPIN - SFT: obedience", "ahead"]  # fmt: skip
    return pd.DataFrame(rows, columns=names).set_index(["moved", "cell"])


def map_figure(root: str | Path) -> Figure:
    """Draw each cell's self-play less its fine-tuning in both oracle readings, with 95 % intervals; right of zero self-play is ahead.

    Hollow points have fewer than three seeds; their intervals count the prompts alone.
    """
    experiments = Experiments(Path(root))
    played = cells(experiments.load("spin_map"))
    if not played:
        figure = plt.figure(figsize=(9, 0.6))
        figure.text(0.5, 0.5, "no cell has been played yet: make spin-map", ha="center", va="center")
        return figure
    figure, axes = plt.subplots(1, 2, figsize=(9, 1.3 + 0.28 * max(len(played), 1)), sharey=True, constrained_layout=True)
    for axis, column, label in zip(axes, (QUALITY, RIGHT), ("quality (oracle)", "obedience (oracle)"), strict=True):
        for row, cell in enumerate(played):
            found = difference(experiments, ("spin_map", f"spin-{cell}"), ("spin_map", partner(cell)), column, 1)
            if found:
                point(axis, row, found.mean, found.low, found.high, hollow=found.seeds < 3)
        axis.axvline(0, color="0.7", lw=1)
        axis.set(xlabel=f"SPIN minus SFT: {label}")
    named = [f"{AXES[axis]}: {value}" if value else AXES[axis] for axis, _, value in (cell.partition("-") for cell in played)]
    axes[0].set(yticks=range(len(played)), yticklabels=named, ylim=(len(played) - 0.5, -0.5))
    legend(figure, hollow="fewer than three seeds: intervals over prompts alone")
    return figure


def scorers_average(metrics: dict[str, Any]) -> float:
    """Return the mean of a round's learned scores, as the paper averages its scorers; the scorer with the widest range dominates."""
    return float(np.mean([metrics["scores"][name]["mean"] for name in SHAPES_SCORERS]))


def samples_figure(results: Results) -> Figure:
    """Answer fig. 7's question: draw the scorers' average and quality against images trained on.

    Points are means over seeds, with Student's 95 % intervals.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    lines = {
        "SPIN": ["spin"], "SFT": ["sft-steps", "sft-examples", "sft-compute"], "DPO": ["dpo", "dpo-compute"], "frozen opponent": ["frozen"],
    }  # fmt: skip
    read: dict[str, Callable[[dict[str, Any]], float]] = {
        "average of the five scorers": scorers_average, "quality (oracle)": lambda metrics: float(metrics["oracle"]["quality"]["mean"]),
    }  # fmt: skip
    shades, base = colours(list(lines)), next(iter(results.get("spin", {}).values()), None)
    for axis, (title, value) in zip(axes, read.items(), strict=True):
        for marker, (label, arms) in zip(MARKERS, lines.items(), strict=False):
            points: dict[int, list[float]] = {}
            for arm in arms:
                for result in results.get(arm, {}).values():
                    seen = 0
                    for index, metrics in enumerate(result["rounds"][1:], start=1):
                        seen += images_seen(result, index)
                        points.setdefault(seen, []).append(value(metrics))
            if points:
                x = sorted(points)
                means = [float(np.mean(points[k])) for k in x]
                bounds = [student_interval(points[k])[1:] if len(points[k]) > 1 else (m, m) for k, m in zip(x, means, strict=True)]
                error = np.array([[m - low, high - m] for m, (low, high) in zip(means, bounds, strict=True)]).T
                axis.errorbar(x, means, yerr=error, marker=marker, ms=4, capsize=2, color=shades[label], label=label)
        if base:
            axis.axhline(value(base["rounds"][0]), color="0.6", lw=0.8, ls="--", label="base model")
        axis.set(xlabel="images trained on, both sides counted", ylabel=title)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return figure


def images_seen(result: dict[str, Any], index: int) -> int:
    """Return the number of images that round `index` trained on; both sides and every repetition count."""
    s = result["identity"]
    value = {name: s.get(f"round {index} {name}", s[name]) for name in ("steps", "batch", "objective")}
    return value["steps"] * value["batch"] * (2 if value["objective"] == "spin" else 1)
