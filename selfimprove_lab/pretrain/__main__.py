"""Rebuild every shipped weight from scratch, deterministically on one machine: python -m selfimprove_lab.pretrain.

It takes about six hours of one core, nearly all of them the UNet's, and the same code runs on a GPU. A killed run continues from its
last checkpoint.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer

from selfimprove.shapes import ASSETS
from selfimprove.shapes.oracle import Oracle, load_oracle
from selfimprove.shapes.render import IMAGE_SIZE
from selfimprove_lab.pretrain.card import write_card
from selfimprove_lab.pretrain.fit import Workshop
from selfimprove_lab.pretrain.generator import train_generator
from selfimprove_lab.pretrain.oracle import train_oracle
from selfimprove_lab.pretrain.scorers import train_scorers
from selfimprove_lab.pretrain.stages import SHIPPED, load_autoencoder, run_stages, save_pipeline
from selfimprove_lab.pretrain.text import train_text_encoder
from selfimprove_lab.pretrain.tokenizer import train_tokenizer


def _save_head(module: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.to("cpu", SHIPPED).contiguous() for k, v in module.state_dict().items()}, path)


def _oracle(workshop: Workshop, vae: AutoencoderKL) -> Oracle:
    if not (workshop.folder / "oracle.safetensors").exists():
        _save_head(train_oracle(workshop, vae), workshop.folder / "oracle.safetensors")
    return load_oracle(workshop.folder).to(workshop.device)


def _text_encoder(workshop: Workshop, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    folder = workshop.folder / "pipeline" / "text_encoder"
    if not folder.exists():
        train_text_encoder(workshop, tokenizer).to("cpu", SHIPPED).save_pretrained(folder)
    return CLIPTextModel.from_pretrained(folder, dtype=torch.float32).to(workshop.device).eval()


def _generator(workshop: Workshop, vae: AutoencoderKL) -> StableDiffusionPipeline:
    folder = workshop.folder / "pipeline"
    if not (folder / "model_index.json").exists():
        tokenizer = train_tokenizer()
        save_pipeline(train_generator(workshop, vae, tokenizer, _text_encoder(workshop, tokenizer)), folder)
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


def stages(workshop: Workshop) -> None:
    """Train what is not there yet, in order, and write the card."""
    vae = load_autoencoder(workshop)
    oracle = _oracle(workshop, vae)
    pipeline = _generator(workshop, vae)
    _scorers(workshop, pipeline)
    write_card(workshop, pipeline, oracle)


if __name__ == "__main__":
    run_stages(stages, "selfimprove_lab.pretrain", __doc__, ASSETS)
