"""Tabulate the exported evaluation of all models on shapes (`book/results/evaluation_shapes/`), in the forms of the papers' tables.

Models that were trained with several seeds are judged on the same prompts; intervals count seeds and prompts at once.
"""

import re
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from selfimprove.comparison import without_guidance
from selfimprove.evaluation.aggregate import MEAN, RAW, STANDARDISED, Rule, Scale, best_of, by_prompt, with_averages
from selfimprove.evaluation.protocol import ProtocolError, Scored, check_comparable, read_scores
from selfimprove.evaluation.statistics import bootstrap_interval
from selfimprove.scorers import SHAPES_SCORERS
from selfimprove_lab.results.arms import readable, signed
from selfimprove_lab.results.seeds import crossed_interval

BASE = "base"
TRUTH_COLUMNS = ("oracle_quality", "oracle_all_right")
Evaluations = dict[str, dict[int, Scored]]
_SEED = re.compile(r"(.*), seed (\d+)(.*)")


def load_evaluations(folder: str | Path) -> Evaluations:
    """Return {model: {training seed: scores}}, the base first; empty if nothing has been exported."""
    found: Evaluations = {}
    for path in sorted(Path(folder).glob("*.parquet")):
        scored = read_scores(path)
        match = _SEED.fullmatch(scored.protocol.model)
        name, seed = (match[1] + match[3], int(match[2])) if match else (scored.protocol.model, 0)
        found.setdefault(name, {})[seed] = scored.named(name)
    order = sorted(found, key=lambda n: (not n.startswith(BASE), "RSIDiff" in n, n))
    every = [s for name in order for s in found[name].values()]
    if every:
        check_comparable(every, allowed=("guidance",))
    return {name: found[name] for name in order}


def values(evaluations: Evaluations, scorers: Sequence[str], rule: Rule = MEAN) -> dict[str, dict[str, np.ndarray]]:
    """Return {model: {score: array (seeds, prompts)}}, with both averages; z-scores refer to the base's images.

    Raises:
        ProtocolError: models were not judged on the same prompts.
    """
    base = evaluations[BASE][0].table
    scale = Scale.of(base, scorers)
    prompts: list[str] = []
    found = {}
    for name, seeds in evaluations.items():
        tables = [rule.apply(with_averages(s.table, scorers, scale)) for s in seeds.values()]
        prompts = prompts or list(tables[0].index)
        if any(list(t.index) != prompts for t in tables):
            raise ProtocolError(f"{name!r} was not judged on the prompts of {BASE!r}; judge it again")
        columns = [c for c in tables[0] if c in (*scorers, *TRUTH_COLUMNS, RAW, STANDARDISED)]
        found[name] = {c: np.stack([t[c].to_numpy(dtype=np.float64) for t in tables]) for c in columns}
    return found


def _median(matrix: np.ndarray) -> float:
    return float(np.median(matrix.mean(0)))


STATISTICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "mean": lambda ours, base: ours,
    "difference": lambda ours, base: ours - base,
    "wins": lambda ours, base: 100 * ((ours > base) + 0.5 * (ours == base)),
}


