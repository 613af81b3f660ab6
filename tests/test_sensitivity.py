from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from selfimprove_lab.results.sensitivity import PERTURBATIONS, blurred, cropped, faded, mirrored, other_captions, recoloured, sensitivity


@pytest.fixture
def images() -> Tensor:
    return torch.rand(8, 3, 20, 16, generator=torch.Generator().manual_seed(0))


def test_every_perturbation_keeps_shape_and_range(images: Tensor) -> None:
    for name, perturb in PERTURBATIONS.items():
        changed = perturb(images)
        assert changed.shape == images.shape, name
        assert float(changed.min()) >= 0
        assert float(changed.max()) <= 1
        assert not torch.equal(changed, images), name


def test_each_does_what_its_name_says(images: Tensor) -> None:
    assert blurred(images).var() < 0.6 * images.var()
    assert torch.allclose(recoloured(recoloured(images)), images, atol=1e-5)
    grey = images.mean(1, keepdim=True).expand_as(images)
    assert torch.allclose(recoloured(grey), grey, atol=1e-6)
    assert torch.allclose(faded(images).mean(1), images.mean(1), atol=1e-6)
    assert torch.equal(mirrored(images)[..., 0], images[..., -1])
    flat = torch.full((1, 3, 20, 20), 0.2)
    flat[..., 4:16, 4:16] = 0.8
    assert torch.allclose(cropped(flat), torch.full_like(flat, 0.8), atol=1e-5)


def test_wrong_captions_are_wrong() -> None:
    prompts = ["a", "a", "b", "c", "a"]
    assert all(wrong != own for wrong, own in zip(other_captions(prompts), prompts, strict=True))
    with pytest.raises(ValueError, match="all the same"):
        other_captions(["a", "a"])


def test_a_scorer_is_moved_by_what_it_looks_at_alone(images: Tensor) -> None:
    """One that reads the caption notices only captions; one that reads brightness is blind to mirrors and captions."""

    def reader(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([float(len(p)) for p in prompts])

    def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.flatten(1).mean(1)

    table = sensitivity({"reader": reader, "brightness": brightness}, images, ["a", "bb", "ccc", "dddd"] * 2).set_index(
        ["scorer", "change"]
    )
    assert table.loc[("reader", "blurred"), "mean"] == 0
    assert table.loc[("brightness", "wrong caption"), "mean"] == 0
    assert abs(table.loc[("brightness", "mirrored"), "mean"]) < 1e-4
    assert (table["low"] <= table["mean"]).all()
    assert table.loc[("reader", "wrong caption"), "high"] > 0
