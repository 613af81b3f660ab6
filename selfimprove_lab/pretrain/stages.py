"""What the pretrainings of all worlds share: the command line, the autoencoder's stage, and writing a pipeline folder."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DiffusionPipeline

from selfimprove.processes import choose_device
from selfimprove_lab.pretrain.fit import Workshop
from selfimprove_lab.pretrain.vae import train_vae

SHIPPED = torch.float16


def run_stages(stages: Callable[[Workshop], None], module: str, description: str | None, default: Path | None = None) -> None:
    """Read the command line of `module`, run its stages, and remove the checkpoints unless they are to be kept."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    where = f"folder to write (default: {'the assets of the package' if default else 'none'})"
    parser.add_argument("--out", type=Path, default=default, required=default is None, help=where)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="", help="cpu, cuda, ...; default: a GPU if there is one")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the training steps, to check that the code runs")
    parser.add_argument("--keep-checkpoints", action="store_true")
    arguments = parser.parse_args()
    workshop = Workshop(arguments.out, choose_device(arguments.device), arguments.seed, arguments.scale)
    stages(workshop)
    if not arguments.keep_checkpoints:
        shutil.rmtree(workshop.folder / "checkpoints", ignore_errors=True)


def load_autoencoder(workshop: Workshop) -> AutoencoderKL:
    """Return the autoencoder of `pipeline/vae`, in single precision. Train the autoencoder and write the folder if there is none."""
    folder = workshop.folder / "pipeline" / "vae"
    if not folder.exists():
        train_vae(workshop).to(SHIPPED).save_pretrained(folder)
    return AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).to(workshop.device).eval()


def save_pipeline(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Write a pipeline in half precision, which is for the disk only: text encoders load in single precision."""
    pipeline.to("cpu", SHIPPED).save_pretrained(folder)
    for config in folder.glob("text_encoder*/config.json"):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
