"""Draw session 9: what scorers notice, the best of n, win rates, over-optimisation, and costs."""

import json

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import norm

from course.pictures import picture
from course.pictures.world import drawn
from course.readings import RESULTS, judged
from selfimprove.evaluation.aggregate import RAW, STANDARDISED
from selfimprove.evaluation.statistics import win_rate
from selfimprove.scorers import load_scorers
from selfimprove.scorers.embedded import SHAPES_SCORERS
from selfimprove.shapes.captions import SCENES, canonical
from selfimprove_lab.figures.comparison import change_map, correlation_map, lines, proxy_against_truth
from selfimprove_lab.figures.theory import COLOURS
from selfimprove_lab.results.agreement import within_prompt_correlation
from selfimprove_lab.results.evaluation import best_of_curve, guidance_frame, load_evaluations, tidy
from selfimprove_lab.results.sensitivity import sensitivity


@picture("noticed")
def noticed() -> Figure:
    """Draw what each scorer notices, on 48 drawings."""
    scenes = [tuple(SCENES[i].tolist()) for i in np.random.default_rng(0).choice(512, 48, replace=False)]
    images = drawn(scenes, np.random.default_rng(1).uniform(0.3, 0.8, 48).astype(np.float32).tolist())
    device = torch.device("cpu")
    judges = load_scorers(SHAPES_SCORERS, device) | load_scorers(("quality", "all_right"), device, family="oracle")
    return change_map(sensitivity(judges, images, [canonical(s) for s in scenes]))


@picture("best-of-n")
def best_of_n() -> Figure:
    """Draw the best-of-n curve of the base's images in the larger evaluation."""
    curve = best_of_curve(judged("base"), SHAPES_SCORERS, RAW, (1, 2, 3, 4, 5))
    return lines(
        curve.rename(columns={"score": "model"}),
        "n",
        "gain over the mean image\n(standard deviations)",
        "n, images of a prompt to choose from",
    )


@picture("expected-maximum")
def expected_maximum() -> Figure:
    """Draw E max of n standard normals, by integration."""
    x, counts = np.linspace(-6, 8, 4000), np.arange(1, 33)
    values = [np.trapezoid(x * n * norm.pdf(x) * norm.cdf(x) ** (n - 1), x) for n in counts]
    figure, axis = plt.subplots(figsize=(6, 3), constrained_layout=True)
    axis.plot(counts, values, color=COLOURS[0], label="the score that chose")
    axis.plot(counts, 0.4 * np.array(values), color=COLOURS[1], label="a truth with correlation 0.4")
    axis.set(xlabel="n", ylabel="gain (standard deviations)")
    axis.legend(frameon=False)
    return figure


@picture("wilson")
def wilson() -> Figure:
    """Draw Wilson's intervals with the package's function."""
    figure, axis = plt.subplots(figsize=(6, 3.2), constrained_layout=True)
    for i, (colour, rate) in enumerate(zip(COLOURS, (0.5, 0.7, 1.0), strict=False)):
        for j, count in enumerate((10, 30, 100, 500)):
            won = round(rate * count)
            mean, low, high, _ = win_rate(np.r_[np.ones(won), -np.ones(count - won)])
            axis.errorbar(
                j + 0.15 * (i - 1),
                mean,
                np.abs([[mean - low], [high - mean]]),
                fmt="o",
                ms=4,
                color=colour,
                capsize=3,
                label=f"rate {rate:g}" if j == 0 else None,
            )
    axis.set(xticks=range(4), xticklabels=["10", "30", "100", "500"], xlabel="prompts", ylabel="win rate")
    axis.axhline(0.5, color="0.7", lw=1)
    axis.legend(frameon=False)
    return figure


@picture("correlations")
def correlations() -> Figure:
    """Draw how far scorers agree about images of one prompt."""
    return correlation_map(within_prompt_correlation(judged("base"), [*SHAPES_SCORERS, "oracle_quality"]))


@picture("proxy-truth")
def proxy_truth() -> Figure:
    """Draw scorers against truth for every judged model."""
    changed = tidy(load_evaluations(RESULTS / "evaluation_shapes" / "held-in"), statistic="difference")
    changed = changed.rename(columns={"mean": "difference", "low": "difference_low", "high": "difference_high"})
    return proxy_against_truth(changed, STANDARDISED, ["oracle_quality", "oracle_all_right"])


@picture("guidance-sweep")
def guidance_sweep() -> Figure:
    """Draw obedience by guidance."""
    swept = guidance_frame(load_evaluations(RESULTS / "evaluation_shapes" / "guidance"))
    swept = swept[swept["model"].isin(["base", "SPIN round 3", "SFT equal compute", "RSIDiff round 8"])]
    return lines(swept[swept["score"] == "oracle_all_right"], "guidance", "obedience (oracle)", "guidance of the evaluation")


@picture("cost-shares")
def cost_shares() -> Figure:
    """Draw what drawing and training cost by number of captions, from counted operations at an assumed 30 % of an A100's peak."""
    flops = json.loads((RESULTS / "scale.json").read_text())["presets"]["sd15-spin"]["flops"]
    second = 0.3 * 312e12 * 8 * 3600
    training = 500 * 2048 * (2 * flops["step"] + 2 * flops["forward"]) / second
    figure, axis = plt.subplots(figsize=(7, 2.6), constrained_layout=True)
    for row, captions in enumerate((20_000, 100_000, 500_000)):
        drawing = captions * (100 * flops["forward"] + flops["decode"] + flops["encode"]) / second
        axis.barh(row, drawing, color=COLOURS[1], label="drawing" if row == 0 else None)
        axis.barh(row, training, left=drawing, color=COLOURS[0], label="training" if row == 0 else None)
    axis.set(
        yticks=range(3),
        yticklabels=["20,000 captions", "100,000", "500,000"],
        xlabel="hours on 8 A100 at 30 % of their peak (counted, not measured)",
    )
    axis.legend(frameon=False)
    return figure


@picture("over-optimisation")
def over_optimisation() -> Figure:
    """Draw a model of over-optimisation: score and truth share a part, and selection takes the rest as well."""
    draws = np.random.default_rng(0).normal(size=(2, 200_000))
    truth, taste = draws[0], draws[1]
    shares = np.geomspace(1, 1e-3, 20)
    figure, axis = plt.subplots(figsize=(6, 3), constrained_layout=True)
    score = truth + taste
    order = np.argsort(-score)
    kept = [order[: max(int(s * len(order)), 50)] for s in shares]
    axis.plot(-np.log(shares), [score[k].mean() for k in kept], color=COLOURS[1], label="score = truth + taste")
    axis.plot(-np.log(shares), [truth[k].mean() for k in kept], color=COLOURS[0], label="truth")
    axis.plot(-np.log(shares), [(truth - 0.35 * taste**2)[k].mean() for k in kept], color=COLOURS[2], label="truth that far taste spoils")
    axis.set(xlabel="pressure of selection, $-\\log$ (share kept)", ylabel="mean of what is kept")
    axis.legend(frameon=False)
    return figure
