"""Make films for `sliders`: an image on its way out of noise, and exported strips of pictures cut up by round.

Everything, including words and numbers, comes from a loaded model or from files of finished experiments (`book/results/`).
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers.utils import logging as transformers_logging

from selfimprove import draws
from selfimprove.draws import EVALUATION_SEED
from selfimprove.models.pipeline import load_diffuser
from selfimprove.models.resolve import resolve_model
from selfimprove.rollout import predict
from selfimprove.scorers.images import eight_bit
from selfimprove_lab.figures.sliders import Film
from selfimprove_lab.results.arms import load_results
from selfimprove_lab.results.rsi import label
from selfimprove_lab.theory.paths import trajectory

GAP = 3  # white pixels between pictures
Cells = list[list[Image.Image]]


def cells(strip: Path) -> Cells:
    """Return the pictures of an exported strip (`round_figures.image_grid`) as rows of columns, all of one size, without the labels.

    White lines between the pictures tell them apart.

    Raises:
        ValueError: no grid of equal pictures is found.
    """
    with Image.open(strip) as opened:
        image = opened.convert("RGB")
    inked: np.ndarray = np.any(np.asarray(image) < 255, axis=2)
    columns = _runs(inked.mean(0) > 0.5)
    if not columns:
        raise ValueError(f"{strip} holds no grid of pictures; give a strip that `report.image_grid` drew")
    rows = _runs(np.asarray(inked[:, columns[0][0] :].any(1)))
    width, height = min(b - a for a, b in columns), min(b - a for a, b in rows)
    if max(b - a for a, b in columns) - width > 2 or max(b - a for a, b in rows) - height > 2:
        raise ValueError(f"{strip}: its pictures are not of one size; give a strip that `report.image_grid` drew")
    return [[image.crop((x, y, x + width, y + height)) for x, _ in columns] for y, _ in rows]


def _runs(inked: np.ndarray) -> list[tuple[int, int]]:
    """Return where runs of True begin and end."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inked, [False]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def tile(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Arrange pictures of one size in reading order, on white."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * (width + GAP), i // columns * (height + GAP)))
    return sheet


def above(upper: Image.Image, lower: Image.Image, gap: int = 6 * GAP) -> Image.Image:
    """Put one sheet above another of the same width, with a wider gap between them."""
    sheet = Image.new("RGB", (upper.width, upper.height + gap + lower.height), "white")
    sheet.paste(upper, (0, 0))
    sheet.paste(lower, (0, upper.height + gap))
    return sheet


def named(rounds: Sequence[int]) -> list[str]:
    """Return the labels of rounds; 0 is the base model."""
    return [f"round {k}" if k else "base model" for k in rounds]


def truth(result: dict[str, Any], index: int) -> str:
    """Describe what the oracle measured on all the evaluation images of a round."""
    oracle = result["rounds"][index]["oracle"]
    return f"quality {oracle['quality']['mean']:.3f}, obedience {oracle['all_right']['mean']:.3f}"


def rounds_film(folder: str | Path, arm: str) -> Film:
    """Film the same prompts and the same noise by training seed and round, for an arm whose strips show every round.

    Raises:
        ValueError: a strip does not have one row per round.
    """
    folder = Path(folder)
    prompts = "; ".join(json.loads((folder / "prompts.json").read_text()))
    frames, descriptions, notes = [], [], []
    seeds = {s: r for s, r in load_results(folder)[arm].items() if (folder / f"{arm}-{s}.png").exists()}
    for seed, result in seeds.items():
        rows, rounds = cells(folder / f"{arm}-{seed}.png"), named(range(len(result["rounds"])))
        _fits(rows, rounds, f"{arm}-{seed}.png")
        for k, (row, name) in enumerate(zip(rows, rounds, strict=True)):
            frames.append(tile(row, 4))
            notes.append(f"Seed {seed}, {name}: {truth(result, k)}, over all evaluation images.")
            descriptions.append(f"{len(row)} pictures by {label(arm)}, training seed {seed}, {name}. In reading order: {prompts}.")
    return Film(frames, {"training seed": [str(s) for s in seeds], "round": rounds}, descriptions, notes)


