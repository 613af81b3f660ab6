"""Load exported experiments (`book/results/`), and make the tables and figures of them that pages and the README show."""

import json
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from selfimprove.evaluation.statistics import student_interval
from selfimprove_lab.results.seeds import seeds_with_intervals

Results = dict[str, dict[int, dict[str, Any]]]  # arm -> seed -> what was exported
ARMS = {  # arm -> what a reader should call it
    "spin": "SPIN, round 3",
    "sft-steps": "SFT, equal steps",
    "sft-examples": "SFT, equal number of images",
    "sft-compute": "SFT, equal compute",
    "dpo": "Diffusion-DPO, equal steps",
    "dpo-compute": "Diffusion-DPO, equal compute",
    "spin-lora": "SPIN with adapters, round 3",
    "sft-lora": "SFT with an adapter, equal steps",
    "sft-compute-lora": "SFT with an adapter, equal compute",
    "dpo-lora": "Diffusion-DPO with an adapter, equal steps",
    "dpo-compute-lora": "Diffusion-DPO with an adapter, equal compute",
    "frozen": "frozen opponent, equal steps",
    "null": "null: fresh real images as the opponent's, one round",
    "null-reencoded": "null: the same, encoded twice, one round",
}
TRUTH_LABELS = {"quality": "quality (oracle)", "all_right": "obedience (oracle)"}


def load_results(folder: str | Path) -> Results:
    """Return {arm: {seed: exported result}}; arms that have not been run are absent."""
    results: Results = {}
    for path in sorted(Path(folder).glob("*-[0-9]*.json")):
        result = dict(_parsed(path, path.stat().st_mtime_ns))
        if "identity" in result:  # not in what is no run, such as sources of prompts
            result["identity"] = renamed(result["identity"])
        results.setdefault(result["arm"], {})[result["seed"]] = result
    return results


@lru_cache(maxsize=512)
def _parsed(path: Path, written: int) -> dict[str, Any]:
    """Return an exported result. Pages and named numbers read the same files many times; `written` makes a changed file be read again."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def renamed(identity: dict[str, Any]) -> dict[str, Any]:
    """Return an exported identity with today's names: earlier runs, all on one process, record the batch as two factors."""
    factors = [identity[name] for name in ("batch_size", "accumulation") if name in identity]
    if not factors:
        return identity
    return {k: v for k, v in identity.items() if k not in ("batch_size", "accumulation")} | {"batch": math.prod(factors)}


def readable(score: str) -> str:
    """Return a score's name for readers: "oracle: all_right" and "oracle_all_right" are the oracle's obedience; others lose their "_"."""
    return score.replace("all_right", "obedience").replace("_", " ")


def signed(value: float, bounds: Sequence[float]) -> str:
    return f"{value:+.3f} [{bounds[0]:+.3f}, {bounds[1]:+.3f}]"


def rounds_table(results: Results, arm: str = "spin") -> pd.DataFrame:
    """Return both oracle readings, and their paired changes with each seed's own 95 % interval, one row per seed and round."""
    rows = []
    for seed, result in results.get(arm, {}).items():
        for metrics in result["rounds"]:
            row: dict[str, Any] = {"seed": seed, "round": metrics["round"]}
            for name, label in TRUTH_LABELS.items():
                truth = metrics["oracle"][name]
                row[label] = f"{truth['mean']:.3f}"
                if "delta_prev" in truth:
                    row[f"change, {readable(name)}"] = signed(truth["delta_prev"], truth["delta_prev_ci95"])
            rows.append(row)
    return pd.DataFrame(rows).set_index(["seed", "round"]).fillna("")


def _against_base(result: dict[str, Any], name: str) -> dict[str, Any]:
    return result["last_against_base"][f"oracle_{name}"]


def over_seeds(values: Sequence[float], over_prompts: Sequence[Sequence[float]]) -> str:
    """Return the mean over training seeds with a 95 % interval over seeds and prompts; a single seed has its own interval, over prompts."""
    if len(values) < 2:
        return f"{signed(values[0], over_prompts[0])} (one seed)"
    mean, low, high = seeds_with_intervals(values, over_prompts)
    return signed(mean, [low, high])


