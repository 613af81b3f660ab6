import pandas as pd
import pytest

from selfimprove.evaluation.tables import number, readable_numbers


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
