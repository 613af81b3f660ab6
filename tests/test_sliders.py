import json
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from selfimprove_lab.figures.sliders import Film, slider, sliders

VOID = {"img", "input"}


class Page(HTMLParser):
    """The elements of a page as (name, attributes), checked to be closed in the right order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.open: list[str] = []
        self.kind = ""  # of the last element opened: a script is told apart by its type
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        self.kind = dict(attrs).get("type") or tag

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        name = self.kind if self.open[-1] == "script" else self.open[-1]
        self.text[name] = self.text.get(name, "") + data

    def frames(self) -> list[list[str]]:
        """Data, description and note of every picture, from the element that holds them."""
        text = self.text["application/json"]
        assert "<" not in text
        return json.loads(text)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def pictures(count: int, size: tuple[int, int] = (6, 4)) -> list[Image.Image]:
    return [Image.new("RGB", size, (40 * i, 0, 0)) for i in range(count)]


def words(count: int) -> list[str]:
    return [f"picture {i}" for i in range(count)]


def test_one_picture_shows_and_all_have_words() -> None:
    figures = [plt.figure(figsize=(2, 1)) for _ in range(3)]
    before = len(plt.get_fignums())
    page = Page(slider(figures, ["a < b", "two", "three"], "round", ['</script> "1"', "2", "3"], start=1, caption="look & see").data)
    assert len(plt.get_fignums()) == before - 3  # or the notebook would show them once more
    (shown,) = page.all("img")
    assert (shown["alt"], shown["width"], shown["height"]) == ("2", "144", "72")
    assert [words for _, words, _ in page.frames()] == ['</script> "1"', "2", "3"]
    assert [bool(data) for data, _, _ in page.frames()] == [True, False, True]  # the one that shows is not there twice
    (bar,) = page.all("input")
    assert (bar["type"], bar["min"], bar["max"], bar["value"], bar["aria-valuetext"]) == ("range", "0", "2", "1", "two")
    assert (page.text["span"], page.text["output"], page.text["figcaption"]) == ("round", "two", "look & see")


def test_without_a_script_a_figure_with_its_labels_is_left() -> None:
    page = Page(slider(pictures(2), ["a", "b"], "round", words(2)).data)
    controls = page.all("input") + page.all("button")
    assert all("hidden" in control and "disabled" in control for control in controls)  # the script switches them on
    assert len(page.all("img")) == 1


def test_jupyter_does_not_answer_keys_pressed_on_a_slider() -> None:
    """Or x would cut the cell. JupyterLab looks at the element that has the focus, and at none around it."""
    page = Page(slider(pictures(2), ["a", "b"], "round", words(2)).data)
    assert all("data-lm-suppress-shortcuts" in control for control in page.all("input") + page.all("button"))
    assert page.text["output"] == "a"
    assert page.text["p"].startswith("Position 1 of 2. The others need JavaScript")
    assert "hidden" not in page.all("p")[0]


def test_nothing_is_fetched_and_everything_is_scoped() -> None:
    text = slider(pictures(2), ["a", "b"], "round", words(2)).data
    page = Page(text)
    assert "http" not in text
    assert all(str(i["src"]).startswith("data:image/webp;base64,") for i in page.all("img"))
    (figure,) = page.all("figure")
    rules = [rule for rule in page.text["style"].strip().splitlines() if rule]
    assert all(rule.startswith(f"#{figure['id']} ") or rule.startswith(f"#{figure['id']}{{") for rule in rules)
    assert f"#{figure['id']}:not" in page.text["script"]


def test_the_same_page_has_the_same_bytes() -> None:
    first = slider(pictures(2), ["a", "b"], "round", words(2)).data
    assert slider(pictures(2), ["a", "b"], "round", words(2)).data == first
    other = Page(slider(pictures(2), ["a", "c"], "round", words(2)).data).all("figure")[0]["id"]
    assert other != Page(first).all("figure")[0]["id"]  # two on a page do not move each other


def test_two_sliders_go_through_a_grid() -> None:
    film = Film(pictures(6), {"seed": ["0", "1"], "round": ["base", "1", "2"]}, words(6), [f"note {i}" for i in range(6)])
    page = Page(sliders(*film, start=4).data)
    assert [bar["value"] for bar in page.all("input")] == ["1", "1"]
    assert page.all("img")[0]["alt"] == "picture 4"
    assert page.text["p"].startswith("note 4")
    assert page.frames()[5][1:] == ["picture 5", "note 5"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"frames": []}, "frames is empty"),
        ({"axes": {}}, "axes={} must name what each slider moves"),
        ({"axes": {"round": ["a"]}}, "frames has 2 entries, labels make 1"),
        ({"descriptions": ["one"]}, "frames has 2 entries, descriptions make 1"),
        ({"descriptions": ["one", " "]}, r"descriptions\[1\] is empty"),
        ({"notes": ["one"]}, "frames has 2 entries, notes make 1"),
        ({"frames": pictures(1) + pictures(1, (4, 4))}, r"frame 1 is \(4, 4\) pixels, frame 0 \(6, 4\)"),
        ({"start": 2}, "start=2 is no position; give 0 to 1"),
        ({"pace": 0.1}, "more than three times a second"),
    ],
)
def test_errors_say_what_is_wrong(changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sliders(**({"frames": pictures(2), "axes": {"round": ["a", "b"]}, "descriptions": words(2)} | changed))


def test_a_page_must_not_become_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfimprove_lab.figures.sliders.HEAVIEST", 1000)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="MB, more than 0.001 MB; show fewer or smaller ones"):
        slider([noise], ["a"], "round", ["noise"])
