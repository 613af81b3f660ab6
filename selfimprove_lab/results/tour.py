"""Make what the tour shows of finished experiments: models side by side on the same prompts and noise, and its four findings."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from selfimprove.evaluation.aggregate import RAW
from selfimprove_lab.claims.table import QUALITY, RIGHT, Difference, Experiments, difference
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


def missing_columns(root: str | Path, seed: int = 0) -> str:
    """Return a sentence that names the models whose pictures were not exported, or nothing."""
    absent = [name for name, (experiment, arm, _) in COLUMNS.items() if not Path(root, experiment, f"{arm}-{seed}.png").exists()]
    return f"Not exported yet: {', '.join(absent)} (`make spin-experiments rsi-rounds`)." if absent else ""


METHODS = {  # all weights trained; method -> its arms, from short to long
    "SPIN, rounds 1 to 3": ["spin"], "frozen opponent": ["frozen"], "SFT": ["sft-steps", "sft-examples", "sft-compute"],
    "DPO": ["dpo", "dpo-compute"], "RSIDiff, rounds 1 to 8": ["rsi"],
}  # fmt: skip


def trade_off_figure(root: str | Path) -> Figure:
    """Draw quality against obedience for the methods that the tour names, as changes from the base model; see `price_figure`."""
    recursion = {arm: seeds for arm, seeds in load_results(Path(root, RSI[0])).items() if arm == RSI[1]}
    return price_figure(load_results(Path(root, SPIN[0])) | recursion, METHODS)


@dataclass(frozen=True)
class Finding:
    """One sentence with its numbers, and whether every interval lies on the side that the sentence names."""

    sentence: str
    holds: bool

    def __str__(self) -> str:
        return self.sentence if self.holds else f"{self.sentence} The intervals do not decide this."


def _points(change: Difference) -> str:
    """Return a change of a share of images in points, with its interval."""
    return f"{100 * change.mean:+.1f} points [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"


def _plain(change: Difference) -> str:
    return f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"


def findings(root: str | Path) -> list[Finding]:
    """Return the tour's findings, with their numbers from the exported experiments; fewer if some have not been run.

    Differences are paired by seed and prompt, with 95 % intervals over seeds and prompts.
    """
    experiments = Experiments(Path(root))

    def less(first: tuple[str, str], second: tuple[str, str], column: str, at: int = -1, before: int | None = None) -> Difference | None:
        return difference(experiments, first, second, column, at, before)

    rounds = [less(SPIN, SPIN, QUALITY, k, k - 1) for k in (1, 2, 3)]
    gain, price = (less(SPIN, SPIN, column, -1, 0) for column in (QUALITY, RIGHT))
    frozen = less(("spin_shapes", "frozen"), SPIN, QUALITY)
    tuned, paid = (less(("spin_shapes", "sft-compute"), SPIN, column) for column in (QUALITY, RIGHT))
    liked, true = (less(RSI, ("rsi_rounds", "spin"), column) for column in (RAW, QUALITY))
    found = []
    if gain and price and all(rounds):
        found.append(Finding(
            f"**Self-play draws better after every round.** Three rounds raise quality by {_plain(gain)} and change obedience by "
            f"{_points(price)}.", all(r.low > 0 for r in rounds if r) and price.high < 0,
        ))  # fmt: skip
    if frozen:
        found.append(Finding(
            "**The opponent need not be renewed.** As many steps against the base model's images alone end higher in quality, by "
            f"{_plain(frozen)}.", frozen.low > 0,
        ))  # fmt: skip
    if tuned and paid:
        found.append(Finding(
            "**Given the same compute, plain fine-tuning gains more quality and loses more obedience.** It ends at "
            f"{_plain(tuned)} and {_points(paid)} beside self-play.", tuned.low > 0 and paid.high < 0,
        ))  # fmt: skip
    if liked and true:
        found.append(Finding(
            "**Learned scorers and the truth disagree about recursion.** Eight rounds of RSIDiff end above three of self-play in the "
            f"scorers' average, by {_plain(liked)}, and below in quality, by {_plain(true)}.", liked.low > 0 and true.high < 0,
        ))  # fmt: skip
    return found
