"""python -m experiments.lead_picture: draw the same prompts from the same noise by the base, SPIN's rounds, SFT, DPO and RSIDiff.

The players come from the run folders of `experiments.play`. Each is drawn at its method's own guidance, and the base at the common one.
The prompts are the first of the judged ones: nobody looked. The command writes the picture into the results. Into the run folders'
`pictures/` it writes one PNG for each row and column, enlarged smoothly, from which `experiments.blind_reading` makes its sheets, and
`rows.json`, which says what was drawn.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from PIL import Image
from torch import Tensor

from experiments.command import there
from experiments.exports import save_strip
from experiments.judging import draw_prompts
from experiments.play import tuned_of
from selfimprove.data.images import shapes_prompts
from selfimprove.files import write_json
from selfimprove.models.pipeline import Diffuser, load_diffuser
from selfimprove.models.resolve import resolve_model
from selfimprove.presets import PRESETS
from selfimprove.processes import choose_device
from selfimprove.run_folder import provenance
from selfimprove.scorers.images import eight_bit
from selfimprove.shapes.captions import Caption

COLUMNS, SIDE = 12, 192  # prompts; pixels of an enlarged picture
ROWS = {  # what a row is called -> (arm, round, the method whose guidance it is drawn at)
    "base": ("base", 0, "common"), "SPIN, round 1": ("spin", 1, "spin"), "SPIN, round 2": ("spin", 2, "spin"),
    "SPIN, round 3": ("spin", 3, "spin"), "SFT, equal compute": ("sft-compute", 1, "sft-compute"),
    "DPO, equal compute": ("dpo-compute", 1, "dpo-compute"), "RSIDiff, round 3": ("rsi", 3, "rsi"), "RSIDiff, round 8": ("rsi", 8, "rsi"),
}  # fmt: skip


def enlarged(image: Tensor) -> Image.Image:
    """Return an image (3, S, S) in [0, 1] at the size that is shown, interpolated by a cubic: no pixel corners, no blur."""
    return eight_bit(image[None])[0].resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def rows_of(
    diffuser: Diffuser, runs: Path, seed: int, tuned: Mapping[str, Any], captions: Sequence[Caption], steps: int, usual: float
) -> dict[str, dict[str, Any]]:
    """Return the rows whose players exist, each with its images and what they were drawn by; name what is missing."""
    found: dict[str, dict[str, Any]] = {}
    for label, (arm, index, method) in ROWS.items():
        player = runs / f"{arm}-{seed}" / f"round_{index}" / "pipeline" if index else diffuser.folder
        if not player.is_dir():
            print(f"{label}: {player} is not there; left out", flush=True)
            continue
        guidance = tuned.get(method, {}).get("guidance", usual)
        latents = draw_prompts(diffuser, diffuser.load_frozen(player), captions, steps, guidance, label)
        found[label] = {"arm": arm, "round": index, "guidance": guidance, "images": diffuser.decode(latents)}
    return found


def write_rows(rows: Mapping[str, Mapping[str, Any]], captions: Sequence[Caption], folder: Path, about: Mapping[str, Any]) -> None:
    """Write `<row>/<column>.png`, and `rows.json`."""
    for number, row in enumerate(rows.values()):
        (folder / str(number)).mkdir(parents=True, exist_ok=True)
        for column, image in enumerate(row["images"]):
            enlarged(image).save(folder / str(number) / f"{column:02d}.png")
    named = {label: {k: v for k, v in row.items() if k != "images"} for label, row in rows.items()}
    write_json(folder / "rows.json", {"rows": named, "prompts": [c.text for c in captions], **about})


def picture(rows: Mapping[str, Mapping[str, Any]], captions: Sequence[Caption]) -> Any:
    """Return the figure: a row for each player, a column for each prompt."""
    figure, axes = plt.subplots(
        len(rows), len(captions), figsize=(len(captions), 1.02 * len(rows) + 0.5), squeeze=False, layout="constrained"
    )
    for line, (label, row) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, row["images"], strict=True):
            axis.imshow(enlarged(image), interpolation="lanczos")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    return figure


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.lead_picture", description=__doc__)
    parser.add_argument("--world", default="shapes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--columns", type=int, default=COLUMNS)
    parser.add_argument("--steps", type=int, help="of the sampler; default: the world's")
    parser.add_argument("--device", default="")
    parser.add_argument("--runs", type=Path, default=Path("runs/experiments"))
    parser.add_argument("--out", type=Path, default=Path("book/results/experiments"))
    arguments = parser.parse_args(given)
    if not there([arguments.world]):
        return 1
    diffuser, s = (
        load_diffuser(resolve_model(arguments.world), choose_device(arguments.device)),
        PRESETS[f"{arguments.world}-spin"].settings,
    )
    captions, steps = shapes_prompts(arguments.columns), arguments.steps or s.evaluation_steps
    tuned = tuned_of(arguments.out).get(arguments.world, {})
    with torch.inference_mode():
        rows = rows_of(diffuser, arguments.runs / arguments.world, arguments.seed, tuned, captions, steps, s.evaluation_guidance)
    where = arguments.out / arguments.world
    about = {"world": arguments.world, "seed": arguments.seed, "steps": steps, "provenance": provenance()}
    write_rows(rows, captions, arguments.runs / arguments.world / "pictures", about)
    where.mkdir(parents=True, exist_ok=True)
    save_strip(picture(rows, captions), where / "lead.png")
    print(where / "lead.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
