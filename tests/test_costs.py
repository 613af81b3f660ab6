"""Costs counted from shapes, against published figures and against what real steps hold."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.autoencoders.vae import Decoder, Encoder
from test_rounds import PRESET, prepared_run
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_iter
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from selfimprove import rounds
from selfimprove.batches import TrainingSet
from selfimprove.config import Settings
from selfimprove.models import pipeline as models
from selfimprove.models.lora import Adapters, WithAdapter
from selfimprove.models.pipeline import Diffuser, load_diffuser
from selfimprove.opponent import LiveOpponent
from selfimprove.planning import timing
from selfimprove.planning.costs import (
    Held,
    Shapes,
    count_flops,
    evaluation_memory,
    sampling_memory,
    training_memory,
)
from selfimprove.planning.plan import TRIAL, absent, disk_space, plan, remaining, second_network
from selfimprove.planning.timing import measure
from selfimprove.planning.work import Work, count
from selfimprove.presets import PRESETS, Preset
from selfimprove.rounds import play
from selfimprove.run import Run, set_up
from selfimprove.scorers import SHAPES_SCORERS, load_scorers, resident_memory
from selfimprove.train import train
from selfimprove_lab.results.true_sizes import CLIP_G, CLIP_L, CLIP_TEXT, T5_XXL, largest_scorer, true_size


def test_flops_of_stable_diffusion() -> None:
    """.8033 TFLOP a forward of a latent of 512 pixels, three times that with the backward; VAE 2.51 and 1.12."""
    flops = count_flops(true_size("sd15"), PRESETS["sd15-spin"].settings)
    assert flops.forward == pytest.approx(0.8033e12, rel=1e-3)
    assert flops.step == pytest.approx(2.4068e12, rel=1e-3)
    assert (flops.decode, flops.encode) == pytest.approx((2.5145e12, 1.1167e12), rel=1e-3)


def test_an_adapter_makes_no_forward_longer() -> None:
    """1.7178 TFLOP a step with rank 8; those that draw have no adapter, and the opponent's is off."""
    flops = count_flops(true_size("sd15"), Settings(lora_rank=8))
    assert flops.forward == pytest.approx(0.8033e12, rel=1e-4)
    assert flops.step == pytest.approx(1.7178e12, rel=1e-3)


def test_stable_diffusion_3() -> None:
    """Its 2,028,328,000 weights; 4,096 patches and 333 tokens, each through 12 w^2 weights a layer, and all with all in attention."""
    shapes = true_size("sd3")
    assert shapes.parameters == 2_028_328_000
    tokens, width, depth = 64 * 64 + 333, 1536, 24
    layers = depth * (2 * 12 * width**2 * tokens + 4 * tokens**2 * width)
    flops = count_flops(shapes, Settings())
    assert flops.forward == pytest.approx(layers, rel=0.01)  # patches, norms and the last layer's text, which nobody reads, besides
    assert flops.step == pytest.approx(3 * flops.forward, rel=0.01)
    assert flops.decode == pytest.approx(4 * 2.5145e12, rel=0.05)


