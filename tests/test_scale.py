import json
from pathlib import Path

import pytest

from selfimprove.scale import SCALED, costs_of, scale_table, simulate

EXPORTED = Path(__file__).parent.parent / "book" / "results" / "scale.json"
SIMULATED = json.loads(EXPORTED.read_text())["presets"]


def test_what_is_exported_is_what_the_code_counts() -> None:
    assert simulate("sd15-spin-lora") == SIMULATED["sd15-spin-lora"]


def test_three_rounds_of_stable_diffusion() -> None:
    """50 + 500 + 200 steps of 2,048 pairs, 6.42 TFLOP each (two players' passes and two opponents'): 9.9 EFLOP, rollouts besides."""
    cost = costs_of("sd15-spin", SIMULATED["sd15-spin"], examples=1, judged=1)
    assert cost.flops == pytest.approx(9.86e18, rel=5e-3)
    assert cost.sampling < 0.001 * cost.flops
    paper = costs_of("sd15-spin", SIMULATED["sd15-spin"])
    drawn = (50 * 2048, 500_000, 200 * 2048)  # the captions that a round trains on: in the second more than there are
    assert paper.sampling == pytest.approx(sum(drawn) * 83.96e12, rel=0.01)  # 100 forwards, an image decoded and encoded
    assert paper.memory < 80e9
    assert costs_of("sd15-spin-lora", SIMULATED["sd15-spin-lora"]).memory < 24e9


def test_the_table_has_every_preset() -> None:
    table = scale_table(EXPORTED, 50_000)
    assert list(table.index) == list(SCALED)
    assert table.loc["sd15-spin", "cards"] == 8
