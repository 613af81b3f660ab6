"""Adapters: what is trained, who the opponent is, what is written."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from test_rounds import PRESET, prepared_run
from torch import Tensor

from selfimprove import rounds
from selfimprove.batches import TrainingSet
from selfimprove.config import Settings
from selfimprove.models import sd
from selfimprove.models.lora import FILE, OPPONENT, PLAYER, Adapters, WithAdapter, check_rank
from selfimprove.models.pipeline import load_denoiser, load_diffuser
from selfimprove.models.weights import ModelError, model_hash
from selfimprove.opponent import LiveOpponent
from selfimprove.rounds import play
from selfimprove.train import train


@pytest.fixture
def unet(tiny: Path) -> UNet2DConditionModel:
    return load_denoiser(tiny)


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


def adapters(unet: UNet2DConditionModel, start: Path | None = None, index: int = 1, alpha: int = 4, **how: object) -> Adapters:
    made = Adapters(unet, sd.FAMILY, 2, alpha, **how)  # type: ignore[arg-type]
    made.add_player(start, 0, index)
    return made


def trainable(unet: UNet2DConditionModel) -> list[str]:
    return [n for n, p in unet.named_parameters() if p.requires_grad]


def test_a_fresh_adapter_changes_nothing_and_alone_is_trainable(unet: UNet2DConditionModel, tiny: Path) -> None:
    before = load_denoiser(tiny)(*inputs()).sample
    adapters(unet)
    assert torch.equal(unet(*inputs()).sample, before)
    assert trainable(unet)
    assert all("lora" in n for n in trainable(unet))
    again = load_denoiser(tiny)
    adapters(again)
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), again.parameters(), strict=True))


@pytest.fixture
def written(tiny: Path, tmp_path: Path) -> Path:
    """The adapter of an earlier round, away from zero."""
    unet = load_denoiser(tiny)
    made = adapters(unet)
    disturb(unet)
    made.merge(tmp_path / "earlier")
    return tmp_path / "earlier"


def test_the_opponent_is_the_same_network_with_its_own_adapter_or_none(unet: UNet2DConditionModel, written: Path) -> None:
    base = unet(*inputs()).sample.detach()
    made = adapters(unet, written)
    start = unet(*inputs()).sample.detach()
    plain, earlier = made.opponent(None), made.opponent(written)
    disturb(unet)
    assert torch.equal(plain(*inputs()).sample, base)
    assert torch.equal(earlier(*inputs()).sample, start)
    player = unet(*inputs()).sample
    assert not torch.allclose(player, start, atol=1e-3)  # and the player's is on again
    assert not torch.allclose(player, base, atol=1e-3)


def test_a_second_adapter_does_not_freeze_the_players(unet: UNet2DConditionModel, written: Path) -> None:
    """peft makes the adapter that was added last the only one that is on and trained."""
    made = adapters(unet, written)
    own = trainable(unet)
    made.opponent(written)
    assert trainable(unet) == own
    assert all(f".{PLAYER}." in n for n in own)
    assert any(f".{OPPONENT}." in n for n, _ in unet.named_parameters())


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_opponents_turn_leaves_the_gradient_as_it_is(tiny: Path, written: Path, second: bool, checkpointing: bool) -> None:
    """Were the player's adapter left off, gradients would be zero, and with recomputed activations backward would fail."""
    gradients = []
    for turn in (False, True):
        unet = load_denoiser(tiny).train()
        if checkpointing and turn:
            unet.enable_gradient_checkpointing()
        made = adapters(unet, written)
        opponent = made.opponent(written if second else None)
        disturb(unet)
        if turn:
            with torch.inference_mode():
                opponent(*inputs())
        unet(*inputs()).sample.square().mean().backward()
        gradients.append([p.grad for p in unet.parameters() if p.requires_grad])
    for plain, after in zip(*gradients, strict=True):
        assert plain is not None
        assert plain.abs().max() > 0
        assert torch.allclose(plain, after, atol=1e-7)


def test_training_with_recomputed_activations_is_the_same(tiny: Path, training_data: TrainingSet, tmp_path: Path) -> None:
    """Through the loop itself: the opponent, the same network, has its turn in every step, and the adapter is on when it ends."""
    settings, trained, logs = replace(PRESET.settings, steps=3, lr=1e-2, lora_rank=2, beta=20.0), [], []
    schedule = load_diffuser(tiny, torch.device("cpu")).schedule
    for checkpointing in (False, True):
        unet = load_denoiser(tiny)
        opponent = LiveOpponent(adapters(unet, alpha=8).opponent(None))
        disturb(unet)  # so that player and opponent differ from the first step on
        chosen = replace(settings, gradient_checkpointing=checkpointing)
        logs.append(train(unet, opponent, training_data, schedule, chosen, 0, 1, tmp_path / str(checkpointing)))
        trained.append({n: p.detach() for n, p in unet.named_parameters() if "lora" in n})
    pd.testing.assert_frame_equal(*logs, rtol=1e-5, atol=1e-6)
    assert logs[0]["margin"].abs().min() > 0
    assert all(torch.allclose(trained[0][n], trained[1][n], atol=1e-6) for n in trained[0])


