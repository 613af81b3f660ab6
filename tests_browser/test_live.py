"""Figures that compute in the browser, from a file and by keyboard: what they find is what the package finds."""

import json
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from selfimprove_lab.figures import live_numbers
from selfimprove_lab.figures.live import WORLDS, markup

LOOK = "<meta name=viewport content='width=device-width'><meta charset=utf-8><style>body{margin:8px;font-family:sans-serif}</style>"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Every figure, and the first one once more."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    figures = "".join(f"<figure>{markup(name)}</figure>" for name in [*WORLDS, next(iter(WORLDS))])
    path.write_text(f"<!doctype html><html lang=en><title>figures</title>{LOOK}<body><main><h1>Figures</h1>{figures}</main></body></html>")
    return path.as_uri()


def figure(page: Page, name: str) -> Locator:
    return page.locator("figure").nth(list(WORLDS).index(name))


def numbers(found: Locator) -> Any:
    return json.loads(found.locator("[data-numbers]").get_attribute("data-numbers") or "")


def move(found: Locator, slider: str, value: str) -> None:
    """Press arrow keys until the slider's own words say the value."""
    bar = found.get_by_role("slider", name=slider)
    bar.press("Home")
    while bar.get_attribute("aria-valuetext") != value:
        assert bar.input_value() != bar.get_attribute("max"), f"{slider} has no position {value}"
        bar.press("ArrowRight")


def test_samplers_by_steps(page: Page) -> None:
    found = figure(page, "sampling")
    for steps in (1, 4, 16):
        move(found, "sampler steps", str(steps))
        assert numbers(found) == pytest.approx(live_numbers.sampling(steps), abs=1e-6)
        expect(found.locator(".si-note")).to_contain_text(f"{live_numbers.sampling(steps)['ddim']:.3f}")


def test_rounds_by_beta_and_k(page: Page) -> None:
    found = figure(page, "self-play")
    for beta in (0.3, 3.0):
        rounds = live_numbers.self_play(beta, 2)
        move(found, "beta", f"{beta:g}")
        for k in (1, 2):
            move(found, "round k", str(k))
            assert numbers(found) == pytest.approx(rounds[k], abs=0.007)
            assert numbers(found)["distance"] == pytest.approx(rounds[k]["distance"], abs=1e-4)


def test_times_by_shift(page: Page) -> None:
    found = figure(page, "times")
    for shift in (0.5, 3.0):
        move(found, "shift", f"{shift:g}")
        for name, mine in live_numbers.times(shift).items():
            assert numbers(found)[name] == pytest.approx(mine, abs=1e-4)


@pytest.mark.parametrize("name", WORLDS)
def test_the_picture_moves_and_says_so(page: Page, name: str) -> None:
    found = figure(page, name)
    picture = found.locator("svg")
    for bar in found.get_by_role("slider").all():
        before, words = picture.screenshot(), picture.get_attribute("aria-label")
        bar.press("ArrowRight")
        assert picture.screenshot() != before
        assert picture.get_attribute("aria-label") != words
        assert bar.evaluate("element => getComputedStyle(element).outlineStyle") == "solid", "no ring shows where the keyboard is"


def test_the_same_figure_twice_moves_alone(page: Page) -> None:
    first, again = figure(page, "sampling"), page.locator("figure").last
    before = numbers(first)
    again.get_by_role("slider").press("End")
    assert numbers(again) != before
    assert numbers(first) == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_is_wide_enough_and_readers_are_served(browser: Browser, address: str, scheme: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(address)
    page.evaluate(f"document.documentElement.dataset.theme = '{scheme}'")
    page.add_style_tag(content="html[data-theme=dark] body{background:#14181e;color:#ced6dd}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for words in page.locator("svg text").all():
        box = words.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert not [finding["id"] for finding in found if finding["impact"] in ("serious", "critical")]
    page.close()


def test_without_javascript_it_says_what_is_missing(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    first = page.locator("figure").first
    expect(first).to_contain_text("needs JavaScript")
    expect(first.locator("input:visible")).to_have_count(0)
    context.close()
