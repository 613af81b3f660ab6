"""The embedded world: scenes, captions, image sets and the shipped models (pipeline folders, scorers, an oracle)."""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
PIPELINE = ASSETS / "pipeline"  # an ordinary diffusers StableDiffusionPipeline folder
FLOW = ASSETS / "flow"
MODELS = {"shapes": PIPELINE, "shapes-flow": FLOW / "pipeline"}  # what a model is called -> its folder, an ordinary diffusers pipeline
MAKERS = {"shapes": "python -m selfimprove_lab.pretrain", "shapes-flow": "python -m selfimprove_lab.pretrain.flow"}  # of their weights
