"""Scorers: images and prompts in, one float an image out. Learned judges of text alignment, preference and looks.

All take images (tensors in [0, 1], or PIL images of any size and mode) and as many prompts. Each keeps its own preprocessing. Three
families: the shapes world's own, the published ones, and the oracle, which must not select.
"""

from selfimprove.scorers.clip import AestheticScorer, ClipScorer
from selfimprove.scorers.embedded import SHAPES_SCORERS
from selfimprove.scorers.families import load_scorers
from selfimprove.scorers.heads import AestheticHead
from selfimprove.scorers.images import ScorerError, black_images
from selfimprove.scorers.interface import BatchScorer, BlackImageWarning, Scorer, resident_memory
from selfimprove.scorers.nearest import nearest_real
from selfimprove.scorers.published import PUBLISHED

__all__ = [
    "PUBLISHED", "SHAPES_SCORERS", "AestheticHead", "AestheticScorer", "BatchScorer", "BlackImageWarning", "ClipScorer", "Scorer",
    "ScorerError", "black_images", "load_scorers", "nearest_real", "resident_memory",
]  # fmt: skip
