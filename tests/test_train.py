from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import nn

from selfimprove import train as training
from selfimprove.batches import TrainingSet, batch_rows, make_batch
from selfimprove.config import Settings
from selfimprove.data.latents import build_store
from selfimprove.models.lora import Adapters
from selfimprove.models.pipeline import Diffuser, load_diffuser
from selfimprove.opponent import LiveOpponent
from selfimprove.run_folder import RunError
from selfimprove.train import load_checkpoint, objective, train

SETTINGS = Settings(samples=10, beta=20.0, steps=4, batch=4, lr=1e-3, warmup=1, checkpoint_every=2, caption_dropout=0.3)
COLUMNS = ["loss", "margin", "implicit_accuracy", "reweighting", "player_real", "gradient_norm"]


@pytest.fixture(scope="module")
def diffuser(tiny: Path) -> Diffuser:
    return load_diffuser(tiny, torch.device("cpu"))


@pytest.fixture
def data(training_data: TrainingSet) -> TrainingSet:
    return training_data


def run(diffuser: Diffuser, data: TrainingSet, folder: Path, settings: Settings = SETTINGS) -> tuple[pd.DataFrame, dict]:
    player, opponent = (diffuser.load_denoiser(diffuser.folder) for _ in range(2))
    log = train(
        player, LiveOpponent(opponent) if data.generated else None, data, diffuser.schedule, settings, seed=0, round_index=1, folder=folder
    )
    return log, player.state_dict()


def same(first: dict, second: dict, **tolerance: float) -> bool:
    return all(torch.allclose(first[k], second[k], **tolerance) for k in first)


def test_a_killed_run_goes_on_with_the_same_result(
    diffuser: Diffuser, data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, weights = run(diffuser, data, tmp_path / "whole")
    real = training.make_batch

    def killed(*arguments: object) -> object:
        if arguments[-1] == 3:  # in step 3: the last checkpoint is that after step 1
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "make_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        run(diffuser, data, tmp_path / "killed")
    monkeypatch.setattr(training, "make_batch", real)
    resumed, again = run(diffuser, data, tmp_path / "killed")
    pd.testing.assert_frame_equal(whole, resumed)
    assert same(weights, again, atol=0, rtol=0)
    assert not same(weights, diffuser.denoiser.state_dict(), atol=1e-5)


@pytest.mark.parametrize("size", [2, 3])  # equal micro-batches, and a smaller last one
def test_micro_batches_change_nothing(diffuser: Diffuser, data: TrainingSet, tmp_path: Path, size: int) -> None:
    whole, weights = run(diffuser, data, tmp_path / "one")
    parts, again = run(diffuser, data, tmp_path / "parts", replace(SETTINGS, micro_batch=size))
    pd.testing.assert_frame_equal(whole[COLUMNS], parts[COLUMNS], rtol=1e-3, atol=1e-5)
    assert same(weights, again, atol=2e-4)


def test_after_running_out_of_memory_a_run_goes_on_with_smaller_micro_batches(
    diffuser: Diffuser, data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, weights = run(diffuser, data, tmp_path / "whole")
    real, sizes = training.make_batch, []

    def full(*arguments: object) -> object:
        sizes.append((arguments[-1], len(arguments[1])))  # type: ignore[arg-type]
        if arguments[-1] == 3 and len(arguments[1]) > 2:  # type: ignore[arg-type]
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "make_batch", full)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        run(diffuser, data, tmp_path / "run")
    assert caught.value.__notes__ == ["go on with a smaller micro_batch than 4, or with gradient_checkpointing=True; results do not change"]
    log, again = run(diffuser, data, tmp_path / "run", replace(SETTINGS, micro_batch=2))
    assert sizes[-4:] == [(2, 2), (2, 2), (3, 2), (3, 2)]
    pd.testing.assert_frame_equal(whole[COLUMNS], log[COLUMNS], rtol=1e-3, atol=1e-5)
    assert same(weights, again, atol=2e-4)


def test_the_first_step_starts_at_log_two_and_training_separates(diffuser: Diffuser, data: TrainingSet, tmp_path: Path) -> None:
    log, _ = run(diffuser, data, tmp_path / "run", replace(SETTINGS, steps=30))
    assert log["loss"].iloc[0] == pytest.approx(0.6931, abs=1e-3)
    assert log["loss"].tail(5).mean() < 0.6
    assert log["margin"].tail(5).mean() > 0
    assert (log["opponent_real"] > 0).all()


@pytest.mark.parametrize("changes", [{"ema": 0.5}, {"precision": "bf16"}, {"link": "hinge"}])
def test_options_change_the_result(diffuser: Diffuser, data: TrainingSet, tmp_path: Path, changes: dict) -> None:
    _, plain = run(diffuser, data, tmp_path / "plain")
    log, weights = run(diffuser, data, tmp_path / "run", replace(SETTINGS, **changes))
    assert log["gradient_norm"].gt(0).all()
    for other in (plain, diffuser.denoiser.state_dict()):
        assert not same(weights, other, atol=1e-6)
    assert same(weights, plain, atol=0.05)


def test_the_player_is_the_average_of_its_weights(diffuser: Diffuser, data: TrainingSet, tmp_path: Path) -> None:
    constant = replace(SETTINGS, decay=False)
    first, second = (run(diffuser, data, tmp_path / f"{n}", replace(constant, steps=n))[1]["conv_in.bias"] for n in (1, 2))
    averaged = run(diffuser, data, tmp_path / "average", replace(constant, steps=2, ema=0.5))[1]["conv_in.bias"]
    # the decay begins at 0, (1 + 0) / (10 + 0) then: the average begins as the first step's weights
    shares = (averaged - first) / (second - first)
    assert torch.allclose(shares, shares.mean().expand_as(shares), atol=1e-2)
    assert 0.5 <= float(shares.mean()) <= 0.95


def test_another_batch_is_refused(diffuser: Diffuser, data: TrainingSet, tmp_path: Path) -> None:
    run(diffuser, data, tmp_path / "run")
    with pytest.raises(RunError, match="was written with batch=4, and batch=2 is asked for; give the same batch as before, or delete"):
        run(diffuser, data, tmp_path / "run", replace(SETTINGS, batch=2))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "another network"])
