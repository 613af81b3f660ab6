import numpy as np
import pandas as pd
import pytest

from selfimprove.recursion.selection import SelectionError, combine, select

BOTH = {"a": 1.0, "b": 1.0}


def pool(count: int = 40, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "id": [f"i{k}" for k in range(count)],
            "prompt": [f"p{k // 4}" for k in range(count)],
            "a": rng.normal(size=count),
            "b": rng.normal(size=count),
        }
    )


def kept(frame: pd.DataFrame) -> list[str]:
    return frame["id"][frame["kept"]].tolist()


def test_combinations_by_hand() -> None:
    scores = pd.DataFrame({"id": list("wxyz"), "prompt": "p", "a": [1.0, 2.0, 3.0, 100.0], "b": [4.0, 3.0, 2.0, 2.0]})
    ranked = combine(scores, BOTH)
    assert ranked["a_rank"].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert ranked["b_rank"].tolist() == [0.875, 0.625, 0.25, 0.25]  # ties share the middle
    assert ranked["combined"].tolist() == [0.5, 0.5, 0.4375, 0.5625]
    weighted = combine(scores, {"a": 3.0, "b": 1.0})
    assert weighted["combined"].iloc[0] == pytest.approx((3 * 0.125 + 0.875) / 4)
    standard = combine(scores, {"a": 1.0}, "zscore")["combined"]
    assert standard.mean() == pytest.approx(0)
    assert standard.std(ddof=0) == pytest.approx(1)
    gaps = {
        how: combine(scores, {"a": 1.0}, how)["combined"].diff().iloc[3] / combine(scores, {"a": 1.0}, how)["combined"].diff().iloc[2]
        for how in ("rank", "zscore")
    }
    assert gaps == pytest.approx({"rank": 1, "zscore": 97})  # an outlier counts for more by z-score


def test_strategies() -> None:
    scores = pool()
    best = select(scores, {"a": 1.0}, "pool", 5, seed=0)
    assert set(kept(best)) == set(scores.nlargest(5, "a")["id"])
    each = select(scores, {"a": 1.0}, "per-prompt", 10, seed=0)
    assert set(kept(each)) == set(scores.loc[scores.groupby("prompt")["a"].idxmax()]["id"])
    assert select(scores, {"a": 1.0}, "per-prompt", 13, seed=0).query("kept").groupby("prompt").size().isin([1, 2]).all()
    above = select(scores, {"a": 1.0}, "threshold", 0, seed=0, threshold=0.8)
    assert len(kept(above)) == 8
    assert len(kept(select(scores, {"a": 1.0}, "threshold", 3, seed=0, threshold=0.8))) == 3
    assert len(kept(select(scores, {}, "all", 0, seed=0))) == 40
    assert kept(select(scores, {"a": 1.0}, "manual", 0, seed=0, kept_ids=["i7", "i3"])) == ["i3", "i7"]
    assert best["reason"][best["place"] == 0].iloc[0] == "among the best 5 of the pool, place 1"
    assert best["reason"][best["place"] == 5].iloc[0] == "not kept, place 6"


def test_ties_are_broken_by_seed_and_id_not_by_position() -> None:
    scores = pool()
    scores["a"] = (scores["a"] > 0).astype(float)
    chosen = set(kept(select(scores, {"a": 1.0}, "pool", 5, seed=0)))
    assert set(kept(select(scores.sample(frac=1, random_state=3), {"a": 1.0}, "pool", 5, seed=0))) == chosen
    assert any(set(kept(select(scores, {"a": 1.0}, "pool", 5, seed=s))) != chosen for s in range(1, 4))


def test_bad_input() -> None:
    scores = pool()
    with pytest.raises(SelectionError, match="selected=41 is more than the pool of 40"):
        select(scores, BOTH, "pool", 41, seed=0)
    with pytest.raises(SelectionError, match=r"metrics=\['c'\] were not scored; choose from \['a', 'b'\]"):
        select(scores, {"c": 1.0}, "pool", 4, seed=0)
    with pytest.raises(SelectionError, match="metrics is empty"):
        select(scores, {}, "pool", 4, seed=0)
    with pytest.raises(SelectionError, match=r"a of i0 is nan \(1 of 40"):
        select(scores.assign(a=[np.nan] + [1.0] * 39), BOTH, "pool", 4, seed=0)
    with pytest.raises(SelectionError, match="all 40 candidates have the same score in a, b"):
        select(scores.assign(a=1.0, b=2.0), BOTH, "pool", 4, seed=0)
    with pytest.warns(UserWarning, match="b: all candidates score the same"):
        select(scores.assign(b=2.0), BOTH, "pool", 4, seed=0)
    with pytest.raises(SelectionError, match=r"threshold=2 keeps nothing; the best combined standing is 0\."):
        select(scores, BOTH, "threshold", 0, seed=0, threshold=2.0)
    with pytest.raises(SelectionError, match=r"kept ids \['zz'\] \(1 in all\) are no candidates"):
        select(scores, BOTH, "manual", 0, seed=0, kept_ids=["zz"])
    with pytest.raises(SelectionError, match="the list of kept ids is empty"):
        select(scores, BOTH, "manual", 0, seed=0)
