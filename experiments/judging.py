"""Judge players by all that is known in this world: learned scorers, the three truths, and the old oracle as a second opinion.

Form, obedience and quality are never one inside another: every image's readings are kept beside `well_formed`, and tables average
obedience and quality over the well formed (`selfimprove_lab.results.truths`).
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from selfimprove.data.images import indexed, shapes_prompts
from selfimprove.draws import EVALUATION_SEED, example_id
from selfimprove.files import write_table
from selfimprove.models.pipeline import Diffuser
from selfimprove.models.weights import model_hash
from selfimprove.rollout import sample_batches
from selfimprove.scorers import Scorer
from selfimprove.shapes.captions import Caption
from selfimprove.shapes.image_sets import base_set, winners
from selfimprove.shapes.oracle import load_oracle, truth_hidden
from selfimprove.shapes.render import ATTRIBUTES, FACTORS, render
from selfimprove.shapes.truths import read

STREAMS = {"first": "evaluation", "second": "second", "validation": "validation"}  # of the prompts' phrasings
DATA = {"winners": winners, "base set": base_set}  # parts that draw nothing: real images through the autoencoder
BATCH = 128


@dataclass(frozen=True)
class Judging:
    """How a player is drawn to be judged: one image for each of `count` prompts, from the same noise for every player.

    `part`: "first", "second" (other phrasings, for claims that are tested again) or "validation", which tuning uses, and which is read by
    the learned scorers alone. Of DATA it names real images.
    """

    part: str
    count: int
    guidance: float
    steps: int

    @property
    def name(self) -> str:
        """Return a name for files."""
        return f"{self.part.replace(' ', '-')}-{self.count}-guidance-{self.guidance:g}-steps-{self.steps}"

    def passes(self) -> int:
        """Return how many passes of the network a judging takes."""
        return 0 if self.part in DATA else self.count * self.steps * (1 + (self.guidance != 1))


def judge(diffuser: Diffuser, player: Path, judging: Judging, scorers: Mapping[str, Scorer]) -> pd.DataFrame:
    """Return a row per image: `prompt` (its number), a column for each scorer, and, outside of validation, the truths and the oracle.

    `form`, `well_formed`, `<attribute>_right` and `factor_<name>` are the truths'; `oracle_quality` and `oracle_all_right` the oracle's.
    """
    if judging.part in DATA:
        captions, drawn = DATA[judging.part](judging.count, EVALUATION_SEED)
        latents = torch.cat([diffuser.encode(x)[0] for x in render(drawn)[0].split(BATCH)])
    else:
        captions = shapes_prompts(judging.count, stream=STREAMS[judging.part])
        latents = draw_prompts(diffuser, diffuser.load_frozen(player), captions, judging.steps, judging.guidance, judging.part)
    hidden = judging.part == "validation"
    oracle, parts = None if hidden else load_oracle(), []
    with truth_hidden() if hidden else nullcontext():
        for rows in torch.arange(len(latents)).split(BATCH):
            images, some = diffuser.decode(latents[rows]), [captions[i] for i in rows.tolist()]
            columns = {"prompt": rows.numpy()} | {n: s(images, [c.text for c in some]).numpy() for n, s in scorers.items()}
            parts.append(pd.DataFrame(columns | ({} if oracle is None else _truths(oracle, images, some))))
    return pd.concat(parts, ignore_index=True)


def draw_prompts(diffuser: Diffuser, denoiser: Any, captions: Sequence[Caption], steps: int, guidance: float, description: str) -> Tensor:
    """Return the latents of one image for each caption, from the noise that every player starts from."""
    prompts = [c.text for c in captions]
    ids = [example_id(prompt, index) for prompt, index in indexed(prompts)]
    return sample_batches(
        diffuser, denoiser.to(memory_format=torch.channels_last), prompts, ids, BATCH, description, seed=EVALUATION_SEED,
        stream="evaluation", round_index=0, steps=steps, guidance=guidance,
    )  # fmt: skip


def _truths(oracle: Any, images: Tensor, captions: list[Caption]) -> dict[str, np.ndarray]:
    scenes, stated = torch.tensor([c.scene for c in captions]), torch.tensor([c.stated for c in captions])
    truths, reading = read(images), oracle.read(images)
    right = truths.right(scenes, stated)
    return {
        "form": truths.form.numpy(), "well_formed": truths.well_formed.numpy(),
        **{f"{name}_right": right[:, i].numpy() for i, name in enumerate(ATTRIBUTES)},
        **{f"factor_{name}": truths.factors[:, i].numpy() for i, name in enumerate(FACTORS)},  # a scorer is called shading, too
        "oracle_quality": reading.quality.numpy(), "oracle_all_right": reading.all_right(scenes, stated).numpy(),
    }  # fmt: skip


def judged(
    folder: Path, diffuser: Diffuser, player: Path, judging: Judging, scorers: Mapping[str, Scorer], about: Mapping[str, Any]
) -> pd.DataFrame:
    """Return a judging with the columns of `about` and its own settings; it is kept in the folder, and read back for the same player."""
    path = folder / f"{judging.name}.parquet"
    made_from = {"player": model_hash(player), "judging": asdict(judging), "scorers": list(scorers)}
    if path.exists() and (table := pd.read_parquet(path)).attrs.get("made_from") == made_from:
        return table
    table = coarse(judge(diffuser, player, judging, scorers)).assign(
        **about, part=judging.part, guidance=np.float32(judging.guidance), steps=np.int16(judging.steps)
    )
    table.attrs["made_from"] = made_from
    folder.mkdir(parents=True, exist_ok=True)
    write_table(path, table)
    return table


def coarse(table: pd.DataFrame) -> pd.DataFrame:
    """Round what no interval can tell apart, so that a thousand images fit into some 10 kB: scores by a step of at most a 32nd of their
    deviation, truths by a 256th, form by a 1024th.
    """
    made = table.copy()
    for name, column in table.items():
        if column.dtype.kind == "f":
            spread = float(column.std())
            fine = 2.0 ** np.floor(np.log2(spread / 32)) if spread > 0 else 2.0**-10
            step = 2.0**-10 if name == "form" else 2.0**-8 if str(name).startswith(("factor_", "oracle_")) else fine
            made[name] = (np.rint(column / step) * step).astype(np.float32)
        elif column.dtype.kind == "i":
            made[name] = pd.to_numeric(column, downcast="integer")
    return made
