"""Follow rounds from models that stand above and below their data: which way they go, and what fine-tuning does there."""

import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from selfimprove.evaluation.statistics import student_interval
from selfimprove_lab.claims.table import QUALITY, RIGHT, Experiments, difference

Arm = tuple[str, str]  # experiment and arm
CASES: dict[str, tuple[str, Arm, Arm]] = {  # -> data, self-play on them, fine-tuning for as many passes as one round
    "the winners": ("shapes", ("spin_shapes", "spin"), ("spin_map", "sft-default")),
    "the base's own data": ("shapes-base", ("spin_controls", "own-data"), ("spin_controls", "own-data-sft")),
    "the same, no guidance": ("shapes-base", ("spin_controls", "own-data-unguided"), ("spin_controls", "own-data-unguided-sft")),
}
SCORES = {QUALITY: "quality", RIGHT: "obedience"}


def data_table(root: str | Path) -> pd.DataFrame:
    """Return where the data and the base stand, and which way rounds of self-play go from there, one row per score and case.

    The oracle reads the data as it reads models: after the autoencoder. Intervals are those of `claims.table.difference`.
    """
    path, experiments, rows = Path(root) / "data_quality.json", Experiments(Path(root)), []
    if not path.exists():
        return pd.DataFrame()
    read = pd.DataFrame(json.loads(path.read_text())["rows"])
    for column, name in SCORES.items():
        for label, (data, arm, _) in CASES.items():
            changes = {k: difference(experiments, arm, arm, column, k, 0) for k in (1, 3)}
            first = changes[1]
            if first is None:
                continue
            runs, truth = experiments.load(arm[0])[arm[1]], column.removeprefix("oracle_")
            level = read[(read["data"] == data) & read["seed"].isin(runs)][truth].mean()
            base = np.mean([r["rounds"][0]["oracle"][truth]["mean"] for r in runs.values()])
            played = min(len(r["rounds"]) for r in runs.values()) - 1
            last = (changes[3] if played >= 3 else None) or first
            towards = "towards the data" if (level > base) == (last.mean > 0) else "away from them"
            row = {"score": name, "data": label, "the data's": f"{level:.3f}", "the base's": f"{base:.3f}"}
            row["in the end it has moved"] = "neither way" if last.low <= 0 <= last.high else towards
            rows.append(row | {f"change in {_words(k)}": str(found) if played >= k else "not run" for k, found in changes.items()})
    return pd.DataFrame(rows).set_index(["score", "data"]) if rows else pd.DataFrame()


def objectives_table(root: str | Path) -> pd.DataFrame:
    """Return what a round of self-play, and fine-tuning for as many passes, do to samples and to the denoiser, one row per case.

    The quality of samples has the intervals of `claims.table.difference`. The error of denoising held-out images of the data is a change in
    per cent of the base's, with Student's interval over the seeds.
    """
    experiments, rows = Experiments(Path(root)), []
    for label, (_, played, tuned) in CASES.items():
        row = {"data": label}
        for name, arm in (("self-play", played), ("fine-tuning", tuned)):
            row[f"quality of samples, {name}"] = str(difference(experiments, arm, arm, QUALITY, 1, 0) or "not run")
            row[f"error of the denoiser, {name}"] = _denoising(experiments, arm)
        row["quality, self-play less fine-tuning"] = str(difference(experiments, played, tuned, QUALITY, 1) or "not run")
        rows.append(row)
    return pd.DataFrame(rows).set_index("data")


def _denoising(experiments: Experiments, arm: Arm, index: int = 1) -> str:
    runs = experiments.load(arm[0]).get(arm[1], {})
    errors = [[r["rounds"][k]["scores"]["held_out_error"]["mean"] for k in (0, min(index, len(r["rounds"]) - 1))] for r in runs.values()]
    changes = [100 * (after / before - 1) for before, after in errors]
    if len(changes) < 2:
        return f"{changes[0]:+.1f} % (one seed)" if changes else "not run"
    mean, low, high = student_interval(changes)
    return f"{mean:+.1f} % [{low:+.1f}, {high:+.1f}] ({len(changes)} seeds)"


def _words(rounds: int) -> str:
    return "one round" if rounds == 1 else f"{rounds} rounds"


def errors_table(root: str | Path) -> pd.DataFrame:
    """Return the change of the samples' quality and of the denoiser's error from the base, one row per case and round or fine-tuning.

    Numbers are made as in `objectives_table`; fine-tuning has as many passes of the network as one round.
    """
    experiments, rows = Experiments(Path(root)), []
    for label, (_, played, tuned) in CASES.items():
        for name, arm, index in [*((f"round {k}", played, k) for k in (1, 2, 3)), ("fine-tuning", tuned, 1)]:
            change = difference(experiments, arm, arm, QUALITY, index, 0)
            if change is not None:
                error = _denoising(experiments, arm, index)
                rows.append({"data": label, "after": name, "quality of samples": str(change), "error of the denoiser": error})
    return pd.DataFrame(rows).set_index(["data", "after"]) if rows else pd.DataFrame()


def errors_figure(root: str | Path) -> Figure:
    """Draw the change of the samples' quality against that of the denoiser's error: a line per case through its rounds, and fine-tuning."""
    figure, axis = plt.subplots(figsize=(6.5, 3.6), constrained_layout=True)
    table = errors_table(root)
    shades = dict(zip(list(CASES)[1:], ("C0", "C1"), strict=True))
    for label, shade in shades.items():
        rows = table.loc[label] if label in table.index else table.iloc[:0]
        error, quality = (np.array([_read(cell) for cell in rows[column]]).reshape(-1, 3) for column in reversed(list(rows)))
        for part, marker, style in ((slice(0, -1), "o", "-"), (slice(-1, None), "s", "")):
            x, y = error[part], quality[part]
            named = f"{'self-play' if marker == 'o' else 'fine-tuning'}, {'with' if shade == 'C0' else 'without'} guidance"
            bars = {"xerr": np.abs(x[:, 1:] - x[:, :1]).T, "yerr": np.abs(y[:, 1:] - y[:, :1]).T}
            axis.errorbar(x[:, 0], y[:, 0], **bars, marker=marker, ls=style, color=shade, ms=5, lw=1, elinewidth=0.7, label=named)
            for k, (a, b) in enumerate(zip(x[:, 0], y[:, 0], strict=True), start=1):
                axis.annotate(str(k) if marker == "o" else "", (a, b), xytext=(5, 5), textcoords="offset points", fontsize=8)
    for line in (axis.axhline, axis.axvline):
        line(0, color="0.7", lw=0.8)
    axis.set(xlabel="error of the denoiser on held-out images, change (%)", ylabel="quality of samples (oracle), change")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _read(cell: str) -> list[float]:
    """Return the mean, low and high of a cell such as "+0.4 % [+0.0, +0.8] (3 seeds)"; without an interval all three are the mean."""
    found = [float(number) for number in re.findall(r"[-+]\d+\.\d+", cell)]
    return found if len(found) == 3 else found[:1] * 3