def test_text_encoders_are_as_large_as_they_are_said_to_be() -> None:
    def weights(network: nn.Module) -> int:
        return sum(p.numel() for p in network.parameters())

    large = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768)
    giant = CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280)
    t5 = T5Config(vocab_size=32128, d_model=4096, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")
    with torch.device("meta"):
        assert weights(CLIPTextModel(large)) == CLIP_TEXT
        encoders = (CLIPTextModelWithProjection(large), CLIPTextModelWithProjection(giant), T5EncoderModel(t5))
        assert sum(map(weights, encoders)) == CLIP_L + CLIP_G + T5_XXL


STEPS = Settings(samples=10, steps=2, batch=8, lr=1e-3)


@pytest.mark.parametrize(
    "changes", [{}, {"micro_batch": 4}, {"gradient_checkpointing": True}, {"lora_rank": 2}, {"ema": 0.9}, {"objective": "sft"}]
)
def test_memory_is_what_a_real_training_holds(tiny: Path, training_data: TrainingSet, tmp_path: Path, changes: dict) -> None:
    settings, diffuser = replace(STEPS, **changes), load_diffuser(tiny, torch.device("cpu"))
    live = settings.objective == "spin" and not settings.lora_rank
    shapes = Shapes.of(diffuser)
    predicted = training_memory(shapes, settings, live)
    data = training_data if settings.objective == "spin" else replace(training_data, generated=None)
    with (held := Held()):
        player = diffuser.load_denoiser(tiny).requires_grad_(True)
        if settings.lora_rank:
            adapters = Adapters(player, diffuser.family, settings.lora_rank, settings.lora_alpha)
            adapters.add_player(None, 0, 1)
        trained = sum(p.numel() for p in player.parameters() if p.requires_grad) * 4
        network = diffuser.load_denoiser(tiny) if live else adapters.opponent(None) if settings.lora_rank else None
        opponent = LiveOpponent(network) if settings.objective == "spin" else None
        train(player, opponent, data, diffuser.schedule, settings, 0, 1, tmp_path)
    assert predicted.peak - predicted.pipeline == pytest.approx(held.peak, rel=0.1)
    assert predicted.networks < predicted.peak
    assert predicted.gradients == trained
    assert predicted.optimiser == pytest.approx(2 * trained, rel=0.01)
    whole = sum(p.numel() for p in player.parameters()) * 4
    assert (predicted.player, predicted.opponent, predicted.average) == pytest.approx(
        (whole, shapes.parameters * 4 * live, whole * bool(settings.ema)), rel=0.01
    )
    assert predicted.activations > 0


def test_memory_is_what_real_sampling_holds(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diffuser, settings = load_diffuser(tiny, torch.device("cpu")), replace(STEPS, rollout_batch=6, guidance=2.0)
    shapes, text = Shapes.of(diffuser), diffuser.embed([""]).tensors["text"].expand(12, -1, -1).clone()
    weights = 4 * sum(p.numel() for p in diffuser.denoiser.parameters())
    monkeypatch.setattr(models, "VAE_PIXELS", 1)
    with (held := Held()), torch.inference_mode():  # where every storage is seen to go; under no_grad as much is resident
        diffuser.denoiser(torch.zeros(12, 4, 8, 8), 5, text)
    assert sampling_memory(shapes, settings, 2.0).activations == pytest.approx(held.peak, rel=0.1)
    monkeypatch.setattr(models, "VAE_PIXELS", 200 * 16 * 16)  # now the VAE holds more
    with (held := Held()), torch.inference_mode():
        diffuser.vae.decode(torch.zeros(200, 4, 8, 8))
        diffuser.vae.encode(torch.zeros(200, 3, 16, 16))
    planned = sampling_memory(shapes, settings, 2.0, 200)
    assert planned.activations == pytest.approx(held.peak, rel=0.1)
    assert (planned.pipeline, planned.player) == (shapes.pipeline("no"), weights)


def test_memory_is_what_a_real_evaluation_holds(tiny: Path, images: Path, tmp_path: Path) -> None:
    preset = PRESET.changed(evaluation_prompts=16, rollout_batch=8)
    played = replace(prepared_run(tiny, images, tmp_path / "run", preset), scorers=load_scorers(SHAPES_SCORERS[:1], torch.device("cpu")))
    with (held := Held()), torch.inference_mode():
        play(played, 0)
    shapes, settings = Shapes.of(played.diffuser), preset.settings
    _, scorers = measure(played.diffuser, played.scorers, 2)
    resident = resident_memory(played.scorers.values())
    planned = evaluation_memory(shapes, settings, scorers, resident, 16)
    assert planned.peak - planned.pipeline == pytest.approx(held.peak, rel=0.1)


@pytest.mark.parametrize("name", ["sd15-spin-lora", "own-images"])
def test_one_card_of_12_gigabytes_is_enough_in_every_stage(name: str) -> None:
    """At the size of Stable Diffusion 1.5, with the largest scorer: 6.1 and 5.9 GB; and where images are drawn between steps."""
    shapes, settings = true_size("sd15"), PRESETS[name].settings
    training = training_memory(shapes, settings, live_opponent=False)
    sampling = sampling_memory(shapes, settings, settings.guidance)
    evaluation = evaluation_memory(shapes, settings, [largest_scorer()], 0)
    watching = training._replace(activations=max(training.activations, sampling.activations))
    assert max(m.peak for m in (training, watching, sampling, evaluation)) < 12e9
    assert evaluation.scorers + evaluation.activations >= sampling.activations
    whole = sum(p.numel() for p in shapes.vae.parameters())
    assert 2 * whole < training.pipeline == sampling.pipeline < 2.01 * whole  # in bfloat16, but for its norms


def test_stable_diffusion_3_fits_one_card_of_24_gigabytes() -> None:
    """17.2 GB, where images are drawn: 4.3 of weights and the text encoders in their turn, T5 in bfloat16; 6.0 in training."""
    simulated = json.loads((Path(__file__).parent.parent / "book" / "results" / "scale.json").read_text())["presets"]["sd3-spin-lora"]
    assert simulated["sampling"] == sampling_memory(true_size("sd3"), PRESETS["sd3-spin-lora"].settings, 7.0)._asdict()
    assert max(sum(simulated[stage].values()) for stage in ("memory", "sampling", "evaluation")) < 18e9
    assert simulated["sampling"]["activations"] == 4 * (CLIP_L + CLIP_G) + 2 * T5_XXL


def test_the_largest_networks_have_the_published_numbers_of_weights() -> None:
    sizes = {name: true_size(name).parameters for name in ("sdxl", "sd35", "sd35-large", "flux")}
    assert sizes["sdxl"] == 2_567_463_684
    assert [round(sizes[name] / 1e9, 2) for name in ("sd35", "sd35-large", "flux")] == [2.24, 8.06, 11.9]


def test_all_weights_fit_one_card_of_24_gigabytes() -> None:
    """17.8 GB; moments in 8 bits spare three quarters of the optimiser's part."""
    shapes, settings = true_size("sd15"), PRESETS["own-images-full"].settings
    plain = training_memory(shapes, settings, live_opponent=True)
    assert plain.peak < 22e9
    assert plain.optimiser == pytest.approx(8 * shapes.parameters, rel=0.01)


def test_moments_in_8_bits_take_a_quarter(tiny: Path) -> None:
    shapes = Shapes.of(load_diffuser(tiny, torch.device("cpu")))
    plain, small = (training_memory(shapes, replace(STEPS, optimiser=name), True) for name in ("adamw", "adamw8bit"))
    assert plain._replace(optimiser=plain.optimiser // 4) == small


@pytest.mark.parametrize("changes", [{}, {"sample_every": 1, "validate_every": 1}])
def test_a_round_of_own_images_holds_what_is_planned(
    tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict
) -> None:
    """The bytes of all live tensors through every stage of rounds 0 and 1, stores and images included, against the plan's largest stage.

    Weights count from when they are rounded, before which no GPU sees them.
    """
    whole = models.load_part

    def aside(*given: Any, **how: Any) -> Any:
        with _disable_current_modes():
            return whole(*given, **how)

    monkeypatch.setattr(models, "load_part", aside)
    preset = PRESETS["own-images"].changed(
        steps=2, batch=8, micro_batch=8, lora_rank=2, lora_alpha=2, rollout_steps=2, evaluation_steps=2, evaluation_prompts=8, **changes
    )
    run = prepared_run(tiny, images, tmp_path / "run", preset)
    planned, pipeline = plan(run, 1).memory, Shapes.of(run.diffuser).pipeline(preset.settings.precision)
    with (held := Held()):
        play(run, 1)
    assert held.peak == pytest.approx(planned - pipeline, rel=0.2)


def test_checkpointing_saves_memory_and_an_opponent_costs_its_weights(tiny: Path) -> None:
    diffuser = load_diffuser(tiny, torch.device("cpu"))
    plain, saved, alone = (training_memory(Shapes.of(diffuser), replace(STEPS, gradient_checkpointing=c), o)
                           for c, o in ((False, True), (True, True), (False, False)))  # fmt: skip
    assert saved.peak < 0.8 * plain.peak
    weights = 4 * sum(p.numel() for p in diffuser.denoiser.parameters())
    assert plain.networks - alone.networks == pytest.approx(weights, rel=0.01)


def test_the_plan_says_what_a_run_takes(tiny: Path, images: Path, tmp_path: Path) -> None:
    played = prepared_run(tiny, images, tmp_path / "run")
    planned = plan(played, 2)
    assert any(
        line.startswith("operations: ") and "% of the peak of one card, " in line and "an H100 or H200" in line for line in planned.lines
    )
    words = "\n".join(planned.lines)
    assert re.search(
        r"memory, at most in training: .*B \(pipeline .*B, player .*B, opponent .*B, gradients .*B, optimiser .*B, activations .*B\), .*\n"
        r"memory in sampling .*B, in evaluation .*B; disk: ",
        words,
    )
    assert "round 1: 12 rollouts (DDIM in 2 steps), " in words
    forward = count_flops(Shapes.of(played.diffuser), PRESET.settings).forward
    assert planned.flops > (5 * 3 * 2 * 2 + 2 * 12 * 2 * 2 + 2 * 3 * 8 * 4) * forward  # evaluation, rollouts, training; the VAE besides
    play(played, 2)
    sizes = {p.stat().st_ino: p.stat().st_size for p in (tmp_path / "run").rglob("*") if p.suffix == ".safetensors" and p.is_file()}
    base = sum(p.stat().st_size for part in ("vae", "text_encoder") for p in (tiny / part).glob("*.safetensors"))
    moments = 24 * sum(p.numel() for p in played.diffuser.denoiser.parameters())  # two checkpoints at once; they are gone by now
    assert planned.disk == pytest.approx(sum(sizes.values()) - base + moments, rel=0.15)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_passes_are_timed_as_the_run_computes(tiny: Path, images: Path, tmp_path: Path, precision: str) -> None:
    chosen = prepared_run(tiny, images, tmp_path / "run", PRESET.changed(precision=precision))
    kinds = set()
    chosen.diffuser.denoiser.conv_in.register_forward_hook(lambda module, given, made: kinds.add(made.dtype))
    plan(chosen, 1)
    assert kinds == {torch.float32 if precision == "no" else torch.bfloat16}


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}, {"ema": 0.9}, {"lora_rank": 2, "ema": 0.9}])
def test_two_checkpoints_have_room(tiny: Path, training_data: TrainingSet, tmp_path: Path, changes: dict) -> None:
    settings, diffuser = replace(STEPS, objective="sft", checkpoint_every=1, **changes), load_diffuser(tiny, torch.device("cpu"))
    player = diffuser.load_denoiser(tiny).requires_grad_(True)
    if settings.lora_rank:
        Adapters(player, diffuser.family, settings.lora_rank, settings.lora_alpha).add_player(None, 0, 1)
    train(player, None, replace(training_data, generated=None), diffuser.schedule, settings, 0, 1, tmp_path)
    alone = disk_space(Shapes.of(diffuser), Preset("", "", settings), 0, 0, 0)
    held = [t for t in tree_iter(torch.load(tmp_path / "training.pt", weights_only=True)) if isinstance(t, Tensor)]
    assert alone == pytest.approx(2 * sum(t.numel() * t.element_size() for t in held), rel=0.05)


