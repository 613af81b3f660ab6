"""Draw the shapes world as its renderer does, for readers who have not seen it: one scene from badly to well drawn."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from selfimprove.shapes.render import ATTRIBUTES, FACTORS, POSE_DIMENSIONS, Drawing, render

SCENE = ("large", "red", "star", "white")  # size, colour, shape, background
WELL, BADLY = 0.95, 0.1  # of the factors that are not changed, and of the one that is


def _scenes(factors: Tensor, scene: Sequence[str]) -> np.ndarray:
    """Return pictures (n, h, w, 3) of one scene, one per row of factors, all in the same pose."""
    names = list(ATTRIBUTES)
    attributes = torch.tensor([ATTRIBUTES[name].index(value) for name, value in zip(names, scene, strict=True)])
    pose = torch.full((len(factors), POSE_DIMENSIONS), 0.3)
    images, _ = render(Drawing(attributes.expand(len(factors), -1), factors, pose))
    return images.permute(0, 2, 3, 1).numpy()


def quality_figure(qualities: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9), scene: Sequence[str] = SCENE) -> Figure:
    """Draw one scene twice: above with all five factors of quality alike, from low to high; below with one factor low at a time.

    The factors lie in [0, 1], and their mean is the quality.

    Raises:
        ValueError: a quality lies outside [0, 1], or the scene has an unknown attribute.
    """
    if wrong := [q for q in qualities if not 0 <= q <= 1]:
        raise ValueError(f"qualities has {wrong}, outside [0, 1]; give numbers from 0 (badly drawn) to 1 (well drawn)")
    for value, known in zip(scene, ATTRIBUTES.values(), strict=True):
        if value not in known:
            raise ValueError(f"scene has {value!r}; give one of {known}")
    alike = torch.tensor(qualities)[:, None].expand(-1, len(FACTORS))
    spoiled = WELL + (BADLY - WELL) * torch.eye(len(FACTORS))
    rows = [
        (_scenes(alike, scene), [f"quality {q:g}" for q in qualities]),
        (_scenes(spoiled, scene), [f"low {name}" for name in FACTORS]),
    ]
    columns = max(len(qualities), len(FACTORS))
    figure, grid = plt.subplots(2, columns, figsize=(7.2, 3.5), constrained_layout=True, squeeze=False)
    for line, (images, labels) in zip(grid, rows, strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, image, label in zip(line, images, labels, strict=False):
            axis.imshow(image)
            axis.set_title(label, fontsize=10)
    return figure
