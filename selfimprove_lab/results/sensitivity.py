"""Measure what a scorer notices: the same images blurred, faded, recoloured, cropped, mirrored, or with another image's caption."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from scipy.ndimage import gaussian_filter
from torch import Tensor

from selfimprove.evaluation.statistics import bootstrap_interval
from selfimprove.scorers import Scorer

Images = Float[Tensor, "b 3 h w"]


def blurred(images: Images, width: float = 0.03) -> Images:
    """Blur images with a Gaussian; `width` is its standard deviation as a share of the image's width."""
    sigma = width * images.shape[-1]
    return torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="nearest")).clamp(0, 1)


def recoloured(images: Images, turn: float = 0.5) -> Images:
    """Turn every hue by the share `turn` of the colour circle; grey stays grey."""
    hsv = rgb_to_hsv(images.permute(0, 2, 3, 1).numpy())
    hsv[..., 0] = (hsv[..., 0] + turn) % 1
    return torch.from_numpy(hsv_to_rgb(hsv)).permute(0, 3, 1, 2).float().contiguous()


def faded(images: Images, keep: float = 0.4) -> Images:
    """Draw colours towards their own grey; `keep` is the share of the colour that stays, in [0, 1]."""
    grey = images.mean(1, keepdim=True)
    return grey + keep * (images - grey)


def cropped(images: Images, keep: float = 0.6) -> Images:
    """Cut out the middle of each image, the share `keep` of either side, and enlarge it to the image's size."""
    height, width = images.shape[-2:]
    top, left = round(height * (1 - keep) / 2), round(width * (1 - keep) / 2)
    middle = images[..., top : height - top, left : width - left]
    return F.interpolate(middle, size=(height, width), mode="bicubic", antialias=True).clamp(0, 1)


def mirrored(images: Images) -> Images:
    """Exchange left and right: a control, because hardly any caption depends on it."""
    return images.flip(-1)


PERTURBATIONS: dict[str, Callable[[Images], Images]] = {
    "blurred": blurred, "faded": faded, "recoloured": recoloured, "cropped": cropped, "mirrored": mirrored,
}  # fmt: skip
WRONG_CAPTION = "wrong caption"


def other_captions(prompts: Sequence[str]) -> list[str]:
    """Return for each image the next different caption in the list.

    Raises:
        ValueError: all captions are the same.
    """
    if len(set(prompts)) < 2:
        raise ValueError("prompts are all the same; a wrong caption needs at least two different ones")
    found = []
    for i, own in enumerate(prompts):
        found.append(next(p for p in [*prompts[i + 1 :], *prompts[: i + 1]] if p != own))
    return found


def sensitivity(scorers: Mapping[str, Scorer], images: Images, prompts: Sequence[str]) -> pd.DataFrame:
    """Return the change of every score under every perturbation, in standard deviations of that score over the untouched images.

    A score that is the same for all untouched images changes in its own units. Columns: change (the perturbation), scorer, mean, low, high
    (95 % over images). Images have values in [0, 1], before and after.
    """
    rows = []
    for name, scorer in scorers.items():
        before = scorer(images, prompts).double()
        spread = float(before.std()) or 1.0
        changed = {kind: scorer(perturb(images), prompts) for kind, perturb in PERTURBATIONS.items()}
        changed[WRONG_CAPTION] = scorer(images, other_captions(prompts))
        for kind, after in changed.items():
            difference = ((after.double() - before) / spread).numpy().astype(np.float64)
            low, high = bootstrap_interval(difference)
            rows.append({"change": kind, "scorer": name, "mean": float(difference.mean()), "low": low, "high": high})
    return pd.DataFrame(rows)
