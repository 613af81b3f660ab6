"""Draw the shapes world: scenes at known qualities, pairs, and disobedience."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from course.pictures import picture
from selfimprove.scorers import load_scorers
from selfimprove.shapes.captions import SCENES, canonical
from selfimprove.shapes.render import ATTRIBUTES, drawing, render
from selfimprove_lab.figures.comparison import picture_grid
from selfimprove_lab.figures.theory import COLOURS
from selfimprove_lab.results.sensitivity import PERTURBATIONS


def scene(size: str, colour: str, shape: str, background: str) -> tuple[int, ...]:
    """Return a scene's indices from its words."""
    return tuple(list(values).index(word) for values, word in zip(ATTRIBUTES.values(), (size, colour, shape, background), strict=True))


def drawn(scenes: list[tuple[int, ...]], quality: list[float], seed: int = 0) -> Tensor:
    """Return images (n, 3, 64, 64) of scenes at qualities."""
    uniform = torch.rand(len(scenes), 8, generator=torch.Generator().manual_seed(seed))
    return render(drawing(torch.tensor(scenes), torch.tensor(quality, dtype=torch.float32), uniform))[0]


def grid(rows: list[Tensor], names: list[str], columns: list[str]) -> Figure:
    """Return a grid of pictures with names beside rows and above columns."""
    return picture_grid(torch.stack(rows).permute(0, 1, 3, 4, 2).numpy(), names, columns)


@picture("qualities")
def qualities() -> Figure:
    """Draw two scenes from badly to well."""
    levels = [0.1, 0.3, 0.5, 0.7, 0.9]
    two = [scene("large", "red", "star", "white"), scene("small", "cyan", "heart", "black")]
    return grid([drawn([s] * 5, levels, 3) for s in two], ["a large red star", "a small cyan heart"], [f"quality {q:g}" for q in levels])


@picture("eight-shapes")
def eight_shapes() -> Figure:
    """Draw all shapes and colours, badly and well."""
    colours, shapes = list(ATTRIBUTES["colour"]), list(ATTRIBUTES["shape"])
    scenes = [scene("large", c, s, b) for c, s, b in zip(colours, shapes, ["white", "black", "grey", "sand"] * 2, strict=True)]
    return grid([drawn(scenes, [q] * 8, 1) for q in (0.25, 0.9)], ["badly", "well"], shapes)


@picture("obedience")
def obedience() -> Figure:
    """Draw what quality and obedience each see."""
    right, wrong = scene("large", "red", "star", "white"), scene("large", "blue", "star", "white")
    images = drawn([right, wrong, right, right], [0.9, 0.9, 0.15, 0.9], 2)
    patches = images[3].unfold(1, 16, 16).unfold(2, 16, 16).permute(1, 2, 0, 3, 4).reshape(16, 3, 16, 16)
    mixed = patches[torch.randperm(16, generator=torch.Generator().manual_seed(1))].reshape(4, 4, 3, 16, 16)
    images[3] = mixed.permute(2, 0, 3, 1, 4).reshape(3, 64, 64)
    names = ["well, obeys", "well, disobeys", "badly, obeys", "no scene"]
    return grid([images], ["caption:\na large red star\non white"], names)


@picture("pairs")
def pairs() -> Figure:
    """Draw winners above losers."""
    scenes = [scene("large", "green", "ring", "sand"), scene("small", "purple", "moon", "white"), scene("large", "yellow", "cross", "grey")]
    rows = [drawn(scenes, [q] * 3, seed) for q, seed in ((0.8, 4), (0.35, 5))]
    return grid(rows, ["winner", "loser"], [canonical(s) for s in scenes])


@picture("noised-scene")
def noised_scene() -> Figure:
    """Draw a scene under noise, and the conditional mean over the 512 well drawn scenes."""
    alphas = [0.999, 0.5, 0.1, 0.02, 0.001]
    every = 2 * render(drawing(SCENES, torch.full((512,), 0.9), torch.full((512, 8), 0.5)))[0] - 1
    chosen, noise = every[300], torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    noisy, best = [], []
    for alpha in alphas:
        x = alpha**0.5 * chosen + (1 - alpha) ** 0.5 * noise
        weight = (-((x - alpha**0.5 * every) ** 2).sum((1, 2, 3)) / (2 * (1 - alpha))).softmax(0)
        noisy.append(((x + 1) / 2).clamp(0, 1))
        best.append((((weight[:, None, None, None] * every).sum(0)) + 1) / 2)
    return grid([torch.stack(noisy), torch.stack(best)], ["noisy", "best guess"], [f"alpha {a:g}" for a in alphas])


@picture("oracle-reads")
def oracle_reads() -> Figure:
    """Draw the oracle's reading of drawings of known quality."""
    chooser = torch.Generator().manual_seed(11)
    scenes = SCENES[torch.randint(len(SCENES), (200,), generator=chooser)]
    made = drawing(scenes, 0.1 + 0.85 * torch.rand(200, generator=chooser), torch.rand(200, 8, generator=chooser))
    oracle = load_scorers(("quality",), torch.device("cpu"), family="oracle")["quality"]
    truth, read = made.quality.numpy(), oracle(render(made)[0], [canonical(tuple(s)) for s in scenes.tolist()]).numpy()
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), constrained_layout=True)
    axes[0].scatter(truth, read, s=6, color=COLOURS[0])
    axes[0].axline((0, 0), slope=1, color="0.6", lw=1)
    axes[0].set(xlabel="quality as drawn", ylabel="quality as read")
    axes[1].hist(read - truth, 30, color=COLOURS[0])
    axes[1].set(xlabel="reading less truth", ylabel="drawings")
    return figure


@picture("perturbations")
def perturbations() -> Figure:
    """Draw scenes under each change that scorers are tested with."""
    scenes = [tuple(SCENES[i].tolist()) for i in np.random.default_rng(2).choice(512, 6, replace=False)]
    images = drawn(scenes, [0.7] * 6)
    return grid(
        [images, *(change(images) for change in PERTURBATIONS.values())],
        ["untouched", *PERTURBATIONS],
        [f"scene {i + 1}" for i in range(6)],
    )
