"""Test the theoretical claims of the SPIN-Diffusion paper at small settings: what chapters 2 to 5 assert, in the form of a table."""

import math

import numpy as np
import pandas as pd
import torch

from selfimprove import losses
from selfimprove_lab.claims.table import AGREES, DIFFERS, OPEN, Difference, Row, qualified, table
from selfimprove_lab.theory import bound, fixed_points, gradient, objective, self_play, uniqueness
from selfimprove_lab.theory.fixed_points import ALPHA, BEST, OPPONENT

ROUNDING = 1e-10
SURE = 5  # standard errors beyond which a sign counts as seen; high, because many players are tested
SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)  # beta_t h_t^2 in one dimension
LINE = "chapter 5, A counterexample in one dimension"


def claims(examples: int = 16, samples: int = 400_000, points: int = 1024) -> pd.DataFrame:
    """Return the table of claims, in about half a minute on one core. Verdicts follow from what the rows compute.

    `examples` is the number of examples of the exact objectives, `samples` the number of draws in one dimension, and `points` the number of
    points of the mixtures in the plane.
    """
    line = fixed_points.counterexample(samples, [0.2, OPPONENT, 0.6, BEST, 0.9], SCALES)
    directions = fixed_points.directions(4 * points, number=6)
    rows = [
        _best_reply(),
        _lemma(examples),
        _noise_form(examples),
        _gradient(examples),
        _reweighting(),
        _moves(line, "own path", "if theta_k does not minimise the denoising loss, some beta_t makes a round move", "Theorem 5.2"),
        _moves(line, "practical", "... also in the form that is trained, on noised samples", "not said; trained is C.3's last display"),
        _after_fine_tuning(),
        _minimum(line, directions),
        _minimum_on_own_path(line),
        _minimum_of_the_exact(line),
        _only_minimum(),
        _stationary(directions, points),
        _rounds(points),
    ]  # fmt: skip
    return table(rows)


def _small(value: float) -> str:
    return f"below {ROUNDING:.0e}" if abs(value) < ROUNDING else f"{value:.2g}"


def _excess(row: pd.Series) -> str:
    return f"{row['excess']:+.5f} ± {row['error']:.5f} (s = {row['scale']:g})"


def _sign(value: float, error: float) -> str:
    """Return the verdict on the claim that the value is positive."""
    return Difference(value, value - SURE * error, value + SURE * error, 3).verdict()


def _best_reply() -> Row:
    advantage = objective.best_reply(points=1001)
    here = f"one dimension, lambda = 1/2: the least advantage over 500 other densities is {advantage:.1e}"
    verdict = AGREES if advantage >= 0 else DIFFERS
    return Row(
        "the best reply to a test function is p_k exp(f / lambda)", "(4.3)",
        "chapter 2, From a test function to a likelihood ratio", here, verdict,
    )  # fmt: skip


def _noise_form(examples: int) -> Row:
    forms = objective.noise_form(examples)
    derived, printed = forms["derived"].max(), forms["as extracted"].min()
    here = f"relative error with h_t as extracted from the PDF {printed:.2g} or more; as derived {_small(derived)}"
    verdict = OPEN if derived > ROUNDING else DIFFERS if printed > 0.01 else AGREES
    return Row(
        "errors of means are errors of noise predictions, with h_t as the PDF's text has it", "(C.3), (C.4)",
        "chapter 2, From means to noise predictions", here, verdict,
    )  # fmt: skip


def _lemma(examples: int) -> Row:
    """Test Lemma 4.1. A link that is not convex is the control: if it did not break the bound, the test could not fail."""
    gaps = bound.gaps(examples, totals=(1, 5, 20))
    convex, control = gaps[gaps["link"] != bound.SIGMOID.name], gaps[gaps["link"] == bound.SIGMOID.name]
    least, broken = convex["smallest gap"].min(), control["smallest gap"].min()
    below = "none" if least >= -ROUNDING else f"one by {-least:.2g}"
    here = (
        f"three links, T = 1, 5, 20, three eta, three distances, {examples} examples each: below the exact one {below} of "
        f"{examples * len(convex):,}; with a link that is not convex by up to {-broken:.2g}"
    )
    verdict = OPEN if broken > -ROUNDING else AGREES if least >= -ROUNDING else DIFFERS
    return Row("the approximate objective bounds the exact one from above", "Lemma 4.1", "chapter 3, Where it is tight", here, verdict)