def test_disk_holds_the_images_of_every_round(tiny: Path) -> None:
    shapes = Shapes.of(load_diffuser(tiny, torch.device("cpu")))
    short = Preset("", "", STEPS, ({"steps": 1}, {"steps": 1}))
    long = Preset("", "", STEPS, ({"steps": 1}, {"steps": 3}))
    two_steps = 2 * STEPS.batch * 3 * 4 * torch.Size(shapes.latent).numel()  # as sampled; mean and deviation, encoded again
    assert disk_space(shapes, long, 2, 100, 0) - disk_space(shapes, short, 2, 100, 0) == two_steps


def seen(monkeypatch: pytest.MonkeyPatch, played: Run, last: int) -> tuple[int, int]:
    """How many images a run decodes and encodes."""
    images = {"decode": 0, "encode": 0}
    for name in images:
        whole = getattr(Diffuser, name)

        def counted(self: Diffuser, batch: Tensor, name: str = name, whole: Any = whole) -> Any:
            images[name] += len(batch)
            return whole(self, batch)

        monkeypatch.setattr(Diffuser, name, counted)
    play(played, last)
    monkeypatch.undo()
    return images["decode"], images["encode"]


@pytest.mark.parametrize(
    "changes",
    [{}, {"steps": 2}, {"generated_latents": "raw"}, {"flip": True}, {"objective": "sft"}, {"sample_every": 1, "validate_every": 2}],
)
def test_images_through_the_vae_are_counted(
    tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict
) -> None:
    preset = PRESET.changed(**changes)
    found = seen(monkeypatch, prepared_run(tiny, images, tmp_path / "run", preset), 2)
    counts = [count(preset, k, 12, 5, held_out=3).total for k in range(3)]
    assert found == (sum(c.decoded for c in counts), sum(c.encoded for c in counts))


