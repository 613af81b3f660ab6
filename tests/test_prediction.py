"""Models of v beside models of eps: what they are trained towards, what the errors mean, and Stable Diffusion 2.x's schedules."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from test_rounds import PRESET, prepared_run
from torch import Tensor

from selfimprove.batches import TrainingSet, make_batch
from selfimprove.config import Settings
from selfimprove.models.paths import DiffusionSchedule
from selfimprove.models.pipeline import Diffuser, load_diffuser
from selfimprove.models.weights import ModelError
from selfimprove.opponent import LiveOpponent
from selfimprove.presets import PRESETS
from selfimprove.rollout import rollout
from selfimprove.rounds import play
from selfimprove.run import set_up
from selfimprove.train import objective

ROWS = [(i, 0) for i in range(8)]
SETTINGS = Settings(beta=20.0, batch=8)


class InV:
    """The same model, saying v in place of eps: v = (eps - sqrt(1 - alpha) x_t) / sqrt(alpha)."""

    def __init__(self, unet: Any, schedule: DiffusionSchedule) -> None:
        self.unet, self.schedule = unet, schedule

    def __call__(self, noisy: Tensor, t: Any, text: Tensor) -> Any:
        output = self.unet(noisy, t, text)
        alpha = self.schedule.alphas_cumprod[torch.as_tensor(t)].view(-1, 1, 1, 1)
        output.sample = (output.sample - (1 - alpha).sqrt() * noisy) / alpha.sqrt()
        return output


def schedule(**config: Any) -> DiffusionSchedule:
    settings = {"beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1} | config
    return DiffusionSchedule(DDIMScheduler(**settings), torch.device("cpu"))


@pytest.fixture(scope="module")
def diffuser(tiny: Path) -> Diffuser:
    return load_diffuser(tiny, torch.device("cpu"))


@pytest.mark.parametrize("error_in", ["epsilon", "v"])
def test_a_model_has_the_same_loss_in_either_form(diffuser: Diffuser, training_data: TrainingSet, error_in: str) -> None:
    settings, in_v = replace(SETTINGS, error_in=error_in), schedule(prediction_type="v_prediction")
    terms = []
    for chosen, network in ((diffuser.schedule, diffuser.denoiser), (in_v, InV(diffuser.denoiser, in_v))):
        batch = make_batch(training_data, ROWS, settings, chosen, 0, 1, 0)
        frozen = LiveOpponent(lambda x, t, c, network=network: network(x, t, 3 * c))
        terms.append(objective(batch, network, frozen(batch, range(8)), settings))
    for name in terms[0]._fields:
        assert torch.allclose(getattr(terms[0], name).float(), getattr(terms[1], name).float(), rtol=2e-3, atol=1e-4), name
    assert terms[0].margin.abs().max() > 0.01  # something is compared


def test_errors_in_v_weigh_by_one_over_alpha(diffuser: Diffuser, training_data: TrainingSet) -> None:
    plain, other = (make_batch(training_data, ROWS, replace(SETTINGS, error_in=e), diffuser.schedule, 0, 1, 0) for e in ("epsilon", "v"))
    assert torch.allclose(other.errors(diffuser.denoiser), plain.errors(diffuser.denoiser) / plain.alpha)


def test_both_forms_sample_the_same_images(diffuser: Diffuser) -> None:
    text, empty = diffuser.embed(["a star", "a moon"]), diffuser.embed([""])
    in_v = schedule(prediction_type="v_prediction")
    for sampler in ("ddim", "unipc"):
        settings = {"ids": ["a", "b"], "seed": 0, "stream": "test", "round_index": 1, "steps": 6, "guidance": 3.0, "sampler": sampler}
        first = rollout(diffuser, diffuser.denoiser, text, empty, **settings)
        second = rollout(replace(diffuser, schedule=in_v), InV(diffuser.denoiser, in_v), text, empty, **settings)
        assert torch.allclose(first, second, atol=2e-3), sampler


@pytest.mark.parametrize("beta_schedule", ["scaled_linear", "linear"])
def test_zero_terminal_snr(beta_schedule: str, diffuser: Diffuser, training_data: TrainingSet) -> None:
    zero = schedule(beta_schedule=beta_schedule, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    assert zero.alpha(999) == 0
    clean, noise, last = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.full((3,), 999)
    assert torch.equal(zero.add_noise(clean, noise, last), noise)  # nothing of the image is left
    assert torch.equal(zero.target(clean, noise, last), -clean)  # so the image is what there is to predict
    assert zero.error_scale(last, "epsilon").tolist() == [0, 0, 0]  # eps is known there
    assert zero.error_scale(last, "v").tolist() == [1, 1, 1]
    clean, noise, last = clean[:2].repeat(8, 1, 1, 1), noise[:2].repeat(8, 1, 1, 1), torch.full((16,), 999)
    for error_in in ("epsilon", "v"):
        batch = make_batch(training_data, ROWS, SETTINGS, zero, 0, 1, 0)
        alpha, variance = zero.powers(last)
        batch = replace(batch, t=last, alpha=alpha, variance=variance, noisy=zero.add_noise(clean, noise, last),
                        target=zero.target(clean, noise, last), scale=zero.error_scale(last, error_in))  # fmt: skip
        terms = objective(batch, diffuser.denoiser, torch.ones(16) * (error_in == "v"), SETTINGS)
        assert torch.isfinite(terms.loss).all()
        assert (terms.player_real > 0).all() == (error_in == "v")  # in eps nothing is left to learn there


@pytest.fixture
def v_model(tiny: Path, tmp_path: Path) -> Path:
    """A folder like those of Stable Diffusion 2.1 with zero terminal SNR."""
    folder = tmp_path / "v"
    shutil.copytree(tiny, folder)
    file = folder / "scheduler" / "scheduler_config.json"
    changes = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


def test_rounds_of_a_v_model(v_model: Path, images: Path, tmp_path: Path) -> None:
    infos = play(prepared_run(v_model, images, tmp_path / "run"), 1)
    assert infos[1].log is not None
    assert infos[1].log["loss"].iloc[0] == pytest.approx(0.6931, abs=1e-3)


def test_epsilon_forced_on_a_v_model(v_model: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match="prediction_type='epsilon', but model=.* predicts 'v_prediction', .* leave prediction_type at 'any'"
    ):
        prepared_run(v_model, images, tmp_path / "run", PRESET.changed(prediction_type="epsilon"))


def test_weight_in_x0_where_it_is_infinite(v_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="time_weight='one' is infinite where alpha_T is 0"):
        set_up(PRESETS["smoke-rsi"].changed(time_weight="one"), "test", str(v_model), run=tmp_path / "run", device="cpu")


def test_forms_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="error_in='v' does not apply to objective='weighted'; choose its time_weight"):
        Settings(objective="weighted", error_in="v")
