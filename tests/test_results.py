"""The exported experiment: every table and figure of the page is made from it."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import matplotlib.pyplot as plt

from selfimprove.presets import PRESETS
from selfimprove.shapes import PIPELINE
from selfimprove_lab.results import arms as results
from selfimprove_lab.results.arms import (
    ARMS,
    arms_table,
    folder_sentence,
    load_results,
    null_table,
    provenance_sentence,
    renamed,
    rounds_figure,
    rounds_table,
)

FOLDER = Path(__file__).parent.parent / "book" / "results" / "spin_shapes"
RESULTS = load_results(FOLDER)


def test_tables_have_a_row_for_everything() -> None:
    table = rounds_table(RESULTS)
    assert len(table) == 4 * len(RESULTS["spin"])
    assert list(arms_table(RESULTS).index) == list(ARMS.values())
    assert "git" in provenance_sentence(RESULTS)
    assert list(null_table(RESULTS).index)[-1] == "mean"
    assert null_table({}).empty
    assert len(arms_table({})) == len(ARMS)
    assert provenance_sentence({}).startswith("No results")
    judged = folder_sentence(FOLDER.parent / "evaluation_shapes" / "held-in", "make evaluation")
    assert " tables, the last sitting ended 20" in judged
    assert judged.endswith("Made by make evaluation.")
    assert folder_sentence(FOLDER / "nowhere", "make evaluation") == "No results have been exported yet: make evaluation"
    figure = rounds_figure(RESULTS)
    assert len(figure.axes) == 2
    plt.close(figure)


def test_seeds_are_separate_runs_judged_alike() -> None:
    runs = RESULTS["spin"].values()
    identities = [r["identity"] for r in runs]
    assert len({i["seed"] for i in identities}) == len(identities)
    later = asdict(PRESETS["shapes-spin"].settings)  # what an older export does not name yet
    assert len({json.dumps({**later, **renamed(i), "seed": None}, sort_keys=True) for i in identities}) == 1
    bases = {round(r["rounds"][0]["oracle"]["quality"]["mean"], 6) for r in runs}
    assert len(bases) == 1  # the same base, prompts and noise
    assert all(i["evaluation_prompts"] >= 2000 for i in identities)


def hash_of_format_1(folder: Path) -> str:
    """Return the hash by which runs of format 1 knew a model: of all weights, configurations and texts below its parts."""
    digest = hashlib.sha256()
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        for path in sorted(p for p in (folder / part).rglob("*") if p.suffix in (".safetensors", ".json", ".txt")):
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def test_results_are_of_the_preset_and_models_that_are_shipped() -> None:
    for result in RESULTS["spin"].values():
        preset = PRESETS["shapes-spin"].changed(evaluation_prompts=result["identity"]["evaluation_prompts"])
        expected = json.loads(json.dumps(preset.identity()))  # as it is exported
        said = {k: v for k, v in renamed(result["identity"]).items() if k in expected}
        assert said == {k: expected[k] for k in said}
        assert result["identity"]["model"] == hash_of_format_1(PIPELINE)


def test_quality_rises_every_round_in_every_seed_and_obedience_holds() -> None:
    for result in RESULTS["spin"].values():
        for metrics in result["rounds"][1:]:
            assert metrics["oracle"]["quality"]["delta_prev_ci95"][0] > 0
        obedience = result["last_against_base"]["oracle_all_right"]
        assert obedience["delta_prev"] >= -0.03
        assert obedience["delta_prev_ci95"][0] >= -0.05


def test_intervals_over_seeds_and_prompts_by_hand() -> None:
    """1, 2, 3: mean 2, standard deviation 1, Student's factor for two degrees of freedom 4.303; halves add up as squares."""
    assert results.over_seeds([1.0, 2.0, 3.0], [(v, v) for v in (1.0, 2.0, 3.0)]) == "+2.000 [-0.484, +4.484]"
    assert results.over_seeds([2.0, 2.0, 2.0], [(1.5, 2.5)] * 3) == "+2.000 [+1.500, +2.500]"
    assert results.over_seeds([1.0, 2.0, 3.0], [(0.0, 2.0), (0.0, 4.0), (0.0, 6.0)]) == "+2.000 [-1.189, +5.189]"
    assert results.over_seeds([0.5], [(0.4, 0.6)]) == "+0.500 [+0.400, +0.600] (one seed)"
