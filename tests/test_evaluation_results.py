from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_aggregate import model

from selfimprove.evaluation.aggregate import RAW, Rule, comparison
from selfimprove.evaluation.protocol import ProtocolError, Scored, write_scores
from selfimprove.scorers import SHAPES_SCORERS
from selfimprove_lab.published.own import own_beside
from selfimprove_lab.results.evaluation import best_of_curve, guidance_table, interval_widths, load_evaluations, medians, table, tidy


def shapes_model(name: str, shift: float = 0.0, seed: int = 0) -> Scored:
    """Scores under the shapes scorers' names, and the truth, which follows them by half."""
    made = model(name, shift, seed)
    noise = np.random.default_rng(100 + seed).normal(size=(160, len(SHAPES_SCORERS)))
    columns = {s: made.table["narrow"] * 100 + noise[:, i] for i, s in enumerate(SHAPES_SCORERS)}
    truth = {"oracle_quality": 0.5 + 0.5 * (made.table["narrow"] - 0.27), "oracle_all_right": 1.0}
    return Scored(made.table.drop(columns=["wide", "narrow"]).assign(**columns, **truth), made.protocol)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_scores(tmp_path / "base.parquet", shapes_model("base"))
    for seed, shift in enumerate((0.8, 1.0, 1.2)):
        write_scores(tmp_path / f"spin-{seed}.parquet", shapes_model(f"SPIN round 1, seed {seed}", shift, seed + 1))
    write_scores(tmp_path / "rsi.parquet", shapes_model("RSIDiff round 1, seed 0", 0.0, 9))
    return tmp_path


def test_seeds_are_put_together_and_the_base_comes_first(folder: Path) -> None:
    found = load_evaluations(folder)
    assert {name: list(seeds) for name, seeds in found.items()} == {"base": [0], "SPIN round 1": [0, 1, 2], "RSIDiff round 1": [0]}
    rows = tidy(found, statistic="difference").set_index(["model", "score"])
    gain = rows.loc[("SPIN round 1", "shading")]
    assert gain["seeds"] == 3
    assert gain["low"] < 1.0 < gain["high"]
    assert gain["low"] > 0
    assert rows.loc[("RSIDiff round 1", "shading"), "low"] < 0 < rows.loc[("RSIDiff round 1", "shading"), "high"]
    assert rows.loc[("SPIN round 1", "oracle_quality"), "mean"] == pytest.approx(0.005, rel=0.3)
    wins = tidy(found, statistic="wins").set_index(["model", "score"])["mean"]
    assert wins.loc[("SPIN round 1", "shading")] > 75
    assert wins.loc[("SPIN round 1", "oracle_all_right")] == 50  # ties only


def test_tables_have_the_papers_form(folder: Path) -> None:
    found = load_evaluations(folder)
    shown = table(found)
    assert list(shown.index) == ["base", "SPIN round 1", "RSIDiff round 1"]
    assert list(shown)[1:3] == ["oracle quality", "oracle obedience"]
    assert shown.loc["SPIN round 1", "seeds"] == 3
    assert "base" not in table(found, "wins").index
    assert medians(found).loc["base", "shading"] == pytest.approx(27, abs=0.5)
    with pytest.raises(ValueError, match="statistic='mode'"):
        tidy(found, statistic="mode")


def test_nothing_exported_is_no_failure(tmp_path: Path) -> None:
    assert load_evaluations(tmp_path) == {}
    assert table({}).empty


def test_evaluations_of_different_protocols_are_refused(folder: Path) -> None:
    odd = shapes_model("SFT, seed 0", 0.0, 4)
    write_scores(folder / "sft.parquet", Scored(odd.table, replace(odd.protocol, steps=20)))
    with pytest.raises(ProtocolError, match="steps: 10 and 20"):
        load_evaluations(folder)


def test_best_of_n_inflates_what_it_selects_by_most() -> None:
    scores = shapes_model("base").table
    curve = best_of_curve(scores, SHAPES_SCORERS, RAW, [1, 2, 4]).set_index(["n", "score"])["mean"]
    assert curve.loc[(1, "clip")] == pytest.approx(0, abs=1e-6)
    assert curve.loc[(4, "clip")] > curve.loc[(2, "clip")] > 0.1
    assert curve.loc[(4, "oracle_quality")] > 0.1


