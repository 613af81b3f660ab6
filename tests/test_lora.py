"""Adapters: what is trained, who the opponent is, what is written."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from test_rounds import PRESET, prepared_run
from torch import Tensor

from selfimprove import rounds
from selfimprove.batches import TrainingSet
from selfimprove.config import Settings
from selfimprove.models.lora import FILE, WithoutAdapter, add_adapter, check_rank, merge
from selfimprove.models.pipeline import load_diffuser, load_unet
from selfimprove.models.weights import ModelError, model_hash
from selfimprove.opponent import LiveOpponent
from selfimprove.rounds import play
from selfimprove.train import train


@pytest.fixture
def unet(tiny: Path) -> UNet2DConditionModel:
    return load_unet(tiny)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    made = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 8, 8, generator=made), torch.tensor([10, 500]), torch.randn(2, 24, 32, generator=made)


def disturb(unet: UNet2DConditionModel) -> None:
    """What training would do: adapters away from zero."""
    made = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in unet.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=made))


def test_a_fresh_adapter_changes_nothing_and_alone_is_trainable(unet: UNet2DConditionModel, tiny: Path) -> None:
    before = load_unet(tiny)(*inputs()).sample
    add_adapter(unet, 2, 4, seed=0, round_index=1)
    assert torch.equal(unet(*inputs()).sample, before)
    trainable = [n for n, p in unet.named_parameters() if p.requires_grad]
    assert trainable
    assert all("lora" in n for n in trainable)
    again = load_unet(tiny)
    add_adapter(again, 2, 4, seed=0, round_index=1)
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), again.parameters(), strict=True))


def test_the_opponent_is_the_same_network_without_the_adapter(unet: UNet2DConditionModel) -> None:
    before = unet(*inputs()).sample.detach()
    add_adapter(unet, 2, 4, 0, 1)
    disturb(unet)
    opponent = WithoutAdapter(unet)
    assert torch.equal(opponent(*inputs()).sample, before)
    assert not torch.allclose(unet(*inputs()).sample, before, atol=1e-3)  # and the adapter is on again


def test_recomputed_activations_see_the_adapter(tiny: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        unet = load_unet(tiny).train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        add_adapter(unet, 2, 4, 0, 1)
        disturb(unet)
        with torch.inference_mode():
            WithoutAdapter(unet)(*inputs())
        unet(*inputs()).sample.square().mean().backward()
        gradients.append([p.grad for p in unet.parameters() if p.requires_grad])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain is not None
        assert torch.allclose(plain, recomputed, atol=1e-7)


def test_training_with_recomputed_activations_is_the_same(tiny: Path, training_data: TrainingSet, tmp_path: Path) -> None:
    """Through the loop itself: the opponent, the same network, has its turn in every step, and the adapter is on when it ends."""
    settings, trained, logs = replace(PRESET.settings, steps=3, lr=1e-2, lora_rank=2, beta=20.0), [], []
    schedule = load_diffuser(tiny, torch.device("cpu")).schedule
    for checkpointing in (False, True):
        unet = load_unet(tiny)
        add_adapter(unet, 2, 8, 0, 1)
        disturb(unet)  # so that player and opponent differ from the first step on
        chosen = replace(settings, gradient_checkpointing=checkpointing)
        logs.append(train(unet, LiveOpponent(WithoutAdapter(unet)), training_data, schedule, chosen, 0, 1, tmp_path / str(checkpointing)))
        trained.append({n: p.detach() for n, p in unet.named_parameters() if "lora" in n})
    pd.testing.assert_frame_equal(*logs, rtol=1e-5, atol=1e-6)
    assert logs[0]["margin"].abs().min() > 0
    assert all(torch.allclose(trained[0][n], trained[1][n], atol=1e-6) for n in trained[0])


def test_merging_keeps_the_function_and_the_file_holds_all_rounds(unet: UNet2DConditionModel, tiny: Path, tmp_path: Path) -> None:
    """Round k+1's opponent, the merged weights, equals round k's player; two rounds' file on the base gives the last player."""
    for index in (1, 2):
        add_adapter(unet, 2, 4, 0, index)
        disturb(unet)
        player = unet(*inputs()).sample.detach()
        merge(unet, 2, 4, tmp_path / str(index - 1), tmp_path / str(index))
        assert torch.allclose(unet(*inputs()).sample, player, atol=1e-6)
        assert not [n for n, _ in unet.named_parameters() if "lora" in n]
    pipeline = StableDiffusionPipeline.from_pretrained(tiny, safety_checker=None, requires_safety_checker=False)
    pipeline.load_lora_weights(tmp_path / "2", weight_name=FILE)
    assert torch.allclose(pipeline.unet(*inputs()).sample, player, atol=1e-5)


def test_rounds_with_adapters(tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opponents = []
    original = rounds.train

    def watched(player: UNet2DConditionModel, opponent: LiveOpponent, *rest: object) -> object:
        opponents.append(type(opponent.network).__name__)
        return original(player, opponent, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(rounds, "train", watched)
    infos = play(prepared_run(tiny, images, tmp_path / "run", PRESET.changed(lora_rank=2, lora_alpha=2)), 2)
    assert opponents == ["WithoutAdapter"] * 2  # no second UNet
    assert infos[1].log is not None
    assert infos[1].log["margin"].iloc[0] == pytest.approx(0, abs=1e-4)
    run = tmp_path / "run"
    manifests = [json.loads((run / f"round_{k}" / "manifest.json").read_text())["stages"] for k in range(3)]
    assert manifests[2]["training"]["opponent"] == model_hash(run / "round_1" / "pipeline")
    base, last = load_unet(tiny), load_unet(run / "round_2" / "pipeline")
    changed = [n for (n, a), b in zip(base.named_parameters(), last.parameters(), strict=True) if not torch.equal(a, b)]
    assert changed
    assert all(n.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")) for n in changed)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny, safety_checker=None, requires_safety_checker=False)
    pipeline.load_lora_weights(run / "round_2" / "lora", weight_name=FILE)
    assert torch.allclose(pipeline.unet(*inputs()).sample, last(*inputs()).sample, atol=1e-5)


def test_a_frozen_opponent_is_a_network_of_its_own_from_round_2_on(tiny: Path, images: Path, tmp_path: Path) -> None:
    infos = play(prepared_run(tiny, images, tmp_path / "run", PRESET.changed(lora_rank=2, opponent="base")), 2)
    assert infos[2].log is not None
    assert infos[2].log["margin"].iloc[0] != 0  # the player has left the base


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=f"lora_rank={rank} must be at least 1"):
        Settings(lora_rank=rank)


def test_a_rank_larger_than_the_layer_is_refused_before_anything_is_done(tiny: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"lora_rank=33 is more than the full rank \d+ of"):
        prepared_run(tiny, images, tmp_path / "run", PRESET.changed(lora_rank=33))
    assert not (tmp_path / "run").exists()
    check_rank(load_unet(tiny), 8)
