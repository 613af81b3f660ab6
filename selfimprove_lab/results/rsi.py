"""Make the tables and figures of the exported experiments on recursive self-improvement: `book/results/rsi_*`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from selfimprove.evaluation.round_figures import panels
from selfimprove.evaluation.statistics import bootstrap_interval
from selfimprove.recursion.collapse import LIMITS
from selfimprove_lab.figures.comparison import MARKERS, colours, first_column
from selfimprove_lab.results.arms import TRUTH_LABELS, Results, over_seeds, readable, signed
from selfimprove_lab.results.seeds import seeds_with_intervals

SELECTING = ("clip", "aesthetic", "shading")  # the scorers that the default selects by
UNSEEN = ("saturation", "alignment")
RANDOM = ("careless",)  # arms of `rounds_figure` that take images at random
LABELS = {
    "rsi": "RSIDiff", "rsi-seed-0": "RSIDiff, seed 0 alone", "spin": "SPIN, 3 rounds",
    "sft-equal": "SFT on all the base's samples, equal steps",
    "sft-long": "SFT on all the base's samples, long", "careless": "no care", "prompts": "+ filtered prompts",
    "selection": "+ preference sampling", "weights": "+ weights (mean distance)", "weights-nearest": "+ weights (nearest)",
    "weights-two-sided": "+ weights (two-sided)", "real": "+ real data kept", "accumulate": "+ samples accumulated",
    "gentle": "+ gentle learning rate", "no-prompts": "template prompts", "plain-prompts": "prompts not filtered",
    "no-selection": "no preference sampling (random)", "no-weights": "no weights", "none": "none of the three",
    "spin-weighted": "SPIN, generated side weighted (mean distance)", "spin-weighted-nearest": "SPIN, generated side weighted (nearest)",
    "rsi-after-spin": "RSIDiff from SPIN's round 3",
}  # fmt: skip
COMPARED = ("oracle: quality", "oracle: all_right", "clip", "shading", "alignment")  # as many as a page is wide
SIGNS = tuple(LIMITS)
SHARES = ("recall", "precision")  # signs that lie between 0 and 1
GREYS = ("0.15", "0.45", "0.65")  # of seeds
ERROR_LIMIT = 0.05  # by which the error on real images may rise; chosen after the runs had been seen
CURES = ("prompts", "selection", "weights", "weights-nearest", "weights-two-sided", "real", "accumulate", "gentle")
ORDER = ("careless", *CURES, "rsi")


def label(arm: str) -> str:
    """Return the name of an arm for readers."""
    return LABELS.get(arm, arm.replace("-", " "))


def entry(metrics: Mapping[str, Any], score: str) -> Mapping[str, Any]:
    """Return a round's metrics of a score, which is a scorer's name or "oracle: quality"."""
    group, _, name = score.rpartition(": ")
    return metrics["oracle" if group else "scores"][name]


def track(result: Mapping[str, Any], score: str, field: str = "delta_base") -> list[Any]:
    """Return a score's change from the base (or another field) by round, from round 1 on."""
    return [entry(m, score)[field] for m in result["rounds"][1:]]


def scores_of(results: Results, arm: str) -> list[str]:
    """Return the scores of an arm: the oracle's readings first, then the scorers that select, then the others."""
    first = next(iter(results[arm].values()))["rounds"][0]
    return [f"oracle: {t}" for t in TRUTH_LABELS if "oracle" in first] + [s for s in (*SELECTING, *UNSEEN) if s in first["scores"]]


def strips(folder: str | Path, arms: Sequence[str], seed: int = 0) -> dict[str, Path]:
    """Return the exported pictures of some arms, by the arms' names for readers; arms that have not been run are absent."""
    paths = {label(arm): Path(folder) / f"{arm}-{seed}.png" for arm in arms}
    return {name: path for name, path in paths.items() if path.exists()}


