from pathlib import Path

import pandas as pd
import pytest

from selfimprove.evaluation.aggregate import summarise
from selfimprove.evaluation.tables import interval, number, readable_numbers
from selfimprove.files import read_json, write_json


@pytest.mark.parametrize(
    ("value", "words"),
    [(2000.0, "2,000"), (5.499737, "5.50"), (0.04123, "0.0412"), (-2.2e-16, "0"), (83805.4, "83,805"), (1.2e-6, "1.20e-06"),
     (3e12, "3e+12"), (-0.5, "-0.500"), (float("nan"), "nan"), (0.0, "0"), (48.0, "48")],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, words: str) -> None:
    assert number(value) == words


def test_tables_show_them() -> None:
    before = pd.get_option("display.float_format")
    try:
        readable_numbers()
        assert "5.50" in pd.DataFrame({"x": [5.499737]}).to_html()
    finally:
        pd.set_option("display.float_format", before)


def test_over_one_prompt_there_is_no_interval(tmp_path: Path) -> None:
    """As after a run on thirty photographs, of which one is left to judge by: sixty-four images of it are still one prompt."""
    scores = pd.DataFrame({"id": list("abcd"), "prompt": ["a cat"] * 4, "image": range(4), "clip": [0.1, 0.2, 0.3, 0.4]})
    before = scores.assign(clip=[0.0, 0.2, 0.3, 0.3])
    write_json(tmp_path / "metrics.json", summarise(scores, before))
    read = read_json(tmp_path / "metrics.json")["clip"]
    assert (read["mean"], read["ci95"], read["delta_prev_ci95"]) == (0.25, [None, None], [None, None])
    assert interval(read["ci95"]) == "[one prompt]"
    two = summarise(scores.assign(prompt=["a", "a", "b", "b"]))["clip"]
    assert interval(two["ci95"], 2) == "[0.15, 0.35]"
    assert interval([-0.1, 0.2], 4, "+") == "[-0.1000, +0.2000]"
