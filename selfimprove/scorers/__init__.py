"""Scorers take images and prompts and return one float per image. Learned scorers judge text alignment, preference and looks.

All take images (tensors in [0, 1], or PIL images of any size and mode) and one prompt per image. Each does its own preprocessing. To add a
published scorer, add one entry to `published.PUBLISHED_SCORERS`; to add a family, add one to `registry.SCORER_FAMILIES`.
"""

from selfimprove.scorers.clip import AestheticHead, AestheticScorer, ClipScorer
from selfimprove.scorers.embedded import SHAPES_SCORERS
from selfimprove.scorers.images import ScorerError, black_images
from selfimprove.scorers.interface import BatchScorer, BlackImageWarning, Scorer, in_turn, resident_memory
from selfimprove.scorers.published import PUBLISHED_SCORERS
from selfimprove.scorers.registry import load_scorers

__all__ = [
    "PUBLISHED_SCORERS", "SHAPES_SCORERS", "AestheticHead", "AestheticScorer", "BatchScorer", "BlackImageWarning", "ClipScorer", "Scorer",
    "ScorerError", "black_images", "in_turn", "load_scorers", "resident_memory",
]  # fmt: skip
