"""Set the size at which a pipeline draws and learns, whatever size its folder names."""

from collections.abc import Sequence

import torch

from selfimprove.models.network import denoise
from selfimprove.models.pipeline import Diffuser
from selfimprove.models.weights import ModelError, brief


def least_step(diffuser: Diffuser) -> int:
    """Return of how many pixels a side must be a multiple, by the VAE, by the halvings of a UNet, by the patches of a transformer."""
    config = diffuser.shape.config
    return diffuser.vae_factor * 2 ** (len(config.get("block_out_channels", [0])) - 1) * config.get("patch_size", 1)


def at_resolution(diffuser: Diffuser, resolution: int) -> Diffuser:
    """Return the same pipeline for square images of `resolution` pixels a side; 0 for the size that the folder names.

    Raises:
        ModelError: the networks, which halve a side again and again, cannot divide it.
    """
    least = least_step(diffuser)
    if resolution % least:
        near = [n for n in (resolution // least * least, (resolution // least + 1) * least) if n]
        raise ModelError(f"resolution={resolution} must be a multiple of {least} for this model; give {' or '.join(map(str, near))}")
    return diffuser.sized((resolution, resolution)) if resolution else diffuser


def check_sizes(diffuser: Diffuser, sizes: Sequence[tuple[int, int]]) -> None:
    """Call the denoiser once at each size, (height, width) in pixels, without computing.

    Raises:
        ModelError: the denoiser does not return what it takes at one of them, or is told the size beside the text, which is not done yet.
    """
    meta, time = torch.device("meta"), diffuser.schedule.time(torch.ones(1))
    for at in map(diffuser.sized, sizes):
        noisy, given, default = torch.empty(1, *at.latent_shape, device=meta), at.embed([""]), diffuser.embed([""])
        try:
            if any(not torch.allclose(tensor, default.tensors[name]) for name, tensor in given.tensors.items()):
                raise ModelError("its conditioning names the size, and texts are embedded for one size")
            with torch.no_grad():
                drawn = denoise(diffuser.shape, noisy, time.to(meta), given.to(meta))
            if drawn.shape != noisy.shape:
                raise ModelError(f"it returns {tuple(drawn.shape)} for {tuple(noisy.shape)}")
        except Exception as error:  # each network has its own way to refuse a size
            raise ModelError(
                f"model={str(diffuser.folder)!r} cannot draw images {at.image_size[1]} pixels wide and {at.image_size[0]} high "
                f"({brief(error)}); set aspect_ratio_buckets=False, or another resolution"
            ) from error
