"""Tables of the recursive experiments, by hand on made-up exports, and from what is exported."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_evaluation_results import shapes_model

from selfimprove.evaluation.protocol import write_scores
from selfimprove.recursion.collapse import LIMITS
from selfimprove_lab.claims.rsi import claims
from selfimprove_lab.claims.table import (
    AGREES,
    CHAPTERS,
    DIFFERS,
    OPEN,
    SPLIT,
    UNTESTABLE,
    Difference,
    Experiments,
    difference,
    linked,
    said,
    together,
)
from selfimprove_lab.results.arms import load_results
from selfimprove_lab.results.evaluation import later_table, load_evaluations
from selfimprove_lab.results.rsi import (
    LABELS,
    by_samples,
    drift_figure,
    ends_table,
    first_round,
    gap_table,
    peak_table,
    pictured_table,
    rounds_figure,
    track,
    visible,
    warning_counts,
    warnings_table,
)

EXPORTED = Path(__file__).parent.parent / "book" / "results"
PROMPTS = [f"p{i}" for i in range(50)]
TRUTHS = ("quality", "all_right")


def export(root: Path, experiment: str, arm: str, seed: int, gains: list[float]) -> None:
    """An arm whose every score is `gains[k]` above the base at round k, give or take a little noise over prompts."""
    folder = root / f"rsi_{experiment}"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rounds, frames = [], []
    base = rng.normal(size=len(PROMPTS))
    for k, gain in enumerate(gains):
        values = base + gain + 0.01 * rng.normal(size=len(PROMPTS)) * (k > 0)
        entry = {"mean": float(values.mean()), "ci95": [0.0, 1.0]}
        if k:
            entry |= {"delta_base": float((values - base).mean()), "delta_base_ci95": [gain - 0.01, gain + 0.01]}
        drift = {sign: 1.0 if k < 2 else 0.1 for sign in LIMITS}
        scores = dict.fromkeys(("clip", "aesthetic", "shading", "saturation", "alignment"), entry)
        error = {"held_out_error": {"mean": 0.02 * (1 + 0.03 * k)}}
        truths = dict.fromkeys(TRUTHS, entry)
        rounds.append({"round": k, "n_prompts": len(PROMPTS), "scores": scores | error, "oracle": truths, "drift": drift})
        columns = [*scores, *(f"oracle_{t}" for t in TRUTHS)]
        frames.append(pd.DataFrame({c: values for c in columns}, index=pd.Index(PROMPTS, name="prompt")).assign(round=k))
    (folder / f"{arm}-{seed}.json").write_text(
        json.dumps(
            {
                "arm": arm,
                "seed": seed,
                "rounds": rounds,
                "samples_trained_on": [7] * (len(gains) - 1),
                "provenance": {},
                "identity": {"objective": "spin" if arm == "spin" else "weighted"},
            }
        )
    )
    pd.concat(frames).to_parquet(folder / f"{arm}-{seed}-prompts.parquet")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in (0, 1, 2):
        export(tmp_path, "rounds", "rsi", seed, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.5, 0.4])
        export(tmp_path, "rounds", "sft-long", seed, [0, 0.2])
    export(tmp_path, "ablations", "none", 0, [0, -0.12, -0.2, -0.3])
    export(tmp_path, "ablations", "no-selection", 0, [0, 0.1, 0.2, 0.35])
    export(tmp_path, "ablations", "beta-low", 0, [0, 0.1, 0.2, 0.2])
    export(tmp_path, "ablations", "selected-1000", 0, [0, 0.2, 0.3, 0.25])
    export(tmp_path, "ablations", "selected-2000", 0, [0, 0.2, 0.3, 0.25])
    export(tmp_path, "collapse", "careless", 0, [0, -0.1, -0.5])
    export(tmp_path, "collapse", "weights", 0, [0, -0.1, -0.4])
    return tmp_path


def test_differences_are_paired_and_intervals_are_over_seeds_from_three_on(root: Path) -> None:
    e = Experiments(root)
    over_seeds = difference(e, ("rsi_rounds", "rsi"), ("rsi_rounds", "sft-long"), "oracle_quality", 6, -1)
    assert over_seeds is not None
    assert over_seeds.seeds == 3
    assert over_seeds.mean == pytest.approx(0.4, abs=0.01)
    assert over_seeds.low > 0.38
    one = difference(e, ("rsi_rounds", "rsi"), ("rsi_ablations", "no-selection"), "oracle_quality", 3)
    assert one is not None
    assert one.seeds == 1
    assert (one.mean, one.verdict()) == (pytest.approx(-0.05, abs=0.01), DIFFERS)
    export(root, "ablations", "no-selection", 1, [0, 0.1, 0.2, 0.45])
    two = difference(e, ("rsi_rounds", "rsi"), ("rsi_ablations", "no-selection"), "oracle_quality", 3)
    assert two is not None
    assert (two.seeds, two.mean) == (2, pytest.approx(-0.1, abs=0.01))  # the mean of -.05 and -.15
    assert two.high - two.low < 0.02  # over prompts, not over two seeds that lie .1 apart
    assert difference(e, ("rsi_rounds", "rsi"), ("rsi_ablations", "absent"), "oracle_quality", 3) is None
    assert Difference(0.1, -0.1, 0.3, 3).verdict() == OPEN


def test_gains_against_the_number_of_different_images(root: Path) -> None:
    table = by_samples(load_results(root / "rsi_rounds"), ["rsi", "sft-long", "absent"], "oracle: quality").set_index(["model", "samples"])
    assert list(table.loc["RSIDiff"].index) == [7 * k for k in range(1, 9)]
    sixth = table.loc[("RSIDiff", 42)]
    assert sixth["mean"] == pytest.approx(0.6, abs=0.01)
    assert sixth["low"] < 0.6 < sixth["high"] < 0.65
    alone = by_samples(load_results(root / "rsi_ablations"), ["none"], "oracle: quality")
    export(root, "beyond", "spin", 0, [0, 0.1, 0.2, 0.3])
    spin = by_samples(load_results(root / "rsi_beyond"), ["spin"], "oracle: quality")
    assert spin["samples"].tolist() == [14, 21, 28]  # its real images, the same in every round, and the drawn ones
    assert alone["low"].tolist() == pytest.approx([-0.13, -0.21, -0.31])  # one seed: its interval over prompts


def test_one_verdict_of_several_differences() -> None:
    up, down, unsure = Difference(0.1, 0.05, 0.15, 3), Difference(-0.1, -0.15, -0.05, 3), Difference(0.0, -0.1, 0.1, 3)
    for found, verdict in (
        ((up, up), AGREES),
        ((up, down), "0 agrees, 1 differs"),
        ((down, down), DIFFERS),
        ((down, unsure), "0 differs, 1 not decided"),
        ((unsure, unsure), OPEN),
        ((up, None), OPEN),
    ):
        assert said({str(i): d for i, d in enumerate(found)})[1] == verdict
    alone = Difference(0.1, 0.05, 0.15, 1)
    assert said({"0": up, "1": alone})[1] == OPEN  # an interval over prompts alone carries no verdict
    assert said({"0": up, "1": Difference(0.1, 0.05, 0.15, 2)})[1] == "agrees, 2 seeds"
    assert together([up, down]) == SPLIT


def test_verdicts_follow_from_the_intervals(root: Path) -> None:
    table = claims(root)
    verdicts = table["verdict"]
    assert verdicts["recursion with selection and weights improves on the base"] == AGREES
    assert verdicts["the best round is in the middle, then it declines"] == AGREES
    assert verdicts["better than SFT on all samples, trained twice as long"] == AGREES
    assert verdicts["without preference sampling it is worse"] == OPEN  # one seed
    assert verdicts["with none of the three it falls below the base"] == OPEN  # one seed
    assert verdicts["without weights it is worse"] == OPEN  # not run
    assert table["here"]["without weights it is worse"] == "not run yet"
    assert verdicts["... already from round 4 on"] == AGREES
    assert verdicts["trained on its own images without care a model loses quality"] == OPEN  # one seed
    assert verdicts["... and its images leave the base's distribution"] == OPEN  # one seed
    assert table["here"]["... and its images leave the base's distribution"].endswith("distance 0.10; nearest 0.10; precision 0.10")
    assert verdicts["weights by distance do"] == OPEN  # one seed
    assert verdicts["preference sampling does"] == OPEN  # not run
    assert verdicts["a smaller beta is worse"] == OPEN  # one seed
    assert verdicts["1,000 of 5,000 lead early"] == OPEN  # one seed
    assert verdicts["the 1,000 have lost the lead by round 3"] == OPEN  # one seed
    assert "1,000 kept -0.0" in table["here"]["with either PickScore falls in the end"]
    assert (verdicts == UNTESTABLE).sum() == 4
    assert table.index.is_unique
    assert claims(root / "nowhere")["verdict"].isin([OPEN, UNTESTABLE]).all()


def test_chapters_in_a_table_are_links(root: Path) -> None:
    text = linked(claims(root)).data
    assert text.count('<a href="08_rsi_rounds.html">chapter 8</a>, Beside it') == 2
    assert text.count("chapter") == text.count(">chapter ")  # every mention
    assert "&lt;" in linked(pd.DataFrame({"a": ["<b>"]})).data  # cells are text
    numbered = {p.stem for p in (EXPORTED.parent.parent / "notebooks").glob("[0-9]*.ipynb")}
    assert {*CHAPTERS.values(), "00_tour"} == numbered


def test_tables_by_hand(root: Path) -> None:
    runs = load_results(root / "rsi_rounds") | load_results(root / "rsi_ablations")
    peaks = peak_table(runs, "rsi", root / "rsi_rounds")
    assert (peaks["best round"] == 6).all()
    assert peak_table(runs, "none", root / "rsi_ablations").iloc[0].tolist()[:2] == [0, "the base is best"]
    assert peaks.loc[("oracle: quality", 0), "from there to the last"].startswith(("-0.19", "-0.20"))
    ends = ends_table(runs, ["rsi", "none", "two-sided"], at=3)
    assert ends.loc["RSIDiff", "quality"].startswith(("+0.299", "+0.300", "+0.301"))
    assert ends.loc["none of the three", "quality"].endswith("*")
    assert ends.loc["two sided", "seeds"] == 0
    assert ends_table(runs, ["rsi"]).loc["RSIDiff", "quality"].startswith(("+0.39", "+0.40"))
    warned = warnings_table({"none": runs["none"]})
    assert (warned["modes"] == 2).all()
    assert (warned["damage is plain"] == 1).all()
    assert (warned["error on real images"] == 2).all()
    index = pd.MultiIndex.from_tuples([("a", 0), ("b", 0), ("c", 0), ("d", 0)])
    made = {"damage is plain": [3, 3, 3, "-"], "variance": [1, 3, "-", 2], "modes": [2, 4, 5, "-"], "error on real images": [3, 1, 4, "-"]}
    counts = warning_counts(pd.DataFrame(made, index=index, dtype=object))
    assert counts.loc["variance"].tolist() == [1, 1, 1, 1]  # a sign that never leaves its range does not warn
    assert counts.loc["any sign on the latents"].tolist() == [1, 1, 1, 1]
    assert counts.loc["error on real images"].tolist() == [1, 1, 1, 0]
    gaps = gap_table(runs, {"none": "clip"})
    spread = 1 / (2 * 1.96) * 50**0.5
    assert gaps.loc[("clip", 0), "that scorer"] == pytest.approx(track(runs["none"][0], "clip")[-1] / spread, abs=0.01)
    assert gaps.loc[("clip", 0), "gap to quality"] == gaps.loc[("clip", 0), "gap to obedience"] == 0
    assert first_round([False, False]) is None
    assert visible(runs["rsi"][0]) is None
    for figure in (rounds_figure(runs, "rsi", ("sft-long",)), drift_figure(runs, ["rsi", "none"])):
        assert len(figure.axes) == 7
        plt.close(figure)


def test_the_pictured_prompts_are_counted_by_hand() -> None:
    """From the exported files: the share of each pictured prompt's images that obey, at the base and at the end of seed 1."""
    folder = EXPORTED / "rsi_rounds"
    table = pictured_table(folder, "rsi")
    assert list(table.index) == json.loads((folder / "prompts.json").read_text())
    frame = pd.read_parquet(folder / "rsi-1-prompts.parquet").reset_index()
    for name, number in {"base model": 0, "round 8, seed 1": 8}.items():
        for prompt in table.index:
            found = frame[(frame["prompt"] == prompt) & (frame["round"] == number)]["oracle_all_right"].mean()
            assert table.loc[prompt, name] == f"{100 * found:.0f} %"


