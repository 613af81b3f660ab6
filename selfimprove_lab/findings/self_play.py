"""Number what the pages on self-play state: rounds and baselines, parts of a round, the map, rounds on the base's own data, the alarm."""

from pathlib import Path

import numpy as np

from selfimprove.evaluation.aggregate import RAW
from selfimprove_lab.claims.table import QUALITY, RIGHT, Experiments, difference
from selfimprove_lab.findings.cells import cells, spoken
from selfimprove_lab.results.arms import ARMS, arms_table, load_results, null_table
from selfimprove_lab.results.controls import (
    AXES,
    CONTROLS,
    SECOND,
    budgets_table,
    controls_table,
    images_seen,
    map_table,
    partner,
    samplers_table,
    second_round_table,
)
from selfimprove_lab.results.controls import cells as played_cells
from selfimprove_lab.results.lost import share_no_scene
from selfimprove_lab.results.signs import LIMIT, LOSS, alarm_counts, training_signs
from selfimprove_lab.results.towards_data import SCORES, data_table, errors_table

READINGS = {QUALITY: "quality", RIGHT: "obedience"}


def play(root: Path) -> dict[str, str]:
    """Return changes from the base by arm, from round to round, and against each baseline, with the numbers of prompts and images."""
    runs, experiments = load_results(root / "spin_shapes"), Experiments(root)
    columns = {f"change of {name} from base": name for name in READINGS.values()}
    found = cells("play", arms_table(runs), {label: arm.replace("-", "_") for arm, label in ARMS.items()}, columns)
    budgets = budgets_table(root)
    rows = {key: f"{'adapters_' * (key[0] == 'adapters')}over_{key[1].replace(',', '').lower()}" for key in budgets.index}
    found |= cells("play", budgets, rows, {name: name for name in READINGS.values()})
    nulls = null_table(runs)
    kinds = {"real images": "null", "real, encoded twice": "null_twice", "encoded twice less once": "null_encoding"}
    found |= cells("play_one_round", nulls, {row: row.replace(" ", "_") for row in nulls.index}, kinds)
    spin = ("spin_shapes", "spin")
    for k in (1, 2, 3):
        for column, name in READINGS.items():
            found[f"play_round_{k}_{name}"] = spoken(difference(experiments, spin, spin, column, k, k - 1))
    some = next(iter(runs["spin"].values()))
    found["play_images"] = f"{some['identity']['evaluation_prompts']:,}"
    found["play_prompts"] = f"{experiments.prompts(*spin, 0)['round'].eq(0).sum():,}"
    found["play_ceiling"] = f"{some['rounds'][0]['oracle']['ceiling']['winners']['all_right']:.2f}"
    found["play_seeds"] = str(len(runs["spin"]))
    for name in ("quality", "all_right"):
        ends = [np.mean([r["rounds"][k]["oracle"][name]["mean"] for r in runs["spin"].values()]) for k in (0, 3)]
        for level, end in zip(("base", "end"), ends, strict=True):
            found[f"play_{level}_{name.replace('all_right', 'obedience')}"] = f"{end:.2f}"
    found["play_spread_null"] = f"{_spread(runs['null'], 1):.4f}"
    found["play_spread_spin"] = f"{_spread(runs['spin'], 1):.4f}"
    for arm in ("sft-compute", "spin"):
        end = next(iter(runs[arm].values()))
        seen = sum(images_seen(end, k) for k in range(1, len(end["rounds"])))
        found[f"play_seen_{arm.replace('-', '_')}"] = f"{seen:,}"
    for model, name in {"spin-round-3": "no_scene", "sft-equal-compute": "no_scene_sft"}.items():
        found[f"play_{name}"] = share_no_scene(root / "evaluation_shapes" / "held-in", f"{model}-seed-{{seed}}")
    short, long = (("spin_map", f"sft-steps-{n}") for n in (240, 720))
    for column, name in {RAW: "average", **READINGS}.items():
        found[f"play_sft_longer_{name}"] = spoken(difference(experiments, long, short, column, 1))
    for longer in (short, long):
        found[f"play_seen_{longer[1].replace('-', '_')}"] = (
            f"{images_seen(next(iter(experiments.load(longer[0])[longer[1]].values())), 1):,}"
        )
    return found


def _spread(seeds: dict[int, dict], index: int) -> float:
    """Return the standard deviation over training seeds of the change of quality in a round."""
    return float(np.std([r["rounds"][index]["oracle"]["quality"]["delta_prev"] for r in seeds.values()], ddof=1))


