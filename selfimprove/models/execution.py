"""Hold and run networks as a run's precision and its device allow. Nothing here changes a result by more than rounding."""

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache
from accelerate.utils.memory import should_reduce_batch_size as out_of_memory
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from selfimprove.config import Precision
from selfimprove.errors import ArgumentError

AUTOCAST: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}  # precisions other than float32
CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # layers whose weights autocast rounds at every pass
REGIONAL = 0.9  # share of a network's weights in repeated blocks from which these are compiled, once for all, in place of the whole
UNREAD = {"cuda": 10}  # steps of a device whose figures the host reads together, as it waits for the device each time; others: 1
_fits: dict[Hashable, int] = {}  # largest batches that are known to fit, of what did not fit at first

T = TypeVar("T")


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which the layers of networks compute in a run's precision."""
    return torch.autocast(device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST)


def rounded(network: Any, precision: Precision) -> Any:
    """Hold the frozen weights that `autocast` would round at every pass as it rounds them, and return the network.

    Inside `autocast` its output is the same bit by bit. The weights take half the memory, and no pass rounds them anew. What autocast does
    not round (norms, embeddings), and what is trained, stays in float32.
    """
    for layer in network.modules() if precision in AUTOCAST else ():
        for name, weight in layer.named_parameters(recurse=False) if isinstance(layer, CAST) else ():
            if not weight.requires_grad:
                setattr(layer, name, nn.Parameter(weight.to(AUTOCAST[precision]), requires_grad=False))
    return network


def vae_precision(precision: Precision, config: Any) -> Precision:
    """Return what a VAE computes in, in a run of this precision: in float32 where its configuration says that float16 overflows.

    SDXL's activations reach beyond 65,504. bfloat16 has the range of float32.
    """
    return "no" if precision == "fp16" and config.get("force_upcast", True) else precision


def laid_out(network: Any, device: torch.device, precision: Precision) -> Any:
    """Return a network on a device, channels last, which convolutions want; in float32 on a CPU it is left as it is."""
    plain = device.type == "cpu" and precision not in AUTOCAST
    return network.to(device) if plain else network.to(device, memory_format=torch.channels_last)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; a GPU fetches one of the CPU from pinned memory by itself, and the host does not wait for it."""
    pinned = device.type == "cuda" and tensor.device.type == "cpu"
    return tensor.pin_memory().to(device, non_blocking=True) if pinned else tensor.to(device)


def in_parts(count: int, most: int, what: str, shape: tuple[int, ...], work: Callable[[slice], T]) -> Iterator[T]:
    """Yield `work(rows)` for all of `count` rows in order, `most` at once, or as many as fit into memory.

    A batch that does not fit is halved, with a warning, and this process remembers for `what` and `shape` how many fit.
    """
    start = 0
    while start < count:
        rows, part = slice(start, min(start + min(most, _fits.get((what, shape), most)), count)), None
        size = rows.stop - start
        try:
            part = work(rows)
        except RuntimeError as error:
            if size == 1 or not out_of_memory(error):
                raise
        if part is None:  # outside of `except`, whose error holds what filled the memory
            _fits[what, shape] = size // 2
            clear_device_cache(garbage_collection=True)
            warnings.warn(f"{what}: {size} at once do not fit into memory; now {size // 2}; results change by rounding", stacklevel=3)
            continue
        yield part
        start = rows.stop


class Unread(NamedTuple):
    """A step whose figures lie on the device: `figures` are those of the log, and at last whether all losses are finite."""

    step: int
    figures: Float[Tensor, " k"]
    loss: Float[Tensor, " b"]
    t: Shaped[Tensor, " b"]
    keys: list[str]


def read(steps: Sequence[Unread]) -> list[list[float]]:
    """Return the figures of steps, at the only place of the loop where the host waits for the device.

    Raises:
        FloatingPointError: a loss is not finite; names the first such step, t and example.
    """
    found = torch.stack([step.figures for step in steps]).tolist()
    for (*_, finite), (step, _, loss, t, keys) in zip(found, steps, strict=True):
        if not finite:
            row = int((~torch.isfinite(loss)).nonzero()[0])
            raise FloatingPointError(
                f"the loss is not finite at step {step}, t={float(t[row]):g}, example {keys[row]}; "
                "lower lr or beta, or check that example; a run started again continues from the last checkpoint"
            )
    return [figures[:-1] for figures in found]


def compiled(network: Any) -> Any:
    """Have torch compile a network in place at its first pass, for each shape of its inputs; return it.

    Transformers, most of whose weights lie in blocks that repeat, have the block compiled, which is as fast, and compiles in a fraction of
    the time. Other networks, such as UNets, are compiled as a whole, as most of their time goes to layers between their blocks.
    """
    repeated = [m for m in network.modules() if type(m).__name__ in (getattr(network, "_repeated_blocks", None) or ())]
    inside = sum(p.numel() for block in repeated for p in block.parameters())
    if inside >= REGIONAL * sum(p.numel() for p in network.parameters()):
        network.compile_repeated_blocks(dynamic=False)
    else:
        network.compile(dynamic=False)
    return network


def check_compile(device: torch.device) -> None:
    """Compile a small function on a device, so that what cannot work is refused before any work.

    Raises:
        ArgumentError: torch cannot compile here.
    """
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))
    except Exception as error:  # torch raises many unrelated types
        needed = "a C++ compiler, such as g++" if device.type == "cpu" else "Triton and a C compiler"
        said = " ".join(str(error).split())[:160]
        raise ArgumentError(f"compile=True needs {needed}, which does not work here ({said}); install it, or give False") from error
