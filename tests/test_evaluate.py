import pytest
import torch

from selfimprove.evaluation.evaluate import nearest_real


def test_nearest_real_prefers_its_own_caption() -> None:
    real = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    latents = torch.stack([torch.zeros(1, 2, 2)] * 3)
    scores = nearest_real(latents, ["a", "b", "unheard of"], real, ["a", "b"])
    assert scores.tolist() == pytest.approx([0.0, -1.0, 0.0])