@pytest.mark.parametrize("how", [{}, {"use_dora": True}, {"targets": "to_q proj_in"}])
def test_the_file_of_a_round_is_the_whole_difference_to_the_base(tiny: Path, tmp_path: Path, how: dict) -> None:
    """Merging keeps the function; the next round starts there; the last round's file on the base gives the last player."""
    for index in (1, 2):
        unet = load_denoiser(tiny)
        made = adapters(unet, tmp_path / "1" if index == 2 else None, index, **how)
        if index == 2:
            assert torch.allclose(unet(*inputs()).sample, player, atol=1e-5)  # noqa: F821 - of round 1
        disturb(unet)
        player = unet(*inputs()).sample.detach()
        made.merge(tmp_path / str(index))
        assert torch.allclose(unet(*inputs()).sample, player, atol=1e-5)
        assert not [n for n, _ in unet.named_parameters() if "lora" in n]
    pipeline = StableDiffusionPipeline.from_pretrained(tiny, safety_checker=None, requires_safety_checker=False)
    pipeline.load_lora_weights(tmp_path / "2", weight_name=FILE)
    assert torch.allclose(pipeline.unet(*inputs()).sample, player, atol=1e-5)


def test_an_adapter_of_another_rank_is_refused(unet: UNet2DConditionModel, written: Path) -> None:
    with pytest.raises(ModelError, match="of another rank or on other layers than lora_rank=3 and"):
        Adapters(unet, sd.FAMILY, 3, 3).add_player(written, 0, 2)


def test_an_unknown_layer_is_refused(unet: UNet2DConditionModel) -> None:
    with pytest.raises(ModelError, match="lora_targets: no linear layer's name ends with 'to_x'; they end with .*to_k"):
        check_rank(unet, ["to_q", "to_x"], 2)


def test_rounds_with_adapters(tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opponents = []
    original = rounds.train

    def watched(player: UNet2DConditionModel, opponent: LiveOpponent, *rest: object) -> object:
        opponents.append(type(opponent.network).__name__)
        return original(player, opponent, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(rounds, "train", watched)
    infos = play(prepared_run(tiny, images, tmp_path / "run", PRESET.changed(lora_rank=2, lora_alpha=2)), 2)
    assert opponents == ["WithAdapter"] * 2  # no second UNet
    assert infos[1].log is not None
    assert infos[1].log["margin"].iloc[0] == pytest.approx(0, abs=1e-4)
    run = tmp_path / "run"
    manifests = [json.loads((run / f"round_{k}" / "manifest.json").read_text())["stages"] for k in range(3)]
    assert manifests[2]["training"]["opponent"] == model_hash(run / "round_1" / "pipeline")
    base, last = load_denoiser(tiny), load_denoiser(run / "round_2" / "pipeline")
    changed = [n for (n, a), b in zip(base.named_parameters(), last.parameters(), strict=True) if not torch.equal(a, b)]
    assert changed
    assert all(n.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")) for n in changed)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny, safety_checker=None, requires_safety_checker=False)
    pipeline.load_lora_weights(run / "round_2" / "lora", weight_name=FILE)
    assert torch.allclose(pipeline.unet(*inputs()).sample, last(*inputs()).sample, atol=1e-5)
    ranks = {tensor.shape[0] for name, tensor in load_file(run / "round_2" / "lora" / FILE).items() if "lora_A" in name}
    assert ranks == {2}  # the whole difference to the base, and no larger than that of round 1


@pytest.mark.parametrize("opponent", ["base", "earlier"])
def test_another_opponent_is_another_adapter(
    tiny: Path, images: Path, tmp_path: Path, opponent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = []
    original = rounds.train
    watched = lambda player, opponent, *rest: (kinds.append(type(opponent.network)), original(player, opponent, *rest))[1]  # noqa: E731
    monkeypatch.setattr(rounds, "train", watched)
    infos = play(prepared_run(tiny, images, tmp_path / "run", PRESET.changed(lora_rank=2, opponent=opponent)), 2)
    assert kinds == [WithAdapter] * 2
    if opponent == "earlier":
        return
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
    check_rank(load_denoiser(tiny), sd.FAMILY.adapted, 8)
