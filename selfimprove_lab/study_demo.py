"""Try a study out: draw the same scenes of the shapes world with more and with less care, and simulate raters of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from PIL import Image
from scipy.special import expit

from selfimprove.draws import generator, key_hash
from selfimprove.shapes.captions import SCENES, canonical
from selfimprove.shapes.render import drawing, render
from selfimprove.study.pairwise import LEFT, RIGHT, TIE, Trial, open_study

QUALITIES = {"rough": 0.35, "fair": 0.55, "fine": 0.75}  # true quality in [0, 1] by "model"
SCORES = {  # Bradley-Terry scores by which simulated raters answer
    "appeal": {"rough": -1.0, "fair": 0.0, "fine": 1.0},
    "faithfulness": {"rough": 0.0, "fair": 0.0, "fine": 0.0},
}


def write_demo(folder: str | Path, prompts: int = 8, seed: int = 0) -> dict[str, str]:
    """Draw `prompts` scenes, once per "model", and return model -> folder for `open_study`. Drawn again, the scenes are the same."""
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
    """Return answers of simulated raters to the demonstration's pairs; `SCORES` are the truth, see `simulate`."""
    with TemporaryDirectory() as folder:
        study = open_study(write_demo(folder, prompts, seed), Path(folder) / "answers.sqlite", seed)
    names = [f"simulated {number}" for number in range(1, raters + 1)]
    return simulate({name: study.trials(name) for name in names}, SCORES, left=left, seed=seed)


def simulate(
    trials: Mapping[str, Sequence[Trial]], scores: Mapping[str, Mapping[str, float]], ties: float = 0.1, left: float = 0.0, seed: int = 0
) -> pd.DataFrame:
    """Return answers of simulated raters, in the form of `read_answers`, to try an analysis or to plan how many answers it needs.

    Args:
        trials: rater -> the trials that the rater sees.
        scores: question -> model -> Bradley-Terry score.
        ties: share of answers that are ties.
        left: log odds added to the left side.
        seed: seed of the answers.
    """
    rows = []
    for rater, seen in trials.items():
        for trial in seen:
            for question, score in scores.items():
                tie, coin = (key_hash(seed, f"study/simulated/{d}", rater, trial.item, question) / 2**63 for d in ("tie", "coin"))
                chance = expit(score[trial.left] - score[trial.right] + left)
                answer = TIE if tie < ties else LEFT if coin < chance else RIGHT
                winner = {LEFT: trial.left, TIE: "", RIGHT: trial.right}[answer]
                told = {"time": "", "rater": rater, "question": question, "answer": answer, "winner": winner, "seconds": 0.0}
                rows.append(told | vars(trial))
    return pd.DataFrame(rows)
