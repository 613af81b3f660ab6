"""Calibrate the three truths: on renders whose truth is known, on renders deformed in known ways, and after an autoencoder."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor

from selfimprove.draws import generator
from selfimprove.shapes.oracle import Reading
from selfimprove.shapes.render import ATTRIBUTES, FACTORS, SHAPES, Drawing, render, signed_distance
from selfimprove.shapes.truths import Truths, read
from selfimprove_lab.pretrain.fit import random_drawing

LEVELS = (0.05, 0.275, 0.5, 0.725, 0.95)  # of one factor, the others at 0.5
VARIED = ("sharpness", "contrast", "shading")  # what must not move form and obedience
QUALITIES = ((0.05, 0.3), (0.3, 0.6), (0.6, 0.95))
IDEAL = "ideal"


def _disc(x: Tensor, y: Tensor, angle: float, reach: float, radius: float) -> Tensor:
    return torch.hypot(x - reach * math.cos(angle), y - reach * math.sin(angle)) - radius


def _two_shapes(shape: str, x: Tensor, y: Tensor) -> Tensor:
    other = SHAPES[(SHAPES.index(shape) + 3) % len(SHAPES)]
    first = signed_distance(shape, 1.35 * (x + 0.4), 1.35 * (y + 0.2)) / 1.35
    return torch.minimum(first, signed_distance(other, 1.6 * (x - 0.7), 1.6 * (y - 0.5)) / 1.6)


DEFORMATIONS: dict[str, Callable[[str, Tensor, Tensor], Tensor]] = {
    IDEAL: signed_distance,
    "bent": lambda shape, x, y: signed_distance(shape, x + 0.35 * y * y, y - 0.2 * x * y),
    "missing part": lambda shape, x, y: torch.maximum(signed_distance(shape, x, y), -_disc(x, y, 2.0, 0.75, 0.45)),
    "extra part": lambda shape, x, y: torch.minimum(signed_distance(shape, x, y), _disc(x, y, 0.3, 1.0, 0.36)),
    "broken ring": lambda shape, x, y: torch.maximum(signed_distance("ring", x, y), -_disc(x, y, 0.6, 0.72, 0.45)),
    "two shapes": _two_shapes,
}


def drawings(count: int, stream: str, quality: tuple[float, float] = (0.5, 0.5), fixed: Mapping[str, float] | None = None) -> Drawing:
    """Return drawings of random scenes with quality in a range, and with the `fixed` factors set to a value."""
    drawn = random_drawing(count, generator(0, f"calibration/{stream}"), *quality)
    values = drawn.factors.clone()
    for name, value in (fixed or {}).items():
        values[:, FACTORS.index(name)] = value
    return drawn._replace(factors=values)


def errors(count: int, trip: Callable[[Tensor], Tensor] = lambda images: images) -> pd.DataFrame:
    """Return the truths' errors on ideal figures, one row per range of quality. `trip` is what the images go through before they are read.

    Columns: `form` (mean), `form_low` (its 2% quantile), `well_formed` (share), the share of images of which each attribute is right,
    `quality_error` (mean absolute) and `quality_bias`.
    """
    rows = []
    for quality in QUALITIES:
        drawn = drawings(count, "errors", quality)
        truths = read(trip(render(drawn)[0]))
        right = dict(zip(ATTRIBUTES, (truths.attributes == drawn.attributes).float().mean(0).tolist(), strict=True))
        difference = truths.quality - drawn.quality
        rows.append(
            {
                "quality": f"{quality[0]} to {quality[1]}",
                "form": float(truths.form.mean()), "form_low": float(truths.form.quantile(0.02)),
                "well_formed": float(truths.well_formed.float().mean()), **right,
                "quality_error": float(difference.abs().mean()), "quality_bias": float(difference.mean()),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def levels(
    count: int,
    factor: str,
    deformation: str = IDEAL,
    trip: Callable[[Tensor], Tensor] = lambda images: images,
    values: tuple[float, ...] = LEVELS,
) -> pd.DataFrame:
    """Return what the truths read of the same figures, drawn at several levels of one factor, one row per level.

    Columns: `form` (mean), `well_formed` (share), `shape` (share of images whose shape is the drawn one) and `quality_bias`.
    """
    rows = []
    for value in values:
        drawn = drawings(count, "levels", fixed={factor: value})
        truths = read(trip(render(drawn, distance_to=DEFORMATIONS[deformation])[0]))
        rows.append(
            {
                "deformation": deformation, "factor": factor, "level": value, "form": float(truths.form.mean()),
                "well_formed": float(truths.well_formed.float().mean()),
                "shape": float((truths.attributes[:, 2] == drawn.attributes[:, 2]).float().mean()),
                "quality_bias": float((truths.quality - drawn.quality).mean()),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def span(table: pd.DataFrame, column: str) -> float:
    """Return the bias of a truth against the factor of a table of `levels`: the largest difference between two levels."""
    return float(table[column].max() - table[column].min())


def agreement(truths: Truths, reading: Reading) -> dict[str, Any]:
    """Return how far the learned oracle agrees with the computed truths about the same images.

    `well_formed` is the share of images about which `is_scene` says the same. The attributes' shares, and Spearman's correlation of
    quality, are of the images that the truths call well formed (`count`).
    """
    good = truths.well_formed
    same = (truths.attributes == reading.attributes.cpu())[good].float().mean(0).tolist()
    quality = spearmanr(truths.quality[good], reading.factors.cpu().mean(1)[good]).statistic if good.sum() > 2 else math.nan
    return {
        "count": int(good.sum()),
        "well_formed": float((good == reading.is_scene.cpu()).float().mean()),
        **dict(zip(ATTRIBUTES, same, strict=True)),
        "quality": float(quality),
    }
