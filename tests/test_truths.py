"""The computed truths on renders whose truth is known, on renders with known deformations, and after an autoencoder."""

import pytest
import torch
from diffusers import AutoencoderKL

from selfimprove.shapes import PIPELINE
from selfimprove.shapes.oracle import TruthError, load_oracle, truth_hidden
from selfimprove.shapes.render import render
from selfimprove.shapes.truths import WELL_FORMED, Truths, read
from selfimprove_lab.calibration import DEFORMATIONS, IDEAL, VARIED, agreement, drawings, errors, levels, span
from selfimprove_lab.pretrain.oracle import round_trip

MOST = 0.02  # largest bias of a truth over the whole range of a factor
RANGE = (0.05, 0.5, 0.95)


def test_renders_of_every_quality_are_read_as_they_were_drawn() -> None:
    table = errors(20)
    assert table["form_low"].min() > 0.998
    assert (table[["well_formed", "size", "colour", "shape", "background"]] == 1).all(axis=None)
    assert table["quality_error"].max() < 0.02
    assert table["quality_bias"].abs().max() < 0.01


@pytest.mark.parametrize("factor", VARIED)
def test_how_an_ideal_figure_is_drawn_moves_no_truth_but_its_own_factor(factor: str) -> None:
    table = levels(12, factor, values=RANGE)
    assert span(table, "form") < 0.002
    assert span(table, "shape") == 0
    assert span(table, "quality_bias") <= MOST


# The last two outlines are no fields of distances: the blur of a soft edge bends and widens with them, and is in part their own.
@pytest.mark.parametrize(("kind", "most"), [("missing part", MOST), ("extra part", MOST), ("bent", 0.03), ("broken ring", 0.04)])
def test_blur_hides_no_deformation(kind: str, most: float) -> None:
    table = levels(24, "sharpness", kind, values=RANGE)
    assert table["form"].max() < (0.996 if kind == "bent" else WELL_FORMED)
    assert span(table, "form") <= most


@pytest.mark.parametrize("factor", ["contrast", "shading"])
def test_contrast_and_shading_hide_no_deformation(factor: str) -> None:
    assert span(levels(16, factor, "missing part", values=RANGE), "form") <= MOST


def test_two_shapes_are_not_well_formed() -> None:
    assert levels(16, "sharpness", "two shapes", values=RANGE)["well_formed"].max() < 0.1


def test_the_shipped_autoencoder_costs_form_alike_at_every_sharpness() -> None:
    vae = AutoencoderKL.from_pretrained(PIPELINE / "vae").eval()
    for factor in VARIED:
        assert span(levels(24, factor, trip=lambda images: round_trip(vae, images), values=RANGE), "form") <= MOST


def test_the_learned_oracle_mostly_agrees_and_is_more_charitable() -> None:
    good, bad = (render(drawings(24, "agreement"), distance_to=DEFORMATIONS[kind])[0] for kind in (IDEAL, "missing part"))
    oracle = load_oracle()
    same = agreement(read(good), oracle.read(good))
    assert same["count"] == 24
    assert min(same[name] for name in ("well_formed", "size", "colour", "shape", "background")) > 0.9
    assert same["quality"] > 0.5
    assert agreement(read(bad), oracle.read(bad))["well_formed"] < 0.7  # it calls a shape with a bite a scene


def test_obedience_counts_only_what_is_stated() -> None:
    truths = Truths(torch.ones(2), torch.tensor([[0, 1, 2, 3], [1, 1, 2, 0]]), torch.full((2, 5), 0.5))
    scenes = torch.tensor([[0, 1, 2, 3], [0, 1, 3, 0]])
    stated = torch.tensor([[True, True, True, True], [True, True, False, True]])
    assert truths.right(scenes, stated).tolist() == [[True] * 4, [False, True, True, True]]
    assert truths.quality.tolist() == [0.5, 0.5]


def test_no_truth_selects() -> None:
    with truth_hidden(), pytest.raises(TruthError, match="must not select"):
        read(torch.zeros(1, 3, 64, 64))


def test_debris_is_read_without_complaint_and_is_not_well_formed() -> None:
    images = torch.stack([torch.zeros(3, 64, 64), torch.ones(3, 64, 64), torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))])
    truths = read(images)  # black, white, noise
    assert not truths.well_formed.any()
    assert bool(torch.isfinite(truths.form).all() & torch.isfinite(truths.factors).all())
