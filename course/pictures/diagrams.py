"""Draw diagrams: boxes with arrows between them."""

from collections.abc import Mapping, Sequence

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


@picture("dependencies", "Chart of the nine sessions: an arrow leads from each session to those that need it, from session 1 to session 9.")
def dependencies() -> Figure:
    """Draw which session needs which."""
    columns = {1: (0.08, 0.5), 2: (0.26, 0.78), 3: (0.46, 0.9), 4: (0.68, 0.9), 5: (0.46, 0.5), 6: (0.68, 0.64), 7: (0.46, 0.12),
               8: (0.68, 0.12), 9: (0.9, 0.4)}  # fmt: skip
    names = {number: f"{number}  {title.replace(' and ', ' and' + chr(10))}" for number, title in TITLES.items()}
    places = {names[number]: place for number, place in columns.items()}
    arrows = [(names[need], names[number], "") for number, needs in NEEDS.items() for need in needs]
    return boxes(places, arrows, {names[n]: REAL for n in (1, 2, 3, 4)} | {names[n]: OWN for n in (7, 8)}, (10, 4))


@picture("five-sessions", "Five columns, one per meeting of the short course, with the sessions that each meeting takes slides and exercises from.")
def five_sessions() -> Figure:
    """Draw which sessions each meeting of the short course takes."""
    names = {k: f"meeting {k}\nsession{'s' * (len(of) > 1)} {' and '.join(map(str, of))}" for k, of in SHORT.items()}
    places = {name: (0.1 + 0.2 * i, 0.5) for i, name in enumerate(names.values())}
    return boxes(places, [(a, b, "") for a, b in zip(places, list(places)[1:], strict=False)], size=(11, 1.2))


@picture("spin-round", "Diagram of a round of self-play. Prompts and noise go to the opponent, which draws images; real and drawn images get noise; "
         "player and opponent guess that noise; four errors make the margin, and the margin the loss. After the round the player is the next opponent.")  # fmt: skip
def spin_round() -> Figure:
    """Draw one round of self-play."""
    prompts, opponent, drawn, real = "prompts, noise", "opponent\n(frozen)", "own images $x'_0$", "real images $x_0$"
    noised, errors, loss, player = "noise both\nat one $t$", "four squared\nerrors", "margin,\nloss", "player\n(trained)"
    places = {prompts: (0.09, 0.75), opponent: (0.27, 0.75), drawn: (0.47, 0.75), real: (0.27, 0.2), noised: (0.63, 0.45)}
    places |= {errors: (0.8, 0.45), loss: (0.94, 0.45), player: (0.8, 0.1)}
    arrows = [(prompts, opponent, ""), (opponent, drawn, "sampler"), (drawn, noised, ""), (real, noised, ""), (noised, errors, "")]
    arrows += [(errors, loss, ""), (loss, player, "step"), (player, errors, "")]
    return boxes(places, arrows, {real: REAL, drawn: OWN, opponent: OWN}, (10, 3.2))


@picture("rsi-round", "Diagram of a round of RSIDiff: prompts, images drawn by the model, scores, selection, weights, weighted denoising, and the next "
         "model, which draws the images of the next round. No real image comes in.")  # fmt: skip
def rsi_round() -> Figure:
    """Draw one round of RSIDiff."""
    names = ["prompts", "images by\nthe model", "scores", "selection", "weights", "weighted\ndenoising", "next model"]
    places = {name: (0.07 + 0.143 * i, 0.65) for i, name in enumerate(names)}
    back = "the next round draws with it"
    places[back] = (0.5, 0.15)
    arrows = [(a, b, "") for a, b in zip(names, names[1:], strict=False)] + [(names[-1], back, ""), (back, names[1], "")]
    return boxes(places, arrows, {names[1]: OWN, names[-1]: OWN}, (10, 2.3))


@picture("game", "Diagram of the game: the player looks for a function that tells data from the opponent's images; the opponent's best reply to the "
         "function is the player's own law; so the trained player becomes the next opponent.")  # fmt: skip
def game() -> Figure:
    """Draw the two-player game and its short cut."""
    data, opponent, function, reply = "data", "opponent's images", "test function $f$:\nlarge on data,\nsmall on own images", "best reply\nto $f$"
    same = "with $f=\\lambda\\log\\,p_\\theta/p_{\\theta_k}$\nthe reply is $p_\\theta$"
    places = {data: (0.1, 0.8), opponent: (0.1, 0.2), function: (0.38, 0.5), reply: (0.63, 0.5), same: (0.88, 0.5)}
    arrows = [(data, function, ""), (opponent, function, ""), (function, reply, ""), (reply, same, "")]
    return boxes(places, arrows, {data: REAL, opponent: OWN}, (10, 2.6))


@picture("four-errors", "A table of the four squared errors: player and opponent down, real and own images across. The player lowers the error on real "
         "images below the opponent's, and raises the error on own images above it.")  # fmt: skip
