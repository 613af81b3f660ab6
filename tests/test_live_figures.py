"""Figures that compute in the browser: their JavaScript finds the package's numbers. Needs node, which GitHub's runners have.

Where there is no node, the same comparison is made in a browser by `make book-test` (tests_browser/test_live.py).
"""

import json
import math
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from selfimprove_lab.figures import live, live_numbers

CORE = Path(live.__file__).parent / "core.js"
NODE = shutil.which("node")


def computed(expression: str) -> Any:
    """What the figures' code makes of an expression."""
    if NODE is None:
        pytest.skip("node is not installed")
    program = (
        f"const live = require({json.dumps(str(CORE))}), worlds = {json.dumps(live.WORLDS)}; console.log(JSON.stringify({expression}))"
    )
    return json.loads(subprocess.run([NODE, "-e", program], capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("steps", [1, 4, 32])
def test_both_samplers(steps: int) -> None:
    found = computed(f"Object.entries(live.sampling(worlds.sampling, {steps})).map(([name, v]) => [name, v.distance])")
    assert dict(found) == pytest.approx(live_numbers.sampling(steps), abs=1e-6)


@pytest.mark.parametrize("beta", [0.3, 3.0, 30.0])
def test_rounds_of_self_play(beta: float) -> None:
    """A gradient by differences and one by autograd, through sixty steps of Adam a round."""
    found = computed(f"live.selfPlay(worlds['self-play'], {beta}, 3).map(({{distance, loss, ahead}}) => ({{distance, loss, ahead}}))")
    for mine, its in zip(live_numbers.self_play(beta, 3), found, strict=True):
        assert its["distance"] == pytest.approx(mine["distance"], abs=1e-4)
        if "loss" in mine:
            assert its["loss"] == pytest.approx(mine["loss"], abs=1e-4)
            assert its["ahead"] == pytest.approx(mine["ahead"], abs=0.007)  # one example of 160


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_training_times(shift: float) -> None:
    found = computed(f"live.times(worlds.times, {shift})")
    for name, mine in live_numbers.times(shift).items():
        assert found[name]["median"] == pytest.approx(mine["median"], abs=1e-4)
        assert found[name]["above"] == pytest.approx(mine["above"], abs=1e-4)
    for s, height in found["logit-normal"]["bars"][5:-5]:  # the density that is drawn, against the formula
        u = s / (shift - (shift - 1) * s)
        normal = math.exp(-(math.log(u / (1 - u)) ** 2) / 2) / math.sqrt(2 * math.pi)
        assert height == pytest.approx(normal / (u * (1 - u)) * shift / (shift - (shift - 1) * s) ** 2, rel=0.02)


def test_samples_come_nearer_with_every_doubling() -> None:
    """So the numbers that the browser must find say something."""
    for path in ("ddim", "flow"):
        distances = [live_numbers.sampling(steps)[path] for steps in (1, 2, 4, 8, 16)]
        assert all(later < earlier for earlier, later in pairwise(distances))


def test_a_small_beta_overshoots_and_a_large_one_creeps() -> None:
    """What the page says of the slider."""
    ends = {beta: [r["distance"] for r in live_numbers.self_play(beta, 2)] for beta in (0.3, 3.0, 30.0)}
    assert ends[0.3][1] > ends[0.3][0]
    assert ends[3.0][2] < ends[30.0][2] < ends[30.0][0]


def test_a_figure_asks_for_nothing_and_names_its_sliders() -> None:
    for name in live.WORLDS:
        text = live.markup(name)
        assert text == live.markup(name)
        assert "http" not in text.replace("http://www.w3.org", "")
        assert text.count("<label") == text.count("<input") == text.count("<output") >= 1
    with pytest.raises(ValueError, match="'sampler' is no figure.*'sampling'"):
        live.markup("sampler")
