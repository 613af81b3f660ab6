"""What is exported is what its command would make: every arm with the settings that the benchmark gives it today."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from experiments import rsi_shapes, spin_depth, spin_shapes
from experiments.arms import ADAPTER_STEP, STEP
from selfimprove.config import JUDGING, Settings
from selfimprove.models.pipeline import load_diffuser
from selfimprove.models.resolve import resolve_model
from selfimprove.planning.costs import Shapes, count_flops
from selfimprove.presets import PRESETS
from selfimprove.run_folder import differences
from selfimprove_lab.results.arms import renamed

RESULTS = Path(__file__).parent.parent / "book" / "results"
EXPERIMENTS = {
    "spin_shapes": spin_shapes.spin, "spin_controls": spin_depth.controls, "spin_map": spin_depth.the_map,
    "rsi_rounds": rsi_shapes.rounds, "rsi_collapse": rsi_shapes.collapse, "rsi_ablations": rsi_shapes.ablations,
    "rsi_beyond": rsi_shapes.beyond,
}  # fmt: skip
DEFAULTS = json.loads(json.dumps(asdict(Settings())))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_exports_have_the_settings_of_their_arms(experiment: str) -> None:
    arms, files = EXPERIMENTS[experiment]("full"), sorted((RESULTS / experiment).glob("*-[0-9]*.json"))
    assert files
    for file in files:
        result = json.loads(file.read_text())
        arm = arms[result["arm"]]
        judged = {name: getattr(arm.preset.settings, name) for name in JUDGING if name in result["identity"]}  # earlier runs name these too
        expected = json.loads(json.dumps(arm.preset.identity() | judged))
        found = {name: value for name, value in renamed(result["identity"]).items() if name not in ("model", "data", "seed", "prompts")}
        found |= {name: DEFAULTS[name] for name in DEFAULTS.keys() & (expected.keys() - found.keys())}  # older files name fewer settings
        assert not differences(found, expected), file.name
        assert len(result["rounds"]) <= arm.rounds + 1


@pytest.mark.parametrize(("rank", "counted"), [(None, STEP), (1, ADAPTER_STEP), (8, ADAPTER_STEP), (16, ADAPTER_STEP)])
def test_passes_of_a_step_are_counted_to_a_few_per_cent(rank: int | None, counted: float) -> None:
    """One number stands for all ranks, the true one of 8: equal compute holds to 4 per cent."""
    shapes = Shapes.of(load_diffuser(resolve_model(PRESETS["shapes-spin"].model), torch.device("cpu")))
    flops = count_flops(shapes, Settings(lora_rank=rank))
    assert flops.step / flops.forward == pytest.approx(counted, rel=0.04)
