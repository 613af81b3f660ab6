"""Exports are as narrow as they are written, what is written is enough for the pages, and the tree stays small enough to travel."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments import rsi_shapes
from experiments.exports import LEVELS, LOG, coarse, logged, narrow, narrow_log, narrow_metrics, narrow_prompts, narrow_summary, save_strip
from selfimprove.config import Settings
from selfimprove.evaluation.aggregate import RAW
from selfimprove.files import write_table
from selfimprove.scorers import SHAPES_SCORERS
from selfimprove_lab.claims.table import QUALITY, RIGHT

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "book" / "results"
ARMS = sorted(p for p in RESULTS.glob("*/*-[0-9]*.json") if p.parent.name not in ("rsi_prompts", "spin_samplers"))
MIB = 2**20


def test_the_tree_is_small_enough_to_be_carried_to_a_bare_machine() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    sizes = {name: (ROOT / name).lstat().st_size for name in listed if name and (ROOT / name).is_file()}
    results = sum(size for name, size in sizes.items() if name.startswith("book/results/"))
    assert sum(sizes.values()) <= 40 * MIB, sorted(sizes, key=sizes.__getitem__)[-10:]
    assert results <= 15 * MIB


def test_integers_and_floats_are_narrowed_and_nothing_else() -> None:
    wide = pd.DataFrame({"prompt": ["a", "b"], "image": [0, 4], "steps": [1, 70_000], "clip": [0.1, 16.25], "right": [True, False]})
    made = narrow(wide)
    assert [str(t) for t in made.dtypes[1:]] == ["int8", "int32", "float32", "bool"]
    assert made["prompt"].tolist() == ["a", "b"]
    assert made["clip"].tolist() == [np.float32(0.1), 16.25]
    assert wide["image"].dtype == np.int64  # a copy


def test_prompts_keep_the_truths_and_each_scorer_or_their_average() -> None:
    columns = {name: [float(i), float(i + 1)] for i, name in enumerate((*SHAPES_SCORERS, QUALITY, RIGHT, "oracle_centring"))}
    scores = pd.DataFrame(columns, index=pd.Index(["a", "b"], name="prompt")).assign(round=3)
    each, average = narrow_prompts(scores, each=True), narrow_prompts(scores, each=False)
    assert list(each) == [*SHAPES_SCORERS, QUALITY, RIGHT, "round"]
    assert list(average) == [RAW, QUALITY, RIGHT, "round"]
    assert average[RAW].tolist() == [2.0, 3.0]  # of 0 to 4, and of 1 to 5
    assert average["round"].dtype == np.int8
    assert average.index.equals(scores.index)


def test_the_log_of_self_play_is_exported_and_no_other() -> None:
    assert logged(Settings())
    assert not logged(Settings(generated_source="loser", opponent="base"))
    assert not logged(Settings(objective="sft"))
    wide = pd.DataFrame({name: [0.1, 0.2] for name in (*LOG, "lr", "reweighting")}).assign(step=[0, 1], round=1)
    log = narrow_log(pd.concat([wide, wide.assign(round=2)]))
    assert list(log) == list(LOG)
    assert list(log.index) == [0, 1, 2, 3]
    assert log["margin"].tolist() == [0.1, 0.2, 0.1, 0.2]  # as logged


def test_summaries_keep_what_is_shown_and_a_mean_of_the_rest() -> None:
    said = {"mean": 1.0, "median": 2.0, "ci95": [0.0, 3.0], "delta_base": 0.5, "win_rate_base": 0.6}
    kept = {"mean": 1.0, "ci95": [0.0, 3.0], "delta_base": 0.5}
    assert narrow_summary({"clip": said, "nearest_real": said}) == {"clip": kept, "nearest_real": {"mean": 1.0}}
    ceiling, drift = {"winners": {"all_right": 1.0}}, {"modes": 1.0}
    metrics = {"round": 1, "oracle": {"quality": said, "centring": said, "ceiling": ceiling}, "drift": drift}
    oracle = {"quality": kept, "centring": {"mean": 1.0}, "ceiling": ceiling}
    assert narrow_metrics(metrics) == {"round": 1, "oracle": oracle, "drift": drift}


def test_pictures_are_coarser_than_an_eye_tells_and_only_white_is_white(tmp_path: Path) -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    made = np.asarray(coarse(Image.fromarray(every)))
    assert np.abs(made.astype(int) - every).max() < LEVELS
    assert len(np.unique(made)) <= 256 // LEVELS + 1
    assert np.array_equal((made == 255).all(2), (every == 255).all(2))
    save_strip(Figure(figsize=(1, 1)), tmp_path / "strip.png", dpi=20)
    with Image.open(tmp_path / "strip.png") as strip:
        assert (strip.mode, strip.size, strip.getpixel((5, 5))) == ("RGB", (20, 20), (255, 255, 255))


def test_a_table_is_read_as_it_was_written_and_says_so_once(tmp_path: Path) -> None:
    table = pd.DataFrame({"score": np.float32([0.5, 2.0]), "round": np.int8([0, 1])}, index=pd.Index(["b", "a"], name="prompt"))
    table.attrs["protocol"] = {"steps": 10}
    write_table(tmp_path / "table.parquet", table)
    back = pd.read_parquet(tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(back, table)
    assert back.attrs == table.attrs
    assert set(pq.read_metadata(tmp_path / "table.parquet").metadata) == {b"pandas"}
    assert list(tmp_path.iterdir()) == [tmp_path / "table.parquet"]


@pytest.mark.parametrize("path", ARMS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_exported_arms_are_as_narrow_as_they_are_written(path: Path) -> None:
    result = json.loads(path.read_text())
    assert result["rounds"] == [narrow_metrics(m) for m in result["rounds"]]
    assert result["last_against_base"] == narrow_summary(result["last_against_base"])
    scorers = SHAPES_SCORERS if result["identity"]["objective"] == "weighted" else (RAW,)
    prompts = pq.read_schema(path.with_name(f"{path.stem}-prompts.parquet"))
    assert prompts.names == [*scorers, QUALITY, RIGHT, "round", "prompt"]
    assert {str(prompts.field(c).type) for c in (*scorers, QUALITY, RIGHT)} == {"float"}
    log, said = path.with_name(f"{path.stem}-training.parquet"), result["identity"]
    played = said["objective"] == "spin" and said.get("generated_source", "rollout") == "rollout"
    assert log.exists() == played
    assert not played or pq.read_schema(log).names == list(LOG)


def test_exported_pictures_are_those_that_pages_show() -> None:
    strips = {
        "spin_shapes": {f"spin-{seed}" for seed in range(3)} | {"sft-steps-0", "dpo-0"},
        "rsi_rounds": {f"rsi-{seed}" for seed in range(3)},
    }
    strips["rsi_collapse"] = set(rsi_shapes.STRIPS["rsi_collapse"])
    found = list(RESULTS.glob("*/*.png"))
    assert {(p.parent.name, p.stem) for p in found} <= {(folder, name) for folder, names in strips.items() for name in names}
    for path in found:
        with Image.open(path) as picture:
            assert picture.mode == "RGB"
            assert np.array_equal(np.asarray(picture), np.asarray(coarse(picture))), f"{path.name}: write it with exports.save_strip"


def test_exported_evaluations_have_no_ids() -> None:
    found = list((RESULTS / "evaluation_shapes").glob("*/*.parquet"))
    assert found
    for path in found:
        schema = pq.read_schema(path)
        assert schema.names == ["prompt", "image", *SHAPES_SCORERS, QUALITY, RIGHT]
        assert str(schema.field("image").type) == "int8"