def test_a_damaged_checkpoint_is_set_aside(diffuser: Diffuser, data: TrainingSet, tmp_path: Path, damage: str) -> None:
    whole, weights = run(diffuser, data, tmp_path / "run")
    path = tmp_path / "run" / "training.pt"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b""}.get(damage, content))
    if damage == "another network":
        state = torch.load(path, weights_only=True)
        torch.save(state | {"player": {}}, path)
    with pytest.warns(UserWarning, match=r"training\.pt cannot be used \(.*\); it is now training\.damaged\.pt, and the round's training"):
        log, again = run(diffuser, data, tmp_path / "run")
    pd.testing.assert_frame_equal(whole, log)
    assert same(weights, again, atol=0, rtol=0)
    assert path.exists()
    assert (tmp_path / "run" / "training.damaged.pt").exists()


def test_checkpoints_and_averages_hold_what_is_trained(diffuser: Diffuser, data: TrainingSet, tmp_path: Path) -> None:
    def adapted(folder: str, settings: Settings) -> tuple[pd.DataFrame, dict]:
        player = diffuser.load_denoiser(diffuser.folder).requires_grad_(True)
        adapters = Adapters(player, diffuser.family, 2, 8)
        adapters.add_player(None, 0, 1)
        frozen = {name: p.clone() for name, p in player.named_parameters() if not p.requires_grad}
        opponent = LiveOpponent(adapters.opponent(None))
        log = train(player, opponent, data, diffuser.schedule, settings, seed=0, round_index=1, folder=tmp_path / folder)
        assert same(frozen, player.state_dict(), atol=0, rtol=0)
        return log, player.state_dict()

    settings = replace(SETTINGS, ema=0.5, decay=False)
    whole, weights = adapted("whole", settings)
    adapted("killed", replace(settings, steps=2))
    state = torch.load(tmp_path / "killed" / "training.pt", weights_only=True)
    assert state["player"]
    assert all("lora" in name for name in state["player"])
    assert [p.shape for p in state["average"]["shadow_params"]] == [p.shape for p in state["player"].values()]
    log, again = adapted("killed", settings)
    pd.testing.assert_frame_equal(whole, log)
    assert same(weights, again, atol=0, rtol=0)