def rounds_figure(results: Results, arm: str, beside: Sequence[str] = (), scores: Sequence[str] = ()) -> Figure:
    """Draw the change from the base by round, one line per seed, with 95 % intervals over prompts.

    Level lines are the ends of the arms `beside`, as means over seeds.
    """
    scores = scores or scores_of(results, arm)
    figure, axes = panels(len(scores))
    others = [other for other in beside if other in results]
    shades = colours([label(other) for other in others])
    for axis, score in zip(axes, scores, strict=True):
        for offset, (seed, result) in enumerate(results[arm].items()):
            means, bounds = np.array(track(result, score)), np.array(track(result, score, "delta_base_ci95"))
            x = np.arange(1, len(means) + 1) + 0.08 * (offset - 1)
            axis.errorbar(
                x, means, yerr=np.abs(bounds.T - means), marker=MARKERS[offset], color=GREYS[offset % len(GREYS)], ms=3.5, capsize=2, lw=1,
                label=f"seed {seed}",
            )  # fmt: skip
        for other, style in zip(others, cycle(("--", ":", "-."))):
            end = np.mean([track(r, score)[-1] for r in results[other].values()])
            axis.axhline(end, color=shades[label(other)], lw=1.5, ls=style, label=label(other))
        axis.axhline(0, color="0.6", lw=0.8)
        role = "oracle" if score.startswith("oracle") else "selects" if arm not in RANDOM and score in SELECTING else "unseen"
        named = f"{readable(score).removeprefix('oracle: ')} ({role})"
        axis.set(xlabel="round", ylabel="change from the base" if first_column(axis) else "", title=named)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    return figure


@dataclass(frozen=True)
class Peak:
    """The best round of a score (0 is the base), the change from the base to it, and the change from it to the last round."""

    best: int
    gain: str
    fall: float
    fall_ci95: tuple[float, float]


def peak(results: Results, arm: str, seed: int, score: str, folder: str | Path) -> Peak:
    """Return where a score of one run is best; the change after the best round is paired over prompts."""
    prompts = pd.read_parquet(Path(folder) / f"{arm}-{seed}-prompts.parquet")
    changes = [0.0, *track(results[arm][seed], score)]
    best, last = int(np.argmax(changes)), len(changes) - 1
    column = score if score in prompts else f"oracle_{score.removeprefix('oracle: ')}"
    fall = (prompts[prompts["round"] == last][column] - prompts[prompts["round"] == best][column]).to_numpy(dtype=np.float64)
    gain = signed(changes[best], track(results[arm][seed], score, "delta_base_ci95")[best - 1]) if best else "the base is best"
    return Peak(best, gain, float(fall.mean()), bootstrap_interval(fall))


def pictured_table(folder: str | Path, arm: str) -> pd.DataFrame:
    """Return the share of images that obey of every prompt that the strips show, at the base and at the end of every seed."""
    folder, columns = Path(folder), dict[str, pd.Series]()
    shown = json.loads((folder / "prompts.json").read_text())
    for path in sorted(folder.glob(f"{arm}-[0-9]-prompts.parquet")):
        frame = pd.read_parquet(path)
        by_round = {k: rows["oracle_all_right"].groupby(level="prompt").mean() for k, rows in frame.groupby("round")}
        columns.setdefault("base model", by_round[0])
        columns[f"round {max(by_round)}, seed {path.name.split('-')[-2]}"] = by_round[max(by_round)]
    return pd.DataFrame({name: 100 * found.loc[shown] for name, found in columns.items()}).map("{:.0f} %".format).rename_axis("prompt")


def peak_table(results: Results, arm: str, folder: str | Path) -> pd.DataFrame:
    """Return the best round, the change from the base to it, and the change from it to the last round, one row per score and seed."""
    rows = []
    for score in scores_of(results, arm):
        for seed, result in results[arm].items():
            p = peak(results, arm, seed, score, folder)
            after = "" if p.best == len(result["rounds"]) - 1 else signed(p.fall, list(p.fall_ci95))
            named = {"score": readable(score), "seed": seed}
            rows.append(named | {"best round": p.best, "change from the base there": p.gain, "from there to the last": after})
    return pd.DataFrame(rows).set_index(["score", "seed"])


