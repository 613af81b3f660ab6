"""What pretraining builds on: a UNet that starts as a copy, a rate that is held, latents of one scale, runs that go on."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from torch import nn

from experiments.table import small
from selfimprove.draws import generator
from selfimprove.models.pipeline import load_diffuser
from selfimprove.presets import PRESETS
from selfimprove.rounds import play
from selfimprove.run import set_up
from selfimprove.shapes import PIPELINE
from selfimprove.shapes.render import render
from selfimprove_lab.pretrain import flow
from selfimprove_lab.pretrain.fit import Hold, Workshop, fit, random_drawing
from selfimprove_lab.pretrain.generator import build_unet, copying, draw_times
from selfimprove_lab.pretrain.text import PROJECTED, WIDTH
from selfimprove_lab.pretrain.vae import standardise


def test_a_fresh_unet_copies_its_input() -> None:
    torch.manual_seed(0)
    unet = copying(build_unet()).eval()
    noise, text = torch.randn(4, unet.config.in_channels, 16, 16), torch.randn(4, 32, WIDTH)
    with torch.inference_mode():
        guess = unet(noise, torch.tensor([900, 950, 980, 990]), text).sample
    assert (guess - noise).square().mean() < 2e-3
    (unet(noise, 500, text).sample - torch.randn_like(noise)).square().mean().backward()
    last = unet.up_blocks[-1].resnets[-1]  # paths that start at zero can grow: each row's weight or what feeds it has a slope
    slope = unet.conv_out.weight.grad.abs().sum((0, 2, 3)) + last.conv2.weight.grad.abs().sum((1, 2, 3))
    assert slope.min() > 0


def test_the_rate_warms_up_stays_and_falls_to_zero() -> None:
    factors = [Hold(warm_up=10, decay=0.5).factor(step, 100) for step in range(101)]
    assert factors[:2] == [0.1, 0.2]
    assert set(factors[9:50]) == {1.0}
    assert factors[100] == 0
    assert factors[50:] == sorted(factors[50:], reverse=True)


def test_times_are_in_range_and_lean_to_the_middle() -> None:
    times = torch.cat([draw_times(generator(0, "test/times", i), 1000) for i in range(50)])
    assert times.min() >= 0
    assert times.max() < 1000
    assert ((times > 300) & (times < 800)).float().mean() > 0.5


def test_a_killed_run_goes_on_with_the_same_result(tmp_path: Path) -> None:
    def trained(folder: Path, stops: tuple[int, ...]) -> dict[str, torch.Tensor]:
        for steps in stops:
            torch.manual_seed(0)
            line = nn.Linear(2, 1)

            def loss(draws: torch.Generator, line: nn.Linear = line, last: int = steps) -> torch.Tensor:
                loss.calls += 1
                if last < 20 and loss.calls > last:
                    raise KeyboardInterrupt
                x = torch.randn(8, 2, generator=draws)
                return (line(x).float() - x.sum(1, keepdim=True)).square().mean()

            loss.calls = 0
            try:
                fit(Workshop(folder, torch.device("cpu"), 0), "line", line, loss, 20, 0.1, save_every=5, hold=Hold(warm_up=2))
            except KeyboardInterrupt:
                continue
        return line.state_dict()

    whole, parts = trained(tmp_path / "a", (20,)), trained(tmp_path / "b", (7, 20))
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_standardised_latents_decode_as_before() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 8),
        latent_channels=3, norm_num_groups=4, sample_size=64, mid_block_add_attention=False,
    )  # fmt: skip
    images, _ = render(random_drawing(8, generator(0, "test/standardise")))
    with torch.inference_mode():
        before = vae.decode(vae.encode(2 * images - 1).latent_dist.mean).sample
    standardise(vae, images)
    with torch.inference_mode():
        posterior = vae.encode(2 * images - 1).latent_dist
        after = vae.decode(posterior.mean).sample
    assert torch.allclose(before, after, atol=1e-4)
    second = posterior.mean.var((0, 2, 3)) + posterior.var.mean((0, 2, 3))
    assert torch.allclose(second, torch.ones(3), atol=1e-3)
    assert posterior.mean.mean((0, 2, 3)).abs().max() < 1e-4


def test_one_counted_token_stands_for_all_that_the_plain_pipeline_gives() -> None:
    torch.manual_seed(0)
    network = flow.build_transformer(AutoencoderKL.from_pretrained(PIPELINE / "vae")).eval()
    noisy, text = torch.randn(2, *[network.config.in_channels, *[network.config.sample_size] * 2]), torch.randn(2, flow.LENGTH, 2 * WIDTH)
    times, pooled = torch.tensor([900.0, 300.0]), torch.randn(2, 2 * PROJECTED)
    for weight in network.parameters():  # the fresh one is the identity
        weight.data += 0.05 * torch.randn_like(weight)

    def velocity(zeros: int) -> torch.Tensor:
        states = torch.cat([text, torch.zeros(2, zeros, 2 * WIDTH)], 1)
        return network(hidden_states=noisy, timestep=times, encoder_hidden_states=states, pooled_projections=pooled).sample

    with torch.inference_mode():
        plain = velocity(flow.ABSENT)
        with flow.Counted(torch.full((2,), float(flow.ABSENT))):
            counted = velocity(1)
        assert torch.allclose(counted, plain, atol=1e-4)
        assert not torch.allclose(velocity(1), plain, atol=1e-2)


def test_times_of_the_flow_have_the_schedulers_shift_and_reach_both_ends() -> None:
    sigmas = flow.draw_sigmas(generator(0, "test/sigmas"), 20_000)
    shifted = flow.SHIFT * 0.5 / (1 + (flow.SHIFT - 1) * 0.5)  # of the median of a logit-normal law
    assert abs((sigmas < shifted).float().mean() - (1 - flow.UNIFORM) / 2 - flow.UNIFORM * shifted) < 0.02
    assert (sigmas < 0.1).float().mean() > 0.02
    assert (sigmas > 0.97).float().mean() > 0.01


def test_a_flow_pipeline_from_nothing_is_an_ordinary_one(tmp_path: Path) -> None:
    """Every stage but the autoencoder's, two steps each; the folder loads and samples in plain diffusers, and loads in this package."""
    workshop = Workshop(tmp_path, torch.device("cpu"), 0, scale=1e-4)
    AutoencoderKL.from_pretrained(PIPELINE / "vae").save_pretrained(tmp_path / "pipeline" / "vae")
    flow.stages(workshop)
    pipeline = StableDiffusion3Pipeline.from_pretrained(tmp_path / "pipeline", text_encoder_3=None, tokenizer_3=None)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a large red star on a white background", num_inference_steps=2, guidance_scale=3.0).images[0]
    assert image.size == (64, 64)
    diffuser = load_diffuser(tmp_path / "pipeline", torch.device("cpu"))
    assert diffuser.latent_shape == (pipeline.transformer.config.in_channels, 8, 8)
    assert diffuser.embed_one("").tensors["text"].shape[1] == flow.LENGTH + 1  # one zero, not the plain pipeline's 256
    for name in ("spin", "spin-lora", "dpo", "rsi"):
        preset = small(PRESETS[f"shapes-flow-{name}"]).changed(evaluation_prompts=2, on_collapse="ignore")
        play(set_up(preset, "test", str(tmp_path / "pipeline"), run=tmp_path / name, device="cpu"), 1)
        player = load_diffuser(tmp_path / name / "round_1" / "pipeline", torch.device("cpu"))
        assert player.embed_one("").tensors["text"].shape[1] == flow.LENGTH + 1
