"""Draw diagrams: boxes with arrows between them."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from course.pictures import picture
from course.plan import NEEDS, SHORT, TITLES

INK, LINE, REAL, OWN, PLAIN = "#1d2430", "#5b6675", "#dcebf7", "#fbe5d6", "#f1f3f5"


def boxes(
    places: Mapping[str, tuple[float, float]],
    arrows: Sequence[tuple[str, str, str]],
    colours: Mapping[str, str] | None = None,
    size: tuple[float, float] = (9, 3),
) -> Figure:
    """Draw one box per text at its place, and an arrow (from, to, label) between two boxes; places are in units of the whole figure."""
    figure, axis = plt.subplots(figsize=size)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.99)
    axis.set(xlim=(0, 1), ylim=(0, 1))
    axis.set_axis_off()
    shapes = {}
    for text, (x, y) in places.items():
        style = {"boxstyle": "round,pad=0.5", "facecolor": (colours or {}).get(text, PLAIN), "edgecolor": LINE}
        shapes[text] = axis.text(x, y, text, ha="center", va="center", fontsize=12, color=INK, bbox=style, zorder=3)
    figure.canvas.draw()  # gives the boxes their sizes, from which arrows begin
    for start, end, label in arrows:
        ends = {"patchA": shapes[start].get_bbox_patch(), "patchB": shapes[end].get_bbox_patch()}
        axis.annotate(
            "", places[end], places[start], arrowprops={"arrowstyle": "-|>", "color": LINE, "lw": 1.4, "shrinkA": 2, "shrinkB": 2} | ends
        )
        middle = [(a + b) / 2 for a, b in zip(places[start], places[end], strict=True)]
        axis.text(middle[0], middle[1] + 0.06, label, ha="center", va="bottom", fontsize=9, color=LINE)
    return figure


@picture("dependencies")
def dependencies() -> Figure:
    """Draw which session needs which."""
    columns = {1: (0.08, 0.5), 2: (0.26, 0.78), 3: (0.46, 0.9), 4: (0.68, 0.9), 5: (0.46, 0.5), 6: (0.68, 0.64), 7: (0.46, 0.12),
               8: (0.68, 0.12), 9: (0.9, 0.4)}  # fmt: skip
    names = {number: f"{number}  {title.replace(' and ', ' and' + chr(10))}" for number, title in TITLES.items()}
    places = {names[number]: place for number, place in columns.items()}
    arrows = [(names[need], names[number], "") for number, needs in NEEDS.items() for need in needs]
    return boxes(places, arrows, {names[n]: REAL for n in (1, 2, 3, 4)} | {names[n]: OWN for n in (7, 8)}, (10, 4))


@picture("five-sessions")
def five_sessions() -> Figure:
    """Draw which sessions each meeting of the short course takes."""
    names = {k: f"meeting {k}\nsession{'s' * (len(of) > 1)} {' and '.join(map(str, of))}" for k, of in SHORT.items()}
    places = {name: (0.1 + 0.2 * i, 0.5) for i, name in enumerate(names.values())}
    return boxes(places, [(a, b, "") for a, b in pairwise(places)], size=(11, 1.2))


@picture("spin-round")
def spin_round() -> Figure:
    """Draw one round of self-play."""
    prompts, opponent, drawn, real = "prompts, noise", "opponent\n(frozen)", "own images $x'_0$", "real images $x_0$"
    noised, errors, loss, player = (
        "noise both\nat one $t$",
        "four squared\nerrors, two of\neach network",
        "margin,\nloss",
        "player\n(trained)",
    )
    places = {prompts: (0.09, 0.75), opponent: (0.27, 0.75), drawn: (0.47, 0.75), real: (0.27, 0.2), noised: (0.63, 0.45)}
    places |= {errors: (0.8, 0.45), loss: (0.94, 0.45), player: (0.8, 0.1)}
    arrows = [(prompts, opponent, ""), (opponent, drawn, "sampler"), (drawn, noised, ""), (real, noised, ""), (noised, errors, "")]
    arrows += [(errors, loss, ""), (loss, player, ""), (player, errors, "")]
    return boxes(places, arrows, {real: REAL, drawn: OWN, opponent: OWN}, (10, 3.2))


@picture("rsi-round")
def rsi_round() -> Figure:
    """Draw one round of RSIDiff."""
    names = ["prompts", "images by\nthe model", "scores", "selection", "weights", "weighted\ndenoising", "next model"]
    places = {name: (0.07 + 0.143 * i, 0.65) for i, name in enumerate(names)}
    back = "the next round draws with it"
    places[back] = (0.5, 0.15)
    arrows = [(a, b, "") for a, b in pairwise(names)] + [(names[-1], back, ""), (back, names[1], "")]
    return boxes(places, arrows, {names[1]: OWN, names[-1]: OWN}, (10, 2.3))


@picture("game")
def game() -> Figure:
    """Draw the two-player game and its short cut."""
    data, opponent, function, reply = (
        "data",
        "opponent's images",
        "test function $f$:\nlarge on data,\nsmall on own images",
        "best reply\nto $f$",
    )
    same = "with $f=\\lambda\\log\\,p_\\theta/p_{\\theta_k}$\nthe reply is $p_\\theta$"
    places = {data: (0.1, 0.8), opponent: (0.1, 0.2), function: (0.38, 0.5), reply: (0.63, 0.5), same: (0.88, 0.5)}
    arrows = [(data, function, ""), (opponent, function, ""), (function, reply, ""), (reply, same, "")]
    return boxes(places, arrows, {data: REAL, opponent: OWN}, (10, 2.6))


@picture("four-errors")
def four_errors() -> Figure:
    """Draw the four errors, and which way each moves."""
    cells = {}
    for y, who, guess, ways in (
        (0.68, "player", r"\theta", ("goes down", "goes up")),
        (0.22, "opponent", r"{\theta_k}", ("fixed", "fixed")),
    ):
        for x, side, mark, way in zip((0.35, 0.75), ("real", "own"), ("", "'"), ways, strict=True):
            cells[rf"{who} on {side}" + "\n" + rf"$\|\epsilon{mark}-\epsilon_{guess}(x{mark}_t)\|^2$" + f"\n{way}"] = (x, y)
    return boxes(cells, [], dict(zip(cells, (REAL, OWN) * 2, strict=True)), (8, 3.2))


@picture("objectives")
def objectives() -> Figure:
    """Draw the four objectives and what separates them."""
    names = [
        "exact (4.8)\nwhole paths",
        "approximate (4.9)\none step $t$",
        "decoupled\nno fresh noise",
        "practical\nown images\nnoised again",
    ]
    places = {name: (0.12 + 0.253 * i, 0.5) for i, name in enumerate(names)}
    labels = ["$\\leq$ Jensen\nover $t$", "$\\geq$ Jensen\nover noise", "? another\nlaw"]
    return boxes(places, [(a, b, c) for a, b, c in zip(names, names[1:], labels, strict=False)], {names[3]: OWN}, (11, 2.2))


@picture("two-methods")
def two_methods() -> Figure:
    """Draw DPO beside SPIN."""
    rows = {
        "Diffusion-DPO": ("winner", "loser, fixed", "base, for ever"),
        "SPIN": ("real image", "own image,\nnew every round", "previous round"),
    }
    places, colours = {"better side": (0.38, 0.92), "worse side": (0.63, 0.92), "reference": (0.87, 0.92)}, {}
    for y, (name, cells) in zip((0.6, 0.2), rows.items(), strict=True):
        places[name] = (0.12, y)
        for x, cell, colour in zip((0.38, 0.63, 0.87), cells, (REAL, OWN, PLAIN), strict=True):
            places[cell], colours[cell] = (x, y), colour
    return boxes(places, [], colours, (9, 3))


@picture("arms")
def arms() -> Figure:
    """Draw what stands beside three rounds of self-play."""
    base = "base"
    names = [
        "self-play,\n3 rounds",
        "fine-tuning,\nequal steps",
        "fine-tuning,\nequal passes",
        "frozen\nopponent",
        "null: opponent's\nimages are real",
    ]
    places = {base: (0.5, 0.85)} | {name: (0.1 + 0.2 * i, 0.22) for i, name in enumerate(names)}
    return boxes(places, [(base, name, "") for name in names], {names[0]: REAL}, (10, 2.6))


@picture("ways-to-go-on")
def ways_to_go_on() -> Figure:
    """Draw what round i trains on, in three ways."""
    rows = {
        "replace": "samples of model $i-1$",
        "accumulate": "samples of models $0,\\ldots,i-1$",
        "real": "samples of model $i-1$ + real samples",
    }
    places: dict[str, tuple[float, float]] = {}
    arrows = []
    for y, (way, data) in zip((0.85, 0.5, 0.15), rows.items(), strict=True):
        end = f"model $i$ ({way})"
        places |= {way: (0.1, y), data: (0.48, y), end: (0.86, y)}
        arrows.append((data, end, "fit"))
    return boxes(places, arrows, {rows["real"]: REAL}, (9, 2.8))


@picture("run-folder")
def run_folder() -> Figure:
    """Draw the stages of a round and what they leave."""
    names = ["settings, model,\ndata, seed", "rollout", "training set", "training", "evaluation", "metrics.json"]
    places = {name: (0.09 + 0.165 * i, 0.5) for i, name in enumerate(names)}
    return boxes(places, [(a, b, "") for a, b in pairwise(names)], {names[0]: REAL}, (10, 1.4))


@picture("judging")
def judging() -> Figure:
    """Draw scorers beside the oracle."""
    images, scorers, oracle = (
        "images of two models:\nsame prompts, same noise",
        "learned scorers:\nselect, weight",
        "oracle:\nmeasures only",
    )
    verdict = "paired differences,\nintervals over prompts"
    places = {images: (0.16, 0.5), scorers: (0.5, 0.82), oracle: (0.5, 0.18), verdict: (0.85, 0.5)}
    return boxes(
        places, [(images, scorers, ""), (images, oracle, ""), (scorers, verdict, ""), (oracle, verdict, "")], {oracle: REAL}, (9, 2.6)
    )
