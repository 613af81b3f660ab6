"""Pick-a-Pic's shards as training data: winners for SPIN and SFT, pairs for DPO."""

from pathlib import Path

import pytest
import torch
from test_pairs import row, shard
from test_rounds import PRESET, SETTINGS

from selfimprove.config import Preset
from selfimprove.data import DataError, load_data
from selfimprove.game import set_up
from selfimprove.rounds import play

SIZE = (16, 16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards: thirty decided pairs of ten prompts, winners light (200 and more), losers dark; a tie and an unlabelled row."""
    rows = []
    for i in range(30):
        label = float(i % 2)
        light, dark = 200 + i, 20 + i
        rows.append(row(light if label else dark, dark if label else light, label, caption=f"prompt {i % 10}"))
    shard(tmp_path / "pairs", [*rows[:15], row(1, 2, 0.5)], "a.parquet")
    return shard(tmp_path / "pairs", [*rows[15:], row(1, 2, 1.0, has_label=False)], "b.parquet")


def test_the_preferred_image_is_the_real_one(folder: Path) -> None:
    data = load_data(str(folder), 100, 2, 6, SIZE, seed=0)
    assert data.fetch_loser is not None
    for i in data.train:
        won, lost = data.fetch(i), data.fetch_loser(i)
        assert won.shape == (3, *SIZE)
        assert float(won.mean()) > 0.75 > 0.25 > float(lost.mean())
    assert data.skipped == ["1 ties and 1 unlabelled rows dropped"]


def test_a_prompt_is_trained_on_or_kept_out_but_never_both(folder: Path) -> None:
    data = load_data(str(folder), 100, 2, 6, SIZE, seed=0)
    trained, kept = {data.captions[i] for i in data.train}, {data.captions[i] for i in data.validation}
    assert (len(trained), len(kept)) == (9, 1)  # a tenth of the prompts at most
    assert not trained & kept
    assert len(data.train) == 27
    assert {p for p, _ in data.evaluation} == kept
    assert len(set(data.ids)) == 30


def test_a_part_of_it_depends_on_the_seed_and_not_on_the_count_kept_out(folder: Path) -> None:
    parts = [load_data(str(folder), 8, 0, 4, SIZE, seed=s).train for s in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
    assert parts[0] == sorted(parts[0])
    assert load_data(str(folder), 8, 0, 4, SIZE, seed=0).fingerprint == load_data(str(folder), 9, 2, 4, SIZE, seed=3).fingerprint


def test_dpo_and_spin_run_on_shards(folder: Path, tiny: Path, tmp_path: Path) -> None:
    losses = {}
    for name, preset in {"spin": PRESET, "dpo": Preset("", "", SETTINGS).changed(generated_source="loser", opponent="base")}.items():
        info = play(set_up(preset, name, str(tiny), str(folder), tmp_path / name, 0, "cpu"), 1)[1]
        assert info.log is not None
        losses[name] = info.log["player_generated"].iloc[0]
    assert losses["spin"] != losses["dpo"]


def test_one_prompt_cannot_be_split(tmp_path: Path) -> None:
    source = shard(tmp_path / "one", [row(9, 1, 1.0), row(1, 2, 0.5)])
    with pytest.raises(DataError, match="1 prompts with a preference .1 ties and 0 unlabelled"):
        load_data(str(source), 4, 1, 2, SIZE, 0)


def test_a_null_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    source = shard(tmp_path / "null", [row(9, 1, 1.0), row(9, 1, 1.0, caption="other", jpg_0=None)])
    data = load_data(str(source), 4, 0, 2, SIZE, 0)
    assert torch.isfinite(data.fetch(0)).all()
    with pytest.raises(DataError, match="row 2, jpg_0 is null"):
        data.fetch(1)
