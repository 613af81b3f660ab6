"""Draw sessions 7 and 8: selection as a tilt, guidance compounding, eight rounds, and collapse."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import norm, rankdata

from course.pictures import picture
from course.pictures.spin import strip
from course.pictures.theory import LINE, MEANS, SPREADS, WEIGHTS
from course.readings import SEEDS, per_prompt, results
from selfimprove.recursion.collapse import LIMITS
from selfimprove_lab.figures.theory import COLOURS
from selfimprove_lab.results import rsi, shrinkage
from selfimprove_lab.results.seeds import crossed_interval


@picture("selection-tilt")
def selection_tilt() -> Figure:
    """Draw what selecting by a score does to the score and to a correlated truth."""
    draws = np.random.default_rng(0).normal(size=(2, 60_000))
    score, truth = draws[0], 0.5 * draws[0] + np.sqrt(0.75) * draws[1]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3), constrained_layout=True, sharey=True)
    for axis, values, name in zip(axes, (score, truth), ("score", "truth (correlation 1/2)"), strict=True):
        for colour, keep in zip(("0.75", *COLOURS), (1.0, 0.5, 0.1), strict=False):
            kept = values[score >= np.quantile(score, 1 - keep)]
            axis.hist(kept, 80, range=(-3.5, 3.5), density=True, histtype="step", lw=1.5, color=colour, label=f"best {keep:.0%}")
        axis.set(xlabel=name)
    axes[0].set_ylabel("density")
    axes[0].legend(frameon=False)
    return figure


@picture("ranks")
def ranks() -> Figure:
    """Draw selection by raw average beside selection by mean rank."""
    scores = np.random.default_rng(1).normal(size=(150, 2)) * [1, 20]
    raw = np.argsort(-scores.mean(1))[:15]
    ranked = np.argsort(-rankdata(scores, axis=0).mean(1))[:15]
    figure, axis = plt.subplots(figsize=(6, 3.4), constrained_layout=True)
    axis.scatter(*scores.T, s=10, color="0.75", label="candidates")
    axis.scatter(*scores[raw].T, s=50, marker="s", facecolors="none", edgecolors=COLOURS[1], label="best by raw average")
    axis.scatter(*scores[ranked].T, s=20, color=COLOURS[0], label="best by mean rank")
    axis.set(xlabel="quiet scorer", ylabel="loud scorer")
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@picture("weighted-law")
def weighted_law() -> Figure:
    """Draw the law whose denoiser a weighted loss learns."""
    law = (WEIGHTS * norm.pdf(LINE[:, None], MEANS, SPREADS)).sum(1)
    weight = 1 / (1 + np.exp(-2 * (LINE + 0.8)))
    learned = law * weight / np.trapezoid(law * weight, LINE)
    figure, axis = plt.subplots(figsize=(6, 3), constrained_layout=True)
    axis.fill_between(LINE, law, color="0.85", label="images drawn, $p$")
    axis.plot(LINE, weight * law.max(), color=COLOURS[2], ls="--", label="weight $w$ (own scale)")
    axis.plot(LINE, learned, color=COLOURS[0], label="learned, $pw/E_p w$")
    axis.set(xlabel="$x_0$", ylabel="density")
    axis.legend(frameon=False)
    return figure


@picture("guidance-compounds")
def guidance_compounds() -> Figure:
    """Draw p(x) (p(x|c) / p(x))^(g^k): guidance applied anew to what the round before learned."""
    one, other = norm.pdf(LINE, 0.7, 0.8), norm.pdf(LINE, -0.7, 0.8)
    both = (one + other) / 2
    figure, axis = plt.subplots(figsize=(6, 3.2), constrained_layout=True)
    for k in range(5):
        law = both * (one / both) ** (1.5**k)
        axis.plot(LINE, law / np.trapezoid(law, LINE), color=plt.cm.viridis(k / 5), label=f"exponent $1.5^{k}$")
    axis.set(xlabel="$x$", ylabel="density")
    axis.legend(frameon=False)
    return figure


@picture("rsi-strip")
def rsi_strip() -> Figure:
    """Show the strip of eight rounds."""
    return strip("rsi_rounds/rsi-0.png")


@picture("rsi-rounds")
def rsi_rounds() -> Figure:
    """Draw eight rounds on the 128 prompts that were judged along the way."""
    return rsi.rounds_figure(results("rsi_rounds"), "rsi", ("sft-equal",))


@picture("rounds-on-500")
def rounds_on_500() -> Figure:
    """Draw rounds 1, 5 and 8 on prompts that chose nothing."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), constrained_layout=True)
    for axis, column, name in zip(axes, ("oracle_quality", "oracle_all_right"), ("quality", "obedience"), strict=True):
        base = per_prompt("base", column)
        matrices = [np.stack([per_prompt(f"rsidiff-round-{n}-seed-{s}", column) - base for s in SEEDS]) for n in (1, 5, 8)]
        for seed in SEEDS:
            axis.plot((1, 5, 8), [m[seed].mean() for m in matrices], "o-", ms=3, lw=0.8, color="0.7")
        ends = np.array([crossed_interval(m) for m in matrices]).T
        means = np.array([m.mean() for m in matrices])
        axis.errorbar((1, 5, 8), means, np.abs(ends - means), fmt="o", color=COLOURS[0], capsize=3)
        axis.axhline(0, color="0.7", lw=1)
        axis.set(xlabel="round", ylabel=f"change of {name}", xticks=(1, 5, 8))
    return figure