def arms_table(results: Results) -> pd.DataFrame:
    """Return each arm's change from the base at its end, and its network passes, one row per arm.

    A change is a mean over seeds with a 95 % interval over seeds and prompts.
    """
    rows = []
    for arm, label in ARMS.items():
        seeds = results.get(arm, {})
        row: dict[str, Any] = {"arm": label, "seeds": len(seeds)}
        for name in TRUTH_LABELS:
            ends = [_against_base(r, name) for r in seeds.values()]
            if ends:
                change = over_seeds([e["delta_prev"] for e in ends], [e["delta_prev_ci95"] for e in ends])
                row[f"change of {readable(name)} from base"] = change
        if seeds:
            row["network passes, millions"] = f"{next(iter(seeds.values()))['network_passes'] / 1e6:.2f}"
        rows.append(row)
    return pd.DataFrame(rows).set_index("arm").fillna("not run")


def rounds_figure(results: Results, arm: str = "spin") -> Figure:
    """Draw both oracle readings against the round, one line per seed, 95 % intervals over prompts."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), constrained_layout=True)
    for axis, (name, label) in zip(axes, TRUTH_LABELS.items(), strict=True):
        for offset, (seed, result) in enumerate(results.get(arm, {}).items()):
            truths = [m["oracle"][name] for m in result["rounds"]]
            means = np.array([t["mean"] for t in truths])
            bounds = np.array([t["ci95"] for t in truths])
            x = np.arange(len(means)) + 0.06 * (offset - 1)
            axis.errorbar(x, means, yerr=np.abs(bounds.T - means), marker="o", ms=3, capsize=2, label=f"seed {seed}")
        axis.set(xlabel="round (0 is the base model)", ylabel=label, xticks=range(4))
    if results.get(arm):
        axes[0].legend(frameon=False)
    return figure


def null_table(results: Results) -> pd.DataFrame:
    """Return the change of quality in one round whose opponent's images are real, by seed, beside the change in a true round.

    The last column is what encoding twice adds to encoding once. The last row has means over seeds, with 95 % intervals over seeds.
    """

    def changes(arm: str, index: int) -> dict[int, float]:
        return {seed: r["rounds"][index]["oracle"]["quality"]["delta_prev"] for seed, r in results.get(arm, {}).items()}

    columns = {
        "real images": changes("null", 1),
        "real, encoded twice": changes("null-reencoded", 1),
        "round 1 of SPIN": changes("spin", 1),
    }
    columns["encoded twice less once"] = {s: v - columns["real images"][s] for s, v in columns["real, encoded twice"].items()}
    shown = {name: {f"seed {s}": f"{v:+.3f}" for s, v in values.items()} for name, values in columns.items()}
    for name, values in columns.items():
        if len(values) > 1:
            mean, *bounds = student_interval(list(values.values()))
            shown[name]["mean"] = signed(mean, bounds)
    table = pd.DataFrame(shown).fillna("not run")
    return table.loc[sorted(table.index, key=lambda name: (name == "mean", name))]


def provenance_sentence(results: Results, command: str = "make spin-experiments") -> str:
    """Say when, where and with what the numbers were made, or how to make them."""
    made = [r["provenance"] for seeds in results.values() for r in seeds.values()]
    if not made:
        return f"No results have been exported yet: {command}"
    first, last = min(m["time"] for m in made), max(m["time"] for m in made)
    seeds = ", ".join(f"{arm} {sorted(found)}" for arm, found in results.items())
    return f"Seeds run so far: {seeds}. Made {first} to {last} {_made(made, command)}"


def folder_sentence(folder: str | Path, command: str) -> str:
    """Say when, where and with what a folder's tables were made. They share one `provenance.json`, rewritten at the end of each session."""
    path = Path(folder) / "provenance.json"
    if not path.exists():
        return f"No results have been exported yet: {command}"
    made = json.loads(path.read_text())
    return f"{len(list(path.parent.glob('*.parquet')))} tables, the last sitting ended {made['time']} {_made([made], command)}"


def _made(made: Sequence[dict[str, Any]], command: str) -> str:
    """Say where and with what, from one or more records of `run_folder.provenance`."""
    versions = ", ".join(f"{k} {v}" for k, v in made[0]["versions"].items())
    machines, revisions = {m["machine"] for m in made}, {m["git"][:10] for m in made}
    return f"on {'; '.join(sorted(machines))}; {versions}; git {', '.join(sorted(revisions))}. Made by {command}."
