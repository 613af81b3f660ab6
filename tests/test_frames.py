import matplotlib.pyplot as plt
import pytest

from selfimprove.frames import slider


def test_one_picture_shows_and_all_have_words() -> None:
    figures = [plt.figure(figsize=(1, 1)) for _ in range(3)]
    page = slider(figures, ["a < b", "two", "three"], "round", start=1).data
    assert page.count("<img") == 3
    assert page.count("display:block") == 1
    assert 'alt="round: a &lt; b"' in page
    assert 'max="2" value="1"' in page
    assert "http" not in page  # nothing is fetched


def test_labels_must_fit() -> None:
    with pytest.raises(ValueError, match="figures has 0 entries and labels 1"):
        slider([], ["one"], "round")
