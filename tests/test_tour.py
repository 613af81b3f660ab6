"""The tour: its findings hold in the exported experiments, its pictures are of one noise, and it is read in ten minutes."""

import json
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from selfimprove_lab.figures.forest import read
from selfimprove_lab.figures.network_films import cells
from selfimprove_lab.findings import chosen, fill, used
from selfimprove_lab.results.tour import COLUMNS, columns_figure

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "book" / "results"
LONGEST = 1000  # words: ten minutes for a reader who also looks at the pictures


def tour_prose() -> str:
    page = json.loads((ROOT / "notebooks" / "00_tour.ipynb").read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in page if cell["cell_type"] == "markdown")


def test_the_tour_is_short() -> None:
    words = tour_prose()
    assert 300 < len(fill(words, chosen(used(words), RESULTS)).split()) <= LONGEST


def test_every_finding_holds() -> None:
    """The side on which each sentence of the tour has its interval is the side on which the results have it."""
    above = [f"play_round_{k}_quality" for k in (1, 2, 3)] + ["rsi_over_spin_average"]
    above += ["play_over_sft_equal_steps_quality", "play_over_sft_equal_compute_obedience"]
    below = ["play_spin_obedience", "play_over_frozen_opponent_equal_steps_quality", "play_over_sft_equal_compute_quality"]
    below.append("rsi_over_spin_quality")
    names = used(tour_prose())
    assert set(names) == {*above, *below}
    values = {name: read(text) for name, text in chosen(names, RESULTS).items()}
    assert [name for name in above if not (values[name] or (0, 0, 0))[1] > 0] == []
    assert [name for name in below if not (values[name] or (0, 0, 0))[2] < 0] == []


def test_recursion_pays_several_times_as_much() -> None:
    """Obedience lost per quality gained: near one curve for methods with real images, several times that for RSIDiff."""
    ends = ["play_spin", "play_frozen", "play_sft_compute", "play_dpo_compute", "rsi_end"]
    found = chosen([f"{end}_{reading}" for end in ends for reading in ("quality", "obedience")], RESULTS)
    level = {name: (read(text) or (np.nan,))[0] for name, text in found.items()}
    price = {end: -level[f"{end}_obedience"] / level[f"{end}_quality"] for end in ends}
    assert price.pop("rsi_end") > 3 * max(price.values()) > 0


def test_without_results_the_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no strip of pictures; export some"):
        columns_figure(tmp_path)


def test_models_stand_in_columns() -> None:
    figure = columns_figure(RESULTS, (0, 4))
    named = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert named == list(COLUMNS)
    assert len(figure.axes) == 2 * len(named)
    plt.close(figure)


def test_the_models_began_from_one_noise() -> None:
    """Every strip of an arm that began at the base has the base in its first row, drawn for the same prompts from the same noise."""
    first = {}
    for experiment, arm, _ in COLUMNS.values():
        strip = RESULTS / experiment / f"{arm}-0.png"
        if strip.exists():
            first[arm] = np.stack([np.asarray(picture.resize((64, 64)), dtype=float) for picture in cells(strip)[0]])
    assert len(first) >= 2
    for arm, pictures in first.items():
        assert np.abs(pictures - first["spin"]).mean() < 4, arm  # of 255: the strips' own rounding


def test_strips_of_other_prompts_are_refused(tmp_path: Path) -> None:
    for experiment in ("spin_shapes", "rsi_rounds"):
        shutil.copytree(RESULTS / experiment, tmp_path / experiment)
    (tmp_path / "rsi_rounds" / "prompts.json").write_text(json.dumps(["another"] * 12))
    with pytest.raises(ValueError, match="is of other prompts than the strips before it"):
        columns_figure(tmp_path)
