"""python -m benchmarks.training_memory: compare the plan's memory with the peak of real training steps on this device.

Each case trains three steps in a process of its own. On a CPU the peak is the process's resident memory less its value before the steps. On
a GPU the peak is what torch allocated. `held` counts the tensors alone, as the plan does. The command writes
book/results/training_memory_<device>.json.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from selfimprove.batches import TrainingSet
from selfimprove.data.latents import build_store
from selfimprove.files import write_json
from selfimprove.models.lora import Adapters
from selfimprove.models.pipeline import load_diffuser
from selfimprove.models.resolve import resolve_model
from selfimprove.opponent import LiveOpponent, precompute
from selfimprove.planning.costs import Held, Shapes, training_memory
from selfimprove.presets import PRESETS
from selfimprove.run_folder import provenance
from selfimprove.train import train

CASES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "four times the batch": {"batch": 192},
    "four times the batch, checkpointed": {"batch": 192, "gradient_checkpointing": True},
    "adapter of rank 8": {"lora_rank": 8},
    "opponent kept as numbers": {"kept": True},
}
STEPS = 3


def measure(case: str, model: str) -> dict[str, Any]:
    """Return the estimate and the measured peak of one case, in MB, and the seconds per step; to be called once per process."""
    changes = dict(CASES[case])
    kept = changes.pop("kept", False)
    device = PartialState().device
    diffuser = load_diffuser(resolve_model(model), device)
    settings = replace(PRESETS["shapes-spin"].settings, steps=STEPS, **changes)
    live = not kept and not settings.lora_rank
    shapes = Shapes.of(diffuser)
    planned = training_memory(shapes, settings, live)
    estimate = planned.peak - planned.pipeline  # the pipeline is loaded before the count begins
    n, shape = settings.batch, diffuser.latent_shape

    def latents(rows: range) -> dict[str, torch.Tensor]:
        return {"mean": torch.randn(len(rows), *shape), "std": torch.ones(len(rows), *shape)}

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = build_store(folder / "text", 2, lambda r: dict(diffuser.embed(["", "a star"][r.start : r.stop]).tensors), "text")
        stores = [build_store(folder / side, n, latents, side) for side in ("real", "generated")]
        data = TrainingSet(tuple(map(str, range(n))), [1] * n, text, *stores)
        opponent: Any = None
        if kept:
            network = diffuser.load_denoiser(diffuser.folder)
            opponent = precompute(folder / "opponent", network, "opponent", data, diffuser.schedule, settings, 0, 1)
            del network
        gc.collect()
        before = _reset_peak(device)
        with (held := Held()):
            player = diffuser.load_denoiser(diffuser.folder).requires_grad_(True)
            if settings.lora_rank:
                adapters = Adapters(player, diffuser.family, settings.lora_rank, settings.lora_alpha)
                adapters.add_player(None, 0, 1)
            if not kept:
                opponent = LiveOpponent(adapters.opponent(None) if settings.lora_rank else diffuser.load_denoiser(diffuser.folder))
            start = time.perf_counter()
            train(player, opponent, data, diffuser.schedule, settings, 0, 1, folder / "work")
            seconds = (time.perf_counter() - start) / STEPS
        peak = _peak(device) - before
    sizes = {"estimate_mb": estimate, "held_mb": held.peak, "measured_mb": peak}
    return {"case": case, **{k: round(v / 1e6, 1) for k, v in sizes.items()}, "seconds_per_step": round(seconds, 3)}


def _reset_peak(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(name: str, process: int | str = "self") -> int:
    line = next(s for s in Path(f"/proc/{process}/status").read_text().splitlines() if s.startswith(name + ":"))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case, arguments.model)))
        return
    rows = []
    for case in CASES:
        command = [sys.executable, "-m", "benchmarks.training_memory", "--case", case, "--model", arguments.model]
        rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    out = Path("book/results") / f"training_memory_{PartialState().device.type}.json"
    write_json(out, {"model": arguments.model, "cases": rows, "provenance": provenance()})


if __name__ == "__main__":
    main()
