"""What `make bench` measures, and the tables that the page on speed makes of it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks import pairs, real_size
from selfimprove_lab.results import speed


def turn(processor: float) -> dict[str, float]:
    return {"seconds": 9 * processor, "processor": processor, "peak_bytes": 1e9}


def written(folder: Path, **ratio: Any) -> Path:
    row = {
        "case": "adapter",
        "against": "naive",
        "precision": "bf16",
        "aim": 1.5,
        "ratios": [1.4, 1.6],
        "ours": [turn(2.0)],
        "naive": [turn(3.0)],
        "load": [3.2, 2.0, 1.0],
    }
    (folder / "speed_cpu.json").write_text(json.dumps([row | ratio]))
    return folder


def test_what_was_not_measured_names_its_command(tmp_path: Path) -> None:
    table = speed.speed_table(tmp_path)
    assert set(table["times as fast"]) == {f"not measured: {speed.CPU}", f"not measured: {speed.GPU}"}
    assert set(table["reached"]) == {""}
    assert set(speed.share_table(tmp_path)["share of the card's peak"]) == {f"not measured: {speed.GPU}"}
    assert speed.stages_table(tmp_path).empty
    assert speed.captions_table(tmp_path).empty
    assert speed.captions_aims(tmp_path).empty
    assert speed.named(tmp_path) == {}
    assert "make bench" in speed.stages_sentence(tmp_path)


LORA = ("training step with LoRA against diffusers' script", "CPU, bf16")


@pytest.mark.parametrize(
    ("low", "high", "reached"), [(1.6, 1.8, "met"), (1.2, 1.4, "missed by 20%"), (1.1, 1.6, "open"), (1.5, 1.6, "met")]
)
def test_an_aim_is_reached_if_the_whole_interval_is_beyond_it(tmp_path: Path, low: float, high: float, reached: str) -> None:
    row = speed.speed_table(written(tmp_path, ratio=1.2, low=low, high=high)).loc[LORA]
    assert row["reached"] == reached
    assert row["times as fast"] == f"1.20 [{low:.2f}, {high:.2f}]"
    assert row["of"] == "2 pairs of turns"
    assert (row["ours, of the clock"], row["theirs, of the clock"]) == ("2 s of 18 s", "3 s of 27 s"), "seconds of the processor first"


@pytest.mark.parametrize(("ratio", "reached"), [(1.6, "met"), (1.35, "missed by 10%")])
def test_one_pair_has_no_interval(tmp_path: Path, ratio: float, reached: str) -> None:
    assert pairs.interval([ratio]) == (ratio, None, None)
    row = speed.speed_table(written(tmp_path, ratio=ratio, low=None, high=None, ratios=[ratio])).loc[LORA]
    assert (row["reached"], row["times as fast"], row["of"]) == (reached, f"{ratio:.2f}", "one pair of turns")


def test_memory_that_was_missing_is_the_reason(tmp_path: Path) -> None:
    (tmp_path / "speed_cpu.json").write_text(
        json.dumps([{"case": "all weights", "against": "naive", "precision": "bf16", "left_out": "one process needs 16 GB"}])
    )
    cell = speed.speed_table(tmp_path).loc[("training step against Diffusion-DPO's", "CPU, bf16"), "times as fast"]
    assert cell == "not measured: one process needs 16 GB"


def test_a_card_fills_its_cells(tmp_path: Path) -> None:
    rows = [{"case": "adapter", "form": "ours", "share_of_peak": 0.5, "peak_bytes": 3e9, "plan_bytes": 2e9}]
    (tmp_path / "gpu.json").write_text(json.dumps({"ratios": {"adapter": {"naive": 1.75}}, "speed": rows}))
    table = speed.speed_table(tmp_path)
    row = table.loc[("training step with LoRA against diffusers' script", "GPU, bf16")]
    assert (row["times as fast"], row["reached"]) == ("1.75", "met")
    assert speed.share_table(tmp_path).loc["adapter", "share of the card's peak"] == "50%"
    held = speed.memory_beside_plan(tmp_path).loc["GPU: adapter, ours"]
    assert (held["measured / plan"], held["reached"]) == ("1.50", "missed by 40% of the plan")


def test_growth_beyond_the_captions_is_named(tmp_path: Path) -> None:
    few = {"captions": 10, "set_up_seconds": 1.0, "seconds": 2.0, "sd15_network_seconds": 38.0}
    few |= {"bytes": 1e6, "private_bytes": 4e8, "peak_bytes": 6e8}
    many = {"captions": 100, "set_up_seconds": 12.0, "seconds": 20.0, "sd15_network_seconds": 80.0}
    many |= {"bytes": 1e7, "private_bytes": 6e8, "peak_bytes": 2e9}
    (tmp_path / "captions.json").write_text(json.dumps({"rows": [few, many]}))
    reached = speed.captions_aims(tmp_path)["reached"]
    step = "from 10 to 100 captions"
    assert [reached["set-up", step], reached["seconds outside the networks", step]] == ["missed by 9%", "met"]
    assert reached["private memory at the end", step] == "missed by 36%"
    assert reached["share outside, Stable Diffusion 1.5 on an H100"].tolist() == ["met", "missed by 10%"]
    found = speed.named(tmp_path)
    assert (found["speed_grown_mapped"], found["speed_grown_private"], found["speed_private_each"]) == ("1.2 GB", "200 MB", "2222.2 kB")


def test_the_interval_is_students_on_logarithms() -> None:
    ratios = [1.2, 1.5, 1.4, 1.6]
    mean, low, high = pairs.interval(ratios)
    expected = stats.t.interval(0.95, 3, np.log(ratios).mean(), stats.sem(np.log(ratios)))
    assert (low, high) == pytest.approx(tuple(np.exp(expected)))
    assert low < mean < high
    assert pairs.interval([2.0, 2.0]) == pytest.approx((2.0, 2.0, 2.0))


def test_two_forms_take_turns(capfd: pytest.CaptureFixture[str]) -> None:
    """A step of the adapter in a toy's size: both forms answer whenever they are asked, and only then."""
    first, found = pairs.compare(pairs.ROWS[0], 2, True, 0)
    assert (len(first["ratios"]), first["ratios"]) == (1, found["ratios"][:1]), "each pair is told as it comes"
    assert [len(found[form]) for form in ("ours", "naive")] == [2, 2]
    ours, naive = ([seen["processor"] for seen in found[form]] for form in ("ours", "naive"))
    assert found["ratios"] == pytest.approx([theirs / own for own, theirs in zip(ours, naive, strict=True)])
    assert found["low"] <= found["ratio"] <= found["high"]
    assert min(seen["seconds"] for seen in found["ours"]) > 0
    assert found["peak_bytes"] > 1e8


