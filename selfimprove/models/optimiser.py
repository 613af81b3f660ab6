"""Make the optimiser of a round: AdamW of torch, fused on CUDA, or AdamW of bitsandbytes, whose moments take a quarter of the memory."""

from collections.abc import Iterable

import torch
from torch import nn

from selfimprove.config import Settings
from selfimprove.errors import ArgumentError


def make_optimiser(parameters: Iterable[nn.Parameter], settings: Settings, device: torch.device) -> torch.optim.Optimizer:
    """Return the optimiser that `settings` name, for parameters on a device."""
    if settings.optimiser == "adamw":
        fused = True if device.type == "cuda" else None  # one kernel for all weights, and no temporary tensors
        return torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay, fused=fused)
    from bitsandbytes.optim import AdamW8bit  # only here: nothing else needs the package

    return AdamW8bit(list(parameters), lr=settings.lr, weight_decay=settings.weight_decay)


def check_optimiser(settings: Settings, device: torch.device) -> None:
    """Take one step of an optimiser of another package on a few weights, so that it is refused before any work.

    Raises:
        ArgumentError: the package is not installed, or does not work on the device.
    """
    if settings.optimiser == "adamw":
        return
    tried = nn.Parameter(torch.zeros(8192, device=device))  # fewer would be kept in 32 bits
    tried.grad = torch.ones_like(tried)
    said = f"optimiser={settings.optimiser!r} needs the package bitsandbytes, which"
    try:
        make_optimiser([tried], settings, device).step()
    except ImportError as error:
        raise ArgumentError(f"{said} is not installed; pip install bitsandbytes, or leave optimiser at 'adamw'") from error
    except Exception as error:  # the package raises many unrelated types
        raise ArgumentError(f"{said} does not work on {device} ({error}); leave optimiser at 'adamw'") from error