def four_errors() -> Figure:
    """Draw the four errors, and which way each moves."""
    cells = {
        "player on real\n$\\|\\epsilon-\\epsilon_\\theta(x_t)\\|^2$\ngoes down": (0.35, 0.68), "player on own\n$\\|\\epsilon'-\\epsilon_\\theta(x'_t)\\|^2$\ngoes up": (0.75, 0.68),
        "opponent on real\n$\\|\\epsilon-\\epsilon_{\\theta_k}(x_t)\\|^2$\nfixed": (0.35, 0.22), "opponent on own\n$\\|\\epsilon'-\\epsilon_{\\theta_k}(x'_t)\\|^2$\nfixed": (0.75, 0.22),
    }  # fmt: skip
    figure = boxes(cells, [], dict(zip(cells, (REAL, OWN) * 2, strict=True)), (8, 3.2))
    return figure


@picture("objectives", "Ladder of four objectives. Exact over whole paths is at most the approximate one with one step; leaving fresh noise out of the "
         "means lowers that one again; noising own images in place of the opponent's path has no order in general.")  # fmt: skip
def objectives() -> Figure:
    """Draw the four objectives and what separates them."""
    names = ["exact (4.8)\nwhole paths", "approximate (4.9)\none step $t$", "decoupled\nno fresh noise", "practical\nown images\nnoised again"]
    places = {name: (0.12 + 0.253 * i, 0.5) for i, name in enumerate(names)}
    labels = ["$\\leq$ Jensen\nover $t$", "$\\geq$ Jensen\nover noise", "? another\nlaw"]
    return boxes(places, [(a, b, c) for a, b, c in zip(names, names[1:], labels, strict=False)], {names[3]: OWN}, (11, 2.2))


@picture("two-methods", "Two rows. Diffusion-DPO: winner and fixed loser of a labelled pair, reference is the base for ever. SPIN: real image and own image "
         "drawn anew, reference is the previous round.")  # fmt: skip
def two_methods() -> Figure:
    """Draw DPO beside SPIN."""
    rows = {"Diffusion-DPO": ("winner", "loser, fixed", "base, for ever"), "SPIN": ("real image", "own image,\nnew every round", "previous round")}
    places, colours = {"better side": (0.38, 0.92), "worse side": (0.63, 0.92), "reference": (0.87, 0.92)}, {}
    for y, (name, cells) in zip((0.6, 0.2), rows.items(), strict=True):
        places[name] = (0.12, y)
        for x, cell, colour in zip((0.38, 0.63, 0.87), cells, (REAL, OWN, PLAIN), strict=True):
            places[cell], colours[cell] = (x, y), colour
    return boxes(places, [], colours, (9, 3))


@picture("arms", "Five arms beside the base model: self-play in three rounds, fine-tuning with as many steps, fine-tuning with as many passes of the network, "
         "self-play with an opponent that is never renewed, and rounds in which the opponent's images are real ones.")  # fmt: skip
def arms() -> Figure:
    """Draw what stands beside three rounds of self-play."""
    base = "base"
    names = ["self-play,\n3 rounds", "fine-tuning,\nequal steps", "fine-tuning,\nequal passes", "frozen\nopponent", "null: opponent's\nimages are real"]
    places = {base: (0.5, 0.85)} | {name: (0.1 + 0.2 * i, 0.22) for i, name in enumerate(names)}
    return boxes(places, [(base, name, "") for name in names], {names[0]: REAL}, (10, 2.6))


@picture("ways-to-go-on", "Three rows of a recursion: replace trains each model on the newest samples; accumulate on all samples so far; real on the newest "
         "samples and as many fresh real ones.")  # fmt: skip
def ways_to_go_on() -> Figure:
    """Draw what round i trains on, in three ways."""
    rows = {"replace": "samples of model $i-1$", "accumulate": "samples of models $0,\\ldots,i-1$", "real": "samples of model $i-1$ + real samples"}
    places, arrows = {}, []
    for y, (way, data) in zip((0.85, 0.5, 0.15), rows.items(), strict=True):
        end = f"model $i$ ({way})"
        places |= {way: (0.1, y), data: (0.48, y), end: (0.86, y)}
        arrows.append((data, end, "fit"))
    return boxes(places, arrows, {rows["real"]: REAL}, (9, 2.8))


@picture("run-folder", "Stages of a round from left to right: rollout, training set, training, evaluation. Each stage writes its files and its hash into the "
         "run folder, and a killed run goes on at the first stage that is missing.")  # fmt: skip
def run_folder() -> Figure:
    """Draw the stages of a round and what they leave."""
    names = ["settings, model,\ndata, seed", "rollout", "training set", "training", "evaluation", "metrics.json"]
    places = {name: (0.09 + 0.165 * i, 0.5) for i, name in enumerate(names)}
    return boxes(places, [(a, b, "") for a, b in zip(names, names[1:], strict=False)], {names[0]: REAL}, (10, 1.4))


@picture("judging", "Two ways to judge: learned scorers have tastes and may be selected on; the oracle reads the truth and is never selected on. Both read the "
         "same images of the same prompts and noise.")  # fmt: skip
def judging() -> Figure:
    """Draw scorers beside the oracle."""
    images, scorers, oracle = "images of two models:\nsame prompts, same noise", "learned scorers:\nselect, weight", "oracle:\nmeasures only"
    verdict = "paired differences,\nintervals over prompts"
    places = {images: (0.16, 0.5), scorers: (0.5, 0.82), oracle: (0.5, 0.18), verdict: (0.85, 0.5)}
    return boxes(places, [(images, scorers, ""), (images, oracle, ""), (scorers, verdict, ""), (oracle, verdict, "")], {oracle: REAL}, (9, 2.6))
