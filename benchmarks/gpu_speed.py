"""python -m benchmarks.gpu_speed --timed FILE --counted FILE: training steps and rollouts, each beside its naive form, a line per case.

`timed`: their speed and memory on this device. `counted`: what the plan says of them, FLOPs and bytes, which needs no device. Either may be
left out. `benchmarks.gpu` calls this in processes of their own and reads the lines as they come; `benchmarks/gpu.md` says what they mean.
"""

import argparse
import copy
import gc
import json
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_naive import DiffusionDPO, draw, pipeline
from benchmarks.gpu_networks import Case, Clock, Size, prompts, rows_counted
from benchmarks.gpu_report import peak_of
from selfimprove.batches import TrainingSet
from selfimprove.config import Settings
from selfimprove.data.latents import build_store
from selfimprove.models.execution import AUTOCAST, laid_out, rounded
from selfimprove.models.lora import Adapters
from selfimprove.models.pipeline import Diffuser
from selfimprove.opponent import LiveOpponent, Opponent, precompute
from selfimprove.planning.costs import Flops, count_flops, sampling_memory, training_memory
from selfimprove.planning.plan import PEAKS
from selfimprove.rollout import sample_batches
from selfimprove.train import train

LEAST = 25  # seconds that must be left for a case to begin
EXAMPLES = 64  # different pairs
SAID = (  # settings that a reader of a speed asks for
    "precision", "batch", "micro_batch", "lora_rank", "gradient_checkpointing", "rollout_batch", "rollout_steps", "guidance",
)  # fmt: skip


def training_set(diffuser: Diffuser, settings: Settings, folder: Path) -> TrainingSet:
    """Latents drawn at random and embedded prompts, in stores as a round makes them."""
    texts = ["", *prompts(EXAMPLES)]
    dtype = torch.float32 if settings.precision == "no" else torch.float16

    def latents(rows: range) -> dict[str, torch.Tensor]:
        return {"mean": torch.randn(len(rows), *diffuser.latent_shape), "std": torch.full((len(rows), *diffuser.latent_shape), 0.1)}

    text = build_store(folder / "text", len(texts), lambda r: dict(diffuser.embed(texts[r.start : r.stop]).tensors), "text", dtype)
    real, generated = (build_store(folder / side, EXAMPLES, latents, side, dtype) for side in ("real", "generated"))
    return TrainingSet(tuple(texts[1:]), list(range(1, len(texts))), text, real, generated)


def our_training(case: Case, size: Size, device: torch.device, seed: int, clock: Clock | None = None) -> dict[str, Any]:
    """Train as a round does, by `selfimprove.train` on cached latents and text."""
    settings, diffuser, clock = size.settings(case), size.networks(device, seed), clock or Clock(device)
    with tempfile.TemporaryDirectory() as name:
        data, precision = training_set(diffuser, settings, Path(name)), settings.precision
        player, network = diffuser.denoiser, None
        diffuser.without_denoiser()
        if settings.lora_rank:
            adapters = Adapters(player.requires_grad_(True), diffuser.family, settings.lora_rank, settings.lora_alpha)
            adapters.add_player(None, seed, 1)
            network, player = adapters.opponent(None), laid_out(rounded(player, precision), device, precision)
        else:
            network = laid_out(rounded(copy.deepcopy(player), precision), device, precision)
            player = laid_out(player.requires_grad_(True), device, precision)
        opponent: Opponent = LiveOpponent(network)
        made = {}
        if case.form.endswith("opponent kept"):
            start = time.perf_counter()
            opponent = precompute(Path(name) / "kept", network, "random weights", data, diffuser.schedule, settings, seed, 1)
            made["seconds_to_make_the_opponent"] = time.perf_counter() - start
        del network
        reset_peak(device)
        ticking = clock.opponent(opponent, settings.batch)
        log = train(player, ticking, data, diffuser.schedule, settings, seed, 1, Path(name) / "work")
        return {"seconds": clock.seconds, "loss_first": float(log["loss"].iloc[0])} | peak(device) | made


def naive_training(case: Case, size: Size, device: torch.device, seed: int, clock: Clock | None = None) -> dict[str, Any]:
    """Train as Diffusion-DPO's scripts do, with VAE, text encoder and reference in the loop."""
    clock = clock or Clock(device)
    dpo = DiffusionDPO(size.networks(device, seed, naive=True), size.settings(case))
    reset_peak(device)
    dpo.train(clock)
    return {"seconds": clock.seconds} | peak(device)


def our_rollouts(case: Case, size: Size, device: torch.device, seed: int, until: float, clock: Clock | None = None) -> dict[str, Any]:
    """Draw latents by `selfimprove.rollout`, as a round does, then decode them; both are timed."""
    settings, clock = size.settings(case), clock or Clock(device)
    made = size.networks(device, seed)
    unet, diffuser = rounded(made.denoiser, settings.precision).to(memory_format=torch.channels_last), made.in_precision(settings.precision)
    made.without_denoiser()
    texts = prompts(settings.rollout_batch)

    def sampled(steps: int) -> torch.Tensor:
        return sample_batches(
            diffuser, unet, texts, texts, settings.rollout_batch, "sampling", settings.precision, seed=seed, stream="rollout",
            round_index=1, steps=steps, guidance=settings.guidance, eta=settings.eta, sampler=settings.sampler,
        )  # fmt: skip

    reset_peak(device)
    latents = sampled(2)
    diffuser.decode(latents)
    drawing, decoding = [], []
    with rows_counted(unet) as rows:
        while more(drawing, size, until):
            drawing.append(clock.timed(lambda: sampled(settings.rollout_steps)))
            decoding.append(clock.timed(lambda: diffuser.decode(latents)))
    whole = [a + b for a, b in zip(drawing, decoding, strict=True)]
    forwards = sum(rows) / len(drawing) / len(texts)
    return {"seconds": whole, "seconds_of_latents": drawing, "forwards_per_image": forwards} | peak(device)