@picture("optimism")
def optimism() -> Figure:
    """Draw the optimism of reading the best round where it was chosen."""
    draws, found = np.random.default_rng(0), []
    for _ in range(1000):
        choosing, other = draws.normal(0, 0.05, (2, 8, 128)).mean(2)
        found.append((choosing.max(), other[choosing.argmax()]))
    figure, axis = plt.subplots(figsize=(6, 3), constrained_layout=True)
    for colour, values, name in zip(COLOURS, np.array(found).T, ("prompts that chose", "other prompts"), strict=False):
        axis.hist(values, 40, histtype="step", lw=1.6, color=colour, label=name)
    axis.axvline(0, color="0.7", lw=1)
    axis.set(xlabel="mean change at the best of eight rounds; the truth is 0", ylabel="made-up runs")
    axis.legend(frameon=False)
    return figure


@picture("ablations")
def ablations() -> Figure:
    """Draw the ablations at their last round: one seed each, so nothing here is decided between settings that lie close."""
    rows = {}
    for arm, seeds in results("rsi_ablations").items():
        end = seeds[0]["rounds"][-1]["oracle"]["quality"]
        rows[arm] = (end["delta_base"], *end["delta_base_ci95"])
    figure, axis = plt.subplots(figsize=(8, 4.6), constrained_layout=True)
    for row, (mean, low, high) in enumerate(sorted(rows.values())):
        axis.errorbar(mean, row, xerr=[[mean - low], [high - mean]], fmt="o", ms=4, color=COLOURS[0], capsize=2)
    axis.axvline(0, color="0.7", lw=1)
    axis.set(yticks=range(len(rows)), yticklabels=sorted(rows, key=lambda k: rows[k]), xlabel="change of quality from the base (one seed)")
    return figure


@picture("refit")
def refit() -> Figure:
    """Draw a chain of refitted Gaussians."""
    draws, mean, spread = np.random.default_rng(4), 0.0, 1.0
    figure, axis = plt.subplots(figsize=(6, 3), constrained_layout=True)
    for k in range(25):
        if k % 6 == 0:
            axis.plot(LINE, norm.pdf(LINE, mean, spread), color=plt.cm.viridis(k / 26), label=f"after {k} rounds")
        own = draws.normal(mean, spread, 20)
        mean, spread = own.mean(), own.std()
    axis.set(xlabel="$x$", ylabel="density")
    axis.legend(frameon=False)
    return figure


