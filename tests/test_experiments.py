"""The experiments' table, jobs, tuning and runner at smoke size; predictions name what is exported; verdicts and counts by hand."""

import json
import math
import operator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments import blind_reading, lead_picture, play, tuning
from experiments.blind_reading import ReadingError, count, key_of, write_sheets
from experiments.jobs import Job, play_jobs, urgency
from experiments.judging import Judging, coarse
from experiments.table import COUNT, SEEDS, WORLDS, Arm, arms, methods
from selfimprove.evaluation.evaluate import evaluation_latents
from selfimprove.presets import PRESETS
from selfimprove.scorers import SHAPES_SCORERS
from selfimprove.shapes import MODELS
from selfimprove.shapes.render import ATTRIBUTES
from selfimprove_lab.claims.table import Difference
from selfimprove_lab.results.predictions import FELL, OPEN, PREDICTIONS, STOOD, TURNED, UP, Prediction, judged, verdict
from selfimprove_lab.results.truths import FACTOR_COLUMNS, LAWS, LEARNED, Judgings, Side, by_prompt, estimate, law_distance

TUNED = {"common": {"guidance": 3.0}, "spin": {"lr": 9e-6, "guidance": 1.5}, "rsi": {"lr": 4e-6, "guidance": 3.0}}


@cache
def table() -> dict[tuple[str, str], Arm]:
    found = [arm for world in WORLDS for arm in arms(world, "full", TUNED)]
    assert len({(arm.world, arm.name) for arm in found}) == len(found)
    return {(arm.world, arm.name): arm for arm in found}


def test_every_arm_is_judged_and_has_its_methods_rate() -> None:
    known = table()
    for (world, _), arm in known.items():
        assert (world, arm.start) in known or not arm.start
        assert arm.exports
        for export in arm.exports:
            assert export.judging.count == COUNT >= 1000
            assert 0 <= min(export.rounds) <= max(export.rounds) <= arm.rounds
        assert arm.seeds == (SEEDS if arm.rounds else (0,))
    assert known["shapes", "spin"].preset.settings.lr == known["shapes", "frozen"].preset.settings.lr == 9e-6
    assert known["shapes", "spin-10x"].preset.settings.lr == pytest.approx(9e-5)
    assert known["shapes", "no-weights"].preset.settings.lr == 4e-6
    assert Judging("first", COUNT, 1.5, 10) in [e.judging for e in known["shapes", "spin"].exports]  # its own guidance
    assert known["shapes-flow", "spin"].preset.model == "shapes-flow"
    assert {arm.item for arm in known.values()} == set(range(5))


def test_baselines_are_as_long_as_three_rounds_by_their_measure() -> None:
    found = {name: preset.settings for name, (preset, _) in methods("shapes", "full").items()}
    steps = found["spin"].steps
    assert (found["sft-steps"].steps, found["sft-images"].steps, found["dpo-steps"].steps) == (3 * steps, 6 * steps, 3 * steps)
    # by hand: a pair is two latents, each 3 forwards and one of the opponent; 768 images are drawn in 10 guided steps
    passes = 3 * (steps * 48 * 2 * (3 + 1) + 768 * 20)
    assert found["sft-compute"].steps * 48 * 3 == pytest.approx(passes, rel=0.01)
    assert found["dpo-compute"].steps * 48 * 2 * 4 == pytest.approx(passes, rel=0.01)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=lambda p: f"{p.item} {p.measure} {p.terms}")
def test_predictions_name_players_that_are_exported(prediction: Prediction) -> None:
    known = table()
    assert prediction.low < prediction.high
    for text in prediction.terms.replace(" + ", " - ").split(" - "):
        side = Side.parse(text)
        arm = known[side.world, side.arm]
        usual = arm.exports[0].judging
        guidance = usual.guidance if side.guidance is None else None if side.guidance == "own" else float(side.guidance)
        if prediction.measure == "error":
            assert side.round <= arm.rounds
            continue
        assert any(
            side.round in e.rounds
            and (e.judging.part, e.judging.steps) == (side.part, side.steps or usual.steps)
            and (guidance is None or e.judging.guidance == guidance)
            for e in arm.exports
        ), text
    assert prediction.measure not in LAWS or (side.world, LAWS[prediction.measure]) in known


def test_a_smoke_size_plays_every_arm_in_two_small_rounds() -> None:
    for arm in (arm for world in WORLDS for arm in arms(world, "smoke", {})):
        assert arm.rounds <= 2
        assert arm.preset.settings.samples <= 24
        assert max(e.judging.count for e in arm.exports) <= 12