@pytest.mark.parametrize("changes", [{}, {"accumulate": True}])
def test_recursion_is_counted(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict) -> None:
    """Images are decoded once more to be scored; with `accumulate` the second round has twice the steps."""
    settings = Settings(
        objective="weighted", prompt_source="plain", samples=8, validation=0, rollout_steps=2, strategy="pool", selected=4, batch=4,
        metrics=(("brightness", 1.0),), epochs=2, evaluation_prompts=4, evaluation_steps=2, on_collapse="ignore", **changes,
    )  # fmt: skip
    preset, prompts = Preset("", "", settings), tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"a picture of thing number {i}" for i in range(24)))
    scorers = {"brightness": lambda images, prompts: images.mean((1, 2, 3))}
    played = set_up(preset, "test", str(tiny), "", tmp_path / "run", 0, "cpu", str(prompts), scorers)
    found = seen(monkeypatch, played, 2)
    counts = [count(preset, k, 0, 4).total for k in range(3)]
    assert found == (sum(c.decoded for c in counts), sum(c.encoded for c in counts))
    steps = [len(pd.read_parquet(tmp_path / f"run/round_{k}/train.parquet")) for k in (1, 2)]
    assert [c.trained for c in counts[1:]] == [4 * n for n in steps] == [8, 16 if changes else 8]


