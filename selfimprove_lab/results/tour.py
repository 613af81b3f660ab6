"""Make what the tour shows of finished experiments: models side by side on the same prompts and noise, and what they gain and pay."""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from selfimprove_lab.figures.comparison import picture_grid
from selfimprove_lab.figures.network_films import cells
from selfimprove_lab.results.arms import load_results
from selfimprove_lab.results.controls import price_figure

SPIN, RSI = ("spin_shapes", "spin"), ("rsi_rounds", "rsi")
COLUMNS = {  # name -> experiment, arm, and the row of its exported strip: the base model or the last round
    "base": (*SPIN, 0),
    "SFT": ("spin_shapes", "sft-steps", -1),
    "DPO": ("spin_shapes", "dpo", -1),
    "SPIN": (*SPIN, -1),
    "RSIDiff": (*RSI, -1),
}
WIDTH = 112  # pixels of one picture


def columns_figure(root: str | Path, chosen: tuple[int, ...] = (1, 3, 5, 7, 8, 11), seed: int = 0) -> Figure:
    """Draw models in columns and prompts in rows, all from the same noise in a row. A model whose strip was not exported is left out.

    `chosen` are places in the twelve exported prompts.

    Raises:
        ValueError: no strip has been exported, or two strips are of different prompts.
    """
    shown, prompts = {}, None
    for name, (experiment, arm, row) in COLUMNS.items():
        strip, written = Path(root, experiment, f"{arm}-{seed}.png"), Path(root, experiment, "prompts.json")
        if not strip.exists():
            continue
        own = json.loads(written.read_text())
        if prompts not in (None, own):
            raise ValueError(f"{strip} is of other prompts than the strips before it; export all with one list of prompts")
        prompts, pictures = own, cells(strip)[row]
        shown[name] = [np.asarray(pictures[i].resize((WIDTH, WIDTH))) / 255 for i in chosen]
    if prompts is None:
        raise ValueError(f"{root} holds no strip of pictures; export some by make spin-experiments rsi-rounds")
    images = np.stack([np.stack(pictures) for pictures in shown.values()], axis=1)
    return picture_grid(images, [prompts[i] for i in chosen], list(shown))


METHODS = {  # all weights trained; method -> its arms, from short to long
    "SPIN, rounds 1 to 3": ["spin"], "frozen opponent": ["frozen"], "SFT": ["sft-steps", "sft-examples", "sft-compute"],
    "DPO": ["dpo", "dpo-compute"], "RSIDiff, rounds 1 to 8": ["rsi"],
}  # fmt: skip


def trade_off_figure(root: str | Path) -> Figure:
    """Draw quality against obedience for the methods that the tour names, as changes from the base model; see `price_figure`."""
    recursion = {arm: seeds for arm, seeds in load_results(Path(root, RSI[0])).items() if arm == RSI[1]}
    return price_figure(load_results(Path(root, SPIN[0])) | recursion, METHODS)