def test_jobs_are_played_longest_first_each_after_what_it_needs_and_past_failures() -> None:
    order: list[str] = []

    def work(name: str, fails: bool = False) -> None:
        order.append(name)
        if fails:
            raise ValueError("no")

    jobs = [
        Job("short", 1, partial(work, "short")), Job("long", 5, partial(work, "long")), Job("start", 2, partial(work, "start")),
        Job("after", 9, partial(work, "after"), ("start", "elsewhere")), Job("broken", 3, partial(work, "broken", True)),
        Job("lost", 1, partial(work, "lost"), ("broken",)),
    ]  # fmt: skip
    assert urgency(jobs)["start"] == 11
    failed = play_jobs(jobs, 1)
    assert order == ["start", "after", "long", "broken", "short"]
    assert failed == {"broken": "ValueError: no", "lost": "needs broken, which failed"}


def test_jobs_run_in_processes_of_their_own() -> None:
    assert play_jobs([Job("a", 1, partial(operator.truth, 1)), Job("b", 1, partial(operator.truediv, 1, 0), ("a",))], 2) == {
        "b": "ZeroDivisionError: division by zero"
    }


def test_a_world_without_weights_is_skipped_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(MODELS, "shapes-flow", tmp_path / "nothing")
    assert play.main(["--worlds", "shapes-flow", "--size", "smoke", "--plan", "--runs", str(tmp_path)]) == 0
    assert "skipped: model='shapes-flow': its weights are not in" in (said := capsys.readouterr().out)
    assert "python -m selfimprove_lab.pretrain.flow" in said


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One method tuned at two rates, and two arms played with what was found."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "methods", lambda world, size: {"spin": (methods(world, size)["spin"][0].changed(steps=1), 1)})
        assert tuning.main(["--worlds", "shapes", "--size", "smoke", "--runs", str(runs)]) == 0
    assert play.main(["--worlds", "shapes", "--size", "smoke", "--runs", str(runs), "--arms", "spin", "base"]) == 0
    return runs


def test_tuning_writes_winners_and_losers_and_arms_take_them(played: Path) -> None:
    found = json.loads((played / "results" / "tuning.json").read_text())
    spin = found["worlds"]["shapes"]["spin"]
    assert found["seed"] not in SEEDS
    assert {row["lr"] for row in spin["tried"]} == {tuning.rate(PRESETS["shapes-spin"].settings, place) for place in (0, 1)}
    assert spin["score"] == max(row["score"] for row in spin["tried"])
    assert len(spin["tried"]) == 4  # two rates, two guidances
    assert json.loads((played / "results" / "shapes" / "spin-0.json").read_text())["identity"]["lr"] == spin["lr"]
    assert not list((played / "shapes").glob("tuning-*/round_1/judged/*first*"))  # no prompt of the test part, and so no truth


def test_an_exported_arm_has_all_readings_and_goes_on_after_a_kill(played: Path) -> None:
    where = played / "results" / "shapes"
    rows = pd.read_parquet(where / "spin-0.parquet")
    readings = ["form", "well_formed", "oracle_quality", "oracle_all_right", *SHAPES_SCORERS, *FACTOR_COLUMNS]
    assert len({*readings}) == len(readings)  # no reading has the name of another
    assert {*readings, *(f"{name}_right" for name in ATTRIBUTES)} <= set(rows)
    assert set(rows["round"]) == {1, 2}
    assert set(rows["part"]) == {"first", "second"}
    run = played / "shapes" / "spin-0"
    assert len(evaluation_latents(run / "round_0")) == 12
    before = (run / "round_2" / "train.parquet").stat().st_mtime_ns
    (where / "spin-0.json").unlink()
    assert play.main(["--worlds", "shapes", "--size", "smoke", "--runs", str(played), "--arms", "spin"]) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(where / "spin-0.parquet"), rows)
    assert (run / "round_2" / "train.parquet").stat().st_mtime_ns == before
    assert {"round", "drift", "scores"} <= set(json.loads((where / "spin-0.json").read_text())["rounds"][2])