def test_guidance_is_set_beside_the_base_at_the_same_and_at_the_usual_one(tmp_path: Path) -> None:
    for name, shift in (("base", 0.0), ("SPIN round 1, seed 0", 0.5)):
        for guidance in (1.5, 3.0):
            made = shapes_model(f"{name} at guidance {guidance:g}", shift + (guidance == 3.0), 0)
            scored = Scored(made.table, replace(made.protocol, guidance=guidance))
            write_scores(tmp_path / f"{name[:4]}-{guidance:g}.parquet", scored)
    found = load_evaluations(tmp_path)
    shown = guidance_table(found, 3.0, ("shading",))
    assert list(shown.index) == [("base", 1.5), ("SPIN round 1", 1.5), ("SPIN round 1", 3.0)]

    def number(model: str, guidance: float, column: str) -> float:
        return float(shown.loc[(model, guidance), column].split(" ")[0])

    assert number("base", 1.5, "shading, over the base at 3") == pytest.approx(-1, abs=0.01)
    assert shown.loc[("base", 1.5), "shading, over the base there"] == ""
    assert number("SPIN round 1", 1.5, "shading, over the base there") == pytest.approx(0.5, abs=0.01)
    assert number("SPIN round 1", 1.5, "shading, over the base at 3") == pytest.approx(-0.5, abs=0.01)
    assert number("SPIN round 1", 3.0, "shading, over the base at 3") == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ProtocolError, match="guidance 6"):
        guidance_table(found, 6.0)


def test_paired_intervals_shrink_with_the_root_of_the_number() -> None:
    widths = interval_widths(shapes_model("x", 0.5, 1), shapes_model("base"), "shading", [100, 400])
    assert (widths.loc[100] / widths.loc[400]).tolist() == pytest.approx([2, 2, 2])
    assert widths.loc[400, "paired difference"] < widths.loc[400, "difference of unpaired models"]
    assert widths.loc[400, "win rate (points)"] == pytest.approx(4.9, abs=0.1)


def published_model(name: str, version: str, seed: int) -> Scored:
    made = model(name, 0.2 * seed, seed)
    frame = made.table.rename(columns={"wide": "pickscore", "narrow": version}).assign(
        aesthetic=5.0 + made.table["narrow"], imagereward=made.table["wide"]
    )
    versions = {name: f"{name}: x" for name in ("pickscore", version, "aesthetic", "imagereward")}
    return Scored(frame, replace(made.protocol, scorers=versions))


def test_own_results_stand_beside_the_published_ones_with_every_difference_named() -> None:
    models = [published_model("SD-1.5", "hpsv2", 0), published_model("mine", "hpsv2", 1)]
    rule = Rule(4)
    rows = comparison(models, ["hpsv2", "aesthetic", "imagereward", "pickscore"], rule)
    shown = own_beside("spin-diffusion/1", rows, models[0].protocol, rule, {"mine": "SPIN round 1"})
    row = rows.set_index(["model", "score"]).loc[("mine", "pickscore")]
    assert shown.frame.loc["SPIN round 1", ("PickScore", "here")] == f"{row['mean']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
    assert shown.frame.loc["SPIN round 2", ("PickScore", "here")] == "not run"
    assert "images per prompt: 5 there, 4 here" in shown.header
    assert "guidance: 7.5 there, 3.0 here" in shown.header


def test_another_hps_is_refused_and_nothing_run_is_said() -> None:
    models = [published_model("SD-1.5", "hpsv2.1", 0), published_model("mine", "hpsv2.1", 1)]
    rows = comparison(models, ["hpsv2.1", "aesthetic", "imagereward", "pickscore"])
    with pytest.raises(ValueError, match=r"hpsv2\.1"):
        own_beside("spin-diffusion/1", rows, models[0].protocol, Rule())
    empty = own_beside("spin-diffusion/1", None, None, Rule(), commands={"SPIN round 1": "papermill ..."})
    assert (empty.frame.xs("here", axis=1, level=1) == "not run").all().all()
    assert empty.frame.loc["SPIN round 1", ("command", "to fill")] == "papermill ..."
    with pytest.raises(ValueError, match="statistic='difference'"):
        own_beside("spin-diffusion/1", rows, models[0].protocol, Rule(), statistic="difference")
