"""Report on a run folder in tables and sentences, from what the run has written."""

from pathlib import Path
from typing import Any

import pandas as pd

from selfimprove.config import Settings
from selfimprove.evaluation.tables import interval
from selfimprove.recursion.prompts import read_reports
from selfimprove.rounds import RoundInfo
from selfimprove.run import Run

ORACLE_SHOWN = ("quality", "all_right")


def score_table(infos: list[RoundInfo]) -> pd.DataFrame:
    """Return one row per score and round: mean, its 95 % interval, paired difference from the round before, win rates in per cent.

    The oracle's readings, where there are any, come first; the denoising error has two more digits than scores.
    """
    rows = []
    for info in infos:
        named = {f"oracle: {k}": info.metrics["oracle"][k] for k in ORACLE_SHOWN if "oracle" in info.metrics}
        named |= dict(sorted(info.metrics["scores"].items()))
        for name, score in named.items():
            digits = 5 if name == "held_out_error" else 3
            row = {"score": name, "round": info.metrics["round"], "mean": score["mean"], "95 % interval": interval(score["ci95"], digits)}
            if "delta_prev" in score:
                row["change from round before"] = f"{score['delta_prev']:+.{digits}f} {interval(score['delta_prev_ci95'], digits, '+')}"
                row["wins over round before (%)"] = _wins(score, "prev")
                row["wins over base (%)"] = _wins(score, "base")
            rows.append(row)
    table = pd.DataFrame(rows, columns=None if rows else ["score", "round", "mean", "95 % interval"])  # no scorers, nothing held out
    table = table.sort_values("score", key=lambda names: names.map(list(dict.fromkeys(names)).index), kind="stable")
    return table.set_index(["score", "round"]).fillna("")


def oracle_sentence(infos: list[RoundInfo]) -> str:
    """Return a sentence on what the rounds have changed from the base by the oracle's readings; empty if there is no oracle or no round."""
    last, said = infos[-1].metrics, list[str]()
    for name in ORACLE_SHOWN:
        if "delta_base" in (score := last.get("oracle", {}).get(name, {})):
            by = f"{score['delta_base']:+.3f} {interval(score['delta_base_ci95'], sign='+')}"
            said.append(f"{name.replace('all_right', 'obedience')} {by}")
    return f"After round {last['round']}, changes from the base: {'; '.join(said)}." if said else ""


def _wins(score: dict[str, Any], over: str) -> str:
    """Return the per cent of prompts won, with Wilson's interval unless the run is older than that interval."""
    shown = [f"{100 * v:.0f}" for v in (score[f"win_rate_{over}"], *score.get(f"win_rate_{over}_ci95", ()))]
    return shown[0] + (f" [{shown[1]}, {shown[2]}]" if shown[1:] else "")


def ceiling_sentence(info: RoundInfo) -> str:
    """Return a sentence on how well the oracle itself reads real images; empty if the run has no oracle."""
    if "oracle" not in info.metrics:
        return ""
    parts = [
        f"at {level}: obedience {c['all_right']:.3f}, quality off by {c['quality_error']:.3f}"
        for level, c in info.metrics["oracle"]["ceiling"].items()
    ]
    return "The oracle's own ceiling, on real images after a round trip through the autoencoder: " + "; ".join(parts) + "."


def read_training(log: pd.DataFrame, settings: Settings) -> str:
    """Return the training log of a round with these settings in plain words: what is normal, and what is not."""
    few = max(1, min(5, len(log) // 2))  # number of steps to average at either end
    first, last = log.head(few).mean(), log.tail(few).mean()
    if "weight" in log:
        return (
            f"Weighted denoising on the model's own images: the error went from {first['player_real']:.4f} to {last['player_real']:.4f}; "
            f"single steps are noisy, so neither a rise nor a fall of this size says much. Mean weight {log['weight'].mean():.2f}."
        )
    if "margin" not in log:
        return f"SFT: the denoising error went from {first['loss']:.4f} to {last['loss']:.4f}; single steps are noisy."
    sentences = [
        f"The loss went from {first['loss']:.3f} to {last['loss']:.3f} (log 2 = 0.693 where player and opponent agree) and the margin "
        f"from {first['margin']:+.2f} to {last['margin']:+.2f}.",
        f"Implicit accuracy ended at {last['implicit_accuracy']:.2f}; it saturates early and is no measure of progress.",
    ]
    slope = last["reweighting"] / settings.beta
    verdict = "" if slope >= 0.2 else ": player and opponent are told apart so well that little is left to learn; lower beta"
    sentences.append(f"At the end an example weighed {slope:.2f} of beta on average, from 0.5 where nothing is told apart{verdict}.")
    ratios = {side: last[f"player_{side}"] / last[f"opponent_{side}"] - 1 for side in ("real", "generated")}
    sentences.append(
        f"The player's error over the opponent's: {ratios['real']:+.1%} on real images, {ratios['generated']:+.1%} on generated."
    )
    if last["player_real"] > 1.02 * last["opponent_real"]:
        sentences.append("The player denoises real images WORSE than the opponent: it pushes more than it matches; lower lr.")
    return " ".join(sentences)


def prompt_lines(folder: Path) -> list[str]:
    """Return one line per prompt filter of a run: what the filter dropped, with examples."""
    return [str(report) for report in read_reports(folder / "prompts.json")]


def drift_table(infos: list[RoundInfo]) -> pd.DataFrame:
    """Return the signs of collapse per round, each as a ratio to the base model's own value; 1 means no change."""
    rows = {info.metrics["round"]: info.metrics["drift"] for info in infos if "drift" in info.metrics}
    return pd.DataFrame(rows).T.rename_axis("round").round(3)


def write_summary(run: Run, infos: list[RoundInfo]) -> dict[str, Path]:
    """Write `summary.csv` and, if matplotlib is installed, `summary.png` into the run folder; return the paths of all results by name."""
    folder, last = run.folder.path, len(infos) - 1
    score_table(infos).to_csv(folder / "summary.csv")
    written = {"numbers": folder / "summary.csv", "model": run.folder.round(last) / "pipeline"}
    if (samples := run.folder.round(last) / "samples").exists():
        written["images during training"] = samples
    try:
        from matplotlib.pyplot import close

        from selfimprove.evaluation.round_figures import image_grid
    except ImportError:  # only the core is installed; the images of each round are still in its folder
        return {"pictures": run.folder.round(last) / "images"} | written
    figure = image_grid([run.folder.round(k) for k in range(last + 1)], ["base", *(f"round {k}" for k in range(1, last + 1))])
    figure.savefig(folder / "summary.png", dpi=160)
    close(figure)
    return {"pictures": folder / "summary.png"} | written
