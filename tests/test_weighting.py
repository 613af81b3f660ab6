import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from selfimprove.recursion.weighting import Edges, WeightingError, calibrate, distances, pairwise, weigh, weights
from selfimprove_lab.results.shrinkage import expected_distance

NORMS = ("l2", "l2-unscaled", "l2-scaled-twice", "rms", "per-channel")
REDUCTIONS = ("mean", "to-mean", "nearest", "two-sided")


def latents(count: int, seed: int = 0, shape: tuple[int, int, int] = (4, 8, 8)) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def ids(count: int, name: str = "x") -> list[str]:
    return [f"{name}{i}" for i in range(count)]


@pytest.mark.parametrize("offset", [0.0, 100.0])  # far from the origin float32 would cancel
def test_distances_agree_with_scipy_down_to_near_duplicates(offset: float) -> None:
    a, b = latents(40) + offset, latents(60, 1) + offset
    b[:5] = a[:5] + 1.6e-2 * latents(5, 2)  # just above 1 % of the median distance
    expected = cdist(a.flatten(1).double(), b.flatten(1).double())
    found = pairwise(a, b).double().numpy()
    assert expected.min() > 0.01 * np.median(expected)
    assert np.abs(found / expected - 1).max() < 1e-4


def test_identical_rows_are_exactly_zero_apart() -> None:
    a = latents(50) * 3 + 7
    assert (pairwise(a, a.clone()).diagonal() == 0).all()
    assert (pairwise(a, a)[~torch.eye(50, dtype=torch.bool)] > 0).all()


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = latents(23), latents(17, 1)
    whole = pairwise(a, b, "per-channel")
    monkeypatch.setattr("selfimprove.recursion.weighting.BLOCK", 5)
    assert torch.allclose(pairwise(a, b, "per-channel"), whole, rtol=1e-6)
    for reference in REDUCTIONS:
        parts = distances(a, ids(23), b, ids(17, "y"), "l2", reference)
        monkeypatch.setattr("selfimprove.recursion.weighting.BLOCK", 1024)
        assert torch.allclose(parts, distances(a, ids(23), b, ids(17, "y"), "l2", reference), rtol=1e-6)
        monkeypatch.setattr("selfimprove.recursion.weighting.BLOCK", 5)


def test_norms_by_hand() -> None:
    a = torch.zeros(1, 2, 1, 2)
    b = torch.tensor([[[[3.0, 4.0]], [[0.0, 0.0]]]])
    values = {name: float(pairwise(a, b, name, scaling_factor=0.5)) for name in NORMS}
    assert values == pytest.approx({"l2": 5, "l2-unscaled": 10, "l2-scaled-twice": 2.5, "rms": 2.5, "per-channel": 2.5})


def test_distance_of_unrelated_latents() -> None:
    """Stable Diffusion's latents, unit variance: the only convention near the paper's beta of 35 scales them twice."""
    found = {name: expected_distance(1.0, (4, 64, 64), name, 0.18215) for name in NORMS}
    expected = {"l2": 181.02, "l2-unscaled": 993.8, "l2-scaled-twice": 32.97, "rms": 1.4142, "per-channel": 90.51}
    assert found == pytest.approx(expected, rel=1e-4)
    drawn = pairwise(latents(50), latents(50, 1))
    assert float(drawn.mean()) == pytest.approx(expected_distance(1.0, (4, 8, 8), "l2", 1.0), rel=0.01)


def test_reductions_by_hand() -> None:
    references = torch.tensor([0.0, 1.0, 5.0]).view(3, 1, 1, 1)
    one = torch.tensor([[[[2.0]]]])
    values = {r: float(distances(one, ["s"], references, ids(3), "l2", r, neighbours=2)) for r in REDUCTIONS}
    assert values == pytest.approx({"mean": 2, "to-mean": 0, "nearest": 1.5, "two-sided": 2})


@pytest.mark.parametrize("reference", REDUCTIONS)
def test_a_sample_of_the_references_is_left_out_of_its_own_distance(reference: str) -> None:
    references = latents(12)
    own = distances(references, ids(12), references, ids(12), "l2", reference)
    for i in (0, 7):
        others = [j for j in range(12) if j != i]
        alone = distances(references[i : i + 1], ["s"], references[others], [f"x{j}" for j in others], "l2", reference)
        assert float(own[i]) == pytest.approx(float(alone), rel=1e-5)


