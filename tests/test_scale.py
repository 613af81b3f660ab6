import json
from pathlib import Path

import pytest

from selfimprove.config import Settings
from selfimprove.planning.costs import count_flops
from selfimprove_lab.results.many_machines import disk_of, machines_sentence, machines_table, stages
from selfimprove_lab.results.scale import SCALED, costs_of, memory_table, rough, scale_sentence, scale_table, simulate
from selfimprove_lab.results.true_sizes import true_size

EXPORTED = Path(__file__).parent.parent / "book" / "results" / "scale.json"
SIMULATED = json.loads(EXPORTED.read_text())["presets"]


def test_what_is_exported_is_what_the_code_counts() -> None:
    assert simulate("sd15-spin-lora") == SIMULATED["sd15-spin-lora"]
    assert SIMULATED["sd3-rsi"]["flops"] == count_flops(true_size("sd3"), Settings(lora_rank=16, gradient_checkpointing=True))._asdict()


def test_three_rounds_of_stable_diffusion() -> None:
    """50 + 500 + 200 steps of 2,048 pairs, 6.42 TFLOP each (two players' passes and two opponents'): 9.9 EFLOP, rollouts besides."""
    cost = costs_of("sd15-spin", SIMULATED["sd15-spin"], examples=1, judged=1)
    assert cost.flops == pytest.approx(9.86e18, rel=5e-3)
    assert cost.training > 0.999 * cost.flops
    paper = costs_of("sd15-spin", SIMULATED["sd15-spin"])
    drawn = (50 * 2048, 500_000, 200 * 2048)  # the captions that a round trains on: in the second more than there are
    besides = sum(drawn) * 83.96e12 + 500_000 * 1.1167e12  # 100 forwards, an image decoded and encoded; the real images encoded
    assert paper.flops - paper.training == pytest.approx(besides, rel=0.003)  # and 500 evaluation images, four times
    assert paper.memory < 80e9
    assert costs_of("sd15-spin-lora", SIMULATED["sd15-spin-lora"]).memory < 24e9


def test_the_table_has_every_preset() -> None:
    table = scale_table(EXPORTED, 50_000)
    more = [name for name in SCALED if "rsi" not in name and SCALED[name].settings.samples > 50_000]
    assert list(table.index) == more != [], "recursion has no captions, and with fewer than 50,000 nothing is left out"
    assert (table["captions"] == "50,000").all()
    assert table.loc["sd15-spin", "cards"] == 8
    assert list(scale_table(EXPORTED).index) == list(SCALED)
    few = scale_table(EXPORTED, 12_800).loc["sd15-spin-lora"]
    assert (few["operations"], few["if an RTX 4090"]) == ("4.7 EFLOP", "26 h")
    assert [rough(m) for m in (0.47, 40.7, 11_034.0)] == ["0.47 min", "41 min", "180 h"]


def test_recursion_on_stable_diffusion_3() -> None:
    """3 times 13,000 images of 28 guided steps, decoded twice and encoded; 3 times 2,000 steps of 12; 5,000 images judged, four times."""
    flops = SIMULATED["sd3-rsi"]["flops"]
    image, again = 56 * flops["forward"] + flops["decode"], flops["decode"] + flops["encode"]
    cost = costs_of("sd3-rsi", SIMULATED["sd3-rsi"])
    assert cost.rounds == 3
    assert cost.training == 3 * 2000 * 12 * flops["step"]
    assert cost.flops == pytest.approx(cost.training + 3 * 13_000 * (image + again) + 4 * 5000 * image)
    assert 16e9 < cost.memory < 20e9


def test_memory_is_said_in_parts() -> None:
    table = memory_table(EXPORTED)
    assert list(table.index) == list(SCALED)
    lora = table.loc["sd15-spin-lora"]
    assert (lora["opponent"], lora["in all"]) == ("", "4.1 GB"), "the opponent is the player without its adapter"
    assert (lora["in sampling"], lora["in evaluation"]) == ("4.6 GB", "6.1 GB")
    assert table.loc["sd15-spin", "opponent"] == "1.7 GB", "in bfloat16, as it is frozen"


def test_the_sentence_says_when_and_how() -> None:
    assert scale_sentence(EXPORTED).startswith("Simulated 20")
    assert "`python -m benchmarks.scale`" in scale_sentence(EXPORTED)


def test_a_million_captions_keep_what_the_plan_says() -> None:
    """What the stages keep, and the checkpoint that is there while the last round trains, are the run folder's bytes."""
    found = stages(1_000_000, cards=64)
    checkpoint = 2 * 3 * 4 * true_size("sd15").parameters
    assert sum(stage.kept for stage in found.values()) + checkpoint == disk_of(1_000_000)
    names = [f"round {k}: {part}" for k in (1, 2, 3) for part in ("rollouts", "training", "evaluation")]
    assert list(found) == ["real latents and texts, once", "round 0: evaluation", *names]
    assert found["round 2: rollouts"].rows == 1_000_000, "500 batches of 2,048 reach all"
    assert found["round 1: training"].reduced == pytest.approx(50 * 2 * 63 / 64 * 4 * 859_520_964), "once a step, there and back"


def test_more_cards_take_less_time_as_far_as_there_are_shards() -> None:
    found = stages(100_000)
    rollouts, evaluation, training = (found[f"round 1: {part}"] for part in ("rollouts", "evaluation", "training"))
    assert rollouts.longest(8) == pytest.approx(49 * 256 / 100_000 * rollouts.flops), "391 shards: 49 for some"
    assert evaluation.longest(8) == evaluation.longest(64) == pytest.approx(256 / 500 * evaluation.flops), "two shards"
    assert training.longest(64) == training.flops / 64
    assert rollouts.again == pytest.approx(256 / 100_000 * rollouts.flops)
    assert training.again == pytest.approx(20 / 50 * training.flops), "a checkpoint every 20 steps"
    assert list(machines_table(100_000, 8).index) == list(found)
    assert "100,000 captions" in machines_sentence(100_000, 8)