def part(root: Path) -> dict[str, str]:
    """Return what a round does with one part changed, what a second round does against either opponent, and gains by sampler."""
    columns = {f"{name}, change in the round": name for name in READINGS.values()}
    columns |= {f"{name}, against the round as it is": f"{name}_less" for name in READINGS.values()}
    rows = {"nothing: the round as it is": "plain"} | {label: arm.replace("++", "") for arm, label in CONTROLS.items()}
    found = cells("part", controls_table(root), rows, columns)
    second = {"a new opponent, with its images": "new", "the old opponent, with its images": "old", "old less new": "old_less_new"}
    found |= cells("part", second_round_table(root), second, {SECOND[c]: n for c, n in {RAW: "average", **READINGS}.items()})
    gains = samplers_table(root)
    trained = {f"opponent drawn by {name}": name.lower().split("-")[0] for name in ("DDIM", "DPM-Solver++", "UniPC")}
    drawn = {
        f"{reading}, drawn by {name}": f"{reading}_drawn_by_{name.lower().split('-')[0]}"
        for name in ("DDIM", "DPM-Solver++", "UniPC") for reading in READINGS.values()
    }  # fmt: skip
    return found | {f"part_against_{trained[c]}_{drawn[r]}": str(gains.loc[r, c]) for c in gains for r in gains.index}


def map_cells(root: Path) -> dict[str, str]:
    """Return every cell of the map: self-play, fine-tuning and their difference, their steps, and how many cells either wins."""
    table, runs = map_table(root), load_results(root / "spin_map")
    names = {}
    for cell in played_cells(runs):
        axis, _, value = cell.partition("-")
        names[AXES[axis], value or "as it is"] = cell.replace("-", "_")
    kinds = {"SPIN": "spin", "SFT": "sft", "SPIN - SFT": "less"}
    columns = {f"{kind}: {reading}": f"{short}_{reading}" for kind, short in kinds.items() for reading in READINGS.values()}
    found = cells("map", table, names, columns)
    for cell in played_cells(runs):
        for arm, kind in ((f"spin-{cell}", "spin"), (partner(cell), "sft")):
            found[f"map_{cell.replace('-', '_')}_{kind}_steps"] = str(next(iter(runs[arm].values()))["identity"]["steps"])
    found["map_cells"] = str(len(table))
    some = next(iter(runs["spin-default"].values()))["identity"]
    found["map_pairs"] = f"{some['steps'] * some['batch']:,}"
    found["map_cells_one_seed"] = str(table["SPIN - SFT: quality"].str.contains("1 seed").sum())
    found["map_cells_self_play"] = str(table["SPIN - SFT: quality"].str.contains(r"\[\+").sum())
    found["map_cells_sft"] = str(table["SPIN - SFT: quality"].str.contains(r"\[-.*, -").sum())
    found["map_cells_open"] = str(table["SPIN - SFT: quality"].str.contains(r"\[-.*, \+").sum())
    found["map_prompts"] = str(next(iter(runs["spin-default"].values()))["identity"]["evaluation_prompts"])
    return found


def own(root: Path) -> dict[str, str]:
    """Return rounds on the base's own kind of images: changes of samples and of the denoiser's error."""
    cases = {"the winners": "winners", "the base's own data": "guided", "the same, no guidance": "unguided"}
    data, errors = data_table(root), errors_table(root)
    columns = {"the data's": "data", "the base's": "base", "change in one round": "round_1", "change in 3 rounds": "round_3"}
    rows = {(score, case): f"{short}_{score}" for score in SCORES.values() for case, short in cases.items()}
    found = cells("own", data, rows, columns)
    found |= cells(
        "own", errors, {key: f"{cases[key[0]]}_{key[1].replace(' ', '_').replace('-', '_')}" for key in errors.index},
        {"quality of samples": "samples", "error of the denoiser": "error"},
    )  # fmt: skip
    return found


def alarm(root: Path) -> dict[str, str]:
    """Return how often the alarm of `results.signs` rang, and the limits that it was given."""
    counts = alarm_counts(training_signs(root, at=0.5))
    lost, kept = counts.iloc[:, 0], counts.iloc[:, 1]
    return {
        "alarm_limit": f"{100 * LIMIT:.0f} %", "alarm_loss": f"{LOSS:g}", "alarm_rounds": str(int(counts.to_numpy().sum())),
        "alarm_rang": str(lost["rings"]), "alarm_false": str(kept["rings"]), "alarm_missed": str(lost["silent"]),
        "alarm_lost": str(int(lost.sum())),
    }  # fmt: skip
