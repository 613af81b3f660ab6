"""Set the size at which a pipeline draws and learns, whatever size its folder names."""

from collections.abc import Sequence

import torch

from selfimprove.models.network import denoise
from selfimprove.models.pipeline import Diffuser
from selfimprove.models.weights import ModelError, brief


def least_step(diffuser: Diffuser) -> int:
    """Return of how many pixels a side must be a multiple, by the VAE, by the halvings of a UNet, by the patches of a transformer."""
    return diffuser.vae_factor * diffuser.family.multiple(diffuser.shape.config)


def at_resolution(diffuser: Diffuser, resolution: int) -> Diffuser:
    """Return the same pipeline for square images of `resolution` pixels a side; 0 for the size that the folder names.

    Raises:
        ModelError: the networks, which halve a side again and again, cannot divide it, or know no positions for it.
    """
    least = least_step(diffuser)
    if resolution % least:
        near = [n for n in (resolution // least * least, (resolution // least + 1) * least) if n]
        raise ModelError(f"resolution={resolution} must be a multiple of {least} for this model; give {' or '.join(map(str, near))}")
    largest = (diffuser.shape.config.get("pos_embed_max_size") or resolution) * least
    if resolution > largest:
        raise ModelError(f"resolution={resolution} is more than the {largest} pixels whose positions the model knows; give at most that")
    return diffuser.sized((resolution, resolution)) if resolution else diffuser


def check_sizes(diffuser: Diffuser, sizes: Sequence[tuple[int, int]]) -> None:
    """Call the denoiser once at each size, (height, width) in pixels, without computing.

    Raises:
        ModelError: the denoiser does not return what it takes at one of them.
    """
    if not sizes:
        return
    meta, time = torch.device("meta"), diffuser.schedule.time(torch.ones(1))
    given = diffuser.embed_one("")
    for at in map(diffuser.sized, sizes):
        noisy = torch.empty(1, *at.latent_shape, device=meta)
        try:
            with torch.no_grad():
                drawn = denoise(diffuser.shape, noisy, time.to(meta), given.to(meta))
            if drawn.shape != noisy.shape:
                raise ModelError(f"it returns {tuple(drawn.shape)} for {tuple(noisy.shape)}")
        except Exception as error:  # each network has its own way to refuse a size
            raise ModelError(
                f"model={str(diffuser.folder)!r} cannot draw images {at.image_size[1]} pixels wide and {at.image_size[0]} high "
                f"({brief(error)}); set aspect_ratio_buckets=False, or another resolution"
            ) from error
