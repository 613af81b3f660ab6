"""Set the size at which a pipeline draws and learns, whatever size its folder names."""

from dataclasses import replace

from selfimprove.models.pipeline import Diffuser
from selfimprove.models.weights import ModelError


def at_resolution(diffuser: Diffuser, resolution: int) -> Diffuser:
    """Return the same pipeline for square images of `resolution` pixels a side; 0 for the size that the folder names.

    Raises:
        ModelError: the networks, which halve a side again and again, cannot divide it.
    """
    least = diffuser.vae_factor * 2 ** (len(diffuser.shape.config.block_out_channels) - 1)
    if resolution % least:
        near = [n for n in (resolution // least * least, (resolution // least + 1) * least) if n]
        raise ModelError(f"resolution={resolution} must be a multiple of {least} for this model; give {' or '.join(map(str, near))}")
    return replace(diffuser, resolution=resolution)
