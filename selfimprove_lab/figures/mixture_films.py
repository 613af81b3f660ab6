"""Make films for `sliders` from the closed-form world: what noise leaves of two conditions, and which examples a loss weights."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure

from selfimprove.losses import get_link
from selfimprove_lab.figures.sliders import Film
from selfimprove_lab.figures.theory import COLOURS
from selfimprove_lab.theory import exact
from selfimprove_lab.theory.objective import make_game
from selfimprove_lab.theory.worlds import data_mixture, point_world

REACH, FINENESS = 4.5, 121  # half the side of the square that is drawn, and points along the side
MARGINS = 6.0  # half the width of the figure of margins; margins outside are counted at its ends


def noised_densities(alphas: Sequence[float]) -> Float[np.ndarray, "alphas 2 n n"]:
    """Return the density p(x_t | c) on a square grid, for each alpha_t and both conditions; alpha_t = 1 is the data's own density."""
    world = point_world(100)
    mixture, line = data_mixture(world.schedule), torch.linspace(-REACH, REACH, FINENESS, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)
    texts = world.embed(torch.arange(world.conditions))
    with torch.no_grad():
        found = [[mixture.log_density(points, text[None].expand(len(points), -1, -1), a).exp() for text in texts] for a in alphas]
    return torch.stack([torch.stack(pair) for pair in found]).view(len(alphas), 2, FINENESS, FINENESS).numpy()


def total_variation(densities: Float[np.ndarray, "2 n n"]) -> float:
    """Return half the integral of `|p(x_t | 0) - p(x_t | 1)|`, in [0, 1]; it is 0 if x_t does not tell the two conditions apart."""
    return float(np.abs(densities[0] - densities[1]).sum() / 2 * (2 * REACH / (FINENESS - 1)) ** 2)


def noising_film(times: Sequence[int]) -> Film:
    """Film the noised density of both conditions by t, for a schedule of 100 steps; t = 0 is the data."""
    schedule = point_world(100).schedule
    alphas = [schedule.power(t - 1)[0] for t in times]
    frames, descriptions, notes = [], [], []
    for t, alpha, densities in zip(times, alphas, noised_densities(alphas), strict=True):
        chance = (1 + total_variation(densities)) / 2
        frames.append(_contours(densities))
        notes.append(f"alpha_t = {alpha:.3f}. The best guess of the condition from x_t is right in {100 * chance:.0f} of 100 cases.")
        descriptions.append(f"Contour lines of the noised densities of both conditions in the plane at t = {t}. {notes[-1]}")
    return Film(frames, {"t": [str(t) for t in times]}, descriptions, notes)


def _contours(densities: Float[np.ndarray, "2 n n"]) -> Figure:
    figure = Figure(figsize=(4.4, 3.9), layout="constrained")
    axis = figure.subplots()
    line = np.linspace(-REACH, REACH, FINENESS)
    for condition, (density, colour) in enumerate(zip(densities, COLOURS, strict=False)):
        style = ("solid", "dashed")[condition]
        axis.contour(line, line, density.T, density.max() * np.array([0.05, 0.2, 0.4, 0.6, 0.8]), colors=colour, linestyles=style)
        axis.plot([], [], color=colour, ls=style, label=f"condition {condition}")
    axis.set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), xlabel="first coordinate", ylabel="second coordinate", aspect="equal")
    axis.legend(loc="upper left", frameon=False)
    return figure


def step_margins(count: int) -> tuple[list[int], Float[np.ndarray, "steps examples"]]:
    """Return the steps t of a DDIM path of 20, and (4.9)'s margins at beta = 1 of `count` examples at each step.

    A margin grows in proportion to beta.
    """
    game = make_game(0.0, count)
    with torch.no_grad():
        margins = [terms.margin for terms in exact.approximate(game, 1.0)]
    return [int(step.t) + 1 for step in game.real.steps], torch.stack(margins).numpy()


def weight_film(times: Sequence[int], betas: Sequence[float], count: int = 1000) -> Film:
    """Film the weight -l'(margin) of an example, and where the examples of step t lie at each beta.

    Raises:
        ValueError: a t is not a step of the path (1 to 20).
    """
    known, margins = step_margins(count)
    frames, descriptions, notes = [], [], []
    for t in times:
        if t not in known:
            raise ValueError(f"t={t} is no step of the path; give some of {min(known)} to {max(known)}")
        for beta in betas:
            margin = beta * margins[known.index(t)]
            weight = -get_link("logistic").slope(torch.from_numpy(margin)).numpy()
            top = np.sort(weight)[-len(weight) // 10 :].sum() / weight.sum()
            frames.append(_weights(margin))
            notes.append(
                f"Player ahead on {100 * (margin > 0).mean():.0f} of 100 examples; mean weight {weight.mean():.2f}; "
                f"the tenth with the largest weights holds {100 * top:.0f} % of all weight."
            )
            descriptions.append(f"Histogram of the margins at t = {t} and beta = {beta:g} under the curve of the weight. {notes[-1]}")
    return Film(frames, {"t": [str(t) for t in times], "beta": [f"{beta:g}" for beta in betas]}, descriptions, notes)


def _weights(margin: Float[np.ndarray, " examples"]) -> Figure:
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axis = figure.subplots()
    bins = np.linspace(-MARGINS, MARGINS, 49).tolist()
    share = np.full(len(margin), 1 / len(margin))
    axis.hist(margin.clip(-MARGINS, MARGINS), bins, weights=share, color="0.75", label="share of the examples")
    line = torch.linspace(-MARGINS, MARGINS, 241, dtype=torch.float64)
    for name, colour, style in (("logistic", COLOURS[0], "-"), ("hinge", COLOURS[1], "--"), ("correlation", COLOURS[2], ":")):
        axis.plot(line, -get_link(name).slope(line), color=colour, ls=style, label=f"weight, {name} link")
    axis.set(xlabel="margin (ends: and beyond)", ylabel="weight -l', or share", ylim=(0, 1.05), xlim=(-MARGINS, MARGINS))
    axis.legend(frameon=False, loc="center right", fontsize=8)
    return figure
