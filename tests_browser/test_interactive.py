"""The sliders of `figures.sliders` in a real browser, from a file: keys, mouse, playing, calm readers, no script, a narrow window."""

from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from selfimprove_lab.figures.sliders import slider, sliders

COLOURS = [(200, 30, 30), (30, 160, 30), (40, 60, 200), (230, 200, 40), (20, 180, 190), (150, 40, 160)]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with one slider over three plain pictures, then two over six, then the first once more."""
    frames = [Image.new("RGB", (600, 80), colour) for colour in COLOURS]
    one = slider(frames[:3], ["base", "one", "two"], "round", ["red", "green", "blue"], ["n0", "n1", "n2"], pace=0.4).data
    names = ["red", "green", "blue", "yellow", "cyan", "purple"]
    two = sliders(frames, {"seed": ["0", "1"], "round": ["base", "one", "two"]}, names, caption="Look at the colour.").data
    path = tmp_path_factory.mktemp("page") / "page.html"
    style = "<meta name=viewport content='width=device-width'><style>body{margin:8px}</style>"
    path.write_text(f"<!doctype html><html lang=en><title>sliders</title>{style}<body>{one}{two}{one}</body></html>")
    return path.as_uri()


def colour(page: Page, tmp_path: Path, number: int) -> int:
    """Which of the colours the picture of a figure shows, by its pixels on the screen."""
    image = page.locator("figure").nth(number).locator("img:visible")
    expect(image).to_have_count(1)
    path = tmp_path / "shot.png"
    image.screenshot(path=path)
    with Image.open(path) as shot:
        seen = shot.convert("RGB").getpixel((shot.width // 2, shot.height // 2))
    return min(range(len(COLOURS)), key=lambda i: sum(abs(a - b) for a, b in zip(COLOURS[i], seen, strict=True)))


def test_keys_move_the_picture_its_words_and_its_note(page: Page, tmp_path: Path) -> None:
    figure = page.locator("figure").first
    bar = figure.get_by_role("slider", name="round")
    assert colour(page, tmp_path, 0) == 0
    expect(figure.locator(".si-still")).to_be_hidden()
    figure.get_by_role("button").focus()
    page.keyboard.press("Shift+Tab")
    expect(bar).to_be_focused()
    assert bar.evaluate("element => getComputedStyle(element).outlineStyle") == "solid", "no ring shows where the keyboard is"
    for key, place, label in (("ArrowRight", 1, "one"), ("End", 2, "two"), ("ArrowLeft", 1, "one"), ("Home", 0, "base")):
        page.keyboard.press(key)
        assert colour(page, tmp_path, 0) == place
        expect(figure.locator("output")).to_have_text(label)
        expect(bar).to_have_attribute("aria-valuetext", label)
        expect(figure.locator(".si-note")).to_have_text(f"n{place}")
    assert colour(page, tmp_path, 1) == 0
    assert colour(page, tmp_path, 2) == 0


def test_the_same_figure_twice_on_a_page_moves_alone(page: Page, tmp_path: Path) -> None:
    page.locator("figure").nth(2).get_by_role("slider").press("End")
    assert [colour(page, tmp_path, i) for i in range(3)] == [0, 0, 2]


def test_two_sliders_choose_from_a_grid(page: Page, tmp_path: Path) -> None:
    figure = page.locator("figure").nth(1)
    figure.get_by_role("slider", name="seed").press("ArrowRight")
    assert colour(page, tmp_path, 1) == 3
    figure.get_by_role("slider", name="round").press("End")
    assert colour(page, tmp_path, 1) == 5
    figure.get_by_role("slider", name="seed").press("ArrowLeft")
    assert colour(page, tmp_path, 1) == 2


def test_it_plays_once_and_pauses(page: Page, tmp_path: Path) -> None:
    figure = page.locator("figure").first
    button, bar = figure.get_by_role("button"), figure.get_by_role("slider")
    button.click()
    expect(button).to_have_text("Pause")
    expect(bar).to_have_value("2")
    expect(button).to_have_text("Play")  # at the end it stops
    assert colour(page, tmp_path, 0) == 2
    button.click()
    expect(bar).to_have_value("0")  # and begins again
    button.click()
    held = bar.input_value()
    page.wait_for_timeout(900)
    expect(bar).to_have_value(held)
    expect(button).to_have_text("Play")


def test_for_readers_who_want_no_motion_play_goes_one_further(browser: Browser, address: str) -> None:
    page = browser.new_page(reduced_motion="reduce")
    page.goto(address)
    figure = page.locator("figure").first
    button = figure.get_by_role("button")
    expect(button).to_have_text("Next")
    button.click()
    page.wait_for_timeout(900)
    expect(figure.get_by_role("slider")).to_have_value("1")
    page.close()


def test_without_javascript_the_first_picture_stands_alone(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    figure = page.locator("figure").nth(1)
    expect(figure.locator("img:visible")).to_have_count(1)
    expect(figure.locator("input:visible, button:visible")).to_have_count(0)
    expect(figure).to_contain_text("The others need JavaScript")
    expect(figure.locator("output").first).to_be_visible()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_is_wide_enough(browser: Browser, address: str, scheme: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator("img:visible").first.bounding_box()
    assert box is not None
    assert box["width"] <= 374
    assert abs(box["width"] / box["height"] - 600 / 80) < 0.1  # not squeezed
    page.close()
