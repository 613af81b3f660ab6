"""Follow rounds from models that stand above and below their data: which way they go, and what fine-tuning does there."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from selfimprove.evaluation.statistics import student_interval
from selfimprove_lab.claims.table import QUALITY, RIGHT, Experiments, difference

Arm = tuple[str, str]  # experiment and arm
CASES: dict[str, tuple[str, Arm, Arm]] = {  # -> data, self-play on them, fine-tuning for as many passes as one round
    "the winners": ("shapes", ("spin_shapes", "spin"), ("spin_map", "sft-default")),
    "the base's own data": ("shapes-base", ("spin_controls", "own-data"), ("spin_controls", "own-data-sft")),
    "the same, no guidance": ("shapes-base", ("spin_controls", "own-data-unguided"), ("spin_controls", "own-data-unguided-sft")),
}
SCORES = {QUALITY: "quality", RIGHT: "all right"}


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


def _denoising(experiments: Experiments, arm: Arm) -> str:
    runs = experiments.load(arm[0]).get(arm[1], {})
    errors = [[r["rounds"][k]["scores"]["held_out_error"]["mean"] for k in (0, 1)] for r in runs.values()]
    changes = [100 * (after / before - 1) for before, after in errors]
    if len(changes) < 2:
        return f"{changes[0]:+.1f} % (one seed)" if changes else "not run"
    mean, low, high = student_interval(changes)
    return f"{mean:+.1f} % [{low:+.1f}, {high:+.1f}] ({len(changes)} seeds)"


def _words(rounds: int) -> str:
    return "one round" if rounds == 1 else f"{rounds} rounds"
