"""python -m benchmarks.real_size WORK: play a round at Stable Diffusion 1.5's true size by the command line; the plan beside what it took.

The weights are random, which changes neither time nor memory. The command writes a pipeline folder (4.3 GB) and six images of 512 pixels
into WORK, then plays `python -m selfimprove spin --preset sd15-spin-lora` on four of them, with two training steps, in a process that this
one watches: the system's peak of its resident memory in every stage. It takes some minutes of a CPU and 12 GB of memory, and writes
book/results/real_size_<device>.json. With --toy the networks are tiny, to check that the code runs, and nothing is written.
"""

import argparse
import json
import os
import runpy
import subprocess
import sys
import time
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.gpu_networks import Size
from benchmarks.training_memory import _status
from selfimprove.files import write_json
from selfimprove.planning import plan as planning
from selfimprove.planning import timing
from selfimprove.planning.costs import count_flops, evaluation_memory, sampling_memory, training_memory
from selfimprove.planning.timing import Seconds
from selfimprove.planning.work import count
from selfimprove.presets import PRESETS, Preset
from selfimprove.run_folder import provenance

PRESET = "sd15-spin-lora"
IMAGES, STEPS = 4, 2
CHANGES: dict[str, Any] = {
    "samples": IMAGES, "validation": 1, "steps": STEPS, "batch": 2, "micro_batch": 1, "rollout_steps": 2, "rollout_batch": 4,
    "evaluation_prompts": 2, "evaluation_steps": 2, "on_collapse": "ignore",
}  # fmt: skip
PLANNED = {  # stages of a run folder -> those of the plan that they hold
    "round 0: evaluation": ("held-out latents", "evaluation", "scoring", "held-out error"),
    "before round 1: rollout": ("real",),
    "round 1: rollout": ("rollout",),
    "round 1: training": ("opponent", "training"),
    "round 1: evaluation": ("evaluation", "scoring", "held-out error"),
}


def changed() -> Preset:
    """Return the preset with the numbers of this trial."""
    return PRESETS[PRESET].changed(**CHANGES)


