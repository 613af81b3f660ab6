"""Costs counted from shapes, against published figures and against what real steps hold."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_rounds import PRESET, game

from selfimprove import models
from selfimprove.batches import TrainingSet
from selfimprove.config import PRESETS, Settings
from selfimprove.costs import Held, Shapes, count_flops, sampling_memory, stable_diffusion, training_memory
from selfimprove.lora import WithoutAdapter, add_adapter
from selfimprove.models import Diffuser, load_diffuser
from selfimprove.opponent import LiveOpponent
from selfimprove.plan import plan
from selfimprove.rounds import play
from selfimprove.train import train


def test_flops_of_stable_diffusion() -> None:
    """.8033 TFLOP a forward of a latent of 512 pixels, three times that with the backward; VAE 2.51 and 1.12."""
    flops = count_flops(stable_diffusion(), PRESETS["sd15-spin"].settings)
    assert flops.forward == pytest.approx(0.8033e12, rel=1e-3)
    assert flops.step == pytest.approx(2.4068e12, rel=1e-3)
    assert (flops.decode, flops.encode) == pytest.approx((2.5145e12, 1.1167e12), rel=1e-3)


STEPS = Settings(samples=10, steps=2, batch_size=8, lr=1e-3)


@pytest.mark.parametrize(
    "changes", [{}, {"accumulation": 2}, {"gradient_checkpointing": True}, {"lora_rank": 2}, {"ema": 0.9}, {"objective": "sft"}]
)
def test_memory_is_what_a_real_training_holds(tiny: Path, training_data: TrainingSet, tmp_path: Path, changes: dict) -> None:
    settings, diffuser = replace(STEPS, **changes), load_diffuser(tiny, torch.device("cpu"))
    live = settings.objective == "spin" and not settings.lora_rank
    shapes = Shapes.of(diffuser)
    predicted = training_memory(shapes, settings, live)
    data = training_data if settings.objective == "spin" else replace(training_data, generated=None)
    with (held := Held()):
        player = diffuser.load_unet(tiny).requires_grad_(True)
        if settings.lora_rank:
            add_adapter(player, settings.lora_rank, settings.lora_alpha, 0, 1)
        network = diffuser.load_unet(tiny) if live else WithoutAdapter(player)
        opponent = LiveOpponent(network) if settings.objective == "spin" else None
        train(player, opponent, data, diffuser.schedule, settings, 0, 1, tmp_path)
    assert predicted.peak - shapes.resident == pytest.approx(held.peak, rel=0.1)
    assert predicted.networks < predicted.peak


def test_memory_is_what_real_sampling_holds(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diffuser, settings = load_diffuser(tiny, torch.device("cpu")), replace(STEPS, rollout_batch=6, guidance=2.0)
    shapes, text = Shapes.of(diffuser), diffuser.embed([""]).expand(12, -1, -1).clone()
    weights = 4 * sum(p.numel() for p in diffuser.unet.parameters())
    monkeypatch.setattr(models, "VAE_PIXELS", 1)
    with (held := Held()), torch.inference_mode():  # where every storage is seen to go; under no_grad as much is resident
        diffuser.unet(torch.zeros(12, 4, 8, 8), 5, text)
    assert sampling_memory(shapes, settings) - shapes.resident - weights == pytest.approx(held.peak, rel=0.1)
    monkeypatch.setattr(models, "VAE_PIXELS", 200 * 16 * 16)  # now the VAE holds more
    with (held := Held()), torch.inference_mode():
        diffuser.vae.decode(torch.zeros(200, 4, 8, 8))
        diffuser.vae.encode(torch.zeros(200, 3, 16, 16))
    assert sampling_memory(shapes, settings) - shapes.resident - weights == pytest.approx(held.peak, rel=0.1)


def test_one_card_of_24_gigabytes_can_draw_what_it_trains_on() -> None:
    assert sampling_memory(stable_diffusion(), PRESETS["sd15-spin-lora"].settings) < 12e9  # which leaves as much for scorers


def test_checkpointing_saves_memory_and_an_opponent_costs_its_weights(tiny: Path) -> None:
    diffuser = load_diffuser(tiny, torch.device("cpu"))
    plain, saved, alone = (training_memory(Shapes.of(diffuser), replace(STEPS, gradient_checkpointing=c), o)
                           for c, o in ((False, True), (True, True), (False, False)))  # fmt: skip
    assert saved.peak < 0.8 * plain.peak
    weights = 4 * sum(p.numel() for p in diffuser.unet.parameters())
    assert plain.networks - alone.networks == pytest.approx(weights, rel=0.01)


def test_the_plan_says_what_a_run_takes(tiny: Path, images: Path, tmp_path: Path) -> None:
    played = game(tiny, images, tmp_path / "run")
    planned = plan(played, 2)
    assert any(
        line.startswith("operations: ") and "% of the peak of one card, " in line and "an H100 or H200" in line for line in planned.lines
    )
    assert any(line.startswith("memory in training: ") and "; disk: " in line for line in planned.lines)
    forward = count_flops(Shapes.of(played.diffuser), PRESET.settings).forward
    assert planned.flops > (5 * 3 * 2 * 2 + 2 * 12 * 2 * 2 + 2 * 3 * 8 * 4) * forward  # evaluation, rollouts, training; the VAE besides
    play(played, 2)
    sizes = {p.stat().st_ino: p.stat().st_size for p in (tmp_path / "run").rglob("*") if p.suffix == ".safetensors" and p.is_file()}
    base = sum(p.stat().st_size for part in ("vae", "text_encoder") for p in (tiny / part).glob("*.safetensors"))
    moments = 24 * sum(p.numel() for p in played.diffuser.unet.parameters())  # two checkpoints at once; they are gone by now
    assert planned.disk == pytest.approx(sum(sizes.values()) - base + moments, rel=0.15)


def test_a_kept_opponent_is_planned_out_of_memory(tiny: Path, images: Path, tmp_path: Path) -> None:
    def planned(cache: str) -> int:
        chosen = game(tiny, images, tmp_path / f"run{cache}")
        return plan(replace(chosen, opponent_cache=tmp_path if cache else None), 1).memory

    assert planned("cache") < planned("")


def test_diffuser_is_untouched(tiny: Path) -> None:
    diffuser: Diffuser = load_diffuser(tiny, torch.device("cpu"))
    before = [p.clone() for p in diffuser.unet.parameters()]
    count_flops(Shapes.of(diffuser), replace(STEPS, lora_rank=2))
    assert all(torch.equal(a, b) for a, b in zip(before, diffuser.unet.parameters(), strict=True))
