"""Write what pages and tests read of a finished run, and nothing wider: `book/results/` has to travel with the code."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from selfimprove.config import Settings
from selfimprove.evaluation.aggregate import RAW
from selfimprove.scorers import SHAPES_SCORERS
from selfimprove_lab.claims.table import QUALITY, RIGHT

LEVELS = 4  # of 256 between two that a picture uses: no eye tells, and a PNG is half as large
LOG = ("step", "loss", "margin", "implicit_accuracy", "player_real", "opponent_real", "player_generated", "opponent_generated", "round")
SUMMARY = ("mean", "ci95", "delta_prev", "delta_prev_ci95", "delta_base", "delta_base_ci95")
SUMMARISED = (*SHAPES_SCORERS, "held_out_error", "quality", "all_right", QUALITY, RIGHT)


def narrow(table: pd.DataFrame) -> pd.DataFrame:
    """Store floats as float32, which networks reckon in, and integers as the smallest type that holds them."""
    made = table.copy()
    for name, column in table.items():
        if column.dtype.kind == "f":
            made[name] = column.astype(np.float32)
        elif column.dtype.kind == "i":
            made[name] = pd.to_numeric(column, downcast="integer")
    return made


def narrow_prompts(scores: pd.DataFrame, each: bool) -> pd.DataFrame:
    """Keep both truths and, of the scorers, `each` or their average: recursion is told by single scorers, self-play by the average."""
    scorers = list(SHAPES_SCORERS)
    kept = narrow(scores.astype({"round": int}))
    kept = kept if each else kept.assign(**{RAW: kept[scorers].mean(axis=1)})
    return kept[[*(scorers if each else [RAW]), QUALITY, RIGHT, "round"]]


def narrow_log(log: pd.DataFrame) -> pd.DataFrame:
    """Keep what early signs are read from, in the type that it was logged in: signs are ranked, and rounding makes ties."""
    return log[list(LOG)].reset_index(drop=True).astype(dict.fromkeys(("step", "round"), np.int16))


def logged(settings: Settings) -> bool:
    """Whether a run's training log is exported: that of self-play, which early signs are sought in."""
    return settings.objective == "spin" and settings.generated_source == "rollout"


def narrow_summary(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Keep mean, interval and changes of the scores that pages show, the mean alone of the others, and the oracle's ceiling."""
    made: dict[str, Any] = {}
    for name, said in scores.items():
        kept = SUMMARY if name in SUMMARISED else ("mean",)
        made[name] = said if name == "ceiling" else {field: said[field] for field in kept if field in said}
    return made


def narrow_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Narrow a round's scores and what the oracle says of it; leave the rest."""
    return {name: narrow_summary(value) if name in ("scores", "oracle") else value for name, value in metrics.items()}


def coarse(picture: Image.Image) -> Image.Image:
    """Keep every `LEVELS`th level of each channel; white stays white, and no other colour becomes it, as white parts the pictures."""
    pixels = np.asarray(picture.convert("RGB")).astype(np.int16)
    made = np.maximum(255 - LEVELS * np.rint((255 - pixels) / LEVELS), 0)
    made[(made == 255).all(2) & (pixels < 255).any(2)] = 255 - LEVELS
    return Image.fromarray(made.astype(np.uint8))


def save_strip(figure: Figure, path: Path, dpi: int = 130) -> None:
    """Write a strip of pictures as a PNG."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi)
    coarse(Image.open(drawn)).save(path, optimize=True)