def test_what_a_checkpoint_holds_comes_to_the_device_of_the_player(diffuser: Diffuser, data: TrainingSet, tmp_path: Path) -> None:
    run(diffuser, data, tmp_path / "run", replace(SETTINGS, ema=0.5))
    trained = {name: nn.Parameter(torch.empty(p.shape, device="meta")) for name, p in diffuser.denoiser.named_parameters()}
    optimiser = torch.optim.AdamW(trained.values())
    average = EMAModel(trained.values(), decay=0.5)
    step, _ = load_checkpoint(tmp_path / "run" / "training.pt", 4, trained, {"optimiser": optimiser, "average": average})
    assert step == 4
    average.step(trained.values())  # would mix devices
    assert {p.device.type for p in average.shadow_params} == {"meta"}
    assert {state["exp_avg"].device.type for state in optimiser.state.values()} == {"meta"}


def test_a_checkpoint_of_another_training_is_refused(diffuser: Diffuser, data: TrainingSet, tmp_path: Path) -> None:
    run(diffuser, data, tmp_path / "run")
    trained = dict(diffuser.denoiser.named_parameters())
    with pytest.raises(RunError, match=r"training\.pt was written by another training .*; delete the file"):
        load_checkpoint(tmp_path / "run" / "training.pt", 4, trained, {"optimiser": torch.optim.AdamW(trained.values())}, "of another seed")


@pytest.mark.parametrize("changes", [{"ema": 0.5}, {"precision": "bf16"}])
def test_options_survive_a_kill(diffuser: Diffuser, data: TrainingSet, tmp_path: Path, changes: dict) -> None:
    settings = replace(SETTINGS, **changes, decay=False)
    _, whole = run(diffuser, data, tmp_path / "whole", settings)
    run(diffuser, data, tmp_path / "killed", replace(settings, steps=2))  # its last checkpoint is after step 2
    _, resumed = run(diffuser, data, tmp_path / "killed", settings)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_checkpointing_gives_the_same_weights(diffuser: Diffuser, data: TrainingSet, tmp_path: Path) -> None:
    _, plain = run(diffuser, data, tmp_path / "plain")
    _, saved = run(diffuser, data, tmp_path / "saved", replace(SETTINGS, gradient_checkpointing=True))
    assert same(plain, saved, atol=1e-5)


def test_sft_needs_no_opponent(diffuser: Diffuser, data: TrainingSet, tmp_path: Path) -> None:
    log, _ = run(diffuser, replace(data, generated=None), tmp_path / "sft", replace(SETTINGS, objective="sft"))
    assert "margin" not in log
    assert log["loss"].equals(log["player_real"])


def test_one_forward_of_each_network_a_step(diffuser: Diffuser, data: TrainingSet) -> None:
    calls = []

    def counted(name: str) -> object:
        def forward(*arguments: torch.Tensor) -> object:
            calls.append((name, len(arguments[0]), torch.is_inference_mode_enabled()))
            return diffuser.denoiser(*arguments)

        return forward

    batch = make_batch(data, [(0, 0), (3, 0)], SETTINGS, diffuser.schedule, 0, 1, 0)
    reference = LiveOpponent(counted("opponent"))(batch, [0, 1])  # type: ignore[arg-type]
    objective(batch, counted("player"), reference, SETTINGS)  # type: ignore[arg-type]
    assert calls == [("opponent", 4, True), ("player", 4, False)]


@pytest.mark.parametrize(("shared", "noise_same", "t_same"), [("t+noise", True, True), ("t", False, True), ("nothing", False, False)])
def test_what_the_sides_share(diffuser: Diffuser, data: TrainingSet, shared: str, noise_same: bool, t_same: bool) -> None:
    rows = [(i, 0) for i in range(8)]
    batch = make_batch(data, rows, replace(SETTINGS, shared=shared), diffuser.schedule, 0, 1, 0)
    noise, other_noise = batch.target.chunk(2)
    t, other_t = batch.t.chunk(2)
    text, other_text = batch.conditioning.tensors["text"].chunk(2)
    assert torch.equal(noise, other_noise) == noise_same
    assert torch.equal(t, other_t) == t_same
    assert torch.equal(text, other_text)