def test_a_kept_opponent_is_planned_out_of_memory(tiny: Path, images: Path, tmp_path: Path) -> None:
    def planned(cache: str) -> int:
        chosen = prepared_run(tiny, images, tmp_path / f"run{cache}")
        return plan(replace(chosen, opponent_cache=tmp_path if cache else None), 1).memory

    assert planned("cache") < planned("")


@pytest.mark.parametrize(
    ("changes", "last", "expected"),
    [
        ({}, 1, True), ({"objective": "sft"}, 1, False), ({"lora_rank": 2}, 3, False),
        ({"lora_rank": 2, "opponent": "base"}, 2, False),
    ],
)  # fmt: skip
def test_who_needs_a_second_network(
    tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, last: int, expected: bool
) -> None:
    played = prepared_run(tiny, images, tmp_path / "run", PRESET.changed(**changes))
    assert second_network(played.preset.settings) == expected
    opponents: list[Any] = []
    whole = rounds.train

    def seen(player: Any, opponent: Any, *args: Any) -> Any:
        opponents.append(opponent)
        return whole(player, opponent, *args)

    monkeypatch.setattr(rounds, "train", seen)
    play(played, last)
    assert any(o is not None and not isinstance(o.network, WithAdapter) for o in opponents) == expected


def test_the_plan_says_when_another_sampler_draws(tiny: Path, images: Path, tmp_path: Path) -> None:
    planned = plan(prepared_run(tiny, images, tmp_path / "run", PRESET.changed(sampler="unipc")), 1)
    assert any("12 rollouts (UniPC in 2 steps, not the papers' DDIM: another opponent)" in line for line in planned.lines)


def test_scorers_are_counted_once() -> None:
    class Judge:
        def __init__(self, **parts: Any) -> None:
            self.parts = SimpleNamespace(**parts)

        def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
            return images.mean((1, 2, 3))

    shared = nn.Linear(10, 10, bias=False)
    judges = [Judge(network=shared, head=nn.Linear(10, 1, bias=False)), Judge(network=shared)]
    assert resident_memory([*judges, lambda images, prompts: images.mean((1, 2, 3))]) == 4 * (100 + 10)
    scorers = load_scorers(SHAPES_SCORERS, torch.device("cpu"))
    before = resident_memory(scorers.values())
    for scorer in scorers.values():
        scorer(torch.rand(1, 3, 64, 64), ["a star"])
    assert before < resident_memory(scorers.values())


def test_a_kept_opponent_draws_for_every_example(tiny: Path, images: Path, tmp_path: Path) -> None:
    chosen = prepared_run(tiny, images, tmp_path / "run", PRESET.changed(steps=2))
    few, all_of_them = plan(chosen, 1), plan(replace(chosen, opponent_cache=tmp_path), 1)
    assert [f"round 1: {n} rollouts" in "\n".join(p.lines) for n, p in ((8, few), (12, all_of_them))] == [True, True]
    assert few.flops < all_of_them.flops
    assert few.disk < all_of_them.disk


def test_diffuser_is_untouched(tiny: Path) -> None:
    diffuser: Diffuser = load_diffuser(tiny, torch.device("cpu"))
    before = [p.clone() for p in diffuser.denoiser.parameters()]
    count_flops(Shapes.of(diffuser), replace(STEPS, lora_rank=2))
    assert all(torch.equal(a, b) for a, b in zip(before, diffuser.denoiser.parameters(), strict=True))


