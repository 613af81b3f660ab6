"""Let several processes, started by `accelerate launch` or torchrun, agree on their devices, and end together when one of them fails.

Shares are another way to divide work: commands that know nothing of one another, on any machines with one file system (`take_share`).
"""

import ctypes
import gc
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import gather_object, parse_flag_from_env
from torch import distributed

from selfimprove.errors import ArgumentError, SelfImproveError

PATIENCE = timedelta(hours=6)  # how long a process waits for the others; accelerate's own limit is 10 minutes
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # the variables in which launchers tell how many start
SHARDED = {
    "ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "the parallelism_config",
}  # fmt: skip
PACKAGES = {"comet_ml": "comet-ml"}  # where a tracker's package has another name


_taken: list["Share"] = []  # the share of this process; none: it makes everything


class IncompleteError(SelfImproveError):
    """A share of the work can go no further, because others have not made theirs; the message says what is missing."""


class Share(NamedTuple):
    """One of `of` shares of the shards of a run's stores; `number` counts from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


class ProcessError(SelfImproveError):
    """Another process failed; the message says which, and how."""


def give_back() -> None:
    """Return to the system the memory that this process has freed: what lies in reference cycles, and what glibc's heap keeps.

    glibc takes blocks of up to 32 MB, such as most weights, from a heap that shrinks by itself only at its end. A stage's networks would
    stay in the process's memory beside those of the next stage.
    """
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None:
        trim(0)


def take_share(text: str) -> Share | None:
    """Have this process make one share of all shards from now on, such as "3/8", the third of eight; "" means all of them.

    Raises:
        ArgumentError: the text is no share.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if text and not (found and 1 <= int(found[1]) <= int(found[2])):
        raise ArgumentError(f"share={text!r} is no share; give one of 1/N to N/N, such as 3/8 for the third of eight")
    _taken[:] = [Share(int(found[1]), int(found[2]))] if found else []
    return share()


def share() -> Share | None:
    """Return the share that this process makes, or None if it makes everything."""
    return _taken[0] if _taken else None


def place() -> tuple[int, int]:
    """Return the place of this process among all processes of all shares, from 0 on, and how many there are.

    It makes every shard whose number is its place, modulo their number.
    """
    state, own = PartialState(), share() or Share(1, 1)
    return (own.number - 1) * state.num_processes + state.process_index, own.of * state.num_processes


def makers(shards: Iterable[int]) -> list[str]:
    """Return the shares that make the shards of these numbers."""
    _, places = place()
    of = (share() or Share(1, 1)).of
    return [str(Share(number, of)) for number in sorted({shard % places * of // places + 1 for shard in shards})]


def tf32() -> str:
    """Return what a GPU rounds to TF32, 10 bits of mantissa, in place of float32: "none", or some of matmul and convolution."""
    kinds = {"matmul": torch.backends.cuda.matmul, "convolution": torch.backends.cudnn.conv}
    return ", ".join(name for name, kind in kinds.items() if kind.fp32_precision == "tf32") or "none"


def choose_device(name: str) -> torch.device:
    """Return the device of this process, after a test allocation; "" means the best there is. Call it before anything else is set up.

    From here on float32 is float32 on GPUs too: TF32, which torch by itself uses in convolutions, is off. Of several processes each has
    the device that accelerate gives it: "" and a type, such as "cuda", are accepted; "cpu" has all of them share the CPU.

    Raises:
        ArgumentError: the device cannot be used, is not that of this process, or the launcher asks for sharded weights.
    """
    for variable, what in SHARDED.items():
        if parse_flag_from_env(variable):
            raise ArgumentError(
                f"{what} is set in accelerate's configuration and cannot be used here, where every process holds all weights; "
                "start with `accelerate launch --multi_gpu`, or with --config_file and a file of configs/accelerate"
            )
    several = max(int(os.environ.get(variable, 1)) for variable in SIZES) > 1
    on_cpu = several and (name == "cpu" or not torch.cuda.is_available())  # else accelerate does not see processes that share a CPU
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # the older switches also undo the newer ones
    state = PartialState(cpu=on_cpu, timeout=PATIENCE)
    if several and state.num_processes == 1:
        raise ArgumentError("the environment speaks of several processes, of which accelerate sees one; start them by `accelerate launch`")
    if state.num_processes > 1 and name not in ("", state.device.type):
        raise ArgumentError(
            f"device={name!r} cannot be used by {state.num_processes} processes, of which this one has {state.device}; leave device empty, "
            "so that each has its own, or start one process"
        )
    try:
        shared = state.num_processes == 1 or state.device.type == "cpu"
        device = torch.device(name or state.device.type) if shared else state.device
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        raise ArgumentError(f"device={name!r} cannot be used here ({error}); leave it empty for the best there is") from error
    return device


def check_tracker(name: str) -> None:
    """Check that accelerate knows a tracker and its package is installed; "" and "none" need none.

    Raises:
        ArgumentError: it does not, or it is not.
    """
    if name in ("", "none"):
        return
    if name not in (known := [*LOGGER_TYPE_TO_CLASS]):
        raise ArgumentError(f"tracker={name!r} is not known; choose one of {', '.join(known)}, or none")
    if name not in map(str, get_available_trackers()):
        raise ArgumentError(
            f"tracker={name!r} needs its package, which is not installed; pip install {PACKAGES.get(name, name)}, or give none"
        )


@contextmanager
def together() -> Iterator[None]:
    """Run the block on every process; if it fails on one, it fails on all, so that none waits for the failed one.

    The block must not itself wait for other processes.

    Raises:
        ProcessError: the block failed on another process; where it failed, its own error is raised.
    """
    if PartialState().num_processes == 1:
        yield
        return
    error = None
    try:
        yield
    except Exception as raised:
        error = raised
    failed = torch.tensor(float(error is not None), device=PartialState().device)
    distributed.all_reduce(failed)
    if failed:
        texts = gather_object([f"{type(error).__name__}: {error}" if error else ""])
        if error:
            raise error
        rank, text = next((rank, text) for rank, text in enumerate(texts) if text)
        raise ProcessError(f"process {rank} of {len(texts)} failed: {text}")