def test_dropout_and_flip_hit_both_sides_alike(diffuser: Diffuser, data: TrainingSet) -> None:
    rows = [(i, e) for i in range(10) for e in range(20)]
    settings = replace(SETTINGS, flip=True, caption_dropout=0.3)
    batch = make_batch(data, rows, settings, diffuser.schedule, 0, 1, 0)
    empty = data.text.take("text", [0])[0]
    dropped = (batch.conditioning.tensors["text"] == empty).flatten(1).all(1)
    assert torch.equal(*dropped.chunk(2))
    assert 0.2 < dropped.float().mean() < 0.4
    alpha = diffuser.schedule.alphas_cumprod[batch.t].view(-1, 1, 1, 1)
    generated = ((batch.noisy - (1 - alpha).sqrt() * batch.target) / alpha.sqrt()).chunk(2)[1]  # std 0: exactly the mean
    means = data.generated.take("mean", [i for i, _ in rows])  # type: ignore[union-attr]
    flipped = (generated - means.flip(3)).abs().amax((1, 2, 3)) < 1e-2
    plain = (generated - means).abs().amax((1, 2, 3)) < 1e-2
    assert (flipped ^ plain).all()
    assert 0.35 < flipped.float().mean() < 0.65


def test_every_epoch_is_a_permutation_whatever_the_batch() -> None:
    ids = tuple(str(i) for i in range(7))
    rows = batch_rows(ids, 0, 1, 0, 21)
    assert [sorted(i for i, e in rows if e == epoch) for epoch in range(3)] == [list(range(7))] * 3
    assert rows[5:9] == batch_rows(ids, 0, 1, 5, 4)
    assert batch_rows(ids, 0, 2, 0, 7) != rows[:7]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_place(diffuser: Diffuser, data: TrainingSet, tmp_path: Path) -> None:
    def broken(rows: range) -> dict[str, torch.Tensor]:
        mean = torch.zeros(10, 4, 8, 8)
        mean[7, 0, 0, 0] = float("inf")
        return {"mean": mean, "std": torch.ones_like(mean)}

    data = replace(data, real=build_store(tmp_path / "broken", 10, broken, "broken"))
    step = next(s for s in range(4) if 7 in [row for row, _ in batch_rows(data.ids, 0, 1, 4 * s, 4)])
    message = rf"the loss is not finite at step {step}, t=\d+, example example 7; lower lr or beta, or check that example"
    with pytest.raises(FloatingPointError, match=message):
        run(diffuser, data, tmp_path / "run")


def test_stores_continue_at_the_first_missing_shard(tmp_path: Path) -> None:
    made = []

    def make(rows: range) -> dict[str, torch.Tensor]:
        if rows.start == 256 and not made[1:]:
            made.append(rows)
            raise KeyboardInterrupt
        made.append(rows)
        return {"x": torch.arange(rows.start, rows.stop)[:, None].float()}

    with pytest.raises(KeyboardInterrupt):
        build_store(tmp_path / "store", 300, make, "test")
    store = build_store(tmp_path / "store", 300, make, "test")
    assert [r.start for r in made] == [0, 256, 256]
    assert store.rows == 300
    assert store.take("x", [299, 0, 256]).flatten().tolist() == [299, 0, 256]


@pytest.mark.parametrize("objective_name", ["sft", "weighted"])
def test_min_snr_weighs_the_time_steps_of_a_loss(diffuser: Diffuser, data: TrainingSet, objective_name: str) -> None:
    """The loss alone is weighed: what is logged beside it stays the plain error."""
    settings = replace(SETTINGS, objective=objective_name)
    alone = replace(data, generated=None)
    batch = make_batch(alone, [(i, 0) for i in range(4)], settings, diffuser.schedule, 0, 1, 0)
    plain, weighed = (objective(batch, diffuser.denoiser, None, replace(settings, min_snr=gamma)) for gamma in (0.0, 0.5))
    snr = batch.alpha / (1 - batch.alpha)
    assert torch.allclose(weighed.loss, (0.5 / snr).clamp(max=1) * plain.loss)
    assert bool((weighed.loss != plain.loss).any())
    assert torch.equal(weighed.player_real, plain.player_real)
    with pytest.raises(ValueError, match="min_snr=5.0 is for objective='sft', or 'weighted' with time_weight='snr'"):
        replace(SETTINGS, min_snr=5.0)
    with pytest.raises(ValueError, match="min_snr=5.0 is for objective='sft'"):
        replace(SETTINGS, objective="weighted", time_weight="one", min_snr=5.0)
