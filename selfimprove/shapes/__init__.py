"""The embedded world: scenes, captions, image sets and the shipped models (a pipeline folder, scorers, an oracle)."""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
PIPELINE = ASSETS / "pipeline"  # an ordinary diffusers StableDiffusionPipeline folder
