"""Take a loss of obedience apart: images that the oracle no longer reads as a scene, and scenes with a wrong attribute."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

PARTS = ["no scene", "attributes", "share"]


def split_obedience(before: pd.DataFrame, after: pd.DataFrame) -> tuple[float, float]:
    """Split a change of obedience between two tables of images in the part of images that are no scene, and the part of the attributes.

    Obedience is the share S of images that are read as a scene times the share R of these with every stated attribute right. The oracle's
    quality is 0 exactly where an image is no scene. With means over both tables, the change of S times mean R, and of R times mean S, add
    up to the whole change.
    """
    scene = [float((t["oracle_quality"] > 0).mean()) for t in (before, after)]
    right = [float(t["oracle_all_right"].mean()) / s for t, s in zip((before, after), scene, strict=True)]
    return _split(scene[0], scene[1], right[0], right[1])


def _split(scene: Any, scene_after: Any, right: Any, right_after: Any) -> tuple[Any, Any]:
    """Return both parts of a change of S times R, for numbers and for arrays."""
    return (scene_after - scene) * (right + right_after) / 2, (right_after - right) * (scene + scene_after) / 2


@lru_cache(maxsize=16)
def split_with_interval(folder: Path, model: str, seeds: tuple[int, ...] = (0, 1, 2)) -> pd.DataFrame:
    """Return both parts of a model's change of obedience from the base, with intervals: rows "no scene", "attributes", and "share".

    `folder` holds one table of images per model (`evaluation_shapes/held-in`), and `model` holds {seed}. The interval resamples prompts,
    the same for every seed and for the base. "share" is the first part over the whole.
    """
    columns = ["prompt", "oracle_quality", "oracle_all_right"]
    tables = [pd.read_parquet(folder / f"{name}.parquet", columns=columns) for name in ("base", *(model.format(seed=s) for s in seeds))]
    stacked = np.stack([
        np.stack([(t["oracle_quality"] > 0).groupby(t["prompt"]).mean(), t.groupby("prompt")["oracle_all_right"].mean()]) for t in tables
    ])  # fmt: skip
    draws = np.random.default_rng(0).integers(stacked.shape[2], size=(1000, stacked.shape[2]))

    def parts(chosen: np.ndarray | slice) -> np.ndarray:
        scene, all_right = stacked[:, :, chosen].mean(2 if isinstance(chosen, slice) else -1).swapaxes(0, 1)
        right = all_right / scene
        lost, wrong = (part.mean(0) for part in _split(scene[0], scene[1:], right[0], right[1:]))
        return np.stack([lost, wrong, lost / (lost + wrong)])

    low, high = np.quantile(parts(draws), [0.025, 0.975], axis=1)
    return pd.DataFrame({"mean": parts(slice(None)), "low": low, "high": high}, index=PARTS)


def share_no_scene(folder: Path, model: str) -> str:
    """Return the share of a model's loss of obedience that is images no longer read as a scene, as "51 % [38, 65]"."""
    mean, low, high = (round(100 * v) for v in split_with_interval(folder, model).loc["share"])
    return f"{mean} % [{low}, {high}]"
