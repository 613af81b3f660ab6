"""python -m benchmarks.rsi_stages: measure time and peak memory of the stages of recursive self-improvement that grow with the data.

There are two such stages: distances of 5,000 latents to 5,000 references of Stable Diffusion's size, and K-means with 1,000 clusters on the
embeddings of 172,000 prompts of the shapes grammar. Each case runs in a process of its own. The command writes
book/results/rsi_stages.json.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from selfimprove.files import write_json
from selfimprove.models.pipeline import load_diffuser
from selfimprove.recursion.prompts import embed_all, spread
from selfimprove.recursion.weighting import distances
from selfimprove.run_folder import provenance
from selfimprove.shapes import PIPELINE
from selfimprove.shapes.captions import collected_prompts

OUT = Path("book/results/rsi_stages.json")


def measure(case: str, count: int) -> dict[str, Any]:
    """Return the seconds of the stage alone, and the peak memory of the process, its input included."""
    facts: dict[str, Any] = {"case": case, "count": count}
    if case == "distances":
        ids = [str(i) for i in range(count)]
        latents, references = (torch.randn(count, 4, 64, 64, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
        start = time.perf_counter()
        distances(latents, ids, references, [f"r{i}" for i in ids])
    else:
        prompts = collected_prompts(count, 0)
        facts["different_prompts"] = len(set(prompts))
        diffuser = load_diffuser(PIPELINE, torch.device("cpu"))
        start = time.perf_counter()
        embeddings = embed_all(prompts, diffuser.embed_pooled)
        facts["seconds_embedding"] = round(time.perf_counter() - start, 1)
        facts["width"] = embeddings.shape[1]
        start = time.perf_counter()
        spread(embeddings, min(1000, count // 10), 40_000 * count // 172_000, seed=0)
    facts["seconds"] = round(time.perf_counter() - start, 1)
    facts["peak_gigabytes"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2)
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rsi_stages", description=__doc__)
    parser.add_argument("--case", choices=["distances", "prompts"], help="measure one in this process and print it")
    parser.add_argument("--count", type=int, default=0, help="default: 5,000 latents, 172,000 prompts")
    arguments = parser.parse_args()
    sizes = {"distances": arguments.count or 5000, "prompts": arguments.count or 172_000}
    if arguments.case:
        print(json.dumps(measure(arguments.case, sizes[arguments.case])))
        return
    rows = []
    for case, count in sizes.items():
        command = [sys.executable, "-m", "benchmarks.rsi_stages", "--case", case, "--count", str(count)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    write_json(OUT, {"cases": rows, "provenance": provenance()})


if __name__ == "__main__":
    main()