def _gradient(examples: int) -> Row:
    agreement = gradient.against_autograd(examples)
    largest, norm = agreement["largest difference"].max(), agreement["norm"].min()
    here = f"a small network, three links, the practical form: largest difference to automatic differentiation {_small(largest)}"
    verdict = OPEN if norm < 1e-3 else AGREES if largest < ROUNDING else DIFFERS
    return Row("the gradient is reweighting times matching less pushing", "(5.1)", "chapter 4, Against automatic differentiation",
               f"{here} (norm {norm:.2g} or more)", verdict)  # fmt: skip


def _reweighting() -> Row:
    margins = torch.linspace(-10, 10, 401, dtype=torch.float64)
    weights = {name: -link.slope(margins) for name, link in losses.LINKS.items()}
    holds = all(bool((w >= 0).all()) and bool((w.diff() <= 0).all()) for w in weights.values())
    strict = ", ".join(name for name, w in weights.items() if bool((w.diff() < 0).all()))
    here = f"on margins from -10 to 10: so for {', '.join(weights)}; falling everywhere only for {strict or 'none'}"
    return Row("the reweighting is never negative and does not grow with the margin", "section 5, after (5.1)",
               "chapter 4, Over training, for each link", here, AGREES if holds else DIFFERS)  # fmt: skip


def _moves(line: pd.DataFrame, form: str, claim: str, paper: str) -> Row:
    """Test whether eps* lies below the start at some scale, if theta_k draws the data's law with a denoiser that is not the best."""
    at_best = line[(line["form"] == form) & np.isclose(line["slope"], BEST)]
    lowest = at_best.loc[(at_best["excess"] / at_best["error"]).idxmin()]
    here = (
        "one dimension, T = 1, an opponent that draws the data's law by a wrong denoiser; objective at the best denoiser less l(0), "
        f"at that of {len(SCALES)} scales where it is lowest in standard errors: {_excess(lowest)}"
    )
    return Row(claim, paper, LINE, here, _sign(-lowest["excess"], lowest["error"]))


def _after_fine_tuning() -> Row:
    """Compute SFT's loss, E(eps - s x)^2 = 1 - 2 s sqrt(1 - alpha) + s^2, at a fixed point of the practical form, same opponent."""

    def error(slope: float) -> float:
        return 1 - 2 * slope * math.sqrt(1 - ALPHA) + slope**2

    def variance(slope: float) -> float:
        return ((1 - math.sqrt(1 - ALPHA) * slope) / math.sqrt(ALPHA)) ** 2

    here = (
        f"at a fixed point of what is trained (one dimension, as above) SFT's own loss falls from {error(OPPONENT):.3f} to "
        f"{error(BEST):.3f}; the samples lose by it: variance {variance(OPPONENT):.2f}, the data's, becomes {variance(BEST):.2f}"
    )
    verdict = DIFFERS if error(BEST) < error(OPPONENT) - ROUNDING else AGREES
    return Row("what self-play ends at cannot be improved by SFT", "introduction; section 5, after Theorem 5.2", LINE, here, verdict)


def _minimum(line: pd.DataFrame, directions: pd.DataFrame) -> Row:
    moving = line[(line["form"] == "practical") & ~np.isclose(line["slope"], OPPONENT)]
    control = line[(line["form"] == "own path") & ~np.isclose(line["slope"], OPPONENT)]
    least, elsewhere = (float((t["excess"] / t["error"]).min()) for t in (moving, control))
    near = float(directions[directions["source"] == "p_data"]["ratio"].min())
    here = (
        f"a player's least excess over l(0), in standard errors: one dimension {least:+.1f} ({elsewhere:+.0f} on the opponent's own path); "
        f"near three opponents in the plane {near:+.1f}"
    )
    verdict = OPEN if elsewhere > -SURE else AGREES if min(least, near) >= -SURE else DIFFERS
    return Row("if p_k = p_data, theta_k is a global minimum: on noised samples, as it is proved", "proof of Theorem 5.3",
               "chapter 5, Theorem 5.3 for opponents of any kind", here, verdict)  # fmt: skip