def test_what_is_exported_is_judged_and_what_is_not_is_open(played: Path) -> None:
    rows = judged(played / "results")
    assert set(rows["verdict"]) == {OPEN}  # one seed of two rounds
    judgings = Judgings(played / "results")
    for measure in ("form", LEARNED, "error", "clip", "oracle quality"):
        found = estimate(judgings, "shapes/spin@2 - shapes/spin@1", measure)
        assert found is not None
        assert found.seeds == 1
    own, base = (pd.read_parquet(played / "results" / "shapes" / f"{name}-0.parquet") for name in ("spin", "base"))
    form = [t[(t["round"] == k) & (t["part"] == "first")].iloc[:12]["well_formed"].mean() for t, k in ((own, 2), (base, 0))]
    found = estimate(judgings, "shapes/spin@2 - shapes/base@0", "form")
    assert found is not None
    assert found.mean == pytest.approx(form[0] - form[1])


def test_the_lead_picture_and_sheets_for_readers(played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--runs", str(played), "--out", str(tmp_path), "--columns", "2", "--steps", "2", "--device", "cpu"]
    assert lead_picture.main(given) == 0
    assert "SPIN, round 3" in capsys.readouterr().out  # not played at this size: named, and left out
    pictures = played / "shapes" / "pictures"
    assert list(json.loads((pictures / "rows.json").read_text())["rows"]) == ["base", "SPIN, round 1", "SPIN, round 2"]
    with Image.open(pictures / "2" / "01.png") as enlarged:
        assert enlarged.size == (lead_picture.SIDE, lead_picture.SIDE)
    with Image.open(tmp_path / "shapes" / "lead.png") as picture:
        assert picture.width > 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blind_reading, "PAIRS", (("SPIN, round 2", "base"),))
        (made,) = write_sheets(pictures, tmp_path / "sheets", tmp_path / "key" / "key.json", seed=0)
        assert made.exists()
        with pytest.raises(ReadingError, match="lies beside the sheets"):
            write_sheets(pictures, tmp_path / "sheets", tmp_path / "sheets" / "key.json", seed=0)
    assert [path.name for path in made.parent.iterdir()] == ["sheet-1.png"]  # and no key


def test_readers_are_counted_by_the_key(tmp_path: Path) -> None:
    key = key_of([row for pair in blind_reading.PAIRS for row in pair], 12, seed=3)
    assert len(key) == len(blind_reading.PAIRS)
    upper = [sheet["first_is_a"] for sheet in key.values()]
    assert 12 < sum(map(sum, upper)) < 60  # of 72, about half are above
    for number, sheet in key.items():
        best = "".join("A" if first else "B" for first in sheet["first_is_a"])
        worst = best.translate(str.maketrans("AB", "BA"))
        (tmp_path / "keen.txt").write_text(f"{number} {best}\n")
        (tmp_path / "split.txt").write_text(f"\n{number} {best[:5]}=={worst[7:]}\n")
        found = count(key, [tmp_path / "keen.txt", tmp_path / "split.txt"]).set_index("reader")
        assert found.loc["keen", ["first better", "second better", "neither"]].tolist() == [12, 0, 0]
        assert found.loc["keen", "p"] == pytest.approx(2 / 2**12)
        assert found.loc["split", ["first better", "second better", "neither"]].tolist() == [5, 5, 2]
    (tmp_path / "odd.txt").write_text("1 ABC")
    with pytest.raises(ReadingError, match="'1 ABC' is no answer"):
        count(key, [tmp_path / "odd.txt"])


@pytest.mark.parametrize(
    ("low", "high", "found", "expected"),
    [
        (0.1, UP, (0.2, 0.1, 0.3), STOOD),
        (0.1, UP, (0.05, 0.01, 0.09), FELL),  # the direction, and not the number
        (0.1, UP, (0.2, -0.1, 0.5), FELL),
        (0.1, UP, (-0.2, -0.3, -0.1), TURNED),
        (-0.3, -0.1, (-0.2, -0.25, -0.15), STOOD),
        (-0.3, -0.1, (-0.5, -0.6, -0.4), FELL),
        (-0.3, -0.1, (0.2, 0.1, 0.3), TURNED),
        (-0.02, 0.02, (0.01, -0.01, 0.02), STOOD),
        (-0.02, 0.02, (0.01, -0.01, 0.03), FELL),
        (-0.02, 0.02, (0.05, 0.03, 0.07), TURNED),
        (-0.01, UP, (0.3, 0.2, 0.4), STOOD),
        (-0.01, UP, (-0.2, -0.3, -0.1), TURNED),
    ],
)
def test_verdicts(low: float, high: float, found: tuple[float, float, float], expected: str) -> None:
    prediction = Prediction(1, "", "", "quality", low, high, "")
    assert verdict(prediction, Difference(*found, 3)) == expected
    assert verdict(prediction, Difference(*found, 1)) == OPEN
    assert verdict(prediction, None) == OPEN