def ends_table(results: Results, arms: Sequence[str], scores: Sequence[str] = COMPARED, at: int = -1) -> pd.DataFrame:
    """Return each arm's change from the base at its end (or at round `at`), one row per arm.

    A cell is the mean and its 95 % interval over seeds and prompts; a single seed's interval is over prompts and marked with a star.
    """
    rows = []
    for arm in arms:
        found = results.get(arm, {})
        row: dict[str, Any] = {"arm": label(arm), "seeds": len(found)}
        for score in scores:
            ends = [entry(r["rounds"][at if at < 0 else min(at, len(r["rounds"]) - 1)], score) for r in found.values()]
            if ends:
                name = readable(score.rpartition(": ")[2])
                changes, own = [e["delta_base"] for e in ends], [e["delta_base_ci95"] for e in ends]
                row[name] = over_seeds(changes, own) if len(ends) > 1 else _one_seed(ends[0])
        rows.append(row)
    return pd.DataFrame(rows).set_index("arm").fillna("not run")


def _one_seed(end: Mapping[str, Any]) -> str:
    """Return the change of a single seed, whose interval is over prompts, marked with a star."""
    return signed(end["delta_base"], end["delta_base_ci95"]) + " *"


def drift_figure(results: Results, arms: Sequence[str], signs: Sequence[str] = SIGNS) -> Figure:
    """Draw the first seed's signs of collapse by round, as ratios to the base.

    Grey is the range in which no warning is given. Arms with weights are dashed.
    """
    figure, axes = panels(len(signs))
    for axis, sign in zip(axes, signs, strict=True):
        axis.axhspan(max(LIMITS[sign].low, 1e-3), LIMITS[sign].high, color="0.93")
        for arm, marker, colour in zip((a for a in arms if a in results), MARKERS, sns.color_palette("colorblind"), strict=False):
            values = [m["drift"][sign] for m in next(iter(results[arm].values()))["rounds"][1:]]
            style = "--" if arm.startswith("weights") else "-"
            axis.plot(range(1, len(values) + 1), values, style, marker=marker, color=colour, ms=4, lw=1, label=label(arm))
        if sign not in SHARES:  # a collapse that explodes would hide its beginning on a linear scale
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set(xlabel="round", ylabel="ratio to the base" if first_column(axis) else "", title=sign.replace("_", " "))
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    return figure


def first_round(values: Sequence[bool]) -> int | None:
    """Return the first round, from 1 on, for which something holds; None if there is none."""
    return next((k for k, v in enumerate(values, start=1) if v), None)


def visible(result: Mapping[str, Any], share: float = 0.10) -> int | None:
    """Return the first round in which, by the oracle, at least `share` of all images have lost what their caption states."""
    return first_round([change <= -share for change in track(result, "oracle: all_right")])


def warnings_table(results: Results) -> pd.DataFrame:
    """Return the first round in which the damage is plain, and that in which each sign leaves its range, one row per arm and seed.

    The last column is no sign on latents: it is the denoising error on held-out real images, up by more than `ERROR_LIMIT`.
    """
    rows = []
    for arm in sorted(results, key=[*ORDER, *sorted(results)].index):
        for seed, result in results[arm].items():
            drifts = [m["drift"] for m in result["rounds"][1:]]
            row: dict[str, Any] = {"arm": label(arm), "seed": seed, "damage is plain": visible(result)}
            for sign, limits in LIMITS.items():
                row[sign.replace("_", " ")] = first_round([not limits.low <= d[sign] <= limits.high for d in drifts])
            error = [entry(m, "held_out_error")["mean"] for m in result["rounds"]]
            rows.append(row | {"error on real images": first_round([e > (1 + ERROR_LIMIT) * error[0] for e in error[1:]])})
    return pd.DataFrame(rows).set_index(["arm", "seed"]).astype("Int64").astype(object).fillna("-")


