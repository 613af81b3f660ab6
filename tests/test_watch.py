"""What is seen of a training, and what it is trained with: images and errors between steps, trackers, optimisers."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.tracking import GeneralTracker
from PIL import Image
from test_rounds import PRESET, prepared_run

from selfimprove import processes
from selfimprove import train as training
from selfimprove.batches import TrainingSet
from selfimprove.config import Settings
from selfimprove.data.latents import Store
from selfimprove.errors import ArgumentError
from selfimprove.evaluation.evaluate import held_out_error
from selfimprove.evaluation.protocol import read_scores
from selfimprove.evaluation.round_figures import progress_grid, training_figure
from selfimprove.models.optimiser import make_optimiser
from selfimprove.models.pipeline import load_diffuser
from selfimprove.models.weights import model_hash
from selfimprove.processes import check_tracker
from selfimprove.report import write_summary
from selfimprove.rollout import sample_batches
from selfimprove.rounds import play
from selfimprove.stages import held_out_latents
from selfimprove.train import train


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}, {"ema": 0.9}])
def test_images_and_errors_between_steps_change_nothing(tiny: Path, images: Path, tmp_path: Path, changes: dict) -> None:
    preset = PRESET.changed(steps=4, checkpoint_every=2, **changes)
    plain = play(prepared_run(tiny, images, tmp_path / "plain", preset), 1)
    watched = prepared_run(tiny, images, tmp_path / "watched", preset.changed(sample_every=2, validate_every=2))
    infos = play(watched, 1)
    seen = tmp_path / "watched" / "round_1"
    assert model_hash(seen / "pipeline") == model_hash(tmp_path / "plain" / "round_1" / "pipeline")
    assert infos[1].log is not None
    assert plain[1].log is not None
    pd.testing.assert_frame_equal(infos[1].log.drop(columns="held_out_error"), plain[1].log)
    assert infos[1].log["held_out_error"].notna().tolist() == [False, True, False, True]
    # after the last step: what the player's evaluation measures and draws, from the same noise
    assert infos[1].log["held_out_error"].iloc[-1] == pytest.approx(infos[1].metrics["scores"]["held_out_error"]["mean"], rel=1e-4)
    assert sorted(p.name for p in (seen / "samples").iterdir()) == ["000002", "000004"]
    for place in range(4):
        last, own = (np.asarray(Image.open(f / "images" / f"{place:03d}.png")) for f in (seen / "samples" / "000004", seen))
        assert np.abs(last.astype(int) - own).max() <= 1
    figure = progress_grid(watched.folder.round(0), seen)
    assert figure is not None
    assert [axis.get_ylabel() for axis in figure.axes[::4]] == ["before", "step 2", "step 4", "after"]
    assert progress_grid(tmp_path / "plain" / "round_0", tmp_path / "plain" / "round_1") is None
    assert len(training_figure(infos[1].log).axes) == 6
    assert write_summary(watched, infos)["images during training"] == seen / "samples"


def test_a_killed_training_keeps_its_figures(tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = PRESET.changed(steps=4, checkpoint_every=1, validate_every=2, objective="sft")
    whole = play(prepared_run(tiny, images, tmp_path / "whole", preset), 1)
    real = training.make_batch

    def killed(*arguments: object) -> object:
        if arguments[-1] == 3:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(training, "make_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            play(prepared_run(tiny, images, tmp_path / "killed", preset), 1)
    resumed = play(prepared_run(tiny, images, tmp_path / "killed", preset), 1)
    pd.testing.assert_frame_equal(resumed[1].log, whole[1].log)


def test_errors_between_steps_need_images(tiny: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="validate_every=2 needs images that are kept out of training"):
        prepared_run(tiny, images, tmp_path / "run", PRESET.changed(validation=0, validate_every=2))


class Noted(GeneralTracker):
    """A tracker that keeps what it is given, in place of one whose package is not installed."""

    name = "wandb"
    requires_logging_directory = False
    noted: SimpleNamespace

    def __init__(self, run_name: str, **options: object) -> None:
        super().__init__()
        Noted.noted = SimpleNamespace(run=run_name, config={}, rows=[], finished=False)

    @property
    def tracker(self) -> SimpleNamespace:
        return Noted.noted

    def start(self) -> None: ...
    def store_init_configuration(self, values: dict) -> None:
        Noted.noted.config = values

    def log(self, values: dict, step: int | None = None, **options: object) -> None:
        Noted.noted.rows.append((step, values))

    def finish(self) -> None:
        Noted.noted.finished = True


def test_any_tracker_of_accelerate(tiny: Path, training_data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import accelerator, tracking

    for module in (accelerator, tracking):
        monkeypatch.setitem(module.LOGGER_TYPE_TO_CLASS, "wandb", Noted)
    found = [*tracking.get_available_trackers(), tracking.LoggerType.WANDB]
    for where in (accelerator, tracking, processes):
        monkeypatch.setattr(where, "get_available_trackers", lambda: found, raising=False)
    check_tracker("wandb")
    diffuser = load_diffuser(tiny, torch.device("cpu"))
    settings = Settings(samples=10, steps=2, batch=4, tracker="wandb", objective="sft", lr=1e-3)
    log = train(diffuser.load_denoiser(tiny), None, replace(training_data, generated=None), diffuser.schedule, settings, 0, 1, tmp_path)
    assert (Noted.noted.run, Noted.noted.config["lr"], Noted.noted.finished) == ("selfimprove", 1e-3, True)
    assert [(step, row["loss"]) for step, row in Noted.noted.rows] == list(enumerate(log["loss"]))
    silent = replace(settings, tracker="none")
    train(diffuser.load_denoiser(tiny), None, replace(training_data, generated=None), diffuser.schedule, silent, 0, 1, tmp_path / "silent")
    assert not (tmp_path / "silent" / "tensorboard").exists()
    named = replace(settings, tracker="tensorboard")
    train(diffuser.load_denoiser(tiny), None, replace(training_data, generated=None), diffuser.schedule, named, 0, 1, tmp_path / "named")
    assert list((tmp_path / "named" / "tensorboard").iterdir())


def test_trackers_are_refused_by_name_before_any_work(tiny: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match="tracker='comet_ml' needs its package, which is not installed; pip install comet-ml, or give none"
    ):
        prepared_run(tiny, images, tmp_path / "run", PRESET.changed(tracker="comet_ml"))
    with pytest.raises(ArgumentError, match="tracker='wandbb' is not known; choose one of .*wandb.*trackio, or none"):
        prepared_run(tiny, images, tmp_path / "run", PRESET.changed(tracker="wandbb"))
    assert not (tmp_path / "run").exists()


@pytest.fixture
def bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> type[torch.optim.Optimizer]:
    """A stand-in for the package, with AdamW's arithmetic in 32 bits."""

    class AdamW8bit(torch.optim.AdamW):
        def __init__(self, params: list, lr: float, weight_decay: float) -> None:
            super().__init__(params, lr, weight_decay=weight_decay)

    package, optim = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.optim")
    package.optim, optim.AdamW8bit = optim, AdamW8bit  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", optim)
    return AdamW8bit