@pytest.mark.parametrize("changes", [{}, {"generated_latents": "reencoded", "guidance": 1.0}, {"objective": "sft", "flip": True}])
def test_seconds_are_those_of_the_networks_in_a_round(
    tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict
) -> None:
    """A clock that only the networks move: the planned seconds are what a round then takes, whatever the machine does beside it."""
    played = prepared_run(tiny, images, tmp_path / "run", PRESET.changed(**changes))
    flops, clock = count_flops(Shapes.of(played.diffuser), played.preset.settings), [0.0]
    seconds = {UNet2DConditionModel: 1.0, Encoder: 0.5, Decoder: 0.25}

    def passed(module: nn.Module, given: tuple, _: object) -> None:
        backward = flops.step / flops.forward if module.training and torch.is_grad_enabled() else 1.0
        clock[0] += seconds.get(type(module), 0) * (len(given[0]) if given else 0) * backward

    monkeypatch.setattr(timing, "clock", lambda: clock[0])
    with torch.nn.modules.module.register_module_forward_hook(passed):
        planned = 60 * plan(played, 1).minutes
        begun = clock[0]
        play(played, 1)
    assert clock[0] - begun == pytest.approx(planned)


def test_loading_a_scorer_is_no_part_of_an_image(tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(timing, "clock", lambda: now[0])

    class Slow:
        loaded = False

        def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
            now[0] += 1 * len(prompts) if self.loaded else 1000
            self.loaded = True
            return images.mean((1, 2, 3))

    each, memory = measure(prepared_run(tiny, images, tmp_path / "run").diffuser, {"slow": Slow()}, 4)
    assert each.scorers == {"slow": 1.0}
    assert memory[0].weights == 0
    assert each.of(Work(judged=5)) == each.of(Work(selected=5), selecting=["slow"]) == 5.0
    assert each.of(Work(selected=5)) == 0


def test_what_is_on_disk_is_not_planned_again(tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = prepared_run(tiny, images, tmp_path / "run")
    whole = plan(chosen, 1)
    play(chosen, 0)
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "train", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            play(chosen, 1)
    after = plan(chosen, 1)
    counts = count(PRESET, 1, 12, 5, held_out=3)
    assert [stage.work for stage in remaining(chosen, 1, counts, 1) if stage.share] == [
        counts.stages[name] for name in ("opponent", "training", "evaluation", "scoring", "held-out error")
    ]
    assert after.flops < 0.6 * whole.flops
    assert "round 0: finished already" in "\n".join(after.lines)
    (tmp_path / "run" / "round_1" / "training").mkdir(exist_ok=True)
    torch.save({"step": 1}, tmp_path / "run" / "round_1" / "training" / "training.pt")
    assert [s.share for s in remaining(chosen, 1, counts, 1) if s.work.trained] == [pytest.approx(2 / 3)]


def test_a_process_plans_its_own_share(tmp_path: Path) -> None:
    assert absent(None, 500, 256, 8) == (1.0, 256 / 500)  # two shards, so two processes have work
    assert absent(None, 1024, 16, 8) == (1.0, 1 / 8)
    (tmp_path / "00000.safetensors").touch()
    assert absent(tmp_path, 300, 256, 1) == (44 / 300, 44 / 300)
    assert absent(tmp_path, 0, 256, 2) == (0, 0)


def test_a_long_run_names_the_trial_first(tiny: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = prepared_run(tiny, images, tmp_path / "run")
    assert not [line for line in plan(chosen, 1).lines if "own-trial" in line]
    monkeypatch.setattr("selfimprove.planning.plan.HOURS", 0)
    assert plan(chosen, 1).lines[-1] == TRIAL
    trial = PRESETS["own-trial"].settings
    assert (trial.steps_for(28), trial.drawn(4), trial.lora_rank) == (2, 4, PRESETS["own-images"].settings.lora_rank)
    assert count(PRESETS["own-trial"], 1, 4, 2, held_out=1).total.forwards < 40


def test_what_takes_long_on_a_cpu_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], []
    monkeypatch.setattr(timing, "clock", lambda: now[0])

    def work(seconds: float) -> None:
        calls.append(seconds)
        now[0] += seconds

    for seconds, times in ((0.01, 4), (0.6, 3), (2.0, 2), (20.0, 1)):
        calls.clear()
        assert timing.timed(lambda s=seconds: work(s), torch.device("cpu")) == pytest.approx(seconds)
        assert len(calls) == times