def warning_counts(warned: pd.DataFrame) -> pd.DataFrame:
    """Count the runs of `warnings_table` by when each sign leaves its range: before the damage, in its round, later or never; or falsely.

    Runs without plain damage cannot be warned of: a sign that leaves its range there is a false alarm. The first row takes the earliest of
    all signs on latents.
    """
    rounds = warned.replace("-", np.inf).astype(np.float64)
    damage, error = rounds.pop("damage is plain"), rounds.pop("error on real images")
    plain = np.isfinite(damage)
    rows = {
        name: {
            "before the damage": (plain & (first < damage)).sum(),
            "in the same round": (plain & (first == damage)).sum(),
            "later or never": (plain & (first > damage)).sum(),
            "false alarm": (~plain & np.isfinite(first)).sum(),
        }
        for name, first in {"any sign on the latents": rounds.min(axis=1), **rounds, "error on real images": error}.items()
    }
    return pd.DataFrame(rows).T.rename_axis("sign")


def gap_table(results: Results, arms: Mapping[str, str], at: int = -1) -> pd.DataFrame:
    """Return the over-optimisation of arms that select by one scorer: the change of that scorer and of the oracle's readings, and the gap.

    Changes are in standard deviations over the base's prompts. `arms` maps an arm to its scorer.
    """
    rows = []
    for arm, scorer in arms.items():
        for seed, result in results.get(arm, {}).items():
            base = result["rounds"][0]
            row: dict[str, Any] = {"selected by": scorer, "seed": seed}
            for name, score in {"that scorer": scorer, "quality": "oracle: quality", "obedience": "oracle: all_right"}.items():
                low, high = entry(base, score)["ci95"]
                spread = (high - low) / (2 * 1.96) * base["n_prompts"] ** 0.5  # standard deviation over prompts
                row[name] = track(result, score)[at] / spread
            rows.append(row | {f"gap to {truth}": row["that scorer"] - row[truth] for truth in ("quality", "obedience")})
    columns = ["selected by", "seed", "that scorer", "quality", "obedience", "gap to quality", "gap to obedience"]
    return pd.DataFrame(rows, columns=columns).set_index(["selected by", "seed"]).round(2)


def prompt_sources_table(results: Results) -> pd.DataFrame:
    """Compare one model on prompts as collected, filtered, and templates: means over seeds, and differences from plain prompts."""
    rows = []
    if not results:
        return pd.DataFrame()
    sources: Mapping[str, Any] = next(iter(results["prompts"].values()))["sources"]
    for score in sources["plain"]:
        row: dict[str, Any] = {"score": score}
        for source in sources:
            found = [r["sources"][source][score] for r in results["prompts"].values()]
            row[source] = f"{np.mean([f['mean'] for f in found]):.3f}"
            if source != "plain":
                row[f"{source} less plain"] = over_seeds([f["over_plain"] for f in found], [f["over_plain_ci95"] for f in found])
        rows.append(row)
    return pd.DataFrame(rows).set_index("score")


def by_samples(results: Results, arms: Sequence[str], score: str) -> pd.DataFrame:
    """Return the change from the base against the number of different images trained on: columns model, samples, mean, low, high.

    The interval is over seeds and prompts if there are several seeds, else over the prompts of the one seed.
    """
    rows = []
    for arm in (a for a in arms if a in results):
        seeds = list(results[arm].values())
        for index in range(1, len(seeds[0]["rounds"])):
            ends = [entry(r["rounds"][index], score) for r in seeds]
            means = [e["delta_base"] for e in ends]
            own = [e["delta_base_ci95"] for e in ends]
            mean, low, high = seeds_with_intervals(means, own)
            used = seeds[0]["samples_trained_on"]
            again = used[0] if seeds[0]["identity"]["objective"] == "spin" else 0  # the real images, beside each round's drawn ones
            rows.append({"model": label(arm), "samples": again + sum(used[:index]), "mean": mean, "low": low, "high": high})
    return pd.DataFrame(rows)
