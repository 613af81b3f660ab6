import pytest

from selfimprove_lab.results.shrinkage import blindness, convention_table, expected_conventions


def test_the_mean_distance_is_blind_to_shrinkage_on_real_latents() -> None:
    table = blindness(64, (0.0, 1.0, 1.5)).set_index(["reference", "scale"])
    assert table["distance"]["mean", 0.0] < table["distance"]["mean", 1.0] < table["distance"]["mean", 1.5]
    assert table["weight"]["mean", 0.0] == 1
    assert table["weight"]["two-sided", 0.0] < 0.5
    assert table["weight"]["two-sided", 1.0] > 0.6


def test_the_rule_for_unrelated_latents_holds_where_they_are_at_hand() -> None:
    table = convention_table(64)
    ratio = table["measured, mean"] / table["rule"]
    assert ratio.between(0.8, 1.0).all()  # the mean of roots is below the root of the mean, more so where images come in groups
    expected = expected_conventions((4, 64, 64), 0.18215)
    assert expected.loc["l2", "distance"] == pytest.approx(181.02, rel=1e-4)