def tidy(evaluations: Evaluations, scorers: Sequence[str] = SHAPES_SCORERS, rule: Rule = MEAN, statistic: str = "mean") -> pd.DataFrame:
    """Return `statistic` with its 95 % interval over seeds and prompts, and the number of seeds, one row per model and score.

    `statistic` is "mean", "difference" (to the base), or "wins" (per cent of prompts won over the base; a tie counts half).

    Raises:
        ValueError: the statistic is not one of these.
    """
    if statistic not in STATISTICS:
        raise ValueError(f"statistic={statistic!r} is not known; choose one of {list(STATISTICS)}")
    if not evaluations:
        return pd.DataFrame(columns=["model", "score", "seeds", "mean", "low", "high"])
    found = values(evaluations, scorers, rule)
    rows = []
    for name, scores in found.items():
        for score, matrix in scores.items():
            if name == BASE and statistic != "mean":
                continue
            shown = STATISTICS[statistic](matrix, found[BASE][score]).astype(np.float64)
            low, high = crossed_interval(shown)
            if statistic == "wins":  # a share ends at none and all
                low, high = max(low, 0.0), min(high, 100.0)
            rows.append({"model": name, "score": score, "seeds": len(shown), "mean": shown.mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def table(evaluations: Evaluations, statistic: str = "mean", rule: Rule = MEAN, digits: int = 3) -> pd.DataFrame:
    """Return `tidy` in the papers' form: one row per model, one column per score, "value [low, high]"; the oracle's columns come first."""
    rows = tidy(evaluations, rule=rule, statistic=statistic)
    if rows.empty:
        return rows
    sign = "+" if statistic == "difference" else ""
    digits = 1 if statistic == "wins" else digits
    shapes = f"{{:{sign}.{digits}f}} [{{:{sign}.{digits}f}}, {{:{sign}.{digits}f}}]"
    text = [shapes.format(*cell) for cell in rows[["mean", "low", "high"]].to_numpy()]
    shown = rows.assign(cell=text).pivot(index="model", columns="score", values="cell")
    order = [*TRUTH_COLUMNS, *SHAPES_SCORERS, RAW, STANDARDISED]
    shown = shown.reindex(index=pd.unique(rows["model"]), columns=[c for c in order if c in shown])
    shown.insert(0, "seeds", rows.groupby("model")["seeds"].first().reindex(shown.index))
    return shown.rename(columns=readable)


def later_less_earlier(evaluations: Evaluations, earlier: str, later: str, scores: Sequence[str] = TRUTH_COLUMNS) -> dict[str, np.ndarray]:
    """Return {score: later model less earlier model, array (seeds, prompts)}, over the seeds that both have; empty if there are none."""
    seeds = sorted(set(evaluations.get(earlier, {})) & set(evaluations.get(later, {})))
    if BASE not in evaluations or not seeds:
        return {}
    both = {name: {seed: evaluations[name][seed] for seed in seeds} for name in (earlier, later)}
    found = values({BASE: evaluations[BASE]} | both, SHAPES_SCORERS)
    return {score: found[later][score] - found[earlier][score] for score in scores}


def later_table(evaluations: Evaluations, earlier: str, later: str) -> pd.DataFrame:
    """Return the oracle's readings of the later model less the earlier: a row per seed (intervals over prompts), then all seeds."""
    found = later_less_earlier(evaluations, earlier, later)
    rows: dict[str, dict[str, str]] = {}
    for score, matrix in found.items():
        seeds = sorted(set(evaluations[earlier]) & set(evaluations[later]))
        named = {f"seed {seed}": matrix[i : i + 1] for i, seed in enumerate(seeds)} | {"all seeds": matrix}
        column = f"{readable(score.removeprefix('oracle_'))}, {later} less {earlier}"
        for name, part in named.items():
            rows.setdefault(name, {})[column] = signed(float(part.mean()), crossed_interval(part))
    return pd.DataFrame(rows).T


def medians(evaluations: Evaluations, rule: Rule = MEAN) -> pd.DataFrame:
    """Return the medians over prompts of the mean over seeds, one row per model."""
    found = values(evaluations, SHAPES_SCORERS, rule)
    frame = pd.DataFrame({name: {score: _median(matrix) for score, matrix in scores.items()} for name, scores in found.items()}).T
    truths = [c for c in TRUTH_COLUMNS if c in frame]
    return frame[truths + [c for c in frame if c not in truths]].rename(columns=readable).round(3)


def best_of_curve(scores: pd.DataFrame, scorers: Sequence[str], by: str, sizes: Sequence[int]) -> pd.DataFrame:
    """Return by how much the best of n images by `by` exceeds the mean of its prompt's images, on every score.

    The unit is the score's standard deviation. Columns: n, score, mean, low, high (over prompts). The same images serve every n. The
    oracle's readings stand beside the scorers where they are known.
    """
    extended = with_averages(scores, scorers, Scale.of(scores, scorers))
    rows, every = [], by_prompt(extended)
    shown = [c for c in extended if c in (*scorers, *TRUTH_COLUMNS) and extended[c].nunique() > 1]
    for n in sizes:
        chosen = by_prompt(best_of(extended, n, by))
        for score in shown:
            gain = ((chosen[score] - every[score]) / extended[score].std()).to_numpy(dtype=np.float64)
            low, high = bootstrap_interval(gain)
            rows.append({"n": n, "score": score, "mean": gain.mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def interval_widths(ours: Scored, base: Scored, score: str, sizes: Sequence[int]) -> pd.DataFrame:
    """Return half the width of 95 % intervals by number of prompts: of a paired difference, an unpaired difference, and a win rate.

    The widths follow from the spread over all prompts; the win rate's is that of a rate of 55 % (normal approximation).
    """
    difference = ours.table.groupby("prompt")[score].mean() - base.table.groupby("prompt")[score].mean()
    alone = [s.table.groupby("prompt")[score].mean().var(ddof=1) for s in (ours, base)]
    counts = np.array(sizes, dtype=np.float64)
    return pd.DataFrame(
        {
            "paired difference": 1.96 * difference.std(ddof=1) / np.sqrt(counts),
            "difference of unpaired models": 1.96 * np.sqrt(sum(alone) / counts),
            "win rate (points)": 100 * 1.96 * np.sqrt(0.55 * 0.45 / counts),
        },
        index=pd.Index(sizes, name="prompts"),
    )


def inflation_table(evaluations: Evaluations, n: int) -> pd.DataFrame:
    """Return for every score what choosing the best of n adds to the base, and what the last round of self-play adds by either protocol."""
    found = {rule: values(evaluations, SHAPES_SCORERS, rule) for rule in (MEAN, Rule(n))}
    single, best = (found[rule] for rule in (MEAN, Rule(n)))
    tuned = [name for name in evaluations if name.startswith("SPIN round")][-1:]
    rows = {}
    for score, base in single[BASE].items():
        rows[readable(score)] = {"base, all images": base.mean(), f"base, best of {n}": best[BASE][score].mean()} | {
            f"{name}, {label}": of[name][score].mean() for name in tuned for label, of in (("all images", single), (f"best of {n}", best))
        }
    return pd.DataFrame(rows).T.round(3)


def guidance_frame(evaluations: Evaluations) -> pd.DataFrame:
    """Return models at several guidances: columns model, guidance, score, mean, low, high; intervals count seeds and prompts."""
    rows = []
    for name, seeds in evaluations.items():
        tables = [MEAN.apply(s.table) for s in seeds.values()]
        model = without_guidance(name)
        guidance = next(iter(seeds.values())).protocol.guidance
        for score in (*SHAPES_SCORERS, *TRUTH_COLUMNS):
            matrix = np.stack([t[score].to_numpy(dtype=np.float64) for t in tables])
            low, high = crossed_interval(matrix)
            rows.append({"model": model, "guidance": guidance, "score": score, "mean": matrix.mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def guidance_table(evaluations: Evaluations, usual: float, scores: Sequence[str] = TRUTH_COLUMNS) -> pd.DataFrame:
    """Return every model at every guidance less the base, paired by prompt: at the same guidance, and at the usual one.

    There is one row per model and guidance: "difference [low, high]", with intervals over seeds and prompts. The second difference asks
    what training gains beyond a change of the base's guidance. The base's own rows say what that change gains.

    Raises:
        ProtocolError: the base was not judged at the usual guidance, or models were not judged on the same prompts.
    """
    if not evaluations:
        return pd.DataFrame()
    found: dict[tuple[str, float], list[pd.DataFrame]] = {}
    for name, seeds in evaluations.items():
        guidance = next(iter(seeds.values())).protocol.guidance
        found[without_guidance(name), float(guidance)] = [MEAN.apply(s.table) for s in seeds.values()]
    if (BASE, usual) not in found:
        raise ProtocolError(f"the base was not judged at guidance {usual:g}; judge it there")
    prompts = found[BASE, usual][0].index
    columns = [f"{readable(s.removeprefix('oracle_'))}, over the base {w}" for s in scores for w in ("there", f"at {usual:g}")]
    rows: dict[tuple[str, float], dict[str, str]] = {}
    for (name, guidance), tables in found.items():
        if any(not t.index.equals(prompts) for t in tables):
            raise ProtocolError(f"{name!r} was not judged on the prompts of {BASE!r}; judge it again")
        row = {}
        for column, (score, at) in zip(columns, product(scores, (guidance, usual)), strict=True):
            if (BASE, at) in found and (name, guidance) != (BASE, at):
                base = found[BASE, at][0]
                matrix = np.stack([(t[score] - base[score]).to_numpy(dtype=np.float64) for t in tables])
                row[column] = signed(float(matrix.mean()), list(crossed_interval(matrix)))
        if row:
            rows[name, guidance] = row
    return pd.DataFrame(rows).T.reindex(columns=columns).rename_axis(["model", "guidance"]).fillna("")
