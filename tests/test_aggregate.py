from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from selfimprove.evaluation.aggregate import RAW, STANDARDISED, Rule, Scale, best_of, comparison, summarise, wide, with_averages
from selfimprove.evaluation.protocol import ProtocolError, SamplingProtocol, Scored

PROTOCOL = SamplingProtocol(
    model="base", model_hash="", prompts="p", prompts_hash="p", n_prompts=40, images=4, noise_seed=0, sampler="DDIM", steps=10,
    guidance=3.0, precision="float32",
)  # fmt: skip


def table(values: list[float], prompts: list[str] | None = None) -> pd.DataFrame:
    prompts = prompts or [f"p{i}" for i in range(len(values))]
    return pd.DataFrame({"id": [f"{i}" for i in range(len(values))], "prompt": prompts, "image": 0, "score": values})


def model(name: str, shift: float = 0.0, seed: int = 0) -> Scored:
    """Forty prompts with four images each, scores of ranges as different as CLIP's and HPS's; every model on the same prompts."""
    shared, own = np.random.default_rng(9), np.random.default_rng(seed)
    level = np.repeat(shared.normal(size=40), 4)
    quality = level + own.normal(size=160) + shift
    prompts = [f"p{i:02d}" for i in range(40) for _ in range(4)]
    frame = pd.DataFrame({"id": [str(i) for i in range(160)], "prompt": prompts, "image": list(range(4)) * 40})
    noise = own.normal(size=160)
    return Scored(frame.assign(wide=20 + 2 * noise, narrow=0.27 + 0.01 * quality), replace(PROTOCOL, model=name))


def test_means_differences_and_wins_by_hand() -> None:
    row = summarise(table([2.0, 3.0, 4.0, 5.0]), table([1.0, 3.0, 5.0, 1.0]), table([0.0] * 4))["score"]
    assert row["mean"] == 3.5
    assert row["median"] == 3.5
    assert row["delta_prev"] == 1.0  # (1 + 0 - 1 + 4) / 4
    assert row["win_rate_prev"] == 0.625  # two wins, one tie
    low, high = row["win_rate_prev_ci95"]
    assert low < 0.625 < high
    assert row["win_rate_base"] == 1.0


def test_pairs_are_matched_by_prompt_not_by_position() -> None:
    row = summarise(table([1.0, 2.0], ["a", "b"]), table([2.0, 1.0], ["b", "a"]))["score"]
    assert row["delta_prev"] == 0.0
    assert row["delta_prev_ci95"] == [0.0, 0.0]


def test_intervals_resample_prompts_not_images() -> None:
    """A hundred copies of two prompts carry the information of two prompts."""
    values = [0.0] * 100 + [1.0] * 100
    row = summarise(table(values, ["a"] * 100 + ["b"] * 100))["score"]
    assert row["ci95"] == [0.0, 1.0]


def test_paired_intervals_are_narrower_than_unpaired_ones() -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(size=300)
    row = summarise(table(list(base + 0.1 + 0.05 * generator.normal(size=300))), table(list(base)))["score"]
    low, high = row["delta_prev_ci95"]
    assert low > 0.05
    assert high - low < 0.3 * (row["ci95"][1] - row["ci95"][0])


def test_best_of_by_hand() -> None:
    frame = table([1.0, 5.0, 2.0, 3.0], ["a", "a", "b", "b"]).assign(image=[0, 1, 0, 1], other=[9.0, 1.0, 3.0, 7.0])
    assert best_of(frame, 2, "score")["other"].tolist() == [1.0, 7.0]
    assert best_of(frame, 1, "score")["score"].tolist() == [1.0, 5.0, 2.0, 3.0]


def test_best_of_takes_groups_in_the_order_of_the_images_and_leaves_the_rest() -> None:
    frame = table([1.0, 2.0, 3.0, 9.0, 5.0], ["a"] * 5).assign(image=[4, 3, 2, 1, 0])
    assert sorted(best_of(frame, 2, "score")["score"]) == [3.0, 9.0]  # images 0, 1 and 2, 3; image 4 is over


def test_best_of_inflates_and_the_more_images_the_more() -> None:
    frame = model("base").table
    means = [best_of(frame, n, "wide")["wide"].mean() for n in (1, 2, 4)]
    assert means[0] < means[1] < means[2]
    assert means[1] - means[0] == pytest.approx(2 * 0.564, rel=0.35)  # the mean of the larger of two normals, s = 2


@pytest.mark.parametrize(("n", "by", "message"), [(5, "wide", "some have 4"), (0, "wide", "n=0"), (2, "nothing", "by='nothing'")])
def test_best_of_what_is_not_there(n: int, by: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        best_of(model("base").table, n, by)


def test_the_raw_average_follows_the_widest_scorer_and_that_of_z_both() -> None:
    base = model("base")
    frame = with_averages(base.table, ["wide", "narrow"], Scale.of(base.table, ["wide", "narrow"]))
    assert frame[RAW].corr(frame["wide"]) > 0.999
    assert frame[RAW].corr(frame["narrow"]) < 0.2
    assert frame[STANDARDISED].corr(frame["narrow"]) > 0.6
    assert frame[STANDARDISED].mean() == pytest.approx(0, abs=1e-9)


def test_a_constant_scorer_has_no_scale() -> None:
    with pytest.raises(ValueError, match=r"scorers=\['score'\]"):
        Scale.of(table([1.0, 1.0, 1.0]), ["score"])


def test_a_true_difference_is_found_and_none_is_not() -> None:
    rows = comparison([model("base"), model("better", 1.0, 1), model("same", 0.0, 2)], ["wide", "narrow"]).set_index(["model", "score"])
    better, same = rows.loc[("better", "narrow")], rows.loc[("same", "narrow")]
    assert better["difference"] == pytest.approx(0.01, rel=0.3)
    assert better["p_holm"] < 0.001 < 0.05 < same["p_holm"]
    assert better["win_low"] > 0.5
    assert same["difference_low"] < 0 < same["difference_high"]
    assert better["prompts_needed"] < 40
    assert rows.loc[("base", "narrow")].isna()["difference"]


def test_the_rule_is_applied_to_every_model() -> None:
    models = [model("base"), model("better", 1.0, 1)]
    single, best = (comparison(models, ["wide", "narrow"], rule).set_index(["model", "score"])["mean"] for rule in (Rule(), Rule(4)))
    assert (best.xs("wide", level="score") > single.xs("wide", level="score")).all()


def test_other_prompts_and_other_protocols_are_refused() -> None:
    base, other = model("base"), model("other", seed=1)
    with pytest.raises(ProtocolError, match="prompts of 'base'"):
        comparison([base, Scored(other.table.assign(prompt=other.table["prompt"] + "!"), other.protocol)], ["wide"])
    with pytest.raises(ProtocolError, match="guidance"):
        comparison([base, Scored(other.table, replace(other.protocol, guidance=7.5))], ["wide"])
    with pytest.raises(ValueError, match="scorers="):
        comparison([base, other], ["absent"])


def test_tables_in_the_published_form() -> None:
    rows = comparison([model("base"), model("better", 1.0, 1)], ["wide", "narrow"])
    means, wins = wide(rows), wide(rows, "win_rate")
    assert list(means.index) == ["base", "better"]
    assert list(means) == ["wide", "narrow", RAW, STANDARDISED]
    assert list(wins.index) == ["better"]
    first = rows.iloc[0]
    assert means.loc["base", "wide"] == f"{first['mean']:.4f} [{first['low']:.4f}, {first['high']:.4f}]"
    with pytest.raises(ValueError, match="statistic='mode'"):
        wide(rows, "mode")
