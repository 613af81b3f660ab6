"""Tables, figures and sentences from run folders; nothing is computed here that a run did not write."""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from selfimprove.config import Settings
from selfimprove.figures import panels
from selfimprove.game import Game
from selfimprove.prompts import read_reports
from selfimprove.rounds import RoundInfo

ORACLE_SHOWN = ("quality", "all_right")


def score_table(infos: list[RoundInfo]) -> pd.DataFrame:
    """One row a score and round: mean, its 95 % interval, the paired difference to the round before, win rates."""
    rows = []
    for info in infos:
        named = dict(info.metrics["scores"])
        named |= {f"oracle: {k}": info.metrics["oracle"][k] for k in ORACLE_SHOWN if "oracle" in info.metrics}
        for name, score in named.items():
            row = {"score": name, "round": info.metrics["round"], "mean": score["mean"], "95 % interval": _interval(score["ci95"])}
            if "delta_prev" in score:
                row["change from round before"] = f"{score['delta_prev']:+.3f} {_interval(score['delta_prev_ci95'])}"
                row["wins over round before (%)"] = _wins(score, "prev")
                row["wins over base (%)"] = _wins(score, "base")
            rows.append(row)
    table = pd.DataFrame(rows).sort_values(["score", "round"], kind="stable").set_index(["score", "round"])
    return table.fillna("")


def _wins(score: dict[str, Any], over: str) -> str:
    """Per cent of prompts won with Wilson's interval, which runs of earlier versions have not kept."""
    shown = [f"{100 * v:.0f}" for v in (score[f"win_rate_{over}"], *score.get(f"win_rate_{over}_ci95", ()))]
    return shown[0] + (f" [{shown[1]}, {shown[2]}]" if shown[1:] else "")


def _interval(bounds: list[float]) -> str:
    return f"[{bounds[0]:.3f}, {bounds[1]:.3f}]"


def ceiling_sentence(info: RoundInfo) -> str:
    """What the oracle itself gets right on perfect inputs; empty where there is no oracle."""
    if "oracle" not in info.metrics:
        return ""
    parts = [
        f"at {level}: all right {c['all_right']:.3f}, quality off by {c['quality_error']:.3f}"
        for level, c in info.metrics["oracle"]["ceiling"].items()
    ]
    return "The oracle's own ceiling, on real images after a round trip through the autoencoder: " + "; ".join(parts) + "."