def make_inputs(work: Path, toy: bool, seed: int) -> tuple[Path, Path]:
    """Write the pipeline's folder with random weights and the images with their captions, unless they are there; return both."""
    model, data, size = work / "model", work / "data", Size(toy)
    if not (model / "model_index.json").exists():
        size.networks(torch.device("cpu"), seed).pipeline.save_pretrained(model)
    data.mkdir(parents=True, exist_ok=True)
    height, width = size.shapes().image
    draws = np.random.default_rng(seed)
    lines = []
    for index in range(IMAGES + 2):  # one is kept out to validate, one to test
        coarse = Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(data / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", "text": f"a red star above a blue circle, number {index}"}))
    (data / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return model, data


def play(seconds_file: str, arguments: list[str]) -> None:
    """Run the command line in this process, and write down what the plan timed, in seconds of the processor."""
    import_module("selfimprove.rounds")  # everything that a run imports
    timed, libraries, timing.clock = planning.measure, _status("VmRSS"), time.process_time

    def noting(*given: Any, **named: Any) -> Any:
        seconds, memory = timed(*given, **named)
        Path(seconds_file).write_text(json.dumps({"seconds": seconds._asdict(), "libraries_bytes": libraries}))
        return seconds, memory

    planning.measure = noting  # type: ignore[assignment]
    sys.argv = ["selfimprove", *arguments]
    runpy.run_module("selfimprove", run_name="__main__", alter_sys=True)


def stage_of(run: Path) -> str:
    """Return the stage that a run folder is in: "round 1: training", or "" between stages."""
    begun = sorted(run.glob("round_*/*.begun.json"))
    return f"round {begun[0].parent.name.removeprefix('round_')}: {begun[0].name.removesuffix('.begun.json')}" if begun else ""


def processor(process: int) -> float:
    """Return the seconds of processor that a process has had."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watch(process: "subprocess.Popen[str]", run: Path) -> list[dict[str, Any]]:
    """Return seconds, also of the processor, and peak of resident memory of every stage of a running process, in order.

    `peak_bytes` is the system's own maximum of resident memory, set back where a stage begins; it counts the mapped part of files.
    `private_bytes` leaves that out, and is the largest of samples, twenty in a second.
    """
    reset, found = Path(f"/proc/{process.pid}/clear_refs"), list[dict[str, Any]]()
    stage, begun, peak, private, had, used = None, time.perf_counter(), 0, 0, 0.0, 0.0
    while True:
        ended = process.poll() is not None
        now = None if ended else stage_of(run)
        if now != stage:
            if stage is not None:
                spent = time.perf_counter() - begun
                name = stage or (f"before {now}" if now else "closing")
                said = {"stage": name if found else "set-up and plan", "seconds": spent, "processor_seconds": used - had}
                found.append(said | {"peak_bytes": peak, "private_bytes": private})
            stage, begun, peak, private, had = now, time.perf_counter(), 0, 0, used
            if not ended:
                reset.write_text("5")
        if ended:
            return found
        try:
            peak, private = max(peak, _status("VmHWM", process.pid)), max(private, _status("RssAnon", process.pid))
            used = processor(process.pid)
        except (OSError, StopIteration, IndexError):  # it is ending
            pass
        time.sleep(0.05)


def planned(toy: bool, seconds: Seconds) -> dict[str, dict[str, float]]:
    """Return the plan's seconds and peak bytes of every stage."""
    preset, shapes = changed(), replace(Size(toy).shapes(), device="cpu")
    settings, flops = preset.for_round(1), count_flops(shapes, preset.settings)
    prompts = CHANGES["evaluation_prompts"]
    counts = [count(preset, index, IMAGES, prompts, held_out=1) for index in (0, 1)]
    drawing = sampling_memory(shapes, settings, settings.guidance, IMAGES).peak
    judging = evaluation_memory(shapes, settings, [], 0, prompts).peak
    memory = {"training": training_memory(shapes, settings, live_opponent=False).peak, "rollout": drawing, "evaluation": judging}
    found = {}
    for stage, parts in PLANNED.items():
        work = counts[int(stage.partition("round ")[2][0])].stages
        took = sum(seconds.of(work[part], flops.step / flops.forward) for part in parts)
        name = "" if "before" in stage else stage.rpartition(": ")[2]
        found[stage] = {"planned_seconds": took, "planned_bytes": memory.get(name, 0)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_size", description=__doc__)
    parser.add_argument("work", type=Path, help="a folder for the weights, the images and the run; it may be deleted afterwards")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--play", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        play(options.play[0], options.play[1:])
        return
    options.work.mkdir(parents=True, exist_ok=True)
    model, data = make_inputs(options.work, options.toy, options.seed)
    run = options.work / f"run-{time.time_ns()}"
    changes = ", ".join(f"{name}={value}" for name, value in CHANGES.items())
    command = ["spin", "--scorers", "none", "--iter", "1", "--preset", PRESET, "--model", str(model), "--run", str(run),
               "--data", str(data), "--seed", str(options.seed), "--device", "cpu", "--set", changes]  # fmt: skip
    start, output = time.perf_counter(), options.work / "output.txt"
    with output.open("w") as lines:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.real_size", str(options.work), "--play", str(options.work / "seconds.json"), *command],
            stdout=lines, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        stages = watch(process, run)
    whole = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"the run failed: {output.read_text()[-1000:]}")
    said = [line for line in output.read_text().splitlines() if line.startswith(("memory", "round ", "in all", "operations"))]
    noted = json.loads((options.work / "seconds.json").read_text())
    beside = planned(options.toy, Seconds(**noted["seconds"]))
    rows = [stage | beside.get(stage["stage"], {}) for stage in stages]
    for row in rows:
        print({name: round(value / 1e9, 2) if "bytes" in name else value for name, value in row.items()}, flush=True)
    shown = " ".join(["python -m selfimprove", *command]).replace(str(options.work), "WORK").replace(run.name, "run")
    result = {
        "command": shown, "settings": asdict(changed().for_round(1)), "images": IMAGES, "seconds": whole, "stages": rows,
        "libraries_bytes": noted["libraries_bytes"], "timed_seconds": noted["seconds"],
        "plan_said": [line.replace(str(options.work), "WORK") for line in said], "load": os.getloadavg(), "provenance": provenance(),
    }  # fmt: skip
    if not options.toy:
        write_json(Path("book/results/real_size_cpu.json"), result)


if __name__ == "__main__":
    main()
