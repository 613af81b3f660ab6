"""Rebuild every shipped weight from scratch, deterministically on one machine: python -m selfimprove_lab.pretrain.

It takes about 85 minutes on two idle cores, and the same code runs on a GPU. A killed run continues from its last checkpoint.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPImageProcessor

from selfimprove.processes import choose_device
from selfimprove.shapes import ASSETS
from selfimprove.shapes.oracle import Oracle, load_oracle
from selfimprove.shapes.render import IMAGE_SIZE
from selfimprove_lab.pretrain.card import write_card
from selfimprove_lab.pretrain.fit import Workshop
from selfimprove_lab.pretrain.generator import train_generator
from selfimprove_lab.pretrain.oracle import train_oracle
from selfimprove_lab.pretrain.scorers import train_scorers
from selfimprove_lab.pretrain.tokenizer import train_tokenizer
from selfimprove_lab.pretrain.vae import train_vae

SHIPPED = torch.float16


def _save_head(module: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.to("cpu", SHIPPED).contiguous() for k, v in module.state_dict().items()}, path)


def _vae(workshop: Workshop) -> AutoencoderKL:
    folder = workshop.folder / "pipeline" / "vae"
    if not folder.exists():
        train_vae(workshop).to(SHIPPED).save_pretrained(folder)
    return AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).to(workshop.device).eval()


def _oracle(workshop: Workshop, vae: AutoencoderKL) -> Oracle:
    if not (workshop.folder / "oracle.safetensors").exists():
        _save_head(train_oracle(workshop, vae), workshop.folder / "oracle.safetensors")
    return load_oracle(workshop.folder).to(workshop.device)


def _generator(workshop: Workshop, vae: AutoencoderKL) -> StableDiffusionPipeline:
    folder = workshop.folder / "pipeline"
    if not (folder / "model_index.json").exists():
        pipeline = train_generator(workshop, vae, train_tokenizer())
        pipeline.to("cpu", SHIPPED).save_pretrained(folder)
        config = folder / "text_encoder" / "config.json"  # half precision is for the disk only: load as float32
        config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
        vae.to(workshop.device, torch.float32)
    return StableDiffusionPipeline.from_pretrained(folder).to(workshop.device)


def _scorers(workshop: Workshop, pipeline: StableDiffusionPipeline) -> None:
    folder = workshop.folder / "scorers"
    if (folder / "aesthetic.safetensors").exists():
        return
    models, head = train_scorers(workshop, pipeline.vae, pipeline.tokenizer)
    processor = CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=IMAGE_SIZE)
    for name, model in models.items():
        model.to("cpu", SHIPPED).save_pretrained(folder / name)
        pipeline.tokenizer.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    _save_head(head, folder / "aesthetic.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m selfimprove_lab.pretrain", description=__doc__)
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder to write (default: the package's own assets)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="", help="cpu, cuda, ...; default: a GPU if there is one")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the training steps, to check that the code runs")
    parser.add_argument("--keep-checkpoints", action="store_true")
    arguments = parser.parse_args()
    workshop = Workshop(arguments.out, choose_device(arguments.device), arguments.seed, arguments.scale)
    vae = _vae(workshop)
    oracle = _oracle(workshop, vae)
    pipeline = _generator(workshop, vae)
    _scorers(workshop, pipeline)
    write_card(workshop, pipeline, oracle)
    if not arguments.keep_checkpoints:
        shutil.rmtree(workshop.folder / "checkpoints", ignore_errors=True)


if __name__ == "__main__":
    main()
