import numpy as np
import pytest

from selfimprove_lab.results.diversity import drift_report, frechet_distance, frechet_floor, within_prompt_diversity


def test_frechet_distance_of_normals_is_the_closed_form() -> None:
    generator = np.random.default_rng(0)
    first = generator.normal(size=(20_000, 3))
    second = generator.normal(size=(20_000, 3)) * np.array([2.0, 1.0, 1.0]) + np.array([0.0, 3.0, 0.0])
    assert frechet_distance(first, second) == pytest.approx(9 + (2 - 1) ** 2, rel=0.03)
    assert frechet_distance(second, first) == pytest.approx(frechet_distance(first, second))
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-8)


def test_few_images_bias_it_upwards_and_the_floor_says_by_how_much() -> None:
    generator = np.random.default_rng(1)
    few, many = (generator.normal(size=(n, 8)) for n in (64, 6400))
    prompts = [f"p{i // 4}" for i in range(64)]
    floor = frechet_floor(few, prompts)
    assert floor > 20 * frechet_floor(many, [f"p{i // 4}" for i in range(6400)])
    assert frechet_distance(few, generator.normal(size=(64, 8))) == pytest.approx(floor, rel=0.8)


def test_more_dimensions_than_images_are_no_failure() -> None:
    generator = np.random.default_rng(2)
    first, second = generator.normal(size=(2, 10, 32))
    assert np.isfinite(frechet_distance(first, second))
    with pytest.raises(ValueError, match="1 and 10 images"):
        frechet_distance(first[:1], second)


def test_diversity_within_prompts_by_hand() -> None:
    same, right_angle = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    mean, low, high = within_prompt_diversity(np.concatenate([same, right_angle]), ["a", "a", "b", "b"])
    assert mean == 0.5
    assert (low, high) == (0.0, 1.0)
    with pytest.raises(ValueError, match="one image"):
        within_prompt_diversity(same, ["a", "b"])


def test_the_report_shows_the_floor_in_the_baselines_row() -> None:
    generator = np.random.default_rng(4)
    base, moved = generator.normal(size=(2, 40, 3))
    prompts = [f"p{i // 4}" for i in range(40)]
    shown = drift_report({"base": base, "moved": moved + 5}, prompts)
    assert shown.loc["base", "Frechet distance"] == f"{frechet_floor(base, prompts):.4f} (its own halves)"
    assert float(shown.loc["moved", "Frechet distance"]) > 60
    assert "[" in shown.loc["moved", "diversity within a prompt"]
