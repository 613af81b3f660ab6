"""The opponent's errors, computed once for many runs."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_rounds import PRESET

from selfimprove import opponent as module
from selfimprove import rounds
from selfimprove import stages as samples
from selfimprove.batches import TrainingSet, batch_rows, make_batch
from selfimprove.config import Settings, Shared
from selfimprove.data.latents import SHARD, Store
from selfimprove.models import pipeline
from selfimprove.models.pipeline import Diffuser, load_diffuser
from selfimprove.opponent import CacheError, LiveOpponent, PrecomputedOpponent, precompute
from selfimprove.presets import Preset
from selfimprove.rounds import play
from selfimprove.run import set_up

SETTINGS = Settings(batch=6, micro_batch=3, steps=50, rollout_batch=4, caption_dropout=0.3, flip=True)


@pytest.fixture(scope="module")
def diffuser(tiny: Path) -> Diffuser:
    return load_diffuser(tiny, torch.device("cpu"))


@pytest.fixture
def compute(diffuser: Diffuser, training_data: TrainingSet, tmp_path: Path) -> Callable[..., PrecomputedOpponent]:
    def made(
        settings: Settings = SETTINGS, model: str = "a model", data: TrainingSet = training_data, seed: int = 0
    ) -> PrecomputedOpponent:
        return precompute(tmp_path / "cache", diffuser.denoiser, model, data, diffuser.schedule, settings, seed, 1)

    return made


@pytest.mark.parametrize("shared", ["t+noise", "t", "nothing"])  # with the last two the generated side has a noise of its own
def test_errors_are_those_of_the_live_opponent(diffuser: Diffuser, training_data: TrainingSet, compute: Callable, shared: Shared) -> None:
    settings = replace(SETTINGS, shared=shared)
    stored = compute(settings)
    for first in (0, 3, 6, 294):  # the first and the second micro-batch of a step, another epoch, the last step
        rows, places = batch_rows(training_data.ids, 0, 1, first, 3), range(first, first + 3)
        batch = make_batch(training_data, rows, settings, diffuser.schedule, 0, 1, first // 6)
        live = LiveOpponent(diffuser.denoiser)(batch, places)
        assert torch.allclose(stored(batch, places), live, rtol=1e-5, atol=1e-6)
        assert live.std() > 1e-3


def test_longer_runs_add_and_others_share(compute: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    compute()
    made = []
    monkeypatch.setattr(module, "make_batch", lambda *a: made.append(a) or make_batch(*a))
    compute(replace(SETTINGS, beta=1.0, lr=1.0, steps=20, link="hinge"))
    assert not made
    compute(replace(SETTINGS, steps=3 * SHARD // 6))
    assert len({a[-1] for a in made}) == pytest.approx(SHARD / 6, abs=1)


def test_a_killed_computation_goes_on(compute: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*arguments: object) -> object:
        if arguments[-1] == 45:  # in the second shard
            raise KeyboardInterrupt
        return make_batch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "make_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        compute()
    steps = []
    monkeypatch.setattr(module, "make_batch", lambda *a: steps.append(a[-1]) or make_batch(*a))
    compute()
    assert min(steps) == SHARD // 6


def test_another_model_is_refused(compute: Callable, training_data: TrainingSet) -> None:
    compute()
    for change, message in (
        ({"model": "another"}, "opponent: 'a model' there, 'another' here"),
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"data": replace(training_data, generated=training_data.real)}, "data: '[0-9a-f]{12}' there"),
        ({"settings": replace(SETTINGS, batch=12)}, "examples a step: 6 there, 12 here"),
        ({"settings": replace(SETTINGS, shared="t")}, "shared: 't.noise' there, 't' here"),
    ):
        with pytest.raises(CacheError, match=f"opponent_cache=.* was computed otherwise .{message}.*; give another folder, or none"):
            compute(**change)


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}, {"precision": "bf16"}])
def test_rounds_are_the_same_and_the_opponent_is_not_in_memory(
    tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict
) -> None:
    preset = Preset("", "", replace(PRESET.settings, **changes))

    def log(name: str, cache: Path | str, **more: float) -> pd.DataFrame:
        played = play(set_up(preset.changed(**more), "test", str(tiny), str(images), tmp_path / name, 0, "cpu", opponent_cache=cache), 1)
        assert played[1].log is not None
        return played[1].log

    live = log("live", "")
    alive, train = [], rounds.train
    networks: list[weakref.ref] = []
    load = rounds.load_denoiser
    for place in (rounds, pipeline):  # players, and what is frozen
        monkeypatch.setattr(place, "load_denoiser", lambda *a: (unet := load(*a), networks.append(weakref.ref(unet)))[0])
    monkeypatch.setattr(rounds, "train", lambda *a: (alive.append(sum(n() is not None for n in networks)), train(*a))[1])
    cached = log("cached", tmp_path / "cache")
    assert alive == [1]  # the player
    tolerance = 2e-2 if preset.settings.precision == "bf16" else 1e-5
    np.testing.assert_allclose(live, cached, rtol=tolerance, atol=tolerance)
    assert not log("sweep", tmp_path / "cache", beta=20.0)["margin"].equals(cached["margin"])
    model = str(tmp_path / "cached" / "round_1" / "pipeline")
    with pytest.raises(
        CacheError, match=r"opponent_cache='.*cache' was computed otherwise .model: '[0-9a-f]{64}' there, '[0-9a-f]{64}' here"
    ):
        set_up(preset, "test", model, str(images), tmp_path / "other", 0, "cpu", opponent_cache=tmp_path / "cache")


def test_a_sweep_of_several_rounds_shares_what_it_can(tiny: Path, images: Path, tmp_path: Path) -> None:
    for beta in (2000.0, 20.0):
        preset = PRESET.changed(beta=beta)
        play(set_up(preset, "test", str(tiny), str(images), tmp_path / f"{beta}", 0, "cpu", opponent_cache=tmp_path / "cache"), 2)
    found = sorted(p.name.split("-")[0] for p in (tmp_path / "cache").iterdir() if p.is_dir())
    assert found == ["round_1", "round_2", "round_2"]  # after round 1 the opponents differ


def test_a_sweep_draws_the_opponents_images_once(tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    draw = samples.sample_batches
    monkeypatch.setattr(samples, "sample_batches", lambda *a, **k: calls.append(k["stream"]) or draw(*a, **k))
    logs = []
    for name, beta, cache in (("alone", 20.0, ""), ("first", 2000.0, tmp_path / "cache"), ("second", 20.0, tmp_path / "cache")):
        run = set_up(PRESET.changed(beta=beta), "test", str(tiny), str(images), tmp_path / name, 0, "cpu", opponent_cache=cache)
        logs.append(play(run, 1)[1].log)
    assert len(calls) == 2
    assert logs[0] is not None
    pd.testing.assert_frame_equal(logs[0], logs[2], rtol=1e-4, atol=1e-6)
    shared, own = (Store(tmp_path / n / "round_1" / "rollout") for n in ("first", "second"))
    assert shared.digest() == own.digest()
    other = set_up(
        PRESET.changed(guidance=3.0), "test", str(tiny), str(images), tmp_path / "other", 0, "cpu", opponent_cache=tmp_path / "cache"
    )
    with pytest.raises(CacheError, match=r"opponent_cache=.* was computed otherwise .guidance: 2.0 there, 3.0 here."):
        play(other, 1)
    assert len(calls) == 2, "refused before anything is drawn"
