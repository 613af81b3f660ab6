"""The computed truths on renders whose truth is known, and on renders with known deformations."""

import math
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from selfimprove.draws import generator
from selfimprove.shapes import render as renderer
from selfimprove.shapes.pretrain.fit import random_drawing
from selfimprove.shapes.render import FACTORS, SHAPES, Drawing, render, signed_distance
from selfimprove.shapes.truths import Truths, read


def _deformed(drawn: Drawing, kind: str) -> Tensor:
    def bump(x: Tensor, y: Tensor, angle: float, radius: float, reach: float) -> Tensor:
        return torch.hypot(x - reach * math.cos(angle), y - reach * math.sin(angle)) - radius

    def outline(shape: str, x: Tensor, y: Tensor) -> Tensor:
        distance = signed_distance(shape, x, y)
        match kind:
            case "extra part":
                return torch.minimum(distance, bump(x, y, 0.3, 0.36, 1.0))
            case "missing part":
                return torch.maximum(distance, -bump(x, y, 2.0, 0.45, 0.75))
            case "broken":
                return torch.maximum(distance, 0.22 - (torch.atan2(y, x) - 0.6).abs() * torch.hypot(x, y).clamp_min(0.05))
            case "two shapes":
                other = signed_distance(SHAPES[(SHAPES.index(shape) + 3) % len(SHAPES)], 1.6 * (x - 0.7), 1.6 * (y - 0.5))
                return torch.minimum(signed_distance(shape, 1.35 * (x + 0.4), 1.35 * (y + 0.2)) / 1.35, other / 1.6)
        raise ValueError(kind)

    with patch.object(renderer, "signed_distance", outline):
        return render(drawn)[0]


def _drawn(count: int, quality: float = 0.5, **factors: float) -> Drawing:
    drawn = random_drawing(count, generator(0, "test/truths"), quality, quality)
    values = drawn.factors.clone()
    for name, value in factors.items():
        values[:, FACTORS.index(name)] = value
    return drawn._replace(factors=values)


@pytest.mark.parametrize("quality", [0.1, 0.35, 0.6, 0.9])
def test_renders_are_read_as_they_were_drawn(quality: float) -> None:
    drawn = _drawn(24, quality)
    truths = read(render(drawn)[0])
    assert truths.form.min() > 0.98
    assert bool((truths.attributes == drawn.attributes).all())
    assert (truths.quality - drawn.quality).abs().mean() < 0.03


@pytest.mark.parametrize("factor", ["sharpness", "contrast", "shading"])
def test_form_of_ideal_figures_does_not_depend_on_how_they_are_drawn(factor: str) -> None:
    forms = [read(render(_drawn(16, **{factor: value}))[0]).form.mean() for value in (0.05, 0.5, 0.95)]
    assert max(forms) - min(forms) < 0.005


@pytest.mark.parametrize("kind", ["extra part", "missing part", "broken", "two shapes"])
def test_deformations_cost_form_whatever_the_sharpness(kind: str) -> None:
    drawn = _drawn(24)
    ideal = read(render(drawn)[0]).form.mean()
    forms = [read(_deformed(_drawn(24, sharpness=value), kind)).form.mean() for value in (0.1, 0.5, 0.9)]
    assert max(forms) < ideal - 0.02
    assert max(forms) - min(forms) < (0.2 if kind == "two shapes" else 0.04)


def test_two_shapes_are_not_well_formed() -> None:
    assert read(_deformed(_drawn(24), "two shapes")).well_formed.float().mean() < 0.1


def test_obedience_counts_only_what_is_stated() -> None:
    truths = Truths(torch.ones(2), torch.tensor([[0, 1, 2, 3], [1, 1, 2, 0]]), torch.full((2, 5), 0.5))
    scenes = torch.tensor([[0, 1, 2, 3], [0, 1, 3, 0]])
    stated = torch.tensor([[True, True, True, True], [True, True, False, True]])
    assert truths.right(scenes, stated).tolist() == [[True] * 4, [False, True, True, True]]
    assert truths.quality.tolist() == [0.5, 0.5]