@picture("drift-paths")
def drift_paths() -> Figure:
    """Draw paths of the mean in the three ways to go on."""
    draws = np.random.default_rng(2)
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), constrained_layout=True, sharey=True)
    for axis, way in zip(axes, ("replace", "accumulate", "real"), strict=True):
        model, history, path = np.zeros(30), [], [np.zeros(30)]
        for _ in range(30):
            history.append(model + draws.normal(size=30) / 5)
            fresh = draws.normal(size=30) / 5
            model = history[-1] if way == "replace" else np.mean(history, axis=0) if way == "accumulate" else (history[-1] + fresh) / 2
            path.append(model)
        axis.plot(np.array(path), color=COLOURS[0], lw=0.6)
        axis.set(title=way, xlabel="round")
    axes[0].set_ylabel("mean of the model")
    return figure


@picture("careless-strip")
def careless_strip() -> Figure:
    """Show collapse."""
    return strip("rsi_collapse/careless-0.png")


@picture("cured-strip")
def cured_strip() -> Figure:
    """Show recursion with real data kept."""
    return strip("rsi_collapse/real-0.png")


@picture("careless-rounds")
def careless_rounds() -> Figure:
    """Draw collapse in numbers."""
    return rsi.rounds_figure(results("rsi_collapse"), "careless")


@picture("cures")
def cures() -> Figure:
    """Draw obedience by round for each cure, one seed each."""
    figure, axis = plt.subplots(figsize=(7, 3.4), constrained_layout=True)
    runs = results("rsi_collapse")
    for colour, marker, arm in zip(COLOURS, "osD^vP", ("careless", "prompts", "selection", "weights", "accumulate", "real"), strict=True):
        ends = [r["oracle"]["all_right"] for r in runs[arm][0]["rounds"]]
        means = np.array([e["mean"] for e in ends])
        intervals = np.abs(np.array([e["ci95"] for e in ends]).T - means)
        axis.errorbar(range(len(means)), means, intervals, marker=marker, ms=4, capsize=2, lw=1.2, color=colour, label=arm)
    axis.set(xlabel="round", ylabel="obedience (share right)", ylim=(0, None))
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@picture("drift-signs")
def drift_signs() -> Figure:
    """Draw the signs of three arms."""
    return rsi.drift_figure(results("rsi_collapse"), ["careless", "real", "accumulate"])


@picture("mean-distance")
def mean_distance() -> Figure:
    """Draw what a mean distance measures when references lie on a ring."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], 1)
    grid = np.stack(np.meshgrid(np.linspace(-1.8, 1.8, 90), np.linspace(-1.8, 1.8, 90)), -1)
    mean = np.linalg.norm(grid[:, :, None] - ring, axis=-1).mean(2)
    figure, axis = plt.subplots(figsize=(4.8, 3.6), constrained_layout=True)
    filled = axis.contourf(grid[..., 0], grid[..., 1], mean, 14, cmap="viridis")
    axis.plot(*ring.T, "w.", ms=6)
    axis.plot(0, 0, "rx", ms=10, mew=2)
    axis.set(aspect="equal", xlabel="references are white; the cross is a blank image", ylabel="")
    figure.colorbar(filled, label="mean distance to the references")
    return figure


@picture("blindness")
def blindness() -> Figure:
    """Draw the book's figure of what each distance notices."""
    return shrinkage.blindness_figure(shrinkage.blindness(48))


@picture("alarms")
def alarms() -> Figure:
    """Draw warnings and damage of the careless runs."""
    figure, axis = plt.subplots(figsize=(7, 3.2), constrained_layout=True)
    band = LIMITS["variance"]
    axis.axhspan(band.low, band.high, color="0.9", label="no warning")
    for colour, (seed, run) in zip(COLOURS, results("rsi_collapse")["careless"].items(), strict=False):
        ratios = [1.0, *(m["drift"]["variance"] for m in run["rounds"][1:])]
        axis.plot(range(len(ratios)), ratios, "o-", ms=4, color=colour, label=f"seed {seed}")
        plain = rsi.visible(run)
        if plain is not None:
            axis.plot(plain, ratios[plain], "x", ms=12, mew=2, color=colour)
    axis.set(xlabel="round (a cross: damage is plain)", ylabel="variance of latents\nover the base's")
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