def rows(seed: int, count: int = 1500, well: float = 0.8, level: float = 0.5) -> pd.DataFrame:
    draws = np.random.default_rng(seed)
    made = pd.DataFrame({name: np.clip(level + 0.1 * draws.standard_normal(count), 0, 1) for name in FACTOR_COLUMNS})
    right = {f"{name}_right": draws.random(count) < 0.9 for name in ATTRIBUTES}
    return made.assign(well_formed=draws.random(count) < well, **right)


def test_no_truth_lies_inside_another() -> None:
    table = rows(0)
    good = table[table["well_formed"]]
    assert by_prompt(table, "form").mean() == pytest.approx(table["well_formed"].mean())
    assert by_prompt(table, "quality").mean() == pytest.approx(good[FACTOR_COLUMNS].to_numpy().mean())
    assert by_prompt(table, "obedience").mean() == pytest.approx(good[[f"{n}_right" for n in ATTRIBUTES]].all(axis=1).mean())
    spoiled = table.assign(**{name: table[name].where(table["well_formed"], 0.0) for name in FACTOR_COLUMNS})
    assert by_prompt(spoiled, "quality").mean() == pytest.approx(by_prompt(table, "quality").mean())
    with pytest.raises(ValueError, match="measure='beauty' is not known"):
        by_prompt(table, "beauty")


def test_the_chance_of_a_ratio_is_that_of_its_linearisation() -> None:
    means = [by_prompt(rows(seed, 400), "obedience").mean() for seed in range(150)]
    one = by_prompt(rows(1000, 400), "obedience")
    assert one.std() / 400**0.5 == pytest.approx(np.std(means), rel=0.2)


def test_the_distance_of_laws_sees_more_than_a_mean() -> None:
    assert abs(law_distance(rows(0), rows(1))) < 0.003
    assert law_distance(rows(0), rows(1, level=0.6)) > 0.05
    wide = rows(2)
    wide[FACTOR_COLUMNS] = 0.5 + 2 * (wide[FACTOR_COLUMNS] - 0.5)  # the same mean
    assert law_distance(rows(0), wide) > 0.01


def test_exports_are_as_coarse_as_no_interval_tells() -> None:
    table = rows(0).assign(clip=np.random.default_rng(0).normal(20, 2, 1500).astype(np.float32), prompt=np.arange(1500), form=0.98765)
    made = coarse(table)
    assert (made["clip"] - table["clip"]).abs().max() <= 2 / 32 / 2 + 1e-6
    assert made["clip"].nunique() < 600
    assert (made[FACTOR_COLUMNS[0]] - table[FACTOR_COLUMNS[0]]).abs().max() <= 2**-9
    assert made["prompt"].dtype == np.int16
    assert made["well_formed"].dtype == bool


def test_a_rate_that_wins_at_the_edge_of_the_grid_is_gone_beyond() -> None:
    tried = [{"place": place, "score": float(place), "guidance": 3.0} for place in range(tuning.RATES)]
    assert tuning.wanted_places(tried[:-1], "full") == [tuning.RATES - 1]
    assert tuning.wanted_places(tried, "full") == [tuning.RATES]
    beyond = [*tried, *({"place": tuning.RATES + k, "score": 9.0 + k, "guidance": 3.0} for k in range(tuning.BEYOND))]
    assert tuning.wanted_places(beyond, "full") == []  # the same budget for every method, whatever wins
    inside = [replace_score(row, 9.0) if row["place"] == 1 else row for row in tried]
    assert tuning.wanted_places(inside, "full") == []
    settings = PRESETS["shapes-spin"].settings
    assert [tuning.rate(settings, place) for place in (0, 2)] == [1.5e-6, 1.5e-5]
    assert tuning.rate(replace(settings, lora_rank=8), 1) == 4.7e-4


def replace_score(row: dict[str, float], score: float) -> dict[str, float]:
    return row | {"score": score}


def test_sides_are_read_and_others_refused() -> None:
    assert Side.parse("shapes/spin-10x@3 second steps=50 guidance=own") == Side("shapes", "spin-10x", 3, "second", 50, "own")
    assert math.isinf(UP)
    with pytest.raises(ValueError, match="names no judged player"):
        Side.parse("spin@3")
