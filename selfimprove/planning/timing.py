"""Time what a run repeats: a pass of the denoiser, the VAE's two directions, and each scorer. A short first call is a warm-up."""

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch

from selfimprove.config import Precision
from selfimprove.models.execution import autocast, compiled, rounded
from selfimprove.models.network import denoise
from selfimprove.models.pipeline import Diffuser
from selfimprove.planning.costs import Held, ScorerMemory
from selfimprove.planning.work import Work
from selfimprove.scorers import Scorer, in_turn, resident_memory
from selfimprove.scorers.interface import weights_of

clock = time.perf_counter
ENOUGH, LONG = 1.0, 5.0  # seconds after which a measurement is not repeated; on a CPU, after which not even the first


class Seconds(NamedTuple):
    """Seconds per latent (`forward`: one forward pass of the denoiser) or per image; `scorers`: by name; `compiling`: of a forward pass."""

    forward: float
    decode: float
    encode: float
    scorers: Mapping[str, float]
    compiling: float = 0.0

    def of(self, work: Work, step: float = 1.0, selecting: Collection[str] = ()) -> float:
        """Return the seconds that one process needs for some work. `step`: forward passes that a forward and backward pass is worth."""
        passes = work.forwards + work.opponent + step * work.trained
        chosen = sum(seconds for name, seconds in self.scorers.items() if name in selecting)
        vae = work.decoded * self.decode + work.encoded * self.encode
        return passes * self.forward + vae + work.selected * chosen + work.judged * sum(self.scorers.values())


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds that `work` takes until the device has finished it: the shortest of four times, or of fewer if these are long."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    found: list[float] = []
    while len(found) < 4 and sum(found[1:]) < ENOUGH and not (device.type == "cpu" and sum(found) > LONG):
        wait()
        start = clock()
        work()
        wait()
        found.append(clock() - start)
    return min(found)


def measure(
    diffuser: Diffuser, scorers: Mapping[str, Scorer], batch: int = 4, precision: Precision = "no", compiling: bool = False
) -> tuple[Seconds, list[ScorerMemory]]:
    """Return the seconds of everything that a run repeats, timed on `batch` images, and what each scorer holds while it scores them.

    The base's own denoiser is used, and forgotten.
    """
    device, latents, first = diffuser.device, torch.zeros(batch, *diffuser.latent_shape), 0.0
    empty, noisy = diffuser.embed_one("").to(device).repeat(batch), latents.to(device)
    network = rounded(diffuser.denoiser, precision).to(memory_format=torch.channels_last)
    diffuser.without_denoiser()
    with torch.inference_mode(), autocast(device, precision):
        once = lambda: denoise(network, noisy, 500, empty)  # noqa: E731
        if compiling:
            compiled(network)
            start = clock()
            once()
            first = clock() - start
        forward = timed(once, device)
    images = torch.full((batch, 3, *diffuser.image_size), 0.5)
    decode = timed(lambda: diffuser.decode(latents), device)
    encode = timed(lambda: diffuser.encode(images), device)
    seconds, memory = {}, []
    for name, given in scorers.items():
        with in_turn(given) as scorer:
            held = Held()
            scorer(images[:1], [""])  # loads the weights
            held.know([images, *weights_of([scorer])])
            with held:
                scorer(images[:1], ["warm"])
            seconds[name] = timed(lambda: scorer(images, ["warm"] * batch), device) / batch
            memory.append(ScorerMemory(resident_memory([scorer]), held.peak, getattr(scorer, "batch_size", batch)))
    return Seconds(forward / batch, decode / batch, encode / batch, seconds, max(0.0, first - forward)), memory