def naive_rollouts(case: Case, size: Size, device: torch.device, seed: int, until: float, clock: Clock | None = None) -> dict[str, Any]:
    """Call `StableDiffusionPipeline` once for the same prompts and number of steps, in the precision that the form names."""
    settings, networks, clock = size.settings(case), size.networks(device, seed, naive=True), clock or Clock(device)
    made = pipeline(networks, torch.float32 if case.form.endswith("float32") else AUTOCAST[settings.precision])
    texts, seconds = prompts(settings.rollout_batch), []
    reset_peak(device)
    draw(made, texts, 2)
    with rows_counted(networks.denoiser) as rows:
        while more(seconds, size, until):
            seconds.append(clock.timed(lambda: draw(made, texts, settings.rollout_steps)))
    return {"seconds": seconds, "forwards_per_image": sum(rows) / len(seconds) / len(texts)} | peak(device)


def more(seconds: list[float], size: Size, until: float) -> bool:
    """Whether to repeat: always once; then as often as the size says, if another repetition ends in time."""
    return not seconds or (len(seconds) < size.repeats and time.monotonic() + seconds[-1] < until)


def reset_peak(device: torch.device) -> None:
    """Begin to watch for the most that the device holds."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> dict[str, int | None]:
    """The most bytes in tensors since `reset_peak`, and the most that torch had taken for them; None on a CPU, which does not say."""
    if device.type != "cuda":
        return {"peak_bytes": None, "reserved_bytes": None}
    return {"peak_bytes": torch.cuda.max_memory_allocated(device), "reserved_bytes": torch.cuda.max_memory_reserved(device)}


def measure(case: Case, size: Size, device: torch.device, seed: int, until: float) -> dict[str, Any]:
    """Time one case; what went wrong (too little memory, most often) is a result too. `until`: end of the time, on the monotonic clock."""
    settings, start = size.settings(case), time.monotonic()
    of_a_step = settings.batch if case.kind == "training" else settings.rollout_batch
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    result = {"case": case.name, "form": case.form, "kind": case.kind, "units": of_a_step, "card_peak": peak_of(card, PEAKS)}
    result["settings"] = {name: getattr(settings, name) for name in SAID}
    try:
        if case.kind == "training":
            result |= (our_training if case.form.startswith("ours") else naive_training)(case, size, device, seed)
        else:  # a third of what is left, so that others come to their turn
            share = time.monotonic() + max(20.0, (until - time.monotonic()) / 3)
            result |= (our_rollouts if case.form == "ours" else naive_rollouts)(case, size, device, seed, min(share, until))
    except Exception as error:  # the next case may do; a library of another version raises anything
        result["error"] = f"{type(error).__name__}: {error}"[:500]
    return result | {"whole_case_seconds": time.monotonic() - start}


def estimate(case: Case, size: Size) -> dict[str, Any]:
    """FLOPs of one latent or image and bytes at the peak, by `selfimprove.planning`; of the package's own form alone."""
    settings, shapes = size.settings(case), size.shapes()
    kept = case.form.endswith("opponent kept")
    if case.kind == "training":
        memory = training_memory(shapes, settings, live_opponent=not (kept or settings.lora_rank)).peak
    else:
        memory = sampling_memory(shapes, settings, settings.guidance).peak
    flops = _flops(size, settings.lora_rank, settings.gradient_checkpointing)
    return {"case": case.name, "form": case.form, "flops": flops._asdict(), "plan_bytes": memory}


@lru_cache
def _flops(size: Size, rank: int | None, checkpointed: bool) -> Flops:
    """Count FLOPs once for all settings that they do not depend on."""
    return count_flops(size.shapes(), Settings(lora_rank=rank, gradient_checkpointing=checkpointed))


def write(path: Path, line: dict[str, Any]) -> None:
    """Append one line of JSON."""
    with path.open("a") as lines:
        lines.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timed", type=Path)
    parser.add_argument("--counted", type=Path)
    parser.add_argument("--seconds", type=float, default=240, help="after which no case begins; default: 240")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--toy", action="store_true")
    arguments = parser.parse_args()
    size, until = Size(arguments.toy), time.monotonic() + arguments.seconds
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for case in size.cases if arguments.timed else ():
        left = until - time.monotonic()
        if left < (0 if arguments.toy else LEAST):
            write(arguments.timed, {"case": case.name, "form": case.form, "left_out": f"{max(left, 0):.0f} s were left"})
            continue
        write(arguments.timed, measure(case, size, device, arguments.seed, until))
        reset_peak(device)
    for case in size.counted if arguments.counted else ():
        write(arguments.counted, estimate(case, size))


if __name__ == "__main__":
    main()
