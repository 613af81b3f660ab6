"""What only a CUDA device shows; `bash benchmarks/gpu.sh` runs these on one. GPU_TESTS_ON=cpu tries those that a CPU can run."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from selfimprove import train as training
from selfimprove.batches import TrainingSet, batch_rows, make_batch
from selfimprove.config import Precision, Settings
from selfimprove.evaluation.protocol import ProtocolError, check_comparable, read_scores
from selfimprove.models.pipeline import Diffuser, load_diffuser
from selfimprove.opponent import LiveOpponent, precompute
from selfimprove.presets import Preset
from selfimprove.rounds import play
from selfimprove.run import set_up
from selfimprove.train import train

DEVICE = os.environ.get("GPU_TESTS_ON", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:.*deterministic"),
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(),
        reason="no CUDA device here; bash benchmarks/gpu.sh runs this on one",
    ),
]
SETTINGS = Settings(samples=10, beta=20.0, steps=4, batch=4, lr=1e-3, warmup=1, decay=False, checkpoint_every=2)
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def diffuser(tiny: Path) -> Diffuser:
    return load_diffuser(tiny, torch.device(DEVICE))


@pytest.fixture(autouse=True)
def _repeatable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same sums in the same order, as far as the device can."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    with sdpa_kernel(SDPBackend.MATH):
        yield
    torch.use_deterministic_algorithms(before)


def trained(diffuser: Diffuser, data: TrainingSet, folder: Path, settings: Settings) -> Weights:
    player, opponent = diffuser.load_denoiser(diffuser.folder).requires_grad_(True), LiveOpponent(diffuser.load_denoiser(diffuser.folder))
    train(player, opponent, data, diffuser.schedule, settings, 0, 1, folder)
    return player.state_dict()


def apart(first: Weights, second: Weights) -> float:
    """The distance of two players' weights."""
    return float(sum((first[k].double() - second[k].double()).square().sum() for k in first) ** 0.5)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_killed_run_with_averaged_weights_goes_on(
    diffuser: Diffuser, training_data: TrainingSet, tmp_path: Path, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    if precision == "fp16" and DEVICE == "cpu":
        pytest.skip("fp16 needs a GPU")
    settings = replace(SETTINGS, ema=0.5, precision=precision)
    whole = trained(diffuser, training_data, tmp_path / "whole", settings)

    def killed(*arguments: object) -> object:
        if arguments[-1] == 3:  # in step 3: the last checkpoint is that after step 1
            raise KeyboardInterrupt
        return make_batch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "make_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(diffuser, training_data, tmp_path / "killed", settings)
    monkeypatch.setattr(training, "make_batch", make_batch)
    resumed = trained(diffuser, training_data, tmp_path / "killed", settings)
    moved = apart(whole, diffuser.denoiser.state_dict())
    assert moved > 0
    assert apart(whole, resumed) < 1e-3 * moved


def test_the_gradient_scaler_is_in_the_checkpoint(diffuser: Diffuser, training_data: TrainingSet, tmp_path: Path) -> None:
    """At 2^16, where it begins, fp16 gradients of this loss overflow or do not: either way its state must be that of an unbroken run."""
    if DEVICE == "cpu":
        pytest.skip("fp16 needs a GPU")
    settings = replace(SETTINGS, precision="fp16")

    def scaler(folder: str) -> dict[str, float]:
        return torch.load(tmp_path / folder / "training.pt", weights_only=True)["scaler"]

    trained(diffuser, training_data, tmp_path / "whole", settings)
    trained(diffuser, training_data, tmp_path / "killed", replace(settings, steps=2))
    first = scaler("killed")
    assert first["scale"] > 0
    trained(diffuser, training_data, tmp_path / "killed", settings)
    assert scaler("killed") == scaler("whole")
    assert scaler("killed") != first  # it counts the steps since it last changed


def test_a_kept_opponent_is_the_live_one_within_rounding(diffuser: Diffuser, training_data: TrainingSet, tmp_path: Path) -> None:
    settings = replace(SETTINGS, precision="bf16", batch=16)
    network = diffuser.load_denoiser(diffuser.folder)
    kept = precompute(tmp_path / "cache", network, "a model", training_data, diffuser.schedule, settings, 0, 1)
    for first in (0, 16, 48):
        rows, places = batch_rows(training_data.ids, 0, 1, first, 16), range(first, first + 16)
        batch = make_batch(training_data, rows, settings, diffuser.schedule, 0, 1, first // 16)
        with torch.autocast(DEVICE, torch.bfloat16):
            live = LiveOpponent(network)(batch, places)
        exact = LiveOpponent(network)(batch, places)
        assert kept(batch, places).device.type == DEVICE
        assert torch.allclose(kept(batch, places), live, rtol=2e-3)  # bf16 has eight bits, and errors are means over 256 numbers
        assert not torch.equal(live, exact)
        assert torch.allclose(live, exact, rtol=2e-2)


def test_two_precisions_never_enter_one_table(tiny: Path, images: Path, tmp_path: Path) -> None:
    scored = []
    for precision in ("no", "bf16"):
        settings = Settings(
            samples=8, validation=4, rollout_steps=2, evaluation_prompts=4, evaluation_steps=2, precision=precision, rollout_batch=4
        )
        scorers = {"brightness": lambda images, prompts: images.mean((1, 2, 3))}
        run = set_up(Preset("", "", settings), "test", str(tiny), str(images), tmp_path / precision, 0, DEVICE, scorers=scorers)
        play(run, 0)
        scored.append(read_scores(tmp_path / precision / "round_0" / "scores.parquet"))
    assert check_comparable(scored[:1] * 2) == []
    with pytest.raises(ProtocolError, match="precision: float32 and bf16 autocast"):
        check_comparable(scored)
