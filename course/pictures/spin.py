"""Draw sessions 5 and 6 from finished experiments: logs, pairing, arms, luck, and where obedience is lost."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from course.pictures import picture
from course.readings import RESULTS, changes, judged, per_prompt, results, split_with_interval
from selfimprove_lab.figures.theory import COLOURS
from selfimprove_lab.results.arms import ARMS, rounds_figure
from selfimprove_lab.results.controls import PATHS, map_figure, price_figure, samples_figure


def strip(path: str) -> Figure:
    """Return an exported strip of pictures as a figure."""
    image = plt.imread(RESULTS / path)
    figure, axis = plt.subplots(figsize=(10, 10 * image.shape[0] / image.shape[1]))
    figure.subplots_adjust(0, 0, 1, 1)
    axis.imshow(image, interpolation="none")
    axis.set_axis_off()
    return figure


@picture("spin-strip")
def spin_strip() -> Figure:
    """Show the strip of three rounds of self-play."""
    return strip("spin_shapes/spin-0.png")


@picture("training-log")
def training_log() -> Figure:
    """Draw the log of round 1."""
    log = pd.read_parquet(RESULTS / "spin_shapes" / "spin-0-training.parquet")
    log = log[log["round"] == 1].sort_values("step").rolling(5, min_periods=1).mean()
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), constrained_layout=True)
    axes[0].plot(log["step"], log["loss"], color=COLOURS[0])
    axes[0].axhline(np.log(2), color="0.6", ls="--", lw=1, label="log 2")
    axes[0].set(ylabel="loss (nats)")
    axes[1].plot(log["step"], log["implicit_accuracy"], color=COLOURS[0])
    axes[1].set(ylabel="implicit accuracy")
    for colour, side in zip(COLOURS, ("real", "generated"), strict=False):
        axes[2].plot(
            log["step"], log[f"player_{side}"] / log[f"opponent_{side}"], color=colour, label={"real": "real", "generated": "own"}[side]
        )
    axes[2].axhline(1, color="0.6", lw=1)
    axes[2].set(ylabel="player's error over the opponent's")
    for axis in axes:
        axis.set_xlabel("step (mean of five)")
    axes[0].legend(frameon=False)
    axes[2].legend(frameon=False)
    return figure


@picture("pairing")
def pairing() -> Figure:
    """Draw what pairing is worth on the larger evaluation."""
    base, player = per_prompt("base", "oracle_quality"), per_prompt("spin-round-3-seed-0", "oracle_quality")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    axes[0].scatter(base, player, s=6, color=COLOURS[0])
    axes[0].axline((0.4, 0.4), slope=1, color="0.6", lw=1)
    axes[0].set(xlabel="base, mean quality of a prompt", ylabel="round 3")
    counts = np.array([50, 100, 200, 500, 1000, 2000])
    spreads = {"paired": (player - base).var(ddof=1), "unpaired": base.var(ddof=1) + player.var(ddof=1)}
    for colour, (name, variance) in zip(COLOURS, spreads.items(), strict=False):
        axes[1].plot(counts, np.sqrt(variance / counts), marker="o", ms=3, color=colour, label=name)
    axes[1].set(xscale="log", yscale="log", xlabel="prompts", ylabel="standard error of the difference")
    axes[1].legend(frameon=False)
    return figure


@picture("resampling")
def resampling() -> Figure:
    """Draw the bootstrap over prompts beside the one over images, which takes images of one prompt for independent."""
    images = judged("base").sort_values(["prompt", "image"])["oracle_quality"].to_numpy(dtype=np.float64).reshape(-1, 5)
    figure, axis = plt.subplots(figsize=(6, 3.2), constrained_layout=True)
    draws = np.random.default_rng(0)
    for colour, (unit, values) in zip(COLOURS, {"prompts": images.mean(1), "images": images.ravel()}.items(), strict=False):
        made = [values[draws.integers(len(values), size=len(values))].mean() for _ in range(1000)]
        axis.hist(made, 40, density=True, histtype="step", lw=1.6, color=colour, label=f"resampling {unit}")
    axis.set(xlabel="mean quality of the base, 500 prompts with 5 images each", ylabel="density")
    axis.legend(frameon=False)
    return figure


@picture("spin-rounds")
def spin_rounds() -> Figure:
    """Draw quality and obedience by round."""
    return rounds_figure(results("spin_shapes"))


@picture("price")
def price() -> Figure:
    """Draw quality against its price."""
    return price_figure(results("spin_shapes"), {name: arms for name, arms in PATHS.items() if "adapters" not in name})


@picture("samples")
def samples() -> Figure:
    """Draw quality by images used."""
    return samples_figure(results("spin_shapes"))


@picture("map")
def map_of_settings() -> Figure:
    """Draw the map of settings."""
    return map_figure(RESULTS)


@picture("luck")
def luck() -> Figure:
    """Draw what a training seed is worth in each arm."""
    arms = ("spin", "frozen", "sft-steps", "sft-compute", "dpo", "null", "null-reencoded")
    figure, axis = plt.subplots(figsize=(9, 3), constrained_layout=True)
    for row, arm in enumerate(arms):
        values = changes(arm, "quality")
        axis.plot(values, [row] * len(values), "o", ms=6, alpha=0.6, color=COLOURS[0] if "null" not in arm else COLOURS[1])
        axis.text(0.115, row, f"SD {np.std(values, ddof=1):.4f}", va="center", fontsize=9)
    axis.axvline(0, color="0.7", lw=1)
    axis.set(
        yticks=range(len(arms)),
        yticklabels=[ARMS[arm] for arm in arms],
        xlabel="change of quality from the base, one dot a training seed",
        xlim=(-0.02, 0.135),
    )
    axis.invert_yaxis()
    return figure


@picture("where-obedience-goes")
def where_obedience_goes() -> Figure:
    """Draw what a loss of obedience is made of."""
    models = {"SPIN, round 3": "spin-round-3", "SFT, equal steps": "sft-equal-steps", "SFT, equal compute": "sft-equal-compute"}
    models["RSIDiff, round 8"] = "rsidiff-round-8"
    figure, axis = plt.subplots(figsize=(8, 3), constrained_layout=True)
    said = {"no scene": "no longer read as a scene", "attributes": "a scene, attributes wrong"}
    for row, model in enumerate(models.values()):
        parts = -100 * split_with_interval(f"{model}-seed-{{seed}}").loc[list(said)]
        for offset, colour, name in zip((-0.2, 0.2), (COLOURS[1], COLOURS[0]), said, strict=True):
            mean, ends = parts.loc[name, "mean"], parts.loc[name, ["high", "low"]].to_numpy()
            axis.barh(row + offset, mean, 0.38, color=colour, label=None if row else said[name])
            axis.errorbar(mean, row + offset, xerr=np.abs(ends - mean)[:, None], fmt="none", ecolor="0.2", capsize=2)
    axis.set(yticks=range(len(models)), yticklabels=models, xlabel="obedience lost against the base (points)")
    axis.invert_yaxis()
    axis.legend(frameon=False)
    return figure


@picture("own-data")
def own_data() -> Figure:
    """Draw the runs on the base's own data: the denoising error of real images against quality, by round."""
    figure, axis = plt.subplots(figsize=(6, 3.6), constrained_layout=True)
    runs = results("spin_controls")
    arms = {"own-data-unguided": "self-play, 3 rounds", "own-data-unguided-sft": "fine-tuning, equal passes to one round"}
    for colour, (arm, name) in zip(COLOURS, arms.items(), strict=False):
        for seed, result in runs[arm].items():
            quality = [r["oracle"]["quality"]["mean"] for r in result["rounds"]]
            error = [r["scores"]["held_out_error"]["mean"] for r in result["rounds"]]
            axis.plot(quality, [100 * (e / error[0] - 1) for e in error], "o-", ms=4, color=colour, label=name if seed == 0 else None)
    axis.axhline(0, color="0.7", lw=1)
    axis.set(xlabel="quality of the samples", ylabel="denoising error on real\nimages, change (%; up is worse)")
    axis.legend(frameon=False)
    return figure
