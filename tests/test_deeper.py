"""The map's deeper denoiser: more weights, the same function, and all of them can learn."""

from pathlib import Path

import torch

from experiments.deeper import deepen, write_deeper
from selfimprove.models.pipeline import load_diffuser
from selfimprove.models.resolve import resolve_model


def test_a_deeper_denoiser_computes_the_same_and_learns(tmp_path: Path) -> None:
    write_deeper(tmp_path / "deeper")
    old, new = load_diffuser(resolve_model("shapes"), torch.device("cpu")), load_diffuser(tmp_path / "deeper", torch.device("cpu"))
    noisy, t = torch.randn(3, *old.latent_shape, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 400, 990])
    text = old.embed(["a star", "a red disc", ""]).tensors["text"]
    with torch.no_grad():
        torch.testing.assert_close(new.denoiser(noisy, t, text).sample, old.denoiser(noisy, t, text).sample, rtol=0, atol=1e-5)
    weights = [sum(p.numel() for p in d.denoiser.parameters()) for d in (old, new)]
    assert weights[1] > 1.4 * weights[0]
    unet = deepen(old.denoiser).requires_grad_(True)
    unet(noisy, t, text).sample.square().mean().backward()
    moved = {name for name, p in unet.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    before = {name for name, _ in old.denoiser.named_parameters()}
    assert any(name not in before and name.endswith("conv2.weight") for name in moved)
    assert any(name not in before and "attentions.1.proj_out" in name for name in moved)
