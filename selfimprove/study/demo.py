"""For trying a study out: the same scenes of the shapes world, drawn with more and with less care; and made-up raters of them."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from PIL import Image

from selfimprove.draws import generator
from selfimprove.shapes.captions import SCENES, canonical
from selfimprove.shapes.render import drawing, render
from selfimprove.study.analysis import simulate
from selfimprove.study.pairwise import open_study

QUALITIES = {"rough": 0.35, "fair": 0.55, "fine": 0.75}  # true quality in [0, 1] by "model"
SCORES = {  # Bradley-Terry scores that made-up raters answer by
    "appeal": {"rough": -1.0, "fair": 0.0, "fine": 1.0},
    "faithfulness": {"rough": 0.0, "fair": 0.0, "fine": 0.0},
}


def write_demo(folder: str | Path, prompts: int = 8, seed: int = 0) -> dict[str, str]:
    """Draw as many scenes, once a "model"; returns model -> folder, for `study.open_study`. Drawn again, they are the same."""
    rows = torch.randperm(len(SCENES), generator=generator(seed, "study/demo"))[:prompts]
    made = {}
    for name, quality in QUALITIES.items():
        target = Path(folder) / name
        target.mkdir(parents=True, exist_ok=True)
        uniform = torch.rand(prompts, 8, generator=generator(seed, "study/demo", name))
        images, _ = render(drawing(SCENES[rows], torch.full((prompts,), quality), uniform))
        for number, image in enumerate(images):
            Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(target / f"{number:03d}.png")
        lines = [json.dumps({"file_name": f"{n:03d}.png", "prompt": canonical(tuple(s))}) for n, s in enumerate(SCENES[rows].tolist())]
        (target / "metadata.jsonl").write_text("\n".join(lines) + "\n")
        made[name] = str(target)
    return made


def simulated_study(raters: int, prompts: int, left: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Answers of made-up raters to the demonstration's pairs; `SCORES` are the truth, see `analysis.simulate`."""
    with TemporaryDirectory() as folder:
        study = open_study(write_demo(folder, prompts, seed), Path(folder) / "answers.sqlite", seed)
    names = [f"simulated {number}" for number in range(1, raters + 1)]
    return simulate({name: study.trials(name) for name in names}, SCORES, left=left, seed=seed)
