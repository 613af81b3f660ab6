import numpy as np
import pytest
import torch

from selfimprove.recursion import collapse
from selfimprove.recursion.collapse import (
    LIMITS,
    CollapseError,
    Measures,
    effective_modes,
    sampled_rows,
    signs,
    warn_of_collapse,
    within_prompt_distance,
)
from selfimprove.recursion.weighting import pairwise

COUNT, COPIES = 40, 3
PROMPTS = [f"p{i % COUNT}" for i in range(COUNT * COPIES)]


def scenes(noise: float = 0.5, seed: int = 0) -> torch.Tensor:
    """Three noisy copies of each of forty scenes."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(COUNT, 4, 4, 4, generator=generator)
    return centres.repeat(COPIES, 1, 1, 1) + noise * torch.randn(COUNT * COPIES, 4, 4, 4, generator=generator)


BASE = scenes()


def drift(latents: torch.Tensor) -> dict[str, float]:
    return collapse.drift(latents, BASE, PROMPTS)


def test_the_base_itself_shows_no_sign() -> None:
    assert drift(BASE) == pytest.approx(dict.fromkeys(LIMITS, 1.0))
    assert not signs(drift(BASE))


def test_effective_modes_by_hand() -> None:
    alike, far = torch.zeros(6, 6), torch.full((6, 6), 1e3).fill_diagonal_(0)
    assert effective_modes(alike, 1.0) == pytest.approx(1, abs=1e-6)
    assert effective_modes(far, 1.0) == pytest.approx(6, abs=1e-6)
    two = torch.kron(far[:2, :2], torch.ones(3, 3))
    assert effective_modes(two, 1.0) == pytest.approx(2, abs=1e-6)


def test_distance_within_a_prompt_by_hand() -> None:
    latents = torch.tensor([0.0, 3.0, 10.0, 11.0]).view(4, 1, 1, 1)
    assert within_prompt_distance(pairwise(latents, latents), ["a", "a", "b", "b"]) == 2
    assert np.isnan(within_prompt_distance(pairwise(latents, latents), list("abcd")))  # one image of each


@pytest.mark.parametrize(
    ("name", "spoilt", "expected"),
    [
        ("shrinkage", 0.6 * BASE, {"variance": "low", "within_prompt": "low", "modes": "low"}),
        ("one image a prompt", BASE[:COUNT].repeat(COPIES, 1, 1, 1), {"within_prompt": "low"}),
        ("another world", BASE + 5.0, {"precision": "low", "recall": "low"}),
        ("few scenes", BASE[:4].repeat(30, 1, 1, 1), {"modes": "low", "recall": "low"}),
        ("drift", BASE + 1.0, {"distance": "high", "nearest": "high"}),
        ("over-contrast", 1.5 * BASE, {"variance": "high", "nearest": "high"}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_each_way_to_collapse_shows_in_its_signs(name: str, spoilt: torch.Tensor, expected: dict[str, str]) -> None:
    found = drift(spoilt)
    said = " ".join(signs(found))
    for sign, side in expected.items():
        assert sign.replace("_", " ") in said, (name, sign, found)
        assert (found[sign] < 1) == (side == "low")


def test_mean_distance_does_not_see_shrinkage() -> None:
    assert "distance is" not in " ".join(signs({"distance": drift(0.9 * BASE)["distance"]}))


def test_warns_stops_or_is_silent_as_configured() -> None:
    bad, good = {"variance": 0.5}, {"variance": 1.0}
    with pytest.warns(UserWarning, match=r"round 3 shows signs of collapse: variance is 0.50 of the base model's \(usual: 0.9 to 1.25\)"):
        assert warn_of_collapse(3, bad, "warn")
    with pytest.raises(CollapseError, match="on_collapse='stop' ends the run here: choose an earlier round"):
        warn_of_collapse(3, bad, "stop")
    assert warn_of_collapse(3, bad, "ignore")
    assert not warn_of_collapse(3, good, "stop")
    assert not warn_of_collapse(3, {"within_prompt": float("nan")}, "stop")  # one image a prompt: nothing to say


def test_ratios() -> None:
    one = Measures(*[2.0] * 7)
    assert Measures(*[1.0] * 7).relative_to(one) == dict.fromkeys(vars(one), 0.5)


def test_signs_are_measured_on_a_sample_chosen_by_id() -> None:
    ids = [f"image {i}" for i in range(50)]
    assert sampled_rows(ids) == list(range(50))
    rows = sampled_rows(ids, 10)
    assert len(rows) == 10
    assert rows == sorted(rows)
    assert {ids[::-1][r] for r in sampled_rows(ids[::-1], 10)} == {ids[r] for r in rows}  # whatever the order
    assert {ids[r] for r in sampled_rows(ids[:40], 10)} >= {ids[r] for r in rows if r < 40}