def test_what_selects_is_said_where_something_selects(root: Path) -> None:
    runs = load_results(root / "rsi_rounds")
    titles = {arm: [a.get_title() for a in rounds_figure({arm: runs["rsi"]}, arm).axes] for arm in ("rsi", "careless")}
    plt.close("all")
    assert "clip (selects)" in titles["rsi"]
    assert "quality (oracle)" in titles["rsi"]
    assert not any("selects" in title for title in titles["careless"])


def test_the_best_round_is_tested_on_other_prompts(root: Path) -> None:
    claim, folder = "the best round is in the middle, then it declines", root / "evaluation_shapes" / "held-in"
    folder.mkdir(parents=True)
    assert "others" not in claims(root).loc[claim, "here"]  # nothing was judged there
    write_scores(folder / "base.parquet", shapes_model("base"))
    for seed in range(3):
        write_scores(folder / f"six-{seed}.parquet", shapes_model(f"RSIDiff round 6, seed {seed}", 1.0, seed + 1))
        write_scores(folder / f"eight-{seed}.parquet", shapes_model(f"RSIDiff round 8, seed {seed}", 0.0, seed + 1))
    judged = load_evaluations(folder)
    falling = later_table(judged, "RSIDiff round 6", "RSIDiff round 8")
    assert list(falling.index) == ["seed 0", "seed 1", "seed 2", "all seeds"]
    assert falling.loc["all seeds", "quality, RSIDiff round 8 less RSIDiff round 6"] == "-0.005 [-0.005, -0.005]"
    assert later_table(judged, "RSIDiff round 5", "RSIDiff round 8").empty
    assert claims(root).loc[claim, "verdict"] == AGREES  # there too it falls
    assert "on 40 prompts, nearly all of them others, round 8 less round 6 is -0.005" in claims(root).loc[claim, "here"]
    for seed in range(3):
        write_scores(folder / f"eight-{seed}.parquet", shapes_model(f"RSIDiff round 8, seed {seed}", 2.0, seed + 1))
    assert claims(root).loc[claim, "verdict"] == OPEN  # there it rises


@pytest.mark.parametrize("folder", sorted(EXPORTED.glob("rsi_[rcab]*")), ids=lambda p: p.name)
def test_what_is_exported_is_complete(folder: Path) -> None:
    results = load_results(folder)
    for arm, seeds in results.items():
        assert arm in LABELS or folder.name == "rsi_ablations"
        for seed, result in seeds.items():
            assert (folder / f"{arm}-{seed}-prompts.parquet").exists()
            assert result["provenance"]["versions"]
            assert all("drift" in m for m in result["rounds"][1:])
    bases = {round(r["rounds"][0]["oracle"]["quality"]["mean"], 6) for s in results.values() for r in s.values()}
    assert len(bases) <= 2  # one base, judged on the same prompts and noise; arms that start elsewhere have another
