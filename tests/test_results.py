"""The exported experiment: every table and figure of the page is made from it, and the README's claims hold in it."""

import json
from pathlib import Path

import matplotlib.pyplot as plt

from selfimprove.results import ARMS, arms_table, load_results, null_sentence, provenance_sentence, rounds_figure, rounds_table

FOLDER = Path(__file__).parent.parent / "book" / "results" / "spin_shapes"
RESULTS = load_results(FOLDER)


def test_tables_have_a_row_for_everything() -> None:
    table = rounds_table(RESULTS)
    assert len(table) == 4 * len(RESULTS["spin"])
    assert list(arms_table(RESULTS).index) == list(ARMS.values())
    assert "git" in provenance_sentence(RESULTS)
    assert null_sentence({}).endswith("not run")
    assert provenance_sentence({}).startswith("No results")
    figure = rounds_figure(RESULTS)
    assert len(figure.axes) == 2
    plt.close(figure)


def test_the_three_seeds_are_three_runs_judged_alike() -> None:
    identities = [r["identity"] for r in RESULTS["spin"].values()]
    assert {i["seed"] for i in identities} == {0, 1, 2}
    assert len({json.dumps({k: v for k, v in i.items() if k != "seed"}, sort_keys=True) for i in identities}) == 1
    bases = {round(r["rounds"][0]["oracle"]["quality"]["mean"], 6) for r in RESULTS["spin"].values()}
    assert len(bases) == 1  # the same base, prompts and noise
    assert all(i["evaluation_prompts"] >= 2000 for i in identities)


def test_quality_rises_every_round_in_every_seed_and_obedience_holds() -> None:
    for result in RESULTS["spin"].values():
        for metrics in result["rounds"][1:]:
            assert metrics["oracle"]["quality"]["delta_prev_ci95"][0] > 0
        obedience = result["last_against_base"]["oracle_all_right"]
        assert obedience["delta_prev"] >= -0.03
        assert obedience["delta_prev_ci95"][0] >= -0.05