def read_training(log: pd.DataFrame, settings: Settings) -> str:
    """The training log of a round with these settings in plain words: what is normal, and what is not."""
    few = max(1, min(5, len(log) // 2))  # steps at either end
    first, last = log.head(few).mean(), log.tail(few).mean()
    if "weight" in log:
        return (
            f"Weighted denoising on the model's own images: the error went from {first['player_real']:.4f} to {last['player_real']:.4f}; "
            f"single steps are noisy, and the model knows from the start what it draws. Mean weight {log['weight'].mean():.2f}."
        )
    if "margin" not in log:
        return f"SFT: the denoising error went from {first['loss']:.4f} to {last['loss']:.4f}; single steps are noisy."
    sentences = [
        f"The loss went from {first['loss']:.3f} to {last['loss']:.3f} (log 2 = 0.693 where player and opponent agree) and the margin "
        f"from {first['margin']:+.2f} to {last['margin']:+.2f}. A loss near log 2 with a rising margin is normal at the paper's beta.",
        f"Implicit accuracy ended at {last['implicit_accuracy']:.2f}; it saturates early and is no measure of progress.",
    ]
    slope = last["reweighting"] / settings.beta
    verdict = "in the useful range .2 to .45" if 0.2 <= slope <= 0.45 else "outside the useful range .2 to .45: change beta"
    sentences.append(f"At the end an example weighed {slope:.2f} of beta on average (-l'), {verdict}.")
    if last["player_real"] > 1.02 * last["opponent_real"]:
        sentences.append("The player denoises real images WORSE than the opponent: it pushes more than it matches; lower lr.")
    return " ".join(sentences)


def training_figure(log: pd.DataFrame) -> Figure:
    """Loss, margin, accuracy, errors relative to the opponent, gradient norm, by step."""
    spin = "margin" in log
    shown = ["loss", "margin", "implicit_accuracy", "errors", "gradient_norm"] if spin else ["loss", "gradient_norm"]
    figure, axes = panels(len(shown))
    for axis, name in zip(axes, shown, strict=True):
        if name == "errors":
            for side in ("real", "generated"):
                axis.plot(log["step"], log[f"player_{side}"] / log[f"opponent_{side}"], label=side)
            axis.axhline(1, color="0.6", lw=0.8)
            axis.set_ylabel("squared error,\nplayer / opponent")
            axis.legend(frameon=False)
        else:
            axis.plot(log["step"], log[name])
            axis.set_ylabel(name.replace("_", " "))
        if name == "loss" and spin:
            axis.axhline(np.log(2), color="0.6", lw=0.8, ls="--")
        axis.set_xlabel("training step")
    return figure


def prompt_lines(folder: Path) -> list[str]:
    """What each prompt filter of a run dropped, with examples."""
    return [str(report) for report in read_reports(folder / "prompts.json")]


def selection_figure(folder: Path) -> Figure:
    """A round's pool: scores of the kept among all, scorer by scorer; distances to the base's samples, and the weights they gave."""
    pool = pd.read_parquet(folder / "selection.parquet")
    metrics = [name.rpartition("_")[0] for name in pool if name.endswith(("_rank", "_zscore"))]
    edges = json.loads((folder / "edges.json").read_text()) if (folder / "edges.json").exists() else None
    figure, axes = panels(max(len(metrics) + bool(edges), 1))
    for axis, name in zip(axes, metrics, strict=False):
        bins = np.histogram_bin_edges(pool[name], bins=30).tolist()
        axis.hist(pool[name], bins, density=True, color="0.75", label="pool")
        axis.hist(pool[name][pool["kept"]], bins, density=True, histtype="step", color="C0", label="kept")
        axis.set(xlabel=f"{name} (scorer's units)", ylabel="density")
    if metrics:
        axes[0].legend(frameon=False)
    if edges:
        weights = pd.read_parquet(folder / "weights.parquet")
        axis = axes[-1]
        axis.scatter(weights["distance"], weights["weight"], s=8, alpha=0.6)
        axis.axvline(edges["beta"], color="0.6", lw=0.8, ls="--")
        axis.set(xlabel=f"distance to the base's samples ({edges['distance']}, {edges['reference']})", ylabel="weight")
        axis.set_ylim(0, 1.05)
    return figure


def drift_table(infos: list[RoundInfo]) -> pd.DataFrame:
    """Signs of collapse by round, each as a ratio to the base model's own value; 1 is no change."""
    rows = {info.metrics["round"]: info.metrics["drift"] for info in infos if "drift" in info.metrics}
    return pd.DataFrame(rows).T.rename_axis("round").round(3)


def image_grid(rounds: list[Path], labels: list[str], columns: int = 12) -> Figure:
    """The same prompts and noise (columns) for several rounds (rows), from their `images/` folders."""
    names = sorted(p.name for p in (rounds[0] / "images").glob("*.png"))[:columns]
    size = (0.9 * len(names) + 0.9, 0.9 * len(rounds))  # inches; the 0.9 beside the images is for the labels
    figure, axes = plt.subplots(len(rounds), len(names), figsize=size, squeeze=False)
    for row, (folder, label) in enumerate(zip(rounds, labels, strict=True)):
        for column, name in enumerate(names):
            axis = axes[row][column]
            axis.imshow(plt.imread(folder / "images" / name))
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axes[row][0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=14)
    figure.subplots_adjust(left=0.9 / size[0], right=1, top=1, bottom=0, wspace=0.03, hspace=0.03)
    return figure


def write_summary(game: Game, infos: list[RoundInfo]) -> dict[str, Path]:
    """`summary.png` and `summary.csv` in the run folder: the pictures and the numbers of all rounds played so far."""
    folder, last = game.run.path, len(infos) - 1
    figure = image_grid([game.run.round(k) for k in range(last + 1)], ["base", *(f"round {k}" for k in range(1, last + 1))])
    figure.savefig(folder / "summary.png", dpi=160)
    plt.close(figure)
    score_table(infos).to_csv(folder / "summary.csv")
    return {"pictures": folder / "summary.png", "numbers": folder / "summary.csv", "model": game.run.round(last) / "pipeline"}
