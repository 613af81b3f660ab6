"""Tables of self-play's controls, map and claims, by hand on made-up exports, and from what is exported."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_evaluation_results import shapes_model

from selfimprove import losses
from selfimprove.evaluation.aggregate import Rule
from selfimprove.evaluation.protocol import write_scores
from selfimprove.scorers import SHAPES_SCORERS
from selfimprove_lab.claims import rsi as rsi_claims
from selfimprove_lab.claims import spin as spin_claims
from selfimprove_lab.claims import theory
from selfimprove_lab.claims.spin import claims
from selfimprove_lab.claims.table import AGREES, CHAPTERS, DIFFERS, OPEN, UNTESTABLE, claimed, verdicts_figure
from selfimprove_lab.results.arms import load_results
from selfimprove_lab.results.controls import (
    CONTROLS,
    budgets_table,
    cells,
    controls_table,
    map_figure,
    map_table,
    partner,
    price_figure,
    samplers_table,
    samples_figure,
    second_round_table,
)
from selfimprove_lab.results.signs import alarm_counts, alarm_table, predictors_table, signs_figure, training_signs
from selfimprove_lab.results.towards_data import data_table, objectives_table

EXPORTED = Path(__file__).parent.parent / "book" / "results"
PROMPTS = [f"p{i}" for i in range(40)]
IDENTITY = {"steps": 60, "batch": 48, "objective": "spin", "samples": 32}


def export(root: Path, experiment: str, arm: str, seed: int, quality: list[float], right: list[float]) -> None:
    """An arm whose truths are so far above the base at rounds 0, 1, ..., give or take a little noise over prompts."""
    folder = root / experiment
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed + 10 * len(arm))
    rounds, frames, logs = [], [], []
    for k, gains in enumerate(zip(quality, right, strict=True)):
        truths, columns = {}, {}
        for name, gain, before in zip(("quality", "all_right"), gains, (quality[k - 1], right[k - 1]), strict=True):
            truths[name] = {
                "mean": 0.5 + gain,
                "ci95": [0.49 + gain, 0.51 + gain],
                "delta_base": gain + 0.001 * seed,
                "delta_base_ci95": [gain - 0.01, gain + 0.01],
                "delta_prev": gain - before,
            }
            columns[f"oracle_{name}"] = 0.5 + gain + 0.01 * rng.normal(size=len(PROMPTS)) * (k > 0)
        columns |= {name: 10 + i + columns["oracle_quality"] for i, name in enumerate(SHAPES_SCORERS)}
        scores = {name: {"mean": i + k} for i, name in enumerate(SHAPES_SCORERS)} | {"held_out_error": {"mean": 1 + 0.1 * k}}
        rounds.append({"round": k, "oracle": truths, "scores": scores})
        frames.append(pd.DataFrame(columns, index=pd.Index(PROMPTS, name="prompt")).assign(round=k))
        if k and "sft" not in arm:
            log = {"margin": gains[0], "implicit_accuracy": 0.5 + gains[0], "player_real": 1 - gains[1], "opponent_real": 1.0, "round": k}
            logs.append(pd.DataFrame([log] * 20))
    result = {"arm": arm, "seed": seed, "rounds": rounds, "identity": IDENTITY, "provenance": {}}
    (folder / f"{arm}-{seed}.json").write_text(json.dumps(result))
    pd.concat(frames).to_parquet(folder / f"{arm}-{seed}-prompts.parquet")
    (pd.concat(logs) if logs else pd.DataFrame({"loss": [1.0], "round": [1]})).to_parquet(folder / f"{arm}-{seed}-training.parquet")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in range(3):
        export(tmp_path, "spin_shapes", "spin", seed, [0, 0.1, 0.2, 0.3], [0, 0.1, 0.0, -0.1])
        export(tmp_path, "spin_shapes", "sft-steps", seed, [0, 0.05], [0, -0.2])
        export(tmp_path, "spin_shapes", "sft-compute", seed, [0, 0.05], [0, -0.2])
        export(tmp_path, "spin_controls", "continued", seed, [0, 0.1, 0.12], [0, 0.1, -0.3])
        export(tmp_path, "spin_controls", "hinge", seed, [0, 0.04], [0, 0.1])
        for cell, gain in {"default": 0.2, "images-64": -0.1, "images-256": 0.0, "from-far": 0.3}.items():
            export(tmp_path, "spin_map", f"spin-{cell}", seed, [0, gain], [0, -gain])
            export(tmp_path, "spin_map", f"sft-{cell}", seed, [0, 0.0], [0, 0.0])
        export(tmp_path, "spin_map", "spin-beta-500", seed, [0, 0.3], [0, -0.4])
    return tmp_path


def test_claims_by_hand(root: Path) -> None:
    table = claims(root)
    verdicts = table["verdict"]
    assert verdicts["round 1 improves on the base"] == AGREES
    assert verdicts["round 2 improves on round 1"] == "the scorers' average agrees, quality agrees, obedience differs"
    assert verdicts["in the end it surpasses SFT at equal steps"] == AGREES
    assert table.loc["in the end it surpasses SFT at equal steps", "here"].split("; ")[1].startswith("quality +0.25")
    assert verdicts["playing on against the old opponent stalls"] == "the scorers' average differs, quality differs, obedience agrees"
    assert verdicts["a new opponent gains more than the old one"] == AGREES
    assert verdicts["round 2 surpasses Diffusion-DPO"] == OPEN
    assert (verdicts["fine-tuning has stopped improving"], table.loc["fine-tuning has stopped improving", "here"]) == (OPEN, "not run yet")
    for arm, gain in (("sft-steps-240", 0.2), ("sft-steps-720", 0.3)):
        for seed in (0, 1):
            export(root, "spin_map", arm, seed, [0, gain], [0, 0.0])
    stopped = claims(root).loc["fine-tuning has stopped improving"]
    assert stopped["here"].startswith("from 5,760 to 5,760 samples: the scorers' average +0.10")
    assert stopped["verdict"] == f"{DIFFERS}, 2 seeds"
    assert (verdicts["it leads towards the data, also downwards"], table.loc["it leads towards the data, also downwards", "here"]) == (
        OPEN,
        "not run yet",
    )


def test_other_prompts_by_hand(root: Path) -> None:
    folder = root / "evaluation_shapes" / "held-out"
    folder.mkdir(parents=True)
    write_scores(folder / "base.parquet", shapes_model("base"))
    claim = "it holds on other prompts"
    assert claims(root).loc[claim, "verdict"] == OPEN
    for seed in range(2):
        write_scores(folder / f"spin-{seed}.parquet", shapes_model(f"SPIN round 3, seed {seed}", 1.0, seed + 1))
    row = claims(root).loc[claim]
    assert row["here"].startswith("quality +0.00")
    assert "(2 seeds); obedience +0.000 [+0.000, +0.000] (2 seeds)" in row["here"]
    assert row["verdict"] == "quality agrees, obedience not decided, 2 seeds"


def test_win_rates_by_hand(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spin_claims, "BEST_OF", Rule(2))  # the models made up here draw four images a prompt
    folder = root / "evaluation_shapes" / "held-in"
    folder.mkdir(parents=True)
    write_scores(folder / "base.parquet", shapes_model("base"))
    for seed in range(3):
        write_scores(folder / f"spin-{seed}.parquet", shapes_model(f"SPIN round 3, seed {seed}", 1.0, seed + 1))
        write_scores(folder / f"sft-{seed}.parquet", shapes_model(f"SFT equal steps, seed {seed}", -0.5, seed + 11))
    table = claims(root)
    assert table.loc["by scores it wins most prompts from the base", "here"].startswith("the scorers' average ")
    assert table.loc["by scores it wins most prompts from the base", "verdict"] == AGREES
    assert "obedience 50.0 % [50.0, 50.0] (3 seeds)" in table.loc["... and by quality and obedience", "here"]  # ties
    assert table.loc["... and by quality and obedience", "verdict"] == OPEN
    assert table.loc["... more of them than SFT at equal steps does", "verdict"] == AGREES
    assert float(table.loc["... more of them than SFT at equal steps does", "here"].partition(" % against ")[2].partition(" ")[0]) < 50
    assert table.loc["... and than Diffusion-DPO does", "here"] == "not run yet"
    assert table.loc["medians of the scores rise as means do", "verdict"] == AGREES


@pytest.fixture(scope="module")
def derived() -> pd.DataFrame:
    return theory.claims(examples=4, samples=100_000, points=300)


def test_theory_is_executed(derived: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    differing = derived[derived["verdict"] == DIFFERS].index.tolist()
    assert len(derived) == 14
    assert [name.partition(",")[0] for name in differing] == [
        "errors of means are errors of noise predictions", "... also in the form that is trained",
        "what self-play ends at cannot be improved by SFT", "... of (4.9)",
        "... of the exact objective", "theta_k is the only global optimum",
    ]  # fmt: skip
    assert (derived["verdict"] == OPEN).sum() == 1  # rounds that are played with one seed
    exact = losses.spin_exact
    monkeypatch.setattr(losses, "spin_exact", lambda *a: exact(*a[:4], a[4] * len(a[0]), *a[5:]))  # summed over steps, not averaged
    assert theory._lemma(4).verdict == DIFFERS


def test_claims_say_where_they_are_tested(tmp_path: Path, derived: pd.DataFrame) -> None:
    """A chapter, and a heading that stands on its page."""
    pages = {n: EXPORTED.parent.parent / "notebooks" / f"{name}.ipynb" for n, name in CHAPTERS.items()}
    for table in (claims(tmp_path), rsi_claims.claims(tmp_path), derived):
        assert table.index.is_unique
        for where in table["where"]:
            chapter, _, section = where.partition(", ")
            if where == "nowhere":
                continue
            cells = json.loads(pages[chapter.removeprefix("chapter ")].read_text())["cells"]
            lines = "".join(line for c in cells if c["cell_type"] == "markdown" for line in [*c["source"], "\n"]).splitlines()
            plain = [line.lstrip("# ").replace("$", "").replace("\\", "") for line in lines if line.startswith("##")]
            assert section in plain, f"no such section: {where}"


def test_controls_by_hand(root: Path) -> None:
    table = controls_table(root)
    assert list(table.index) == ["nothing: the round as it is", *CONTROLS.values()]
    assert table.loc["hinge link", "quality, change in the round"].startswith("+0.04")
    assert table.loc["hinge link", "quality, against the round as it is"] == "-0.058 [-0.064, -0.053] (3 seeds)"  # .04 against .1
    assert table.loc["no pushing term", "quality, change in the round"] == "not run"


def test_budgets_and_the_price_by_hand(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        export(tmp_path, "spin_shapes", "spin", seed, [0, 0.1, 0.2], [0, -0.1, -0.15])
        export(tmp_path, "spin_shapes", "sft-steps", seed, [0, 0.3], [0, -0.3])
    table = budgets_table(tmp_path)
    assert table.loc[("all weights", "SFT, equal steps"), "quality"].startswith(("-0.10", "-0.09"))
    assert table.loc[("all weights", "SFT, equal steps"), "obedience"].startswith(("+0.15", "+0.14"))
    assert table.loc[("adapters", "DPO, equal compute"), "quality"] == "not run"
    axis = price_figure(load_results(tmp_path / "spin_shapes")).axes[0]
    spin, sft = (container.lines[0] for container in axis.containers)
    assert list(spin.get_xdata()) == pytest.approx([0.101, 0.201])  # the mean of three seeds
    assert list(spin.get_ydata()) == pytest.approx([-0.099, -0.149])
    assert list(sft.get_xdata()) == pytest.approx([0.301])


def test_second_round_by_hand(root: Path) -> None:
    table = second_round_table(root)["quality, change in round 2"]
    assert table["a new opponent, with its images"].startswith("+0.1")
    assert table["the old opponent, with its images"].startswith("+0.02")
    assert table["old less new"].startswith("-0.08")


def test_map_by_hand(root: Path) -> None:
    results = load_results(root / "spin_map")
    assert cells(results) == ["default", "images-64", "images-256", "from-far", "beta-500"]
    assert partner("beta-500") == "sft-default"
    table = map_table(root)
    assert table["ahead"].tolist() == [
        "self-play in quality, fine-tuning in obedience", "fine-tuning in quality, self-play in obedience", "neither",
        "self-play in quality, fine-tuning in obedience", "self-play in quality, fine-tuning in obedience",
    ]  # fmt: skip
    assert table.loc[("number of real images", "64"), "SPIN - SFT: quality"].startswith("-0.10")
    figure = map_figure(root)
    named = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert named == ["default", *(": ".join(row) for row in table.index[1:])]


def test_signs_by_hand(root: Path) -> None:
    signs = training_signs(root)
    assert len(signs) == 3 * (3 + 1 + 1 + 5)  # rounds of every arm that has an opponent; the first of `continued` is `spin`'s
    first = signs[(signs["arm"] == "spin-default") & (signs["seed"] == 0)].iloc[0]
    assert (first["real_error"], first["margin"], first["all_right"]) == pytest.approx((0.2, 0.2, -0.2))
    log = pd.read_parquet(root / "spin_map" / "spin-default-0-training.parquet")
    log["margin"] = range(len(log))
    log.to_parquet(root / "spin_map" / "spin-default-0-training.parquet")
    early, late = (training_signs(root, at).query("arm == 'spin-default' and seed == 0")["margin"].item() for at in (0.5, 1.0))
    assert (early, late) == (8.5, 18.5)  # of twenty steps the ninth and tenth, the last two
    table = predictors_table(signs[signs["experiment"] == "spin_map"])
    assert table.loc["real error", "obedience"].startswith("-1.00")  # made to be so
    assert table.loc["margin", "quality"].startswith("+1.00")
    assert predictors_table(signs.head(2)).loc["margin", "quality"] == "too few rounds"
    drawn = signs_figure(signs)
    assert {"the alarm's limit, 10%", "a loss of 0.03"} <= {text.get_text() for text in drawn.legends[0].get_texts()}


def test_questions_of_this_book_are_no_claims() -> None:
    rows = pd.DataFrame({"paper": ["not compared", "7.0", "never past them"], "verdict": ["agrees", "differs", "agrees, 2 seeds"]})
    assert claimed(rows)["paper"].tolist() == ["7.0", "never past them"]
    figure = verdicts_figure({"a": rows})
    assert [bar.get_width() for bar in figure.axes[0].patches] == [1, 1]
    plt.close(figure)


def test_the_alarm_by_hand(tmp_path: Path) -> None:
    """The real error ends as far above 1 as obedience ends below the base (`export`)."""
    export(tmp_path, "spin_controls", "aggressive", 1, [0, 0.1, 0.2], [0, -0.2, -0.25])
    export(tmp_path, "spin_controls", "aggressive", 2, [0, 0.1, 0.2], [0, -0.05, -0.2])
    runs = [("spin_controls", "aggressive", seed) for seed in (1, 2, 3)]
    table = alarm_table(tmp_path, runs)
    assert list(table["alarm"]) == ["rings", "rings", "silent", "rings"]
    assert list(table["the alarm is"]) == ["right", "right", "wrong", "right"]  # silent, and .05 was lost
    counts = alarm_counts(training_signs(tmp_path, 0.5))
    assert counts.loc["rings"].tolist() == [3, 0]
    assert counts.loc["silent"].tolist() == [1, 0]
    assert table.loc[("aggressive", 2, 1), "obedience, change"] == "-0.050"
    assert alarm_table(tmp_path, runs[2:]).empty


def test_towards_the_data_or_away(tmp_path: Path) -> None:
    assert data_table(tmp_path).empty
    rows = [{"data": d, "seed": s, "quality": q, "all_right": 0.9} for d, q in (("shapes", 0.7), ("shapes-base", 0.3)) for s in (0, 1)]
    (tmp_path / "data_quality.json").write_text(json.dumps({"rows": rows}))
    assert data_table(tmp_path).empty
    for seed in (0, 1):
        export(tmp_path, "spin_shapes", "spin", seed, [0, 0.1], [0, -0.1])
        export(tmp_path, "spin_controls", "own-data", seed, [0, 0.1], [0, 0.1])
    table = data_table(tmp_path)
    assert table.loc[("quality", "the winners"), "the data's"] == "0.700"
    assert table.loc[("quality", "the winners"), "the base's"] == "0.500"
    assert list(table["in the end it has moved"]) == ["towards the data", "away from them", "away from them", "towards the data"]
    assert set(table["change in 3 rounds"]) == {"not run"}
    assert table.loc[("quality", "the winners"), "change in one round"].startswith(("+0.10", "+0.09"))
    beside = objectives_table(tmp_path)
    assert set(beside["quality of samples, fine-tuning"]) == {"not run"}
    for seed in (0, 1):
        export(tmp_path, "spin_controls", "own-data-sft", seed, [0, 0.3], [0, 0.1])
    own = objectives_table(tmp_path).loc["the base's own data"]
    assert own["quality of samples, fine-tuning"].startswith(("+0.30", "+0.29"))
    assert own["quality, self-play less fine-tuning"].startswith(("-0.20", "-0.19"))
    assert own["error of the denoiser, self-play"] == "+10.0 % [+10.0, +10.0] (2 seeds)"
    claim = claims(tmp_path).loc["it leads towards the data, also downwards"]
    reached = "the data were not reached: three rounds end at 0.60, the winners are at 0.70; "
    assert claim["here"].startswith(f"{reached}from 0.500, above data of 0.300, a round changes")
    assert claim["verdict"] == f"{DIFFERS}, 2 seeds"  # better than its data, and better still after a round
    for seed in (0, 1):
        export(tmp_path, "spin_controls", "own-data", seed, [0, -0.1], [0, 0.1])
    assert claims(tmp_path).loc["it leads towards the data, also downwards", "verdict"] == f"{AGREES}, 2 seeds"
    (tmp_path / "data_quality.json").write_text(json.dumps({"rows": [row | {"quality": 0.9} for row in rows]}))
    assert claims(tmp_path).loc["it leads towards the data, also downwards", "verdict"] == UNTESTABLE


def test_gains_by_sampler(tmp_path: Path) -> None:
    assert samplers_table(tmp_path).empty
    folder = tmp_path / "spin_samplers"
    folder.mkdir()
    names = ("ddim", "dpm++", "unipc")
    start = np.random.default_rng(0).normal(size=len(PROMPTS))  # drowns the gains, unless they are paired
    gains = {"base": 0.0, "ddim": 0.1, "dpm++": 0.2, "unipc": 0.3}
    parts = [
        pd.DataFrame(
            {"prompt": PROMPTS, "oracle_quality": start + gain * (i + 1), "oracle_all_right": 0.5 - gain, "trained": t, "drawn": d}
        )
        for t, gain in gains.items()
        for i, d in enumerate(names)
    ]
    pd.concat(parts).sample(frac=1, random_state=0).to_parquet(folder / "samplers-0-prompts.parquet")
    table = samplers_table(tmp_path)
    assert table.loc["quality, drawn by UniPC", "opponent drawn by DPM-Solver++"].startswith("+0.600 [+0.600, +0.600]")
    assert table.loc["obedience, drawn by DDIM", "opponent drawn by UniPC"].startswith("-0.300")


def test_samples_figure(root: Path) -> None:
    scores, quality = (axis.lines for axis in samples_figure(load_results(root / "spin_shapes")).axes)
    assert sorted(scores[0].get_xdata()) == [5760, 11520, 17280]  # type: ignore[arg-type]
    assert list(scores[0].get_ydata()) == [3.0, 4.0, 5.0]  # the mean of 0 to 4, one more each round
    assert list(quality[0].get_ydata()) == pytest.approx([0.6, 0.7, 0.8])


def test_nothing_run_yet(tmp_path: Path) -> None:
    assert claims(tmp_path)["verdict"].isin([OPEN, UNTESTABLE]).all()
    assert (controls_table(tmp_path)["obedience, change in the round"] == "not run").all()
    assert (second_round_table(tmp_path) == "not run").all(axis=None)
    assert map_table(tmp_path).empty
    assert "make spin-map" in map_figure(tmp_path).texts[0].get_text()
    assert training_signs(tmp_path).empty


def test_what_is_exported() -> None:
    table = claims(EXPORTED)
    assert table.loc["round 1 improves on the base", "here"].count("3 seeds") == 3
    assert "% [" in table.loc["by scores it wins most prompts from the base", "here"]
    assert len(training_signs(EXPORTED)) >= 70