def collapse_film(folder: str | Path, cures: Sequence[str], rounds: Sequence[int] = (0, 2, 4, 6), seed: int = 0) -> Film:
    """Film recursion without care (above) and with one cure (below), on the same prompts and noise, by cure and round.

    Cures that have not been run are left out.

    Raises:
        ValueError: a strip does not show these rounds.
    """
    folder, results = Path(folder), load_results(folder)
    careless, names = cells(folder / f"careless-{seed}.png"), named(rounds)
    _fits(careless, names, f"careless-{seed}.png")
    found = {arm: label(arm) for arm in cures if (folder / f"{arm}-{seed}.png").exists()}
    frames, descriptions, notes = [], [], []
    for arm, cure in found.items():
        rows = cells(folder / f"{arm}-{seed}.png")
        _fits(rows, names, f"{arm}-{seed}.png")
        for k, name, upper, lower in zip(rounds, names, careless, rows, strict=True):
            frames.append(above(tile(upper, 6), tile(lower, 6)))
            plain, cured = (truth(results[a][seed], k) for a in ("careless", arm))
            notes.append(f"{name[0].upper()}{name[1:]}. Above, no care: {plain}. Below, {cure}: {cured}.")
            descriptions.append(f"{len(upper)} pictures of recursion without care over the same {len(lower)} with a cure, {cure}; {name}.")
    return Film(frames, {"below": list(found.values()), "round": names}, descriptions, notes)


def _fits(rows: Cells, names: Sequence[str], what: str) -> None:
    if len(rows) != len(names):
        raise ValueError(f"{what} shows {len(rows)} rounds, not {len(names)} ({', '.join(names)}); export it again, or name its rounds")


@contextmanager
def _no_bars() -> Iterator[None]:
    """Hide transformers' progress bars, and restore them afterwards if they were shown."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@torch.no_grad()
def denoising_film(model: str | Path, prompts: Sequence[str], steps: int = 10, guidance: float = 3.0, width: int = 114) -> Film:
    """Film a model's way from noise to image by DDIM: above, x_t decoded; below, the image that x_t points to.

    The start is the noise of every evaluation. The lower row decodes (x_t - sqrt(1 - alpha_t) eps) / sqrt(alpha_t), which is the x_0 that
    the guided prediction implies for x_t (SPIN-Diffusion, eq. 3.2). At the last position both rows are the finished images. The film is
    computed on the CPU. `model` is given as for `resolve_model`; `width` is that of one picture, in pixels.
    """
    with _no_bars():  # a finished bar would be left as a widget, which is no picture
        diffuser = load_diffuser(resolve_model(model), torch.device("cpu"))
    ids = [draws.example_id(prompt, 0) for prompt in prompts]
    text, empty = diffuser.embed(list(prompts)), diffuser.embed([""])
    path = trajectory(diffuser, diffuser.denoiser, text, empty, ids, EVALUATION_SEED, "evaluation", 0, steps, guidance)
    frames, labels, descriptions, notes = [], [], [], []
    for i, state in enumerate(path.states):
        guess, left = state, path.steps[-1].variance_next
        if i < steps:
            output = predict(diffuser.denoiser, state, path.steps[i].t, text, empty, guidance)
            step = path.steps[i]
            guess, left = diffuser.schedule.clean_and_noise(state, output, step.alpha, step.variance)[0], step.variance
        frames.append(above(_row(diffuser.decode(state), width), _row(diffuser.decode(guess), width), 2 * GAP))
        labels.append(f"{i} of {steps}")
        notes.append(f"Above, after {i} steps: noise makes up {left:.3f} of the variance. Below, the image that it is taken to become.")
        descriptions.append(f"{notes[-1]} From left to right: {'; '.join(prompts)}.")
    return Film(frames, {"steps": labels}, descriptions, notes)


def _row(images: Float[Tensor, "n 3 h w"], width: int) -> Image.Image:
    height = round(width * images.shape[2] / images.shape[3])
    return tile([image.resize((width, height), Image.Resampling.BICUBIC) for image in eight_bit(images)], len(images))
