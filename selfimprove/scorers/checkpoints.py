"""Find and read checkpoints. Nothing in them is executed, and every key must fit."""

import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import init_empty_weights
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from selfimprove.scorers.images import ScorerError

Network = TypeVar("Network", bound=nn.Module)


def fetch(name: str, repository: str, wanted: Sequence[str], needed: str) -> Path:
    """Return a folder with the wanted files of a hub repository (patterns allowed), taken from the cache or downloaded.

    Raises:
        ScorerError: the hub does not provide the file `needed`.
    """
    try:
        folder = Path(snapshot_download(repository, allow_patterns=list(wanted)))
    except Exception as error:  # the hub client raises many unrelated types
        raise _absent(name, repository, needed, f"the hub did not give it ({type(error).__name__})") from error
    if not (folder / needed).exists():
        raise _absent(name, repository, needed, "it is not there")
    return folder


def _absent(name: str, repository: str, file: str, reason: str) -> ScorerError:
    return ScorerError(
        f"{name} needs {file} of {repository}: {reason}; check the connection, or put the files into a folder "
        f"and give it: '{name}=path/to/folder'"
    )


def read_state(path: Path, inside: str = "") -> dict[str, Tensor]:
    """Return the state dict of a safetensors file or torch checkpoint, on the CPU; with `inside`, the one under that key.

    Raises:
        ScorerError: the file is missing or truncated, holds pickled code (refused; nothing is executed), or holds no state dict.
    """
    if not path.is_file():
        raise ScorerError(f"checkpoint {str(path)!r} does not exist; check the path")
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols, before the refusal
            content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or _first_byte(path) == pickle.PROTO:
            raise ScorerError(
                f"checkpoint {str(path)!r} holds pickled code or objects, not only tensors: refused, nothing was executed; "
                "if you trust it, read it elsewhere and save its state dict again"
            ) from error
        raise _unreadable(path) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise _unreadable(path) from error
    state = content.get(inside) if inside and isinstance(content, dict) else content
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        where = f" under {inside!r}" if inside else ""
        raise ScorerError(f"checkpoint {str(path)!r} holds no state dict{where}; is it the published file?")
    return state


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1)


def _unreadable(path: Path) -> ScorerError:
    return ScorerError(f"checkpoint {str(path)!r} is truncated or no checkpoint ({path.stat().st_size} bytes); download it again")


def fill(build: Callable[[], Network], state: Mapping[str, Tensor], path: Path, dtype: torch.dtype | None = torch.float32) -> Network:
    """Build a frozen network in eval mode with exactly the weights in `state`, which were read from `path`.

    `dtype` None is for large networks: the tensors themselves become the weights, uncopied and as they are stored.

    Raises:
        ScorerError: keys are missing or left over, or shapes differ.
    """
    empty = init_empty_weights() if dtype is None else nullcontext()
    with torch.random.fork_rng(devices=[]), no_init_weights(), empty:  # unused initial weights must not advance the caller's random numbers
        network = build()
    expected = network.state_dict()
    missing, extra = [k for k in expected if k not in state], [k for k in state if k not in expected]
    wrong = [k for k in expected if k in state and state[k].shape != expected[k].shape]
    faults = [f"{len(keys)} keys {what} ({', '.join(keys[:3])})" for keys, what in ((missing, "missing"), (extra, "left over")) if keys]
    if wrong:
        faults.append(f"{wrong[0]} has shape {tuple(state[wrong[0]].shape)}, not {tuple(expected[wrong[0]].shape)}")
    if faults:
        raise ScorerError(f"checkpoint {str(path)!r} is of another architecture: {'; '.join(faults)}; is it the published file?")
    network.load_state_dict(state, assign=dtype is None)
    return network.to(dtype).eval().requires_grad_(False)
