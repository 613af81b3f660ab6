"""python -m benchmarks.exact_objective: measure time and peak memory of one gradient of the exact and the approximate objective.

The exact objective (4.8) is measured on the embedded UNet for T = 10, 50, 100 and 1000 steps in its two-pass form, whose memory should not
grow with T. Up to T = 100 the exact objective is also measured as one graph, whose memory grows with T. (4.9) at one t per example is the
comparison. Each case runs in a process of its own. The command writes book/results/exact_objective.json.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch

from selfimprove import draws
from selfimprove.files import write_json
from selfimprove.models.pipeline import load_diffuser
from selfimprove.run_folder import provenance
from selfimprove.shapes import PIPELINE
from selfimprove_lab.theory import exact
from selfimprove_lab.theory.paths import noising_trajectory, trajectory

OUT = Path("book/results/exact_objective.json")
CLEAR = Path("/proc/self/clear_refs")
CAPTIONS = ["a large red star on a white background", "a small blue moon on a black background"]
CASES = [
    (form, steps) for steps in (10, 50, 100, 1000) for form in ("two passes", "one graph", "one t") if form != "one graph" or steps <= 100
]


def megabytes() -> float:
    """Return the peak resident memory of this process in MiB, since its start or since the last reset."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(form: str, steps: int) -> dict[str, float | str | int]:
    """Measure one case: make the paths, then time one gradient and record what the gradient adds to the peak memory."""
    diffuser = load_diffuser(PIPELINE, torch.device("cpu"))
    opponent = diffuser.load_denoiser(PIPELINE)
    diffuser.denoiser.requires_grad_(True)
    ids = [draws.example_id(c) for c in CAPTIONS]
    text, empty = diffuser.embed(CAPTIONS), diffuser.embed([""])
    count = None if steps == len(diffuser.schedule) else steps
    generated = trajectory(diffuser, opponent, text, empty, ids, 0, "benchmark", 0, count, 1.0)
    clean = draws.normal(0, "clean", (0,), ids, diffuser.latent_shape)
    real = noising_trajectory(diffuser, clean, ids, 0, "benchmark real", 0, generated.steps)
    game = exact.Game(diffuser, diffuser.denoiser, opponent, real, generated, text)
    if form == "one t":  # paths of a single step, which is what training holds
        middle = steps // 2
        game = game._replace(real=single(real, middle), generated=single(generated, middle))
    stored = (game.real.states.nbytes + game.generated.states.nbytes) / 2**20
    if CLEAR.exists():  # on Linux, reset the peak, so that the memory for making the paths does not hide what the gradient adds
        CLEAR.write_text("5")
    before = megabytes()
    start = time.perf_counter()
    if form == "one graph":
        exact.exact(game, 1.0).loss.mean().backward()
    else:
        exact.exact_backward(game, 1.0)
    return {
        "form": form,
        "T": steps,
        "seconds": time.perf_counter() - start,
        "peak added (MB)": megabytes() - before,
        "paths (MB)": round(stored, 1),
    }


def single(path: exact.Trajectory, index: int) -> exact.Trajectory:
    """Return one step of a path as a path of its own."""
    return exact.Trajectory(
        path.steps[index : index + 1], path.states[index : index + 2], path.noise[index : index + 1], path.log_prob[index : index + 1]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exact_objective", description=__doc__)
    parser.add_argument("--case", nargs=2, metavar=("FORM", "T"), help="measure one case and print it as JSON")
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case[0], int(arguments.case[1]))))
        return
    rows = []
    for form, steps in CASES:
        command = [sys.executable, "-m", "benchmarks.exact_objective", "--case", form, str(steps)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(json.loads(output.splitlines()[-1]))
        print(f"{form}, T = {steps}: {rows[-1]['seconds']:.1f} s, {rows[-1]['peak added (MB)']:.0f} MB added", flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    write_json(OUT, {"rows": rows, "examples": len(CAPTIONS), "provenance": provenance()})
    print(pd.DataFrame(rows).round(1).to_string(index=False))


if __name__ == "__main__":
    main()
