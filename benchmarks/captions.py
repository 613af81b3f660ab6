"""python -m benchmarks.captions: what a round costs beside its networks, with 500, 5,000 and 50,000 captions.

Each count is a run of `python -m selfimprove spin` of its own, on the embedded model, whose networks answer at once (`stub`): what is left
is reading and checking images, drawing noise, batches, hashing and writing. Seconds are the processor's, with one thread. Beside them stand
the seconds that the plan gives the networks, the embedded model's and Stable Diffusion 1.5's at 30 % of an H100's peak. The command writes
book/results/captions.json; it takes some minutes and 2 GB of disk. --counts 500 takes other counts, and writes nothing.
"""

import argparse
import io
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from PIL import Image

from benchmarks.training_memory import _status
from selfimprove.files import write_json
from selfimprove.models.pipeline import load_diffuser
from selfimprove.planning import plan as planning
from selfimprove.planning import timing
from selfimprove.planning.costs import Flops, count_flops
from selfimprove.planning.plan import PEAKS, REACHED
from selfimprove.planning.timing import Seconds
from selfimprove.planning.work import count, operations
from selfimprove.presets import PRESETS, Preset
from selfimprove.run_folder import provenance
from selfimprove.shapes import PIPELINE
from selfimprove_lab.results.true_sizes import true_size

OUT = Path("book/results/captions.json")
COUNTS = (500, 5000, 50_000)
SIDE, JUDGED, GROUP = 64, 256, 1000


def preset(captions: int) -> Preset:
    """Return self-play's preset of the embedded world with so many captions, each of which is drawn for and trained on once."""
    return PRESETS["shapes-spin"].changed(samples=captions, validation=64, steps=max(1, captions // 48), on_collapse="ignore")


def write_images(folder: Path, captions: int) -> None:
    """Write a shard of so many small images with different captions, as PNG."""
    draws = np.random.default_rng(0)
    folder.mkdir(parents=True)
    schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "text": pa.string()})
    with pq.ParquetWriter(folder / "train-00000-of-00001.parquet", schema) as file:
        for start in range(0, captions + JUDGED + 64, GROUP):
            rows: dict[str, list[Any]] = {"image": [], "text": []}
            for number in range(start, min(start + GROUP, captions + JUDGED + 64)):
                image = Image.fromarray(draws.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((SIDE, SIDE))
                image.save(written := io.BytesIO(), "PNG")
                rows["image"].append({"bytes": written.getvalue(), "path": f"{number}.png"})
                rows["text"].append(f"a red star above a blue circle, number {number}")
            file.write_table(pa.Table.from_pydict(rows, schema=schema))


def stub() -> None:
    """Have the networks return noise-free answers of the right shapes at once; the denoiser's depends on one weight, so that it trains."""

    def denoise(self: Any, sample: torch.Tensor, *given: Any, **named: Any) -> Any:
        return UNet2DConditionOutput(sample=sample * (1 + self.conv_out.bias[0]))

    def encode(self: Any, images: torch.Tensor, *given: Any, **named: Any) -> Any:
        side = images.shape[-1] // 2 ** (len(self.config.block_out_channels) - 1)
        moments = images.new_zeros(len(images), 2 * self.config.latent_channels, side, side)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))

    def decode(self: Any, latents: torch.Tensor, *given: Any, **named: Any) -> Any:
        side = latents.shape[-1] * 2 ** (len(self.config.block_out_channels) - 1)
        return DecoderOutput(sample=latents.new_zeros(len(latents), 3, side, side))

    for kind, name, answer in (
        (UNet2DConditionModel, "forward", denoise), (AutoencoderKL, "encode", encode), (AutoencoderKL, "decode", decode),
    ):  # fmt: skip
        setattr(kind, name, answer)


def play(folder: Path, captions: int) -> None:
    """Run the command line in this process without the time of its networks, and print what it took."""
    torch.set_num_threads(1)
    timed, ready = planning.plan, []

    def noting(*given: Any) -> Any:
        ready.append(time.process_time())
        made = timed(*given)
        ready.append(time.process_time())
        stub()
        return made

    planning.plan = noting  # type: ignore[assignment]
    imported, base = time.process_time(), _status("VmRSS")
    changes = f"samples={captions}, validation=64, steps={max(1, captions // 48)}, on_collapse=ignore, evaluation_prompts={JUDGED}"
    sys.argv = ["selfimprove", "spin", "--iter", "1", "--preset", "shapes-spin", "--data", str(folder / "images"), "--run",
                str(folder / "run"), "--device", "cpu", "--set", changes]  # fmt: skip
    runpy.run_module("selfimprove", run_name="__main__", alter_sys=True)
    end = time.process_time()
    files = [p for p in (folder / "run").rglob("*") if p.is_file()]
    weights = sum(p.stat().st_size for p in files if "pipeline" in p.parts or "training" in p.parts)
    stages = {
        f"round {index} {name}": stage["seconds"]
        for index in (0, 1)
        for name, stage in json.loads((folder / "run" / f"round_{index}" / "manifest.json").read_text())["stages"].items()
    }
    said = {
        "captions": captions, "set_up_seconds": ready[0] - imported, "plan_seconds": ready[1] - ready[0], "seconds": end - ready[1],
        "bytes": sum(p.stat().st_size for p in files) - weights, "bytes_of_weights": weights, "stages": stages,
        "peak_bytes": _status("VmHWM"), "private_bytes": _status("RssAnon"), "libraries_bytes": base,
    }  # fmt: skip
    Path(folder / "said.json").write_text(json.dumps(said))


def networks(captions: int, seconds: Seconds, small: Flops, large: Flops) -> dict[str, float]:
    """Return the seconds of the networks in a run of so many captions: measured on the embedded model, counted for Stable Diffusion 1.5."""
    shapes = [count(preset(captions), index, captions, JUDGED) for index in (0, 1)]
    on_embedded = sum(seconds.of(c.total, small.step / small.forward) for c in shapes)
    real = PRESETS["sd15-spin"].changed(samples=captions, steps=1, epochs=1, batch=48)
    peak = PEAKS["an H100 or H200"][0]
    on_card = sum(operations(count(real, index, captions, JUDGED), large) for index in (0, 1)) / peak / REACHED
    return {"embedded_network_seconds": on_embedded, "sd15_network_seconds": on_card}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.captions", description=__doc__)
    parser.add_argument("--counts", type=int, nargs="*", default=[])
    parser.add_argument("--play", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        play(Path(options.play[0]), int(options.play[1]))
        return
    torch.set_num_threads(1)
    embedded = load_diffuser(PIPELINE, torch.device("cpu"))
    timing.clock = time.process_time
    seconds, _ = timing.measure(embedded, {}, 16)
    small = count_flops(planning.Shapes.of(load_diffuser(PIPELINE, torch.device("cpu"))), preset(500).settings)
    large = count_flops(true_size("sd15"), PRESETS["sd15-spin"].settings)
    rows = []
    for captions in options.counts or COUNTS:
        with tempfile.TemporaryDirectory() as name:
            write_images(Path(name) / "images", captions)
            command = [sys.executable, "-m", "benchmarks.captions", "--play", name, str(captions)]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"})
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            rows.append(json.loads((Path(name) / "said.json").read_text()) | networks(captions, seconds, small, large))
        print(rows[-1], flush=True)
    if not options.counts:
        write_json(OUT, {"rows": rows, "forward_seconds": seconds.forward, "load": os.getloadavg(), "provenance": provenance()})


if __name__ == "__main__":
    main()