PROGRAM = """
import sys, time
from pathlib import Path
run = Path(sys.argv[1])
(run / "round_0").mkdir(parents=True)
time.sleep(0.3)
(run / "round_0" / "evaluation.begun.json").write_text("{}")
held = bytearray(200_000_000)
time.sleep(0.5)
(run / "round_0" / "evaluation.begun.json").unlink()
del held
time.sleep(0.5)
(run / "round_0" / "training.begun.json").write_text("{}")
start = time.process_time()
while time.process_time() - start < 0.3: pass
time.sleep(0.3)
(run / "round_0" / "training.begun.json").unlink()
time.sleep(0.3)
"""


def test_stages_are_told_apart_from_outside(tmp_path: Path) -> None:
    process: Any = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path / "run")], text=True)
    found = real_size.watch(process, tmp_path / "run")
    assert [row["stage"] for row in found] == [
        "set-up and plan", "round 0: evaluation", "before round 0: training", "round 0: training", "closing",
    ]  # fmt: skip
    first, held, between, busy, _ = found
    assert held["peak_bytes"] > 2e8 > max(first["peak_bytes"], busy["peak_bytes"]), "the peak is set back where a stage begins"
    assert held["private_bytes"] > 2e8
    assert busy["processor_seconds"] > 0.2 > max(held["processor_seconds"], between["processor_seconds"]) - 0.1
    assert all(row["seconds"] > 0.2 for row in found)
