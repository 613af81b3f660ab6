"""Heads of reward models: linear layers without activations between them."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn


class RewardHead(nn.Module):
    """Linear layers of the given widths, down to one value; a dropout after each of the first ones, no activations.

    Dropouts have an index of their own in `layers`, so that the parameters' names are those of the published state dicts.
    """

    def __init__(self, widths: Sequence[int], dropouts: Sequence[float]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(pairwise([*widths, 1])):
            layers += [nn.Linear(inputs, outputs), *(nn.Dropout(p) for p in dropouts[index : index + 1])]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        return self.layers(features)[:, 0]


class AestheticHead(RewardHead):
    """The embedded world's head on L2-normalised CLIP image features, as LAION's predictor has it, only smaller; about 1..10."""

    def __init__(self, width: int) -> None:
        super().__init__((width, 128, 32), (0.1,))


def published_head(width: int = 768) -> RewardHead:
    """768-1024-128-64-16-1, as published for LAION's aesthetic predictor v2, and in ImageReward."""
    return RewardHead((width, 1024, 128, 64, 16), (0.2, 0.2, 0.1))
