"""python -m experiments.data_quality: measure the quality of the data that self-play learns from, read as its models are; a minute.

The winners, and the images that the base was made of, go through the autoencoder and are then read by the oracle. The command writes
book/results/data_quality.json.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from tqdm.auto import tqdm

from selfimprove.data.images import load_data
from selfimprove.files import write_json
from selfimprove.models.pipeline import Diffuser, load_diffuser
from selfimprove.models.resolve import resolve_model
from selfimprove.presets import PRESETS, Preset
from selfimprove.run_folder import provenance
from selfimprove.scorers import Scorer, load_scorers

DATA = {"shapes": "winners", "shapes-base": "what the base was made of"}


def read(preset: Preset, data: str, seed: int, diffuser: Diffuser, oracle: Mapping[str, Scorer]) -> dict[str, object]:
    """Return mean quality and obedience of the real images that a run with this seed trains on, by the oracle after the autoencoder."""
    images = load_data(data, preset.settings.samples, preset.settings.validation, 1, diffuser.image_size, seed)
    sums = dict.fromkeys(oracle, 0.0)
    for start in tqdm(range(0, len(images.train), 64), desc=f"{data}, seed {seed}", leave=False):
        rows = images.train[start : start + 64]
        seen = diffuser.decode(diffuser.encode(images.images(rows))[0])
        for name, scorer in oracle.items():
            sums[name] += float(scorer(seen, [images.captions[i] for i in rows]).double().sum())
    return {"data": data, "about": DATA[data], "seed": seed, "images": len(images.train)} | {
        name: value / len(images.train) for name, value in sums.items()
    }


if __name__ == "__main__":
    preset, device = PRESETS["shapes-spin"], torch.device("cpu")
    loaded = load_diffuser(resolve_model(preset.model), device), load_scorers(("quality", "all_right"), device, family="oracle")
    rows = [read(preset, data, seed, *loaded) for data in DATA for seed in range(3)]
    for row in rows:
        print(row)
    write_json(Path("book/results/data_quality.json"), {"rows": rows, "provenance": provenance()})