def test_mean_distance_is_blind_to_shrinkage_and_two_sided_is_not() -> None:
    """Eight references near each of 75 scenes: blank samples get full weight by the paper's distance, none by the two-sided form."""
    scenes = latents(75, 3)
    references = scenes.repeat(8, 1, 1, 1) + 0.3 * latents(600, 4)
    samples = torch.cat([0.02 * latents(20, 5), scenes[:20] + 0.3 * latents(20, 6)])  # blank ones, good ones
    blank, good = {}, {}
    for reference in ("mean", "nearest", "two-sided"):
        weight = weigh(samples, ids(40, "s"), references, ids(600), reference=reference).weight
        blank[reference], good[reference] = float(weight[:20].mean()), float(weight[20:].mean())
    assert blank["mean"] == 1
    assert blank["two-sided"] < 0.1
    assert blank["nearest"] < 0.1  # scenes have neighbours, a blank image has none
    assert min(good.values()) > 0.9


def test_in_high_dimensions_without_structure_nearest_is_blind_too() -> None:
    """Independent latents, scaled by 0, .5, 1, 1.5, from unit references of the same size: about 32, 36, 45, 58."""
    references = latents(300, 0, (4, 16, 16))
    apart = [distances(c * latents(20, 1, (4, 16, 16)), ids(20, "s"), references, ids(300)).mean().item() for c in (0, 0.5, 1, 1.5)]
    assert apart == pytest.approx([32, 35.8, 45.2, 57.7], abs=0.6)
    blank = weigh(0 * latents(20, 1, (4, 16, 16)), ids(20, "s"), references, ids(300), reference="nearest")
    assert (blank.weight == 1).all()


def test_weights_by_hand_and_calibration() -> None:
    values = weights(torch.tensor([1.0, 2.0, 3.0, 5.0]), Edges(3.0, 2.0, low=2.0, low_sigma2=4.0))
    assert values.tolist() == pytest.approx([math.exp(-0.25), 1, 1, math.exp(-1)])
    own = torch.arange(101, dtype=torch.float32)
    own = torch.cat([own, torch.tensor([200.0])])  # 0..100 and one far away: quantiles 90.9 and 10.1
    assert calibrate(own, "mean", None, None, 0.9)[:3] == pytest.approx((90.9, 109.1, -math.inf), rel=1e-4)
    assert calibrate(own, "two-sided", None, None, 0.9) == pytest.approx((90.9, 109.1, 10.1, 10.1), rel=1e-4)
    assert calibrate(own, "mean", 35.0, 2.0)[:3] == (35, 2, -math.inf)
    assert calibrate(own, "two-sided", 35.0, 2.0) == pytest.approx((35, 2, 10.1, 2), rel=1e-4)
    references = latents(200)
    share = (weigh(references, ids(200), references, ids(200)).weight == 1).float().mean()
    assert float(share) == pytest.approx(0.9, abs=0.006)


def test_bad_input() -> None:
    a = latents(5)
    with pytest.raises(WeightingError, match="references=1: at least two"):
        weigh(a, ids(5), a[:1], ["r"])
    with pytest.raises(WeightingError, match=r"shape \(4, 8, 8\) cannot be compared with references of \(4, 4, 4\)"):
        weigh(a, ids(5), latents(3, 1, (4, 4, 4)), ids(3))
    for sigma2 in (0.0, -1.0):
        with pytest.raises(WeightingError, match=f"weight_sigma2={sigma2} must be greater than 0"):
            weigh(a, ids(5), latents(6, 1), ids(6, "r"), sigma2=sigma2)
    with pytest.warns(UserWarning, match=r"every weight is below 0.01.*beta=1, sigma2=2, distances 2\d"):
        weigh(a, ids(5), latents(6, 1), ids(6, "r"), beta=1.0, sigma2=2.0)
    with pytest.raises(WeightingError, match=r"every weight is zero \(beta=1, sigma2=0.01"):
        weigh(a, ids(5), latents(6, 1), ids(6, "r"), beta=1.0, sigma2=0.01)
