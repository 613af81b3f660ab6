import numpy as np
import pandas as pd
import pytest
import torch

from selfimprove.evaluate import bootstrap_interval, summarise
from selfimprove.scorers import nearest_real


def table(values: list[float], prompts: list[str] | None = None) -> pd.DataFrame:
    prompts = prompts or [f"p{i}" for i in range(len(values))]
    return pd.DataFrame({"id": [f"{i}" for i in range(len(values))], "prompt": prompts, "image": 0, "score": values})


def test_means_differences_and_wins_by_hand() -> None:
    row = summarise(table([2.0, 3.0, 4.0, 5.0]), table([1.0, 3.0, 5.0, 1.0]), table([0.0] * 4))["score"]
    assert row["mean"] == 3.5
    assert row["median"] == 3.5
    assert row["delta_prev"] == 1.0  # (1 + 0 - 1 + 4) / 4
    assert row["win_rate_prev"] == 0.625  # two wins, one tie
    assert row["win_rate_base"] == 1.0


def test_pairs_are_matched_by_prompt_not_by_position() -> None:
    row = summarise(table([1.0, 2.0], ["a", "b"]), table([2.0, 1.0], ["b", "a"]))["score"]
    assert row["delta_prev"] == 0.0
    assert row["delta_prev_ci95"] == [0.0, 0.0]


def test_intervals_resample_prompts_not_images() -> None:
    """A hundred copies of two prompts carry the information of two prompts."""
    values = [0.0] * 100 + [1.0] * 100
    row = summarise(table(values, ["a"] * 100 + ["b"] * 100))["score"]
    assert row["ci95"] == [0.0, 1.0]


def test_the_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = sum(low <= 0 <= high for low, high in (bootstrap_interval(generator.normal(size=60)) for _ in range(200)))
    assert 180 <= covered <= 199


def test_paired_intervals_are_narrower_than_unpaired_ones() -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(size=300)
    row = summarise(table(list(base + 0.1 + 0.05 * generator.normal(size=300))), table(list(base)))["score"]
    low, high = row["delta_prev_ci95"]
    assert low > 0.05
    assert high - low < 0.3 * (row["ci95"][1] - row["ci95"][0])


def test_nearest_real_prefers_its_own_caption() -> None:
    real = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    latents = torch.stack([torch.zeros(1, 2, 2)] * 3)
    scores = nearest_real(latents, ["a", "b", "unheard of"], real, ["a", "b"])
    assert scores.tolist() == pytest.approx([0.0, -1.0, 0.0])