def _lowest_at_best(line: pd.DataFrame) -> pd.Series:
    at_best = line[(line["form"] == "own path") & np.isclose(line["slope"], BEST)]
    return at_best.loc[(at_best["excess"] / at_best["error"]).idxmin()]


def _minimum_on_own_path(line: pd.DataFrame) -> Row:
    lowest = _lowest_at_best(line)
    here = f"there p_k = p_data, and at the best denoiser the objective less l(0) is {_excess(lowest)}"
    return Row("... of (4.9), on the opponent's own path, as it is printed", "Theorem 5.3, of (4.9)", LINE, here,
               _sign(lowest["excess"], lowest["error"]))  # fmt: skip


def _minimum_of_the_exact(line: pd.DataFrame) -> Row:
    """With one step (4.8) is (4.9): what refutes the one refutes the other."""
    lowest = _lowest_at_best(line)
    here = (
        f"read as the law of the image: with one step, as there, (4.8) is (4.9), {_excess(lowest)}. Read as the law of whole paths it "
        "holds for any number of steps: both sides of the margin then have one law, and Jensen's inequality does the rest"
    )
    return Row("... of the exact objective", "section 5 and appendix D, of (4.8)", LINE, here, _sign(lowest["excess"], lowest["error"]))


def _only_minimum() -> Row:
    """Look for other players at l(0) where the samples have the data's law, under links and pairings that the paper allows or uses."""
    table = uniqueness.flat_players([1.0])
    flat = table[table["excess"].abs() < uniqueness.FLAT]
    strict = table[table["unique"]]["excess"].min()
    here = (
        f"one dimension, practical form, a player at distance 1: with the logistic link {strict:.2f} nats or more above l(0); at l(0) "
        f"itself in {len(flat)} settings: {'; '.join(flat['case'])}"
    )
    return Row("theta_k is the only global optimum", "limitations; last line of the proof of Theorem 5.3",
               "chapter 5, Is it the only one?", here, DIFFERS if len(flat) else AGREES)  # fmt: skip


def _stationary(directions: pd.DataFrame, points: int) -> Row:
    """Test that the descent direction improves on every opponent with samples of another law, and that few sampler steps leave some."""
    control = directions[(directions["source"] == "elsewhere") & (directions["direction"] == "descent")]
    hardest = float(control.groupby("opponent")["ratio"].min().max())
    left = fixed_points.gradient_left([3], points).iloc[0]
    here = (
        f"with samples of another law every one of three opponents is improved on, by {-hardest:.0f} standard errors or more. It is the "
        f"sampler's output that aligns: at the best denoiser three steps leave a squared gradient of {left['squared norm']:.3f} ± "
        f"{left['error']:.3f}"
    )
    return Row("self-play is stationary where the model aligns with the target distribution", "introduction",
               "chapter 5, What the sampler leaves", here, AGREES if hardest <= -SURE else OPEN)  # fmt: skip


def _rounds(points: int, rounds: int = 5) -> Row:
    played = self_play.play_arm(self_play.ARMS[0], 0, rounds, 80, points)
    first, last = played.iloc[0], played.iloc[-1]
    nearer = first["terms"] - last["terms"]
    here = (
        f"a mixture that can be the data, {self_play.SAMPLER_STEPS} sampler steps: KL of samples to the data {first['samples']:.3f} nats, "
        f"after {rounds} rounds {last['samples']:.3f} (exact denoiser, as many steps: {self_play.exact_level(points):.3f}); "
        "one training seed, which decides nothing"
    )
    verdict = _sign(float(nearer.mean()), float(nearer.std() / math.sqrt(len(nearer))))
    return Row("rounds bring the samples towards the target distribution", "introduction: until converging to it",
               "chapter 5, Self-play, round after round", here, qualified(verdict, 1))  # fmt: skip