def test_moments_in_8_bits(tiny: Path, images: Path, tmp_path: Path, bitsandbytes: type) -> None:
    """The same training by the stand-in's arithmetic, in a run of its own: another optimiser is another player."""
    infos = [play(prepared_run(tiny, images, tmp_path / name, PRESET.changed(optimiser=name)), 1) for name in ("adamw", "adamw8bit")]
    pd.testing.assert_frame_equal(infos[0][1].log, infos[1][1].log)
    parameters = [torch.nn.Parameter(torch.zeros(3))]
    made = make_optimiser(parameters, Settings(optimiser="adamw8bit", lr=0.5, weight_decay=0.25), torch.device("cpu"))
    assert isinstance(made, bitsandbytes)
    assert (made.param_groups[0]["lr"], made.param_groups[0]["weight_decay"]) == (0.5, 0.25)


def test_optimisers_are_refused_before_any_work(
    tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bitsandbytes: type
) -> None:
    def broken(self: object, closure: object = None) -> None:
        raise NotImplementedError("no kernel for cpu")

    monkeypatch.setattr(bitsandbytes, "step", broken)
    with pytest.raises(ArgumentError, match=r"optimiser='adamw8bit' needs .*, which does not work on cpu \(no kernel for cpu\)"):
        prepared_run(tiny, images, tmp_path / "run", PRESET.changed(optimiser="adamw8bit"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ArgumentError, match="needs the package bitsandbytes, which is not installed; pip install bitsandbytes"):
        prepared_run(tiny, images, tmp_path / "run", PRESET.changed(optimiser="adamw8bit"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("device", "fused"), [("cpu", None), ("cuda", True)])
def test_adamw_is_fused_on_cuda(device: str, fused: bool | None) -> None:
    made = make_optimiser([torch.nn.Parameter(torch.zeros(3))], Settings(lr=0.5, weight_decay=0.25), torch.device(device))
    assert [made.param_groups[0][name] for name in ("fused", "lr", "weight_decay")] == [fused, 0.5, 0.25]


def test_a_negative_prompt_draws_and_judges(tiny: Path, images: Path, tmp_path: Path) -> None:
    """It takes the empty caption's place in guidance, in rollouts and evaluation; another one is another run and another protocol."""
    run = prepared_run(tiny, images, tmp_path / "plain")
    play(run, 1)
    plain, run = run.folder.round(1), prepared_run(tiny, images, tmp_path / "run", PRESET.changed(negative_prompt="blurry noise"))
    play(run, 1)
    folder = run.folder.round(1)
    for store, tensor in (("rollout", "mean"), ("evaluation", "latent")):
        a, b = (Store(f / store).take(tensor, range(4)) for f in (plain, folder))
        assert not torch.allclose(a, b, atol=1e-4)
    assert read_scores(folder / "scores.parquet").protocol.differences(read_scores(plain / "scores.parquet").protocol) == [
        "negative prompt: blurry noise and "
    ]
    drawn = {}
    for negative in ("", "blurry noise"):
        for guidance in (1.0, 2.0):
            drawn[negative, guidance] = sample_batches(
                run.diffuser, run.diffuser.denoiser, ["a star"], ["0"], 1, "", negative=negative, seed=0, stream="rollout", round_index=1,
                steps=2, guidance=guidance,
            )  # fmt: skip
    assert torch.equal(drawn["", 1.0], drawn["blurry noise", 1.0])
    assert not torch.allclose(drawn["", 2.0], drawn["blurry noise", 2.0], atol=1e-4)
    assert run.truncated == []
    with pytest.raises(ValueError, match="negative_prompt='blurry' does nothing without guidance"):
        Settings(negative_prompt="blurry", guidance=1.0, evaluation_guidance=1.0)


def test_validation_is_the_same_measure(tiny: Path, images: Path, tmp_path: Path) -> None:
    run = prepared_run(tiny, images, tmp_path / "run")
    captions, ids = [run.data.captions[i] for i in run.data.validation], [run.data.ids[i] for i in run.data.validation]
    twice = [
        held_out_error(run.diffuser, run.diffuser.denoiser, held_out_latents(run), captions, ids, run.preset.settings) for _ in range(2)
    ]
    assert torch.equal(*twice)
