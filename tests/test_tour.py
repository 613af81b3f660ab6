"""The tour: its findings hold in the exported experiments, its pictures are of one noise, and it is read in ten minutes."""

import json
import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from selfimprove_lab.claims.table import Difference
from selfimprove_lab.figures.network_films import cells
from selfimprove_lab.results import tour
from selfimprove_lab.results.tour import COLUMNS, columns_figure, findings, missing_columns

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "book" / "results"
LONGEST = 1000  # words: ten minutes for a reader who also looks at the pictures


def test_the_tour_is_short() -> None:
    page = json.loads((ROOT / "notebooks" / "00_tour.ipynb").read_text())["cells"]
    words = " ".join("".join(cell["source"]) for cell in page if cell["cell_type"] == "markdown")
    printed = " ".join(map(str, findings(RESULTS)))
    assert 300 < len(f"{words} {printed}".split()) <= LONGEST


def test_every_finding_holds() -> None:
    found = findings(RESULTS)
    assert len(found) == 4
    assert all(finding.holds for finding in found)
    assert all(re.search(r"[+-]\d\.\d+ (points )?\[[+-]\d\.\d+, [+-]\d\.\d+\]", str(finding)) for finding in found)


def test_a_finding_that_turned_round_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tour, "difference", lambda *_: Difference(0.01, -0.02, 0.04, 3))
    found = findings(RESULTS)
    assert not any(finding.holds for finding in found)
    assert all(str(finding).endswith("The intervals do not decide this.") for finding in found)


def test_what_was_not_run_is_left_out(tmp_path: Path) -> None:
    assert findings(tmp_path) == []
    assert all(name in missing_columns(tmp_path) for name in COLUMNS)
    with pytest.raises(ValueError, match="holds no strip of pictures; export some"):
        columns_figure(tmp_path)


def test_models_stand_in_columns() -> None:
    figure = columns_figure(RESULTS, (0, 4))
    named = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert named == [name for name in COLUMNS if name not in missing_columns(RESULTS)]
    assert {"base", "SPIN", "RSIDiff"} <= set(named)
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
